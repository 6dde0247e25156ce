//! What the hubs of tests sell at: every model that a test, an SDK suite, the upstream or the
//! benchmark names, with a price for everything that can be metered.
//!
//! Invariant: no two units of a model have the same price, so that a bill tells what was counted.

use anyhow::Result;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_hub::config::Database;
use keyhaven_hub::pricing::book::Begins;
use keyhaven_hub::pricing::book::PriceBook;
use keyhaven_hub::registry::Registry;
use keyhaven_hub::settlement::deposit;
use keyhaven_hub::store::accounts::DEFAULT_ACCOUNT;
use keyhaven_hub::store::accounts::Deposit;
use keyhaven_protocol::frame::HeldTable;
use keyhaven_protocol::frame::Prices;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::money::Ppm;
use keyhaven_protocol::price::OwnerTier;
use keyhaven_protocol::price::Zone;
use serde_json::Value;
use serde_json::json;
use std::path::Path;

/// What consumers pay in tests, of the list price.
pub const ZONE: Ppm = Ppm(1_150_000);

/// What owners get in tests, of the list price.
pub const TIER: Ppm = Ppm(800_000);

/// What the account of all keys in tests begins with: $1,000,000.
pub const BALANCE: NanoUsd = NanoUsd(1_000_000_000_000_000);

/// Names at OpenAI, and of deployments at Azure. Those that no vendor knows are priced too: it is
/// the vendor that is to refuse them.
const OPENAI: &[&str] = &[
    "chatgpt-4o-latest",
    "dall-e-3",
    "fake-model",
    "gpt-3.5-turbo-instruct",
    "gpt-4",
    "gpt-4.1",
    "gpt-4.1-mini",
    "gpt-4.1-mini-2025-04-14",
    "gpt-4o",
    "gpt-4o-2024-08-06",
    "gpt-4o-mini",
    "gpt-4o-mini-2024-07-18",
    "gpt-4o-mini-transcribe",
    "gpt-4o-mini-tts",
    "gpt-4o-transcribe",
    "gpt-5",
    "gpt-9",
    "gpt-bench",
    "gpt-image-1",
    "gpt-realtime",
    "gpt-unknown",
    "m",
    "made-up",
    "mine",
    "o1-pro",
    "our-deployment",
    "o4-mini",
    "text-embedding-3-small",
    "tts-1",
    "whisper-1",
];

const ANTHROPIC: &[&str] = &[
    "claude-haiku-4-5",
    "claude-haiku-4-5-20251001",
    "claude-next",
    "claude-opus-4-5",
    "claude-opus-4-5-20251101",
    "claude-sonnet-4-5",
    "claude-sonnet-4-5-20250929",
    "claude-unknown",
    "claude-unknown-9",
];

const DEEPSEEK: &[&str] =
    &["deepseek-chat", "deepseek-flash", "deepseek-reasoner", "deepseek-unknown", "deepseek-v4-pro"];

/// Publishes these prices in the hub of this directory, sets zone and tier and gives consumers money,
/// unless something was published before. Do it before the hub starts: one that runs learns of it only
/// after a moment.
///
/// # Errors
/// When keys or database cannot be opened.
pub async fn stock_in(hub_dir: &Path) -> Result<()> {
    stock_on(hub_dir, &Database::default()).await
}

/// The same for a hub whose database is there.
///
/// # Errors
/// When keys or database cannot be opened.
pub async fn stock_on(hub_dir: &Path, database: &Database) -> Result<()> {
    let registry = Registry::open_with(hub_dir, None, database).await?;
    if registry.store.price_versions().await?.is_empty() {
        stock(&registry).await?;
    }
    registry.store.close().await;
    Ok(())
}

async fn stock(registry: &Registry) -> Result<()> {
    let now = unix_ms_now();
    let book = PriceBook::new(&registry.store, &registry.keys);
    book.import(table().to_string().as_bytes(), "made up for tests", now).await?;
    book.publish(Begins::Usual, now).await?;
    registry.store.put_zone(Zone::Standard, ZONE, false).await?;
    registry.store.put_tier(OwnerTier::Standard, TIER, false).await?;
    let paid = Deposit { reference: "tests".to_owned(), account: DEFAULT_ACCOUNT, amount: BALANCE, at_unix_ms: now };
    deposit(&registry.store, &paid).await?;
    Ok(())
}

/// The PRICES frame of an agent that holds what this hub has published, for agents that are made
/// by hand.
///
/// # Errors
/// When keys or database cannot be opened.
pub async fn held_of(hub_dir: &Path) -> Result<bytes::Bytes> {
    let registry = Registry::open(hub_dir, None).await?;
    let mut held = Vec::new();
    for version in registry.store.price_versions().await? {
        let published = registry.store.prices(Some(version)).await?;
        held.extend(published.map(|table| HeldTable { version, hash: Hex(table.hash) }));
    }
    registry.store.close().await;
    Ok(Prices::Held(held).encode())
}

/// The table in LiteLLM's form.
#[must_use]
pub fn table() -> Value {
    let mut models = serde_json::Map::new();
    for name in OPENAI {
        models.insert((*name).to_owned(), entry("openai"));
        models.insert(format!("azure/{name}"), entry("azure"));
    }
    models.extend(ANTHROPIC.iter().map(|name| ((*name).to_owned(), entry("anthropic"))));
    models.extend(DEEPSEEK.iter().map(|name| ((*name).to_owned(), entry("deepseek"))));
    Value::Object(models)
}

/// One model for everything: whatever a test asks of it has a price.
fn entry(provider: &str) -> Value {
    let mut entry = json!({
        "litellm_provider": provider,
        // The mode under which a second of audio has a price beside the tokens.
        "mode": "audio_transcription",
        "max_input_tokens": 128_000,
        "max_output_tokens": 16_384,
        "input_cost_per_second": 0.0001,
        "search_context_cost_per_query": { "search_context_size_low": 0.01 },
    });
    // In trillionths of a dollar.
    let prices: [(&str, u64); 10] = [
        ("input_cost_per_token", 2_500_000),
        ("cache_read_input_token_cost", 1_250_000),
        ("cache_creation_input_token_cost", 3_125_000),
        ("output_cost_per_token", 10_000_000),
        ("input_cost_per_audio_token", 32_000_000),
        ("cache_read_input_audio_token_cost", 400_000),
        ("output_cost_per_audio_token", 64_000_000),
        ("input_cost_per_image_token", 5_000_000),
        ("cache_read_input_image_token_cost", 500_000),
        ("output_cost_per_image_token", 41_000_000),
    ];
    for (field, pico) in prices {
        for (tier, percent) in [("", 100), ("_flex", 50), ("_priority", 170)] {
            let price = format!("{}e-12", pico * percent / 100);
            entry[format!("{field}{tier}")] = serde_json::from_str(&price).expect("a number");
        }
    }
    entry["input_cost_per_character"] = json!(1.5e-05);
    entry["cache_creation_input_token_cost_above_1hr"] = json!(6e-06);
    entry
}
