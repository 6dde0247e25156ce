//! `keyhaven-demo`: hub, tunnel and agent in one process, and a vendor that is made up unless a
//! real one is asked for by name.
//!
//! Invariant: without `--real-vendor` no byte leaves this machine.

mod announcement;
mod arguments;
mod cost;
mod first_call;
mod home;
mod household;
mod hub_settings;
mod owner;
mod prices;
mod random;
mod sample_vendor;
mod terminal;
mod vendor_keys;
mod watch;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use keyhaven_agent::vault::Vault;
use keyhaven_agent::vault::unlock::Unlock;
use keyhaven_daemon::admin;
use keyhaven_daemon::cli::Output;
use keyhaven_daemon::cli::finish;
use keyhaven_daemon::cli::parse;
use keyhaven_daemon::failure::Failure;
use keyhaven_daemon::hardening::forbid_core_dumps;
use keyhaven_daemon::tasks::Tasks;
use keyhaven_daemon::telemetry;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::provider::Provider;

use crate::announcement::Door;
use crate::arguments::Arguments;
use crate::arguments::Upstream;
use crate::first_call::FirstCall;
use crate::home::Home;
use crate::household::Household;
use crate::household::Lives;
use crate::hub_settings::HubSettings;
use crate::terminal::say;
use crate::vendor_keys::RealKey;

fn main() -> ExitCode {
    let arguments: Arguments = match parse() {
        Ok(arguments) => arguments,
        Err(ended) => return ended,
    };
    let output = Output::new(arguments.json);
    if let Err(error) = forbid_core_dumps() {
        output.note(&format!("warning: core dumps cannot be forbidden: {error}"));
    }
    finish(output, run(&arguments, output))
}

fn run(arguments: &Arguments, output: Output) -> anyhow::Result<()> {
    let upstream = arguments.upstream()?;
    let real_key = real_key(arguments, &upstream, output)?;
    let home = Home::open(arguments.data_dir.as_deref())?;
    let settings = HubSettings::load(arguments, &home)?;
    let _logs = telemetry::init(&settings.config.log.level, settings.config.log.format).map_err(Failure::from)?;
    let provider = rustls::crypto::ring::default_provider().install_default();
    provider.map_err(|_| Failure::new(ErrorCode::Internal, "a crypto provider is installed already"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(demonstrate(settings, &upstream, real_key, &home, output))?;
    home.close()
}

/// Asks for the owner's key if it is needed and not kept from an earlier time. It comes before all
/// else, so that who declines leaves nothing behind.
fn real_key(arguments: &Arguments, upstream: &Upstream, output: Output) -> anyhow::Result<Option<RealKey>> {
    let Upstream::Real { vendor, attested } = upstream else { return Ok(None) };
    let kept = arguments.data_dir.as_ref().map(|dir| dir.join("agent")).filter(|dir| Vault::exists(dir));
    if let Some(dir) = kept {
        let vault = Vault::open(&dir, &Unlock::KeyFile).map_err(Failure::from)?;
        if vendor_keys::has_real(&vault, *vendor) {
            output.note(&format!("using the {} key that is kept in {}", vendor.provider().title(), dir.display()));
            return Ok(None);
        }
    }
    owner::ask(output, *vendor, *attested).map(Some)
}

/// Runs until it is asked to end or cannot go on; then everything ends in order.
async fn demonstrate(
    settings: HubSettings,
    upstream: &Upstream,
    real_key: Option<RealKey>,
    home: &Home,
    output: Output,
) -> anyhow::Result<()> {
    let grace = settings.config.calls.drain_grace();
    let mut lives = Lives::default();
    let mut household = None;
    let ended = tokio::select! {
        () = Tasks::signals() => Ok(()),
        ended = live(settings, upstream, real_key, home, output, &mut lives, &mut household) => ended,
    };
    // Who failed has no calls to wait for.
    let grace = if ended.is_ok() { grace } else { Duration::ZERO };
    tokio::select! {
        () = lives.end(grace) => {}
        () = Tasks::signals() => {
            lives.cut();
            lives.end(Duration::ZERO).await;
        }
    }
    if let Some(household) = household {
        household.hub.registry.store.close().await;
    }
    ended
}

async fn live(
    settings: HubSettings,
    upstream: &Upstream,
    real_key: Option<RealKey>,
    home: &Home,
    output: Output,
    lives: &mut Lives,
    place: &mut Option<Household>,
) -> anyhow::Result<()> {
    let wished = settings.config.consumer.listen;
    let metrics = admin::install_metrics();
    let household = place.insert(Household::start(settings, upstream, real_key, home, metrics, lives).await?);
    if wished.port() != 0 && household.hub.consumer != wished {
        output.note(&format!("{wished} is taken, so consumers are served at {}", household.hub.consumer));
    }
    if output.is_json() {
        output.emit("demo", &Door::of(household, home), String::new)?;
        return Err(household.agent_ended().await);
    }
    let calls = household.hub.watch_calls();
    say(&announcement::welcome(household, upstream, home));
    call_first(household, upstream).await?;
    say(&announcement::instructions(household));
    say(&format!("Calls as they pass, until Ctrl-C:\n\n{}", watch::heading()));
    tokio::select! {
        error = household.agent_ended() => Err(error),
        () = watch::show(calls) => Ok(()),
    }
}

/// The sample vendor has to answer, or the demo shows nothing; others may have their reasons.
async fn call_first(household: &Household, upstream: &Upstream) -> anyhow::Result<()> {
    if household.base_url.starts_with("https:") {
        say("The hub serves TLS, as its configuration says, so the first call is yours.\n\n");
        return Ok(());
    }
    let provider = household.reachable.first().copied().unwrap_or(Provider::OpenAi);
    say(&match upstream {
        Upstream::Sample => "One call through all of it: ".to_owned(),
        Upstream::Mapped { .. } => "One call through all of it, to an upstream of yours: ".to_owned(),
        Upstream::Real { .. } => format!("One short call through all of it, to {} for real: ", provider.title()),
    });
    let made = FirstCall::to(household, provider).make(household).await;
    match (made, upstream) {
        (Ok(()), _) => Ok(()),
        (Err(error), Upstream::Sample) => Err(error),
        (Err(error), Upstream::Mapped { .. } | Upstream::Real { .. }) => {
            say(&format!("It did not work: {error:#}\n\n"));
            Ok(())
        }
    }
}
