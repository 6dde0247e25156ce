//! `price`: list prices, imported, compared, published.
//!
//! Invariant: prices are shown as money per million tokens, and never as a bare ratio.

use std::path::Path;
use std::path::PathBuf;

use clap::Subcommand;
use keyhaven_daemon::cli::Output;
use keyhaven_daemon::cli::table;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::failure::Failure;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::money::PicoUsd;
use keyhaven_protocol::price::PriceTable;
use keyhaven_protocol::price::Rate;
use keyhaven_protocol::price::ServiceTier;
use keyhaven_protocol::provider::Provider;
use keyhaven_protocol::usage::Meter;
use serde::Serialize;

use super::confirm::Consent;
use super::text;
use crate::config::Config;
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
    Publish(Consent),
    /// Put the prices of an earlier version in force again, as a new version.
    Rollback {
        /// The version.
        version: u32,
        #[command(flatten)]
        consent: Consent,
    },
}

pub(super) async fn run(output: Output, config: &Config, command: PriceCommand) -> anyhow::Result<()> {
    let registry = super::open(config).await?;
    let book = PriceBook::new(&registry.store, &registry.keys);
    let done = match command {
        PriceCommand::Import { file } => import(output, &book, &file).await,
        PriceCommand::Show { model, version, draft } => show(output, &book, model.as_deref(), version, draft).await,
        PriceCommand::Diff => show_diff(output, &book).await,
        PriceCommand::Publish(consent) => publish(output, &book, consent).await,
        PriceCommand::Rollback { version, consent } => roll_back(output, &book, version, consent).await,
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
) -> anyhow::Result<()> {
    let prices = if draft { book.draft().await } else { book.published(version).await };
    let Some(prices) = prices.map_err(super::failure)? else {
        let nothing = if draft { "there is no draft" } else { "no prices have been published" };
        let failure = Failure::new(ErrorCode::UsageInvalid, nothing);
        return Err(failure.fix("keyhaven-hub price import FILE, then keyhaven-hub price publish").into());
    };
    let named = |name: &str| model.is_none_or(|wanted| name.contains(wanted));
    let mut shown = Vec::new();
    for (provider, models) in &prices.models {
        for (name, sku) in models.iter().filter(|(name, _)| named(name)) {
            shown.extend(sku.rates.iter().map(|rate| RateView::of(*provider, name, rate)));
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
        let from = if draft {
            "draft".to_owned()
        } else {
            format!("version {}, in force since {}", answer.version, text::time(answer.valid_from_unix_ms))
        };
        format!("{}\n\n{from}\nfrom {}", table(&["MODEL", "WHAT", "TIER", "ABOVE", "LIST PRICE"], rows), answer.source)
    })?;
    Ok(())
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

async fn publish(output: Output, book: &PriceBook<'_>, consent: Consent) -> anyhow::Result<()> {
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
    let table = book.publish(unix_ms_now()).await.map_err(super::failure)?;
    in_force_now(output, &table)
}

async fn roll_back(output: Output, book: &PriceBook<'_>, version: u32, consent: Consent) -> anyhow::Result<()> {
    if consent.dry_run {
        let earlier = book.published(Some(version)).await.map_err(super::failure)?;
        let in_force = book.published(None).await.map_err(super::failure)?;
        let changes = earlier.map(|earlier| diff(in_force.as_ref(), &earlier)).unwrap_or_default();
        output.note("would be put in force again; nothing was done");
        return Ok(output.emit("price-diff", &changes, || listed(&changes))?);
    }
    consent.ask(&format!("Sell at the prices of version {version} again from now on?"))?;
    let table = book.roll_back(version, unix_ms_now()).await.map_err(super::failure)?;
    in_force_now(output, &table)
}

fn in_force_now(output: Output, table: &PriceTable) -> anyhow::Result<()> {
    let answer = InForce { version: table.version, valid_from_unix_ms: table.valid_from_unix_ms, hash: table.hash() };
    output.emit("price-published", &answer, || {
        format!("version {} is in force since {}", answer.version, text::time(answer.valid_from_unix_ms))
    })?;
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
}

impl RateView {
    fn of(provider: Provider, model: &str, rate: &Rate) -> Self {
        Self {
            model: format!("{provider}/{model}"),
            meter: rate.meter,
            tier: rate.tier,
            above_input_tokens: rate.above_input_tokens,
            pico_usd: rate.pico_usd,
            list_price: money_per_unit(rate.meter, rate.pico_usd),
        }
    }

    fn row(&self) -> Vec<String> {
        let above = if self.above_input_tokens == 0 { "-".to_owned() } else { self.above_input_tokens.to_string() };
        vec![
            self.model.clone(),
            self.meter.name().to_owned(),
            tier_name(self.tier).to_owned(),
            above,
            self.list_price.clone(),
        ]
    }
}

/// As vendors state it: per million tokens, per minute of audio, per thousand searches.
fn money_per_unit(meter: Meter, price: PicoUsd) -> String {
    let (units, unit) = sold_by(meter);
    let amount = price.times_rounded(units).unwrap_or(NanoUsd(i64::MAX));
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
                        price.map_or_else(|| "-".to_owned(), |price| money_per_unit(rate.meter, price))
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
        assert_eq!(money_per_unit(Meter::Input, PicoUsd(2_500_000)), "$2.50 / 1M tokens");
        assert_eq!(money_per_unit(Meter::CachedInput, PicoUsd(28_000)), "$0.028 / 1M tokens");
        assert_eq!(money_per_unit(Meter::AudioMillis, PicoUsd(100_000_000)), "$0.006 / minute");
        assert_eq!(money_per_unit(Meter::WebSearch, PicoUsd(10_000_000_000)), "$10.00 / 1,000 searches");
    }
}
