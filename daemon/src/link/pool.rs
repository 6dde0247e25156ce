//! Buffers that go round: a link takes one when bytes move and gives it back when they have
//! moved, so that ten thousand quiet links hold none.
//!
//! Invariant: a worker thread keeps a bounded number of buffers of bounded size.

use std::cell::RefCell;

use bytes::BytesMut;
use keyhaven_protocol::frame::BATCH_BYTES_MAX;
use keyhaven_protocol::frame::DATA_BYTES_MAX;

/// Buffers that a thread keeps. More are in use only while sockets are full.
const SPARE_MAX: usize = 4;

/// Room for the largest usual batch: a DATA frame and what goes with it.
const BUFFER_BYTES: usize = DATA_BYTES_MAX + 4 * 1024;

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer.
pub(super) fn take() -> BytesMut {
    let spare = SPARE.with_borrow_mut(Vec::pop);
    spare.unwrap_or_else(|| BytesMut::with_capacity(BUFFER_BYTES))
}

/// A buffer that is not needed any more. Those of an unusual size are let go.
pub(super) fn give_back(mut buffer: BytesMut) {
    buffer.clear();
    if !(BUFFER_BYTES..=BATCH_BYTES_MAX).contains(&buffer.capacity()) {
        return;
    }
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < SPARE_MAX {
            spare.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_empty_and_only_so_many_are_kept() {
        let mut buffers: Vec<BytesMut> = (0..SPARE_MAX + 3).map(|_| take()).collect();
        buffers[0].extend_from_slice(b"of another link");
        buffers.push(BytesMut::with_capacity(10));
        buffers.into_iter().for_each(give_back);

        assert_eq!(SPARE.with_borrow(Vec::len), SPARE_MAX);
        assert!(SPARE.with_borrow(|spare| spare.iter().all(|buffer| buffer.is_empty())));
        assert!(take().capacity() >= BUFFER_BYTES);
    }
}
