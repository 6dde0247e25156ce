//! `status`: what the running hub says of itself.
//!
//! Invariant: what the hub says is passed on as it is; a field that this
//! version does not know is left out on the screen and kept in JSON.

use std::fmt::Write;

use keyhaven_daemon::cli::Output;
use keyhaven_daemon::cli::table;
use keyhaven_daemon::failure::Failure;
use keyhaven_protocol::ErrorCode;
use serde_json::Value;

use super::admin_client;
use super::text;
use crate::config::Config;

pub(super) async fn run(output: Output, config: &Config) -> anyhow::Result<()> {
    let admin = config.admin.listen;
    let Some(mut status) = admin_client::status(admin).await? else {
        let absent = Failure::new(ErrorCode::NotRunning, "nothing listens on admin.listen");
        return Err(absent.at(admin.to_string()).into());
    };
    // The hub's answer brings its schema; printing adds the same again.
    if let Some(fields) = status.as_object_mut() {
        fields.remove("schema");
    }
    output.emit("status", &status, || shown(&status))?;
    Ok(())
}

fn shown(status: &Value) -> String {
    let mut text = String::new();
    let word = |name: &str| status[name].as_str().unwrap_or("-").to_owned();
    let since = text::maybe_time(status["started_unix_ms"].as_u64());
    // A String takes every write.
    let _ = writeln!(text, "keyhaven-hub {}, running since {since}", word("version"));
    let _ = writeln!(text, "consumers  {}", word("consumer"));
    let _ = writeln!(text, "tunnel     {}", word("tunnel"));
    for (name, value) in status["calls"].as_object().into_iter().flatten() {
        let _ = writeln!(text, "calls {name}: {value}");
    }
    let rows: Vec<_> = links(status).map(link_row).collect();
    if rows.is_empty() {
        return text + "no agent is linked\n";
    }
    let headers = ["AGENT", "NAME", "LINKED SINCE", "RTT", "STREAMS", "OFFERS"];
    text + "\n" + &table(&headers, rows)
}

/// The links in the hub's answer.
pub(super) fn links(status: &Value) -> impl Iterator<Item = &Value> {
    status["links"].as_array().into_iter().flatten()
}

/// What one link offers, such as `openai, azure/resource`.
pub(super) fn offers(link: &Value) -> String {
    let offers = link["offers"].as_array().into_iter().flatten();
    let names: Vec<String> = offers
        .filter_map(|offer| {
            let provider = offer["provider"].as_str()?;
            Some(match offer["resource"].as_str() {
                Some(resource) => format!("{provider}/{resource}"),
                None => provider.to_owned(),
            })
        })
        .collect();
    if names.is_empty() { "-".to_owned() } else { text::joined(&names) }
}

fn link_row(link: &Value) -> Vec<String> {
    let word = |name: &str| link[name].as_str().unwrap_or("-").to_owned();
    vec![
        word("agent_id"),
        word("name"),
        text::maybe_time(link["linked_unix_ms"].as_u64()),
        link["rtt_us"].as_u64().map_or_else(|| "-".to_owned(), |us| format!("{us} us")),
        link["streams"].as_u64().unwrap_or(0).to_string(),
        offers(link),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_shows_addresses_calls_and_links() {
        let status = json!({
            "version": "0.1.0", "started_unix_ms": 1_795_168_800_000_u64,
            "consumer": "http://127.0.0.1:9000", "tunnel": "127.0.0.1:9010",
            "calls": {"open": 2, "served": 7},
            "links": [{
                "agent_id": "ag_01", "name": "office", "linked_unix_ms": 1_795_168_801_000_u64,
                "rtt_us": 310, "streams": 2,
                "offers": [{"provider": "openai", "models": 3}, {"provider": "azure", "resource": "west"}],
            }],
        });

        let text = shown(&status);

        for part in [
            "keyhaven-hub 0.1.0, running since 2026-11-20T10:00:00Z",
            "calls served: 7",
            "office",
            "310 us",
            "openai, azure/west",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn an_answer_of_another_version_is_shown_as_far_as_it_goes() {
        for status in [json!({}), json!([]), json!({"links": [{}], "calls": 3})] {
            assert!(shown(&status).starts_with("keyhaven-hub -"));
        }
        assert!(shown(&json!({})).contains("no agent is linked"));
    }
}
