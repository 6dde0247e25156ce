//! What consumers may ask about their own calls and money: `GET /keyhaven/v1/...`.
//!
//! Invariant: an answer is about the account of the key that asks, and of no other.

mod call_view;
mod price_view;
mod problem;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;
use http::Method;
use http::Response;
use http::header;
use http::request::Parts;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::provider::headers::credential;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;
use tracing::warn;

use crate::directory::Directory;
use crate::key_policy::Payer;
use crate::pricing::board::Prices;
use crate::settlement::Books;
use crate::settlement::Known;
use crate::store::StoreError;
use crate::store::calls::UsageFilter;

use call_view::CallView;
use problem::Problem;

/// What every path here begins with.
pub const PREFIX: &str = "/keyhaven/v1/";

/// What calls are summed up where nothing is said: those of the last 30 days.
const USAGE_MS: u64 = 30 * 24 * 3600 * 1000;

/// The answers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ConsumerApi {
    directory: Directory,
    books: Books,
    prices: Prices,
}

impl ConsumerApi {
    /// Answers from these.
    pub fn new(directory: Directory, books: Books, prices: Prices) -> Self {
        Self { directory, books, prices }
    }

    /// The answer to a request whose path begins with [`PREFIX`]. Its body is not read.
    pub async fn answer(&self, head: &Parts, address: IpAddr) -> Response<Bytes> {
        match self.serve(head, address).await {
            Ok(json) => {
                let mut response = Response::new(Bytes::from(json.to_string()));
                response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
                response
            }
            Err(problem) => problem.into_response(),
        }
    }

    async fn serve(&self, head: &Parts, address: IpAddr) -> Result<Value, Problem> {
        let payer = self.payer(head, address).await?;
        if head.method != Method::GET {
            return Err(Problem::new(ErrorCode::MethodNotAllowed));
        }
        let asked = head.uri.path().strip_prefix(PREFIX).unwrap_or_default();
        if let Some(id) = asked.strip_prefix("calls/") {
            return self.call(&payer, id).await;
        }
        match asked {
            "usage" => self.usage(&payer, head.uri.query()).await,
            "balance" => self.balance(&payer).await,
            "prices" => self.prices_of(&payer),
            _ => Err(Problem::new(ErrorCode::EndpointUnknown).because(
                "there are /keyhaven/v1/calls/{id}, /keyhaven/v1/usage, /keyhaven/v1/balance and /keyhaven/v1/prices",
            )),
        }
    }

    /// Who asks. A blocked account may still look at its calls.
    async fn payer(&self, head: &Parts, address: IpAddr) -> Result<Arc<Payer>, Problem> {
        let key = credential(&head.headers).map_err(|error| Problem::new(error.code()).because(&error.to_string()))?;
        let payer = self.directory.authenticate(key).await.ok_or(Problem::new(ErrorCode::ApiKeyUnknown))?;
        match payer.may_call(unix_ms_now(), address) {
            Ok(()) | Err(ErrorCode::AccountBlocked) => Ok(payer),
            Err(code) => Err(Problem::new(code)),
        }
    }

    async fn call(&self, payer: &Payer, id: &str) -> Result<Value, Problem> {
        let unknown = || Problem::new(ErrorCode::CallUnknown);
        let id: CallId = id.parse().map_err(|_| unknown())?;
        match self.books.record(id).await.map_err(unreadable)? {
            Known::Over(record) if record.sale.account == payer.account => Ok(as_json(&CallView::of(&record))),
            Known::UnderWay(account) if account == payer.account => Err(Problem::new(ErrorCode::CallUnfinished)),
            Known::Over(_) | Known::UnderWay(_) | Known::Unknown => Err(unknown()),
        }
    }

    async fn usage(&self, payer: &Payer, query: Option<&str>) -> Result<Value, Problem> {
        let since_unix_ms = match query.filter(|query| !query.is_empty()) {
            None => unix_ms_now().saturating_sub(USAGE_MS),
            Some(query) => {
                query.strip_prefix("since_unix_ms=").and_then(|text| text.parse().ok()).ok_or_else(|| {
                    Problem::new(ErrorCode::RequestMalformed)
                        .because("the one parameter is since_unix_ms, a whole number")
                })?
            }
        };
        let filter = UsageFilter { account: Some(payer.account), since_unix_ms, ..UsageFilter::default() };
        let rows = self.books.usage(&filter).await.map_err(unreadable)?;
        let cost = NanoUsd(rows.iter().fold(0, |sum: i64, row| sum.saturating_add(row.cost.0)));
        let usage: Vec<Value> = rows
            .iter()
            .map(|row| {
                json!({
                    "api_key_id": row.key,
                    "model": row.model,
                    "calls": row.calls,
                    "estimated_calls": row.estimated,
                    "input_tokens": row.input_tokens,
                    "output_tokens": row.output_tokens,
                    "list_nano_usd": row.list,
                    "cost_nano_usd": row.cost,
                    "cost": row.cost.to_string(),
                })
            })
            .collect();
        Ok(json!({
            "account_id": payer.account,
            "since_unix_ms": since_unix_ms,
            "calls": rows.iter().fold(0, |sum: u64, row| sum.saturating_add(row.calls)),
            "cost_nano_usd": cost,
            "cost": cost.to_string(),
            "usage": usage,
        }))
    }

    async fn balance(&self, payer: &Payer) -> Result<Value, Problem> {
        let balance = self.books.balance(payer.account).await.map_err(unreadable)?;
        let [day, month, total] = self.books.spent(payer.key, unix_ms_now()).await.map_err(unreadable)?;
        Ok(json!({
            "account_id": payer.account,
            "zone": payer.zone,
            "blocked": payer.is_blocked,
            "balance_nano_usd": balance,
            "balance": balance.to_string(),
            "key": {
                "api_key_id": payer.key,
                "budgets_nano_usd": payer.policy.budgets,
                "spent_nano_usd": { "day": day, "month": month, "total": total },
            },
        }))
    }

    fn prices_of(&self, payer: &Payer) -> Result<Value, Problem> {
        let not_set = |why: &str| Problem::new(ErrorCode::BooksUnavailable).because(why);
        let factor =
            self.prices.zone(payer.zone).ok_or_else(|| not_set("the operator has not set this zone's prices"))?;
        let priced = self.prices.in_force(unix_ms_now()).ok_or_else(|| not_set("no prices are in force yet"))?;
        Ok(price_view::of(&priced.table, payer, factor))
    }
}

fn as_json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).expect("strings, numbers and ids are JSON")
}

fn unreadable(error: StoreError) -> Problem {
    warn!(%error, "a consumer's question cannot be answered: {error}");
    Problem::new(ErrorCode::BooksUnavailable)
}

#[cfg(test)]
mod tests;
