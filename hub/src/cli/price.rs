//! `price`: list prices, imported, compared, published; what zones pay and tiers get.
//!
//! Invariant: prices are shown as money per million tokens, and never as a bare ratio.

mod standing;

use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use clap::Subcommand;
use keyhaven_daemon::cli::Output;
use keyhaven_daemon::cli::table;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::failure::Failure;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::money::PicoUsd;
use keyhaven_protocol::money::Ppm;
use keyhaven_protocol::price::PriceTable;
use keyhaven_protocol::price::Rate;
use keyhaven_protocol::price::ServiceTier;
use keyhaven_protocol::price::Zone;
use keyhaven_protocol::provider::Provider;
use keyhaven_protocol::usage::Meter;
use serde::Serialize;

use super::confirm::Consent;
use super::text;
use crate::config::Config;
use crate::pricing::book::Begins;
use crate::pricing::book::PriceBook;
use crate::pricing::diff::Change;
use crate::pricing::diff::ModelDiff;
use crate::pricing::diff::diff;
use crate::pricing::unit::sold_by;

/// The longest file of prices; LiteLLM's has 3 MB.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

#[derive(Debug, Subcommand)]
pub(super) enum PriceCommand {
    /// Read LiteLLM's published table and keep it as the draft.
    Import {
        /// `model_prices_and_context_window_backup.json` of the litellm package.
        file: PathBuf,
    },
    /// Show the prices in force.
    Show {
        /// Only models whose name contains this.
        model: Option<String>,
        /// Those of an earlier version.
        #[arg(long, value_name = "NUMBER")]
        version: Option<u32>,
        /// Those of the draft.
        #[arg(long, conflicts_with = "version")]
        draft: bool,
    },
    /// Show what publishing the draft would change.
    Diff,
    /// Put the draft in force, signed by this hub.
    Publish {
        #[command(flatten)]
        begins: BeginArgs,
        #[command(flatten)]
        consent: Consent,
    },
    /// Put the prices of an earlier version in force again, as a new version.
    Rollback {
        /// The version.
        version: u32,
        #[command(flatten)]
        begins: BeginArgs,
        #[command(flatten)]
        consent: Consent,
    },
    /// What consumers pay, by zone.
    Zone {
        #[command(subcommand)]
        command: standing::ZoneCommand,
    },
    /// What owners get, by tier.
    Tier {
        #[command(subcommand)]
        command: standing::TierCommand,
    },
}

#[derive(Debug, Clone, Copy, Args)]
pub(super) struct BeginArgs {
    /// At once, and not in ten seconds: agents that do not have the prices yet get no calls until they do.
    #[arg(long)]
    now: bool,
}

impl BeginArgs {
    fn begins(self) -> Begins {
        if self.now { Begins::Now } else { Begins::Usual }
    }
}

pub(super) async fn run(output: Output, config: &Config, command: PriceCommand) -> anyhow::Result<()> {
    let registry = super::open(config).await?;
    let book = PriceBook::new(&registry.store, &registry.keys);
    let done = match command {
        PriceCommand::Import { file } => import(output, &book, &file).await,
        PriceCommand::Show { model, version, draft } => {
            let zones = registry.store.zones().await.map_err(super::failure)?;
            show(output, &book, model.as_deref(), version, draft, zones).await
        }
        PriceCommand::Diff => show_diff(output, &book).await,
        PriceCommand::Publish { begins, consent } => publish(output, &book, begins, consent).await,
        PriceCommand::Rollback { version, begins, consent } => roll_back(output, &book, version, begins, consent).await,
        PriceCommand::Zone { command } => standing::zone(output, &registry.store, command).await,
        PriceCommand::Tier { command } => standing::tier(output, &registry, command).await,
    };
    registry.store.close().await;
    done
}

async fn import(output: Output, book: &PriceBook<'_>, file: &Path) -> anyhow::Result<()> {
    let unusable =
        |error: std::io::Error| Failure::new(ErrorCode::UsageInvalid, error.to_string()).at(file.display().to_string());
    if std::fs::metadata(file).map_err(unusable)?.len() > FILE_BYTES_MAX {
        return Err(unusable(std::io::ErrorKind::FileTooLarge.into()).into());
    }
    let json = std::fs::read(file).map_err(unusable)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let source = format!("LiteLLM, {name}, SHA-256 {}", PriceTable::hash_of(&json));
    let (draft, skipped) = book.import(&json, &source, unix_ms_now()).await.map_err(super::failure)?;
    let skipped: Vec<SkippedView> =
        skipped.into_iter().map(|(model, why)| SkippedView { model, why: why.to_string() }).collect();
    let models = draft.models.values().map(std::collections::BTreeMap::len).sum();
    let answer = Imported { source, models, skipped };
    output.emit("price-import", &answer, || {
        let left_out = answer.skipped.iter().map(|skipped| vec![skipped.model.clone(), skipped.why.clone()]);
        format!(
            "{}\n\n{} models are in the draft, {} were left out",
            table(&["LEFT OUT", "BECAUSE"], left_out.collect()),
            answer.models,
            answer.skipped.len()
        )
    })?;
    output.note("look at it: keyhaven-hub price diff; put it in force: keyhaven-hub price publish");
    Ok(())
}

async fn show(
    output: Output,
    book: &PriceBook<'_>,
    model: Option<&str>,
    version: Option<u32>,
    draft: bool,
    zones: Vec<(Zone, Ppm)>,
) -> anyhow::Result<()> {
    let now = unix_ms_now();
    let prices = if draft {
        book.draft().await
    } else if version.is_some() {
        book.published(version).await
    } else {
        book.in_force(now).await
    };
    let Some(prices) = prices.map_err(super::failure)? else {
        let nothing = if draft { "there is no draft" } else { "no prices have been published" };
        let failure = Failure::new(ErrorCode::UsageInvalid, nothing);
        return Err(failure.fix("keyhaven-hub price import FILE, then keyhaven-hub price publish").into());
    };
    let named = |name: &str| model.is_none_or(|wanted| name.contains(wanted));
    let mut shown = Vec::new();
    for (provider, models) in &prices.models {
        for (name, sku) in models.iter().filter(|(name, _)| named(name)) {
            shown.extend(sku.rates.iter().map(|rate| RateView::of(*provider, name, rate, &zones)));
        }
    }
    let answer = Shown {
        version: prices.version,
        valid_from_unix_ms: prices.valid_from_unix_ms,
        source: &prices.source,
        hash: prices.hash(),
        rates: shown,
    };
    output.emit("prices", &answer, || {
        let rows = answer.rates.iter().map(RateView::row).collect();
        let mut columns = vec!["MODEL".to_owned(), "WHAT".into(), "TIER".into(), "ABOVE".into(), "LIST PRICE".into()];
        columns.extend(zones.iter().map(|(zone, _)| format!("IN ZONE {}", zone.name().to_uppercase())));
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        let from = if draft { "draft".to_owned() } else { since(answer.version, answer.valid_from_unix_ms, now) };
        let unset = if zones.is_empty() { "\nno zone is set: nothing is sold" } else { "" };
        format!("{}\n\n{from}\nfrom {}{unset}", table(&columns, rows), answer.source)
    })?;
    if let (None, false, Some(newest)) = (version, draft, book.published(None).await.map_err(super::failure)?)
        && newest.version != answer.version
    {
        output.note(&since(newest.version, newest.valid_from_unix_ms, now));
    }
    Ok(())
}

fn since(version: u32, valid_from_unix_ms: u64, now_unix_ms: u64) -> String {
    let word = if valid_from_unix_ms > now_unix_ms { "from" } else { "since" };
    format!("version {version}, in force {word} {}", text::time(valid_from_unix_ms))
}

async fn show_diff(output: Output, book: &PriceBook<'_>) -> anyhow::Result<()> {
    let draft = book.draft().await.map_err(super::failure)?;
    let Some(draft) = draft else {
        return Err(super::failure(crate::pricing::book::BookError::NoDraft).into());
    };
    let changes = diff(book.published(None).await.map_err(super::failure)?.as_ref(), &draft);
    output.emit("price-diff", &changes, || listed(&changes))?;
    Ok(())
}

async fn publish(output: Output, book: &PriceBook<'_>, begins: BeginArgs, consent: Consent) -> anyhow::Result<()> {
    let draft = book.draft().await.map_err(super::failure)?;
    let in_force = book.published(None).await.map_err(super::failure)?;
    if let (Some(draft), true) = (&draft, consent.dry_run) {
        let changes = diff(in_force.as_ref(), draft);
        output.note("would be published; nothing was done");
        return Ok(output.emit("price-diff", &changes, || listed(&changes))?);
    }
    if let Some(draft) = &draft {
        let changes = diff(in_force.as_ref(), draft).len();
        consent.ask(&format!("Sell at these prices from now on ({changes} models differ)?"))?;
    }
    let table = book.publish(begins.begins(), unix_ms_now()).await.map_err(super::failure)?;
    say_published(output, &table)
}

async fn roll_back(
    output: Output,
    book: &PriceBook<'_>,
    version: u32,
    begins: BeginArgs,
    consent: Consent,
) -> anyhow::Result<()> {
    if consent.dry_run {
        let earlier = book.published(Some(version)).await.map_err(super::failure)?;
        let in_force = book.published(None).await.map_err(super::failure)?;
        let changes = earlier.map(|earlier| diff(in_force.as_ref(), &earlier)).unwrap_or_default();
        output.note("would be put in force again; nothing was done");
        return Ok(output.emit("price-diff", &changes, || listed(&changes))?);
    }
    consent.ask(&format!("Sell at the prices of version {version} again from now on?"))?;
    let table = book.roll_back(version, begins.begins(), unix_ms_now()).await.map_err(super::failure)?;
    say_published(output, &table)
}

fn say_published(output: Output, table: &PriceTable) -> anyhow::Result<()> {
    let answer = InForce { version: table.version, valid_from_unix_ms: table.valid_from_unix_ms, hash: table.hash() };
    output.emit("price-published", &answer, || since(answer.version, answer.valid_from_unix_ms, unix_ms_now()))?;
    Ok(())
}

#[derive(Serialize)]
struct Imported {
    source: String,
    models: usize,
    skipped: Vec<SkippedView>,
}

#[derive(Serialize)]
struct SkippedView {
    model: String,
    why: String,
}

#[derive(Serialize)]
struct InForce {
    version: u32,
    valid_from_unix_ms: u64,
    hash: Hex<32>,
}

#[derive(Serialize)]
struct Shown<'a> {
    version: u32,
    valid_from_unix_ms: u64,
    source: &'a str,
    hash: Hex<32>,
    rates: Vec<RateView>,
}

#[derive(Serialize)]
struct RateView {
    model: String,
    meter: Meter,
    tier: ServiceTier,
    above_input_tokens: u64,
    pico_usd: PicoUsd,
    list_price: String,
    /// What it costs in each zone that is set.
    in_zones: Vec<InZone>,
}

#[derive(Serialize)]
struct InZone {
    zone: Zone,
    price: String,
}

impl RateView {
    fn of(provider: Provider, model: &str, rate: &Rate, zones: &[(Zone, Ppm)]) -> Self {
        let in_zone = |(zone, factor): &(Zone, Ppm)| InZone {
            zone: *zone,
            price: money_per_unit(rate.meter, rate.pico_usd, *factor),
        };
        Self {
            model: format!("{provider}/{model}"),
            meter: rate.meter,
            tier: rate.tier,
            above_input_tokens: rate.above_input_tokens,
            pico_usd: rate.pico_usd,
            list_price: money_per_unit(rate.meter, rate.pico_usd, LIST),
            in_zones: zones.iter().map(in_zone).collect(),
        }
    }

    fn row(&self) -> Vec<String> {
        let above = if self.above_input_tokens == 0 { "-".to_owned() } else { self.above_input_tokens.to_string() };
        let mut row = vec![
            self.model.clone(),
            self.meter.name().to_owned(),
            tier_name(self.tier).to_owned(),
            above,
            self.list_price.clone(),
        ];
        row.extend(self.in_zones.iter().map(|in_zone| in_zone.price.clone()));
        row
    }
}

/// The list price itself.
const LIST: Ppm = Ppm(1_000_000);

/// As vendors state it: per million tokens, per minute of audio, per thousand searches.
fn money_per_unit(meter: Meter, price: PicoUsd, factor: Ppm) -> String {
    let (units, unit) = sold_by(meter);
    let amount = price.times_rounded(units).and_then(|list| list.share_rounded_up(factor));
    let amount = amount.unwrap_or(NanoUsd(i64::MAX));
    format!("{amount} / {unit}")
}

fn tier_name(tier: ServiceTier) -> &'static str {
    match tier {
        ServiceTier::Standard => "standard",
        ServiceTier::Flex => "flex",
        ServiceTier::Priority => "priority",
    }
}

fn listed(changes: &[ModelDiff]) -> String {
    if changes.is_empty() {
        return "nothing differs".to_owned();
    }
    let mut rows = Vec::new();
    for model in changes {
        let name = format!("{}/{}", model.provider, model.model);
        match &model.change {
            Change::Added => rows.push(vec![name, "sold from now on".to_owned(), String::new(), String::new()]),
            Change::Removed => rows.push(vec![name, "not sold any more".to_owned(), String::new(), String::new()]),
            Change::Changed { rates, bounds } => {
                if *bounds {
                    rows.push(vec![name.clone(), "bounds".to_owned(), "differ".to_owned(), String::new()]);
                }
                rows.extend(rates.iter().map(|rate| {
                    let shown = |price: Option<PicoUsd>| {
                        price.map_or_else(|| "-".to_owned(), |price| money_per_unit(rate.meter, price, LIST))
                    };
                    let what = format!("{} {}", rate.meter.name(), tier_name(rate.tier));
                    vec![name.clone(), what, shown(rate.from_pico_usd), shown(rate.to_pico_usd)]
                }));
            }
        }
    }
    table(&["MODEL", "WHAT", "BEFORE", "AFTER"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_shown_as_vendors_state_them() {
        assert_eq!(money_per_unit(Meter::Input, PicoUsd(2_500_000), LIST), "$2.50 / 1M tokens");
        assert_eq!(money_per_unit(Meter::CachedInput, PicoUsd(28_000), LIST), "$0.028 / 1M tokens");
        assert_eq!(money_per_unit(Meter::AudioMillis, PicoUsd(100_000_000), LIST), "$0.006 / minute");
        assert_eq!(money_per_unit(Meter::WebSearch, PicoUsd(10_000_000_000), LIST), "$10.00 / 1,000 searches");
        assert_eq!(money_per_unit(Meter::Input, PicoUsd(2_500_000), Ppm(1_150_000)), "$2.875 / 1M tokens");
    }
}
