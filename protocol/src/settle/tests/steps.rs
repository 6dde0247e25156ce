//! The entries of one call in every order: charge, credits of its attempts, lowerings, again and
//! again, with a database that forgets in between.
//!
//! Invariant: the store here books what is said and nothing else; it is as simple as a store can
//! be, so that the sums are those of the decisions.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::statement::Reason;

const TERMS: Terms = Terms { shares: SHARES, ceiling: NanoUsd(1 << 50) };

#[test]
fn every_row_of_the_table_says_what_it_says() {
    let seen = charged(1000, false);
    let last_seen = charged(600, true);
    let none = Observed::Nothing(Remedy::None);
    let amnesia = Observed::Nothing(Remedy::Amnesia);
    let budget = |left| Observed::Nothing(Remedy::OrphanBudget(NanoUsd(left)));
    let rows = [
        (Observed::UnderWay, figure(1000), 0, 0, Reason::Open),
        (seen, Claim::Refused, 0, 0, Reason::Refused),
        (amnesia, Claim::Refused, 0, 0, Reason::Refused),
        (Observed::Credited, figure(1000), 0, 0, Reason::Refused),
        (seen, figure(1000), 800, 0, Reason::Agreed),
        (seen, Claim::Figure(metered(1200, 11)), 800, 0, Reason::Short),
        (seen, figure(1200), 800, 0, Reason::AgentAbove),
        (seen, figure(400), 320, 690, Reason::AgentBelow),
        (seen, Claim::Died { so_far: NanoUsd(300) }, 800, 0, Reason::NoFigure),
        (last_seen, figure(1000), 480, 0, Reason::Late),
        (last_seen, figure(600), 480, 0, Reason::Late),
        (last_seen, figure(500), 400, 115, Reason::AgentBelow),
        (last_seen, Claim::Died { so_far: NanoUsd(0) }, 480, 0, Reason::NoFigure),
        (Observed::OtherAttempt, figure(0), 0, 0, Reason::Agreed),
        (Observed::OtherAttempt, figure(1000), 0, 0, Reason::Unobserved),
        (none, figure(0), 0, 0, Reason::Agreed),
        (none, figure(1000), 0, 0, Reason::Unobserved),
        (amnesia, figure(0), 0, 0, Reason::Agreed),
        (amnesia, figure(1000), 800, 0, Reason::Amnesia),
        (amnesia, Claim::Died { so_far: NanoUsd(300) }, 240, 0, Reason::Amnesia),
        (budget(800), figure(1000), 800, 0, Reason::OrphanBudget),
        (budget(799), figure(1000), 0, 0, Reason::Unobserved),
        (budget(800), figure(0), 0, 0, Reason::Agreed),
    ];
    for (observed, claim, owner, suspense, reason) in rows {
        let credited = credit(observed, claim, TERMS).unwrap();
        let found = (credited.credit.owner.0, credited.credit.suspense.0, credited.reason);
        assert_eq!(found, (owner, suspense, reason), "{observed:?} {claim:?}");
        assert_eq!(credited.credit.sum(), 0, "{observed:?} {claim:?}");
        assert!(credited.credit.owner <= credited.list);
    }
}

#[test]
fn after_amnesia_the_payer_is_charged_by_the_leaf_and_never_above_the_ceiling() {
    let terms = Terms { ceiling: NanoUsd(500), ..TERMS };

    let credited = credit(Observed::Nothing(Remedy::Amnesia), figure(9000), terms).unwrap();

    assert_eq!((credited.list, credited.credit.owner), (NanoUsd(500), NanoUsd(400)));
    let charge = credited.charge.unwrap();
    assert_eq!((charge.consumer, charge.owed, charge.margin), (NanoUsd(-575), NanoUsd(400), NanoUsd(175)));
    assert_eq!(credited.credit, Moves { owed: NanoUsd(-400), owner: NanoUsd(400), ..Moves::NOTHING });
}

#[test]
fn the_orphan_budget_is_the_hubs_money_and_gets_back_what_the_owner_does_not_take() {
    let credited = credit(Observed::Nothing(Remedy::OrphanBudget(NanoUsd(800))), figure(1000), TERMS).unwrap();
    assert_eq!(credited.credit, Moves { owner: NanoUsd(800), margin: NanoUsd(-800), ..Moves::NOTHING });

    let stands = Stands { paid_by: PaidBy::OrphanBudget, list: credited.list };
    let lowered = lower(stands, NanoUsd(250), SHARES).unwrap();
    assert_eq!(lowered.moves, Moves { owner: NanoUsd(-600), margin: NanoUsd(600), ..Moves::NOTHING });
}

#[test]
fn what_is_in_suspense_goes_back_after_30_days_by_the_hubs_clock() {
    let day = 24 * 60 * 60 * 1000;
    let back = |since, now, is_resolved| give_back(NanoUsd(690), since, now, is_resolved).unwrap();

    assert_eq!(back(5, 5 + 30 * day - 1, false), None);
    let moves = back(5, 5 + 30 * day, false).unwrap();
    assert_eq!(moves, Moves { consumer: NanoUsd(690), suspense: NanoUsd(-690), ..Moves::NOTHING });
    assert_eq!(back(5, 5 + 30 * day, true), None, "a signed resolution books its own entry");
    assert_eq!(back(5 + 30 * day, 5, false), None, "a clock that was set back");
    assert_eq!(give_back(NanoUsd(0), 0, u64::MAX, false), Ok(None));
}

/// What can happen to the books of a call.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// The hub ends the call with its figure, for attempt 2.
    End,
    /// The CLOSE leaf of an attempt comes, for the first time or again.
    Close(u8),
    /// The leaf of attempt 2 is lowered, or that comes again.
    Adjust,
    /// The database forgets all that was booked after so many entries.
    Forget(usize),
}

/// The simplest store: what each transaction booked, and which leaves wait.
#[derive(Default)]
struct Store {
    transactions: Vec<Vec<(Key, Moves)>>,
    charge: Option<NanoUsd>,
    credits: BTreeMap<u8, Stands>,
    waiting: Vec<u8>,
    is_over: bool,
    may_have_forgotten: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Charge,
    Credit(u8),
    Lowering,
}

impl Store {
    fn take(&mut self, step: Step, hub: Metered, agent: Metered, lowered: NanoUsd) {
        match step {
            Step::End if self.is_over => {}
            Step::End => {
                self.is_over = true;
                self.book(vec![(Key::Charge, charge(hub.list, SHARES).unwrap())]);
                self.charge = Some(hub.list);
                for attempt in std::mem::take(&mut self.waiting) {
                    self.close(attempt, agent);
                }
            }
            Step::Close(attempt) => self.close(attempt, agent),
            Step::Adjust => {
                let stands = self.credits[&2];
                let lowered = lower(stands, lowered, SHARES).unwrap();
                self.book(vec![(Key::Lowering, lowered.moves)]);
                self.credits.insert(2, Stands { list: lowered.list, ..stands });
            }
            Step::Forget(keeps) => self.forget(keeps),
        }
    }

    fn close(&mut self, attempt: u8, agent: Metered) {
        let observed = match self.charge {
            _ if self.credits.contains_key(&attempt) => return,
            Some(_) if attempt != 2 => Observed::OtherAttempt,
            Some(list) => Observed::Charged(Charged { hub: metered(list.0, 10), is_provisional: false }),
            None if !self.is_over => Observed::UnderWay,
            None if self.may_have_forgotten => Observed::Nothing(Remedy::Amnesia),
            None => Observed::Nothing(Remedy::None),
        };
        // The first attempt was refused: its leaf says 0.
        let claim = if attempt == 2 { Claim::Figure(agent) } else { figure(0) };
        let credited = credit(observed, claim, TERMS).unwrap();
        if credited.reason == Reason::Open {
            self.waiting.push(attempt);
            return;
        }
        let entries = credited.charge.map(|moves| (Key::Charge, moves));
        self.charge = self.charge.or(credited.charge.map(|_| credited.list));
        self.book(entries.into_iter().chain([(Key::Credit(attempt), credited.credit)]).collect());
        let paid_by = match self.charge {
            Some(charged) if attempt == 2 => PaidBy::Consumer { charged },
            Some(_) | None => PaidBy::Nobody,
        };
        self.credits.insert(attempt, Stands { paid_by, list: credited.list });
    }

    fn forget(&mut self, keeps: usize) {
        if !self.is_over {
            return;
        }
        self.may_have_forgotten = true;
        self.transactions.truncate(keeps);
        let has = |key| self.transactions.iter().flatten().any(|(booked, _)| *booked == key);
        let (has_charge, has_credit) = (has(Key::Charge), [1, 2].map(|attempt| has(Key::Credit(attempt))));
        self.charge = self.charge.filter(|_| has_charge);
        self.credits.retain(|attempt, _| has_credit[usize::from(*attempt) - 1]);
    }

    fn book(&mut self, entries: Vec<(Key, Moves)>) {
        for (key, moves) in &entries {
            assert_eq!(moves.sum(), 0, "{key:?}");
            assert!(self.transactions.iter().flatten().all(|(booked, _)| booked != key), "{key:?} is booked twice");
        }
        self.transactions.push(entries);
    }

    fn total(&self) -> Moves {
        self.transactions.iter().flatten().fold(Moves::NOTHING, |sum, (_, moves)| sum.plus(*moves).unwrap())
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => Just(Step::End),
        1 => Just(Step::Close(1)),
        3 => Just(Step::Close(2)),
        1 => (0..4_usize).prop_map(Step::Forget),
    ];
    proptest::collection::vec(step, 0..12)
}

proptest! {
    #[test]
    fn in_any_order_repeated_and_forgotten_the_sums_are_those_of_the_single_step(
        list in 0..1_i64 << 50, steps in steps(),
    ) {
        // Both sides meter the same: only then is the leaf alone as good as both figures.
        let (hub, agent) = (metered(list, 10), metered(list, 10));
        let mut store = Store::default();
        for step in steps {
            store.take(step, hub, agent, NanoUsd::ZERO);
        }
        for step in [Step::Close(1), Step::End, Step::Close(1), Step::Close(2)] {
            store.take(step, hub, agent, NanoUsd::ZERO);
        }

        let once = settle(hub, Some(agent), SHARES).unwrap();
        prop_assert_eq!(store.total(), total_of(once));
    }

    #[test]
    fn without_amnesia_any_two_figures_give_the_sums_of_the_single_step_and_a_lower_one_those_of_it(
        hub in 0..1_i64 << 50, agent in 0..1_i64 << 50, bytes in 9..12_u64, lowered in 0..1_i64 << 50, early in 0..4_usize,
    ) {
        let (hub, agent) = (metered(hub, 10), metered(agent, bytes));
        let mut steps = vec![Step::Close(2), Step::Close(1), Step::Close(2)];
        steps.insert(early, Step::End);
        steps.push(Step::Adjust);
        let mut store = Store::default();
        let mut paid = NanoUsd(i64::MIN);
        for step in steps {
            store.take(step, hub, agent, NanoUsd(lowered));
            // Never more once it was charged.
            let consumer = store.total().consumer;
            prop_assert!(store.charge.is_none() || consumer >= paid);
            paid = if store.charge.is_some() { consumer } else { paid };
        }

        let least = metered(agent.list.0.min(lowered), bytes);
        let once = settle(hub, Some(least), SHARES).unwrap();
        prop_assert_eq!(store.total(), total_of(once));
    }

    #[test]
    fn whatever_is_claimed_the_hub_loses_its_budget_and_its_subsidy_at_most(
        hub in 0..1_i64 << 50, claimed in 0..1_i64 << 52, bytes in 0..20_u64, left in 0..1_i64 << 50,
        zone in 0..3_000_000_u32, tier in 0..3_000_000_u32, what in 0..8_u8,
    ) {
        let terms = Terms { shares: Shares { zone: Ppm(zone), tier: Ppm(tier) }, ceiling: NanoUsd(1 << 50) };
        let seen = Charged { hub: metered(hub, 10), is_provisional: what == 1 };
        let observed = match what {
            0 | 1 => Observed::Charged(seen),
            2 => Observed::OtherAttempt,
            3 => Observed::Credited,
            4 => Observed::UnderWay,
            5 => Observed::Nothing(Remedy::Amnesia),
            6 => Observed::Nothing(Remedy::OrphanBudget(NanoUsd(left))),
            _ => Observed::Nothing(Remedy::None),
        };
        let credited = credit(observed, Claim::Figure(metered(claimed, bytes)), terms).unwrap();

        let before = if what < 2 { charge(NanoUsd(hub), terms.shares).unwrap() } else { Moves::NOTHING };
        let all = before.plus(credited.charge.unwrap_or_default()).unwrap().plus(credited.credit).unwrap();
        prop_assert_eq!(all.sum(), 0);
        prop_assert_eq!(credited.credit.sum(), 0);
        prop_assert!(all.owed == NanoUsd::ZERO && all.suspense.0 >= 0);
        let budget = if what == 6 { left } else { 0 };
        // Of each nano-dollar of list price the tier's part beyond the zone's is the subsidy.
        let subsidy = i128::from(credited.list.0) * i128::from(tier.saturating_sub(zone)) / 1_000_000 + 1;
        let subsidy = if tier > zone { subsidy } else { 0 };
        prop_assert!(i128::from(all.margin.0) >= -i128::from(budget) - subsidy);
        prop_assert!(credited.list <= terms.ceiling && credited.list.0 <= claimed.min(1 << 50));
    }
}

fn total_of(settled: Settled) -> Moves {
    Moves {
        consumer: NanoUsd(-settled.charge.0),
        owed: settled.open,
        owner: settled.credit,
        suspense: settled.suspense,
        margin: settled.margin,
    }
}

fn figure(list: i64) -> Claim {
    Claim::Figure(metered(list, 10))
}

fn charged(list: i64, is_provisional: bool) -> Observed {
    Observed::Charged(Charged { hub: metered(list, 10), is_provisional })
}
