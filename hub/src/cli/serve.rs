//! `serve`: everything a process has once, then the hub itself.
//!
//! Invariant: only here are globals set: logs, the crypto provider, metrics.

use std::path::Path;

use anyhow::Context;
use clap::Args;
use keyhaven_daemon::admin;
use keyhaven_daemon::failure::Failure;
use keyhaven_daemon::tasks::Tasks;
use keyhaven_daemon::telemetry;
use keyhaven_protocol::ErrorCode;
use tracing::info;
use tracing::warn;

use crate::config::Config;
use crate::keys::BACKUP_KEY_FILE;
use crate::keys::HubKeys;
use crate::keys::ROOT_KEY_FILE;

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Take over from the hub that runs in this data directory: its listening sockets at
    /// once, so that no connection is refused, while its last calls finish there.
    #[arg(long)]
    replace: bool,
}

pub(super) fn serve(config: Config, args: &ServeArgs) -> anyhow::Result<()> {
    let _logs = telemetry::init(&config.log.level, config.log.format).map_err(super::failure)?;
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| Failure::new(ErrorCode::Internal, "a crypto provider is installed already"))?;
    initialise_if_empty(&config.data_dir()).map_err(super::failure)?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(crate::app::serve(config, args.replace, Tasks::new(), admin::install_metrics()))
}

fn initialise_if_empty(dir: &Path) -> Result<(), crate::keys::KeysError> {
    let Some(keys) = HubKeys::init_if_empty(dir)? else { return Ok(()) };
    let shown = dir.display();
    info!(fleet.id = %keys.fleet(), "made a new hub in {shown}, fleet {}", keys.fleet());
    warn!("{}", super::init::backup_key_advice(&dir.join(BACKUP_KEY_FILE)));
    warn!("{}", super::init::root_key_advice(&dir.join(ROOT_KEY_FILE)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_directory_becomes_a_hub_and_a_hub_stays_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("hub");

        initialise_if_empty(&home).unwrap();
        let made = HubKeys::load(&home, None).unwrap();
        initialise_if_empty(&home).unwrap();

        let same = HubKeys::load(&home, None).unwrap();
        assert_eq!(same.fleet(), made.fleet());
        assert_eq!(same.pins(), made.pins());
    }
}
