//! Calls settled in a second, with all that is written of each, on both kinds of database.
//!
//! Invariant: every call that was settled is in the books when a figure is taken, and they add up.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use clap::Args;
use keyhaven_daemon::cli::Output;
use keyhaven_daemon::cli::table;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::tasks::Tasks;
use keyhaven_hub::key_policy::KeyPolicy;
use keyhaven_hub::key_policy::Payer;
use keyhaven_hub::keys::HubKeys;
use keyhaven_hub::keys::OfflineFiles;
use keyhaven_hub::settlement::BookKeys;
use keyhaven_hub::settlement::BookRules;
use keyhaven_hub::settlement::Books;
use keyhaven_hub::settlement::CallOutcome;
use keyhaven_hub::settlement::CallRecord;
use keyhaven_hub::settlement::HoldError;
use keyhaven_hub::settlement::Metering;
use keyhaven_hub::settlement::Others;
use keyhaven_hub::settlement::Sale;
use keyhaven_hub::settlement::deposit;
use keyhaven_hub::store::Store;
use keyhaven_hub::store::accounts::Deposit;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::id::AccountId;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::ApiKeyId;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::money::Ppm;
use keyhaven_protocol::price::ServiceTier;
use keyhaven_protocol::price::Zone;
use keyhaven_protocol::provider::Provider;
use keyhaven_protocol::settle::Shares;
use keyhaven_protocol::usage::Meter;
use keyhaven_tests::mariadb::MariaDb;
use serde::Serialize;

use crate::cpu::Ticks;

/// Accounts, keys and agents among which the calls are.
const PARTIES: u64 = 64;

/// Flushes of 4 KiB that tell how fast the disk is.
const FLUSHES: usize = 300;

/// What to measure.
#[derive(Args)]
pub(crate) struct Orders {
    /// Calls of each measurement.
    #[arg(long, default_value_t = 60_000)]
    calls: u64,
    /// Calls that end and are not written yet, at once: one measurement for each.
    #[arg(long, value_delimiter = ',', default_value = "64,256,1024,8192")]
    unwritten: Vec<usize>,
    /// On the disk of this directory; MariaDB's user must be able to reach it.
    #[arg(long, default_value = "/tmp")]
    dir: std::path::PathBuf,
    /// Only this one: sqlite or mariadb.
    #[arg(long)]
    engine: Option<String>,
}

/// One measurement.
#[derive(Serialize)]
struct Figure {
    engine: &'static str,
    unwritten_max: usize,
    calls_per_second: u64,
    calls_per_batch: u64,
    hub_cpu_us_per_call: u64,
    server_cpu_us_per_call: u64,
}

/// All of them, and what the disk did meanwhile.
#[derive(Serialize)]
struct Answer {
    figures: Vec<Figure>,
    flush_us_p50: u64,
    flush_us_p90: u64,
    flush_us_p99: u64,
    load_1m: String,
}

pub(crate) async fn measure(orders: &Orders, output: Output) -> Result<()> {
    let mut flushes = flushes(&orders.dir)?;
    let mut figures = Vec::new();
    for unwritten_max in &orders.unwritten {
        if orders.engine.as_deref() != Some("mariadb") {
            let dir = tempfile::tempdir_in(&orders.dir)?;
            let store = Store::open(dir.path()).await?;
            figures.push(settle(orders.calls, *unwritten_max, store, None).await?);
        }
        if orders.engine.as_deref() != Some("sqlite") {
            let server = MariaDb::start_in(&orders.dir)?;
            let store = Store::open_server(&server.database().await?).await?;
            figures.push(settle(orders.calls, *unwritten_max, store, server.pid()).await?);
        }
        flushes.extend(self::flushes(&orders.dir)?);
    }
    flushes.sort_unstable();
    let at = |percent: usize| flushes.get((flushes.len() - 1) * percent / 100).copied().unwrap_or(0);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load_1m = load.split(' ').next().unwrap_or_default().to_owned();
    let (flush_us_p50, flush_us_p90, flush_us_p99) = (at(50), at(90), at(99));
    let answer = Answer { figures, flush_us_p50, flush_us_p90, flush_us_p99, load_1m };
    output.emit("bench_settlement", &answer, || to_text(&answer))?;
    Ok(())
}

async fn settle(calls: u64, unwritten_max: usize, store: Store, server: Option<u32>) -> Result<Figure> {
    let now = unix_ms_now();
    for party in 0..PARTIES {
        let (reference, account) = (format!("deposit {party}"), account(party));
        let paid = Deposit { reference, account, amount: NanoUsd(1_000_000_000_000_000), at_unix_ms: now };
        deposit(&store, &paid).await?;
    }
    let tasks = Tasks::new();
    let books = Books::start(store.clone(), Others::None, book_keys()?, BookRules::default(), &tasks).await?;
    let before = store.reconcile(0).await?;
    let pids: Vec<u32> = server.into_iter().collect();
    let (hub_before, server_before) = (Ticks::of(std::process::id()), Ticks::of_all(&pids));
    let began = Instant::now();
    for n in 0..calls {
        while books.unwritten() >= unwritten_max {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        let record = record(n, now)?;
        let mut hold = loop {
            match books.hold(record.sale.call, &payer(n), NanoUsd(20_000_000), now).await {
                Ok(hold) => break hold,
                Err(HoldError::Unavailable) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(error) => return Err(error.into()),
            }
        };
        hold.dispatched(record.sale.clone());
        books.settle(hold, record);
    }
    while books.unwritten() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = began.elapsed();
    let hub_ns = Ticks::of(std::process::id()).ns_since(hub_before);
    let server_ns = Ticks::of_all(&pids).ns_since(server_before);
    tasks.shut_down(Duration::from_secs(1)).await;
    let after = store.reconcile(0).await?;
    ensure!(after.findings.is_empty() && after.calls == calls, "the books do not add up: {after:?}");
    store.close().await;
    let per_call = |total: u128| u64::try_from(total / u128::from(calls)).unwrap_or(u64::MAX);
    Ok(Figure {
        engine: if server.is_some() { "mariadb" } else { "sqlite" },
        unwritten_max,
        calls_per_second: u64::try_from(u128::from(calls) * 1_000_000 / took.as_micros().max(1))?,
        calls_per_batch: calls / (after.batch - before.batch).max(1),
        hub_cpu_us_per_call: per_call(u128::from(hub_ns) / 1000),
        server_cpu_us_per_call: per_call(u128::from(server_ns) / 1000),
    })
}

fn account(party: u64) -> AccountId {
    AccountId(id(1, party))
}

fn id(kind: u8, n: u64) -> [u8; 16] {
    let mut id = [kind; 16];
    id[8..].copy_from_slice(&n.to_be_bytes());
    id
}

fn payer(n: u64) -> Payer {
    let party = n % PARTIES;
    let key = ApiKeyId(id(2, party));
    Payer { account: account(party), key, zone: Zone::Standard, is_blocked: false, policy: KeyPolicy::default() }
}

/// A chat completion as it usually is: three lines, both sides alike.
fn record(n: u64, now_unix_ms: u64) -> Result<CallRecord> {
    // Ids are in order of time, as those of real calls are.
    let call = CallId(uuid_of(now_unix_ms, n));
    let sale = Sale {
        call,
        account: account(n % PARTIES),
        key: ApiKeyId(id(2, n % PARTIES)),
        agent: AgentId(id(3, n % 16)),
        attempt: 1,
        provider: Provider::OpenAi,
        endpoint: "openai chat completions".to_owned(),
        model: "gpt-4o".to_owned(),
        began_unix_ms: now_unix_ms,
        price_version: 7,
        price_hash: Hex([7; 32]),
        zone: Zone::Standard,
        shares: Shares { zone: Ppm(1_150_000), tier: Ppm(850_000) },
        held: NanoUsd(20_000_000),
    };
    let metered = Metering {
        outcome: CallOutcome::Complete,
        usage: BTreeMap::from([(Meter::Input, 1200), (Meter::Output, 350)]),
        heard: BTreeMap::new(),
        lines: Vec::new(),
        list_nano_usd: NanoUsd(6_500_000),
        tier: ServiceTier::Standard,
        model: Some("gpt-4o-2024-08-06".to_owned()),
        rule: "stated".to_owned(),
        estimated: false,
        doubts: Vec::new(),
        response_bytes: 4096,
        elapsed_ms: 0,
    };
    CallRecord::settled(sale, 200, now_unix_ms + 900, metered.clone(), Some(metered)).context("settle a call")
}

/// Keys that nobody else has. The calls here have no leaves.
fn book_keys() -> Result<BookKeys> {
    let dir = tempfile::tempdir()?;
    let keys = HubKeys::init(dir.path(), OfflineFiles::default())?;
    Ok(BookKeys {
        signing: keys.signing_key().clone(),
        list: Arc::new(keys.signer().list().clone()),
        archive: keys.archive_key().clone(),
    })
}

fn uuid_of(unix_ms: u64, n: u64) -> [u8; 16] {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&((unix_ms + n / 16) << 16).to_be_bytes());
    id[8..].copy_from_slice(&n.to_be_bytes());
    id
}

/// Microseconds of each flush.
fn flushes(dir: &Path) -> Result<Vec<u64>> {
    let mut file = tempfile::tempfile_in(dir)?;
    let mut times = Vec::with_capacity(FLUSHES);
    for _ in 0..FLUSHES {
        let began = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        times.push(u64::try_from(began.elapsed().as_micros())?);
    }
    Ok(times)
}

fn to_text(answer: &Answer) -> String {
    let rows = answer.figures.iter().map(|figure| {
        vec![
            figure.engine.to_owned(),
            figure.unwritten_max.to_string(),
            figure.calls_per_second.to_string(),
            figure.calls_per_batch.to_string(),
            figure.hub_cpu_us_per_call.to_string(),
            figure.server_cpu_us_per_call.to_string(),
        ]
    });
    let headers = ["ENGINE", "UNWRITTEN", "CALLS/S", "CALLS/BATCH", "HUB us/CALL", "SERVER us/CALL"];
    let Answer { flush_us_p50, flush_us_p90, flush_us_p99, load_1m, .. } = answer;
    let disk = format!("a flush took {flush_us_p50} us (p50), {flush_us_p90} us (p90), {flush_us_p99} us (p99)");
    format!("{}\n{disk}; load {load_1m}", table(&headers, rows.collect()))
}
