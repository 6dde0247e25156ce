//! A consumer that speaks HTTP/1.1 itself: it adds and hides nothing, and knows how an answer ended.
//!
//! Invariant: an answer counts as complete only when its framing says so.

use crate::consumer_call::CALL_ID_HEADER;
use crate::http1::Side;
use crate::http1::recorder::Message;
use crate::http1::recorder::Recorder;
use crate::upstream::play::CASE_HEADER;
use crate::upstream::play::PLAY_HEADER;
use anyhow::Result;
use anyhow::bail;
use serde_json::Value;
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A chat completion to be asked for.
#[derive(Debug, Clone)]
pub struct Chat {
    /// The path; `/via/openai/v1/chat/completions` unless told otherwise.
    pub path: String,
    /// The consumer's key.
    pub api_key: String,
    /// The model.
    pub model: String,
    /// Whether a stream is wanted.
    pub stream: bool,
    /// The case for the recording upstream; empty is none.
    pub case: String,
    /// The play for the recording upstream; empty is none.
    pub play: String,
}

impl Chat {
    /// A plain call for `gpt-4o`.
    #[must_use]
    pub fn new(api_key: &str) -> Self {
        Self {
            path: "/via/openai/v1/chat/completions".to_owned(),
            api_key: api_key.to_owned(),
            model: "gpt-4o".to_owned(),
            stream: false,
            case: String::new(),
            play: String::new(),
        }
    }

    /// The same as a stream, played so, under this case.
    #[must_use]
    pub fn streamed(self, case: &str, play: &str) -> Self {
        Self { stream: true, case: case.to_owned(), play: play.to_owned(), ..self }
    }

    /// The request's bytes.
    #[must_use]
    pub fn request(&self) -> Vec<u8> {
        let messages = json!([{"role": "user", "content": "hello"}]);
        let mut body = json!({"model": self.model, "messages": messages, "stream": self.stream});
        if self.stream {
            // Asked for what every call is billed by, an answer passes as it is.
            body["stream_options"] = json!({"include_usage": true});
        }
        let body = body.to_string();
        let mut head = format!(
            "POST {} HTTP/1.1\r\nhost: hub\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n",
            self.path,
            self.api_key,
            body.len()
        );
        for (name, value) in [(CASE_HEADER, &self.case), (PLAY_HEADER, &self.play)] {
            if !value.is_empty() {
                head += &format!("{name}: {value}\r\n");
            }
        }
        format!("{head}\r\n{body}").into_bytes()
    }

    /// Asks on a connection of its own and waits for the end of the answer.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn ask(&self, hub: SocketAddr) -> Result<Answer> {
        Ok(Call::begin(hub, &self.request()).await?.finish().await)
    }
}

/// A connection with one answer under way at a time.
#[derive(Debug)]
pub struct Call {
    socket: TcpStream,
    recorder: Recorder,
    /// Answers before the one under way.
    before: usize,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The last response, as far as it came.
    pub message: Option<Message>,
    /// Every byte on this connection.
    pub bytes: Vec<u8>,
}

impl Call {
    /// Connects and sends.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn begin(hub: SocketAddr, request: &[u8]) -> Result<Self> {
        let mut socket = TcpStream::connect(hub).await?;
        socket.set_nodelay(true)?;
        socket.write_all(request).await?;
        Ok(Self { socket, recorder: Recorder::new(Side::Response, usize::MAX), before: 0 })
    }

    /// Sends another request on the same connection, once the answer before is complete.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn again(&mut self, request: &[u8]) -> Result<()> {
        self.before = self.recorder.messages().len();
        self.socket.write_all(request).await?;
        Ok(())
    }

    /// Reads until so many body bytes of the answer are there.
    ///
    /// # Errors
    /// When the answer ends before.
    pub async fn until_body(&mut self, bytes: u64) -> Result<()> {
        while self.message().is_none_or(|message| message.body_bytes < bytes) {
            if self.over() || !self.read().await {
                bail!("the answer ended at:\n{}", String::from_utf8_lossy(self.recorder.raw()));
            }
        }
        Ok(())
    }

    /// Reads to the end of the answer, or of the connection.
    pub async fn finish(mut self) -> Answer {
        self.answer().await
    }

    /// The same, and the connection stays.
    pub async fn answer(&mut self) -> Answer {
        while !self.over() && self.read().await {}
        Answer { message: self.message().cloned(), bytes: self.recorder.raw().to_vec() }
    }

    /// The answer under way, as far as it came.
    #[must_use]
    pub fn message(&self) -> Option<&Message> {
        let answers = &self.recorder.messages()[self.before..];
        answers.iter().find(|message| message.head.status() >= 200)
    }

    fn over(&self) -> bool {
        self.message().is_some_and(|message| message.complete)
    }

    /// Reads what is there; false at the end of the connection, however it ended.
    async fn read(&mut self) -> bool {
        let mut buffer = vec![0; 64 << 10];
        match tokio::time::timeout(PATIENCE, self.socket.read(&mut buffer)).await {
            Ok(Ok(count)) if count > 0 => {
                self.recorder.push(&buffer[..count]);
                true
            }
            Ok(Ok(_)) => {
                self.recorder.end(true);
                false
            }
            Ok(Err(_)) | Err(_) => {
                self.recorder.end(false);
                false
            }
        }
    }
}

impl Answer {
    /// The status; 0 when no head came.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.message.as_ref().map_or(0, |message| message.head.status())
    }

    /// Whether the answer came to its end.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.message.as_ref().is_some_and(|message| message.complete)
    }

    /// The hub's id of the call; empty when no head came.
    #[must_use]
    pub fn call_id(&self) -> String {
        self.message.as_ref().and_then(|message| message.head.first(CALL_ID_HEADER)).unwrap_or_default()
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        let body = self.message.as_ref().map_or(&[][..], |message| &message.body);
        String::from_utf8_lossy(body).into_owned()
    }

    /// The body as JSON; null when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text()).unwrap_or_default()
    }

    /// Our code, in an error of the hub.
    #[must_use]
    pub fn code(&self) -> Option<String> {
        let text = self.text();
        let at = text.find("KH-E")?;
        text.get(at..at + 8).map(str::to_owned)
    }
}

/// Asks for a page with GET, such as one of the admin listener's.
///
/// # Errors
/// When nobody listens.
pub async fn get(addr: SocketAddr, path: &str) -> Result<Answer> {
    get_with(addr, path, "").await
}

/// The same with more header lines, each ended by CR LF.
///
/// # Errors
/// When nobody listens.
pub async fn get_with(addr: SocketAddr, path: &str, headers: &str) -> Result<Answer> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {addr}\r\n{headers}\r\n");
    Ok(Call::begin(addr, request.as_bytes()).await?.finish().await)
}
