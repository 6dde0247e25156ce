//! The agent as a process of its own in front of loopback upstreams: for tests that kill
//! it and for the benchmark. The released agent cannot be made to do this.
//!
//! Invariant: the agent's own library does all the work; only the egress differs.

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use clap::Parser;
use keyhaven_agent::config::Config;
use keyhaven_agent::config::ENV_PREFIX;
use keyhaven_agent::provider::Egress;
use keyhaven_agent::vault::Vault;
use keyhaven_agent::vault::host::Account;
use keyhaven_agent::vault::host::AzureSuffix;
use keyhaven_agent::vault::key::Attestation;
use keyhaven_agent::vault::key::NewKey;
use keyhaven_agent::vault::unlock::Backend;
use keyhaven_agent::vault::unlock::Unlock;
use keyhaven_daemon::cli::Output;
use keyhaven_daemon::cli::finish;
use keyhaven_daemon::clock::unix_ms_now;
use keyhaven_daemon::config::Source;
use keyhaven_daemon::config::load;
use keyhaven_daemon::files::DirLock;
use keyhaven_daemon::hardening;
use keyhaven_daemon::telemetry;
use keyhaven_daemon::telemetry::LogFormat;
use keyhaven_protocol::join_token::JoinToken;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

/// The join token, for the first start in a data directory.
const TOKEN_VARIABLE: &str = "KIT_JOIN_TOKEN";

/// Keys as `provider=key`, one a line, for the first start in a data directory.
const KEYS_VARIABLE: &str = "KIT_KEYS";

#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    data_dir: PathBuf,
    /// `official.host=127.0.0.1:port`, repeatable.
    #[arg(long)]
    upstream_map: Vec<String>,
    #[arg(long)]
    upstream_ca: PathBuf,
    #[arg(long, default_value = "info")]
    log_level: String,
}

/// The passphrase of a vault that has one, as for the released agent.
const PASSPHRASE_VARIABLE: &str = "KEYHAVEN_AGENT_PASSPHRASE";

fn main() -> ExitCode {
    finish(Output::new(false), start())
}

fn start() -> Result<()> {
    hardening::forbid_core_dumps()?;
    let arguments = Arguments::parse();
    let _logs =
        telemetry::init(&arguments.log_level, LogFormat::Human).map_err(keyhaven_daemon::failure::Failure::from)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(arguments))
}

async fn run(arguments: Arguments) -> Result<()> {
    let routes = arguments.upstream_map.iter().map(|text| route(text)).collect::<Result<_>>()?;
    let egress = Egress::loopback(routes, &std::fs::read(&arguments.upstream_ca)?)?;
    let dir = arguments.data_dir;
    keyhaven_agent::vault::create_dir(&dir)?;
    let _lock = DirLock::acquire(&dir)?;
    let vault =
        if Vault::exists(&dir) { Vault::open(&dir, &unlock(&dir)?)? } else { first_start(&dir, &egress).await? };
    keyhaven_agent::app::serve(config()?, dir, vault, egress).await
}

/// As the released agent reads it, from the environment alone.
fn config() -> Result<Config> {
    let source = Source {
        env_prefix: ENV_PREFIX,
        file: None,
        flags: &[],
        env: &|name| std::env::var(name).ok(),
        ignored_env: &[PASSPHRASE_VARIABLE],
    };
    Ok(load::<Config>(&source)?.config)
}

fn unlock(dir: &Path) -> Result<Unlock> {
    Ok(match Vault::backend_of(dir)? {
        Backend::KeyFile => Unlock::KeyFile,
        Backend::Passphrase => {
            Unlock::Passphrase(std::env::var(PASSPHRASE_VARIABLE).context(PASSPHRASE_VARIABLE)?.into())
        }
    })
}

async fn first_start(dir: &Path, egress: &Egress) -> Result<Vault> {
    let mut vault = Vault::create(dir, &Unlock::KeyFile)?;
    let keys = std::env::var(KEYS_VARIABLE).context(KEYS_VARIABLE)?;
    for line in keys.lines() {
        let (provider, key) = line.split_once('=').context("a key is provider=key")?;
        vault.add_key(NewKey {
            account: account(provider)?,
            label: String::new(),
            secret: key.into(),
            attestation: Some(Attestation { text: "a made-up key of a test".to_owned(), at_unix_ms: unix_ms_now() }),
            added_unix_ms: unix_ms_now(),
        })?;
    }
    let token = JoinToken::decode(&std::env::var(TOKEN_VARIABLE).context(TOKEN_VARIABLE)?)?;
    keyhaven_agent::enrol::join(&mut vault, &token, egress).await?;
    Ok(vault)
}

fn account(provider: &str) -> Result<Account> {
    Ok(match provider.split_once('/') {
        Some(("azure", resource)) => {
            Account::Azure { resource: resource.to_owned(), suffix: AzureSuffix::OpenAi, deployments: Vec::new() }
        }
        Some(_) => bail!("only azure has a resource"),
        None => match provider {
            "openai" => Account::OpenAi,
            "anthropic" => Account::Anthropic,
            "deepseek" => Account::DeepSeek,
            _ => bail!("{provider} is no provider"),
        },
    })
}

fn route(text: &str) -> Result<(String, SocketAddr)> {
    let (host, address) = text.split_once('=').context("a route is host=address")?;
    Ok((host.to_owned(), address.parse()?))
}
