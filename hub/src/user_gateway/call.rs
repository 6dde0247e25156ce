//! One consumer call, from its head to the head of the answer.
//!
//! Invariant: a call reaches an agent only with a good key, an allow-listed endpoint and
//! a scan that agrees; and it reaches at most one agent.

use std::borrow::Cow;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Request;
use http::Response;
use http::Uri;
use http::Version;
use http::header;
use hyper::body::Incoming;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::link::LinkStream;
use keyhaven_daemon::link::OpenError;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::frame::Abort;
use keyhaven_protocol::frame::AbortReason;
use keyhaven_protocol::frame::BodyLength;
use keyhaven_protocol::frame::OpenHead;
use keyhaven_protocol::frame::ResponseHead;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::provider::endpoint::BodyKind;
use keyhaven_protocol::provider::endpoint::is_allowed_query;
use keyhaven_protocol::provider::headers::credential;
use keyhaven_protocol::provider::headers::request_to_tunnel;
use keyhaven_protocol::provider::headers::response_to_consumer;
use keyhaven_protocol::provider::native_error::ErrorShape;
use keyhaven_protocol::provider::policy::check_head;
use keyhaven_protocol::provider::route::Candidate;
use keyhaven_protocol::provider::route::Route;
use keyhaven_protocol::provider::route::route;
use keyhaven_protocol::request_scan::RequestScan;
use uuid::Uuid;

use super::CallSummary;
use super::Outcome;
use super::UserGateway;
use super::body::AnswerBody;
use super::models;
use super::refusal::Refusal;
use super::request::Held;
use super::request::HoldError;
use super::request::RequestBody;
use super::request::Upload;
use super::response::Record;
use super::response::Relayed;
use super::writes::Flushed;
use crate::agent_gateway::Seat;
use crate::dispatch::Wanted;

/// The header that names the call in every answer.
const CALL_ID: HeaderName = HeaderName::from_static("keyhaven-call-id");

/// Headers in one request.
const HEADERS_MAX: usize = 256;

/// What the hub waits beyond the agent's own timeouts, so that the agent's word comes first.
const AGENT_HEAD_START: Duration = Duration::from_secs(5);

impl UserGateway {
    /// The answer to any request; it is always one.
    pub(super) async fn answer(self: &Arc<Self>, request: Request<Incoming>, flushed: Flushed) -> Response<AnswerBody> {
        let call = CallId(Uuid::now_v7().into_bytes());
        let mut record = Record::new(self.clone(), summary(call, &request));
        let mut response = match self.serve_call(call, request, &mut record).await {
            Ok(Answer::Ours(body)) => ours(body, record),
            Ok(Answer::Relayed(head, stream, upload)) => {
                self.relay(head, Relayed::new(stream, upload, flushed, self.idle(), record))
            }
            Err(refusal) => {
                let response = refusal.into_response(call);
                record.summary.outcome = Outcome::Refused;
                record.summary.status = response.status().as_u16();
                record.summary.first_byte_micros = record.elapsed_micros();
                response
            }
        };
        let id = HeaderValue::from_str(&call.to_string()).expect("an id is visible ASCII");
        response.headers_mut().insert(CALL_ID, id);
        response
    }

    async fn serve_call(
        &self,
        call: CallId,
        request: Request<Incoming>,
        record: &mut Record,
    ) -> Result<Answer, Refusal> {
        let (head, incoming) = request.into_parts();
        let route = route(&head.method, &path(&head.uri), &head.headers).map_err(|error| Refusal::route(&error))?;
        let shape = route.shape;
        if head.version < Version::HTTP_11 {
            return Err(Refusal::new(shape, ErrorCode::HttpVersion).closing());
        }
        self.check_head(&head, shape)?;
        let key =
            credential(&head.headers).map_err(|error| Refusal::with_message(shape, error.code(), error.to_string()))?;
        if self.directory.authenticate(key).await.is_none() {
            return Err(Refusal::new(shape, ErrorCode::ApiKeyUnknown));
        }
        if self.tasks.draining().is_cancelled() {
            return Err(Refusal::new(shape, ErrorCode::HubDraining).closing());
        }
        if route.candidates.iter().all(|candidate| candidate.endpoint.served_by_hub()) {
            let unknown = || Refusal::new(shape, ErrorCode::ModelUnknown);
            return models::answer(&self.roster, &route).map(Answer::Ours).ok_or_else(unknown);
        }
        let body = body_length(&head.headers, self.config.consumer.request_body_bytes_max);
        let body = body.map_err(|code| Refusal::new(shape, code).closing())?;
        let is_handshake = |candidate: &Candidate| candidate.endpoint.body() == BodyKind::WebSocket;
        if route.candidates.iter().any(is_handshake) {
            let why = "realtime is not served here yet".to_owned();
            return Err(Refusal::with_message(shape, ErrorCode::EndpointUnknown, why));
        }
        let scan = RequestScan::for_candidates(&route.candidates, head.headers.get(header::CONTENT_TYPE));
        let scan = scan.map_err(|error| Refusal::scan(shape, &error).closing())?;
        let mut held = self.hold(incoming, scan, shape).await?;
        let model = held.scan().model().map(str::to_owned);
        record.summary.model.clone_from(&model);
        record.summary.request_bytes = held.bytes();
        let candidate = self.resolve(&route, model.as_deref())?;
        check_head(candidate.endpoint, head.uri.query(), &head.headers)
            .map_err(|error| Refusal::with_message(shape, error.code(), error.to_string()))?;
        held.agree(candidate.endpoint).map_err(|error| error.refusal(shape))?;
        record.summary.provider = Some(candidate.endpoint.provider());
        let seat = self.seat(&route, &candidate, model.as_deref())?;
        let open = OpenHead {
            call,
            vendor_key: seat.vendor_key,
            endpoint: candidate.endpoint.number(),
            parameter: candidate.parameter,
            query: head.uri.query().map(str::to_owned),
            body,
            headers: request_to_tunnel(candidate.endpoint, &head.headers),
        };
        let stream = seat.link.handle.open(&open).map_err(|error| open_refusal(shape, &error))?;
        record.summary.agent = Some(seat.link.agent);
        let upload = Box::new(Upload::new(held, stream.clone()));
        self.await_head(stream, upload, shape, record).await
    }

    fn check_head(&self, head: &http::request::Parts, shape: ErrorShape) -> Result<(), Refusal> {
        let headers: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        let line = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
        let too_many = head.headers.len() > HEADERS_MAX;
        if too_many || (headers + line) as u64 > self.config.consumer.request_head_bytes_max {
            return Err(Refusal::new(shape, ErrorCode::HeadTooLarge).closing());
        }
        let malformed = |why: &str| Err(Refusal::with_message(shape, ErrorCode::RequestMalformed, why.to_owned()));
        if head.uri.query().is_some_and(|query| !is_allowed_query(query)) {
            return malformed("the query is too long or holds characters that must be percent-encoded");
        }
        let coding = head.headers.get(header::CONTENT_ENCODING);
        if coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return malformed("the body is compressed; send it as it is, without `content-encoding`");
        }
        Ok(())
    }

    /// Reads until the scan has seen the model or the body ends.
    async fn hold(&self, incoming: Incoming, scan: RequestScan, shape: ErrorShape) -> Result<Held, Refusal> {
        let consumer = &self.config.consumer;
        let body = RequestBody::new(incoming, scan, consumer.request_body_bytes_max, consumer.request_idle_timeout());
        Held::read(body, self.held.share()).await.map_err(|error| match error {
            HoldError::Full => Refusal::new(shape, ErrorCode::HubBusy).closing(),
            HoldError::Request(error) => error.refusal(shape),
        })
    }

    fn resolve(&self, route: &Route, model: Option<&str>) -> Result<Candidate, Refusal> {
        if model.is_none() && route.candidates.len() > 1 {
            let why = "`model` is missing; it says which vendor is meant".to_owned();
            return Err(Refusal::with_message(route.shape, ErrorCode::RequestMalformed, why));
        }
        route
            .resolve(model, |provider, model| self.roster.lists(provider, model))
            .map_err(|error| Refusal::route(&error))
    }

    fn seat(&self, route: &Route, candidate: &Candidate, model: Option<&str>) -> Result<Seat, Refusal> {
        let wanted = Wanted {
            provider: candidate.endpoint.provider(),
            resource: route.azure_resource.as_deref(),
            model: candidate.parameter.as_deref().or(model),
            tried: &[],
        };
        let missing = || {
            // Somebody offers the vendor, only not this deployment or resource: that is final.
            let offered = self.roster.offers(wanted.provider);
            Refusal::new(route.shape, if offered { ErrorCode::ModelUnknown } else { ErrorCode::NoAgent })
        };
        self.dispatch.choose(&self.roster, wanted).ok_or_else(missing)
    }

    /// Passes the body on while waiting for the head; an answer may come before the last byte.
    async fn await_head(
        &self,
        stream: LinkStream,
        upload: Box<Upload>,
        shape: ErrorShape,
        record: &mut Record,
    ) -> Result<Answer, Refusal> {
        let mut upload = Some(upload);
        let patience = self.config.calls.vendor_head_timeout() + AGENT_HEAD_START;
        let mut deadline = Box::pin(tokio::time::sleep(patience));
        let mut passed_on = 0;
        let head = poll_fn(|cx| {
            if let Some(passing) = &mut upload {
                let passed = passing.poll(cx);
                if passing.passed_on() != passed_on || passed.is_ready() {
                    passed_on = passing.passed_on();
                    deadline.as_mut().reset(tokio::time::Instant::now() + patience);
                }
                record.summary.request_bytes = passing.bytes();
                if let Poll::Ready(passed) = passed {
                    upload = None;
                    if let Err(error) = passed {
                        return Poll::Ready(Err(error.refusal(shape)));
                    }
                }
            }
            if let Poll::Ready(head) = stream.poll_head(cx) {
                return Poll::Ready(head.map_err(|abort| Refusal::aborted(shape, &abort)));
            }
            if Future::poll(deadline.as_mut(), cx).is_ready() {
                return Poll::Ready(Err(Refusal::new(shape, ErrorCode::VendorTimeout)));
            }
            Poll::Pending
        })
        .await;
        let head = match head {
            Ok(head) => head,
            Err(refusal) => {
                // An unfinished upload means that the consumer still sends: the connection ends.
                stream.abort(Abort::new(AbortReason::Deadline));
                return Err(if upload.is_some() { refusal.closing() } else { refusal });
            }
        };
        // 101 answers a request for a WebSocket and nothing else.
        let head = ResponseHead::decode(head).ok().filter(|head| !head.status.is_informational());
        let head = head.ok_or_else(|| Refusal::new(shape, ErrorCode::AgentRefused))?;
        Ok(Answer::Relayed(head, stream, upload))
    }

    fn relay(&self, head: ResponseHead, mut relayed: Relayed) -> Response<AnswerBody> {
        relayed.begin(&head);
        let mut response = Response::new(AnswerBody::Relayed(Box::new(relayed)));
        *response.status_mut() = head.status;
        *response.headers_mut() = response_to_consumer(&head.headers);
        response
    }

    /// How long a response may be silent.
    fn idle(&self) -> Duration {
        self.config.calls.vendor_idle_timeout() + AGENT_HEAD_START
    }
}

enum Answer {
    Ours(Bytes),
    Relayed(ResponseHead, LinkStream, Option<Box<Upload>>),
}

fn ours(body: Bytes, mut record: Record) -> Response<AnswerBody> {
    record.summary.outcome = Outcome::Served;
    record.summary.status = 200;
    record.summary.first_byte_micros = record.elapsed_micros();
    record.summary.response_bytes = body.len() as u64;
    let mut response = Response::new(AnswerBody::ours(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn open_refusal(shape: ErrorShape, error: &OpenError) -> Refusal {
    match error {
        OpenError::Refused(_) => Refusal::new(shape, ErrorCode::HubBusy),
        OpenError::Head(_) => Refusal::new(shape, ErrorCode::HeadTooLarge),
    }
}

/// How the consumer frames its body. A length beyond the bound is refused before a byte is read.
fn body_length(headers: &HeaderMap, bytes_max: u64) -> Result<BodyLength, ErrorCode> {
    let Some(length) = headers.get(header::CONTENT_LENGTH) else {
        let chunked = headers.contains_key(header::TRANSFER_ENCODING);
        return Ok(if chunked { BodyLength::Chunked } else { BodyLength::None });
    };
    let length: u64 = length.to_str().ok().and_then(|text| text.parse().ok()).ok_or(ErrorCode::RequestMalformed)?;
    if length > bytes_max { Err(ErrorCode::RequestTooLarge) } else { Ok(BodyLength::Known(length)) }
}

fn summary(call: CallId, request: &Request<Incoming>) -> CallSummary {
    CallSummary {
        call,
        began_unix_ms: unix_ms_now(),
        request: format!("{} {}", request.method(), clipped(request.uri().path())),
        provider: None,
        model: None,
        agent: None,
        status: 0,
        outcome: Outcome::Aborted,
        request_bytes: 0,
        response_bytes: 0,
        first_byte_micros: 0,
        total_micros: 0,
    }
}

/// The path to route by. A target that names a host was meant for a proxy, which the hub is
/// not: as a whole it matches no endpoint.
fn path(target: &Uri) -> Cow<'_, str> {
    if target.authority().is_some() { target.to_string().into() } else { target.path().into() }
}

fn clipped(path: &str) -> &str {
    path.get(..200).unwrap_or(path)
}
