//! The call the demo makes itself, through the consumers' door like anybody else's.
//!
//! Invariant: what the vendor streams is shown as it arrives, not when it is complete.

use std::time::Duration;

use anyhow::Context;
use anyhow::bail;
use bytes::Bytes;
use http::Request;
use http::Response;
use http_body_util::BodyExt;
use http_body_util::Full;
use http_body_util::Limited;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use keyhaven_protocol::provider::Provider;
use secrecy::ExposeSecret;
use serde_json::Value;
use serde_json::json;

use crate::cost;
use crate::household::Household;
use crate::terminal::plain;
use crate::terminal::say;

/// For the head, and between two pieces of the body.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Of a refusal, this much is read.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

/// One line of a stream is far shorter.
const LINE_BYTES_MAX: usize = 1024 * 1024;

const QUESTION: &str = "Who are you, and which way did this answer come?";

/// Answers of real vendors cost money.
const ANSWER_TOKENS_MAX: u32 = 120;

/// A call to be made: where to, and with what.
pub(crate) struct FirstCall {
    path: &'static str,
    model: String,
    body: String,
    anthropic: bool,
}

impl FirstCall {
    /// The call that suits a vendor, with a cheap model among those it offers.
    pub(crate) fn to(household: &Household, provider: Provider) -> Self {
        let (usual, family, bound) = match provider {
            Provider::OpenAi | Provider::Azure => ("gpt-4o-mini", "gpt-", "max_completion_tokens"),
            Provider::Anthropic => ("claude-haiku-4-5", "claude-", "max_tokens"),
            Provider::DeepSeek => ("deepseek-chat", "deepseek-", "max_tokens"),
        };
        let seat = household.seat(provider);
        let offered = seat.iter().flat_map(|seat| seat.models.iter()).map(|model| &*model.id);
        let model = choose(usual, family, offered.collect());
        let anthropic = provider == Provider::Anthropic;
        let path = match provider {
            Provider::OpenAi => "/v1/chat/completions",
            Provider::Azure => "/openai/v1/chat/completions",
            Provider::Anthropic => "/v1/messages",
            Provider::DeepSeek => "/via/deepseek/chat/completions",
        };
        let body = json!({
            "model": &model,
            "stream": true,
            bound: ANSWER_TOKENS_MAX,
            "messages": [{ "role": "user", "content": QUESTION }],
        });
        Self { path, model, body: body.to_string(), anthropic }
    }

    /// Makes it, and shows the question and the answer.
    ///
    /// # Errors
    /// It was refused, or broke off.
    pub(crate) async fn make(self, household: &Household) -> anyhow::Result<()> {
        say(&format!("POST {} ({}, streamed)\n\n  > {QUESTION}\n  < ", self.path, plain(&self.model)));
        let client = Client::builder(TokioExecutor::new()).build_http();
        let shown = self.stream(household, &client).await;
        say("\n\n");
        if let Some(cost) = cost::of_call(&client, household, &shown?).await? {
            say(&format!("{cost}\n\n"));
        }
        Ok(())
    }

    /// Shows the answer; returns the call's id.
    async fn stream(
        self,
        household: &Household,
        client: &Client<HttpConnector, Full<Bytes>>,
    ) -> anyhow::Result<String> {
        let mut request = Request::post(format!("{}{}", household.base_url, self.path))
            .header("authorization", format!("Bearer {}", household.api_key.expose_secret()))
            .header("content-type", "application/json");
        if self.anthropic {
            request = request.header("anthropic-version", "2023-06-01");
        }
        let request = request.body(Full::new(Bytes::from(self.body)))?;
        let response =
            tokio::time::timeout(SILENCE_MAX, client.request(request)).await.context("wait for an answer")?;
        let response = response.context("call the hub")?;
        if !response.status().is_success() {
            return Err(refused(response).await);
        }
        let id = response.headers().get("keyhaven-call-id").context("the answer names no call")?.to_str()?.to_owned();
        let mut body = response.into_body();
        let mut lines = Lines::default();
        while let Some(frame) = tokio::time::timeout(SILENCE_MAX, body.frame()).await.context("wait for more")? {
            let Ok(data) = frame.context("read the answer")?.into_data() else { continue };
            for text in lines.feed(&data)? {
                say(&plain(&text));
            }
        }
        Ok(id)
    }
}

async fn refused(response: Response<Incoming>) -> anyhow::Error {
    let status = response.status();
    let body = tokio::time::timeout(SILENCE_MAX, Limited::new(response.into_body(), REFUSAL_BYTES_MAX).collect()).await;
    let body = body.ok().and_then(Result::ok).map(http_body_util::Collected::to_bytes).unwrap_or_default();
    anyhow::anyhow!("the call was answered {status}: {}", plain(&String::from_utf8_lossy(&body)))
}

/// The usual model, or its dated form, or one of the vendor's that chat, if any of them is offered.
fn choose(usual: &str, family: &str, offered: Vec<&str>) -> String {
    let exact = offered.iter().find(|name| **name == usual);
    let dated = || offered.iter().find(|name| name.starts_with(usual));
    let found = exact.or_else(dated).or_else(|| offered.iter().find(|name| name.starts_with(family)));
    found.map_or_else(|| usual.to_owned(), |name| (*name).to_owned())
}

/// Cuts a stream of server-sent events into lines, and takes the text out of them.
#[derive(Default)]
struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    fn feed(&mut self, data: &[u8]) -> anyhow::Result<Vec<String>> {
        self.partial.extend_from_slice(data);
        let Some(end) = self.partial.iter().rposition(|byte| *byte == b'\n') else {
            if self.partial.len() > LINE_BYTES_MAX {
                bail!("a line of the stream is longer than {LINE_BYTES_MAX} bytes");
            }
            return Ok(Vec::new());
        };
        let whole: Vec<u8> = self.partial.drain(..=end).collect();
        Ok(whole.split(|byte| *byte == b'\n').filter_map(text_in).collect())
    }
}

/// The piece of text in one line, in whichever vendor's form.
fn text_in(line: &[u8]) -> Option<String> {
    let data = line.strip_prefix(b"data:")?;
    let event: Value = serde_json::from_slice(data.trim_ascii()).ok()?;
    let text = event.pointer("/choices/0/delta/content").or_else(|| event.pointer("/delta/text"))?;
    text.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_taken_out_of_both_forms_however_the_bytes_are_cut() {
        let stream = "data: {\"choices\":[{\"delta\":{\"content\":\"One\"}}]}\n\n: keep-alive\n\n\
                      event: content_block_delta\r\ndata: {\"delta\":{\"type\":\"text_delta\",\"text\":\" two\"}}\r\n\r\n\
                      data: [DONE]\n\n";
        for size in 1..stream.len() {
            let mut lines = Lines::default();

            let pieces = stream.as_bytes().chunks(size).flat_map(|piece| lines.feed(piece).unwrap());

            assert_eq!(pieces.collect::<String>(), "One two", "in pieces of {size}");
        }
    }

    #[test]
    fn the_usual_model_is_preferred_then_its_dated_form_then_one_of_the_family() {
        let choose_claude = |offered| choose("claude-haiku-4-5", "claude-", offered);

        assert_eq!(choose_claude(vec!["claude-opus-4-5", "claude-haiku-4-5"]), "claude-haiku-4-5");
        assert_eq!(choose_claude(vec!["a", "claude-haiku-4-5-20251001"]), "claude-haiku-4-5-20251001");
        assert_eq!(choose_claude(vec!["a", "claude-next"]), "claude-next");
        assert_eq!(choose_claude(vec!["a"]), "claude-haiku-4-5");
        assert_eq!(choose_claude(vec![]), "claude-haiku-4-5");
    }
}
