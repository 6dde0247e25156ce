//! Whether the books agree with themselves: every figure that is kept twice is compared.
//!
//! Invariant: all of it is of one moment, so a hub that writes meanwhile is no finding.

use std::collections::BTreeMap;
use std::fmt;

use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::id::ApiKeyId;
use keyhaven_protocol::id::CallId;
use serde::Deserialize;
use serde::Serialize;

use super::Store;
use super::StoreError;
use super::bytes;
use super::engine::REPORT_TIME_MAX;
use super::engine::Row;
use super::engine::Tx;
use super::engine::query;
use super::leases::Period;
use super::number;

/// Findings that are named of each kind; the others are counted.
const NAMED_MAX: usize = 100;

/// Under this name the last report is kept.
const META: &str = "reconciled";

/// What the books said of themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconciled {
    /// When.
    pub at_unix_ms: u64,
    /// Up to this batch.
    pub batch: u64,
    /// Entries that there are.
    pub entries: u64,
    /// Postings that there are.
    pub postings: u64,
    /// Calls that there are.
    pub calls: u64,
    /// How many findings there are.
    pub found: u64,
    /// What differs, a hundred of each kind at most.
    pub findings: Vec<Finding>,
}

/// Two figures that should be the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What does not agree.
    pub what: What,
    /// Where: an entry, a call, a side and whose, a key and a period.
    pub which: String,
    /// By what was written down one by one, in nano-USD.
    pub expected_nano_usd: i64,
    /// By the sum or record that is kept beside it, in nano-USD.
    pub found_nano_usd: i64,
}

/// What may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The postings of an entry do not sum to zero.
    EntryUneven,
    /// Postings have no entry.
    EntryMissing,
    /// A balance is not the sum of its postings.
    Balance,
    /// What a call's record says that it cost is not what was taken for it.
    Charge,
    /// Something was taken for a call that has no record.
    CallMissing,
    /// What a key has spent in a period is not the sum of its calls.
    Spending,
    /// A deposit is not what its account got.
    Deposit,
    /// More is leased of an account than it has, or less than nothing.
    Lease,
}

impl What {
    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::EntryUneven => "an entry that does not sum to zero",
            Self::EntryMissing => "postings without their entry",
            Self::Balance => "a balance that is not the sum of its postings",
            Self::Charge => "a call whose charge is not what its record says",
            Self::CallMissing => "a charge for a call without a record",
            Self::Spending => "spending that is not the sum of a key's calls",
            Self::Deposit => "a deposit that is not what its account got",
            Self::Lease => "more leased than there is",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, which, expected_nano_usd, found_nano_usd } = self;
        write!(f, "{}: {which}: {expected_nano_usd} expected, {found_nano_usd} found", what.words())
    }
}

/// Statements that return what differs: `id`, `word`, `expected`, `found`.
const CHECKS: [(What, &str); 7] = [
    (
        What::EntryUneven,
        "SELECT entry_id AS id, '' AS word, 0 AS expected, CAST(SUM(nano_usd) AS SIGNED) AS found FROM postings \
         GROUP BY entry_id HAVING SUM(nano_usd) <> 0",
    ),
    (
        What::EntryMissing,
        "SELECT entry_id AS id, '' AS word, 0 AS expected, nano_usd AS found FROM postings \
         LEFT JOIN entries ON entries.id = postings.entry_id WHERE entries.id IS NULL",
    ),
    (
        What::Balance,
        "SELECT sums.owner AS id, sums.side AS word, CAST(SUM(posted) AS SIGNED) AS expected, \
         CAST(SUM(kept) AS SIGNED) AS found FROM \
         (SELECT side, owner, SUM(nano_usd) AS posted, 0 AS kept FROM postings GROUP BY side, owner \
         UNION ALL SELECT side, owner, 0 AS posted, nano_usd AS kept FROM balances) AS sums \
         GROUP BY sums.side, sums.owner HAVING SUM(posted) <> SUM(kept)",
    ),
    (
        What::Charge,
        "SELECT calls.call_id AS id, '' AS word, COALESCE(-CAST(SUM(postings.nano_usd) AS SIGNED), 0) AS expected, \
         calls.cost_nano_usd AS found FROM calls \
         LEFT JOIN entries ON entries.call_id = calls.call_id AND entries.kind = 'charge' \
         LEFT JOIN postings ON postings.entry_id = entries.id AND postings.side = 'consumer' \
         GROUP BY calls.call_id, calls.cost_nano_usd HAVING expected <> found",
    ),
    (
        What::CallMissing,
        "SELECT entries.call_id AS id, '' AS word, COALESCE(-CAST(SUM(postings.nano_usd) AS SIGNED), 0) AS expected, \
         0 AS found FROM entries LEFT JOIN calls ON calls.call_id = entries.call_id \
         LEFT JOIN postings ON postings.entry_id = entries.id AND postings.side = 'consumer' \
         WHERE entries.kind = 'charge' AND calls.call_id IS NULL GROUP BY entries.call_id",
    ),
    (
        What::Deposit,
        "SELECT deposits.entry_id AS id, '' AS word, COALESCE(CAST(SUM(postings.nano_usd) AS SIGNED), 0) AS expected, \
         deposits.nano_usd AS found FROM deposits LEFT JOIN postings ON postings.entry_id = deposits.entry_id \
         AND postings.side = 'consumer' AND postings.owner = deposits.account_id \
         GROUP BY deposits.entry_id, deposits.nano_usd HAVING expected <> found",
    ),
    (
        What::Lease,
        "SELECT lent.purse_id AS id, 'balance' AS word, COALESCE(MAX(balances.nano_usd), 0) AS expected, \
         CAST(MAX(lent.leased) AS SIGNED) AS found FROM (SELECT purse_id, SUM(nano_usd) AS leased, \
         MIN(nano_usd) AS least FROM budget_leases WHERE period = 'balance' GROUP BY purse_id) AS lent \
         LEFT JOIN balances ON balances.side = 'consumer' AND balances.owner = lent.purse_id \
         GROUP BY lent.purse_id HAVING (MAX(lent.leased) > 0 AND MAX(lent.leased) > COALESCE(MAX(balances.nano_usd), 0)) \
         OR MIN(lent.least) < 0",
    ),
];

impl Store {
    /// Compares every figure of the books that is kept twice. Reads all of them, so it takes
    /// minutes where there are many millions of calls.
    ///
    /// # Errors
    /// [`StoreError::Query`], [`StoreError::TimedOut`] or [`StoreError::Damaged`].
    pub async fn reconcile(&self, now_unix_ms: u64) -> Result<Reconciled, StoreError> {
        let mut moment = self.database.snapshot().await?;
        let mut reconciled = Reconciled {
            at_unix_ms: now_unix_ms,
            batch: count(&mut moment, "SELECT batch AS found FROM ledger WHERE id = 1").await?,
            entries: count(&mut moment, "SELECT COUNT(*) AS found FROM entries").await?,
            postings: count(&mut moment, "SELECT COUNT(*) AS found FROM postings").await?,
            calls: count(&mut moment, "SELECT COUNT(*) AS found FROM calls").await?,
            found: 0,
            findings: Vec::new(),
        };
        for (what, statement) in CHECKS {
            let mut of_kind = Vec::new();
            query(statement)
                .within(REPORT_TIME_MAX)
                .each(&mut moment, |row| {
                    reconciled.found += 1;
                    if of_kind.len() < NAMED_MAX {
                        of_kind.push(finding_of(what, &row)?);
                    }
                    Ok(())
                })
                .await?;
            reconciled.findings.extend(of_kind);
        }
        let spending = spending(&mut moment).await?;
        reconciled.found += spending.len() as u64;
        reconciled.findings.extend(spending.into_iter().take(NAMED_MAX));
        moment.rollback().await?;
        Ok(reconciled)
    }

    /// Keeps a report as the last one.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn put_reconciled(&self, reconciled: &Reconciled) -> Result<(), StoreError> {
        let few = Reconciled { findings: reconciled.findings.iter().take(NAMED_MAX).cloned().collect(), ..*reconciled };
        self.put_meta(META, &serde_json::to_string(&few).expect("numbers and strings are JSON")).await
    }

    /// The last report, if there ever was one.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn reconciled(&self) -> Result<Option<Reconciled>, StoreError> {
        let Some(text) = self.meta(META).await? else { return Ok(None) };
        serde_json::from_str(&text).map(Some).map_err(|_| StoreError::Damaged { column: "value" })
    }
}

async fn count(moment: &mut Tx, statement: &'static str) -> Result<u64, StoreError> {
    number(&query(statement).within(REPORT_TIME_MAX).fetch_one(moment).await?, "found")
}

fn finding_of(what: What, row: &Row) -> Result<Finding, StoreError> {
    let (id, word): (Vec<u8>, String) = (row.try_get("id")?, row.try_get("word")?);
    let id: [u8; 16] = id.try_into().map_err(|_| StoreError::Damaged { column: "id" })?;
    let which = match what {
        What::EntryUneven | What::EntryMissing | What::Deposit => format!("entry {}", Hex(id)),
        What::Charge | What::CallMissing => CallId(id).to_string(),
        What::Balance if id == [0; 16] => word,
        What::Balance | What::Lease | What::Spending => format!("{word} {}", Hex(id)),
    };
    let expected_nano_usd = row.try_get("expected")?;
    Ok(Finding { what, which, expected_nano_usd, found_nano_usd: row.try_get("found")? })
}

/// Days begin in UTC, which is arithmetic on both kinds of database.
async fn spending(moment: &mut Tx) -> Result<Vec<Finding>, StoreError> {
    let mut sums: BTreeMap<(ApiKeyId, String), (i64, i64)> = BTreeMap::new();
    let by_day = "SELECT api_key_id, began_unix_ms - began_unix_ms % 86400000 AS began_day, \
                  CAST(SUM(cost_nano_usd) AS SIGNED) AS nano_usd FROM calls GROUP BY api_key_id, began_day";
    query(by_day)
        .within(REPORT_TIME_MAX)
        .each(&mut *moment, |row| {
            let (key, cost) = (ApiKeyId(bytes(&row, "api_key_id")?), row.try_get::<i64>("nano_usd")?);
            for period in Period::of(number(&row, "began_day")?) {
                sums.entry((key, period.name())).or_default().0 += cost;
            }
            Ok(())
        })
        .await?;
    query("SELECT api_key_id, period, nano_usd FROM key_spending")
        .within(REPORT_TIME_MAX)
        .each(moment, |row| {
            let of = (ApiKeyId(bytes(&row, "api_key_id")?), row.try_get("period")?);
            sums.entry(of).or_default().1 = row.try_get("nano_usd")?;
            Ok(())
        })
        .await?;
    let differing = sums.into_iter().filter(|(_, (calls, kept))| calls != kept);
    let finding = |((key, period), (expected_nano_usd, found_nano_usd))| Finding {
        what: What::Spending,
        which: format!("{key} {period}"),
        expected_nano_usd,
        found_nano_usd,
    };
    Ok(differing.map(finding).collect())
}

#[cfg(test)]
mod tests {
    use keyhaven_protocol::id::AccountId;
    use keyhaven_protocol::id::AgentId;
    use keyhaven_protocol::money::NanoUsd;

    use super::*;
    use crate::on_every_engine;
    use crate::store::Home;
    use crate::store::calls::CallRow;
    use crate::store::ledger::Entry;
    use crate::store::ledger::EntryId;
    use crate::store::ledger::EntryKind;
    use crate::store::ledger::Side;

    on_every_engine![books_that_add_up_have_no_findings, what_was_changed_by_hand_is_named];

    /// 2026-11-20T23:59:59.999Z.
    const LATE: u64 = 1_795_219_199_999;

    async fn books_that_add_up_have_no_findings(home: Home) {
        let store = home.open().await;
        assert_eq!(store.reconciled().await.unwrap(), None);
        book(&store).await;

        let reconciled = store.reconcile(7).await.unwrap();

        assert_eq!(reconciled.findings, []);
        assert_eq!((reconciled.found, reconciled.batch, reconciled.at_unix_ms), (0, 1, 7));
        assert_eq!((reconciled.entries, reconciled.postings, reconciled.calls), (2, 4, 2));
        store.put_reconciled(&reconciled).await.unwrap();
        assert_eq!(store.reconciled().await.unwrap(), Some(reconciled));
    }

    async fn what_was_changed_by_hand_is_named(home: Home) {
        let rows: [(&'static str, What, &str, i64, i64); 10] = [
            ("UPDATE postings SET nano_usd = nano_usd - 1 WHERE leg = 1", What::EntryUneven, "entry 01010101", 0, -1),
            ("DELETE FROM entries", What::EntryMissing, "entry 01010101", 0, -5),
            ("UPDATE balances SET nano_usd = 9 WHERE side = 'margin'", What::Balance, "margin", 11, 9),
            ("DELETE FROM balances WHERE side = 'consumer'", What::Balance, "consumer 07070707", -11, 0),
            ("UPDATE calls SET cost_nano_usd = 4 WHERE cost_nano_usd = 5", What::Charge, "call_", 5, 4),
            ("DELETE FROM entries WHERE at_unix_ms = 1", What::Charge, "call_", 0, 5),
            ("DELETE FROM calls WHERE cost_nano_usd = 5", What::CallMissing, "call_", 5, 0),
            ("UPDATE key_spending SET nano_usd = 0 WHERE period = '2026-11-20'", What::Spending, "2026-11-20", 5, 0),
            (
                "INSERT INTO deposits (reference, account_id, nano_usd, entry_id, at_unix_ms) \
                 VALUES ('r', x'07070707070707070707070707070707', 8, x'05050505050505050505050505050505', 1)",
                What::Deposit,
                "entry 0505",
                0,
                8,
            ),
            (
                "INSERT INTO budget_leases (purse_id, period, boot_id, nano_usd) \
                 VALUES (x'07070707070707070707070707070707', 'balance', x'00000000000000000000000000000001', 3)",
                What::Lease,
                "balance 0707",
                -11,
                3,
            ),
        ];
        for (statement, what, which, expected, found) in rows {
            let home = home.another().await;
            let store = home.open().await;
            book(&store).await;
            store.raw(statement).await;

            let reconciled = store.reconcile(7).await.unwrap();

            let named = |finding: &&Finding| finding.what == what && finding.which.contains(which);
            let finding = reconciled.findings.iter().find(named);
            let figures = finding.map(|finding| (finding.expected_nano_usd, finding.found_nano_usd));
            assert_eq!(figures, Some((expected, found)), "{statement}: {:?}", reconciled.findings);
            assert_eq!(reconciled.found, reconciled.findings.len() as u64);
        }
    }

    /// Two calls on two days, one batch.
    async fn book(store: &Store) {
        let mut batch = store.begin_batch(None, 1).await.unwrap();
        let mut balances = BTreeMap::new();
        let mut spending = BTreeMap::new();
        for (n, cost, began_unix_ms) in [(1, 5, LATE), (2, 6, LATE + 1)] {
            let postings = vec![(Side::Consumer(AccountId([7; 16])), NanoUsd(-cost)), (Side::Margin, NanoUsd(cost))];
            for (side, amount) in &postings {
                *balances.entry(*side).or_insert(0) += amount.0;
            }
            let (id, call) = (EntryId([n; 16]), Some(CallId([n; 16])));
            let entry = Entry { id, kind: EntryKind::Charge, call, attempt: 0, at_unix_ms: n.into(), postings };
            batch.insert_entries(&[entry]).await.unwrap();
            batch.insert_calls(&[row(n, cost, began_unix_ms)]).await.unwrap();
            for period in Period::of(began_unix_ms) {
                *spending.entry((ApiKeyId([3; 16]), period)).or_insert(0) += cost;
            }
        }
        batch.fold_balances(&balances).await.unwrap();
        batch.fold_spending(&spending).await.unwrap();
        batch.commit(None, 1).await.unwrap();
    }

    fn row(n: u8, cost: i64, began_unix_ms: u64) -> CallRow {
        CallRow {
            call: CallId([n; 16]),
            account: AccountId([7; 16]),
            key: ApiKeyId([3; 16]),
            agent: Some(AgentId([8; 16])),
            model: "m".to_owned(),
            began_unix_ms,
            input_tokens: 1,
            output_tokens: 1,
            list: NanoUsd(cost),
            cost: NanoUsd(cost),
            estimated: false,
            json: "{}".to_owned(),
        }
    }
}
