//! Open files from one process to another, by SCM_RIGHTS.
//!
//! Invariant: at most [`COUNT`] descriptors are taken, and each is closed with its owner.

use std::io;
use std::io::IoSlice;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;

use rustix::net::RecvAncillaryBuffer;
use rustix::net::RecvAncillaryMessage;
use rustix::net::RecvFlags;
use rustix::net::SendAncillaryBuffer;
use rustix::net::SendAncillaryMessage;
use rustix::net::SendFlags;
use rustix::net::recvmsg;
use rustix::net::sendmsg;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// How many go in one message.
pub(super) const COUNT: usize = 4;

const SPACE: usize = rustix::cmsg_space!(ScmRights(COUNT));

/// Sends a short message with descriptors; on a fresh connection it goes as a whole.
pub(super) async fn send(stream: &UnixStream, message: &[u8], files: [&OwnedFd; COUNT]) -> io::Result<()> {
    let files = files.map(AsFd::as_fd);
    let sent = stream.async_io(Interest::WRITABLE, || {
        let mut space = [MaybeUninit::uninit(); SPACE];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&files)) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        Ok(sendmsg(stream, &[IoSlice::new(message)], &mut ancillary, SendFlags::empty())?)
    });
    if sent.await? == message.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives such a message: its length and the descriptors, or those that came instead of
/// [`COUNT`] of them.
pub(super) async fn receive(
    stream: &UnixStream,
    message: &mut [u8],
) -> io::Result<(usize, Result<[OwnedFd; COUNT], Vec<OwnedFd>>)> {
    stream
        .async_io(Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); SPACE];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let received = recvmsg(stream, &mut [IoSliceMut::new(message)], &mut ancillary, flags())?;
            let mut files = Vec::new();
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    files.extend(rights);
                }
            }
            Ok((received.bytes, files.try_into()))
        })
        .await
}

#[cfg(not(target_vendor = "apple"))]
fn flags() -> RecvFlags {
    RecvFlags::CMSG_CLOEXEC
}

#[cfg(target_vendor = "apple")]
fn flags() -> RecvFlags {
    RecvFlags::empty()
}
