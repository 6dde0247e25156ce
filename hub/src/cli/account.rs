//! `account`: consumers' accounts and the money in them.
//!
//! Invariant: money is typed and shown in dollars with all of its digits, and never rounded.

use clap::Args;
use clap::Subcommand;
use keyhaven_daemon::cli::Output;
use keyhaven_daemon::cli::table;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::failure::Failure;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::id::AccountId;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::price::Zone;
use serde::Serialize;

use super::text;
use crate::config::Config;
use crate::registry::Registry;
use crate::settlement::Booked;
use crate::settlement::deposit;
use crate::store::Store;
use crate::store::accounts::Account;
use crate::store::accounts::Deposit;
use crate::store::ledger::Side;

#[derive(Debug, Subcommand)]
pub(super) enum AccountCommand {
    /// Make an account.
    Create {
        /// What you call it.
        name: String,
        /// What its calls cost: standard, discount or premium.
        #[arg(long, default_value = "standard")]
        zone: Zone,
    },
    /// List all accounts with their balances.
    List,
    /// Show one account and what was paid into it.
    Show {
        /// The account's name or id.
        account: String,
    },
    /// Book money that was paid in.
    Deposit(DepositArgs),
    /// Change an account's zone, block it or unblock it.
    Set(SetArgs),
}

#[derive(Debug, Args)]
pub(super) struct DepositArgs {
    /// The account's name or id.
    account: String,
    /// US dollars, such as 12.50.
    usd: NanoUsd,
    /// What tells this payment from all others, such as an invoice's number. It is booked once.
    #[arg(long)]
    reference: String,
}

#[derive(Debug, Args)]
pub(super) struct SetArgs {
    /// The account's name or id.
    account: String,
    /// What its calls cost: standard, discount or premium.
    #[arg(long)]
    zone: Option<Zone>,
    /// Refuse its keys from now on.
    #[arg(long)]
    block: bool,
    /// Serve its keys again.
    #[arg(long, conflicts_with = "block")]
    unblock: bool,
}

pub(super) async fn run(output: Output, config: &Config, command: AccountCommand) -> anyhow::Result<()> {
    let registry = super::open(config).await?;
    let done = match command {
        AccountCommand::Create { name, zone } => create(output, &registry, &name, zone).await,
        AccountCommand::List => list(output, &registry.store).await,
        AccountCommand::Show { account } => show(output, &registry.store, &account).await,
        AccountCommand::Deposit(args) => book(output, &registry.store, args).await,
        AccountCommand::Set(args) => set(output, &registry.store, &args).await,
    };
    registry.store.close().await;
    done
}

/// By id, or by name.
pub(super) async fn find(store: &Store, wanted: &str) -> Result<Account, Failure> {
    let id = wanted.parse::<AccountId>().ok();
    let accounts = store.accounts().await?;
    let found = accounts.into_iter().find(|account| id.map_or(account.name == wanted, |id| account.id == id));
    found.ok_or_else(|| Failure::new(ErrorCode::AccountNotFound, format!("{wanted:?}")))
}

async fn create(output: Output, registry: &Registry, name: &str, zone: Zone) -> anyhow::Result<()> {
    let account = registry.create_account(name, zone, unix_ms_now()).await.map_err(super::failure)?;
    let view = AccountView::of(&account, NanoUsd::ZERO);
    output.emit("account", &view, || view.to_text())?;
    output.note("its keys work once it has money: keyhaven-hub account deposit");
    Ok(())
}

async fn list(output: Output, store: &Store) -> anyhow::Result<()> {
    let accounts = store.accounts().await.map_err(super::failure)?;
    let mut views = Vec::new();
    for account in &accounts {
        let balance = store.balance(Side::Consumer(account.id)).await.map_err(super::failure)?;
        views.push(AccountView::of(account, balance));
    }
    output.emit("accounts", &views, || {
        let rows = views.iter().map(|view| {
            vec![
                view.account_id.to_string(),
                view.name.to_owned(),
                view.zone.name().to_owned(),
                view.state.to_owned(),
                view.balance.clone(),
            ]
        });
        table(&["ID", "NAME", "ZONE", "STATE", "BALANCE"], rows.collect())
    })?;
    Ok(())
}

async fn show(output: Output, store: &Store, wanted: &str) -> anyhow::Result<()> {
    let account = find(store, wanted).await?;
    let balance = store.balance(Side::Consumer(account.id)).await.map_err(super::failure)?;
    let deposits = store.deposits(account.id).await.map_err(super::failure)?;
    let view = ShownView {
        account: AccountView::of(&account, balance),
        deposits: deposits.iter().map(DepositView::of).collect(),
    };
    output.emit("account-shown", &view, || {
        let rows = view
            .deposits
            .iter()
            .map(|deposit| vec![text::time(deposit.at_unix_ms), deposit.amount.clone(), deposit.reference.to_owned()]);
        format!("{}\n\n{}", view.account.to_text(), table(&["PAID IN", "AMOUNT", "REFERENCE"], rows.collect()))
    })?;
    Ok(())
}

async fn book(output: Output, store: &Store, args: DepositArgs) -> anyhow::Result<()> {
    let account = find(store, &args.account).await?;
    let paid = Deposit { reference: args.reference, account: account.id, amount: args.usd, at_unix_ms: unix_ms_now() };
    let booked = deposit(store, &paid).await.map_err(|error| Failure::new(error.code(), error.to_string()))?;
    if booked == Booked::Before {
        output.note("it was booked before; nothing was done");
    }
    let balance = store.balance(Side::Consumer(account.id)).await.map_err(super::failure)?;
    let view = AccountView::of(&account, balance);
    output.emit("account", &view, || view.to_text())?;
    Ok(())
}

async fn set(output: Output, store: &Store, args: &SetArgs) -> anyhow::Result<()> {
    let account = find(store, &args.account).await?;
    let zone = args.zone.unwrap_or(account.zone);
    let blocked_unix_ms = match (args.block, args.unblock) {
        (true, _) => account.blocked_unix_ms.or(Some(unix_ms_now())),
        (false, true) => None,
        (false, false) => account.blocked_unix_ms,
    };
    store.set_account(account.id, zone, blocked_unix_ms).await.map_err(super::failure)?;
    let balance = store.balance(Side::Consumer(account.id)).await.map_err(super::failure)?;
    let view_of = Account { zone, blocked_unix_ms, ..account };
    let view = AccountView::of(&view_of, balance);
    output.emit("account", &view, || view.to_text())?;
    Ok(())
}

#[derive(Serialize)]
struct AccountView<'a> {
    account_id: AccountId,
    name: &'a str,
    zone: Zone,
    state: &'static str,
    balance: String,
    balance_nano_usd: NanoUsd,
    created_unix_ms: u64,
    blocked_unix_ms: Option<u64>,
}

#[derive(Serialize)]
struct ShownView<'a> {
    #[serde(flatten)]
    account: AccountView<'a>,
    deposits: Vec<DepositView<'a>>,
}

#[derive(Serialize)]
struct DepositView<'a> {
    reference: &'a str,
    amount: String,
    nano_usd: NanoUsd,
    at_unix_ms: u64,
}

impl<'a> AccountView<'a> {
    fn of(account: &'a Account, balance: NanoUsd) -> Self {
        Self {
            account_id: account.id,
            name: &account.name,
            zone: account.zone,
            state: if account.blocked_unix_ms.is_some() { "blocked" } else { "open" },
            balance: balance.to_string(),
            balance_nano_usd: balance,
            created_unix_ms: account.created_unix_ms,
            blocked_unix_ms: account.blocked_unix_ms,
        }
    }

    fn to_text(&self) -> String {
        format!(
            "account  {}\nid       {}\nzone     {}\nstate    {}\nbalance  {}",
            self.name, self.account_id, self.zone, self.state, self.balance
        )
    }
}

impl<'a> DepositView<'a> {
    fn of(deposit: &'a Deposit) -> Self {
        Self {
            reference: &deposit.reference,
            amount: deposit.amount.to_string(),
            nano_usd: deposit.amount,
            at_unix_ms: deposit.at_unix_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::accounts::DEFAULT_ACCOUNT;

    #[tokio::test]
    async fn an_account_is_found_by_name_and_by_id() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();

        assert_eq!(find(&store, "default").await.unwrap().id, DEFAULT_ACCOUNT);
        assert_eq!(find(&store, &DEFAULT_ACCOUNT.to_string()).await.unwrap().name, "default");
        let failure = find(&store, "nobody").await.unwrap_err();
        assert_eq!(failure.code(), ErrorCode::AccountNotFound);
    }

    #[test]
    fn a_balance_is_shown_with_all_of_its_digits() {
        let account = Account {
            id: DEFAULT_ACCOUNT,
            name: "default".to_owned(),
            zone: Zone::Standard,
            created_unix_ms: 5,
            blocked_unix_ms: Some(6),
        };

        let view = AccountView::of(&account, NanoUsd(12_000_000_001));

        assert_eq!(
            serde_json::to_value(&view).unwrap(),
            serde_json::json!({
                "account_id": "ac_00000000000000000000000000000001",
                "name": "default",
                "zone": "standard",
                "state": "blocked",
                "balance": "$12.000000001",
                "balance_nano_usd": 12_000_000_001_i64,
                "created_unix_ms": 5,
                "blocked_unix_ms": 6,
            })
        );
    }
}
