//! `price zone` and `price tier`: what consumers pay and owners get of the list price.
//!
//! Invariant: no zone is set to pay less than a tier gets unless the operator says that this is meant.

use clap::Subcommand;
use keyhaven_daemon::cli::Output;
use keyhaven_daemon::cli::table;
use keyhaven_daemon::failure::Failure;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::money::Ppm;
use keyhaven_protocol::price::OwnerTier;
use keyhaven_protocol::price::Zone;
use serde::Serialize;

use crate::cli::agent;
use crate::registry::Registry;
use crate::store::Store;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ZoneCommand {
    /// Set what a zone pays, as a factor of the list price.
    Set {
        /// discount, standard or premium
        zone: Zone,
        /// Such as 1.15, which makes $1.15 of $1.00.
        factor: Ppm,
        /// Set it though a tier gets more: the difference is yours to pay.
        #[arg(long)]
        subsidy: bool,
    },
    /// Show what each zone pays.
    Show,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum TierCommand {
    /// Set what a tier gets, as a ratio of the list price.
    Set {
        /// basic, standard or preferred
        tier: OwnerTier,
        /// Such as 0.8, which makes $0.80 of $1.00.
        ratio: Ppm,
        /// Set it though a zone pays less: the difference is yours to pay.
        #[arg(long)]
        subsidy: bool,
    },
    /// Show what each tier gets.
    Show,
    /// Put an agent into a tier; agents are in the standard one.
    Give {
        /// The agent, by name or id.
        agent: String,
        /// basic, standard or preferred
        tier: OwnerTier,
    },
}

#[derive(Serialize)]
struct ShareView {
    name: &'static str,
    /// None: not set.
    share: Option<String>,
    /// What becomes of $1.00 at list prices.
    of_one_dollar: Option<String>,
}

#[derive(Serialize)]
struct GivenView {
    agent: String,
    tier: OwnerTier,
}

pub(super) async fn zone(output: Output, store: &Store, command: ZoneCommand) -> anyhow::Result<()> {
    if let ZoneCommand::Set { zone, factor, subsidy } = command {
        let above = store.put_zone(zone, factor, subsidy).await.map_err(crate::cli::failure)?;
        if let Some((tier, ratio)) = above {
            return Err(loss(zone, factor, tier, ratio).into());
        }
    }
    let set = store.zones().await.map_err(crate::cli::failure)?;
    let of = |zone: Zone| set.iter().find(|(known, _)| *known == zone).map(|(_, factor)| *factor);
    let rows: Vec<ShareView> = Zone::ALL.into_iter().map(|zone| ShareView::of(zone.name(), of(zone), true)).collect();
    output.emit("zones", &rows, || shown("ZONE", "PAYS FOR $1.00 AT LIST", &rows))?;
    Ok(())
}

pub(super) async fn tier(output: Output, registry: &Registry, command: TierCommand) -> anyhow::Result<()> {
    let store = &registry.store;
    match command {
        TierCommand::Set { tier, ratio, subsidy } => {
            let below = store.put_tier(tier, ratio, subsidy).await.map_err(crate::cli::failure)?;
            if let Some((zone, factor)) = below {
                return Err(loss(zone, factor, tier, ratio).into());
            }
        }
        TierCommand::Give { agent: wanted, tier } => {
            let agent = agent::find(registry, &wanted).await?;
            store.put_agent_tier(agent.id, tier).await.map_err(crate::cli::failure)?;
            let given = GivenView { agent: agent.name, tier };
            output.emit("agent-tier", &given, || format!("agent {} has tier {}", given.agent, given.tier))?;
            return Ok(());
        }
        TierCommand::Show => {}
    }
    let set = store.tiers().await.map_err(crate::cli::failure)?;
    let of = |tier: OwnerTier| set.iter().find(|(known, _)| *known == tier).map(|(_, ratio)| *ratio);
    let rows: Vec<ShareView> =
        OwnerTier::ALL.into_iter().map(|tier| ShareView::of(tier.name(), of(tier), false)).collect();
    output.emit("tiers", &rows, || shown("TIER", "GETS FOR $1.00 AT LIST", &rows))?;
    Ok(())
}

fn loss(zone: Zone, factor: Ppm, tier: OwnerTier, ratio: Ppm) -> Failure {
    let what = format!(
        "zone {zone} would pay {} for what tier {tier} gets {} for",
        of_one_dollar(factor, true),
        of_one_dollar(ratio, false)
    );
    Failure::new(ErrorCode::UsageInvalid, what).fix("--subsidy, if the difference is yours to pay")
}

fn of_one_dollar(share: Ppm, up: bool) -> String {
    let dollar = NanoUsd(1_000_000_000);
    let part = if up { dollar.share_rounded_up(share) } else { dollar.share_rounded_down(share) };
    part.unwrap_or(NanoUsd(i64::MAX)).to_string()
}

impl ShareView {
    fn of(name: &'static str, share: Option<Ppm>, up: bool) -> Self {
        let shown = share.map(|share| share.to_string());
        Self { name, share: shown, of_one_dollar: share.map(|share| of_one_dollar(share, up)) }
    }
}

fn shown(name: &str, column: &str, rows: &[ShareView]) -> String {
    let row = |view: &ShareView| {
        let unset = || "not set: nothing is sold at it".to_owned();
        vec![view.name.to_owned(), view.of_one_dollar.clone().unwrap_or_else(unset)]
    };
    table(&[name, column], rows.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_said_in_money_and_with_the_way_out() {
        let failure = loss(Zone::Discount, Ppm(700_000), OwnerTier::Standard, Ppm(800_000));

        assert_eq!(failure.code(), ErrorCode::UsageInvalid);
        let said = format!("{failure:?}");
        assert!(said.contains("$0.70") && said.contains("$0.80") && said.contains("--subsidy"), "{said}");
    }

    #[test]
    fn what_is_not_set_says_so() {
        let rows = [ShareView::of("standard", Some(Ppm(1_150_000)), true), ShareView::of("premium", None, true)];

        let text = shown("ZONE", "PAYS", &rows);

        assert!(text.contains("$1.15") && text.contains("not set"), "{text}");
    }
}
