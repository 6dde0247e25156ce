//! One consumer call, from its head to the head of the answer.
//!
//! Invariant: a call reaches an agent only with a good key, an allow-listed endpoint and
//! a scan that agrees.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Request;
use http::Response;
use http::StatusCode;
use http::Uri;
use http::Version;
use http::header;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::frame::BodyLength;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::provider::endpoint::BodyKind;
use keyhaven_protocol::provider::endpoint::is_allowed_query;
use keyhaven_protocol::provider::headers::credential;
use keyhaven_protocol::provider::headers::response_to_consumer;
use keyhaven_protocol::provider::native_error::ErrorShape;
use keyhaven_protocol::provider::policy::model_of_query;
use keyhaven_protocol::provider::route::Candidate;
use keyhaven_protocol::provider::route::route;
use keyhaven_protocol::provider::websocket::upgrade_of;
use keyhaven_protocol::request_scan::RequestScan;
use keyhaven_protocol::request_scan::SessionScan;

use super::CallSummary;
use super::Outcome;
use super::UserGateway;
use super::attempt::AGENT_HEAD_START;
use super::attempt::Answered;
use super::attempt::Attempts;
use super::attempt::Call;
use super::body::AnswerBody;
use super::connection::Connection;
use super::connection::OnCall;
use super::models;
use super::realtime::Switched;
use super::refusal::Refusal;
use super::request::RequestBody;
use super::request::RequestError;
use super::response::Record;
use super::response::Relayed;
use super::silence::Silence;
use super::upload::Bounds;
use super::upload::HoldError;
use super::upload::Upload;
use crate::consumer_api::PREFIX;

/// The header that names the call in every answer.
const CALL_ID: HeaderName = HeaderName::from_static("keyhaven-call-id");

impl UserGateway {
    /// The answer to any request; it is always one.
    pub(super) async fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
        connection: OnCall,
    ) -> Response<AnswerBody> {
        if request.uri().path().starts_with(PREFIX) {
            return self.about_calls(request, &connection).await;
        }
        let began_unix_ms = unix_ms_now();
        let call = self.ids.next(began_unix_ms);
        let mut record = Record::new(self.clone(), summary(call, began_unix_ms, &request));
        let (head, body) = request.into_parts();
        let asks_first = head.headers.contains_key(header::EXPECT);
        let mut body = Some(body);
        let mut response = match self.serve_call(call, head, &mut body, &connection, &mut record).await {
            Ok(Answer::Ours(body)) => ours(body, record),
            Ok(Answer::Unheard(refusal)) => refusal.into_response(call),
            Ok(Answer::Relayed(answered)) => self.relay(answered, connection, record),
            Ok(Answer::Switched(Answered { head, attempt, .. }, consumer, scan)) => {
                self.switch(&head, attempt, Switched { consumer, scan, connection }, record)
            }
            Err(refusal) => {
                // A body that nobody reads ends the connection; a consumer that was not told so
                // would send its next request into it.
                let is_read = match body {
                    None => true,
                    Some(unread) if unread.is_end_stream() => true,
                    // Reading would ask the consumer for it.
                    Some(_) if asks_first => false,
                    Some(unread) => is_read_to_its_end(unread).await,
                };
                let refusal = if is_read { refusal } else { refusal.closing() };
                let response = refusal.into_response(call);
                record.summary.outcome = Outcome::Refused;
                record.head_leaves(response.status());
                response
            }
        };
        let id = HeaderValue::from_str(&call.to_string()).expect("an id is visible ASCII");
        response.headers_mut().insert(CALL_ID, id);
        if self.tasks.leaving().is_cancelled() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            // The next call belongs to the process that is here then.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// What a consumer asks about its calls; no call itself.
    async fn about_calls(&self, request: Request<Incoming>, connection: &Connection) -> Response<AnswerBody> {
        let (head, body) = request.into_parts();
        let mut response = self.consumer_api.answer(&head, connection.peer()).await.map(AnswerBody::ours);
        if !body.is_end_stream() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    async fn serve_call(
        self: &Arc<Self>,
        call: CallId,
        mut head: http::request::Parts,
        body: &mut Option<Incoming>,
        connection: &Connection,
        record: &mut Record,
    ) -> Result<Answer, Refusal> {
        let route = route(&head.method, &path(&head.uri), &head.headers).map_err(|error| Refusal::route(&error))?;
        let shape = route.shape;
        if head.version < Version::HTTP_11 {
            return Err(Refusal::new(shape, ErrorCode::HttpVersion).closing());
        }
        self.check_head(&head, shape)?;
        let key =
            credential(&head.headers).map_err(|error| Refusal::with_message(shape, error.code(), error.to_string()))?;
        let payer = self.directory.authenticate(key).await;
        let payer = payer.ok_or_else(|| Refusal::new(shape, ErrorCode::ApiKeyUnknown))?;
        payer.may_call(record.summary.began_unix_ms, connection.peer()).map_err(|code| Refusal::new(shape, code))?;
        if self.tasks.draining().is_cancelled() {
            return Err(Refusal::new(shape, ErrorCode::HubDraining).closing());
        }
        if route.candidates.iter().all(|candidate| candidate.endpoint.served_by_hub()) {
            let unknown = || Refusal::new(shape, ErrorCode::ModelUnknown);
            return models::answer(&self.roster, &route).map(Answer::Ours).ok_or_else(unknown);
        }
        let consumer = head.extensions.remove::<OnUpgrade>();
        let is_handshake = |candidate: &Candidate| candidate.endpoint.body() == BodyKind::WebSocket;
        if let Some(first) = route.candidates.iter().find(|candidate| is_handshake(candidate)) {
            let refused = |code, message: String| Refusal::with_message(shape, code, message).closing();
            upgrade_of(&head.headers).map_err(|error| refused(error.code(), error.to_string()))?;
            let consumer = consumer.ok_or_else(|| Refusal::new(shape, ErrorCode::UpgradeExpected).closing())?;
            let model = model_of_query(first.endpoint, head.uri.query());
            record.summary.model = model.map_err(|error| refused(error.code(), error.to_string()))?;
            let call = Call::new(call, &route, &head, BodyLength::Upgrade, payer, record.summary.model.clone());
            let answered = Attempts::new(self, call, None, record, connection).run().await?;
            if answered.head.status != StatusCode::SWITCHING_PROTOCOLS {
                return Ok(Answer::Relayed(answered));
            }
            return Ok(Answer::Switched(answered, consumer, SessionScan::new(first.endpoint)));
        }
        let length = body_length(&head.headers, self.config.consumer.request_body_bytes_max);
        let length = length.map_err(|code| Refusal::new(shape, code).closing())?;
        let scan = RequestScan::for_candidates(&route.candidates, head.headers.get(header::CONTENT_TYPE));
        let scan = scan.map_err(|error| Refusal::scan(shape, &error).closing())?;
        let incoming = body.take().ok_or_else(|| Refusal::new(shape, ErrorCode::Internal).closing())?;
        let upload = self.hold(incoming, scan, connection, shape).await?;
        record.summary.model = upload.scan().model().map(str::to_owned);
        record.summary.request_bytes = upload.bytes();
        let call = Call::new(call, &route, &head, length, payer, record.summary.model.clone());
        let is_complete = upload.is_complete();
        let attempts = Attempts::new(self, call, Some(upload), record, connection).run();
        if is_complete {
            // Its end is next on the connection, which hyper reads.
            return attempts.await.map(Answer::Relayed);
        }
        tokio::select! {
            biased;
            answered = attempts => answered.map(Answer::Relayed),
            () = connection.departed() => Ok(Answer::Unheard(RequestError::BrokeOff.refusal(shape))),
        }
    }

    fn check_head(&self, head: &http::request::Parts, shape: ErrorShape) -> Result<(), Refusal> {
        let headers: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        let line = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
        if (headers + line) as u64 > self.config.consumer.request_head_bytes_max {
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
    async fn hold(
        &self,
        incoming: Incoming,
        scan: RequestScan,
        connection: &Connection,
        shape: ErrorShape,
    ) -> Result<Box<Upload>, Refusal> {
        let consumer = &self.config.consumer;
        let silence = Silence::new(consumer.request_idle_timeout(), connection.clone());
        let body = RequestBody::new(incoming, scan, consumer.request_body_bytes_max, silence);
        let bounds = Bounds {
            held_bytes_max: consumer.held_body_bytes_per_call_max,
            replayed_bytes_max: self.config.calls.replayed_body_bytes,
        };
        Upload::hold(body, self.held.share(), bounds).await.map_err(|error| match error {
            HoldError::ModelTooLate => {
                let why = format!(
                    "{}: `model` is not among the first {} bytes; send it before files and messages",
                    ErrorCode::RequestTooLarge.cause(),
                    bounds.held_bytes_max
                );
                Refusal::with_message(shape, ErrorCode::RequestTooLarge, why).closing()
            }
            HoldError::Full => Refusal::new(shape, ErrorCode::HubBusy).closing(),
            HoldError::Request(error) => error.refusal(shape),
        })
    }

    fn relay(&self, answered: Answered, connection: OnCall, record: Record) -> Response<AnswerBody> {
        let Answered { head, attempt, upload, is_assisted } = answered;
        let mut relayed = Relayed::new(attempt, upload, connection, self.idle(), record);
        if is_assisted {
            relayed.assist(&head);
        }
        relayed.begin(&head);
        let mut response = Response::new(AnswerBody::Relayed(Box::new(relayed)));
        *response.status_mut() = head.status;
        *response.headers_mut() = response_to_consumer(&head.headers);
        response
    }

    /// How long an attempt that does not move may wait for the vendor's head.
    pub(super) fn head_patience(&self) -> Duration {
        self.config.calls.vendor_head_timeout() + AGENT_HEAD_START
    }

    /// How long a response may be silent.
    fn idle(&self) -> Duration {
        self.config.calls.vendor_idle_timeout() + AGENT_HEAD_START
    }
}

/// Reads a body that nobody wants, within bounds. Says whether that was all of it.
async fn is_read_to_its_end(mut body: Incoming) -> bool {
    let reading = async {
        let mut bytes = 0;
        while bytes <= UNWANTED_BYTES_MAX {
            match body.frame().await {
                None => return true,
                Some(Ok(frame)) => bytes += frame.data_ref().map_or(0, Bytes::len),
                Some(Err(_)) => return false,
            }
        }
        false
    };
    tokio::time::timeout(UNWANTED_TIME_MAX, reading).await.unwrap_or(false)
}

/// How long a body that nobody wants may take; clients send it right behind the head.
const UNWANTED_TIME_MAX: Duration = Duration::from_millis(50);

/// What is read of a body that nobody wants, so that the connection can go on.
const UNWANTED_BYTES_MAX: usize = 64 * 1024;

enum Answer {
    Ours(Bytes),
    Relayed(Answered),
    /// The consumer has left in its upload; what it sent last may still be on its way to us.
    Unheard(Refusal),
    /// The vendor agreed to a WebSocket on the consumer's connection.
    Switched(Answered, OnUpgrade, SessionScan),
}

fn ours(body: Bytes, mut record: Record) -> Response<AnswerBody> {
    record.summary.outcome = Outcome::Served;
    record.head_leaves(StatusCode::OK);
    record.summary.response_bytes = body.len() as u64;
    let mut response = Response::new(AnswerBody::ours(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
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

fn summary(call: CallId, began_unix_ms: u64, request: &Request<Incoming>) -> CallSummary {
    CallSummary {
        call,
        began_unix_ms,
        request: format!("{} {}", request.method(), clipped(request.uri().path())),
        provider: None,
        model: None,
        agent: None,
        attempts: 0,
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
