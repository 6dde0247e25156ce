//! An answer before it is framed: status, headers and the pieces of its body.
//!
//! Invariant: depends on nothing but the request, so the same call gives the same bytes whether it
//! came directly or through a hub.

use super::headers;
use super::play::Coding;
use super::vendor::Form;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use flate2::write::ZlibEncoder;
use serde_json::Value;
use std::io;
use std::io::Write;

/// How the body wants to be framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame {
    Length,
    Chunked,
}

#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) frame: Frame,
    /// Written one at a time; in a chunked body each is one chunk.
    pub(super) pieces: Vec<Bytes>,
}

impl Answer {
    /// A whole JSON document.
    pub(super) fn json(form: Form, status: u16, seed: &str, body: impl Into<Bytes>) -> Self {
        let mut headers = headers::of(form, seed, status);
        headers.push(("content-type".into(), "application/json".into()));
        // The vendors differ here as they do in life.
        let frame = if form.is_anthropic() || form == Form::DeepSeek { Frame::Chunked } else { Frame::Length };
        Self { status, headers, frame, pieces: vec![body.into()] }
    }

    /// Bytes of this kind, chunk by chunk.
    pub(super) fn bytes(mut headers: Vec<(String, String)>, kind: &str, pieces: Vec<Bytes>) -> Self {
        headers.push(("content-type".into(), kind.into()));
        Self { status: 200, headers, frame: Frame::Chunked, pieces }
    }

    /// The same with another content type.
    pub(super) fn typed(mut self, kind: &str) -> Self {
        self.headers.retain(|(name, _)| name != "content-type");
        self.with("content-type", kind)
    }

    /// A stream of server-sent events, one piece each.
    pub(super) fn stream(form: Form, seed: &str, events: Vec<String>) -> Self {
        let mut headers = headers::of(form, seed, 200);
        let charset = "text/event-stream; charset=utf-8".to_owned();
        headers.push(("content-type".into(), charset));
        headers.push(("cache-control".into(), "no-cache".into()));
        Self { status: 200, headers, frame: Frame::Chunked, pieces: events.into_iter().map(Bytes::from).collect() }
    }

    pub(super) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Cuts a body of one piece into about `count` pieces.
    pub(super) fn cut_into(mut self, count: usize) -> Self {
        if self.pieces.len() == 1 && count > 1 {
            let whole = self.pieces.remove(0);
            let size = whole.len().div_ceil(count).max(1);
            self.pieces = whole.chunks(size).map(Bytes::copy_from_slice).collect();
        }
        self
    }

    /// Compresses each piece so that it can be read as soon as it arrives.
    pub(super) fn compressed(mut self, coding: Coding) -> io::Result<Self> {
        let pieces = std::mem::take(&mut self.pieces);
        let level = Compression::default();
        self.pieces = match coding {
            Coding::Gzip => {
                let flush = |coder: &mut GzEncoder<Vec<u8>>| {
                    coder.flush()?;
                    Ok(std::mem::take(coder.get_mut()))
                };
                let mut coder = GzEncoder::new(Vec::new(), level);
                let mut coded = each(&pieces, &mut coder, flush)?;
                coded.push(coder.finish()?.into());
                coded
            }
            Coding::Deflate => {
                let flush = |coder: &mut ZlibEncoder<Vec<u8>>| {
                    coder.flush()?;
                    Ok(std::mem::take(coder.get_mut()))
                };
                let mut coder = ZlibEncoder::new(Vec::new(), level);
                let mut coded = each(&pieces, &mut coder, flush)?;
                coded.push(coder.finish()?.into());
                coded
            }
        };
        let name = match coding {
            Coding::Gzip => "gzip",
            Coding::Deflate => "deflate",
        };
        Ok(self.with("content-encoding", name).with("vary", "accept-encoding"))
    }

    pub(super) fn body_bytes(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }
}

fn each<W: Write>(
    pieces: &[Bytes],
    coder: &mut W,
    flush: impl Fn(&mut W) -> io::Result<Vec<u8>>,
) -> io::Result<Vec<Bytes>> {
    pieces
        .iter()
        .map(|piece| {
            coder.write_all(piece)?;
            flush(coder).map(Bytes::from)
        })
        .collect()
}

/// What a request asks the model for, in whichever form it came.
pub(super) struct Prompt {
    /// Identifies the request; ids in the answer are made of it.
    pub(super) seed: String,
    pub(super) model: String,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    /// The tool to call, if tools are offered and no result has come back yet.
    pub(super) tool: Option<String>,
    /// The pieces in which the text is given.
    pub(super) words: Vec<String>,
    pub(super) input_tokens: usize,
    pub(super) error_in_stream: bool,
}

impl Prompt {
    /// All text of the answer.
    pub(super) fn text(&self) -> String {
        self.words.concat()
    }

    pub(super) fn output_tokens(&self) -> usize {
        self.words.len() + 7
    }

    /// An id with the vendor's prefix.
    pub(super) fn id(&self, prefix: &str) -> String {
        format!("{prefix}{}", &self.seed[..24])
    }
}

/// Text as a JSON string, quotes included.
pub(super) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}
