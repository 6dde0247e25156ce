//! `join` and `repin`: where the token comes from, and what is told afterwards.
//!
//! Invariant: a token that was given is used, or the command says why not.

use std::fs::File;
use std::path::PathBuf;

use clap::Args;
use keyhaven_daemon::cli::Output;
use keyhaven_daemon::failure::Failure;
use keyhaven_daemon::files::DirLock;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::join_token::JoinToken;
use secrecy::ExposeSecret as _;
use secrecy::SecretString;
use serde::Serialize;

use crate::cli::Context;
use crate::cli::prompt;
use crate::cli::shown;
use crate::cli::vault_access;
use crate::cli::vault_access::NewVault;
use crate::provider::Egress;
use crate::vault::Vault;
use crate::vault::identity::Identity;
use crate::vault::unlock::Backend;

pub(crate) const TOKEN_VARIABLE: &str = "KEYHAVEN_AGENT_JOIN_TOKEN";

/// The token, from one of four places.
#[derive(Debug, Args)]
pub(crate) struct TokenArguments {
    /// The token (`kh1_...`), or `-` to read it from standard input. Without
    /// one, the environment variable KEYHAVEN_AGENT_JOIN_TOKEN is read.
    #[arg(value_name = "TOKEN", conflicts_with = "file")]
    token: Option<SecretString>,
    /// Read the token from a file.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// A token, and what shall protect the vault if there is none yet.
#[derive(Debug, Args)]
pub(crate) struct JoinArguments {
    #[command(flatten)]
    pub(crate) token: TokenArguments,
    /// What protects the vault, if there is none yet. Default: a passphrase if
    /// one is configured, else a key file.
    #[arg(long, value_name = "KIND")]
    pub(crate) vault: Option<NewVault>,
}

pub(crate) async fn join(context: &Context, given: &JoinArguments, egress: &Egress) -> anyhow::Result<()> {
    let token = needed_token(context.output, &given.token)?;
    let _lock = lock(context)?;
    let mut vault = vault_access::open_or_create(context, given.vault)?;
    let identity = join_with(context, &mut vault, &token, egress).await?;
    tell(context, "join", &identity, vault.backend(), "joined")
}

/// Joins with an open vault, whose directory is locked.
pub(crate) async fn join_with(
    context: &Context,
    vault: &mut Vault,
    token: &JoinToken,
    egress: &Egress,
) -> anyhow::Result<Identity> {
    if let Some(identity) = vault.identity() {
        return Err(Failure::new(
            ErrorCode::AlreadyJoined,
            format!("it is {} at {}", identity.agent, identity.hub_address),
        )
        .at(shown(&context.dir))
        .into());
    }
    crate::enrol::join(vault, token, egress).await
}

pub(crate) async fn repin(context: &Context, given: &TokenArguments, egress: &Egress) -> anyhow::Result<()> {
    let token = needed_token(context.output, given)?;
    if !Vault::exists(&context.dir) {
        return Err(not_joined(context).into());
    }
    let _lock = lock(context)?;
    let mut vault = vault_access::open(context)?;
    if vault.identity().is_none() {
        return Err(not_joined(context).into());
    }
    let identity = crate::enrol::repin(&mut vault, &token, egress).await?;
    tell(context, "repin", &identity, vault.backend(), "repinned")
}

pub(crate) fn not_joined(context: &Context) -> Failure {
    Failure::new(ErrorCode::NotJoined, "").at(shown(&context.dir))
}

/// Takes the data directory for this process, making it first if need be.
pub(crate) fn lock(context: &Context) -> anyhow::Result<DirLock> {
    crate::vault::create_dir(&context.dir)?;
    Ok(DirLock::claim(&context.dir)?)
}

pub(crate) fn needed_token(output: Output, given: &TokenArguments) -> anyhow::Result<JoinToken> {
    Ok(token(output, given)?.ok_or_else(|| {
        super::usage("no join token was given")
            .fix(format!("give it as `-` and standard input, by --file or in {TOKEN_VARIABLE}"))
    })?)
}

/// The token, if one was given anywhere.
pub(crate) fn token(output: Output, given: &TokenArguments) -> Result<Option<JoinToken>, Failure> {
    let (text, place) = match (&given.token, &given.file) {
        (Some(dash), _) if dash.expose_secret() == "-" => (from_stdin()?, "standard input".to_owned()),
        (Some(token), _) => {
            output.note(
                "warning: an argument is visible to every user of this machine while the command \
                 runs; `-` and standard input, --file or KEYHAVEN_AGENT_JOIN_TOKEN are safer",
            );
            (token.clone(), "the argument TOKEN".to_owned())
        }
        (None, Some(file)) => (from_file(file)?, shown(file)),
        (None, None) => match std::env::var(TOKEN_VARIABLE) {
            Ok(token) => (SecretString::from(token), TOKEN_VARIABLE.to_owned()),
            Err(_) => return Ok(None),
        },
    };
    JoinToken::decode(text.expose_secret())
        .map(Some)
        .map_err(|error| Failure::new(ErrorCode::TokenMalformed, error.to_string()).at(place))
}

fn from_stdin() -> Result<SecretString, Failure> {
    prompt::stdin_to_end()
        .map_err(|error| Failure::new(ErrorCode::TokenMalformed, error.to_string()).at("standard input"))
}

fn from_file(path: &std::path::Path) -> Result<SecretString, Failure> {
    File::open(path).and_then(prompt::secret_from).map_err(|error| super::usage(error.to_string()).at(shown(path)))
}

#[derive(Serialize)]
struct Joined {
    agent: String,
    fleet: String,
    hub_address: String,
    pins: Vec<String>,
    vault: Backend,
    data_dir: String,
}

fn tell(context: &Context, schema: &str, identity: &Identity, vault: Backend, done: &str) -> anyhow::Result<()> {
    let joined = Joined {
        agent: identity.agent.to_string(),
        fleet: identity.fleet.to_string(),
        hub_address: identity.hub_address.clone(),
        pins: identity.pins.iter().map(ToString::to_string).collect(),
        vault,
        data_dir: shown(&context.dir),
    };
    context.output.emit(schema, &joined, || {
        format!(
            "{done} {} as {}\npins:\n  {}\nnext: `keyhaven-agent key add openai`, then `keyhaven-agent run`",
            joined.hub_address,
            joined.agent,
            joined.pins.join("\n  ")
        )
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_token_is_named_by_its_place_and_never_repeated() {
        let given = TokenArguments { token: Some("kh1_PLANTED".into()), file: None };

        let failure = token(Output::new(true), &given).unwrap_err();

        assert_eq!(failure.code(), ErrorCode::TokenMalformed);
        assert!(failure.to_string().contains("the argument TOKEN"));
        assert!(!format!("{failure} {failure:?} {given:?}").contains("PLANTED"));
    }

    #[test]
    fn a_token_comes_from_a_file_with_a_line_end() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("token");
        let text = JoinToken {
            hub_address: "127.0.0.1:9010".to_owned(),
            pins: vec![keyhaven_protocol::pin::Pin::of_spki(b"key")],
            hub_key: [1; 32],
            fleet: keyhaven_protocol::id::FleetId([2; 16]),
            agent: keyhaven_protocol::id::AgentId([3; 16]),
            token: keyhaven_protocol::id::TokenId([4; 16]),
            secret: [5; 32],
            expires_unix_ms: 1,
        }
        .encode();
        std::fs::write(&path, format!("{text}\n")).unwrap();
        let given = TokenArguments { token: None, file: Some(path) };

        let token = token(Output::new(true), &given).unwrap().unwrap();

        assert_eq!(token.hub_address, "127.0.0.1:9010");
    }
}
