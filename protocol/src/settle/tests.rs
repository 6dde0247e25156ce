//! Calls settled at once, and in steps in every order.
//!
//! Invariant: whatever the order, the sums are those of the single step.

mod steps;

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
