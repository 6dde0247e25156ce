//! The entries that a call or a deposit makes.
//!
//! Invariant: every entry sums to zero, and none has a posting of nothing.

use keyhaven_protocol::id::AccountId;
use keyhaven_protocol::money::NanoUsd;

use super::record::CallRecord;
use crate::store::ledger::Entry;
use crate::store::ledger::EntryId;
use crate::store::ledger::EntryKind;
use crate::store::ledger::Side;

/// The charge of a call, and the credit of its attempt if that is decided. What owners earn
/// goes through what is owed to them, so that a credit is booked the same way now or later.
pub(super) fn of_call(record: &CallRecord) -> Vec<Entry> {
    let (sale, settled) = (&record.sale, &record.settled);
    let owed = NanoUsd(settled.credit.0.saturating_add(settled.open.0));
    let entry = |kind, attempt, postings: &[(Side, NanoUsd)]| Entry {
        id: EntryId::new(),
        kind,
        call: Some(sale.call),
        attempt,
        at_unix_ms: record.ended_unix_ms,
        postings: postings.iter().copied().filter(|(_, amount)| *amount != NanoUsd::ZERO).collect(),
    };
    let charge = [
        (Side::Consumer(sale.account), negative(settled.charge)),
        (Side::Owed, owed),
        (Side::Suspense, settled.suspense),
        (Side::Margin, settled.margin),
    ];
    let credit = [(Side::Owed, negative(settled.credit)), (Side::Owner(sale.agent), settled.credit)];
    let entries = [entry(EntryKind::Charge, 0, &charge), entry(EntryKind::Credit, sale.attempt, &credit)];
    entries.into_iter().filter(|entry| !entry.postings.is_empty()).collect()
}

/// The entry of a deposit.
pub(super) fn of_deposit(account: AccountId, amount: NanoUsd, at_unix_ms: u64) -> Entry {
    Entry {
        id: EntryId::new(),
        kind: EntryKind::Deposit,
        call: None,
        attempt: 0,
        at_unix_ms,
        postings: vec![(Side::Deposits, negative(amount)), (Side::Consumer(account), amount)],
    }
}

fn negative(amount: NanoUsd) -> NanoUsd {
    NanoUsd(amount.0.saturating_neg())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settlement::tests::metering;
    use crate::settlement::tests::record;

    #[test]
    fn entries_sum_to_zero_whatever_the_two_sides_say() {
        for (hub, agent) in
            [(0, None), (0, Some(5)), (1000, None), (1000, Some(1000)), (1000, Some(7)), (7, Some(1000))]
        {
            let agent = agent.map(|list| metering(NanoUsd(list)));
            let sale = record(1, NanoUsd(hub)).sale;
            let record = CallRecord::settled(sale, 200, 1, metering(NanoUsd(hub)), agent).unwrap();

            let entries = of_call(&record);

            for entry in &entries {
                assert_eq!(entry.postings.iter().map(|(_, amount)| amount.0).sum::<i64>(), 0, "{entry:?}");
            }
            let to = |wanted: Side| {
                let postings = entries.iter().flat_map(|entry| &entry.postings);
                postings.filter(|(side, _)| *side == wanted).map(|(_, amount)| amount.0).sum::<i64>()
            };
            assert_eq!(to(Side::Consumer(record.sale.account)), -record.settled.charge.0);
            assert_eq!(to(Side::Owner(record.sale.agent)), record.settled.credit.0);
            assert_eq!(to(Side::Owed), record.settled.open.0);
        }
    }

    #[test]
    fn a_call_that_cost_nothing_books_nothing() {
        assert_eq!(of_call(&record(1, NanoUsd(0))), []);
    }
}
