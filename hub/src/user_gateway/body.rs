//! The body of an answer: one of ours, or the vendor's as it comes.
//!
//! Invariant: a vendor's body that broke off never ends as if it were complete.

use std::pin::Pin;
use std::task::Context;
use std::task::Poll;

use bytes::Bytes;
use http_body::Body;
use http_body::Frame;
use http_body::SizeHint;

use super::response::Relayed;
use super::response::Truncated;

/// The body of an answer.
pub(super) enum AnswerBody {
    /// Ours, whole.
    Ours(Option<Bytes>),
    /// The vendor's.
    Relayed(Box<Relayed>),
}

impl AnswerBody {
    pub(super) fn ours(body: Bytes) -> Self {
        Self::Ours(Some(body).filter(|body| !body.is_empty()))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Truncated;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Truncated>>> {
        match self.get_mut() {
            Self::Ours(body) => Poll::Ready(body.take().map(|body| Ok(Frame::data(body)))),
            Self::Relayed(relayed) => relayed.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Ours(body) => body.is_none(),
            Self::Relayed(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Ours(body) => SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64)),
            Self::Relayed(_) => SizeHint::default(),
        }
    }
}
