//! The upstream's own HTTP/1.1 loop, one connection at a time.
//!
//! Invariant: a request is answered only after its framing was found unambiguous; what is not
//! becomes a violation and the end of the connection.

use super::answer::Answer;
use super::perform::After;
use super::perform::perform;
use super::play::Coding;
use super::play::Early;
use super::play::PLAY_HEADER;
use super::play::Play;
use super::record::Door;
use super::record::Log;
use super::refusal::Refusal;
use super::refusal::refuse;
use super::reply::Asked;
use super::reply::Reply;
use super::reply::reply;
use super::settings::Keys;
use super::steps::Steps;
use super::strict;
use super::vendor::Form;
use super::vendor::Vendor;
use super::wire::Gone;
use super::wire::Socket;
use super::wire::Wire;
use crate::http1::Framing;
use crate::http1::Head;
use crate::http1::Malformed;
use crate::http1::Side;
use crate::http1::decoder::Decoder;
use crate::http1::decoder::Event;
use crate::http1::recorder::Message;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

/// How long an idle connection is kept, and a handshake waited for.
const IDLE_MAX: Duration = Duration::from_secs(120);

/// What all connections share.
pub(super) struct Shared {
    pub(super) log: Arc<Log>,
    pub(super) keys: Keys,
    pub(super) steps: Steps,
}

struct Connection {
    shared: Arc<Shared>,
    door: Door,
    sni: Option<String>,
    number: usize,
    wire: Wire,
    decoder: Decoder,
    place: Option<usize>,
}

struct Request {
    head: Head,
    vendor: Vendor,
    target: String,
    play: Play,
    body: Vec<u8>,
}

/// Why no more requests are read.
enum Stop {
    Gone,
    Refused(String),
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl From<Malformed> for Stop {
    fn from(error: Malformed) -> Self {
        Self::Refused(format!("malformed request: {error}"))
    }
}

pub(super) async fn serve_tls(shared: Arc<Shared>, tls: TlsAcceptor, socket: TcpStream) {
    let stream = match tokio::time::timeout(IDLE_MAX, tls.accept(socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return shared.log.handshake_failed(error.to_string()),
        Err(_) => return shared.log.handshake_failed("timed out".to_owned()),
    };
    let sni = stream.get_ref().1.server_name().map(str::to_owned);
    serve(shared, Door::Tls, sni, Socket::Tls(Box::new(stream))).await;
}

pub(super) async fn serve_plain(shared: Arc<Shared>, socket: TcpStream) {
    serve(shared, Door::Plain, None, Socket::Plain(socket)).await;
}

async fn serve(shared: Arc<Shared>, door: Door, sni: Option<String>, socket: Socket) {
    let number = shared.log.connection_opened();
    let mut connection = Connection {
        wire: Wire::new(socket, Arc::clone(&shared.log)),
        shared: Arc::clone(&shared),
        door,
        sni,
        number,
        decoder: Decoder::new(Side::Request),
        place: None,
    };
    let after = loop {
        match connection.exchange().await {
            Ok(After::GoOn) => {}
            Ok(after) => break after,
            Err(Stop::Gone) => break After::Reset,
            Err(Stop::Refused(why)) => {
                connection.refuse(why).await;
                break After::Close;
            }
        }
    };
    match after {
        After::GoOn | After::Close => connection.wire.close().await,
        After::Reset => connection.wire.reset(),
    }
    shared.log.connection_closed();
}

impl Connection {
    async fn exchange(&mut self) -> Result<After, Stop> {
        self.place = None;
        self.wire.begin(None);
        let (head, framing) = self.head().await?;
        let (vendor, target) = self.begin(&head, framing)?;
        let play = head.first(PLAY_HEADER).unwrap_or_default();
        let play = Play::parse(&play).map_err(Stop::Refused)?;
        let mut request = Request { head, vendor, target, play, body: Vec::new() };

        if let Some(early) = request.play.early {
            let after = self.answer_early(&request, early).await?;
            if after != After::GoOn {
                return Ok(after);
            }
            self.body(&mut request).await?;
            self.shared.log.ended(self.place, false);
            return Ok(After::GoOn);
        }
        if let Some(time) = request.play.stall_upload {
            // Not `wire.pause`: that would go on reading, and the point is not to.
            tokio::time::sleep(time).await;
        }
        if request.play.hold_upload {
            let case = request.head.first("x-kit-case").unwrap_or_default();
            // The semaphore is never closed.
            if let Ok(permit) = self.shared.steps.of(&case).acquire().await {
                permit.forget();
            }
        }
        if request.head.first("expect").is_some() {
            self.wire.send(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        self.body(&mut request).await?;
        let after = match self.reply(&request) {
            Reply::Answer(answer) => self.perform(answer, &request).await?,
            Reply::Switch(session) => {
                let case = request.head.first("x-kit-case").unwrap_or_default();
                let steps = self.shared.steps.of(&case);
                session.run(&mut self.wire, &steps).await?
            }
        };
        self.shared.log.ended(self.place, after == After::Close);
        Ok(after)
    }

    /// The next request's head; whatever peer waits too long is dropped.
    async fn head(&mut self) -> Result<(Head, Framing), Stop> {
        loop {
            if let Some(Event::Head(head, framing)) = self.decoder.next(&mut self.wire.inbox)? {
                return Ok((head, framing));
            }
            let filled = tokio::time::timeout(IDLE_MAX, self.wire.fill()).await;
            filled.map_err(|_| Stop::Gone)??;
        }
    }

    fn begin(&mut self, head: &Head, framing: Framing) -> Result<(Vendor, String), Stop> {
        let host = head.first("host").unwrap_or_default();
        let found = match self.door {
            Door::Tls => Vendor::from_host(&host).map(|vendor| (vendor, head.target())),
            Door::Plain => Vendor::from_prefix(head.target()),
        };
        let message = Message::begin(head.clone(), framing);
        let vendor = found.map(|(vendor, _)| vendor);
        let log = &self.shared.log;
        self.place = log.begin(self.number, self.door, vendor, message);
        self.wire.begin(self.place);
        for violation in strict::violations(head, self.door, self.sni.as_deref()) {
            let case = head.first("x-kit-case").unwrap_or_default();
            log.violation(format!("{violation} (case {case:?}, host {host:?})"));
        }
        let (vendor, target) =
            found.ok_or_else(|| Stop::Refused(format!("no vendor at host {host:?}, {:?}", head.target())))?;
        Ok((vendor, target.to_owned()))
    }

    async fn body(&mut self, request: &mut Request) -> Result<(), Stop> {
        loop {
            let Some(event) = self.decoder.next(&mut self.wire.inbox)? else {
                self.wire.fill().await?;
                continue;
            };
            let log = &self.shared.log;
            if let Event::Body(piece) = &event {
                let room = log.keep_bytes_max().saturating_sub(request.body.len());
                request.body.extend_from_slice(&piece[..room.min(piece.len())]);
            }
            let ended = matches!(event, Event::End);
            log.request_event(self.place, event);
            if ended {
                return Ok(());
            }
        }
    }

    fn reply(&self, request: &Request) -> Reply {
        let form = Form::of(request.vendor, &request.target);
        let key = strict::key(&request.head, request.vendor, self.door);
        let reply = reply(&Asked {
            form,
            head: &request.head,
            target: &request.target,
            body: &request.body,
            play: &request.play,
            authorised: key.is_some_and(|key| self.shared.keys.accepts(request.vendor, &key)),
        });
        match (request.play.coding.filter(|coding| accepts(&request.head, *coding)), reply) {
            // Compressing into memory does not fail.
            (Some(coding), Reply::Answer(answer)) => Reply::Answer(answer.clone().compressed(coding).unwrap_or(answer)),
            (_, reply) => reply,
        }
    }

    async fn answer_early(&mut self, request: &Request, early: Early) -> Result<After, Stop> {
        let form = Form::of(request.vendor, &request.target);
        let refusal = match early {
            Early::GoOn => Refusal::Status(500),
            Early::Close => Refusal::Status(503),
        };
        let answer = refuse(form, &"0".repeat(64), &refusal);
        let closes = early == Early::Close;
        let answer = if closes { answer.with("connection", "close") } else { answer };
        self.perform(answer, request).await?;
        self.shared.log.ended(self.place, closes);
        Ok(if closes { After::Close } else { After::GoOn })
    }

    async fn perform(&mut self, answer: Answer, request: &Request) -> Result<After, Stop> {
        let case = request.head.first("x-kit-case").unwrap_or_default();
        let steps = self.shared.steps.of(&case);
        let no_body = request.head.method() == "HEAD";
        let after = perform(&mut self.wire, answer, &request.play, &steps, no_body).await?;
        let asked = request.head.all("connection");
        let close = asked.iter().any(|value| value.eq_ignore_ascii_case("close"));
        if after == After::GoOn && close {
            return Ok(After::Close);
        }
        Ok(after)
    }

    async fn refuse(&mut self, why: String) {
        self.shared.log.violation(why.clone());
        let body = format!("{{\"error\":{{\"message\":{}}}}}", super::answer::quoted(&why));
        let answer = format!(
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        if self.wire.send(answer.as_bytes()).await.is_ok() {
            self.shared.log.ended(self.place, true);
        }
    }
}

fn accepts(head: &Head, coding: Coding) -> bool {
    let word = match coding {
        Coding::Gzip => "gzip",
        Coding::Deflate => "deflate",
    };
    let offers = head.all("accept-encoding").join(",");
    offers.split(',').any(|offer| offer.split(';').next().unwrap_or_default().trim() == word)
}
