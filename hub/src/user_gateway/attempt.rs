//! The attempts of one call: a seat, the body passed on, the head awaited, and another seat
//! after a definite negative.
//!
//! Invariant: at most one attempt is alive; an earlier one is aborted before the next begins,
//! and after a head was accepted there is no other.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderValue;
use http::StatusCode;
use http::header;
use http::request::Parts;
use keyhaven_daemon::link::LinkStream;
use keyhaven_daemon::link::OpenError;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::frame::BodyLength;
use keyhaven_protocol::frame::OpenHead;
use keyhaven_protocol::frame::ResponseHead;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::provider::headers::request_to_tunnel;
use keyhaven_protocol::provider::policy::check_head;
use keyhaven_protocol::provider::route::Candidate;
use keyhaven_protocol::provider::route::Route;
use keyhaven_protocol::provider::websocket::accepts;
use keyhaven_protocol::provider::websocket::offer_of;
use metrics::counter;
use tracing::debug;

use super::UserGateway;
use super::connection::Connection;
use super::placing::another_seat;
use super::placing::endpoint_of;
use super::placing::first_seat;
use super::refusal::Refusal;
use super::request::RequestError;
use super::response::Record;
use super::silence::Silence;
use super::upload::Upload;
use crate::agent_gateway::Seat;
use crate::agent_gateway::SeatOutcome;
use crate::dispatch;

/// Seats that one call is tried on.
const ATTEMPTS_MAX: usize = 3;

/// What the hub waits beyond the agent's own timeouts, so that the agent's word comes first.
pub(super) const AGENT_HEAD_START: Duration = Duration::from_secs(5);

/// One call, once its head and the beginning of its body are known.
pub(super) struct Call<'a> {
    pub(super) id: CallId,
    pub(super) route: &'a Route,
    pub(super) model: Option<String>,
    query: Option<&'a str>,
    headers: &'a HeaderMap,
    body: BodyLength,
}

/// The vendor's head, and the stream that carries the rest.
pub(super) struct Answered {
    pub(super) head: ResponseHead,
    pub(super) stream: LinkStream,
    /// What is left of the request, if the vendor answered before its end.
    pub(super) upload: Option<Box<Upload>>,
}

/// What a call does until it is answered.
pub(super) struct Attempts<'a> {
    gateway: &'a UserGateway,
    call: Call<'a>,
    record: &'a mut Record,
    /// None: the call has no body.
    upload: Option<Box<Upload>>,
    tried: Vec<Seat>,
    silence: Silence,
}

/// An attempt without a head.
enum Failed {
    /// Nothing of the call took place: another seat may serve it.
    Negative(&'static str, Refusal),
    /// That is the answer.
    Final(Refusal),
}

/// What came instead of a head.
enum NoHead {
    Aborted(Abort),
    Request(RequestError),
    TooLate,
}

impl<'a> Call<'a> {
    pub(super) fn new(id: CallId, route: &'a Route, head: &'a Parts, body: BodyLength, model: Option<String>) -> Self {
        Self { id, route, model, query: head.uri.query(), headers: &head.headers, body }
    }
}

impl<'a> Attempts<'a> {
    pub(super) fn new(
        gateway: &'a UserGateway,
        call: Call<'a>,
        upload: Option<Box<Upload>>,
        record: &'a mut Record,
        connection: &Connection,
    ) -> Self {
        let silence = Silence::new(gateway.head_patience(), connection.clone());
        Self { gateway, call, record, upload, tried: Vec::new(), silence }
    }

    /// Tries until there is a head or a last word.
    ///
    /// # Errors
    /// That last word.
    pub(super) async fn run(mut self) -> Result<Answered, Refusal> {
        let shape = self.call.route.shape;
        let candidate = endpoint_of(self.gateway, &self.call).await?;
        self.record.summary.provider = Some(candidate.endpoint.provider());
        check_head(candidate.endpoint, self.call.query, self.call.headers)
            .map_err(|error| self.last_word(Refusal::with_message(shape, error.code(), error.to_string())))?;
        if let Some(upload) = &mut self.upload {
            upload.agree(candidate.endpoint).map_err(|error| error.refusal(shape))?;
        }
        let mut seat = match first_seat(self.gateway, &self.call, &candidate).await {
            Ok(seat) => seat,
            Err(refusal) => return Err(self.last_word(refusal)),
        };
        let mut open = OpenHead {
            call: self.call.id,
            vendor_key: seat.vendor_key,
            endpoint: candidate.endpoint.number(),
            parameter: candidate.parameter.clone(),
            query: self.call.query.map(str::to_owned),
            body: self.call.body,
            terms: None,
            headers: request_to_tunnel(candidate.endpoint, self.call.headers),
        };
        let mut soonest: Option<Duration> = None;
        loop {
            open.vendor_key = seat.vendor_key;
            let attempted = self.attempt(&seat, &open).await;
            let link_is_up = seat.link.is_open();
            self.tried.push(seat);
            let (reason, refusal) = match attempted {
                Ok((head, stream)) if !head.status.is_server_error() => return Ok(self.answered(head, stream)),
                Ok((head, stream)) => {
                    let Some(next) = self.next_seat(&candidate, false).await else {
                        return Ok(self.answered(head, stream));
                    };
                    stream.abort(Abort::new(AbortReason::Finished));
                    drop(stream);
                    self.fail_over("vendor_5xx");
                    seat = next;
                    continue;
                }
                Err(Failed::Final(refusal)) => return Err(self.last_word(refusal)),
                Err(Failed::Negative(reason, refusal)) => (reason, refusal),
            };
            soonest = soonest.into_iter().chain(refusal.retry_after()).min();
            // An agent whose link is gone may be back in a moment, on another one.
            let Some(next) = self.next_seat(&candidate, !link_is_up).await else {
                return Err(self.last_word(refusal.retry_within(soonest)));
            };
            self.fail_over(reason);
            seat = next;
        }
    }

    /// One attempt. When it fails its stream is over: nothing of it can reach the consumer.
    async fn attempt(&mut self, seat: &Seat, open: &OpenHead) -> Result<(ResponseHead, LinkStream), Failed> {
        let shape = self.call.route.shape;
        self.record.summary.attempts += 1;
        self.record.summary.agent = Some(seat.link.agent);
        let stream = seat.link.handle.open(open).map_err(|error| match error {
            OpenError::Refused(_) => Failed::Negative("open_refused", Refusal::new(shape, ErrorCode::HubBusy)),
            OpenError::Head(_) => Failed::Final(Refusal::new(shape, ErrorCode::HeadTooLarge)),
        })?;
        let no_head = match self.await_head(&stream).await {
            Ok(head) => match ResponseHead::decode(head) {
                Ok(head) if is_allowed(&head, open) => {
                    let failed = head.status.is_server_error();
                    self.note(seat, open, if failed { SeatOutcome::Failed } else { SeatOutcome::Served });
                    return Ok((head, stream));
                }
                Ok(_) | Err(_) => NoHead::Aborted(Abort::new(AbortReason::Protocol)),
            },
            Err(no_head) => no_head,
        };
        let outcome = match &no_head {
            NoHead::Aborted(abort) => SeatOutcome::of_abort(abort),
            NoHead::Request(_) => None,
            NoHead::TooLate => Some(SeatOutcome::Failed),
        };
        if let Some(outcome) = outcome {
            self.note(seat, open, outcome);
        }
        stream.abort(Abort::new(AbortReason::Deadline));
        Err(match no_head {
            NoHead::Aborted(abort) if is_negative(abort.reason) => {
                Failed::Negative(abort.reason.name(), Refusal::aborted(shape, &abort))
            }
            NoHead::Aborted(abort) => Failed::Final(Refusal::aborted(shape, &abort)),
            NoHead::Request(error) => Failed::Final(error.refusal(shape)),
            NoHead::TooLate => Failed::Final(Refusal::new(shape, ErrorCode::VendorTimeout)),
        })
    }

    /// Passes the body on while waiting for the head; an answer may come before the last byte.
    async fn await_head(&mut self, stream: &LinkStream) -> Result<Bytes, NoHead> {
        let Self { upload, record, silence, .. } = self;
        silence.moved();
        let mut passed_on = upload.as_ref().map_or(0, |upload| upload.passed_on());
        poll_fn(|cx| {
            if let Some(upload) = upload.as_mut().filter(|upload| !upload.is_over()) {
                let passed = upload.poll(stream, cx);
                if upload.passed_on() != passed_on || passed.is_ready() {
                    passed_on = upload.passed_on();
                    silence.moved();
                }
                record.summary.request_bytes = upload.bytes();
                if let Poll::Ready(Err(error)) = passed {
                    return Poll::Ready(Err(NoHead::Request(error)));
                }
            }
            if let Poll::Ready(head) = stream.poll_head(cx) {
                return Poll::Ready(head.map_err(NoHead::Aborted));
            }
            silence.poll(cx).map(|()| Err(NoHead::TooLate))
        })
        .await
    }

    /// What dispatch learns of the seat.
    fn note(&self, seat: &Seat, open: &OpenHead, outcome: SeatOutcome) {
        dispatch::note(seat, open.parameter.as_deref().or(self.call.model.as_deref()), outcome);
    }

    /// A seat that was not tried yet, if the call may and can be tried again.
    async fn next_seat(&self, candidate: &Candidate, link_is_gone: bool) -> Option<Seat> {
        let replayable = self.upload.as_ref().is_none_or(|upload| upload.is_replayable());
        if self.tried.len() >= ATTEMPTS_MAX || !replayable {
            return None;
        }
        another_seat(self.gateway, &self.call, candidate, &self.tried, link_is_gone).await
    }

    fn fail_over(&mut self, reason: &'static str) {
        let call = self.call.id;
        counter!("keyhaven_user_gateway_failovers_total", "reason" => reason).increment(1);
        debug!(call.id = %call, failover.reason = reason, "call {call} goes to another seat: {reason}");
        if let Some(upload) = &mut self.upload {
            upload.rewind();
        }
    }

    fn answered(self, head: ResponseHead, stream: LinkStream) -> Answered {
        let mut upload = self.upload.filter(|upload| !upload.is_over());
        if let Some(upload) = &mut upload {
            upload.settle();
        }
        Answered { head, stream, upload }
    }

    /// An unfinished upload means that the consumer still sends: the connection ends.
    fn last_word(&self, refusal: Refusal) -> Refusal {
        let complete = self.upload.as_ref().is_none_or(|upload| upload.is_complete());
        if complete { refusal } else { refusal.closing() }
    }
}

/// Whether a head may answer the call: another protocol is for those who asked for it, with
/// the proof that it was asked for.
fn is_allowed(head: &ResponseHead, open: &OpenHead) -> bool {
    if head.status != StatusCode::SWITCHING_PROTOCOLS {
        return true;
    }
    let mut answer = head.headers.clone();
    // These are of one connection and did not travel; the consumer gets them from us.
    answer.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    open.body == BodyLength::Upgrade && offer_of(&open.headers).is_ok_and(|upgrade| accepts(&upgrade, &answer))
}

/// Whether the abort says for certain that no answer to this call was begun. That the vendor
/// was too slow does not: it may be at work.
fn is_negative(reason: AbortReason) -> bool {
    match reason {
        AbortReason::OwnerRefused
        | AbortReason::OwnerRateLimited
        | AbortReason::VendorUnreachable
        | AbortReason::Busy
        | AbortReason::OfferUnknown
        | AbortReason::NotAllowed
        | AbortReason::PricesUnknown
        | AbortReason::LinkLost
        | AbortReason::Stopping => true,
        AbortReason::Unspecified
        | AbortReason::ConsumerGone
        | AbortReason::RequestBroken
        | AbortReason::Finished
        | AbortReason::Protocol
        | AbortReason::FlowControl
        | AbortReason::Deadline
        | AbortReason::VendorTimeout
        | AbortReason::VendorBroke
        | AbortReason::VendorGarbage => false,
    }
}
