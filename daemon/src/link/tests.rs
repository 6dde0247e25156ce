//! The driver over an in-memory connection: what calls see of a link that works, stalls,
//! lies, falls silent or goes away.
//!
//! Invariant: no real socket, and no waiting for real time.

use std::time::Duration;

use bytes::Bytes;
use bytes::BytesMut;
use futures_util::SinkExt;
use futures_util::StreamExt;
use http::HeaderMap;
use http::StatusCode;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::frame::BodyLength;
use keyhaven_protocol::frame::Drain;
use keyhaven_protocol::frame::Frame;
use keyhaven_protocol::frame::FrameKind;
use keyhaven_protocol::frame::OpenHead;
use keyhaven_protocol::frame::Refuse;
use keyhaven_protocol::frame::ResponseHead;
use keyhaven_protocol::frame::from_json;
use keyhaven_protocol::frame::next_frame;
use keyhaven_protocol::frame::put_frame;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::id::VendorKeyId;
use keyhaven_protocol::link::Incoming;
use keyhaven_protocol::link::Limits;
use keyhaven_protocol::link::LinkFault;
use keyhaven_protocol::link::Side;
use keyhaven_protocol::websocket;
use tokio::io::BufReader;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::LinkEnd;
use super::LinkEvents;
use super::LinkHandle;
use super::LinkStream;
use super::Socket;
use super::run;
use crate::tasks::Tasks;

#[tokio::test]
async fn a_call_goes_there_and_back_over_a_socket() {
    let mut pair = Pair::new();
    let call = pair.hub.open(&open()).unwrap();
    call.send_last(Bytes::from_static(b"question"), Bytes::new()).unwrap();

    let served = pair.opened.recv().await.unwrap();
    assert_eq!(read_all(&served).await, (b"question".to_vec(), None));
    served.respond(head(), Bytes::from_static(b"answer"), true).unwrap();
    drop(served);

    assert_eq!(call.head().await, Ok(head()));
    assert_eq!(read_all(&call).await, (b"answer".to_vec(), None));
    drop(call);
    until(|| pair.hub.stats().streams == 0 && pair.agent.stats().streams == 0).await;
}

#[tokio::test]
async fn a_large_body_passes_through_small_windows_unchanged() {
    let mut pair = Pair::new();
    let call = pair.hub.open(&open()).unwrap();
    call.finish(Bytes::new()).unwrap();
    let served = pair.opened.recv().await.unwrap();
    served.send_head(head()).unwrap();
    let piece: Bytes = (0..100_000_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let sent = piece.clone();
    pair.tasks.spawn("vendor", async move {
        for _ in 0..40 {
            served.capacity().await.unwrap();
            served.send_data(sent.clone()).unwrap();
        }
        served.finish(Bytes::new()).unwrap();
    });

    let (body, end) = read_all(&call).await;

    assert_eq!(end, None);
    assert!(body.len() == 40 * piece.len() && body.chunks(piece.len()).all(|chunk| chunk == piece));
}

#[tokio::test]
async fn a_call_that_is_dropped_is_aborted_at_the_other_end() {
    let mut pair = Pair::new();
    let call = pair.hub.open(&open()).unwrap();
    let served = pair.opened.recv().await.unwrap();
    drop(call);

    assert_eq!(served.aborted().await.reason, AbortReason::ConsumerGone);
}

#[tokio::test]
async fn what_outlives_the_response_can_be_waited_for() {
    let mut pair = Pair::new();
    let call = pair.hub.open(&open()).unwrap();
    let served = pair.opened.recv().await.unwrap();
    served.respond(head(), Bytes::new(), true).unwrap();
    assert_eq!(call.head().await, Ok(head()));
    assert_eq!(read_all(&call).await, (Vec::new(), None));

    call.send_last(Bytes::from_static(b"last words"), Bytes::new()).unwrap();
    std::future::poll_fn(|cx| call.poll_sent_all(cx)).await;
    drop(call);

    assert_eq!(read_all(&served).await, (b"last words".to_vec(), None));
}

#[tokio::test]
async fn calls_on_a_connection_that_breaks_are_told_and_new_ones_are_refused() {
    let mut pair = Pair::new();
    let call = pair.hub.open(&open()).unwrap();
    let served = pair.opened.recv().await.unwrap();
    pair.agent.close();

    assert_eq!(call.head().await.map_err(|abort| abort.reason), Err(AbortReason::LinkLost));
    assert_eq!(served.aborted().await.reason, AbortReason::LinkLost);
    assert!(matches!(pair.hub_ended.recv().await, Some(LinkEnd::ClosedByPeer)));
    assert!(pair.hub.open(&open()).is_err());
}

#[tokio::test]
async fn a_draining_link_closes_after_its_last_call() {
    let mut pair = Pair::new();
    let call = pair.hub.open(&open()).unwrap();
    let served = pair.opened.recv().await.unwrap();
    pair.hub.drain(&Drain { deadline_ms: 1000 });
    assert!(pair.hub.open(&open()).is_err());
    served.respond(head(), Bytes::from_static(b"late"), true).unwrap();
    drop(served);

    assert_eq!(read_all(&call).await, (b"late".to_vec(), None));
    drop(call);
    assert!(matches!(pair.hub_ended.recv().await, Some(LinkEnd::Closed)));
}

#[tokio::test]
async fn a_refusal_is_what_the_other_side_hears() {
    let mut pair = Pair::new();
    let refuse = Refuse { code: ErrorCode::AgentRevoked.to_string(), message: "revoked".into(), retry_after_ms: 0 };
    pair.hub.refuse(&refuse);

    let heard = pair.agent_ended.recv().await;
    assert!(matches!(heard, Some(LinkEnd::Refused(heard)) if heard == refuse));
}

#[tokio::test]
async fn a_peer_that_breaks_the_protocol_is_told_so() {
    let mut truncated = BytesMut::from(&ping_frame()[..]);
    truncated.truncate(12);
    let mut unknown = BytesMut::new();
    put_frame(&mut unknown, FrameKind::Challenge, 0, b"{}");
    for message in [truncated, unknown] {
        let (handle, mut socket) = hub_and_raw_peer().await;
        socket.send(Message::Binary(message.freeze())).await.unwrap();

        let refuse = until_refused(&mut socket).await;
        assert_eq!(refuse.code, ErrorCode::LinkProtocol.to_string());
        assert!(handle.open(&open()).is_err());
    }
}

#[tokio::test]
async fn a_ping_is_answered_and_a_pong_passed_over() {
    let (handle, mut socket) = hub_and_raw_peer().await;
    socket.send(Message::Pong(Bytes::from_static(b"unasked"))).await.unwrap();
    socket.send(Message::Ping(Bytes::from_static(b"x"))).await.unwrap();
    while socket.next().await.unwrap().unwrap() != Message::Pong(Bytes::from_static(b"x")) {}
    let call = handle.open(&open()).unwrap();

    until_frame(&mut socket, FrameKind::Open).await;
    drop(call);
    until_frame(&mut socket, FrameKind::Abort).await;
}

#[tokio::test]
async fn a_peer_that_breaks_the_websocket_is_told_so() {
    let (handle, mut socket) = hub_and_raw_peer().await;
    socket.send(Message::text("hello")).await.unwrap();

    let refuse = until_refused(&mut socket).await;
    assert_eq!(refuse.code, ErrorCode::LinkProtocol.to_string());
    assert!(handle.open(&open()).is_err());
}

#[tokio::test]
async fn last_words_are_heard_though_more_was_on_its_way() {
    let (handle, mut socket) = hub_and_raw_peer().await;
    socket.send(Message::Binary(ping_frame())).await.unwrap();
    let refuse = Refuse { code: ErrorCode::AgentRevoked.to_string(), message: "revoked".into(), retry_after_ms: 0 };
    handle.refuse(&refuse);
    let mut late = 0;
    while socket.send(Message::Binary(ping_frame())).await.is_ok() && late < 10 {
        late += 1;
    }

    assert_eq!(until_refused(&mut socket).await, refuse);
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_given_up_sooner_with_work_in_flight() {
    let (handle, socket) = hub_and_raw_peer().await;
    let call = handle.open(&open()).unwrap();
    let began = tokio::time::Instant::now();

    let told = call.head().await.map_err(|abort| abort.reason);

    assert_eq!(told, Err(AbortReason::LinkLost));
    assert!(began.elapsed() <= Duration::from_secs(6), "{:?}", began.elapsed());
    drop(socket);
}

#[tokio::test]
async fn a_head_too_large_for_a_frame_is_refused_before_it_is_sent() {
    let pair = Pair::new();
    let mut headers = HeaderMap::new();
    for _ in 0..4 {
        headers.append("x-large", "v".repeat(40_000).parse().unwrap());
    }

    assert!(pair.hub.open(&OpenHead { headers, ..open() }).is_err());
    assert!(pair.hub.open(&open()).is_ok());
}

struct Pair {
    hub: LinkHandle,
    agent: LinkHandle,
    opened: mpsc::Receiver<LinkStream>,
    hub_ended: mpsc::Receiver<LinkEnd>,
    agent_ended: mpsc::Receiver<LinkEnd>,
    tasks: Tasks,
}

impl Pair {
    fn new() -> Self {
        let tasks = Tasks::new();
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (opened, receiver) = mpsc::channel(16);
        let (hub, hub_ended) = start(Side::Hub, near, None, &tasks);
        let (agent, agent_ended) = start(Side::Agent, far, Some(opened), &tasks);
        Self { hub, agent, opened: receiver, hub_ended, agent_ended, tasks }
    }
}

fn start(
    side: Side,
    io: DuplexStream,
    opened: Option<mpsc::Sender<LinkStream>>,
    tasks: &Tasks,
) -> (LinkHandle, mpsc::Receiver<LinkEnd>) {
    let handle = LinkHandle::new(side, Limits::default());
    let role = if side == Side::Hub { websocket::Role::Server } else { websocket::Role::Client };
    let socket = Socket::new(BufReader::new(io), role, Bytes::new());
    let (sender, ended) = mpsc::channel(1);
    let driven = handle.clone();
    tasks.spawn("link", async move {
        let end = run(socket, &driven, Collect { opened }).await;
        let _ = sender.send(end).await;
    });
    (handle, ended)
}

async fn hub_and_raw_peer() -> (LinkHandle, WebSocketStream<DuplexStream>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (handle, _) = start(Side::Hub, near, None, &Tasks::new());
    let socket = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
    (handle, socket)
}

struct Collect {
    opened: Option<mpsc::Sender<LinkStream>>,
}

impl LinkEvents for Collect {
    fn opened(&mut self, stream: LinkStream, open: Bytes) {
        OpenHead::decode(open).unwrap();
        self.opened.as_ref().unwrap().try_send(stream).unwrap_or_else(|_| panic!("nobody takes the stream"));
    }

    fn control(&mut self, _frame: &Frame) -> Result<(), LinkFault> {
        Ok(())
    }

    fn peer_drains(&mut self, _drain: &Drain) {}
}

async fn read_all(stream: &LinkStream) -> (Vec<u8>, Option<Abort>) {
    let mut read = Vec::new();
    loop {
        match std::future::poll_fn(|cx| stream.poll_data(cx)).await {
            Incoming::Data(data) => read.extend_from_slice(&data),
            Incoming::End(_) => return (read, None),
            Incoming::Aborted(abort) => return (read, Some(abort)),
            Incoming::Pending => unreachable!("poll_data never says so"),
        }
    }
}

async fn until_frame(socket: &mut WebSocketStream<DuplexStream>, kind: FrameKind) -> Frame {
    loop {
        let Message::Binary(mut batch) = socket.next().await.unwrap().unwrap() else { continue };
        while let Some(frame) = next_frame(&mut batch).unwrap() {
            if frame.kind == kind.number() {
                return frame;
            }
        }
    }
}

async fn until_refused(socket: &mut WebSocketStream<DuplexStream>) -> Refuse {
    let frame = until_frame(socket, FrameKind::Refuse).await;
    from_json(&frame.payload).unwrap()
}

fn ping_frame() -> Bytes {
    let mut out = BytesMut::new();
    put_frame(&mut out, FrameKind::Ping, 0, &[0; 8]);
    out.freeze()
}

async fn until(reached: impl Fn() -> bool) {
    while !reached() {
        tokio::task::yield_now().await;
    }
}

pub(super) fn open() -> OpenHead {
    OpenHead {
        call: CallId([1; 16]),
        vendor_key: VendorKeyId([2; 16]),
        endpoint: 101,
        parameter: None,
        query: None,
        body: BodyLength::Chunked,
        ticket: None,
        headers: HeaderMap::new(),
    }
}

fn head() -> Bytes {
    ResponseHead { status: StatusCode::OK, headers: HeaderMap::new() }.encode().unwrap()
}
