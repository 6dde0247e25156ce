//! What the upstream is asked for. Every request names the same model, which has a price, and says
//! as its `user` what the answer is to be.
//!
//! Invariant: a name and the answer it stands for are one to one.

use anyhow::Context;
use anyhow::Result;

/// The model that every request names.
pub(crate) const MODEL: &str = "gpt-bench";

const JSON: &str = "json";
const SILENT: &str = "silent";
const HALF: &str = "half";
const CRUMBS: &str = "crumbs";
const BULK: &str = "bulk-";
const EVENTS: &str = "events-";

/// What the upstream answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Model {
    /// 1 KiB of JSON.
    Json,
    /// So many bytes, as fast as they are taken.
    Bulk { bytes: u64 },
    /// So many events, one in so many microseconds.
    Events { count: u64, every_us: u64 },
    /// Nothing, ever.
    Silent,
    /// The first half of 1 KiB of JSON, and never the rest.
    Half,
    /// Pieces of 40 bytes without end, as fast as they are taken.
    Crumbs,
}

impl Model {
    /// A request says what it asks for within so many bytes.
    pub(crate) const NAMED_WITHIN: usize = 256;

    /// How a request says it.
    fn name(self) -> String {
        match self {
            Self::Json => JSON.to_owned(),
            Self::Bulk { bytes } => format!("{BULK}{bytes}"),
            Self::Events { count, every_us } => format!("{EVENTS}{count}-{every_us}"),
            Self::Silent => SILENT.to_owned(),
            Self::Half => HALF.to_owned(),
            Self::Crumbs => CRUMBS.to_owned(),
        }
    }

    /// The chat completion that asks for it, of about 300 bytes.
    pub(crate) fn request_body(self) -> String {
        let prompt = "Say in one sentence why a bridge that nobody crosses is still worth its paint. ".repeat(2);
        let stream = matches!(self, Self::Events { .. } | Self::Crumbs | Self::Silent);
        let user = self.name();
        format!(
            r#"{{"model":"{MODEL}","user":"{user}","stream":{stream},"temperature":0.7,"messages":[{{"role":"system","content":"You are brief."}},{{"role":"user","content":"{prompt}"}}]}}"#
        )
    }

    /// The same with a prompt of so many bytes.
    pub(crate) fn request_body_of(self, bytes: usize) -> String {
        let (user, content) = (self.name(), "x".repeat(bytes));
        format!(r#"{{"model":"{MODEL}","user":"{user}","messages":[{{"role":"user","content":"{content}"}}]}}"#)
    }

    /// What a request's body asks for; anything unknown is [`Model::Json`].
    pub(crate) fn of_request(body: &[u8]) -> Self {
        // It stands at the beginning: a body of megabytes is not searched.
        let beginning = &body[..body.len().min(Self::NAMED_WITHIN)];
        let text = String::from_utf8_lossy(beginning);
        let name = text.split_once(r#""user":""#).and_then(|(_, rest)| rest.split_once('"'));
        name.and_then(|(name, _)| Self::parse(name).ok()).unwrap_or(Self::Json)
    }

    /// The upstream's list of models.
    pub(crate) fn list() -> String {
        format!(r#"{{"object":"list","data":[{{"id":"{MODEL}","object":"model","owned_by":"bench"}}]}}"#)
    }

    fn parse(name: &str) -> Result<Self> {
        match name {
            JSON => return Ok(Self::Json),
            SILENT => return Ok(Self::Silent),
            HALF => return Ok(Self::Half),
            CRUMBS => return Ok(Self::Crumbs),
            _ => {}
        }
        if let Some(bytes) = name.strip_prefix(BULK) {
            return Ok(Self::Bulk { bytes: bytes.parse()? });
        }
        let events = name.strip_prefix(EVENTS).context("no events")?;
        let (count, every_us) = events.split_once('-').context("no interval")?;
        Ok(Self::Events { count: count.parse()?, every_us: every_us.parse()? })
    }
}
