//! Each call as it passes, one line each.
//!
//! Invariant: a line tells of a call what an operator may know: never a body, a key or an address.

use keyhaven_hub::user_gateway::CallSummary;
use keyhaven_hub::user_gateway::Outcome;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::terminal::milliseconds;
use crate::terminal::plain;
use crate::terminal::say;

/// Characters of a model's name that are shown.
const MODEL_CHARS_MAX: usize = 40;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// The names above the columns.
pub(crate) fn heading() -> String {
    columns(["UTC", "request", "vendor", "model", "status", "first byte", "total", "bytes"])
}

/// Shows calls for as long as the hub lives.
pub(crate) async fn show(mut calls: Receiver<CallSummary>) {
    loop {
        match calls.recv().await {
            Ok(call) => say(&line(&call)),
            Err(RecvError::Lagged(missed)) => say(&format!("... {missed} calls passed too fast to be shown\n")),
            Err(RecvError::Closed) => return,
        }
    }
}

fn line(call: &CallSummary) -> String {
    let model: String = call.model.as_deref().unwrap_or("-").chars().take(MODEL_CHARS_MAX).collect();
    let status = match call.outcome {
        Outcome::Served | Outcome::Refused => call.status.to_string(),
        Outcome::Aborted => format!("{} cut", call.status),
    };
    columns([
        &time_of_day(call.began_unix_ms),
        &plain(&call.request),
        call.provider.map_or("-", |provider| provider.name()),
        &plain(&model),
        &status,
        &milliseconds(call.first_byte_micros),
        &milliseconds(call.total_micros),
        &call.response_bytes.to_string(),
    ])
}

fn columns([time, request, vendor, model, status, first, total, bytes]: [&str; 8]) -> String {
    format!("{time:<8}  {request:<26}  {vendor:<9}  {model:<18}  {status:<7}  {first:>10}  {total:>10}  {bytes:>8}\n")
}

fn time_of_day(unix_ms: u64) -> String {
    let seconds = unix_ms % DAY_MS / 1000;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use keyhaven_protocol::id::CallId;
    use keyhaven_protocol::provider::Provider;

    use super::*;

    #[test]
    fn a_line_tells_what_passed_and_how_long_it_took() {
        let line = line(&call(Outcome::Served, Some("gpt-4o\u{1b}[2J")));

        assert!(line.starts_with("01:01:05  POST /v1/chat/completions   openai     gpt-4o\u{fffd}[2J"), "{line}");
        assert!(line.contains("200 "), "{line}");
        assert!(line.contains("1.5 ms   2000.0 ms      1234\n"), "{line}");
    }

    #[test]
    fn a_call_that_broke_off_is_told_apart() {
        assert!(line(&call(Outcome::Aborted, None)).contains("-                   200 cut"));
    }

    fn call(outcome: Outcome, model: Option<&str>) -> CallSummary {
        CallSummary {
            call: CallId([1; 16]),
            began_unix_ms: 3 * DAY_MS + 3_665_999,
            request: "POST /v1/chat/completions".to_owned(),
            provider: Some(Provider::OpenAi),
            model: model.map(str::to_owned),
            agent: None,
            attempts: 1,
            status: 200,
            outcome,
            request_bytes: 1,
            response_bytes: 1234,
            first_byte_micros: 1_599,
            total_micros: 2_000_000,
        }
    }
}
