//! The sample vendor's lists of models, each in its vendor's shape.
//!
//! Invariant: names are of the vendors' documented families, so that a bare call finds its vendor.

#[cfg(test)]
use keyhaven_protocol::provider::Provider;

use super::answer::quoted;
use super::desk::Vendor;

/// The models of its OpenAI, and the deployments of its Azure.
pub(super) const OPENAI: [&str; 4] = ["gpt-4o-mini", "gpt-4o", "gpt-4.1", "gpt-4.1-mini"];
const ANTHROPIC: [&str; 3] = ["claude-haiku-4-5", "claude-sonnet-4-5", "claude-opus-4-5"];
const DEEPSEEK: [&str; 2] = ["deepseek-chat", "deepseek-reasoner"];

#[cfg(test)]
pub(super) fn all() -> impl Iterator<Item = (Provider, &'static str)> {
    let of = |provider, names: &'static [&str]| names.iter().map(move |name| (provider, *name));
    let openai = of(Provider::OpenAi, &OPENAI).chain(of(Provider::Azure, &OPENAI));
    openai.chain(of(Provider::Anthropic, &ANTHROPIC)).chain(of(Provider::DeepSeek, &DEEPSEEK))
}

pub(super) fn list(vendor: Vendor) -> String {
    let names = match vendor {
        Vendor::OpenAi | Vendor::Azure => OPENAI.as_slice(),
        Vendor::Anthropic => ANTHROPIC.as_slice(),
        Vendor::DeepSeek | Vendor::DeepSeekAnthropic => DEEPSEEK.as_slice(),
    };
    let data = names.iter().map(|name| one(vendor, name)).collect::<Vec<_>>().join(",");
    if vendor == Vendor::Anthropic {
        let end = |name: Option<&&str>| name.map_or_else(|| "null".to_owned(), |name| quoted(name));
        let (first, last) = (end(names.first()), end(names.last()));
        return format!(r#"{{"data":[{data}],"has_more":false,"first_id":{first},"last_id":{last}}}"#);
    }
    format!(r#"{{"object":"list","data":[{data}]}}"#)
}

fn one(vendor: Vendor, name: &str) -> String {
    let id = quoted(name);
    match vendor {
        Vendor::OpenAi | Vendor::Azure => {
            format!(r#"{{"id":{id},"object":"model","created":1715367049,"owned_by":"system"}}"#)
        }
        Vendor::DeepSeek | Vendor::DeepSeekAnthropic => {
            format!(r#"{{"id":{id},"object":"model","owned_by":"deepseek"}}"#)
        }
        Vendor::Anthropic => {
            format!(r#"{{"type":"model","id":{id},"display_name":{id},"created_at":"2025-10-01T00:00:00Z"}}"#)
        }
    }
}
