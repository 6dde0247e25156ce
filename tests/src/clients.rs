//! The official SDKs' suites, run as programs with base URLs and keys.
//!
//! Invariant: keys go by environment, never by argument; the same suite runs directly against the
//! upstream and through a hub, and only base URLs and keys differ.

use crate::process::Process;
use crate::tls_door::TlsDoor;
use crate::upstream::Upstream;
use crate::upstream::vendor::Vendor;
use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use serde_json::Value;
use serde_json::json;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// The longest a suite may take.
pub const SUITE_MAX: Duration = Duration::from_secs(300);

/// Which official SDKs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// `openai` and `anthropic` from PyPI.
    Python,
    /// `openai` and `@anthropic-ai/sdk` from npm.
    Node,
}

impl Language {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Python, Self::Node];
}

/// Where `tests/install.sh` puts what it installs.
#[must_use]
pub fn tools() -> PathBuf {
    let here = || Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools");
    std::env::var_os("KEYHAVEN_TEST_TOOLS").map_or_else(here, PathBuf::from)
}

/// A file of the installed tools.
///
/// # Errors
/// When it is not there; the message names the script.
pub fn tool(path: &str) -> Result<PathBuf> {
    let full = tools().join(path);
    if !full.exists() {
        bail!("{} is missing: run tests/install.sh first", full.display());
    }
    Ok(full)
}

/// Base URLs and keys for the upstream's plain port, without a hub between.
#[must_use]
pub fn direct(upstream: &Upstream) -> Value {
    let root = format!("http://{}", upstream.plain_addr());
    targets(&root, |vendor| upstream.keys().of(vendor).to_owned())
}

/// Base URLs and keys for a hub (`http://127.0.0.1:9000`), in the explicit form of its paths.
#[must_use]
pub fn through_hub(hub: &str, azure_resource: &str, api_key: &str) -> Value {
    let root = format!("{hub}/via");
    let mut targets = targets(&root, |_| api_key.to_owned());
    let azure = format!("{root}/azure/{azure_resource}");
    targets["azure"]["base_url"] = azure.clone().into();
    targets["azure_v1"]["base_url"] = format!("{azure}/openai/v1").into();
    targets
}

/// The same targets with the base URLs that the Node SDK needs for realtime, which it opens over TLS
/// only: `door` stands before the port that the targets name.
#[must_use]
pub fn with_tls(mut targets: Value, door: &TlsDoor) -> Value {
    targets["ca_pem"] = door.ca_pem().to_string_lossy().into_owned().into();
    for name in ["openai", "azure", "azure_v1"] {
        let base = targets[name]["base_url"].as_str().unwrap_or_default();
        let path = base.splitn(4, '/').nth(3).unwrap_or_default();
        targets[name]["secure_base_url"] = format!("{}/{path}", door.url()).into();
    }
    targets
}

/// Runs a suite and returns its results by case.
///
/// # Errors
/// When the SDKs are not installed, or the suite fails or takes too long.
pub async fn run(language: Language, targets: &Value) -> Result<Value> {
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
    let clients = std::env::var_os("KEYHAVEN_TEST_CLIENTS").map_or(clients, PathBuf::from);
    let (program, script) = match language {
        Language::Python => (tool("venv/bin/python")?, "suite.py"),
        Language::Node => (tool("bin/node")?, "suite.mjs"),
    };
    let mut command = Command::new(program);
    command
        .arg(clients.join(script))
        .env("KEYHAVEN_SUITE", targets.to_string())
        .env("KEYHAVEN_TEST_TOOLS", tools())
        .env("NODE_EXTRA_CA_CERTS", targets["ca_pem"].as_str().unwrap_or_default())
        .env("PYTHONDONTWRITEBYTECODE", "1");
    // What a developer has set for himself must not change what the SDKs send.
    let theirs = ["OPENAI_", "ANTHROPIC_", "AZURE_"];
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy().into_owned();
        let proxy = text.to_ascii_lowercase().ends_with("_proxy");
        if proxy || theirs.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    let finished = Process::run(command, "", SUITE_MAX).await?;
    if finished.code != Some(0) {
        bail!("{script} failed ({:?}):\n{}", finished.code, finished.stderr);
    }
    serde_json::from_str(&finished.stdout).with_context(|| format!("{script} printed no JSON:\n{}", finished.stdout))
}

/// The cases of two runs whose results differ, with both results.
#[must_use]
pub fn differences(one: &Value, other: &Value) -> Vec<String> {
    let cases = |value: &Value| -> Vec<String> {
        let object = value.as_object();
        object.map(|map| map.keys().cloned().collect()).unwrap_or_default()
    };
    let mut names = cases(one);
    names.extend(cases(other));
    names.sort();
    names.dedup();
    let differ = names.into_iter().filter(|name| one[name] != other[name]);
    differ.map(|name| format!("{name}:\n  {}\n  {}", one[&name], other[&name])).collect()
}

fn targets(root: &str, key: impl Fn(Vendor) -> String) -> Value {
    let target = |vendor: Vendor, path: &str| json!({"base_url": format!("{root}/{path}"), "api_key": key(vendor)});
    json!({
        "openai": target(Vendor::OpenAi, "openai/v1"),
        "azure": target(Vendor::Azure, "azure"),
        "azure_v1": target(Vendor::Azure, "azure/openai/v1"),
        "anthropic": target(Vendor::Anthropic, "anthropic"),
        "deepseek": target(Vendor::DeepSeek, "deepseek"),
        "deepseek_beta": target(Vendor::DeepSeek, "deepseek/beta"),
        "deepseek_anthropic": target(Vendor::DeepSeek, "deepseek/anthropic"),
    })
}
