//! `usage` and `call`: what calls cost, summed up and one by one.
//!
//! Invariant: only what is written in the books is shown.

use std::collections::HashMap;
use std::time::Duration;

use clap::Args;
use clap::Subcommand;
use keyhaven_daemon::cli::Output;
use keyhaven_daemon::cli::table;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::failure::Failure;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::id::AccountId;
use keyhaven_protocol::id::ApiKeyId;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::money::NanoUsd;
use serde::Serialize;

use super::account;
use super::key;
use super::text;
use crate::config::Config;
use crate::registry::Registry;
use crate::settlement::CallRecord;
use crate::settlement::with_leaf;
use crate::store::attempts::CreditRow;
use crate::store::calls::UsageFilter;
use crate::store::calls::UsageRow;

#[derive(Debug, Args)]
pub(super) struct UsageArgs {
    /// Only calls of this account, by name or id.
    #[arg(long)]
    account: Option<String>,
    /// Only calls of this key, by name or id.
    #[arg(long)]
    key: Option<String>,
    /// Only calls of this model.
    #[arg(long)]
    model: Option<String>,
    /// Only calls that began so long ago at most, such as 7d.
    #[arg(long, value_name = "TIME", value_parser = text::duration)]
    since: Option<Duration>,
}

#[derive(Debug, Subcommand)]
pub(super) enum CallCommand {
    /// Show what a call cost, and why.
    Show {
        /// The id in the answer's `keyhaven-call-id` header.
        id: CallId,
    },
}

pub(super) async fn usage(output: Output, config: &Config, args: UsageArgs) -> anyhow::Result<()> {
    let registry = super::open(config).await?;
    let done = summed_up(output, &registry, args).await;
    registry.store.close().await;
    done
}

pub(super) async fn call(output: Output, config: &Config, command: CallCommand) -> anyhow::Result<()> {
    let registry = super::open(config).await?;
    let done = match command {
        CallCommand::Show { id } => show(output, &registry, id).await,
    };
    registry.store.close().await;
    done
}

async fn summed_up(output: Output, registry: &Registry, args: UsageArgs) -> anyhow::Result<()> {
    let mut filter = UsageFilter { model: args.model, ..UsageFilter::default() };
    if let Some(wanted) = &args.account {
        filter.account = Some(account::find(&registry.store, wanted).await?.id);
    }
    if let Some(wanted) = &args.key {
        filter.key = Some(key::find(registry, wanted).await?.id);
    }
    if let Some(since) = args.since {
        filter.since_unix_ms = unix_ms_now().saturating_sub(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    }
    let rows = registry.store.usage(&filter).await.map_err(super::failure)?;
    let keys = registry.store.api_keys().await.map_err(super::failure)?;
    let names: HashMap<ApiKeyId, String> = keys.into_iter().map(|key| (key.id, key.name)).collect();
    let views: Vec<UsageView<'_>> = rows.iter().map(|row| UsageView::of(row, &names)).collect();
    output.emit("usage", &views, || {
        if views.is_empty() {
            return "no calls".to_owned();
        }
        let rows = views.iter().map(|view| {
            vec![
                view.key_name.to_owned(),
                view.model.to_owned(),
                view.calls.to_string(),
                view.input_tokens.to_string(),
                view.output_tokens.to_string(),
                view.list_nano_usd.to_string(),
                view.cost_nano_usd.to_string(),
            ]
        });
        table(&["KEY", "MODEL", "CALLS", "TOKENS IN", "TOKENS OUT", "LIST", "COST"], rows.collect())
    })?;
    Ok(())
}

async fn show(output: Output, registry: &Registry, id: CallId) -> anyhow::Result<()> {
    let json = registry.store.call_json(id).await.map_err(super::failure)?;
    let Some(json) = json else {
        return Err(Failure::new(ErrorCode::CallUnknown, format!("{id} was not sold, or is not over")).into());
    };
    let record = with_leaf(&registry.store, serde_json::from_str(&json)?).await.map_err(super::failure)?;
    let credits = registry.store.credits_of(id).await.map_err(super::failure)?;
    output.emit("call", &record, || to_text(&record, &credits))?;
    Ok(())
}

fn to_text(record: &CallRecord, credits: &[CreditRow]) -> String {
    let (sale, settled, hub) = (&record.sale, &record.settled, &record.hub_metered);
    let lines = hub
        .lines
        .iter()
        .map(|line| vec![line.meter.name().to_owned(), line.quantity.to_string(), line.nano_usd.to_string()]);
    let agent = match &record.agent_metered {
        Some(agent) => agent.list_nano_usd.to_string(),
        None => "not known yet".to_owned(),
    };
    let credited = credits.iter().map(|credit| format!("{} ({})", credit.credit, credit.reason.name()));
    let owner = match credits {
        [] => format!("{} owed, until the leaf comes", settled.open),
        [..] => credited.collect::<Vec<_>>().join(", "),
    };
    let estimated = if hub.estimated { ", estimated" } else { "" };
    format!(
        "{}\n\ncall      {}\nmodel     {}\nendpoint  {}\nbegan     {}\noutcome   {}\nkey       {}\nagent     {}\n\
         prices    version {}, zone {}\nlist      {} by the hub ({}{estimated}), {agent} by the agent\ncost      {} of {} held\n\
         owner     {owner}\nfigures   {}",
        table(&["WHAT", "HOW MUCH", "LIST"], lines.collect()),
        sale.call,
        sale.model,
        sale.endpoint,
        text::time(sale.began_unix_ms),
        record.outcome.name(),
        sale.key,
        sale.agent,
        sale.price_version,
        sale.zone,
        hub.list_nano_usd,
        hub.rule,
        settled.charge,
        sale.held,
        settled.verdict.name(),
    )
}

#[derive(Serialize)]
struct UsageView<'a> {
    account_id: AccountId,
    api_key_id: ApiKeyId,
    key_name: &'a str,
    model: &'a str,
    calls: u64,
    estimated_calls: u64,
    input_tokens: u64,
    output_tokens: u64,
    list_nano_usd: NanoUsd,
    cost_nano_usd: NanoUsd,
    cost: String,
}

impl<'a> UsageView<'a> {
    fn of(row: &'a UsageRow, names: &'a HashMap<ApiKeyId, String>) -> Self {
        Self {
            account_id: row.account,
            api_key_id: row.key,
            key_name: names.get(&row.key).map_or("-", String::as_str),
            model: &row.model,
            calls: row.calls,
            estimated_calls: row.estimated,
            input_tokens: row.input_tokens,
            output_tokens: row.output_tokens,
            list_nano_usd: row.list,
            cost_nano_usd: row.cost,
            cost: row.cost.to_string(),
        }
    }
}
