//! Every error that a person can meet, with its cause and its fix: one table
//! for the command line, for problem+json, for logs and for `docs/ERRORS.md`.
//!
//! Invariant: a number, once given, is never given to another error.

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $exit:ident, $retry:literal, $cause:literal, $fix:literal;)*) => {
        /// One kind of failure. Prints as `KH-E0000`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum ErrorCode {
            $($(#[$doc])* #[doc = $cause] $name,)*
        }

        impl ErrorCode {
            /// The whole table, in the order of the numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The number behind `KH-E`.
            pub const fn number(self) -> u16 {
                match self { $(Self::$name => $number,)* }
            }

            /// What went wrong, in one sentence without a full stop.
            pub const fn cause(self) -> &'static str {
                match self { $(Self::$name => $cause,)* }
            }

            /// What the person who sees it can do about it.
            pub const fn fix(self) -> &'static str {
                match self { $(Self::$name => $fix,)* }
            }

            /// Whether the same request may succeed later, unchanged.
            pub const fn retryable(self) -> bool {
                match self { $(Self::$name => $retry,)* }
            }

            /// The exit code of a command that ends with this error.
            pub const fn exit(self) -> Exit {
                match self { $(Self::$name => Exit::$exit,)* }
            }
        }
    };
}

/// Exit codes of every command. 0 is success, 130 an interruption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The command failed.
    Failure = 1,
    /// The command was called wrongly.
    Usage = 2,
    /// The configuration is wrong.
    Config = 3,
    /// Enrolment or authentication was refused.
    Auth = 4,
    /// The network or the other side cannot be reached.
    Network = 5,
    /// A signature, pin, seal or chain does not hold.
    Integrity = 6,
    /// A rule forbids it.
    Policy = 7,
    /// Some parts were done and some were not.
    Partial = 8,
}

error_codes! {
    // 10xx: link, handshake, enrolment.
    HubUnreachable = 1001, Network, true,
        "the hub cannot be reached",
        "check the address, the network and that `keyhaven-hub serve` runs there";
    PinMismatch = 1002, Integrity, false,
        "the hub's key is not one of the pinned keys",
        "if the operator rotated the hub's key, ask for a new token and run `keyhaven-agent repin`; otherwise somebody stands in between: do not go on";
    VersionUnsupported = 1003, Failure, false,
        "hub and agent speak no common protocol version",
        "update the older of the two; `version` prints what each speaks";
    HandshakeRefused = 1004, Auth, false,
        "the hub did not accept the agent's proof of identity",
        "ask the operator to invite this agent again and run `keyhaven-agent join` with the new token";
    AgentRevoked = 1005, Auth, false,
        "this agent was revoked by the operator",
        "ask the operator; a new invitation makes a new agent";
    LinkReplaced = 1006, Failure, false,
        "a newer link of the same agent took over",
        "run one process per agent; `keyhaven-agent status` names the one that is linked";
    AgentSuspended = 1007, Policy, false,
        "two copies of this agent took the link from each other too often",
        "stop one of the copies, then wait five minutes; a copy needs an invitation of its own";
    LinkProtocol = 1008, Failure, true,
        "the other side broke the tunnel protocol",
        "update both sides; if it happens again, report it with the logs of both";
    EgressNotOfficial = 1009, Policy, false,
        "this agent can reach loopback upstreams, and the hub listens beyond loopback",
        "use the released keyhaven-agent, which calls official hosts only";
    LedgerBehind = 1010, Integrity, false,
        "the hub's books have more of this agent's ledger than the agent",
        "the data directory is an older copy of itself: put the newest one back; docs/LEDGER.md says what else can be done";
    LedgerForked = 1011, Integrity, false,
        "the agent's ledger is another history than the one in the hub's books",
        "two copies of the data directory were in use: keep the one that the books know, and ask the operator";
    TokenMalformed = 1020, Usage, false,
        "the join token is damaged",
        "copy the whole token, from `kh1_` to its end, or ask for a new one";
    TokenExpired = 1021, Auth, false,
        "the join token has expired",
        "ask the operator for a new one: `keyhaven-hub agent invite`";
    TokenUsed = 1022, Auth, false,
        "the join token was already used",
        "ask the operator for a new one; if it was not you who used it, ask them to revoke that agent";
    TokenUnknown = 1023, Auth, false,
        "the hub does not know this join token",
        "check that the token is from this hub, or ask for a new one";
    AlreadyJoined = 1024, Usage, false,
        "this data directory already belongs to an agent",
        "run `keyhaven-agent run`, or give another --data-dir to make a second agent, or `repin` to follow a hub whose keys changed";
    NotJoined = 1025, Usage, false,
        "this data directory belongs to no agent yet",
        "run `keyhaven-agent join` with a token from the operator";
    HubKeysRefused = 1026, Integrity, false,
        "the hub's list of signing keys does not lead to the key of the join token",
        "do not go on: ask the operator whether the hub's keys were replaced; with a new invitation, `keyhaven-agent repin` follows them";

    // 20xx: a consumer's call.
    ApiKeyMissing = 2001, Auth, false,
        "the request carries no API key",
        "send the key the operator gave you as `Authorization: Bearer`, `x-api-key` or `api-key`";
    ApiKeyUnknown = 2002, Auth, false,
        "the API key is not known here, or was revoked",
        "check the key; it is the hub's (`kh_sk_...`), not the vendor's";
    EndpointUnknown = 2003, Usage, false,
        "there is no such endpoint here",
        "use base URL `/v1` as with the vendor, or the explicit form `/via/openai`, `/via/azure/<resource>`, `/via/anthropic` or `/via/deepseek`";
    MethodNotAllowed = 2004, Usage, false,
        "this endpoint does not take that method",
        "use the method the vendor documents for it";
    VendorAmbiguous = 2005, Usage, false,
        "no single vendor could be told from path, headers and model",
        "name the vendor: `/via/openai`, `/via/azure/<resource>`, `/via/anthropic` or `/via/deepseek` before the path";
    RequestMalformed = 2006, Usage, false,
        "the request body is not what this endpoint takes",
        "send one JSON object with each key once and a `model`, or a form with each part once";
    RequestTooLarge = 2007, Usage, false,
        "the request is larger than this hub accepts",
        "send less, or ask the operator to raise `consumer.request_body_bytes_max`";
    HeadTooLarge = 2008, Usage, false,
        "the request's headers are larger than this hub accepts",
        "send fewer or shorter headers";
    NoAgent = 2009, Network, true,
        "no agent that offers this vendor is connected",
        "try again later, or ask the operator which vendors are offered";
    HubBusy = 2010, Network, true,
        "the hub has no room for this request now",
        "try again after the time in `retry-after`";
    LinkLost = 2011, Network, true,
        "the link to the agent was lost during the call",
        "try again; what was delivered of a stream is all there is of it";
    VendorUnreachable = 2012, Network, true,
        "the agent could not reach the vendor",
        "try again later";
    VendorTimeout = 2013, Network, true,
        "the vendor did not answer in time",
        "try again, or ask for less in one call";
    VendorBroke = 2014, Network, true,
        "the vendor's answer broke off or was not HTTP",
        "try again";
    OwnerRefused = 2015, Network, true,
        "the vendor refused the resource owner's account",
        "try again later; this is not about your own key";
    OwnerRateLimited = 2016, Network, true,
        "the vendor limits the resource owner's account for now",
        "try again after the time in `retry-after`";
    AgentRefused = 2017, Network, true,
        "the agent refused to make this call",
        "try again; if it happens again, ask the operator";
    RequestTimeout = 2018, Usage, true,
        "the request did not arrive in time",
        "send the whole request without long pauses";
    HubDraining = 2019, Network, true,
        "the hub is about to stop and takes no new calls",
        "try again after the time in `retry-after`";
    ModelUnknown = 2020, Usage, false,
        "no connected agent offers this model",
        "see `/v1/models` for what is offered, or ask the operator";
    HttpVersion = 2021, Usage, false,
        "HTTP/1.0 cannot tell a broken answer from a whole one",
        "speak HTTP/1.1; behind nginx: `proxy_http_version 1.1;`";
    FieldRefused = 2022, Policy, false,
        "the request asks for something that is not served here",
        "leave out what the message names; `docs/FIELDS.md` lists what each endpoint takes";
    MediaTypeUnsupported = 2023, Usage, false,
        "the endpoint does not take a body of this content type",
        "send `application/json`, or `multipart/form-data` where the vendor documents it";
    UpgradeExpected = 2024, Usage, false,
        "this endpoint is a WebSocket, and the request is not a valid handshake",
        "connect with a WebSocket client; behind a proxy, let it pass `connection: upgrade` on";
    BalanceTooLow = 2040, Policy, false,
        "the account's balance does not cover what this call may cost at most",
        "add money to the account, or ask for less: a lower output limit holds less money until the call has ended";
    BudgetDaySpent = 2041, Policy, false,
        "the key's budget for this day does not cover what this call may cost at most",
        "wait for the next day (UTC), ask for less, or ask the operator for a higher budget";
    BudgetMonthSpent = 2042, Policy, false,
        "the key's budget for this month does not cover what this call may cost at most",
        "wait for the next month (UTC), ask for less, or ask the operator for a higher budget";
    BudgetTotalSpent = 2043, Policy, false,
        "the key's total budget does not cover what this call may cost at most",
        "ask for less, or ask the operator for a higher budget";
    AccountBlocked = 2044, Policy, false,
        "the account is blocked",
        "ask the operator";
    ApiKeyExpired = 2045, Auth, false,
        "the API key has expired",
        "ask the operator for a new one";
    AddressNotAllowed = 2046, Policy, false,
        "the API key may not be used from this address",
        "call from an address that the key allows, or ask the operator";
    ModelNotAllowed = 2047, Policy, false,
        "the API key may not use this model",
        "use a model that the key allows, or ask the operator";
    BooksUnavailable = 2048, Failure, true,
        "the hub cannot write down what calls cost, and sells none for now",
        "try again after the time in `retry-after`; the operator finds the cause in the hub's log";
    CallUnknown = 2049, Usage, false,
        "no call of this account has that id",
        "use the id in the answer's `keyhaven-call-id` header, with a key of the same account";
    CallUnfinished = 2050, Usage, true,
        "the call is still under way, or was not metered yet",
        "ask again after the time in `retry-after`";
    PricesNotSet = 2051, Failure, true,
        "the hub has no price for calls of this account",
        "the operator publishes a price table and sets zones and tiers: keyhaven-hub price --help";
    ModelNotPriced = 2052, Usage, false,
        "the price table does not have this model, so it is not sold",
        "use a model that GET /keyhaven/v1/prices lists, or ask the operator";
    UsageUnasked = 2053, Usage, false,
        "the stream would not state what it used, so it could not be billed exactly",
        "set `stream_options.include_usage` to true, or use an API key in mode assist";
    CallRepeated = 2054, Usage, false,
        "a call with this idempotency key is under way or was delivered",
        "read what became of it at `/keyhaven/v1/calls/{id}`; send another `idempotency-key` for another call";

    // 30xx: configuration.
    ConfigUnreadable = 3001, Config, false,
        "the configuration file cannot be read",
        "check the path and the file's permissions";
    ConfigInvalid = 3002, Config, false,
        "the configuration is not valid",
        "correct the named key; `config show` prints what is in force";
    ConfigVariableMissing = 3003, Config, false,
        "the configuration refers to environment variables that are not set",
        "set them, or write the values in their place";

    // 40xx: the agent's vault.
    VaultLocked = 4001, Auth, false,
        "the vault cannot be opened with this passphrase or key file",
        "give the passphrase it was sealed with, or restore the key file";
    VaultDamaged = 4002, Integrity, false,
        "the vault's file is damaged or was changed by somebody else",
        "restore it from a backup, or remove it and add the keys again";
    VaultKeyUnknown = 4003, Usage, false,
        "the vault holds no such key",
        "`keyhaven-agent key list` prints the ids";
    VendorKeyMalformed = 4004, Usage, false,
        "this does not look like a vendor's API key",
        "paste the key alone: visible ASCII, no spaces or quotes";
    AttestationMissing = 4005, Policy, false,
        "the right to use the key was not attested",
        "confirm the question, or give --attest, if the key is yours to use and within the vendor's terms";
    ResourceMalformed = 4006, Usage, false,
        "this is not an Azure resource name",
        "give the one label before `.openai.azure.com`: letters, digits and hyphens";
    VendorRefusedKey = 4007, Auth, false,
        "the vendor does not accept this key",
        "check the key in the vendor's console; add a new one and remove this one";

    // 50xx: running a hub or an agent.
    DataDirUnusable = 5001, Failure, false,
        "the data directory cannot be used",
        "check that it exists, is yours and has space";
    AlreadyRunning = 5002, Failure, false,
        "another process uses this data directory",
        "stop it first, or give another --data-dir";
    ListenFailed = 5003, Network, false,
        "an address cannot be listened on",
        "choose another address or stop the process that has it";
    StoreFailed = 5004, Failure, true,
        "the database did not do what was asked",
        "see the cause; check the disk and the database's own log";
    NotInitialised = 5005, Usage, false,
        "this data directory holds no hub yet",
        "run `keyhaven-hub init`";
    AgentUnknown = 5006, Usage, false,
        "there is no such agent",
        "`keyhaven-hub agent list` prints the ids and names";
    ApiKeyNotFound = 5007, Usage, false,
        "there is no such API key",
        "`keyhaven-hub key list` prints the ids";
    CodeUnknown = 5008, Usage, false,
        "there is no such error code",
        "`explain` without a code prints the whole table";
    NotRunning = 5009, Network, true,
        "no running process answers",
        "start it with `serve` (hub) or `run` (agent)";
    KeyFileExists = 5010, Usage, false,
        "the data directory already holds a hub",
        "use it as it is, or give another --data-dir";
    UsageInvalid = 5011, Usage, false,
        "the command was called wrongly",
        "see --help";
    DrainUnfinished = 5012, Failure, true,
        "the agent still has calls under way",
        "ask again with a longer --wait; it is given no new calls meanwhile";
    AccountNotFound = 5013, Usage, false,
        "there is no such account",
        "`keyhaven-hub account list` prints the ids and names";
    DepositDiffers = 5014, Usage, false,
        "another deposit has this reference",
        "give each payment a reference of its own; `keyhaven-hub account show NAME` lists them";
    SigningKeys = 5015, Integrity, false,
        "the hub's signing keys do not belong together",
        "restore signing.key and signing-keys.json from the same backup; the root key is the one that `init` made";
    DisputeUnknown = 5017, Usage, false,
        "nothing is disputed about this call, or not any more",
        "`keyhaven-hub dispute list` shows what is";
    PayoutRefused = 5018, Policy, false,
        "owners cannot be paid this way",
        "see what the message says; `keyhaven-hub owner statement` shows what is owed and since when";
    DatabaseUnreachable = 5030, Network, true,
        "the database server cannot be reached, or does not let the hub in",
        "check `database.url`, that the server runs, and that the user may use that database from here";
    DatabaseUnfit = 5031, Config, false,
        "the database server is not one that books can be kept on",
        "change what is named, on the server or in `database.url`; docs/OPERATING.md lists what is needed";
    DatabaseNewer = 5032, Failure, false,
        "a newer version of the program has made the database's tables",
        "run that version, or bring back a backup from before it";
    BooksDiffer = 5033, Integrity, false,
        "two figures of the books that should be the same are not",
        "`keyhaven-hub reconcile show` names them; stop selling and find out who wrote to the database";
    LedgerFailed = 5040, Failure, false,
        "the ledger cannot be written, so no calls are taken",
        "see the cause: free space on the disk or make it writable, then start the agent again";
    LedgerDamaged = 5041, Integrity, false,
        "the ledger is damaged",
        "restore its folder from a backup, or move it aside: either way the agent begins a new chain once the hub says that it knows more; what the hub acknowledged is in its books";
    LedgerStalled = 5042, Failure, true,
        "the disk is too slow for the ledger, so no calls are taken for now",
        "see what else keeps the disk busy; calls are taken again once it has caught up";
    LedgerLimit = 5043, Policy, true,
        "a limit of the owner's is reached, so no calls are taken for now",
        "see `keyhaven-agent earnings` and `keyhaven-agent claim list`, and ask the operator";
    LedgerAbsent = 5044, Usage, false,
        "there is no ledger here yet",
        "the agent begins one when it runs; check --data-dir";
    Internal = 5999, Failure, true,
        "something happened that should not",
        "report it with the log of that moment";
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KH-E{:04}", self.number())
    }
}

/// Text that names no known error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an error code such as KH-E1001")]
pub struct UnknownCode(String);

impl std::str::FromStr for ErrorCode {
    type Err = UnknownCode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || UnknownCode(text.chars().take(32).collect());
        let upper = text.to_ascii_uppercase();
        let digits = upper.strip_prefix("KH-E").ok_or_else(unknown)?;
        let number: u16 = digits.parse().map_err(|_| unknown())?;
        Self::ALL.iter().copied().find(|code| code.number() == number).ok_or_else(unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_in_order() {
        let numbers: Vec<u16> = ErrorCode::ALL.iter().map(|code| code.number()).collect();
        let mut sorted = numbers.clone();
        sorted.sort_unstable();
        sorted.dedup();

        assert_eq!(numbers, sorted);
    }

    #[test]
    fn a_code_parses_back_from_what_it_prints() {
        for code in ErrorCode::ALL {
            assert_eq!(code.to_string().parse(), Ok(*code));
        }
        assert!("KH-E0000".parse::<ErrorCode>().is_err());
    }
}
