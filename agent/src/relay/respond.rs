//! The exchange with the vendor: head and body back through the stream, as they come.
//!
//! Invariant: an abort closes the vendor's connection at once, in every phase.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::Response;
use http::StatusCode;
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::client::legacy::Error;
use keyhaven_daemon::link::LinkStream;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::frame::FrameKind;
use keyhaven_protocol::frame::ResponseHead;
use keyhaven_protocol::provider::headers::response_to_consumer;
use tokio::time::Instant;
use tokio::time::sleep_until;

use super::End;
use super::body::CallBody;
use super::body::Progress;
use super::refusal::about_owner;
use crate::config::Calls;
use crate::provider::VendorClient;
use crate::provider::deepest;

/// Calls the vendor and relays what it says.
pub(super) async fn exchange(
    client: &VendorClient<CallBody>,
    calls: &Calls,
    stream: &LinkStream,
    request: Request<CallBody>,
    progress: &Progress,
) -> End {
    let response = tokio::select! {
        biased;
        abort = stream.aborted() => return End::Aborted(abort.reason),
        () = too_late(progress, calls.vendor_head_timeout()) => return End::Refused(Abort::new(AbortReason::VendorTimeout)),
        response = client.send(request) => response,
    };
    let response = match response {
        Ok(response) => response,
        Err(error) => return no_response(stream, &error),
    };
    if let Some(abort) = about_owner(response.status(), response.headers()) {
        return End::Refused(abort);
    }
    let head = ResponseHead { status: response.status(), headers: response_to_consumer(response.headers()) };
    match head.encode() {
        Ok(head_bytes)
            if response.status() != StatusCode::SWITCHING_PROTOCOLS
                && head_bytes.len() <= FrameKind::Head.payload_bytes_max() =>
        {
            relay_body(stream, head_bytes, response, calls.vendor_idle_timeout()).await
        }
        Ok(_) | Err(_) => {
            End::Refused(Abort::with_detail(AbortReason::VendorGarbage, "the response's head is beyond the bounds"))
        }
    }
}

async fn relay_body(stream: &LinkStream, head: Bytes, response: Response<Incoming>, idle: Duration) -> End {
    let mut body = response.into_body();
    // What is there already leaves in one message with the head; nothing is waited for.
    let first = poll_fn(|cx| match Pin::new(&mut body).poll_frame(cx) {
        Poll::Ready(frame) => Poll::Ready(Some(frame)),
        Poll::Pending => Poll::Ready(None),
    })
    .await;
    let mut frame = match first {
        None => {
            if stream.send_head(head).is_err() {
                return gone(stream);
            }
            None
        }
        Some(Some(Ok(frame))) => {
            let data = frame.into_data().unwrap_or_default();
            let complete = body.is_end_stream();
            if stream.respond(head, data, complete).is_err() {
                return gone(stream);
            }
            if complete {
                return End::Served;
            }
            None
        }
        Some(other) => {
            if stream.send_head(head).is_err() {
                return gone(stream);
            }
            Some(other)
        }
    };
    loop {
        let next = match frame.take() {
            Some(next) => next,
            None => tokio::select! {
                biased;
                abort = stream.aborted() => return End::Aborted(abort.reason),
                next = tokio::time::timeout(idle, body.frame()) => match next {
                    Ok(next) => next,
                    Err(_) => return broken(stream, AbortReason::VendorTimeout, "the response stopped"),
                },
            },
        };
        match next {
            None => return finished(stream.finish(Bytes::new()).is_ok(), stream),
            Some(Err(error)) => return broken(stream, reason_of_http(&error), "the response broke off"),
            Some(Ok(piece)) => {
                // Trailers stay here: the consumer's `TE` is not forwarded, so none are owed.
                let Ok(data) = piece.into_data() else { continue };
                match tokio::time::timeout(idle, stream.capacity()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return gone(stream),
                    Err(_) => {
                        return End::Refused(Abort::with_detail(AbortReason::Deadline, "nobody reads the response"));
                    }
                }
                if body.is_end_stream() {
                    return finished(stream.send_last(data, Bytes::new()).is_ok(), stream);
                }
                if stream.send_data(data).is_err() {
                    return gone(stream);
                }
            }
        }
    }
}

/// Resolves when the request has not moved for so long, and no head came.
async fn too_late(progress: &Progress, patience: Duration) {
    loop {
        let deadline = progress.moved_at() + patience;
        if Instant::now() >= deadline {
            return;
        }
        sleep_until(deadline).await;
    }
}

fn no_response(stream: &LinkStream, error: &Error) -> End {
    if let Some(abort) = stream.abort_received() {
        return End::Aborted(abort.reason);
    }
    if error.is_connect() {
        return End::Refused(Abort::with_detail(AbortReason::VendorUnreachable, deepest(error)));
    }
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<hyper::Error>());
    let reason = source.map_or(AbortReason::VendorBroke, reason_of_http);
    End::Refused(Abort::with_detail(reason, deepest(error)))
}

fn reason_of_http(error: &hyper::Error) -> AbortReason {
    if error.is_parse() || error.is_parse_status() || error.is_parse_too_large() {
        AbortReason::VendorGarbage
    } else {
        AbortReason::VendorBroke
    }
}

fn broken(stream: &LinkStream, reason: AbortReason, detail: &str) -> End {
    stream.fail(Abort::with_detail(reason, detail));
    End::Aborted(reason)
}

fn gone(stream: &LinkStream) -> End {
    End::Aborted(stream.abort_received().map_or(AbortReason::Unspecified, |abort| abort.reason))
}

fn finished(sent: bool, stream: &LinkStream) -> End {
    if sent { End::Served } else { gone(stream) }
}
