//! The vendor's answer on its way to the hub: what comes leaves, as it came.
//!
//! Invariant: an answer that broke off never ends as if it were complete, and while the
//! consumer does not read, the rest of the request still moves.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use bytes::BytesMut;
use http_body::Body as _;
use http_body::Frame;
use hyper::body::Incoming;
use keyhaven_daemon::link::LinkStream;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::metering::Ending;
use keyhaven_protocol::request_scan::SessionScan;
use tokio::time::Instant;

use super::End;
use super::exchange::reason_of_http;
use super::gone;
use super::metered::Metered;
use super::patience::Patience;
use super::realtime::Conversation;
use super::upload::CallBody;
use super::upload::Upload;
use crate::provider::VendorClient;
use crate::provider::VendorConnection;

/// An answer whose head has come.
pub(super) struct Answer {
    connection: VendorConnection<Box<CallBody>>,
    body: Incoming,
    upload: Upload,
    patience: Patience,
    idle: Duration,
    moved_at: Instant,
    ended: bool,
    /// Not after a request for an upgrade: who knows what the vendor now speaks.
    may_be_kept: bool,
}

type Piece = Option<hyper::Result<Frame<Bytes>>>;

impl Answer {
    pub(super) fn new(
        connection: VendorConnection<Box<CallBody>>,
        body: Incoming,
        upload: Upload,
        mut patience: Patience,
        idle: Duration,
        may_be_kept: bool,
    ) -> Self {
        let (moved_at, ended) = (Instant::now(), body.is_end_stream());
        patience.not_beyond(moved_at + idle);
        Self { connection, body, upload, patience, idle, moved_at, ended, may_be_kept }
    }

    /// The begin of the body: all of it, or so many bytes at least, or what came in time.
    pub(super) async fn begin(&mut self, bytes: usize, by: Instant) -> BytesMut {
        let mut begin = BytesMut::new();
        self.patience.not_beyond(by);
        while begin.len() < bytes && !self.ended {
            let piece = poll_fn(|cx| match self.connection.poll_frame(&mut self.body, cx) {
                Poll::Ready(piece) => Poll::Ready(Some(piece)),
                Poll::Pending => self.patience.poll_late(cx, || by).map(|()| None),
            });
            match piece.await {
                Some(Some(Ok(piece))) => begin.extend_from_slice(&self.data_of(piece)),
                Some(None) => self.ended = true,
                // Whoever reads on meets the same error.
                Some(Some(Err(_))) | None => break,
            }
        }
        begin
    }

    /// The connection as a WebSocket, when the vendor agreed to this one.
    pub(super) fn into_conversation(self, stream: &LinkStream, scan: SessionScan) -> Option<Conversation<'_>> {
        let Self { connection, patience, idle, .. } = self;
        let (early, vendor) = connection.into_raw()?;
        Some(Conversation { stream, vendor, early, scan, patience, idle })
    }

    /// Nothing more is wanted of this answer.
    pub(super) fn keep_connection(self, client: &VendorClient<Box<CallBody>>) {
        if self.may_be_kept {
            drop(self.body);
            client.keep(self.connection);
        }
    }

    /// Sends head and body, beginning with what was read of it already.
    pub(super) async fn relay(
        mut self,
        stream: &LinkStream,
        head: Bytes,
        begin: Option<Bytes>,
        client: &VendorClient<Box<CallBody>>,
        metered: &mut Metered,
    ) -> End {
        match self.relay_all(stream, head, begin, metered).await {
            Ok(()) => {
                self.keep_connection(client);
                End::Served
            }
            Err(end) => end,
        }
    }

    async fn relay_all(
        &mut self,
        stream: &LinkStream,
        head: Bytes,
        begin: Option<Bytes>,
        metered: &mut Metered,
    ) -> Result<(), End> {
        // What is there already leaves in one message with the head; nothing is waited for.
        let mut next = None;
        let data = match begin {
            Some(begin) => begin,
            None => match self.piece_at_hand().await {
                Some(Some(Ok(piece))) => self.data_of(piece),
                Some(None) => {
                    self.ended = true;
                    Bytes::new()
                }
                other => {
                    next = other;
                    Bytes::new()
                }
            },
        };
        let complete = self.ended;
        metered.piece(stream, &data);
        if complete {
            metered.ends(stream, Ending::Complete);
        }
        let sent = match data.is_empty() && !complete {
            true => stream.send_head(head),
            false => stream.respond(head, data, complete),
        };
        sent.map_err(|_| gone(stream))?;
        while !self.ended {
            let piece = match next.take() {
                Some(piece) => piece,
                None => self.next_piece(stream, metered).await?,
            };
            self.pass_on(stream, piece, metered).await?;
        }
        Ok(())
    }

    async fn pass_on(&mut self, stream: &LinkStream, piece: Piece, metered: &mut Metered) -> Result<(), End> {
        let sent = match piece {
            None => {
                self.ended = true;
                metered.ends(stream, Ending::Complete);
                stream.finish(Bytes::new())
            }
            Some(Err(error)) => return Err(self.broken(stream, &error, metered)),
            Some(Ok(piece)) => {
                let data = self.data_of(piece);
                if data.is_empty() && !self.ended {
                    return Ok(());
                }
                self.room(stream).await?;
                metered.piece(stream, &data);
                match self.ended {
                    true => {
                        metered.ends(stream, Ending::Complete);
                        stream.send_last(data, Bytes::new())
                    }
                    false => stream.send_data(data),
                }
            }
        };
        sent.map_err(|_| gone(stream))
    }

    /// The next piece, if it is there already.
    async fn piece_at_hand(&mut self) -> Option<Piece> {
        if self.ended {
            return Some(None);
        }
        poll_fn(|cx| match self.connection.poll_frame(&mut self.body, cx) {
            Poll::Ready(piece) => Poll::Ready(Some(piece)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    async fn next_piece(&mut self, stream: &LinkStream, metered: &mut Metered) -> Result<Piece, End> {
        let due = self.moved_at + self.idle;
        let piece = poll_fn(|cx| match self.connection.poll_frame(&mut self.body, cx) {
            Poll::Ready(piece) => Poll::Ready(Some(piece)),
            Poll::Pending => self.patience.poll_late(cx, || due).map(|()| None),
        });
        piece.await.ok_or_else(|| {
            let abort = Abort::with_detail(AbortReason::VendorTimeout, "the response stopped");
            metered.ends(stream, Ending::Broke);
            stream.fail(abort);
            End::Aborted(AbortReason::VendorTimeout)
        })
    }

    /// Waits until the link takes more.
    async fn room(&mut self, stream: &LinkStream) -> Result<(), End> {
        let due = self.moved_at + self.idle;
        let room = poll_fn(|cx| {
            if let Poll::Ready(room) = stream.poll_capacity(cx) {
                return Poll::Ready(room.map_err(|_| gone(stream)));
            }
            self.connection.poll_io(cx);
            let late = || End::Refused(Abort::with_detail(AbortReason::Deadline, "nobody reads the response"));
            self.patience.poll_late(cx, || due).map(|()| Err(late()))
        });
        room.await?;
        self.moved_at = Instant::now();
        Ok(())
    }

    /// A piece's bytes. Trailers stay here: the consumer's `TE` is not forwarded, so none
    /// are owed.
    fn data_of(&mut self, piece: Frame<Bytes>) -> Bytes {
        self.moved_at = Instant::now();
        self.ended = self.body.is_end_stream();
        piece.into_data().unwrap_or_default()
    }

    fn broken(&self, stream: &LinkStream, error: &hyper::Error, metered: &mut Metered) -> End {
        if let Some(abort) = stream.abort_received() {
            return End::Aborted(abort.reason);
        }
        let broken = || Abort::with_detail(reason_of_http(error), "the response broke off");
        let abort = self.upload.broke().unwrap_or_else(broken);
        let reason = abort.reason;
        metered.ends(stream, Ending::Broke);
        stream.fail(abort);
        End::Aborted(reason)
    }
}
