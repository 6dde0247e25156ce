//! Records of calls: what each cost, and sums of them.
//!
//! Invariant: a call is written once and never changed.

use std::collections::HashSet;

use keyhaven_protocol::id::AccountId;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::ApiKeyId;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::money::NanoUsd;

use super::Store;
use super::StoreError;
use super::amount;
use super::bytes;
use super::engine::REPORT_TIME_MAX;
use super::engine::Row;
use super::engine::Rows;
use super::engine::marks;
use super::engine::query;
use super::ledger::Batch;
use super::number;
use super::time;

/// A record as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallRow {
    /// Which call.
    pub call: CallId,
    /// Who paid.
    pub account: AccountId,
    /// With which key.
    pub key: ApiKeyId,
    /// Whose agent served it.
    pub agent: Option<AgentId>,
    /// The model that was asked for.
    pub model: String,
    /// When it began.
    pub began_unix_ms: u64,
    /// All tokens in.
    pub input_tokens: u64,
    /// All tokens out.
    pub output_tokens: u64,
    /// What it cost at list prices.
    pub list: NanoUsd,
    /// What it cost.
    pub cost: NanoUsd,
    /// Whether the vendor did not say all of it.
    pub estimated: bool,
    /// All of it, as JSON.
    pub json: String,
}

/// Which calls to sum up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UsageFilter {
    /// Of this account.
    pub account: Option<AccountId>,
    /// Of this key.
    pub key: Option<ApiKeyId>,
    /// Of this model.
    pub model: Option<String>,
    /// That began at this time or later.
    pub since_unix_ms: u64,
}

/// The calls of one key and model together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRow {
    /// Whose.
    pub account: AccountId,
    /// With which key.
    pub key: ApiKeyId,
    /// Of which model.
    pub model: String,
    /// How many.
    pub calls: u64,
    /// Of these, how many were estimated.
    pub estimated: u64,
    /// All tokens in.
    pub input_tokens: u64,
    /// All tokens out.
    pub output_tokens: u64,
    /// What they cost at list prices.
    pub list: NanoUsd,
    /// What they cost.
    pub cost: NanoUsd,
}

impl Store {
    /// The record of a call, as JSON.
    ///
    /// # Errors
    /// [`StoreError::Query`].
    pub async fn call_json(&self, call: CallId) -> Result<Option<String>, StoreError> {
        let row = query("SELECT record FROM calls WHERE call_id = ?")
            .bind(&call.0[..])
            .fetch_optional(&self.database)
            .await?;
        row.map(|row| row.try_get("record")).transpose()
    }

    /// Calls summed up by key and model, the dearest first.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn usage(&self, filter: &UsageFilter) -> Result<Vec<UsageRow>, StoreError> {
        let mut usage = query(
            "SELECT account_id, api_key_id, model, COUNT(*) AS calls, CAST(SUM(estimated) AS SIGNED) AS estimated, \
             CAST(SUM(input_tokens) AS SIGNED) AS input_tokens, CAST(SUM(output_tokens) AS SIGNED) AS output_tokens, \
             CAST(SUM(list_nano_usd) AS SIGNED) AS list_nano_usd, CAST(SUM(cost_nano_usd) AS SIGNED) AS cost_nano_usd \
             FROM calls WHERE began_unix_ms >= ?",
        );
        usage = usage.bind(time(filter.since_unix_ms)?);
        if let Some(account) = filter.account {
            usage = usage.and(" AND account_id = ?").bind(account.0);
        }
        if let Some(key) = filter.key {
            usage = usage.and(" AND api_key_id = ?").bind(key.0);
        }
        if let Some(model) = &filter.model {
            usage = usage.and(" AND model = ?").bind(model);
        }
        usage = usage.and(" GROUP BY account_id, api_key_id, model ORDER BY SUM(calls.cost_nano_usd) DESC, model");
        let rows = usage.within(REPORT_TIME_MAX).fetch_all(&self.database).await?;
        rows.iter().map(usage_of).collect()
    }
}

impl Batch {
    /// Which of these calls are written already.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Damaged`].
    pub async fn calls_among(&mut self, calls: &[CallId]) -> Result<HashSet<CallId>, StoreError> {
        if calls.is_empty() {
            return Ok(HashSet::new());
        }
        // As many places as a power of two, so that there are few texts of this statement.
        let places = calls.len().next_power_of_two();
        let mut among = query(format!("SELECT call_id FROM calls WHERE call_id IN ({})", marks(places)));
        for call in calls.iter().chain(std::iter::repeat(&calls[0])).take(places) {
            among = among.bind(&call.0[..]);
        }
        let rows = among.fetch_all(&mut self.change).await?;
        rows.iter().map(|row| bytes(row, "call_id").map(CallId)).collect()
    }

    /// Writes calls down.
    ///
    /// # Errors
    /// [`StoreError::Query`], or [`StoreError::Exists`] if one is there already.
    pub async fn insert_calls(&mut self, calls: &[CallRow]) -> Result<(), StoreError> {
        let batch = i64::try_from(self.number).map_err(|_| StoreError::TimeOutOfRange)?;
        let count = |quantity: u64| i64::try_from(quantity).unwrap_or(i64::MAX);
        let mut rows = Rows::new(
            "INSERT INTO calls (call_id, account_id, api_key_id, agent_id, model, began_unix_ms, input_tokens, \
             output_tokens, list_nano_usd, cost_nano_usd, estimated, batch, record)",
        );
        for call in calls {
            rows.push([
                (&call.call.0[..]).into(),
                (&call.account.0[..]).into(),
                (&call.key.0[..]).into(),
                call.agent.as_ref().map(|agent| &agent.0[..]).into(),
                (&call.model).into(),
                count(call.began_unix_ms).into(),
                count(call.input_tokens).into(),
                count(call.output_tokens).into(),
                call.list.0.into(),
                call.cost.0.into(),
                i64::from(call.estimated).into(),
                batch.into(),
                (&call.json).into(),
            ]);
        }
        rows.insert(&mut self.change).await
    }
}

fn usage_of(row: &Row) -> Result<UsageRow, StoreError> {
    Ok(UsageRow {
        account: AccountId(bytes(row, "account_id")?),
        key: ApiKeyId(bytes(row, "api_key_id")?),
        model: row.try_get("model")?,
        calls: number(row, "calls")?,
        estimated: number(row, "estimated")?,
        input_tokens: number(row, "input_tokens")?,
        output_tokens: number(row, "output_tokens")?,
        list: amount(row, "list_nano_usd")?,
        cost: amount(row, "cost_nano_usd")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::on_every_engine;
    use crate::store::Home;

    on_every_engine![calls_are_written_once_and_summed_up_by_key_and_model,];

    async fn calls_are_written_once_and_summed_up_by_key_and_model(home: Home) {
        let store = home.open().await;
        let mut batch = store.begin_batch(None, 1).await.unwrap();
        let rows = [row(1, 1, "small", 5), row(2, 1, "large", 70), row(3, 1, "large", 30), row(4, 2, "large", 1)];
        batch.insert_calls(&rows).await.unwrap();
        let ids = [CallId([1; 16]), CallId([9; 16])];
        assert_eq!(batch.calls_among(&ids).await.unwrap(), HashSet::from([CallId([1; 16])]));
        batch.commit(None, 1).await.unwrap();

        let mut again = store.begin_batch(None, 2).await.unwrap();
        assert!(matches!(again.insert_calls(&rows[..1]).await, Err(StoreError::Exists)));
        drop(again);

        assert_eq!(store.call_json(CallId([2; 16])).await.unwrap().as_deref(), Some("{\"cost\":70}"));
        assert_eq!(store.call_json(CallId([9; 16])).await.unwrap(), None);
        let all = store.usage(&UsageFilter::default()).await.unwrap();
        let shown: Vec<_> = all.iter().map(|row| (row.key.0[0], row.model.as_str(), row.calls, row.cost.0)).collect();
        assert_eq!(shown, [(1, "large", 2, 100), (1, "small", 1, 5), (2, "large", 1, 1)]);
        assert_eq!((all[0].input_tokens, all[0].output_tokens, all[0].estimated), (20, 4, 2));
        let some = UsageFilter {
            account: Some(AccountId([7; 16])),
            key: Some(ApiKeyId([1; 16])),
            model: Some("large".to_owned()),
            since_unix_ms: 3,
        };
        assert_eq!(store.usage(&some).await.unwrap()[0].calls, 1);
    }

    fn row(n: u8, key: u8, model: &str, cost: i64) -> CallRow {
        CallRow {
            call: CallId([n; 16]),
            account: AccountId([7; 16]),
            key: ApiKeyId([key; 16]),
            agent: Some(AgentId([8; 16])),
            model: model.to_owned(),
            began_unix_ms: n.into(),
            input_tokens: 10,
            output_tokens: 2,
            list: NanoUsd(cost),
            cost: NanoUsd(cost),
            estimated: true,
            json: format!("{{\"cost\":{cost}}}"),
        }
    }
}
