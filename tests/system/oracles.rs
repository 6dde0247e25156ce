//! What calls cost by our tables, beside what two public calculators say: litellm and genai-prices.
//!
//! Invariant: every disagreement is in docs/PRICING.md with both figures and the reason, and
//! nothing else is.

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use keyhaven_hub::pricing::litellm;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::price::PriceTable;
use keyhaven_protocol::price::ServiceTier;
use keyhaven_protocol::provider::Provider;
use keyhaven_protocol::usage::Coding;
use keyhaven_protocol::usage::Form;
use keyhaven_protocol::usage::Meters;
use keyhaven_protocol::usage::Shape;
use keyhaven_protocol::usage::Tap;
use keyhaven_tests::clients::tool;
use keyhaven_tests::process::Process;
use serde::Deserialize;
use serde_json::Value;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// They import half of the Python world.
const CALCULATORS_MAX: Duration = Duration::from_secs(180);

const CASES: &str = include_str!("../clients/oracle_cases.json");

/// The table of the very package that one of the calculators is.
const PRICES: &[u8] = include_bytes!("../demo/prices/litellm-1.109.1.json");

const PAGE: &str = include_str!("../../docs/PRICING.md");

#[derive(Deserialize)]
struct Case {
    name: String,
    provider: Provider,
    model: String,
    form: String,
    tier: Option<String>,
    response: Value,
}

#[derive(Deserialize)]
struct Answer {
    name: String,
    litellm: Said,
    genai: Said,
}

#[derive(Deserialize)]
struct Said {
    usd: Option<String>,
}

/// A row of the page: case, calculator, what we say, what it says.
type Row = (String, String, String, String);

#[tokio::test]
async fn every_disagreement_with_a_public_calculator_is_on_the_page_and_nothing_else_is() -> Result<()> {
    let cases: Vec<Case> = serde_json::from_str(CASES)?;
    let models = litellm::import(PRICES)?.models;
    let table = PriceTable { version: 1, valid_from_unix_ms: 0, source: "LiteLLM".to_owned(), models };
    let answers = ask().await?;
    let mut found = BTreeSet::new();
    for (case, answer) in cases.iter().zip(&answers) {
        assert_eq!(case.name, answer.name);
        let ours = cost(&table, case)?;
        for (calculator, said) in [("litellm", &answer.litellm), ("genai-prices", &answer.genai)] {
            let theirs = said.usd.as_deref().map(nano).transpose()?;
            if theirs != Some(ours) {
                let theirs = theirs.map_or_else(|| "nothing".to_owned(), |theirs| theirs.to_string());
                found.insert((case.name.clone(), calculator.to_owned(), ours.to_string(), theirs));
            }
        }
    }

    let listed = listed()?;
    let unlisted: Vec<&Row> = found.difference(&listed).collect();
    let gone: Vec<&Row> = listed.difference(&found).collect();
    assert!(answers.len() > 20, "{}", answers.len());
    assert!(unlisted.is_empty() && gone.is_empty(), "not on the page: {unlisted:#?}\nonly on the page: {gone:#?}");
    Ok(())
}

#[test]
fn every_form_is_among_the_cases() -> Result<()> {
    let cases: Vec<Case> = serde_json::from_str(CASES)?;
    let forms: BTreeSet<&str> = cases.iter().map(|case| case.form.as_str()).collect();
    let all = [
        "completions",
        "deepseek_completions",
        "embeddings",
        "images",
        "messages",
        "realtime",
        "responses",
        "speech",
        "transcription",
    ];
    assert_eq!(forms, BTreeSet::from(all));
    assert!(Provider::ALL.iter().all(|provider| cases.iter().any(|case| case.provider == *provider)));
    Ok(())
}

/// By the code that bills.
fn cost(table: &PriceTable, case: &Case) -> Result<NanoUsd> {
    let name = &case.name;
    let sku = table.sku_for(case.provider, &case.model).with_context(|| format!("{name}: no price"))?;
    let form = match case.form.as_str() {
        "completions" => Form::Completions,
        "deepseek_completions" => Form::DeepSeekCompletions,
        "responses" => Form::Responses,
        "embeddings" => Form::Embeddings,
        "images" => Form::Images,
        "speech" => Form::Speech,
        "transcription" => Form::Transcription,
        "realtime" => Form::Realtime,
        "messages" => Form::Messages,
        other => bail!("{name}: no such form: {other}"),
    };
    let (shape, answer) = if form == Form::Realtime {
        (Shape::Session, message(&json!({"type": "response.done", "response": case.response}))?)
    } else {
        (Shape::Json, case.response.to_string().into_bytes())
    };
    let mut tap = Tap::new(form, shape, Some(Coding::Identity));
    tap.feed(&answer);
    let (meters, doubts) = Meters::of(form, &tap.finish(true).counters);
    assert!(doubts.is_empty(), "{name}: {doubts:?}");
    let tier = ServiceTier::of_answer(case.tier.as_deref()).with_context(|| format!("{name}: no such tier"))?;
    Ok(sku.bill(tier, &meters)?.list_nano_usd)
}

/// A vendor's message in a session, as its WebSocket sends it.
fn message(event: &Value) -> Result<Vec<u8>> {
    let text = event.to_string();
    let length = u16::try_from(text.len())?;
    Ok([&[0x81, 126][..], &length.to_be_bytes(), text.as_bytes()].concat())
}

async fn ask() -> Result<Vec<Answer>> {
    let mut command = Command::new(tool("oracles/bin/python")?);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/oracles.py"));
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    let finished = Process::run(command, CASES, CALCULATORS_MAX).await?;
    if finished.code != Some(0) {
        bail!("the calculators failed:\n{}", finished.stderr);
    }
    serde_json::from_str(&finished.stdout).with_context(|| format!("no JSON:\n{}", finished.stdout))
}

/// One of them counts in floats: what it says is rounded to a billionth of a dollar.
fn nano(usd: &str) -> Result<NanoUsd> {
    let (whole, fraction) = usd.split_once('.').unwrap_or((usd, ""));
    let tenths: String = fraction.chars().chain("0000000000".chars()).take(10).collect();
    let (whole, tenths): (i64, i64) = (whole.parse()?, tenths.parse()?);
    Ok(NanoUsd(whole * 1_000_000_000 + (tenths + 5) / 10))
}

/// The rows between the page's two markers.
fn listed() -> Result<BTreeSet<Row>> {
    let (_, rest) = PAGE.split_once("<!-- disagreements -->").context("no beginning of the table")?;
    let (rows, _) = rest.split_once("<!-- end of disagreements -->").context("no end of the table")?;
    let rows = rows.lines().filter(|line| line.starts_with("| `"));
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        match cells[..] {
            [case, calculator, ours, theirs, why] if !why.is_empty() => {
                Ok((case.to_owned(), calculator.to_owned(), ours.to_owned(), theirs.to_owned()))
            }
            _ => bail!("a row needs five cells: {line}"),
        }
    };
    rows.map(row).collect()
}
