//! The gateway's counters per call. Each is looked up once and kept: the look-up costs more
//! than the count.
//!
//! Invariant: a series appears with its first call.

use std::sync::OnceLock;
use std::time::Duration;

use keyhaven_protocol::provider::Provider;
use metrics::Counter;
use metrics::Histogram;
use metrics::counter;
use metrics::histogram;

use super::Outcome;

/// What is counted of every call.
#[derive(Default)]
pub(super) struct Meters {
    openai: OfProvider,
    azure: OfProvider,
    anthropic: OfProvider,
    deepseek: OfProvider,
    unknown: OfProvider,
}

#[derive(Default)]
struct OfProvider {
    served: OnceLock<Counter>,
    aborted: OnceLock<Counter>,
    refused: OnceLock<Counter>,
    first_byte: OnceLock<Histogram>,
}

impl Meters {
    /// A call ended.
    pub(super) fn ended(&self, provider: Option<Provider>, outcome: Outcome) {
        let of = self.of(provider);
        let counter = match outcome {
            Outcome::Served => &of.served,
            Outcome::Aborted => &of.aborted,
            Outcome::Refused => &of.refused,
        };
        let counter = counter.get_or_init(
            || counter!("keyhaven_user_gateway_calls_total", "provider" => name(provider), "outcome" => outcome.name()),
        );
        counter.increment(1);
    }

    /// A call's answer began.
    pub(super) fn began(&self, provider: Option<Provider>, after: Duration) {
        let histogram = self
            .of(provider)
            .first_byte
            .get_or_init(|| histogram!("keyhaven_user_gateway_first_byte_seconds", "provider" => name(provider)));
        histogram.record(after.as_secs_f64());
    }

    fn of(&self, provider: Option<Provider>) -> &OfProvider {
        match provider {
            Some(Provider::OpenAi) => &self.openai,
            Some(Provider::Azure) => &self.azure,
            Some(Provider::Anthropic) => &self.anthropic,
            Some(Provider::DeepSeek) => &self.deepseek,
            None => &self.unknown,
        }
    }
}

/// A vendor's name as metrics and logs say it.
pub(super) fn name(provider: Option<Provider>) -> &'static str {
    provider.map_or("none", |provider| provider.name())
}
