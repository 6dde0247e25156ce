//! The books on a server that dies, hangs, or drops connections at any moment.
//!
//! Invariant: whatever the server does, each call is written once, and nobody waits without end.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;

use super::*;
use crate::settlement::writer::post;
use crate::store::MariaDb;

/// Nobody who wants to call waits longer than this, with the time that a busy machine takes.
const HOLD_PATIENCE: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_is_killed_and_comes_back_has_each_call_once() {
    let server = MariaDb::start().unwrap();
    let scene = Scene::open(&Home::MySql(server.database().await.unwrap())).await;
    scene.deposit(1_000_000).await;
    let books = scene.books().await;
    let mut settled = 0;
    for round in 0..3 {
        for _ in 0..300 {
            if let Ok(hold) = books.hold(call(settled), &payer(), NanoUsd(10), NOW).await {
                books.settle(hold, record(settled, NanoUsd(7)));
                settled += 1;
            }
        }
        server.kill().unwrap();
        scene.until(async || books.trouble().is_some()).await;
        let refused = books.hold(call(u64::MAX), &payer(), NanoUsd(1), NOW).await.unwrap_err();
        assert_eq!(refused, HoldError::Unavailable);

        server.run().unwrap();

        scene.until(async || books.trouble().is_none()).await;
        scene.until(async || books.shared.lock().calls.is_empty()).await;
        let left = 1_000_000 - 7 * i64::try_from(settled).unwrap();
        assert_eq!(books.balance(ACCOUNT).await.unwrap(), NanoUsd(left), "round {round}");
        scene.audit().await;
    }
    assert!(settled >= 600, "{settled}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_does_not_answer_lets_nobody_wait_and_loses_nothing() {
    let server = MariaDb::start().unwrap();
    let scene = Scene::open(&Home::MySql(server.database().await.unwrap())).await;
    scene.deposit(1000).await;
    let books = scene.books().await;
    let held = books.hold(call(1), &payer(), NanoUsd(1000), NOW).await.unwrap();
    server.pause(true).unwrap();

    let began = Instant::now();
    let refused = books.hold(call(2), &payer(), NanoUsd(1), NOW).await.unwrap_err();
    assert!(matches!(refused, HoldError::Unavailable | HoldError::Balance), "{refused}");
    assert!(began.elapsed() < HOLD_PATIENCE, "{:?}", began.elapsed());
    books.settle(held, record(1, NanoUsd(400)));
    scene.until(async || books.trouble().is_some()).await;
    assert_eq!(books.hold(call(3), &payer(), NanoUsd(1), NOW).await.unwrap_err(), HoldError::Unavailable);

    server.pause(false).unwrap();
    scene.until(async || books.hold(call(4), &payer(), NanoUsd(600), NOW).await.is_ok()).await;
    scene.until(async || books.balance(ACCOUNT).await.is_ok_and(|balance| balance == NanoUsd(600))).await;
    scene.audit().await;
}

#[tokio::test]
async fn a_connection_may_be_lost_at_any_moment_of_a_batch() {
    let server = MariaDb::shared().unwrap();
    let Some(socket) = server.socket() else { return };
    let url = server.database().await.unwrap();
    let database = url.split('?').next().unwrap().rsplit('/').next().unwrap().to_owned();
    let relay = Relay::start(socket).await;
    let scene = Scene::open(&Home::MySql(format!("mysql://root@{}/{database}", relay.address))).await;
    scene.deposit(1_000_000).await;
    let books = scene.books().await;
    let mut left = 1_000_000;
    let mut cuts = 0;
    // A batch is about twenty packets; of some of these rounds the last ones come after it.
    for at in 1..24 {
        for moment in [Moment::Asked, Moment::Answered] {
            let n = at as u64 * 2 + moment as u64;
            let hold = books.hold(call(n), &payer(), NanoUsd(10), NOW).await.unwrap();
            relay.cut_at(at, moment);

            books.settle(hold, record(n, NanoUsd(7)));

            left -= 7;
            scene.until(async || books.shared.lock().calls.is_empty()).await;
            cuts += usize::from(relay.disarm());
            assert_eq!(scene.store.balance(Side::Consumer(ACCOUNT)).await.unwrap(), NanoUsd(left), "{at} {moment:?}");
            assert_eq!(scene.store.spent(KEY, Period::Total).await.unwrap(), NanoUsd(1_000_000 - left));
        }
    }
    assert!(cuts > 20, "{cuts}");
    assert_eq!(books.trouble(), None);
    scene.audit().await;
}

#[tokio::test]
async fn a_deposit_whose_answer_is_lost_is_booked_once_and_said_to_be() {
    let server = MariaDb::shared().unwrap();
    let Some(socket) = server.socket() else { return };
    let url = server.database().await.unwrap();
    let database = url.split('?').next().unwrap().rsplit('/').next().unwrap().to_owned();
    let relay = Relay::start(socket).await;
    let home = Home::MySql(format!("mysql://root@{}/{database}", relay.address));
    let store = home.open().await;
    for at in 1..20 {
        for moment in [Moment::Asked, Moment::Answered] {
            relay.cut_at(at, moment);
            let reference = format!("{at} {moment:?}");
            let paid = Deposit { reference, account: ACCOUNT, amount: NanoUsd(1), at_unix_ms: NOW };

            let booked = deposit(&store, &paid).await.unwrap();

            relay.disarm();
            assert_eq!(booked, Booked::Now, "{at} {moment:?}");
            assert_eq!(deposit(&store, &paid).await.unwrap(), Booked::Before);
        }
    }
    assert_eq!(store.balance(Side::Consumer(ACCOUNT)).await.unwrap(), NanoUsd(38));
    assert_eq!(store.audit_ledger().await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_batch_that_loses_a_deadlock_is_written_again() {
    let scene = Scene::open(&Home::mysql().await).await;
    scene.deposit(1000).await;
    let record = record(1, NanoUsd(7));
    // Another transaction has the balance, and will want the ledger that the batch has. It has
    // done so much that the server gives up the batch instead.
    let mut other = scene.store.begin_raw().await;
    scene.store.raw_in(&mut other, "UPDATE balances SET batch = batch").await;
    let rows = (0..500).map(|n| format!("('{n}', '')")).collect::<Vec<_>>().join(", ");
    scene.store.raw_in(&mut other, format!("INSERT INTO meta (name, value) VALUES {rows}")).await;
    let tries = AtomicUsize::new(0);

    let batch = scene.store.replay(|| async {
        tries.fetch_add(1, Ordering::SeqCst);
        let mut batch = scene.store.begin_batch(None, NOW).await?;
        post(&mut batch, &[&record]).await?;
        batch.commit(None, NOW).await
    });
    let deadlock = async {
        scene.until(async || scene.store.waits_for_a_lock().await).await;
        scene.store.raw_in(&mut other, "UPDATE ledger SET batch = batch").await;
        other.commit().await.unwrap();
    };
    let (batch, ()) = tokio::join!(batch, deadlock);

    batch.unwrap();
    assert_eq!(tries.load(Ordering::SeqCst), 2);
    assert_eq!(scene.store.balance(Side::Consumer(ACCOUNT)).await.unwrap(), NanoUsd(993));
    scene.audit().await;
}

/// When a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// Before the server has the question.
    Asked,
    /// When it has answered, and nobody has the answer.
    Answered,
}

/// Between the hub and the server; cuts one connection at one of its packets.
#[derive(Clone)]
struct Relay {
    address: std::net::SocketAddr,
    plan: Arc<Plan>,
}

struct Plan {
    /// Packets until the cut, and once more when it is done; 0 for none.
    packets: AtomicUsize,
    moment: Mutex<Moment>,
    cuts: AtomicUsize,
}

impl Relay {
    async fn start(socket: std::path::PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (packets, cuts) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let relay = Self { address, plan: Arc::new(Plan { packets, moment: Mutex::new(Moment::Asked), cuts }) };
        let plan = relay.plan.clone();
        let tasks = Tasks::new();
        let connections = tasks.clone();
        tasks.spawn("relay", async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = tokio::net::UnixStream::connect(&socket).await.unwrap();
                let plan = plan.clone();
                connections.spawn("connection", async move { pass(client, server, &plan).await });
            }
        });
        relay
    }

    fn cut_at(&self, packet: usize, moment: Moment) {
        *self.plan.moment.lock().unwrap() = moment;
        self.plan.packets.store(packet, Ordering::SeqCst);
    }

    /// Whether a connection was cut since the last time.
    fn disarm(&self) -> bool {
        self.plan.packets.store(0, Ordering::SeqCst);
        self.plan.cuts.swap(0, Ordering::SeqCst) > 0
    }
}

impl Plan {
    fn is_now(&self) -> bool {
        let before = self.packets.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        let is_now = before == Ok(1);
        self.cuts.fetch_add(usize::from(is_now), Ordering::SeqCst);
        is_now
    }
}

/// Until one side ends, or it is time. A packet is three bytes of length, a number, and so many bytes.
async fn pass(mut client: TcpStream, server: tokio::net::UnixStream, plan: &Plan) {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.into_split();
    let cut = tokio::sync::Notify::new();
    let questions = async {
        loop {
            let mut packet = vec![0; 4];
            if from_client.read_exact(&mut packet).await.is_err() {
                return;
            }
            let length = usize::from(packet[0]) + (usize::from(packet[1]) << 8) + (usize::from(packet[2]) << 16);
            packet.resize(4 + length, 0);
            if from_client.read_exact(&mut packet[4..]).await.is_err() {
                return;
            }
            if plan.is_now() {
                if *plan.moment.lock().unwrap() == Moment::Asked {
                    return;
                }
                cut.notify_one();
            }
            to_server.write_all(&packet).await.unwrap();
        }
    };
    let answers = async {
        let mut bytes = vec![0; 65536];
        loop {
            let Ok(length @ 1..) = from_server.read(&mut bytes).await else { return };
            if futures_util::FutureExt::now_or_never(cut.notified()).is_some() {
                return;
            }
            if to_client.write_all(&bytes[..length]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = questions => {}
        () = answers => {}
    }
}
