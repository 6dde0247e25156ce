//! One HTTP/1.1 connection to a vendor. It has no task of its own: whoever waits for an
//! answer drives it, so that dropping it closes the socket at once.
//!
//! Invariant: it counts as idle only when the last answer was read to its end, the last
//! request was written to its end, and nothing came that nobody asked for.

use std::future::poll_fn;
use std::pin::Pin;
use std::pin::pin;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use bytes::Bytes;
use http::Request;
use http::Response;
use http_body::Body;
use http_body::Frame;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::client::conn::http1::Connection;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;

use super::connector::VendorStream;

/// Bytes hyper may buffer of a vendor's head or body on one connection.
const BUFFER_BYTES_MAX: usize = 128 * 1024;

/// What a body's error must turn into for hyper.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A connection that sends bodies of one kind.
pub struct VendorConnection<B>
where
    B: Body + 'static,
{
    // It is handed on several times in each call, and HTTP and TLS are kilobytes of state.
    live: Box<Live<B>>,
}

struct Live<B>
where
    B: Body + 'static,
{
    host: Box<str>,
    sender: SendRequest<B>,
    driver: Connection<TokioIo<VendorStream>, B>,
    over: bool,
}

/// Why there is no answer to a request.
pub(super) struct Unanswered<B> {
    pub(super) error: hyper::Error,
    /// The request, when nothing of it was sent.
    pub(super) unsent: Option<Request<B>>,
}

impl<B> VendorConnection<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BodyError>,
{
    pub(super) async fn new(host: &str, stream: VendorStream) -> hyper::Result<Self> {
        let handshake = http1::Builder::new().max_buf_size(BUFFER_BYTES_MAX).handshake(TokioIo::new(stream)).await?;
        let (sender, driver) = handshake;
        Ok(Self { live: Box::new(Live { host: host.into(), sender, driver, over: false }) })
    }

    pub(super) fn host(&self) -> &str {
        &self.live.host
    }

    /// Sends a request and waits for the head of the answer.
    pub(super) async fn send(&mut self, request: Request<B>) -> Result<Response<Incoming>, Unanswered<B>> {
        let Live { sender, driver, over, .. } = &mut *self.live;
        let mut answer = pin!(sender.try_send_request(request));
        let answered = poll_fn(|cx| {
            // What went wrong is what the answer says.
            *over = *over || driver.poll_without_shutdown(cx).is_ready();
            answer.as_mut().poll(cx)
        });
        answered.await.map_err(|mut error| {
            let unsent = error.take_message();
            Unanswered { error: error.into_error(), unsent }
        })
    }

    /// Moves bytes both ways, as far as they go without waiting.
    pub fn poll_io(&mut self, cx: &mut Context<'_>) {
        // What went wrong is what the answer's body says.
        let Live { driver, over, .. } = &mut *self.live;
        *over = *over || driver.poll_without_shutdown(cx).is_ready();
    }

    /// The next piece of the answer's body.
    pub fn poll_frame(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        self.poll_io(cx);
        Pin::new(body).poll_frame(cx)
    }

    /// Whether another request may be sent, after a look at what the vendor did meanwhile.
    pub(super) fn is_idle(&mut self) -> bool {
        // Nobody waits: what comes while it is kept is looked at before its next use.
        let mut nobody = Context::from_waker(Waker::noop());
        self.poll_io(&mut nobody);
        !self.live.over && self.live.sender.is_ready()
    }

    /// The connection's bytes from here on, after the vendor changed protocols: what came
    /// already, and the stream. `None` when the vendor did not.
    pub fn into_raw(mut self) -> Option<(Bytes, VendorStream)> {
        let mut nobody = Context::from_waker(Waker::noop());
        self.poll_io(&mut nobody);
        let parts = self.live.over.then(|| self.live.driver.into_parts())?;
        Some((parts.read_buf, parts.io.into_inner()))
    }
}
