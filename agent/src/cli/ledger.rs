//! `ledger verify|export|tail`, `earnings` and `claim list`: what this agent wrote down, and what
//! became of it.
//!
//! Invariant: nothing is written but what was asked for, so that all of it works beside a running agent.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::BufWriter;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use clap::Args;
use clap::Subcommand;
use keyhaven_daemon::cli::Output;
use keyhaven_daemon::cli::table;
use keyhaven_daemon::failure::Failure;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::money::NanoUsd;
use serde::Serialize;

use crate::cli::Context;
use crate::cli::shown;
use crate::cli::usage;
use crate::ledger::Claim;
use crate::ledger::ClaimClass;
use crate::ledger::Earnings;
use crate::ledger::LedgerError;
use crate::ledger::Line;
use crate::ledger::Verified;
use crate::ledger::View;

/// How often long work says how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// Verify every leaf, signature, ticket, statement and cosigned head.
    Verify(Which),
    /// Write everything in it as JSON, one record on a line.
    Export {
        #[command(flatten)]
        which: Which,
        /// The file to make. Without one: standard output.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// The newest leaves.
    Tail {
        #[command(flatten)]
        which: Which,
        /// How many.
        #[arg(short = 'n', long, default_value_t = 20)]
        count: u32,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClaimCommand {
    /// Attempts that are not paid as they were metered: open, not acknowledged, unpaid, disputed or short.
    List {
        #[command(flatten)]
        which: Which,
        /// How many at the most, the oldest first.
        #[arg(short = 'n', long, default_value_t = 1_000)]
        count: u32,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The ledger's folder in `ledger/` of the data directory, if there are several.
    #[arg(long, value_name = "NAME")]
    chain: Option<String>,
}

impl Which {
    /// The ledger that is meant.
    fn open(&self, context: &Context) -> Result<(String, View), Failure> {
        let names = View::names(&context.dir).map_err(Failure::from)?;
        let name = match (&self.chain, names.as_slice()) {
            (Some(chain), names) if names.contains(chain) => chain.clone(),
            (Some(_), []) | (None, []) => return Err(failed(context, LedgerError::Absent)),
            (None, [name]) => name.clone(),
            (Some(_) | None, names) => return Err(usage(format!("say which with --chain: {}", names.join(", ")))),
        };
        let view = View::open(&context.dir, &name);
        Ok((name, view))
    }
}

pub(crate) fn run(context: &Context, command: &LedgerCommand) -> anyhow::Result<()> {
    match command {
        LedgerCommand::Verify(which) => verify(context, which),
        LedgerCommand::Export { which, out } => export(context, which, out.as_ref()),
        LedgerCommand::Tail { which, count } => tail(context, which, *count),
    }
}

fn verify(context: &Context, which: &Which) -> anyhow::Result<()> {
    let (_, view) = which.open(context)?;
    let mut progress = Progress::new(context.output);
    let verified = view.verify(|leaves| progress.say(|| format!("{leaves} leaves verified")));
    let verified = verified.map_err(|error| failed(context, error))?;
    Ok(context.output.emit("ledger-verified", &verified, || verified_text(&verified))?)
}

fn verified_text(verified: &Verified) -> String {
    let mut text = format!(
        "the ledger holds: {} leaves in {} groups, {} statements; epoch {} has {} leaves, {} of them cosigned by the hub\n",
        verified.leaves, verified.groups, verified.statements, verified.epoch, verified.size, verified.cosigned
    );
    if let Some(key) = &verified.key {
        text.push_str(&format!("signed with {key}\n"));
    }
    if verified.hub_keys == 0 {
        text.push_str("the hub's keys are not in it: tickets and what the hub said were read and not verified\n");
    }
    if verified.open > 0 {
        text.push_str(&format!("{} attempts have no end yet\n", verified.open));
    }
    if verified.unfinished_bytes > 0 {
        let bytes = verified.unfinished_bytes;
        text.push_str(&format!("{bytes} bytes at the end are no whole entry: being written, or left by a crash\n"));
    }
    text
}

#[derive(Serialize)]
struct ExportBegin<'a> {
    schema: &'static str,
    chain: &'a str,
}

#[derive(Serialize)]
struct Exported<'a> {
    chain: &'a str,
    records: u64,
    file: Option<String>,
}

fn export(context: &Context, which: &Which, out: Option<&PathBuf>) -> anyhow::Result<()> {
    let (name, view) = which.open(context)?;
    let Some(path) = out else {
        let mut stdout = BufWriter::new(io::stdout().lock());
        return match write_lines(context, &view, &name, &mut stdout).and_then(|_| Ok(stdout.flush()?)) {
            Err(error) if is_reader_gone(&error) => Ok(()),
            written => written,
        };
    };
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let unusable =
        |error: io::Error| Failure::new(ErrorCode::DataDirUnusable, error.to_string()).at(path.display().to_string());
    let mut file: BufWriter<File> = BufWriter::new(options.open(path).map_err(unusable)?);
    let records = write_lines(context, &view, &name, &mut file)?;
    file.into_inner().map_err(io::IntoInnerError::into_error).and_then(|file| file.sync_all()).map_err(unusable)?;
    let answer = Exported { chain: &name, records, file: Some(path.display().to_string()) };
    Ok(context.output.emit("ledger-exported", &answer, || format!("{records} records in {}", path.display()))?)
}

fn write_lines(context: &Context, view: &View, name: &str, out: &mut impl Write) -> anyhow::Result<u64> {
    let mut progress = Progress::new(context.output);
    let mut records = 0_u64;
    let begin = ExportBegin { schema: "keyhaven/ledger-export/v1", chain: name };
    write_line(out, &begin)?;
    view.lines(|line| {
        records += 1;
        if records.is_multiple_of(10_000) {
            progress.say(|| format!("{records} records written"));
        }
        write_line(out, &line)
    })
    .map_err(|error| match error.downcast::<LedgerError>() {
        Ok(error) => failed(context, error).into(),
        Err(error) => error,
    })?;
    Ok(records)
}

fn write_line(out: &mut impl Write, line: &impl Serialize) -> anyhow::Result<()> {
    serde_json::to_writer(&mut *out, line).map_err(io::Error::from)?;
    Ok(out.write_all(b"\n")?)
}

/// A pipe whose reader has seen enough.
fn is_reader_gone(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn tail(context: &Context, which: &Which, count: u32) -> anyhow::Result<()> {
    let (_, view) = which.open(context)?;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let lines = view.newest(count).map_err(|error| failed(context, error))?;
    Ok(context.output.emit("ledger-tail", &lines, || {
        table(&["epoch", "leaf", "time", "kind", "call", "attempt", "list"], lines.iter().filter_map(row).collect())
    })?)
}

fn row(line: &Line) -> Option<Vec<String>> {
    let Line::Leaf { epoch, number, at_unix_ms, kind, call, attempt, list, hash: _, bytes: _ } = line else {
        return None;
    };
    Some(vec![
        epoch.to_string(),
        number.to_string(),
        time(*at_unix_ms),
        (*kind).to_owned(),
        call.map(|call| call.to_string()).unwrap_or_default(),
        attempt.map(|attempt| attempt.to_string()).unwrap_or_default(),
        amount(*list),
    ])
}

pub(crate) fn earnings(context: &Context, which: &Which) -> anyhow::Result<()> {
    let (_, view) = which.open(context)?;
    let mut progress = Progress::new(context.output);
    let earned = view.earnings(|place| progress.say(|| format!("reading {place}")));
    let earned = earned.map_err(|error| failed(context, error))?;
    Ok(context.output.emit("earnings", &earned, || earnings_text(&earned))?)
}

fn earnings_text(earned: &Earnings) -> String {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let rows = vec![
        row("attempts", earned.attempts.to_string()),
        row("at list prices, as metered here", earned.list.to_string()),
        row("credited by the hub", earned.credited.to_string()),
        row("paid out", earned.paid_out.to_string()),
        row("credited and not paid out", earned.unpaid.to_string()),
        row("waiting for the hub", format!("{} in {} attempts", earned.waiting_list, earned.waiting_attempts)),
        row("disputed", format!("{} in {} attempts", earned.disputed_difference, earned.disputed_attempts)),
    ];
    let models = earned.models.iter().map(|model| {
        vec![model.model.clone(), model.attempts.to_string(), model.list.to_string(), model.credited.to_string()]
    });
    let models = table(&["model", "attempts", "list", "credited"], models.collect());
    format!("{}\n\n{models}", table(&["", ""], rows).trim_start())
}

pub(crate) fn claim(context: &Context, command: &ClaimCommand) -> anyhow::Result<()> {
    let ClaimCommand::List { which, count } = command;
    let (_, view) = which.open(context)?;
    let mut progress = Progress::new(context.output);
    let claims = view.claims(*count, |place| progress.say(|| format!("reading {place}")));
    let claims = claims.map_err(|error| failed(context, error))?;
    Ok(context.output.emit("claims", &claims, || {
        if claims.is_empty() {
            return "every attempt is paid as it was metered".to_owned();
        }
        let headers = ["leaf", "time", "call", "attempt", "class", "reason", "here", "hub", "credit"];
        table(&headers, claims.iter().map(claim_row).collect())
    })?)
}

fn claim_row(claim: &Claim) -> Vec<String> {
    let class = match claim.class {
        ClaimClass::Open => "open",
        ClaimClass::Unacknowledged => "unacknowledged",
        ClaimClass::Unpaid => "unpaid",
        ClaimClass::Disputed => "disputed",
        ClaimClass::Short => "short",
    };
    vec![
        format!("{}/{}", claim.epoch, claim.leaf),
        time(claim.at_unix_ms),
        claim.call.to_string(),
        claim.attempt.to_string(),
        class.to_owned(),
        claim.reason.unwrap_or_default().to_owned(),
        claim.list.to_string(),
        amount(claim.hub_list),
        amount(claim.credit),
    ]
}

fn amount(amount: Option<NanoUsd>) -> String {
    amount.map(|amount| amount.to_string()).unwrap_or_default()
}

fn time(unix_ms: u64) -> String {
    let moment = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    moment.map(|moment| moment.strftime("%Y-%m-%d %H:%M:%S").to_string()).unwrap_or_default()
}

fn failed(context: &Context, error: LedgerError) -> Failure {
    Failure::from(error).at(shown(&context.dir))
}

/// Says how far long work is, now and then.
struct Progress {
    output: Output,
    said: Instant,
}

impl Progress {
    fn new(output: Output) -> Self {
        Self { output, said: Instant::now() }
    }

    fn say(&mut self, line: impl FnOnce() -> String) {
        if self.said.elapsed() >= PROGRESS_INTERVAL {
            self.said = Instant::now();
            self.output.note(&line());
        }
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use keyhaven_protocol::id::AgentId;
    use keyhaven_protocol::id::FleetId;
    use keyhaven_protocol::leaf::Purpose;

    use super::*;
    use crate::config::Config;
    use crate::ledger::Opened;
    use crate::ledger::Owner;
    use crate::ledger::Settings;

    const WHICH: Which = Which { chain: None };

    #[test]
    fn every_command_answers_beside_the_process_that_writes() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("export");
        let context = Context {
            output: Output::new(true),
            config: Config::default(),
            leaves: Vec::new(),
            dir: dir.path().to_owned(),
        };
        let code = |error: anyhow::Error| error.downcast::<Failure>().unwrap().code();
        assert_eq!(code(verify(&context, &WHICH).unwrap_err()), ErrorCode::LedgerAbsent);
        let key = SigningKey::from_bytes(&[3; 32]);
        let (fleet, agent) = (FleetId([1; 16]), AgentId([2; 16]));
        let owner = Owner { fleet, purpose: Purpose::Calls, agent, key, hub_key: [4; 32] };
        let mut running = Opened::in_dir(dir.path(), owner, Settings::default()).unwrap();
        running.writer.step().unwrap();

        verify(&context, &WHICH).unwrap();
        tail(&context, &WHICH, 5).unwrap();
        earnings(&context, &WHICH).unwrap();
        claim(&context, &ClaimCommand::List { which: WHICH, count: 5 }).unwrap();
        export(&context, &WHICH, Some(&out)).unwrap();
        assert!(export(&context, &WHICH, Some(&out)).is_err(), "a file that is there is not overwritten");
        let other = Which { chain: Some("other".to_owned()) };
        assert_eq!(code(verify(&context, &other).unwrap_err()), ErrorCode::UsageInvalid);

        let text = std::fs::read_to_string(out).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["schema"], "keyhaven/ledger-export/v1");
        assert_eq!((&lines[1]["record"], &lines[1]["kind"]), (&"leaf".into(), &"EPOCH".into()));
        assert_eq!((&lines[2]["record"], &lines[2]["size"], lines.len()), (&"group".into(), &1.into(), 3));
    }

    #[test]
    fn what_was_verified_and_earned_reads_as_sentences_and_tables() {
        let verified = Verified { leaves: 7, groups: 3, size: 7, open: 1, ..Verified::default() };
        let text = verified_text(&verified);
        assert!(text.contains("7 leaves in 3 groups") && text.contains("1 attempts have no end yet"), "{text}");
        assert!(text.contains("the hub's keys are not in it"), "{text}");

        let earned = Earnings { attempts: 2, credited: NanoUsd(1_500_000_000), ..Earnings::default() };
        let text = earnings_text(&earned);
        assert!(text.contains("credited by the hub") && text.contains("$1.50"), "{text}");
    }
}
