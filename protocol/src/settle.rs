//! Who pays and who earns what for a call, from what each side metered of it.
//!
//! Invariant: what the consumer is charged is exactly what the owner, the hub and the
//! accounts of what is not decided yet get together.

use serde::Deserialize;
use serde::Serialize;

use crate::money::NanoUsd;
use crate::money::Ppm;
use crate::money::TooMuch;

/// What one side metered of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metered {
    /// At list prices; below 0 counts as 0.
    pub list: NanoUsd,
    /// How much of the answer it saw.
    pub response_bytes: u64,
}

/// What a consumer pays and what an owner gets of the list price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shares {
    /// The consumer's zone.
    pub zone: Ppm,
    /// The owner's tier.
    pub tier: Ppm,
}

/// How the two figures of a call compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// They are the same.
    Agreed,
    /// The agent's is higher, because the hub saw less of the answer. Nobody is at fault.
    Short,
    /// The agent's is higher, of no more bytes than the hub saw. Counts against the agent.
    AgentAbove,
    /// The hub's is higher: what the consumer paid beyond the agent's figure is in suspense.
    AgentBelow,
    /// There is none of the agent yet.
    Open,
}

impl Verdict {
    /// As records, metrics and documents name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agreed => "agreed",
            Self::Short => "short",
            Self::AgentAbove => "agent_above",
            Self::AgentBelow => "agent_below",
            Self::Open => "open",
        }
    }

    /// Whether the two sides contradict each other.
    pub const fn is_disputed(self) -> bool {
        match self {
            Self::AgentAbove | Self::AgentBelow => true,
            Self::Agreed | Self::Short | Self::Open => false,
        }
    }
}

/// What a call moves between accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// From the consumer.
    pub charge: NanoUsd,
    /// To the owner, now.
    pub credit: NanoUsd,
    /// For the owner as soon as the agent's figure is known.
    pub open: NanoUsd,
    /// What the two sides do not agree on.
    pub suspense: NanoUsd,
    /// To the hub; below 0 where it subsidises the call.
    pub margin: NanoUsd,
    /// How the figures compare.
    pub verdict: Verdict,
}

impl Settled {
    /// Nothing moves.
    pub const NOTHING: Self = Self {
        charge: NanoUsd::ZERO,
        credit: NanoUsd::ZERO,
        open: NanoUsd::ZERO,
        suspense: NanoUsd::ZERO,
        margin: NanoUsd::ZERO,
        verdict: Verdict::Open,
    };
}

/// Settles a call: the charge is the hub's figure by the zone, rounded up, and the credit the
/// lower of the two figures by the tier, rounded down.
///
/// # Errors
/// When an amount is beyond 64 bits.
pub fn settle(hub: Metered, agent: Option<Metered>, shares: Shares) -> Result<Settled, TooMuch> {
    let hub_list = hub.list.max(NanoUsd::ZERO);
    let charge = hub_list.share_rounded_up(shares.zone)?;
    let Some(agent) = agent else {
        let open = hub_list.share_rounded_down(shares.tier)?;
        let margin = minus(charge, open)?;
        return Ok(Settled { charge, open, margin, ..Settled::NOTHING });
    };
    let agent_list = agent.list.max(NanoUsd::ZERO);
    let verdict = match agent_list.cmp(&hub_list) {
        std::cmp::Ordering::Equal => Verdict::Agreed,
        std::cmp::Ordering::Less => Verdict::AgentBelow,
        std::cmp::Ordering::Greater if hub.response_bytes < agent.response_bytes => Verdict::Short,
        std::cmp::Ordering::Greater => Verdict::AgentAbove,
    };
    let agreed = agent_list.min(hub_list);
    let credit = agreed.share_rounded_down(shares.tier)?;
    let undisputed = agreed.share_rounded_up(shares.zone)?;
    let suspense = minus(charge, undisputed)?;
    let margin = minus(undisputed, credit)?;
    Ok(Settled { charge, credit, open: NanoUsd::ZERO, suspense, margin, verdict })
}

fn minus(amount: NanoUsd, other: NanoUsd) -> Result<NanoUsd, TooMuch> {
    amount.0.checked_sub(other.0).map(NanoUsd).ok_or(TooMuch)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHARES: Shares = Shares { zone: Ppm(1_150_000), tier: Ppm(800_000) };

    #[test]
    fn where_both_agree_the_hub_keeps_the_difference_of_zone_and_tier() {
        let settled = settle(metered(1001, 10), Some(metered(1001, 10)), SHARES).unwrap();

        // 1151.15 rounded up, 800.8 rounded down.
        assert_eq!(settled, amounts(1152, 800, 0, 0, 352, Verdict::Agreed));
    }

    #[test]
    fn an_agent_that_says_more_earns_by_the_hubs_figure() {
        let above = settle(metered(1000, 10), Some(metered(9000, 10)), SHARES).unwrap();
        let short = settle(metered(1000, 10), Some(metered(9000, 11)), SHARES).unwrap();

        assert_eq!(above, amounts(1150, 800, 0, 0, 350, Verdict::AgentAbove));
        assert_eq!(short, amounts(1150, 800, 0, 0, 350, Verdict::Short));
        assert!(above.verdict.is_disputed() && !short.verdict.is_disputed());
    }

    #[test]
    fn what_the_consumer_paid_beyond_the_agents_figure_is_in_suspense_and_not_the_hubs() {
        let settled = settle(metered(1000, 10), Some(metered(400, 10)), SHARES).unwrap();

        assert_eq!(settled, amounts(1150, 320, 0, 690, 140, Verdict::AgentBelow));
        assert!(settled.verdict.is_disputed());
    }

    #[test]
    fn without_the_agents_figure_the_charge_stands_and_the_credit_is_open() {
        let settled = settle(metered(1000, 10), None, SHARES).unwrap();

        assert_eq!(settled, amounts(1150, 0, 800, 0, 350, Verdict::Open));
    }

    #[test]
    fn what_the_hub_did_not_see_earns_nothing() {
        let settled = settle(metered(0, 0), Some(metered(5000, 900)), SHARES).unwrap();

        assert_eq!(settled, amounts(0, 0, 0, 0, 0, Verdict::Short));
    }

    #[test]
    fn a_figure_below_nothing_is_nothing() {
        let settled = settle(metered(10, 1), Some(metered(-5, 1)), SHARES).unwrap();

        assert_eq!(settled, amounts(12, 0, 0, 12, 0, Verdict::AgentBelow));
    }

    #[test]
    fn an_amount_beyond_64_bits_is_an_error() {
        assert_eq!(settle(metered(i64::MAX, 1), None, SHARES), Err(TooMuch));
    }

    proptest! {
        #[test]
        fn nothing_is_made_and_nothing_is_lost(
            hub in 0..1_i64 << 50, agent in proptest::option::of(-1_i64 << 40..1 << 50),
            seen in 0..3_u64, sent in 0..3_u64, zone in 0..=3_000_000_u32, tier in 0..=3_000_000_u32,
        ) {
            let shares = Shares { zone: Ppm(zone), tier: Ppm(tier) };
            let settled = settle(metered(hub, seen), agent.map(|list| metered(list, sent)), shares).unwrap();

            let parts = [settled.credit, settled.open, settled.suspense, settled.margin];
            prop_assert_eq!(parts.iter().map(|part| part.0).sum::<i64>(), settled.charge.0);
            prop_assert!(i128::from(settled.charge.0) * 1_000_000 >= i128::from(hub) * i128::from(zone));
            let least = agent.map_or(hub, |agent| agent.min(hub)).max(0);
            let earned = settled.credit.0 + settled.open.0;
            prop_assert!(i128::from(earned) * 1_000_000 <= i128::from(least) * i128::from(tier));
            prop_assert!(settled.suspense.0 >= 0);
            if zone >= tier {
                prop_assert!(settled.margin.0 >= 0);
            }
        }
    }

    fn metered(list: i64, response_bytes: u64) -> Metered {
        Metered { list: NanoUsd(list), response_bytes }
    }

    fn amounts(charge: i64, credit: i64, open: i64, suspense: i64, margin: i64, verdict: Verdict) -> Settled {
        Settled {
            charge: NanoUsd(charge),
            credit: NanoUsd(credit),
            open: NanoUsd(open),
            suspense: NanoUsd(suspense),
            margin: NanoUsd(margin),
            verdict,
        }
    }
}
