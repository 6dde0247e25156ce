//! The attempts of one call: a seat, the body passed on, the head awaited, and another seat
//! after a definite negative.
//!
//! Invariant: at most one attempt is alive; an earlier one is aborted before the next begins,
//! and after a head was accepted there is no other.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::StatusCode;
use http::header;
use http::request::Parts;
use keyhaven_daemon::link::OpenError;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::assist::splice;
use keyhaven_protocol::demand::Demand;
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
use keyhaven_protocol::quote::BodyKnown;
use metrics::counter;
use tracing::debug;

use super::UserGateway;
use super::connection::Connection;
use super::order::Order;
use super::order::Wish;
use super::placing::another_seat;
use super::placing::endpoint_of;
use super::placing::first_seat;
use super::refusal::Refusal;
use super::request::RequestError;
use super::response::Record;
use super::silence::Silence;
use super::tab::Attempt;
use super::tab::Tab;
use super::ticket::Unordered;
use super::ticket::ticket_of;
use super::upload::Upload;
use crate::agent_gateway::Seat;
use crate::agent_gateway::SeatOutcome;
use crate::dispatch;
use crate::key_policy::Mode;
use crate::key_policy::Payer;

/// The header by which a consumer names a call that it may send twice and means once.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

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
    payer: Arc<Payer>,
}

/// The vendor's head, and the attempt that carries the rest.
pub(super) struct Answered {
    pub(super) head: ResponseHead,
    pub(super) attempt: Attempt,
    /// What is left of the request, if the vendor answered before its end.
    pub(super) upload: Option<Box<Upload>>,
    /// The stream was asked for its usage in the consumer's name.
    pub(super) is_assisted: bool,
}

/// What a call does until it is answered.
pub(super) struct Attempts<'a> {
    gateway: &'a Arc<UserGateway>,
    call: Call<'a>,
    record: &'a mut Record,
    /// None: the call has no body.
    upload: Option<Box<Upload>>,
    /// The money for the next attempt; none while one has it, and for a call that costs nothing.
    order: Option<Box<Order>>,
    tried: Vec<Seat>,
    /// The stream was asked for its usage in the consumer's name.
    is_assisted: bool,
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
    pub(super) fn new(
        id: CallId,
        route: &'a Route,
        head: &'a Parts,
        body: BodyLength,
        payer: Arc<Payer>,
        model: Option<String>,
    ) -> Self {
        Self { id, route, model, query: head.uri.query(), headers: &head.headers, body, payer }
    }
}

impl<'a> Attempts<'a> {
    pub(super) fn new(
        gateway: &'a Arc<UserGateway>,
        call: Call<'a>,
        upload: Option<Box<Upload>>,
        record: &'a mut Record,
        connection: &Connection,
    ) -> Self {
        let silence = Silence::new(gateway.head_patience(), connection.clone());
        Self { gateway, call, record, upload, order: None, tried: Vec::new(), is_assisted: false, silence }
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
        self.order = self.place_order(&candidate, &seat).await.map_err(|refusal| self.last_word(refusal))?;
        let mut open = OpenHead {
            call: self.call.id,
            vendor_key: seat.vendor_key,
            endpoint: candidate.endpoint.number(),
            parameter: candidate.parameter.clone(),
            query: self.call.query.map(str::to_owned),
            body: self.call.body,
            ticket: None,
            headers: request_to_tunnel(candidate.endpoint, self.call.headers),
        };
        self.assist(&mut open).map_err(|refusal| self.last_word(refusal))?;
        let mut soonest: Option<Duration> = None;
        loop {
            open.vendor_key = seat.vendor_key;
            let attempted = self.attempt(&seat, &mut open).await;
            let link_is_up = seat.link.is_open();
            self.tried.push(seat);
            let (reason, refusal) = match attempted {
                Ok((head, attempt)) if !head.status.is_server_error() => return Ok(self.answered(head, attempt)),
                Ok((head, attempt)) => {
                    let Some(next) = self.next_seat(&candidate, false).await else {
                        return Ok(self.answered(head, attempt));
                    };
                    attempt.stream().abort(Abort::new(AbortReason::Finished));
                    self.order = attempt.withdraw();
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
    async fn attempt(&mut self, seat: &Seat, open: &mut OpenHead) -> Result<(ResponseHead, Attempt), Failed> {
        let shape = self.call.route.shape;
        self.record.summary.attempts += 1;
        self.record.summary.agent = Some(seat.link.agent);
        let tab = self.open_tab(seat, open)?;
        let stream = match seat.link.handle.open(open) {
            Ok(stream) => stream,
            Err(error) => {
                self.order = tab.map(|tab| tab.withdraw());
                return Err(match error {
                    OpenError::Refused(_) => Failed::Negative("open_refused", Refusal::new(shape, ErrorCode::HubBusy)),
                    OpenError::Head(_) => Failed::Final(Refusal::new(shape, ErrorCode::HeadTooLarge)),
                });
            }
        };
        let mut attempt = Attempt::new(stream, self.gateway.clone(), tab);
        let no_head = match self.await_head(&mut attempt).await {
            Ok(head) => match ResponseHead::decode(head) {
                Ok(head) if is_allowed(&head, open) => {
                    let failed = head.status.is_server_error();
                    self.note(seat, open, if failed { SeatOutcome::Failed } else { SeatOutcome::Served });
                    attempt.head(&head);
                    return Ok((head, attempt));
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
        Err(match no_head {
            NoHead::Aborted(abort) if is_negative(abort.reason) => {
                self.order = attempt.withdraw();
                return Err(Failed::Negative(abort.reason.name(), Refusal::aborted(shape, &abort)));
            }
            NoHead::Aborted(abort) => {
                attempt.refused();
                Failed::Final(Refusal::aborted(shape, &abort))
            }
            NoHead::Request(error) => {
                attempt.abort(AbortReason::RequestBroken);
                Failed::Final(error.refusal(shape))
            }
            NoHead::TooLate => {
                attempt.abort(AbortReason::Deadline);
                Failed::Final(Refusal::new(shape, ErrorCode::VendorTimeout))
            }
        })
    }

    /// Sets aside what the call may cost at most.
    async fn place_order(&mut self, candidate: &Candidate, seat: &Seat) -> Result<Option<Box<Order>>, Refusal> {
        let model = candidate.parameter.as_deref().or(self.call.model.as_deref()).unwrap_or_default();
        let (demand, body) = match &self.upload {
            Some(upload) => (upload.scan().demand(), upload.known(self.call.body)),
            None => (Demand::NOTHING, BodyKnown::Whole),
        };
        let wish = Wish {
            call: self.call.id,
            began_unix_ms: self.record.summary.began_unix_ms,
            payer: &self.call.payer,
            shape: self.call.route.shape,
            endpoint: candidate.endpoint,
            model,
            priced_as: seat.priced_as(model),
            demand: &demand,
            body,
            idempotency_key: self.call.headers.get(IDEMPOTENCY_KEY),
        };
        let order = Order::place(self.gateway, wish).await?;
        if let (Some(order), Some(upload), BodyKnown::Coming { .. }) = (&order, &mut self.upload, body) {
            upload.stay_within(order.limit());
        }
        Ok(order)
    }

    /// Asks for the usage of a stream in the consumer's name, if it does not itself.
    fn assist(&mut self, open: &mut OpenHead) -> Result<(), Refusal> {
        let Some(upload) = self.upload.as_mut().filter(|upload| upload.is_complete() && self.order.is_some()) else {
            return Ok(());
        };
        let Some(splice) = splice(upload.scan()) else { return Ok(()) };
        if self.call.payer.policy.mode == Mode::Exact {
            return Err(Refusal::new(self.call.route.shape, ErrorCode::UsageUnasked));
        }
        upload.change(&splice);
        if let BodyLength::Known(length) = &mut open.body {
            *length = splice.length_after(*length);
        }
        // What is compressed could not be taken out again.
        open.headers.remove(header::ACCEPT_ENCODING);
        self.is_assisted = true;
        Ok(())
    }

    /// The bill of the attempt that is opened next, and the ticket it is opened with.
    fn open_tab(&mut self, seat: &Seat, open: &mut OpenHead) -> Result<Option<Box<Tab>>, Failed> {
        let Some(order) = self.order.take() else {
            open.ticket = None;
            return Ok(None);
        };
        let tier = self.gateway.prices.tier(seat.link.agent);
        let unset = || Failed::Final(Refusal::new(self.call.route.shape, ErrorCode::PricesNotSet));
        let tier = tier.ok_or_else(unset)?;
        let attempt = u8::try_from(self.record.summary.attempts).unwrap_or(u8::MAX);
        let ticket = ticket_of(self.gateway, &order, seat, attempt, tier);
        let ticket = ticket.map_err(|why| {
            let code = match why {
                Unordered::Model => ErrorCode::ModelNotPriced,
                Unordered::NoRandom => ErrorCode::BooksUnavailable,
            };
            Failed::Final(Refusal::with_message(self.call.route.shape, code, why.to_string()))
        })?;
        open.ticket = Some(ticket);
        Ok(Some(Tab::open(order, seat, attempt, tier)))
    }

    /// Passes the body on while waiting for the head; an answer may come before the last byte.
    async fn await_head(&mut self, attempt: &mut Attempt) -> Result<Bytes, NoHead> {
        let Self { upload, record, silence, .. } = self;
        silence.moved();
        let mut passed_on = upload.as_ref().map_or(0, |upload| upload.passed_on());
        if upload.is_none() {
            attempt.request_sent(Demand::NOTHING);
        }
        poll_fn(|cx| {
            if let Some(upload) = upload.as_mut().filter(|upload| !upload.is_over()) {
                let passed = upload.poll(attempt.stream(), cx);
                if upload.passed_on() != passed_on || passed.is_ready() {
                    passed_on = upload.passed_on();
                    silence.moved();
                }
                record.summary.request_bytes = upload.bytes();
                if let Poll::Ready(Err(error)) = passed {
                    return Poll::Ready(Err(NoHead::Request(error)));
                }
                if upload.was_sent() {
                    attempt.request_sent(upload.scan().demand());
                }
            }
            if let Poll::Ready(head) = attempt.stream().poll_head(cx) {
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

    fn answered(self, head: ResponseHead, attempt: Attempt) -> Answered {
        let mut upload = self.upload.filter(|upload| !upload.is_over());
        if let Some(upload) = &mut upload {
            upload.settle();
        }
        Answered { head, attempt, upload, is_assisted: self.is_assisted }
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
        | AbortReason::TicketInvalid
        | AbortReason::TicketMissing
        | AbortReason::RulesUnknown
        | AbortReason::TierTooLow
        | AbortReason::LinkLost
        | AbortReason::Stopping => true,
        AbortReason::Unspecified
        | AbortReason::ConsumerGone
        | AbortReason::RequestBroken
        | AbortReason::Finished
        | AbortReason::Protocol
        | AbortReason::FlowControl
        | AbortReason::Deadline
        // It may have been served when it was ordered before.
        | AbortReason::TicketSeen
        | AbortReason::VendorTimeout
        | AbortReason::VendorBroke
        | AbortReason::VendorGarbage => false,
    }
}
