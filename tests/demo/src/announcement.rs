//! What the demo prints once it serves: a page for people, one line for machines.
//!
//! Invariant: the fields of the line, once published, keep their names and meanings.

use std::net::SocketAddr;

use keyhaven_protocol::provider::Provider;
use secrecy::ExposeSecret;
use serde::Serialize;

use crate::arguments::Upstream;
use crate::home::Home;
use crate::household::Household;
use crate::prices;

/// The one line of `--json`.
#[derive(Serialize)]
pub(crate) struct Door {
    base_url: String,
    api_key: String,
    join_token: String,
    admin_url: String,
    tunnel_address: SocketAddr,
    azure_resource: Option<String>,
    data_dir: String,
    pid: u32,
}

impl Door {
    /// Everything a program needs that uses the demo.
    pub(crate) fn of(household: &Household, home: &Home) -> Self {
        Self {
            base_url: household.base_url.clone(),
            api_key: household.api_key.expose_secret().to_owned(),
            join_token: household.join_token.expose_secret().to_owned(),
            admin_url: format!("http://{}", household.hub.admin),
            tunnel_address: household.hub.tunnel,
            azure_resource: household.azure_resource.clone(),
            data_dir: home.dir().display().to_string(),
            pid: std::process::id(),
        }
    }
}

/// Who is here, and what leaves the machine.
pub(crate) fn welcome(household: &Household, upstream: &Upstream, home: &Home) -> String {
    let vendors: Vec<&str> = household.reachable.iter().map(|provider| provider.title()).collect();
    let vendors = vendors.join(", ");
    let (plainly, vendor) = match upstream {
        Upstream::Sample => (
            "This is a demo with a made-up vendor: its answers and the keys to it are invented, and nothing leaves \
             this machine."
                .to_owned(),
            format!("a sample that plays {vendors}"),
        ),
        Upstream::Mapped { .. } => (
            "This is a demo with upstreams of yours on loopback: the keys to them are made up, and nothing leaves \
             this machine."
                .to_owned(),
            format!("yours, in place of {vendors}"),
        ),
        Upstream::Real { .. } => (
            format!(
                "This is a demo with a real vendor: calls go to {vendors} over the Internet, with your key, at your cost."
            ),
            format!("{vendors} itself"),
        ),
    };
    let kept = if home.is_kept() { "" } else { " (removed at the end)" };
    format!(
        "Keyhaven demo: a hub and an agent in one process, joined by the real tunnel (TLS 1.3, pinned keys).\n\
         {plainly}\n\n\
         \x20 hub     {} for consumers, {} for agents, http://{} for status\n\
         \x20 agent   {}, which alone holds the vendor's keys\n\
         \x20 vendor  {vendor}\n\
         \x20 prices  {}\n\
         \x20 data    {}{kept}\n\n",
        household.base_url,
        household.hub.tunnel,
        household.hub.admin,
        household.agent,
        prices::SOURCE,
        home.dir().display(),
    )
}

/// What to do next.
pub(crate) fn instructions(household: &Household) -> String {
    let (url, key) = (&household.base_url, household.api_key.expose_secret());
    let provider = household.reachable.first().copied().unwrap_or(Provider::OpenAi);
    let curl = curl(household, provider);
    format!(
        "Base URL  {url}  (with or without /v1)\n\
         API key   {key}\n\n\
         Your turn, from another terminal:\n\n{curl}\n\
         OpenAI SDK:     OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY={key}\n\
         Anthropic SDK:  ANTHROPIC_BASE_URL={url} ANTHROPIC_API_KEY={key}\n\n\
         What calls cost, here and at /calls/<keyhaven-call-id>, /balance and /prices beside it:\n\n\
         \x20 curl -H 'Authorization: Bearer {key}' {url}/keyhaven/v1/usage\n\n"
    )
}

fn curl(household: &Household, provider: Provider) -> String {
    let (path, model, more) = match provider {
        Provider::OpenAi => ("/v1/chat/completions", "gpt-4o-mini", ""),
        Provider::Azure => ("/openai/v1/chat/completions", "gpt-4o-mini", ""),
        Provider::DeepSeek => ("/v1/chat/completions", "deepseek-chat", ""),
        Provider::Anthropic => ("/v1/messages", "claude-haiku-4-5", ",\"max_tokens\":200"),
    };
    let version = if provider == Provider::Anthropic { "    -H 'anthropic-version: 2023-06-01' \\\n" } else { "" };
    format!(
        "  curl -N {}{path} \\\n\
         \x20   -H 'Authorization: Bearer {}' \\\n\
         \x20   -H 'Content-Type: application/json' \\\n{version}\
         \x20   -d '{{\"model\":\"{model}\",\"stream\":true{more},\"messages\":[{{\"role\":\"user\",\"content\":\"Hello!\"}}]}}'\n",
        household.base_url,
        household.api_key.expose_secret(),
    )
}
