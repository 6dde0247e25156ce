//! The agent's command line: what each command takes, and which room does it.
//!
//! Invariant: no command takes a passphrase or a vendor's key as an argument.

mod doctor;
mod enrol;
mod hub_probe;
mod keys;
mod ledger;
mod prompt;
mod running;
mod vault_access;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use clap::Subcommand;
use keyhaven_daemon::cli::Output;
use keyhaven_daemon::cli::config_checked;
use keyhaven_daemon::cli::config_shown;
use keyhaven_daemon::cli::field_and_value;
use keyhaven_daemon::cli::settings_of_flags;
use keyhaven_daemon::config::Leaf;
use keyhaven_daemon::config::Origin;
use keyhaven_daemon::config::Source;
use keyhaven_daemon::failure::Failure;
use keyhaven_daemon::telemetry;
use keyhaven_daemon::telemetry::Logs;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::version::SUPPORTED;
use serde::Serialize;

use crate::config::Config;
use crate::config::ENV_PREFIX;
use crate::provider::Egress;
use crate::vault::error::VaultError;

/// Variables with the agent's prefix that are read elsewhere.
const NO_SETTINGS: [&str; 3] = [CONFIG_VARIABLE, enrol::TOKEN_VARIABLE, vault_access::PASSPHRASE_VARIABLE];
const CONFIG_VARIABLE: &str = "KEYHAVEN_AGENT_CONFIG";

/// The agent: keeps your vendor keys on this machine and serves calls through
/// a hub with them. It dials out and listens on nothing.
#[derive(Debug, Parser)]
#[command(name = "keyhaven-agent", disable_version_flag = true)]
pub struct Arguments {
    /// Print one line of JSON instead of text.
    #[arg(long, global = true)]
    json: bool,
    /// The configuration file (YAML). Without one, every field has its default.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = CONFIG_VARIABLE
    )]
    config: Option<PathBuf>,
    /// Where the vault and the status file live; overrides `data_dir`.
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Set one field of the configuration, such as calls.concurrent_max=50.
    #[arg(long, global = true, value_name = "FIELD=VALUE", value_parser = field_and_value)]
    set: Vec<(String, String)>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Join a hub with a token from its operator, prove one heartbeat, and end.
    Join(enrol::JoinArguments),
    /// Serve calls until told to stop.
    Run,
    /// Join if this has not been done, then run.
    Up(enrol::JoinArguments),
    /// Follow a hub whose keys changed; identity and vendor keys stay.
    Repin(enrol::TokenArguments),
    /// What the running agent does.
    Status,
    /// The vendor keys in the vault.
    #[command(subcommand)]
    Key(keys::KeyCommand),
    /// What this agent wrote down of its calls.
    #[command(subcommand)]
    Ledger(ledger::LedgerCommand),
    /// What the owner earned.
    Earnings(ledger::Which),
    /// Attempts that are not paid as they were metered.
    #[command(subcommand)]
    Claim(ledger::ClaimCommand),
    /// Look for what is wrong, and say how to mend it.
    Doctor,
    /// The configuration in force.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// What an error code means and what to do about it.
    Explain {
        /// Such as KH-E1001. Without one: the whole table.
        code: Option<String>,
    },
    /// Print a completion script.
    Completions {
        /// The shell it is for.
        shell: clap_complete::Shell,
    },
    /// Print the version and the protocol versions it speaks.
    Version,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Read the configuration and say whether it is valid.
    Check,
    /// Print every field with the value in force.
    Show {
        /// Say as well where each value comes from.
        #[arg(long)]
        origin: bool,
    },
}

/// What every command that touches the agent's own state works with.
struct Context {
    output: Output,
    config: Config,
    leaves: Vec<Leaf>,
    dir: PathBuf,
}

/// Runs one command. `egress` is what calls may reach: the caller decides, and
/// nothing that is read here can change it. `hardened` is how forbidding core
/// dumps went: where it failed a warning must do, since the keys are sealed.
pub fn run(arguments: Arguments, egress: Egress, hardened: io::Result<()>) -> ExitCode {
    let output = Output::new(arguments.json);
    if let Err(error) = hardened {
        output.note(&format!("warning: core dumps could not be forbidden: {error}"));
    }
    let result = dispatch(arguments, output, egress).map_err(named);
    keyhaven_daemon::cli::finish(output, result)
}

fn dispatch(arguments: Arguments, output: Output, egress: Egress) -> anyhow::Result<()> {
    match &arguments.command {
        Command::Explain { code } => {
            return keyhaven_daemon::cli::explain(output, code.as_deref());
        }
        Command::Completions { shell } => {
            return Ok(keyhaven_daemon::cli::completions::<Arguments>(*shell)?);
        }
        Command::Version => return version(output),
        Command::Join(_)
        | Command::Run
        | Command::Up(_)
        | Command::Repin(_)
        | Command::Status
        | Command::Key(_)
        | Command::Ledger(_)
        | Command::Earnings(_)
        | Command::Claim(_)
        | Command::Doctor
        | Command::Config(_) => {}
    }
    let context = load(&arguments, output)?;
    let _logs = log_to_stderr(&context, &arguments.command)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match arguments.command {
        Command::Join(given) => runtime.block_on(enrol::join(&context, &given, &egress)),
        Command::Run => runtime.block_on(running::run(context, egress)),
        Command::Up(given) => runtime.block_on(running::up(context, &given, egress)),
        Command::Repin(given) => runtime.block_on(enrol::repin(&context, &given, &egress)),
        Command::Status => running::status(&context),
        Command::Key(command) => runtime.block_on(keys::run(&context, command, &egress)),
        Command::Ledger(command) => ledger::run(&context, &command),
        Command::Earnings(which) => ledger::earnings(&context, &which),
        Command::Claim(command) => ledger::claim(&context, &command),
        Command::Doctor => runtime.block_on(doctor::run(&context)),
        Command::Config(ConfigCommand::Check) => Ok(config_checked(output, arguments.config.as_deref(), &context.dir)?),
        Command::Config(ConfigCommand::Show { origin }) => Ok(config_shown(output, &context.leaves, origin)?),
        Command::Explain { .. } | Command::Completions { .. } | Command::Version => Ok(()),
    }
}

fn load(arguments: &Arguments, output: Output) -> Result<Context, Failure> {
    let flags = settings_of_flags(&arguments.set, arguments.data_dir.as_deref())?;
    let loaded = keyhaven_daemon::config::load::<Config>(&Source {
        env_prefix: ENV_PREFIX,
        file: arguments.config.as_deref(),
        flags: &flags,
        env: &|name| std::env::var(name).ok(),
        ignored_env: &NO_SETTINGS,
    })
    .map_err(Failure::from)?;
    loaded.config.check()?;
    Ok(Context { output, dir: loaded.config.data_dir(), config: loaded.config, leaves: loaded.leaves })
}

/// A command that answers and ends logs only what went wrong, unless a level was asked for.
fn log_to_stderr(context: &Context, command: &Command) -> Result<Logs, Failure> {
    let serves = matches!(command, Command::Run | Command::Up(_));
    let asked_for =
        context.leaves.iter().any(|leaf| leaf.path == "log.level" && !matches!(leaf.origin, Origin::Default));
    let level = if serves || asked_for { context.config.log.level.as_str() } else { "warn" };
    Ok(telemetry::init(level, context.config.log.format)?)
}

/// Gives an error that travelled here as the vault's own its row in the error table.
fn named(error: anyhow::Error) -> anyhow::Error {
    if error.chain().any(|cause| cause.is::<Failure>()) {
        return error;
    }
    match error.chain().find_map(|cause| cause.downcast_ref::<VaultError>()) {
        Some(vault) => Failure::from(vault).into(),
        None => error,
    }
}

fn version(output: Output) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Version {
        version: &'static str,
        protocol_versions: &'static [u16],
    }
    let version = Version { version: env!("CARGO_PKG_VERSION"), protocol_versions: SUPPORTED };
    output.emit("version", &version, || {
        format!("keyhaven-agent {} (tunnel protocol {})", version.version, join(SUPPORTED.iter()))
    })?;
    Ok(())
}

fn join<T: ToString>(items: impl Iterator<Item = T>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

/// The place of something on the disk, for people.
fn shown(path: &std::path::Path) -> String {
    path.display().to_string()
}

fn usage(detail: impl Into<String>) -> Failure {
    Failure::new(ErrorCode::UsageInvalid, detail)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_field_that_is_set_wins_over_the_file_and_the_data_directory_over_both() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent.yaml");
        std::fs::write(&file, "data_dir: /file\ncalls:\n  concurrent_max: 7\nlog:\n  level: warn\n").unwrap();
        let file = file.to_str().unwrap();
        let words =
            ["keyhaven-agent", "--config", file, "--set", "calls.concurrent_max=8", "--data-dir", "/x", "status"];

        let context = load(&Arguments::try_parse_from(words).unwrap(), Output::new(true)).unwrap();

        assert_eq!(context.dir, PathBuf::from("/x"));
        assert_eq!(context.config.calls.concurrent_max, 8);
        assert_eq!(context.config.log.level, "warn");
        assert!(Arguments::try_parse_from(["keyhaven-agent", "--set", "nothing", "status"]).is_err());
    }

    #[test]
    fn no_command_takes_a_key_or_a_passphrase_as_an_argument() {
        for words in [
            ["key", "add", "openai", "--key", "sk-x"],
            ["key", "add", "openai", "sk-x", "--attest"],
            ["join", "kh1_x", "--passphrase", "p", "--json"],
        ] {
            let parsed = Arguments::try_parse_from(["keyhaven-agent"].into_iter().chain(words));

            assert!(parsed.is_err(), "{words:?}");
        }
    }

    #[test]
    fn an_error_of_the_vault_is_shown_under_its_code() {
        use anyhow::Context as _;
        let error = anyhow::Result::<()>::Err(VaultError::AttestationMissing.into()).context("add a key").unwrap_err();

        let named = named(error);

        let failure = named.downcast_ref::<Failure>().unwrap();
        assert_eq!(failure.code(), ErrorCode::AttestationMissing);
    }
}
