//! Hub pump and agent pump over made-up connections, with calls that echo, abort, stall and
//! go away: thousands of virtual seconds in a few real ones.
//!
//! Invariant: a run follows from its seed; a failure names it.

mod wire;

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::StatusCode;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::frame::Drain;
use keyhaven_protocol::frame::Frame;
use keyhaven_protocol::frame::ResponseHead;
use keyhaven_protocol::link::Incoming;
use keyhaven_protocol::link::Limits;
use keyhaven_protocol::link::LinkFault;
use keyhaven_protocol::link::Side;
use keyhaven_protocol::link::StreamOver;
use keyhaven_protocol::websocket::Role;
use tokio::io::BufReader;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio::time::sleep;
use tokio::time::timeout;

use super::LinkEnd;
use super::LinkEvents;
use super::LinkHandle;
use super::LinkStream;
use super::Socket;
use super::run;
use super::tests::open;
use crate::tasks::Tasks;
use wire::Dice;
use wire::End;
use wire::Fault;
use wire::Nature;

/// Runs when nothing else is said.
const SEEDS: u64 = 600;

/// More runs than in everyday tests, for a long night.
const SEEDS_VARIABLE: &str = "KEYHAVEN_SIMULATION_SEEDS";

/// A consumer that gets no answer gives up after this.
const CONSUMER_PATIENCE: Duration = Duration::from_secs(20);

/// A dead connection with a call on it: 5 s on the slower side, which the other hears of
/// at once or after 5 s more, and what the network itself takes.
const BUSY_DEATH_TIME_MAX: Duration = Duration::from_secs(13);

/// A dead connection without calls.
const IDLE_DEATH_TIME_MAX: Duration = Duration::from_secs(60);

/// Nothing at all may take longer.
const RUN_TIME_MAX: Duration = Duration::from_secs(200);

#[test]
fn whatever_the_network_does_every_call_ends_and_no_byte_is_wrong() {
    let seeds = std::env::var(SEEDS_VARIABLE).ok().and_then(|count| count.parse().ok()).unwrap_or(SEEDS);
    for seed in 0..seeds {
        let mut dice = Dice::new(seed);
        let scene = Scene::thrown(&mut dice);
        let outcome = std::panic::catch_unwind(|| play(scene, dice));
        assert!(outcome.is_ok(), "seed {seed}: {scene:?}");
    }
}

/// What a run is made of.
#[derive(Debug, Clone, Copy)]
struct Scene {
    nature: Nature,
    fault: Fault,
    calls: usize,
    body_bytes_max: usize,
    ends_by_drain: bool,
}

impl Scene {
    fn thrown(dice: &mut Dice) -> Self {
        let bytewise = dice.below(4) == 0;
        let nature = Nature {
            delay: dice.millis(120),
            room_bytes: 500 + dice.size(if bytewise { 4_000 } else { 100_000 }),
            piece_bytes: if bytewise { 1 } else { 1 + dice.size(70_000) },
            stall_millis: dice.below(400),
        };
        let when = dice.millis(3_000);
        let side = dice.size(2);
        let fault = match dice.below(6) {
            0 | 1 => Fault::None,
            2 => Fault::BlackHole(when),
            3 => Fault::HalfOpen(when, side),
            _ => Fault::Cut(dice.below(if bytewise { 3_000 } else { 60_000 }), side),
        };
        let tight = bytewise || nature.room_bytes < 8_000;
        let body_bytes_max = if tight { 1_500 } else { 150_000 };
        Self { nature, fault, calls: dice.size(7), body_bytes_max, ends_by_drain: dice.below(2) == 0 }
    }
}

fn play(scene: Scene, dice: Dice) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        timeout(RUN_TIME_MAX, play_out(scene, dice)).await.expect("the run hangs");
    });
}

async fn play_out(scene: Scene, mut dice: Dice) {
    let began = Instant::now();
    let tasks = Tasks::new();
    let (near, far) = wire::connect(scene.nature, scene.fault, dice.fork());
    let echo = Echo { dice: Arc::new(Mutex::new(dice.fork())), tasks: tasks.clone() };
    let (hub, mut hub_ended) = start(Side::Hub, near, Nobody, &tasks);
    let (agent, mut agent_ended) = start(Side::Agent, far, echo, &tasks);

    let (done, mut outcomes) = mpsc::channel(16);
    for _ in 0..scene.calls {
        let consumer = consume(hub.clone(), dice.fork(), scene.body_bytes_max);
        let done = done.clone();
        tasks.spawn("consumer", async move {
            let outcome = consumer.await;
            done.send(outcome).await.unwrap();
        });
    }
    drop(done);
    while let Some(outcome) = outcomes.recv().await {
        let innocent = scene.fault == Fault::None;
        assert!(!innocent || outcome != Outcome::Lost, "a call was lost on a connection without fault");
    }
    if scene.fault == Fault::None {
        until_quiet(&hub, &agent).await;
        assert!(hub.is_open(), "the link ended without a fault");
        if scene.ends_by_drain {
            hub.drain(&Drain { deadline_ms: 1_000 })
        } else {
            hub.close()
        }
        assert!(matches!(hub_ended.recv().await, Some(LinkEnd::Closed | LinkEnd::ClosedByPeer)));
        assert!(matches!(agent_ended.recv().await, Some(LinkEnd::Closed | LinkEnd::ClosedByPeer)));
    } else if !matches!(scene.fault, Fault::Cut(..)) {
        // A cut may lie behind the last byte that was sent; death is always noticed.
        let bound = if scene.calls > 0 { BUSY_DEATH_TIME_MAX.max(CONSUMER_PATIENCE) } else { Duration::ZERO };
        let _ended = (hub_ended.recv().await.unwrap(), agent_ended.recv().await.unwrap());
        assert!(began.elapsed() < bound + IDLE_DEATH_TIME_MAX, "noticed after {:?}", began.elapsed());
    } else {
        hub.close();
        agent.close();
        let _ended = (hub_ended.recv().await.unwrap(), agent_ended.recv().await.unwrap());
    }
    assert!(hub.open(&open()).is_err(), "a link that is over takes calls");
    tasks.shut_down(Duration::from_secs(60)).await;
    assert_eq!((tasks.running(), hub.stats().streams, agent.stats().streams), (0, 0, 0));
}

#[test]
fn a_dead_connection_with_a_call_on_it_is_noticed_in_seconds() {
    for seed in 0..60 {
        let mut dice = Dice::new(seed);
        let nature =
            Nature { delay: dice.millis(100), room_bytes: 1 + dice.size(90_000), piece_bytes: 9_000, stall_millis: 0 };
        let when = dice.millis(1_000);
        let fault = match dice.below(3) {
            0 => Fault::BlackHole(when),
            side => Fault::HalfOpen(when, usize::try_from(side - 1).unwrap()),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let tasks = Tasks::new();
            let (near, far) = wire::connect(nature, fault, dice.fork());
            let (hub, _) = start(Side::Hub, near, Nobody, &tasks);
            let (opened, mut streams) = mpsc::channel(1);
            let (_agent, _) = start(Side::Agent, far, Keep { opened }, &tasks);
            let began = Instant::now();
            let call = hub.open(&open()).unwrap();
            let told = timeout(Duration::from_secs(60), call.head()).await;

            let told = told.unwrap_or_else(|_| panic!("seed {seed}: {fault:?} is never noticed"));
            assert_eq!(told.map_err(|abort| abort.reason), Err(AbortReason::LinkLost), "seed {seed}");
            assert!(
                began.elapsed() <= BUSY_DEATH_TIME_MAX,
                "seed {seed}: {fault:?} noticed after {:?}",
                began.elapsed()
            );
            streams.close();
        });
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Echoed,
    Aborted,
    GaveUp,
    Lost,
}

/// A consumer: sends a body in pieces, reads the echo, may be slow, may leave.
async fn consume(hub: LinkHandle, mut dice: Dice, body_bytes_max: usize) -> Outcome {
    sleep(dice.millis(2_000)).await;
    let Ok(call) = hub.open(&open()) else { return Outcome::Lost };
    let body = pattern(dice.size(body_bytes_max));
    let leaves_after = if dice.below(5) == 0 { dice.size(body.len() + 1) } else { usize::MAX };
    let (mut upload_dice, mut pace) = (dice.fork(), dice.fork());
    let upload = upload(&call, &body, &mut upload_dice);
    let download = async {
        let mut read = 0;
        if let Err(abort) = call.head().await {
            return of_abort(&abort);
        }
        loop {
            if read >= leaves_after {
                return Outcome::GaveUp;
            }
            match poll_fn(|cx| call.poll_data(cx)).await {
                Incoming::Data(data) => {
                    assert_eq!(data, body[read..read + data.len()], "bytes {read}.. are wrong");
                    read += data.len();
                    if pace.below(8) == 0 {
                        sleep(pace.millis(300)).await;
                    }
                }
                Incoming::End(_) => {
                    assert_eq!(read, body.len(), "the echo ended early");
                    return Outcome::Echoed;
                }
                Incoming::Aborted(abort) => return of_abort(&abort),
                Incoming::Pending => unreachable!("poll_data never says so"),
            }
        }
    };
    let both = async {
        // An upload that was broken off is told by the download.
        tokio::pin!(upload, download);
        tokio::select! {
            outcome = &mut download => outcome,
            _ = &mut upload => download.await,
        }
    };
    timeout(CONSUMER_PATIENCE, both).await.unwrap_or(Outcome::GaveUp)
}

fn of_abort(abort: &Abort) -> Outcome {
    if abort.reason == AbortReason::LinkLost { Outcome::Lost } else { Outcome::Aborted }
}

async fn upload(call: &LinkStream, body: &[u8], dice: &mut Dice) -> Result<(), StreamOver> {
    let mut rest = body;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(rest.len().min(1 + dice.size(40_000)));
        call.capacity().await?;
        call.send_data(Bytes::copy_from_slice(now))?;
        if dice.below(6) == 0 {
            sleep(dice.millis(200)).await;
        }
        rest = later;
    }
    call.finish(Bytes::new())
}

/// An agent whose vendor says what it hears, mostly.
struct Echo {
    dice: Arc<Mutex<Dice>>,
    tasks: Tasks,
}

impl LinkEvents for Echo {
    fn opened(&mut self, stream: LinkStream, _open: Bytes) {
        let dice = self.dice.lock().unwrap().fork();
        self.tasks.spawn("vendor", async move {
            tokio::select! {
                _ = stream.aborted() => {}
                // The consumer sees how it ended.
                _ = echo(&stream, dice) => {}
            }
        });
    }

    fn control(&mut self, _frame: &Frame) -> Result<(), LinkFault> {
        Ok(())
    }

    fn peer_drains(&mut self, _drain: &Drain) {}
}

async fn echo(stream: &LinkStream, mut dice: Dice) -> Result<(), StreamOver> {
    sleep(dice.millis(200)).await;
    let manner = dice.below(12);
    if manner == 0 {
        stream.abort(Abort::new(AbortReason::VendorUnreachable));
        return Ok(());
    }
    stream.send_head(ResponseHead { status: StatusCode::OK, headers: HeaderMap::new() }.encode().unwrap())?;
    loop {
        match poll_fn(|cx| stream.poll_data(cx)).await {
            Incoming::Data(data) => {
                stream.capacity().await?;
                stream.send_data(data)?;
                match manner {
                    1 => {
                        stream.fail(Abort::new(AbortReason::VendorBroke));
                        return Ok(());
                    }
                    2 => sleep(dice.millis(100)).await,
                    _ => {}
                }
            }
            Incoming::End(trailers) => return stream.finish(trailers),
            Incoming::Aborted(_) => return Ok(()),
            Incoming::Pending => unreachable!("poll_data never says so"),
        }
    }
}

/// An agent that takes calls and answers none.
struct Keep {
    opened: mpsc::Sender<LinkStream>,
}

impl LinkEvents for Keep {
    fn opened(&mut self, stream: LinkStream, _open: Bytes) {
        self.opened.try_send(stream).unwrap_or_else(|_| panic!("one call only"));
    }

    fn control(&mut self, _frame: &Frame) -> Result<(), LinkFault> {
        Ok(())
    }

    fn peer_drains(&mut self, _drain: &Drain) {}
}

/// The hub opens all streams.
struct Nobody;

impl LinkEvents for Nobody {
    fn opened(&mut self, _stream: LinkStream, _open: Bytes) {}

    fn control(&mut self, _frame: &Frame) -> Result<(), LinkFault> {
        Ok(())
    }

    fn peer_drains(&mut self, _drain: &Drain) {}
}

fn start(
    side: Side,
    io: End,
    events: impl LinkEvents + 'static,
    tasks: &Tasks,
) -> (LinkHandle, mpsc::Receiver<LinkEnd>) {
    let handle = LinkHandle::new(side, Limits::default());
    let role = if side == Side::Hub { Role::Server } else { Role::Client };
    let socket = Socket::new(BufReader::new(io), role, Bytes::new());
    let (sender, ended) = mpsc::channel(1);
    let driven = handle.clone();
    tasks.spawn("link", async move {
        let end = run(socket, &driven, events).await;
        // Nobody asks in runs that look at the calls only.
        let _ = sender.send(end).await;
    });
    (handle, ended)
}

async fn until_quiet(hub: &LinkHandle, agent: &LinkHandle) {
    let quiet = async {
        while hub.stats().streams + agent.stats().streams > 0 {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(30), quiet).await.expect("streams are left over");
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect()
}
