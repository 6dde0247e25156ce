//! A thread with a runtime of its own, on which a test server lives.
//!
//! Invariant: dropping the stage ends the server and every connection of it before `drop` returns,
//! whatever runtime the test itself uses and however long the test blocks it.

use anyhow::Context;
use anyhow::Result;
use keyhaven_daemon::link::stage_little;
use std::future::Future;
use std::net::SocketAddr;
use std::thread::JoinHandle;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) struct Stage {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Stage {
    /// Runs `serve` on a new thread until it ends or the stage is dropped.
    pub(crate) fn open<F, S>(name: &str, serve: F) -> Result<Self>
    where
        F: FnOnce() -> S + Send + 'static,
        S: Future<Output = ()>,
    {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start a runtime for a test server")?;
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        biased;
                        () = stopped.cancelled() => {}
                        () = serve() => {}
                    }
                });
            })
            .context("start a thread for a test server")?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic of the server has been printed by its own thread.
            let _ = thread.join();
        }
    }
}

/// A loopback listener on a free port, not yet tied to a runtime.
pub(crate) fn listen() -> Result<(std::net::TcpListener, SocketAddr)> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).context("bind a loopback port")?;
    listener.set_nonblocking(true)?;
    let addr = listener.local_addr()?;
    Ok((listener, addr))
}

/// Accepts for ever; each connection is a task that ends with the returned future.
pub(crate) async fn accept<H, S>(listener: std::net::TcpListener, handle: H)
where
    H: Fn(TcpStream) -> S,
    S: Future<Output = ()> + Send + 'static,
{
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((socket, _)) = accepted else { continue };
                // Latency is what the tests look at; what waits in the system looks as if it were sent.
                let _ = stage_little(&socket);
                connections.spawn(handle(socket));
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}
