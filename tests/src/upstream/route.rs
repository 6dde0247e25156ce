//! Which place of a vendor a request is for.
//!
//! Invariant: paths match exactly; nothing is decoded, folded or forgiven.

use super::vendor::Form;

/// An endpoint of a vendor, as its path names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What<'a> {
    Chat,
    Completions,
    Responses,
    Embeddings,
    ImageGenerations,
    ImageEdits,
    Speech,
    Transcriptions,
    Translations,
    Realtime,
    Messages,
    CountTokens,
    Models,
    Model(&'a str),
}

/// An endpoint, with the deployment where the path or query names one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place<'a> {
    pub(super) what: What<'a>,
    pub(super) deployment: Option<&'a str>,
}

impl What<'_> {
    pub(super) const fn method(self) -> &'static str {
        match self {
            Self::Models | Self::Model(_) | Self::Realtime => "GET",
            Self::Chat
            | Self::Completions
            | Self::Responses
            | Self::Embeddings
            | Self::ImageGenerations
            | Self::ImageEdits
            | Self::Speech
            | Self::Transcriptions
            | Self::Translations
            | Self::Messages
            | Self::CountTokens => "POST",
        }
    }
}

pub(super) fn place(form: Form, target: &str) -> Option<Place<'_>> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let plain = |what| Place { what, deployment: None };
    match form {
        Form::OpenAi => openai(path.strip_prefix("/v1")?).map(plain),
        Form::Azure => match path.strip_prefix("/openai/v1") {
            Some(rest) => openai(rest).map(plain),
            None => azure(path.strip_prefix("/openai")?, query),
        },
        Form::Anthropic => anthropic(path.strip_prefix("/v1")?).map(plain),
        Form::DeepSeekAnthropic => {
            let what = anthropic(path.strip_prefix("/anthropic/v1")?)?;
            (what != What::CountTokens).then_some(plain(what))
        }
        Form::DeepSeek => deepseek(path).map(plain),
    }
}

/// A parameter of a query, as it is written.
pub(super) fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let value = |pair: &'a str| pair.strip_prefix(name)?.strip_prefix('=');
    query.split('&').find_map(value).filter(|value| !value.is_empty())
}

fn openai(path: &str) -> Option<What<'_>> {
    Some(match path {
        "/chat/completions" => What::Chat,
        "/responses" => What::Responses,
        "/realtime" => What::Realtime,
        _ => return by_deployment(path).or_else(|| models(path)),
    })
}

/// What Azure has under a deployment, and OpenAI under its root.
fn by_deployment(path: &str) -> Option<What<'_>> {
    Some(match path {
        "/chat/completions" => What::Chat,
        "/completions" => What::Completions,
        "/embeddings" => What::Embeddings,
        "/images/generations" => What::ImageGenerations,
        "/images/edits" => What::ImageEdits,
        "/audio/speech" => What::Speech,
        "/audio/transcriptions" => What::Transcriptions,
        "/audio/translations" => What::Translations,
        _ => return None,
    })
}

/// Azure's dated API: nothing without an `api-version`.
fn azure<'a>(path: &'a str, query: &'a str) -> Option<Place<'a>> {
    parameter(query, "api-version")?;
    let plain = |what| Some(Place { what, deployment: None });
    match path {
        "/models" => return plain(What::Models),
        "/responses" => return plain(What::Responses),
        "/realtime" => {
            return Some(Place { what: What::Realtime, deployment: Some(parameter(query, "deployment")?) });
        }
        _ => {}
    }
    let (deployment, _) = path.strip_prefix("/deployments/")?.split_once('/')?;
    let rest = path.strip_prefix("/deployments/")?.strip_prefix(deployment)?;
    let what = by_deployment(rest)?;
    Some(Place { what, deployment: Some(deployment).filter(|name| !name.is_empty()) })
}

fn anthropic(path: &str) -> Option<What<'_>> {
    match path {
        "/messages" => Some(What::Messages),
        "/messages/count_tokens" => Some(What::CountTokens),
        _ => models(path),
    }
}

fn deepseek(path: &str) -> Option<What<'_>> {
    match path {
        "/beta/chat/completions" => Some(What::Chat),
        "/beta/completions" => Some(What::Completions),
        _ => match path.strip_prefix("/v1").unwrap_or(path) {
            "/chat/completions" => Some(What::Chat),
            rest => models(rest),
        },
    }
}

fn models(path: &str) -> Option<What<'_>> {
    if path == "/models" {
        return Some(What::Models);
    }
    let model = path.strip_prefix("/models/")?;
    (!model.is_empty() && !model.contains('/')).then_some(What::Model(model))
}
