//! What this process may spend of accounts and budgets, in memory.
//!
//! Invariant: what is free and what is used of a purse together change only with its lease or
//! with a batch that was written; holds and captures move money between the two.

use std::collections::HashMap;

use keyhaven_protocol::money::NanoUsd;

use super::SLICE_MAX;
use super::SLICE_MIN;
use crate::key_policy::Payer;
use crate::store::leases::Period;
use crate::store::leases::Purse;

/// How long nobody asks the database again for a purse that gave less than was wanted.
const DRY_MS: u64 = 250;

/// A purse that is leased again within this time gets more at once.
const SOON_MS: u64 = 1000;

/// One thing that a hold takes from: a purse, and the budget that it is of if it is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) purse: Purse,
    /// The key's budget; none for an account, which has its balance.
    pub(super) budget: Option<NanoUsd>,
}

/// All purses that this process uses.
#[derive(Debug, Default)]
pub(super) struct Purses {
    known: HashMap<Purse, State>,
    /// Those that will be empty soon.
    low: HashMap<Purse, Option<NanoUsd>>,
}

#[derive(Debug)]
struct State {
    budget: Option<NanoUsd>,
    /// Leased and not held.
    free: i64,
    /// Held by calls under way, or captured and not written yet.
    used: i64,
    /// How much to lease at once.
    slice: i64,
    leased_unix_ms: u64,
    touched_unix_ms: u64,
    dry_until_unix_ms: u64,
    /// What other processes had leased when it ran dry.
    elsewhere: i64,
    /// The database may think that more of it is leased.
    is_unsure: bool,
}

/// A purse does not have what a hold wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Short {
    pub(super) purse: Purse,
    /// The database was asked a moment ago and had no more.
    pub(super) is_dry: bool,
    /// Other processes have leased what would suffice.
    pub(super) is_elsewhere: bool,
}

/// What to ask the database for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) limit: Limit,
    /// What is leased and stays so.
    pub(super) kept: NanoUsd,
    /// How much more would be good.
    pub(super) wanted: NanoUsd,
}

/// What the database gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) purse: Purse,
    pub(super) granted: NanoUsd,
    /// What other processes have leased.
    pub(super) elsewhere: NanoUsd,
}

/// What nobody uses of a purse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Idle {
    pub(super) purse: Purse,
    /// What is used, and stays leased.
    pub(super) kept: NanoUsd,
}

/// What limits a call of this payer that begins at this time.
pub(super) fn limits_of(payer: &Payer, unix_ms: u64) -> Vec<Limit> {
    let budgets = payer.policy.budgets;
    let mut limits = vec![Limit { purse: Purse::Account(payer.account), budget: None }];
    if budgets != crate::key_policy::Budgets::default() {
        let periods = Period::of(unix_ms).into_iter().zip([budgets.day, budgets.month, budgets.total]);
        limits.extend(periods.filter_map(|(period, budget)| {
            budget.map(|budget| Limit { purse: Purse::Key(payer.key, period), budget: Some(budget) })
        }));
    }
    limits
}

impl Purses {
    /// Takes an amount from all of the purses, or from none of them.
    pub(super) fn take(&mut self, limits: &[Limit], amount: NanoUsd, now_unix_ms: u64) -> Result<(), Short> {
        for limit in limits {
            let state = self.known.get(&limit.purse).filter(|state| state.budget == limit.budget);
            let Some(state) = state else {
                return Err(Short { purse: limit.purse, is_dry: false, is_elsewhere: false });
            };
            if state.free < amount.0 {
                let is_dry = now_unix_ms < state.dry_until_unix_ms;
                let is_elsewhere = state.free.saturating_add(state.elsewhere) >= amount.0;
                return Err(Short { purse: limit.purse, is_dry, is_elsewhere });
            }
        }
        for limit in limits {
            let Some(state) = self.known.get_mut(&limit.purse) else { continue };
            state.free -= amount.0;
            state.used += amount.0;
            state.touched_unix_ms = now_unix_ms;
            if state.free < state.slice / 2 && now_unix_ms >= state.dry_until_unix_ms {
                self.low.insert(limit.purse, limit.budget);
            }
        }
        Ok(())
    }

    /// Whether there is a purse to be leased ahead of need.
    pub(super) fn is_low(&self) -> bool {
        !self.low.is_empty()
    }

    /// What was held and is not used after all.
    pub(super) fn give_back(&mut self, limits: &[Limit], amount: NanoUsd) {
        for limit in limits {
            if let Some(state) = self.known.get_mut(&limit.purse) {
                state.used -= amount.0;
                state.free += amount.0;
            }
        }
    }

    /// What was captured is in the database now.
    pub(super) fn written(&mut self, captured: &HashMap<Purse, i64>) {
        for (purse, amount) in captured {
            if let Some(state) = self.known.get_mut(purse) {
                state.used -= amount;
            }
        }
    }

    /// The lease of each of these purses once so much of it was captured.
    pub(super) fn leases_without(&self, captured: &HashMap<Purse, i64>) -> Vec<(Purse, NanoUsd)> {
        let left = |(purse, amount): (&Purse, &i64)| {
            let state = self.known.get(purse)?;
            Some((*purse, NanoUsd((state.free + state.used - amount).max(0))))
        };
        let mut leases: Vec<_> = captured.iter().filter_map(left).collect();
        leases.sort_unstable();
        leases
    }

    /// What to lease so that a hold of this amount can be had.
    pub(super) fn asks(&mut self, limits: &[Limit], amount: NanoUsd, now_unix_ms: u64) -> Vec<Ask> {
        limits.iter().filter_map(|limit| self.ask(*limit, amount, now_unix_ms)).collect()
    }

    /// What to lease so that purses do not get empty.
    pub(super) fn asks_ahead(&mut self, now_unix_ms: u64) -> Vec<Ask> {
        let low = std::mem::take(&mut self.low);
        let ask = |(purse, budget)| {
            let limit = Limit { purse, budget };
            let slice = self.known.get(&purse).filter(|state| state.budget == budget)?.slice;
            self.ask(limit, NanoUsd(slice), now_unix_ms)
        };
        low.into_iter().filter_map(ask).collect()
    }

    fn ask(&mut self, limit: Limit, amount: NanoUsd, now_unix_ms: u64) -> Option<Ask> {
        let state = self.known.entry(limit.purse).or_insert_with(|| State::new(limit.budget));
        if state.budget != limit.budget {
            // What was leased under another budget is asked for anew.
            *state = State { used: state.used, ..State::new(limit.budget) };
        }
        let missing = amount.0.saturating_sub(state.free);
        let is_known = state.leased_unix_ms > 0;
        if is_known && (missing <= 0 || now_unix_ms < state.dry_until_unix_ms) {
            return None;
        }
        // A slice beside what is missing, so that not every call asks; where others have a part
        // of it, no more than needed.
        let wanted = if state.elsewhere > 0 { missing } else { missing.max(state.slice) };
        Some(Ask { limit, kept: NanoUsd(state.free + state.used), wanted: NanoUsd(wanted.max(0)) })
    }

    /// The database has agreed to this.
    pub(super) fn granted(&mut self, asks: &[Ask], grants: &[Grant], now_unix_ms: u64) {
        for (ask, grant) in asks.iter().zip(grants) {
            let Some(state) = self.known.get_mut(&grant.purse) else { continue };
            state.free += grant.granted.0;
            state.elsewhere = grant.elsewhere.0;
            if grant.granted < ask.wanted {
                state.dry_until_unix_ms = now_unix_ms + DRY_MS;
                state.slice = SLICE_MIN.0;
            } else if now_unix_ms < state.leased_unix_ms + SOON_MS {
                state.slice = state.slice.saturating_mul(2).min(SLICE_MAX.0);
            } else {
                state.slice = SLICE_MIN.0;
            }
            state.leased_unix_ms = now_unix_ms.max(1);
            state.touched_unix_ms = now_unix_ms;
        }
    }

    /// Takes out what nobody has used since this time, to be given back to the database.
    pub(super) fn take_idle(&mut self, since_unix_ms: u64) -> Vec<Idle> {
        let mut idle = Vec::new();
        self.known.retain(|purse, state| {
            if state.touched_unix_ms > since_unix_ms {
                return true;
            }
            if state.free != 0 || state.is_unsure {
                (state.free, state.is_unsure) = (0, false);
                // There is more now than when it ran dry, and who takes it will have it elsewhere.
                state.dry_until_unix_ms = 0;
                idle.push(Idle { purse: *purse, kept: NanoUsd(state.used.max(0)) });
                return true;
            }
            // Gone only after the database knows that nothing is leased.
            state.used != 0
        });
        idle.sort_unstable_by_key(|idle| idle.purse);
        idle
    }

    /// Whether the database took it back is not known, so it is not spent here again: it is
    /// given back once more.
    pub(super) fn maybe_given_back(&mut self, idle: &[Idle]) {
        for idle in idle {
            if let Some(state) = self.known.get_mut(&idle.purse) {
                state.is_unsure = true;
            }
        }
    }

    /// Nothing is leased any more: another process took this one for dead.
    pub(super) fn lost_all(&mut self) {
        self.low.clear();
        self.known.values_mut().for_each(|state| {
            *state = State { used: state.used, ..State::new(state.budget) };
        });
    }
}

impl State {
    fn new(budget: Option<NanoUsd>) -> Self {
        Self {
            budget,
            free: 0,
            used: 0,
            slice: SLICE_MIN.0,
            leased_unix_ms: 0,
            touched_unix_ms: 0,
            dry_until_unix_ms: 0,
            elsewhere: 0,
            is_unsure: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use keyhaven_protocol::id::AccountId;
    use keyhaven_protocol::id::ApiKeyId;

    use super::*;

    const ACCOUNT: Limit = Limit { purse: Purse::Account(AccountId([1; 16])), budget: None };
    const BUDGET: Limit =
        Limit { purse: Purse::Key(ApiKeyId([2; 16]), Period::Total), budget: Some(NanoUsd(1_000_000_000_000)) };

    #[test]
    fn a_hold_takes_from_all_purses_or_from_none() {
        let mut purses = Purses::default();
        lease(&mut purses, &[ACCOUNT], 10);
        assert!(purses.take(&[ACCOUNT, BUDGET], NanoUsd(6), 1).is_err());
        lease(&mut purses, &[BUDGET], 7);

        assert_eq!(purses.take(&[ACCOUNT, BUDGET], NanoUsd(6), 1), Ok(()));
        let short = purses.take(&[ACCOUNT, BUDGET], NanoUsd(4), 1).unwrap_err();

        assert_eq!(short.purse, BUDGET.purse);
        assert_eq!(purses.take(&[ACCOUNT], NanoUsd(4), 1), Ok(()));
        assert_eq!(purses.take(&[ACCOUNT], NanoUsd(1), 1).unwrap_err().purse, ACCOUNT.purse);
    }

    #[test]
    fn what_was_captured_stays_leased_until_it_is_written() {
        let mut purses = Purses::default();
        lease(&mut purses, &[ACCOUNT], 10);
        purses.take(&[ACCOUNT], NanoUsd(6), 1).unwrap();
        purses.give_back(&[ACCOUNT], NanoUsd(4));
        let captured = HashMap::from([(ACCOUNT.purse, 2)]);

        assert_eq!(purses.leases_without(&captured), [(ACCOUNT.purse, NanoUsd(8))]);
        assert!(purses.take(&[ACCOUNT], NanoUsd(9), 1).is_err());
        purses.written(&captured);

        assert_eq!(purses.leases_without(&HashMap::from([(ACCOUNT.purse, 0)])), [(ACCOUNT.purse, NanoUsd(8))]);
        assert_eq!(purses.take(&[ACCOUNT], NanoUsd(8), 1), Ok(()));
    }

    #[test]
    fn a_purse_that_ran_dry_is_not_asked_for_again_at_once() {
        let mut purses = Purses::default();
        let asks = purses.asks(&[ACCOUNT], NanoUsd(50), 1000);
        let grant = Grant { purse: ACCOUNT.purse, granted: NanoUsd(10), elsewhere: NanoUsd(60) };
        purses.granted(&asks, &[grant], 1000);

        let short = purses.take(&[ACCOUNT], NanoUsd(50), 1001).unwrap_err();

        assert!(short.is_dry && short.is_elsewhere);
        assert_eq!(purses.asks(&[ACCOUNT], NanoUsd(50), 1001), []);
        assert_eq!(purses.asks(&[ACCOUNT], NanoUsd(50), 1000 + DRY_MS).len(), 1);
    }

    #[test]
    fn another_budget_is_leased_anew_and_what_is_used_stays() {
        let mut purses = Purses::default();
        lease(&mut purses, &[BUDGET], 10);
        purses.take(&[BUDGET], NanoUsd(6), 1).unwrap();
        let lower = Limit { budget: Some(NanoUsd(7)), ..BUDGET };

        assert!(purses.take(&[lower], NanoUsd(1), 1).is_err());
        let asks = purses.asks(&[lower], NanoUsd(1), 2);

        assert_eq!(asks[0].kept, NanoUsd(6));
    }

    #[test]
    fn more_is_leased_at_once_the_faster_it_goes() {
        let mut purses = Purses::default();
        let mut wanted = Vec::new();
        for now in [1000, 1100, 1200, 9000, 9100] {
            let asks = purses.asks(&[ACCOUNT], NanoUsd(1), now);
            wanted.push(asks[0].wanted.0 / SLICE_MIN.0);
            let grant = Grant { purse: ACCOUNT.purse, granted: asks[0].wanted, elsewhere: NanoUsd(0) };
            purses.granted(&asks, &[grant], now);
            purses.take(&[ACCOUNT], asks[0].wanted, now).unwrap();
        }

        assert_eq!(wanted, [1, 1, 2, 4, 1]);
        assert_eq!(purses.asks_ahead(9200).len(), 1);
        assert_eq!(purses.asks_ahead(9200), []);
    }

    #[test]
    fn what_is_idle_is_given_back_and_then_forgotten() {
        let mut purses = Purses::default();
        lease(&mut purses, &[ACCOUNT], 10);
        purses.take(&[ACCOUNT], NanoUsd(6), 5).unwrap();
        assert_eq!(purses.take_idle(4), []);

        let idle = Idle { purse: ACCOUNT.purse, kept: NanoUsd(6) };
        assert_eq!(purses.take_idle(5), [idle]);
        assert_eq!(purses.take_idle(5), []);
        purses.maybe_given_back(&[idle]);
        assert!(purses.take(&[ACCOUNT], NanoUsd(1), 5).is_err(), "another process may have it");
        assert_eq!(purses.take_idle(5), [idle]);
        assert_eq!(purses.take_idle(5), []);
        assert_eq!(purses.known.len(), 1);
        purses.written(&HashMap::from([(ACCOUNT.purse, 6)]));
        purses.take_idle(5);

        assert!(purses.known.is_empty());
    }

    #[test]
    fn a_purse_that_ran_dry_is_asked_for_again_once_what_it_had_was_given_back() {
        let mut purses = Purses::default();
        let asks = purses.asks(&[ACCOUNT], NanoUsd(10), 1000);
        let grant = Grant { purse: ACCOUNT.purse, granted: NanoUsd(10), elsewhere: NanoUsd(0) };
        purses.granted(&asks, &[grant], 1000);
        assert_eq!(purses.take_idle(1000).len(), 1);

        let short = purses.take(&[ACCOUNT], NanoUsd(10), 1001).unwrap_err();

        assert!(!short.is_dry);
        assert_eq!(purses.asks(&[ACCOUNT], NanoUsd(10), 1001).len(), 1);
    }

    fn lease(purses: &mut Purses, limits: &[Limit], amount: i64) {
        let asks = purses.asks(limits, NanoUsd(amount), 1);
        let granted = NanoUsd(amount);
        let grants = limits.iter().map(|limit| Grant { purse: limit.purse, granted, elsewhere: NanoUsd(0) });
        purses.granted(&asks, &grants.collect::<Vec<_>>(), 1);
    }
}
