//! The bodies that the upstream answers with.
//!
//! Invariant: a body that is dropped before its last byte was taken counts as dropped.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Body;
use hyper::body::Frame;
use hyper::body::SizeHint;
use tokio::time::Instant;
use tokio::time::Sleep;

use crate::clock::monotonic_ns;
use crate::model::MODEL;
use crate::seen::Unfinished;

/// The body of the plain answer, padding included.
const ANSWER_BYTES: usize = 1024;

/// One event of a stream.
const EVENT_BYTES: usize = 200;

/// A piece of a large answer.
const SLICE_BYTES: usize = 64 * 1024;

/// What is made once and sent often.
pub(crate) struct Stock {
    /// 1 KiB of JSON.
    pub(crate) json: Bytes,
    slice: Bytes,
    crumb: Bytes,
}

/// A body.
pub(crate) enum Answer {
    /// All of it at once.
    Whole(Option<Bytes>),
    /// So many bytes, or what is left of them.
    Bulk { slice: Bytes, left: u64, unfinished: Unfinished },
    /// A first piece, then silence.
    Half { piece: Option<Bytes>, bytes: u64, _unfinished: Unfinished },
    /// The same small piece for ever.
    Crumbs { crumb: Bytes, _unfinished: Unfinished },
    /// Events in their time.
    Events(Box<Events>),
}

/// Events that carry the time at which each was made.
pub(crate) struct Events {
    left: u64,
    every: Duration,
    next: Pin<Box<Sleep>>,
    unfinished: Unfinished,
}

impl Stock {
    /// Makes it.
    pub(crate) fn new() -> Self {
        let crumb = Bytes::from_static(b"data: {\"delta\":\"abcdefghijklmnopqrst\"}\n\n");
        Self { json: answer(), slice: Bytes::from(vec![b'x'; SLICE_BYTES]), crumb }
    }
}

impl Answer {
    /// All of it at once.
    pub(crate) fn whole(body: Bytes) -> Self {
        Self::Whole(Some(body))
    }

    /// So many bytes.
    pub(crate) fn bulk(stock: &Stock, bytes: u64, unfinished: Unfinished) -> Self {
        Self::Bulk { slice: stock.slice.clone(), left: bytes, unfinished }
    }

    /// Half of the plain answer.
    pub(crate) fn half(stock: &Stock, unfinished: Unfinished) -> Self {
        let piece = Some(stock.json.slice(..stock.json.len() / 2));
        Self::Half { piece, bytes: stock.json.len() as u64, _unfinished: unfinished }
    }

    /// Crumbs.
    pub(crate) fn crumbs(stock: &Stock, unfinished: Unfinished) -> Self {
        Self::Crumbs { crumb: stock.crumb.clone(), _unfinished: unfinished }
    }

    /// So many events, one in so many microseconds.
    pub(crate) fn events(count: u64, every_us: u64, unfinished: Unfinished) -> Self {
        let next = Box::pin(tokio::time::sleep(Duration::ZERO));
        Self::Events(Box::new(Events { left: count, every: Duration::from_micros(every_us), next, unfinished }))
    }
}

impl Events {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.left == 0 {
            self.unfinished.finish();
            return Poll::Ready(None);
        }
        ready!(Future::poll(self.next.as_mut(), cx));
        self.left -= 1;
        let next = self.next.deadline() + self.every;
        self.next.as_mut().reset(next.max(Instant::now()));
        Poll::Ready(Some(event()))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match self.get_mut() {
            Self::Whole(body) => body.take(),
            Self::Bulk { left: 0, .. } => None,
            Self::Bulk { slice, left, unfinished } => {
                let length = slice.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= length as u64;
                if *left == 0 {
                    unfinished.finish();
                }
                Some(slice.slice(..length))
            }
            Self::Half { piece: None, .. } => return Poll::Pending,
            Self::Half { piece, .. } => piece.take(),
            Self::Crumbs { crumb, .. } => Some(crumb.clone()),
            Self::Events(events) => ready!(events.poll_event(cx)),
        };
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_none(),
            Self::Bulk { left, .. } => *left == 0,
            Self::Half { .. } | Self::Crumbs { .. } | Self::Events(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64)),
            Self::Bulk { left, .. } => SizeHint::with_exact(*left),
            Self::Half { bytes, .. } => SizeHint::with_exact(*bytes),
            Self::Crumbs { .. } | Self::Events(_) => SizeHint::default(),
        }
    }
}

/// In the order of a vendor: what says that the model has stopped comes after the text, and the usage last.
fn answer() -> Bytes {
    let with_content = |content: &str| {
        format!(
            r#"{{"id":"chatcmpl-bench","object":"chat.completion","created":1700000000,"model":"{MODEL}","choices":[{{"index":0,"message":{{"role":"assistant","content":"{content}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":60,"completion_tokens":200,"total_tokens":260}}}}"#
        )
    };
    let padding = ANSWER_BYTES.saturating_sub(with_content("").len());
    Bytes::from(with_content(&"x".repeat(padding)))
}

fn event() -> Bytes {
    let mut event = format!("data: {{\"ns\":{:020},\"pad\":\"", monotonic_ns());
    let tail = "\"}\n\n";
    event.push_str(&"x".repeat(EVENT_BYTES.saturating_sub(event.len() + tail.len())));
    event.push_str(tail);
    Bytes::from(event)
}
