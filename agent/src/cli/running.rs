//! `run`, `up` and `status`: serving, and asking what the one that serves does.
//!
//! Invariant: one process per data directory, and it ends in order when asked.

use keyhaven_daemon::cli::table;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::failure::Failure;
use keyhaven_daemon::files::DirLock;
use keyhaven_protocol::ErrorCode;
use serde::Serialize;

use crate::cli::Context;
use crate::cli::enrol;
use crate::cli::enrol::JoinArguments;
use crate::cli::shown;
use crate::cli::vault_access;
use crate::provider::Egress;
use crate::status::Status;
use crate::status::StatusFile;
use crate::status::Traffic;
use crate::vault::Vault;

pub(crate) async fn run(context: Context, egress: Egress) -> anyhow::Result<()> {
    if !Vault::exists(&context.dir) {
        return Err(enrol::not_joined(&context).into());
    }
    let lock = enrol::lock(&context)?;
    let vault = vault_access::open(&context)?;
    if vault.identity().is_none() {
        return Err(enrol::not_joined(&context).into());
    }
    serve(context, vault, egress, lock).await
}

pub(crate) async fn up(context: Context, given: &JoinArguments, egress: Egress) -> anyhow::Result<()> {
    let token = enrol::token(context.output, &given.token)?;
    if token.is_none() && !Vault::exists(&context.dir) {
        return Err(enrol::not_joined(&context).into());
    }
    let lock = enrol::lock(&context)?;
    let mut vault = vault_access::open_or_create(&context, given.vault)?;
    match (vault.identity(), token) {
        (None, None) => return Err(enrol::not_joined(&context).into()),
        (None, Some(token)) => {
            let identity = enrol::join_with(&context, &mut vault, &token, &egress).await?;
            context.output.note(&format!("joined {} as {}", identity.hub_address, identity.agent));
        }
        (Some(_), None) => {}
        (Some(identity), Some(token)) if identity.agent == token.agent => {
            context.output.note(&format!("the token was not needed: {} has joined already", identity.agent));
        }
        (Some(identity), Some(token)) => {
            return Err(Failure::new(
                ErrorCode::AlreadyJoined,
                format!("it is {}, and the token is for {}", identity.agent, token.agent),
            )
            .at(shown(&context.dir))
            .into());
        }
    }
    serve(context, vault, egress, lock).await
}

async fn serve(context: Context, vault: Vault, egress: Egress, _lock: DirLock) -> anyhow::Result<()> {
    crate::app::serve(context.config, context.dir, vault, egress).await
}

#[derive(Serialize)]
struct Shown<'a> {
    running: bool,
    status: Option<&'a Status>,
}

pub(crate) fn status(context: &Context) -> anyhow::Result<()> {
    let read = StatusFile::new(&context.dir)
        .read()
        .map_err(|error| Failure::new(ErrorCode::DataDirUnusable, error.to_string()).at(shown(&context.dir)))?;
    let now = unix_ms_now();
    let running = read.as_ref().is_some_and(|status| status.is_alive(now));
    let answer = Shown { running, status: read.as_ref() };
    context.output.emit("agent-status", &answer, || {
        read.as_ref().filter(|_| running).map(|status| text(status, now)).unwrap_or_default()
    })?;
    if running {
        return Ok(());
    }
    let detail = read.map_or_else(
        || "it has not run in this data directory".to_owned(),
        |status| format!("process {} wrote its last status {} ago", status.pid, ago(now, status.written_unix_ms)),
    );
    Err(Failure::new(ErrorCode::NotRunning, detail)
        .at(shown(&context.dir))
        .fix("start it with `keyhaven-agent run`")
        .into())
}

fn text(status: &Status, now: u64) -> String {
    let link = &status.link;
    let mut rows = vec![
        row("agent", status.agent.to_string()),
        row("process", format!("{}, version {}", status.pid, status.version)),
        row("hub", status.hub_address.clone()),
        row("link", format!("{} for {}", name_of(&link.state), ago(now, link.since_unix_ms))),
    ];
    if let Some(code) = &link.last_error {
        rows.push(row("last error", format!("{code} (`explain {code}`)")));
    }
    rows.extend(link.rtt_us.map(|rtt_us| row("round trip", milliseconds(rtt_us))));
    rows.extend(link.traffic.iter().flat_map(traffic));
    rows.push(row("egress", name_of(&status.egress)));
    rows.push(row(
        "calls",
        format!(
            "{} under way, {} opened, {} served, {} aborted, {} refused",
            link.streams, status.calls.opened, status.calls.served, status.calls.aborted, status.calls.refused
        ),
    ));
    let offers = status
        .offers
        .iter()
        .map(|offer| {
            vec![
                offer.key.to_string(),
                offer.provider.to_string(),
                offer.resource.clone().unwrap_or_default(),
                offer.models.to_string(),
                name_of(&offer.state),
            ]
        })
        .collect();
    format!(
        "{}\n\n{}",
        table(&["", ""], rows).trim_start(),
        table(&["key", "vendor", "resource", "models", "state"], offers)
    )
}

fn row(name: &str, value: String) -> Vec<String> {
    vec![name.to_owned(), value]
}

/// What went over the link since it is up.
fn traffic(traffic: &Traffic) -> [Vec<String>; 3] {
    let aborts = [("sent", &traffic.aborts_sent), ("received", &traffic.aborts_received)];
    let aborts = aborts.map(|(way, counts)| {
        let counts: Vec<String> = counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        format!("{way}: {}", if counts.is_empty() { "none".to_owned() } else { counts.join(", ") })
    });
    let (mean, max) = (milliseconds(traffic.queue_delay_mean_us), milliseconds(traffic.queue_delay_max_us));
    [
        row(
            "this link",
            format!(
                "{} calls, {} KiB to the hub, {} KiB from it, {} refused beyond its limits",
                traffic.opened,
                traffic.sent_bytes / 1024,
                traffic.received_bytes / 1024,
                traffic.opens_refused
            ),
        ),
        row(
            "waiting",
            format!("{mean} on average for its turn, {max} at most; {} times for credit", traffic.credit_stalls),
        ),
        row("aborts", aborts.join("; ")),
    ]
}

fn milliseconds(us: u64) -> String {
    format!("{}.{:03} ms", us / 1000, us % 1000)
}

/// The name a value of a closed set has in JSON.
fn name_of<T: Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn ago(now_unix_ms: u64, then_unix_ms: u64) -> String {
    let seconds = now_unix_ms.saturating_sub(then_unix_ms) / 1000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use keyhaven_protocol::id::AgentId;

    use super::*;
    use crate::status::CallTotals;
    use crate::status::EgressKind;
    use crate::status::LinkState;
    use crate::status::LinkStatus;
    use crate::status::SCHEMA;

    #[test]
    fn a_status_reads_as_a_table_with_the_code_to_look_up() {
        let status = Status {
            schema: SCHEMA.to_owned(),
            pid: 7,
            version: "0.1.0".to_owned(),
            started_unix_ms: 0,
            written_unix_ms: 0,
            agent: AgentId([1; 16]),
            hub_address: "hub.example:9010".to_owned(),
            link: LinkStatus {
                state: LinkState::Connecting,
                since_unix_ms: 0,
                last_error: Some("KH-E1001".to_owned()),
                rtt_us: Some(1_042),
                streams: 0,
                traffic: Some(Traffic {
                    opened: 12,
                    queue_delay_max_us: 2_500,
                    credit_stalls: 4,
                    aborts_received: BTreeMap::from([("consumer_gone".to_owned(), 2)]),
                    ..Traffic::default()
                }),
            },
            egress: EgressKind::Official,
            offers: Vec::new(),
            calls: CallTotals::default(),
        };

        let text = text(&status, 180_000);

        assert!(text.contains("connecting for 3 min"), "{text}");
        assert!(text.contains("explain KH-E1001"), "{text}");
        assert!(text.contains("1.042 ms"), "{text}");
        assert!(text.contains("12 calls") && text.contains("2.500 ms at most; 4 times for credit"), "{text}");
        assert!(text.contains("sent: none; received: 2 consumer_gone"), "{text}");
    }
}
