//! One process gives to itself what it would give to another.
//!
//! Invariant: whoever does not say that it serves changes nothing.

use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;

use super::*;

#[tokio::test]
async fn a_hub_is_replaced_only_when_its_successor_serves() {
    let dir = tempfile::tempdir().unwrap();
    let (offer, mut lock, at) = offer(dir.path());
    let gives_up = async { drop(ask(dir.path()).await.unwrap().unwrap()) };
    tokio::select! {
        () = offer.taken() => panic!("the successor gave up"),
        () = gives_up => {}
    }
    assert!(DirLock::acquire(dir.path()).is_err(), "who gave up has freed nothing");

    let takes = async {
        let (taken, predecessor) = ask(dir.path()).await.unwrap().unwrap();
        assert!(matches!(predecessor.relieve(dir.path()).await, Ok(Relieved::Leaves)));
        taken
    };
    let ((), successor) = tokio::join!(offer.taken(), takes);
    lock.is_shared_now();
    drop((offer, lock));

    assert_eq!(successor.consumer.local_addr().unwrap(), at);
    std::net::TcpStream::connect(at).unwrap();
    assert!(DirLock::acquire(dir.path()).is_err(), "the successor holds it");
    drop(successor);
    DirLock::acquire(dir.path()).unwrap();
}

#[tokio::test]
async fn a_successor_that_was_given_up_does_not_take_the_hub_for_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (offer, _lock, _) = offer(dir.path());
    let (_taken, predecessor) = given_up(&offer, dir.path()).await;

    let relieved = predecessor.relieve(dir.path()).await;

    assert!(matches!(relieved, Err(HandoverError::GivenUp)), "{relieved:?}");
}

#[tokio::test]
async fn a_hub_that_ended_meanwhile_needs_no_relief() {
    let dir = tempfile::tempdir().unwrap();
    let (offer, _lock, _) = offer(dir.path());
    let (_taken, predecessor) = given_up(&offer, dir.path()).await;
    drop(offer);

    let relieved = predecessor.relieve(dir.path()).await;

    assert!(matches!(relieved, Ok(Relieved::HadEnded)), "{relieved:?}");
}

#[tokio::test]
async fn where_no_hub_listens_there_is_nothing_to_take() {
    let dir = tempfile::tempdir().unwrap();
    assert!(ask(dir.path()).await.unwrap().is_none());

    drop(offer(dir.path()));

    assert!(socket_path(dir.path()).exists(), "as a killed hub leaves it");
    assert!(ask(dir.path()).await.unwrap().is_none());
}

#[tokio::test]
async fn who_says_something_else_is_not_taken_for_a_successor() {
    let dir = tempfile::tempdir().unwrap();
    let (offer, _lock, _) = offer(dir.path());
    let talks = async {
        let mut stream = UnixStream::connect(socket_path(dir.path())).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        // Both may be refused: it is over when the other side is gone.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    };
    tokio::select! {
        () = offer.taken() => panic!("it was taken"),
        () = talks => {}
    }
}

#[tokio::test]
async fn a_hub_of_another_kind_is_not_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let socket = UnixListener::bind(socket_path(dir.path())).unwrap();
    let answers = async {
        let (mut stream, _) = socket.accept().await.unwrap();
        stream.write_all(b"keyhaven-hub hands over/2\n").await.unwrap();
    };

    let ((), asked) = tokio::join!(answers, ask(dir.path()));

    assert!(matches!(asked.map(|_| ()), Err(HandoverError::Foreign)));
}

#[tokio::test]
async fn the_socket_is_its_owners_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (_offer, _lock, _) = offer(dir.path());

    let mode = std::fs::metadata(socket_path(dir.path())).unwrap().permissions().mode();

    assert_eq!(mode & 0o777, 0o600);
}

/// What was given by a hub that then waited no longer.
async fn given_up(offer: &Offer, dir: &Path) -> (Taken, Predecessor) {
    tokio::select! {
        () = offer.taken() => panic!("nobody took it"),
        asked = ask(dir) => asked.unwrap().unwrap(),
    }
}

fn offer(dir: &Path) -> (Offer, DirLock, std::net::SocketAddr) {
    let lock = DirLock::acquire(dir).unwrap();
    let [consumer, tunnel, admin] = [0; 3].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    let at = consumer.local_addr().unwrap();
    let belongings = Belongings {
        consumer: consumer.into(),
        tunnel: tunnel.into(),
        admin: admin.as_fd().try_clone_to_owned().unwrap(),
        lock: lock.copy().unwrap().into(),
    };
    (Offer::open(dir, belongings).unwrap(), lock, at)
}
