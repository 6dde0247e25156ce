//! What each process may spend, and what it is spending it on: boots, leases, holds.
//!
//! Invariant: a boot that has ended has no leases and no holds once its last batch is swept.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use keyhaven_protocol::id::AccountId;
use keyhaven_protocol::id::ApiKeyId;
use keyhaven_protocol::id::BootId;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::money::NanoUsd;

use super::Store;
use super::StoreError;
use super::amount;
use super::bytes;
use super::engine::Row;
use super::engine::Rows;
use super::engine::Update;
use super::engine::marks;
use super::engine::query;
use super::ledger::Batch;
use super::number;
use super::time;

/// Calls in one statement that forgets them.
const CALLS_AT_ONCE: usize = 1024;

/// The time that a key's budget is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Period {
    /// For ever.
    Total,
    /// The month that begins on this day, UTC.
    Month(Date),
    /// This day, UTC.
    Day(Date),
}

impl Period {
    /// The periods that a moment is in: day, month, total.
    pub fn of(unix_ms: u64) -> [Self; 3] {
        let moment = i64::try_from(unix_ms).ok().and_then(|unix_ms| Timestamp::from_millisecond(unix_ms).ok());
        let day = moment.unwrap_or(Timestamp::MAX).to_zoned(TimeZone::UTC).date();
        [Self::Day(day), Self::Month(day.first_of_month()), Self::Total]
    }

    /// As the database names it: `total`, `2026-11` or `2026-11-20`.
    pub fn name(self) -> String {
        match self {
            Self::Total => "total".to_owned(),
            Self::Month(first) => format!("{:04}-{:02}", first.year(), first.month()),
            Self::Day(day) => day.to_string(),
        }
    }
}

/// Something that limits what may be spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Purse {
    /// An account's balance.
    Account(AccountId),
    /// A key's budget.
    Key(ApiKeyId, Period),
}

impl Purse {
    fn id(self) -> [u8; 16] {
        match self {
            Self::Account(account) => account.0,
            Self::Key(key, _) => key.0,
        }
    }

    fn period(self) -> String {
        match self {
            Self::Account(_) => "balance".to_owned(),
            Self::Key(_, period) => period.name(),
        }
    }
}

/// A call under way, as the database knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldCall {
    /// Which.
    pub call: CallId,
    /// What it cost as far as anybody saw.
    pub observed: NanoUsd,
    /// When that was.
    pub seen_unix_ms: u64,
    /// The call itself, as JSON.
    pub json: String,
}

/// A boot as it is in the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// Which.
    pub id: BootId,
    /// When its last batch was written.
    pub seen_unix_ms: u64,
}

impl Store {
    /// Writes down that a process has begun.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn begin_boot(&self, boot: BootId, now_unix_ms: u64) -> Result<(), StoreError> {
        let mut tx = self.database.begin().await?;
        let mut rows = Rows::new("INSERT INTO boots (id, started_unix_ms, seen_unix_ms)");
        rows.push([(&boot.0[..]).into(), time(now_unix_ms)?.into(), time(now_unix_ms)?.into()]);
        rows.upsert("id", &[Update::Set("seen_unix_ms")], &mut tx).await?;
        tx.commit().await
    }

    /// The boots that have not ended, or have ended with holds or leases left.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn boots(&self) -> Result<Vec<Boot>, StoreError> {
        let statement = "SELECT id, seen_unix_ms FROM boots WHERE ended_unix_ms IS NULL \
                         OR id IN (SELECT boot_id FROM holds) OR id IN (SELECT boot_id FROM budget_leases)";
        let rows = query(statement).fetch_all(&self.database).await?;
        let boot_of = |row| Ok(Boot { id: BootId(bytes(row, "id")?), seen_unix_ms: number(row, "seen_unix_ms")? });
        rows.iter().map(boot_of).collect()
    }
}

impl Batch {
    /// Ends a boot: none of its own batches is taken from now on. False: it had ended, or was
    /// seen since this time.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn end_boot(
        &mut self,
        boot: BootId,
        unseen_since_unix_ms: u64,
        now_unix_ms: u64,
    ) -> Result<bool, StoreError> {
        let statement = "UPDATE boots SET ended_unix_ms = ? WHERE id = ? AND ended_unix_ms IS NULL \
                         AND seen_unix_ms <= ?";
        let done = query(statement)
            .bind(time(now_unix_ms)?)
            .bind(&boot.0[..])
            .bind(i64::try_from(unseen_since_unix_ms).unwrap_or(i64::MAX))
            .execute(&mut self.change)
            .await?;
        Ok(done == 1)
    }

    /// Whether a boot has ended.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn has_ended(&mut self, boot: BootId) -> Result<bool, StoreError> {
        Ok(!self.lives(boot).await?)
    }

    /// Whether a boot is known and has not ended.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn lives(&mut self, boot: BootId) -> Result<bool, StoreError> {
        let statement = "SELECT COUNT(*) AS found FROM boots WHERE id = ? AND ended_unix_ms IS NULL";
        let row = query(statement).bind(&boot.0[..]).fetch_one(&mut self.change).await?;
        Ok(number(&row, "found")? > 0)
    }

    /// What boots other than this one have leased of a purse.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn leased_elsewhere(&mut self, purse: Purse, boot: BootId) -> Result<NanoUsd, StoreError> {
        let statement = "SELECT nano_usd FROM budget_leases WHERE purse_id = ? AND period = ? AND boot_id <> ?";
        let rows = query(statement)
            .bind(purse.id())
            .bind(purse.period())
            .bind(&boot.0[..])
            .fetch_all(&mut self.change)
            .await?;
        rows.iter().try_fold(NanoUsd::ZERO, |sum, row| Ok(NanoUsd(sum.0.saturating_add(amount(row, "nano_usd")?.0))))
    }

    /// Says how much of each purse a boot may still spend; nothing is no lease.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn set_leases(&mut self, boot: BootId, leases: &[(Purse, NanoUsd)]) -> Result<(), StoreError> {
        let mut rows = Rows::new("INSERT INTO budget_leases (purse_id, period, boot_id, nano_usd)");
        for (purse, lease) in leases {
            if *lease > NanoUsd::ZERO {
                rows.push([purse.id().into(), purse.period().into(), (&boot.0[..]).into(), lease.0.into()]);
                continue;
            }
            query("DELETE FROM budget_leases WHERE purse_id = ? AND period = ? AND boot_id = ?")
                .bind(purse.id())
                .bind(purse.period())
                .bind(&boot.0[..])
                .execute(&mut self.change)
                .await?;
        }
        rows.upsert("purse_id, period, boot_id", &[Update::Set("nano_usd")], &mut self.change).await
    }

    /// Gives back all that a boot has leased.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn end_leases(&mut self, boot: BootId) -> Result<(), StoreError> {
        query("DELETE FROM budget_leases WHERE boot_id = ?").bind(&boot.0[..]).execute(&mut self.change).await?;
        Ok(())
    }

    /// Writes down what is known of calls that are under way.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn put_holds(&mut self, boot: BootId, calls: &[HeldCall]) -> Result<(), StoreError> {
        let mut rows = Rows::new("INSERT INTO holds (call_id, boot_id, observed_nano_usd, seen_unix_ms, `call`)");
        for held in calls {
            rows.push([
                (&held.call.0[..]).into(),
                (&boot.0[..]).into(),
                held.observed.0.into(),
                time(held.seen_unix_ms)?.into(),
                (&held.json).into(),
            ]);
        }
        let updates = ["boot_id", "observed_nano_usd", "seen_unix_ms", "`call`"].map(Update::Set);
        rows.upsert("call_id", &updates, &mut self.change).await
    }

    /// Forgets calls that are over.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn delete_holds(&mut self, calls: &[CallId]) -> Result<(), StoreError> {
        for calls in calls.chunks(CALLS_AT_ONCE) {
            let places = calls.len().next_power_of_two();
            let mut delete = query(format!("DELETE FROM holds WHERE call_id IN ({})", marks(places)));
            for call in calls.iter().chain(std::iter::repeat(&calls[0])).take(places) {
                delete = delete.bind(&call.0[..]);
            }
            delete.execute(&mut self.change).await?;
        }
        Ok(())
    }

    /// Calls that were under way in a boot, as many as this.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn holds_of(&mut self, boot: BootId, most: u32) -> Result<Vec<HeldCall>, StoreError> {
        let statement = "SELECT call_id, observed_nano_usd, seen_unix_ms, `call` FROM holds WHERE boot_id = ? \
                         ORDER BY call_id LIMIT ?";
        let rows = query(statement).bind(&boot.0[..]).bind(i64::from(most)).fetch_all(&mut self.change).await?;
        let held_of = |row: &Row| {
            Ok(HeldCall {
                call: CallId(bytes(row, "call_id")?),
                observed: amount(row, "observed_nano_usd")?,
                seen_unix_ms: number(row, "seen_unix_ms")?,
                json: row.try_get("call")?,
            })
        };
        rows.iter().map(held_of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::on_every_engine;
    use crate::store::Home;

    on_every_engine![
        a_boot_that_was_ended_writes_no_batch,
        leases_are_set_as_a_whole_and_seen_by_others,
        a_hold_is_written_observed_listed_and_forgotten,
    ];

    #[test]
    fn a_moment_is_in_a_day_a_month_and_ever() {
        // 2026-11-20T23:59:59.999Z and the millisecond after.
        let last = 1_795_219_199_999;

        assert_eq!(Period::of(last).map(Period::name), ["2026-11-20", "2026-11", "total"]);
        assert_eq!(Period::of(last + 1).map(Period::name), ["2026-11-21", "2026-11", "total"]);
        assert_eq!(Period::of(0)[0].name(), "1970-01-01");
        assert_eq!(Period::of(u64::MAX)[2], Period::Total);
    }

    async fn a_boot_that_was_ended_writes_no_batch(home: Home) {
        let store = home.open().await;
        let boot = BootId([1; 16]);
        store.begin_boot(boot, 5).await.unwrap();
        let batch = store.begin_batch(Some(boot), 7).await.unwrap();
        batch.commit(Some(boot), 7).await.unwrap();
        assert_eq!(store.boots().await.unwrap(), [Boot { id: boot, seen_unix_ms: 7 }]);

        let mut sweep = store.begin_batch(None, 8).await.unwrap();
        assert!(!sweep.end_boot(boot, 6, 8).await.unwrap());
        assert!(!sweep.has_ended(boot).await.unwrap());
        assert!(sweep.end_boot(boot, 7, 8).await.unwrap());
        assert!(sweep.has_ended(boot).await.unwrap());
        sweep.commit(None, 8).await.unwrap();

        assert!(matches!(store.begin_batch(Some(boot), 9).await, Err(StoreError::Fenced)));
        assert_eq!(store.boots().await.unwrap(), []);
    }

    async fn leases_are_set_as_a_whole_and_seen_by_others(home: Home) {
        let store = home.open().await;
        let [one, two] = [BootId([1; 16]), BootId([2; 16])];
        let purse = Purse::Account(AccountId([1; 16]));
        let mut batch = store.begin_batch(None, 1).await.unwrap();
        for lease in [5, 3] {
            batch.set_leases(one, &[(purse, NanoUsd(lease))]).await.unwrap();
        }
        let other = Purse::Key(ApiKeyId([1; 16]), Period::Total);
        batch.set_leases(one, &[(other, NanoUsd(9))]).await.unwrap();

        assert_eq!(batch.leased_elsewhere(purse, two).await.unwrap(), NanoUsd(3));
        assert_eq!(batch.leased_elsewhere(purse, one).await.unwrap(), NanoUsd(0));
        batch.set_leases(one, &[(purse, NanoUsd(0))]).await.unwrap();
        assert_eq!(batch.leased_elsewhere(purse, two).await.unwrap(), NanoUsd(0));
        batch.end_leases(one).await.unwrap();
        batch.commit(None, 1).await.unwrap();
    }

    async fn a_hold_is_written_observed_listed_and_forgotten(home: Home) {
        let store = home.open().await;
        let boot = BootId([1; 16]);
        let held = HeldCall { call: CallId([2; 16]), observed: NanoUsd(0), seen_unix_ms: 4, json: "{}".to_owned() };
        let mut batch = store.begin_batch(None, 1).await.unwrap();
        batch.put_holds(boot, std::slice::from_ref(&held)).await.unwrap();
        let later = HeldCall { observed: NanoUsd(6), seen_unix_ms: 5, ..held.clone() };
        let other = HeldCall { call: CallId([3; 16]), ..held.clone() };
        batch.put_holds(boot, &[later.clone(), other.clone()]).await.unwrap();

        assert_eq!(batch.holds_of(boot, 10).await.unwrap(), [later, other.clone()]);
        assert_eq!(batch.holds_of(boot, 1).await.unwrap().len(), 1);
        batch.delete_holds(&[held.call, CallId([9; 16]), CallId([8; 16])]).await.unwrap();
        assert_eq!(batch.holds_of(boot, 10).await.unwrap(), [other]);
    }
}
