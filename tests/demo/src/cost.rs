//! What a call cost, asked of the hub as any consumer asks.
//!
//! Invariant: amounts are shown as the hub told them; nothing is worked out here.

use std::time::Duration;

use anyhow::Context;
use anyhow::bail;
use bytes::Bytes;
use http::Request;
use http::StatusCode;
use http_body_util::BodyExt;
use http_body_util::Full;
use http_body_util::Limited;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use secrecy::ExposeSecret;
use serde_json::Value;

use crate::household::Household;
use crate::terminal::plain;

/// A record is far shorter.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// How long the record of a call may take, and how often it is asked for.
const METERED_TIME_MAX: Duration = Duration::from_secs(10);
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// What this call cost, in a sentence, once it is metered; none if it was not sold.
///
/// # Errors
/// The hub does not say.
pub(crate) async fn of_call(
    client: &Client<HttpConnector, Full<Bytes>>,
    household: &Household,
    call: &str,
) -> anyhow::Result<Option<String>> {
    let asking = async {
        loop {
            let request = Request::get(format!("{}/keyhaven/v1/calls/{call}", household.base_url))
                .header("authorization", format!("Bearer {}", household.api_key.expose_secret()))
                .body(Full::new(Bytes::new()))?;
            let response = client.request(request).await.context("ask what the call cost")?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|_| anyhow::anyhow!("the record of the call broke off"))?.to_bytes();
            match status {
                StatusCode::OK => return Ok(Some(sentence(&serde_json::from_slice(&body)?))),
                StatusCode::NOT_FOUND => return Ok(None),
                StatusCode::TOO_EARLY => tokio::time::sleep(ASK_AGAIN).await,
                _ => bail!("what the call cost was answered {status}: {}", plain(&String::from_utf8_lossy(&body))),
            }
        }
    };
    tokio::time::timeout(METERED_TIME_MAX, asking).await.context("wait for what the call cost")?
}

fn sentence(record: &Value) -> String {
    let used: Vec<String> = record["usage"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(meter, quantity)| format!("{quantity} {}", meter.replace('_', " ")))
        .collect();
    let metered = match record["agreement"].as_str() {
        Some("agreed") => "hub and agent metered the same",
        _ => "metered by the hub",
    };
    let estimated = if record["estimated"] == true { ", estimated" } else { "" };
    let cost = record["cost"].as_str().unwrap_or("-");
    plain(&format!("It cost {cost}{estimated}, for {}; {metered}.", used.join(" and ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_is_told_in_one_sentence() {
        let mut record = json!({
            "cost": "$0.00002", "estimated": false, "agreement": "agreed",
            "usage": {"input_tokens": 18, "output_tokens": 25},
        });
        let told = "It cost $0.00002, for 18 input tokens and 25 output tokens; hub and agent metered the same.";
        assert_eq!(sentence(&record), told);

        record["estimated"] = json!(true);
        record["agreement"] = json!("open");
        assert!(sentence(&record).starts_with("It cost $0.00002, estimated, for 18"));
        assert!(sentence(&record).ends_with("; metered by the hub."));
    }
}
