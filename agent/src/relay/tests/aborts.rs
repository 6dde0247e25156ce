//! A call that is ended from outside, in every phase.
//!
//! Invariant: the vendor's socket is closed each time, and the call says why it ended.

use bytes::Bytes;
use keyhaven_daemon::link::LinkStream;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::frame::BodyLength;
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use super::scene::ENDLESS;
use super::scene::LONG;
use super::scene::QUESTION;
use super::scene::Scene;
use super::scene::seen;
use crate::provider::fake_vendor::Guest;

/// How far a call has come when it is ended.
#[derive(Debug, Clone, Copy)]
enum Phase {
    Connecting,
    Uploading,
    UploadStalled,
    Waiting,
    Streaming,
    NotStreaming,
    ResponseStalled,
}

const PHASES: [Phase; 7] = [
    Phase::Connecting,
    Phase::Uploading,
    Phase::UploadStalled,
    Phase::Waiting,
    Phase::Streaming,
    Phase::NotStreaming,
    Phase::ResponseStalled,
];

/// Who ends it.
#[derive(Debug, Clone, Copy)]
enum By {
    Consumer,
    LostLink,
    StoppingAgent,
}

#[tokio::test]
async fn in_every_phase_the_vendors_socket_is_closed_whoever_ends_the_call() {
    for by in [By::Consumer, By::LostLink, By::StoppingAgent] {
        for phase in PHASES {
            let scene = Scene::new().await;
            let (call, socket) = reach(&scene, phase).await;
            match by {
                By::Consumer => call.abort(Abort::new(AbortReason::ConsumerGone)),
                By::LostLink => scene.hub.close(),
                By::StoppingAgent => scene.stopping.cancel(),
            }

            let closed = timeout(LONG, socket.closed()).await;

            assert!(closed.is_ok(), "{by:?} while {phase:?}: the vendor's socket stays open");
            if let By::StoppingAgent = by {
                assert_eq!(seen(&call).await.broke, Some(AbortReason::Stopping), "{phase:?}");
            }
        }
    }
}

/// The vendor's end of a connection.
enum Socket {
    Bare(tokio::net::TcpStream),
    Secured(Box<Guest>),
}

impl Socket {
    async fn closed(self) {
        match self {
            Self::Bare(mut stream) => while stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {},
            Self::Secured(mut guest) => {
                guest.until_closed().await;
            }
        }
    }
}

async fn reach(scene: &Scene, phase: Phase) -> (LinkStream, Socket) {
    let secured = |guest| Socket::Secured(Box::new(guest));
    match phase {
        Phase::Connecting => {
            let call = scene.ask(QUESTION);
            (call, Socket::Bare(scene.vendor.accept_tcp().await))
        }
        Phase::Uploading => {
            let call = scene.open(BodyLength::Known(1_000_000));
            call.send_data(Bytes::from_static(br#"{"model":"#)).unwrap();
            let mut guest = scene.vendor.accept().await;
            guest.read_head().await;
            guest.read_exact(9).await;
            (call, secured(guest))
        }
        Phase::UploadStalled => {
            let call = scene.open(BodyLength::Chunked);
            call.send_data(Bytes::from_static(ENDLESS.as_bytes())).unwrap();
            let mut guest = scene.vendor.accept().await;
            guest.read_head().await;
            // Until nothing moves any more: the vendor reads nothing, and the credit is used up.
            while timeout(super::NO_CREDIT, call.capacity()).await.is_ok() {
                call.send_data(Bytes::from(vec![b'x'; 64 * 1024])).unwrap();
            }
            (call, secured(guest))
        }
        Phase::Waiting => {
            let call = scene.ask(QUESTION);
            (call, secured(scene.asked().await))
        }
        Phase::Streaming => begun(scene, "transfer-encoding: chunked\r\n\r\n3\r\none\r\n").await,
        Phase::NotStreaming => begun(scene, "content-length: 100\r\n\r\none").await,
        Phase::ResponseStalled => {
            let (call, mut socket) = begun(scene, "transfer-encoding: chunked\r\n\r\n").await;
            let Socket::Secured(guest) = &mut socket else { unreachable!("it has answered") };
            let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x1_0000));
            // The hub reads nothing; in the end the vendor cannot write.
            while timeout(super::NO_CREDIT, guest.say(&chunk)).await.is_ok() {}
            (call, socket)
        }
    }
}

async fn begun(scene: &Scene, answer: &str) -> (LinkStream, Socket) {
    let call = scene.ask(QUESTION);
    let mut guest = scene.asked().await;
    guest.say(&format!("HTTP/1.1 200 OK\r\n{answer}")).await;
    call.head().await.unwrap();
    (call, Socket::Secured(Box::new(guest)))
}
