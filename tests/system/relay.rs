//! The kit's relay: an instrument that is not tested proves nothing.
//!
//! Invariant: no code of hub or agent takes part; both ends are plain sockets.

use anyhow::Result;
use keyhaven_tests::relay::Direction;
use keyhaven_tests::relay::Path;
use keyhaven_tests::relay::Relay;
use std::io::ErrorKind;
use std::time::Duration;
use std::time::Instant;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(10);

/// Long enough that something which comes would have come.
const A_WHILE: Duration = Duration::from_millis(200);

const BOTH: [Direction; 2] = [Direction::Up, Direction::Down];

#[tokio::test]
async fn a_silent_direction_keeps_what_it_gets_and_carries_it_when_it_is_healed() -> Result<()> {
    for (silent, other) in [(Direction::Up, Direction::Down), (Direction::Down, Direction::Up)] {
        let mut pair = Pair::over(Path::CLEAR).await?;
        pair.relay.silence(&[silent]);

        pair.end(silent).0.write_all(b"late").await?;
        pair.end(other).0.write_all(b"at once").await?;

        assert_eq!(read(pair.end(other).1, 7).await?, b"at once");
        let early = timeout(A_WHILE, pair.end(silent).1.read_u8()).await;
        assert!(early.is_err(), "{silent:?}: {early:?}");
        pair.relay.heal();
        assert_eq!(read(pair.end(silent).1, 4).await?, b"late");
    }
    Ok(())
}

#[tokio::test]
async fn a_silent_path_tells_no_end_and_no_reset() -> Result<()> {
    for is_reset in [false, true] {
        let Pair { relay, near, mut far } = Pair::over(Path::CLEAR).await?;
        relay.silence(&BOTH);

        if is_reset {
            near.set_zero_linger()?;
        }
        drop(near);

        let early = timeout(A_WHILE, far.read_u8()).await;
        assert!(early.is_err(), "reset {is_reset}: {early:?}");
        relay.heal();
        let told = timeout(SOON, far.read_u8()).await?.map_err(|error| error.kind());
        let expected = if is_reset { ErrorKind::ConnectionReset } else { ErrorKind::UnexpectedEof };
        assert_eq!(told, Err(expected));
    }
    Ok(())
}

#[tokio::test]
async fn a_reset_reaches_both_ends() -> Result<()> {
    let mut pair = Pair::over(Path::CLEAR).await?;

    pair.relay.reset();

    for end in [&mut pair.near, &mut pair.far] {
        let told = timeout(SOON, end.read_u8()).await?.map_err(|error| error.kind());
        assert_eq!(told, Err(ErrorKind::ConnectionReset));
    }
    Ok(())
}

#[tokio::test]
async fn one_direction_ends_and_the_other_goes_on() -> Result<()> {
    for (ended, other) in [(Direction::Up, Direction::Down), (Direction::Down, Direction::Up)] {
        let mut pair = Pair::over(Path::CLEAR).await?;

        pair.relay.half_close(ended);

        let told = timeout(SOON, pair.end(ended).1.read_u8()).await?.map_err(|error| error.kind());
        assert_eq!(told, Err(ErrorKind::UnexpectedEof), "{ended:?}");
        pair.end(other).0.write_all(b"still here").await?;
        assert_eq!(read(pair.end(other).1, 10).await?, b"still here");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_go_one_by_one_are_read_in_small_pieces() -> Result<()> {
    const BYTES: u8 = 250;
    let mut pair = Pair::over(Path { piece_bytes: 1, ..Path::CLEAR }).await?;
    let sent: Vec<u8> = (0..BYTES).collect();
    let began = Instant::now();

    // A reader that has to wait for the machine finds several at once.
    let mut reads = 0;
    while reads < usize::from(BYTES) / 2 {
        assert!(began.elapsed() < SOON, "{reads} reads");
        pair.near.write_all(&sent).await?;
        let mut came = Vec::new();
        reads = 0;
        while came.len() < sent.len() {
            timeout(SOON, pair.far.read_buf(&mut came)).await??;
            reads += 1;
        }
        assert_eq!(came, sent);
    }
    Ok(())
}

#[tokio::test]
async fn a_path_takes_the_time_of_its_delay_and_its_rate() -> Result<()> {
    const BYTES: usize = 200_000;
    let path = Path { bytes_per_second: Some(1_000_000), delay: Duration::from_millis(50), ..Path::CLEAR };
    let mut pair = Pair::over(path).await?;
    let began = Instant::now();

    let sent = vec![7; BYTES];
    let (written, came) = tokio::join!(pair.near.write_all(&sent), read(&mut pair.far, BYTES));

    written?;
    assert_eq!(came?, sent);
    // A few milliseconds are made up for, so that late timers cost no throughput.
    assert!(began.elapsed() > Duration::from_millis(240), "{:?}", began.elapsed());
    Ok(())
}

/// Two sockets with a relay between them.
struct Pair {
    relay: Relay,
    near: TcpStream,
    far: TcpStream,
}

impl Pair {
    async fn over(path: Path) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let relay = Relay::start(listener.local_addr()?, path)?;
        let near = TcpStream::connect(relay.addr()).await?;
        let (far, _) = timeout(SOON, listener.accept()).await??;
        assert_eq!(relay.connections(), 1);
        Ok(Self { relay, near, far })
    }

    /// Who sends that way, and who receives.
    fn end(&mut self, direction: Direction) -> (&mut TcpStream, &mut TcpStream) {
        match direction {
            Direction::Up => (&mut self.near, &mut self.far),
            Direction::Down => (&mut self.far, &mut self.near),
        }
    }
}

async fn read(from: &mut TcpStream, bytes: usize) -> Result<Vec<u8>> {
    let mut came = vec![0; bytes];
    timeout(SOON, from.read_exact(&mut came)).await??;
    Ok(came)
}
