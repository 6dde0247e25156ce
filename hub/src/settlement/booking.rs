//! The entries that a call's end or a deposit makes.
//!
//! Invariant: every entry sums to zero, and none has a posting of nothing.

use keyhaven_protocol::id::AccountId;
use keyhaven_protocol::money::NanoUsd;

use super::record::CallRecord;
use crate::store::ledger::Entry;
use crate::store::ledger::EntryId;
use crate::store::ledger::EntryKind;
use crate::store::ledger::Side;

/// The charge of a call, by the hub's figure alone. None: it costs nothing. What its owner earns
/// is owed until the leaf comes.
pub(super) fn of_call(record: &CallRecord) -> Option<Entry> {
    let (sale, settled) = (&record.sale, &record.settled);
    let postings = [
        (Side::Consumer(sale.account), negative(settled.charge)),
        (Side::Owed, settled.open),
        (Side::Margin, settled.margin),
    ];
    let entry = Entry {
        id: EntryId::new(),
        kind: EntryKind::Charge,
        call: Some(sale.call),
        attempt: 0,
        at_unix_ms: record.ended_unix_ms,
        postings: postings.into_iter().filter(|(_, amount)| *amount != NanoUsd::ZERO).collect(),
    };
    (!entry.postings.is_empty()).then_some(entry)
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
    fn a_charge_is_by_the_hubs_figure_whatever_the_agent_says() {
        for (hub, agent) in
            [(0, None), (0, Some(5)), (1000, None), (1000, Some(1000)), (1000, Some(7)), (7, Some(1000))]
        {
            let agent = agent.map(|list| metering(NanoUsd(list)));
            let sale = record(1, NanoUsd(hub)).sale;
            let record = CallRecord::settled(sale, 200, 1, metering(NanoUsd(hub)), agent).unwrap();

            let postings = of_call(&record).map(|entry| entry.postings).unwrap_or_default();

            assert_eq!(postings.iter().map(|(_, amount)| amount.0).sum::<i64>(), 0, "{postings:?}");
            let to = |wanted: Side| {
                postings.iter().filter(|(side, _)| *side == wanted).map(|(_, amount)| amount.0).sum::<i64>()
            };
            assert_eq!(to(Side::Consumer(record.sale.account)), -hub, "by the hub's figure alone");
            assert_eq!((to(Side::Owed), to(Side::Margin)), (hub / 2, hub - hub / 2));
            assert_eq!(to(Side::Owner(record.sale.agent)), 0, "the leaf has not come");
        }
    }

    #[test]
    fn a_call_that_cost_nothing_books_nothing() {
        assert_eq!(of_call(&record(1, NanoUsd(0))), None);
    }
}
