//! `config check` and `config show`.
//!
//! Invariant: what is shown is what `serve` with the same flags would use.

use clap::Subcommand;
use keyhaven_daemon::cli::Output;
use keyhaven_daemon::cli::config_checked;
use keyhaven_daemon::cli::config_shown;

use super::Global;

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Read the configuration and say whether it is valid.
    Check,
    /// Print every field in force.
    Show {
        /// Say where each value came from, too.
        #[arg(long)]
        origin: bool,
    },
}

pub(super) fn run(output: Output, global: &Global, command: ConfigCommand) -> anyhow::Result<()> {
    let loaded = global.load()?;
    match command {
        ConfigCommand::Check => config_checked(output, global.config.as_deref(), &loaded.config.data_dir())?,
        ConfigCommand::Show { origin } => config_shown(output, &loaded.leaves, origin)?,
    }
    Ok(())
}
