//! Connections that move as much as they can while something else is measured.
//!
//! Invariant: they run on threads of their own, so that they do not delay who measures; one
//! that ends by itself is an error.

use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;

use anyhow::Result;
use anyhow::bail;

use crate::model::Model;
use crate::street::Peer;
use crate::wire;

/// One upload of many; a consumer's request may have 64 MiB.
const UPLOAD_BYTES: usize = 16 * 1024 * 1024;

/// Which way the saturating streams go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Requests are large.
    Up,
    /// Answers are large.
    Down,
}

/// Saturating connections.
pub(crate) struct Crowd {
    over: Arc<AtomicBool>,
    moved: Arc<AtomicU64>,
    sockets: Vec<TcpStream>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Crowd {
    /// Begins.
    pub(crate) fn gather(peer: &Peer, direction: Direction, count: usize) -> Result<Self> {
        let mut crowd = Self { over: Arc::default(), moved: Arc::default(), sockets: Vec::new(), threads: Vec::new() };
        let request = Arc::new(match direction {
            Direction::Down => wire::request(peer, &Model::Bulk { bytes: 1 << 40 }.request_body()),
            Direction::Up => wire::request(peer, &Model::Json.request_body_of(UPLOAD_BYTES)),
        });
        for _ in 0..count {
            let mut socket = TcpStream::connect(peer.addr)?;
            crowd.sockets.push(socket.try_clone()?);
            let (over, moved, request) = (crowd.over.clone(), crowd.moved.clone(), request.clone());
            crowd.threads.push(thread::spawn(move || match direction {
                Direction::Down => download(&mut socket, &request, &moved),
                Direction::Up => upload_again_and_again(&mut socket, &request, &over, &moved),
            }));
        }
        Ok(crowd)
    }

    /// Bytes moved so far.
    pub(crate) fn moved(&self) -> u64 {
        self.moved.load(Ordering::SeqCst)
    }

    /// Ends all connections; the bytes they moved, or an error when one had ended by itself.
    pub(crate) fn dismiss(self) -> Result<u64> {
        let count = self.threads.len();
        let ended = self.threads.iter().filter(|thread| thread.is_finished()).count();
        self.over.store(true, Ordering::SeqCst);
        let bytes = self.moved();
        for socket in &self.sockets {
            // It may be gone already, which was counted above.
            let _ = socket.shutdown(Shutdown::Both);
        }
        for thread in self.threads {
            let _ = thread.join();
        }
        if ended > 0 {
            bail!("{ended} of {count} saturating connections ended by themselves");
        }
        Ok(bytes)
    }
}

fn download(socket: &mut TcpStream, request: &[u8], moved: &AtomicU64) {
    let mut buffer = vec![0; 256 * 1024];
    if socket.write_all(request).is_ok() {
        while let Ok(read @ 1..) = socket.read(&mut buffer) {
            moved.fetch_add(read as u64, Ordering::Relaxed);
        }
    }
}

fn upload_again_and_again(socket: &mut TcpStream, request: &[u8], over: &AtomicBool, moved: &AtomicU64) {
    let mut buffer = vec![0; 64 * 1024];
    while !over.load(Ordering::SeqCst) {
        for piece in request.chunks(64 * 1024) {
            if socket.write_all(piece).is_err() {
                return;
            }
            moved.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
        // The answer is one of 1 KiB: it comes whole, or in two reads of which the second
        // is taken for the next one's beginning, which does no harm here.
        match socket.read(&mut buffer) {
            Ok(read @ 12..) if buffer[..read].starts_with(b"HTTP/1.1 200") => {}
            Ok(read @ 1..) if !buffer[..read].starts_with(b"HTTP/1.1") => {}
            Ok(_) | Err(_) => return,
        }
    }
}
