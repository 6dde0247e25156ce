//! What a tunnel, and the connections to consumers and vendors, ask of TCP.
//!
//! Invariant: whoever carries a tunnel over TCP prepares it here, on both sides alike.

use std::io;
#[cfg(target_os = "linux")]
use std::time::Duration;

#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::net::TcpStream;

/// Unsent bytes in the system above which it takes no more. What waits there has been put
/// in order already and nothing urgent can overtake it: at 10 MB/s this is 1.6 ms. What is
/// on the wire and not acknowledged does not count.
#[cfg(target_os = "linux")]
const UNSENT_BYTES_MAX: u32 = 16 * 1024;

/// How long the system tries to deliver before it gives up, also after this process has:
/// without, it keeps the last words to a dead peer for a quarter of an hour.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_TIME_MAX: Duration = Duration::from_secs(30);

/// Sends at once, and keeps little in the system that was not sent: a peer that does not read
/// would else hold megabytes there.
///
/// # Errors
/// When the system refuses.
pub fn stage_little(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    Ok(())
}

/// Prepares a connection that will carry a tunnel. No keepalive: the link's own pings find
/// a dead peer sooner, and wake an idle machine less often.
///
/// # Errors
/// When the system refuses.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    stage_little(stream)?;
    #[cfg(target_os = "linux")]
    SockRef::from(stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED_TIME_MAX))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_prepared_connection_stages_little_and_gives_up_in_time() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (near, _far) = (near.unwrap(), far.unwrap());

        prepare(&near).unwrap();

        let socket = SockRef::from(&near);
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), UNSENT_BYTES_MAX);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED_TIME_MAX));
        assert!(near.nodelay().unwrap());
    }
}
