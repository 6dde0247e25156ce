//! The operator's command line: what can be asked of a hub, and who answers.
//!
//! Invariant: answers go to stdout, everything else to stderr, and a secret is
//! printed only by the command that makes it.

mod account;
mod admin_client;
mod agent;
mod config;
mod confirm;
mod dispute;
mod doctor;
mod init;
mod key;
mod key_limits;
mod owner;
mod price;
mod reconcile;
mod serve;
mod signing_key;
mod status;
mod text;
mod usage;

use std::future::Future;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use clap::Parser;
use clap::Subcommand;
use clap_complete::Shell;
use keyhaven_daemon::cli::Output;
use keyhaven_daemon::cli::field_and_value;
use keyhaven_daemon::cli::settings_of_flags;
use keyhaven_daemon::config::Loaded;
use keyhaven_daemon::config::Source;
use keyhaven_daemon::failure::Failure;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::version;
use serde::Serialize;

use crate::config::Config;
use crate::config::ENV_PREFIX;
use crate::listening::Listening;
use crate::listening::file_path;
use crate::registry::Registry;

/// Runs and looks after a Keyhaven hub.
///
/// Every command takes --json. Exit codes: 0 done, 1 failed, 2 called wrongly,
/// 3 configuration, 4 not authorised, 5 network, 6 integrity, 7 forbidden by a
/// rule, 8 partly done.
#[derive(Debug, Parser)]
#[command(name = "keyhaven-hub", version)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Global {
    /// Print one JSON object with a `schema` instead of text.
    #[arg(long, global = true)]
    json: bool,
    /// Configuration file (YAML); etc/hub.yaml documents every field.
    #[arg(long, global = true, value_name = "FILE", env = CONFIG_ENV)]
    config: Option<PathBuf>,
    /// Where keys and database live.
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Set one field of the configuration, such as consumer.listen=127.0.0.1:9100.
    #[arg(long, global = true, value_name = "FIELD=VALUE", value_parser = field_and_value)]
    set: Vec<(String, String)>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the hub until it is told to stop.
    Serve(serve::ServeArgs),
    /// Make the keys of a new hub; `serve` does it too if there is none.
    Init(init::InitArgs),
    /// Invite, list, drain and revoke agents.
    #[command(subcommand)]
    Agent(agent::AgentCommand),
    /// Create, list and revoke consumers' API keys.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Make accounts, book deposits, show balances.
    #[command(subcommand)]
    Account(account::AccountCommand),
    /// List and resolve what the two sides of calls do not agree on.
    #[command(subcommand)]
    Dispute(dispute::DisputeCommand),
    /// Show what owners earned, and pay them.
    #[command(subcommand)]
    Owner(owner::OwnerCommand),
    /// Show what one call cost.
    #[command(subcommand)]
    Call(usage::CallCommand),
    /// Show what calls cost, by key and model.
    Usage(usage::UsageArgs),
    /// Compare the books with themselves.
    #[command(subcommand)]
    Reconcile(reconcile::ReconcileCommand),
    /// Import, compare and publish list prices.
    #[command(subcommand)]
    Price(price::PriceCommand),
    /// List the keys that sign in the hub's name, or replace the one in use.
    #[command(subcommand)]
    SigningKey(signing_key::SigningKeyCommand),
    /// What the running hub is doing.
    Status,
    /// Check keys, database, files, ports and clock, and say what to do.
    Doctor,
    /// Check the configuration or show what is in force.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Explain an error code, or list them all.
    Explain {
        /// Such as KH-E1002.
        code: Option<String>,
    },
    /// Print a completion script.
    Completions {
        /// For which shell.
        shell: Shell,
    },
    /// Print the version and the tunnel protocols it speaks.
    Version,
}

impl Cli {
    /// Where the answer goes, and in which form.
    pub fn output(&self) -> Output {
        Output::new(self.global.json)
    }

    /// Does what was asked.
    ///
    /// # Errors
    /// A [`Failure`] with its code, wherever the cause is known.
    pub fn run(self) -> anyhow::Result<()> {
        let output = self.output();
        let global = self.global;
        match self.command {
            Command::Serve(args) => serve::serve(global.load()?.config, &args),
            Command::Init(args) => init::init(output, &global.load()?.config, &args),
            Command::Agent(command) => {
                let config = global.load_beside_hub()?;
                block_on(agent::run(output, &config, command))
            }
            Command::Key(command) => {
                let config = global.load_beside_hub()?;
                block_on(key::run(output, &config, command))
            }
            Command::Account(command) => {
                let config = global.load_beside_hub()?;
                block_on(account::run(output, &config, command))
            }
            Command::Dispute(command) => block_on(dispute::run(output, &global.load_beside_hub()?, command)),
            Command::Owner(command) => block_on(owner::run(output, &global.load_beside_hub()?, command)),
            Command::Call(command) => block_on(usage::call(output, &global.load_beside_hub()?, command)),
            Command::Usage(args) => block_on(usage::usage(output, &global.load_beside_hub()?, args)),
            Command::Reconcile(command) => block_on(reconcile::run(output, &global.load_beside_hub()?, command)),
            Command::Price(command) => {
                let config = global.load_beside_hub()?;
                block_on(price::run(output, &config, command))
            }
            Command::SigningKey(command) => signing_key::run(output, &global.load()?.config, command),
            Command::Status => block_on(status::run(output, &global.load_beside_hub()?)),
            Command::Doctor => block_on(doctor::run(output, &global.load_beside_hub()?)),
            Command::Config(command) => config::run(output, &global, command),
            Command::Explain { code } => keyhaven_daemon::cli::explain(output, code.as_deref()),
            Command::Completions { shell } => Ok(keyhaven_daemon::cli::completions::<Self>(shell)?),
            Command::Version => version(output),
        }
    }
}

impl Global {
    fn load(&self) -> anyhow::Result<Loaded<Config>> {
        let flags = settings_of_flags(&self.set, self.data_dir.as_deref())?;
        let loaded = keyhaven_daemon::config::load::<Config>(&Source {
            env_prefix: ENV_PREFIX,
            file: self.config.as_deref(),
            flags: &flags,
            env: &|name| std::env::var(name).ok(),
            ignored_env: &[CONFIG_ENV],
        });
        let loaded = loaded.map_err(failure)?;
        if flags.iter().any(|(path, _)| path == "database.url") {
            let told = "database.url is not taken from the command line, where everybody can read its password";
            let fix = "put it into the file, or into the environment as KEYHAVEN_HUB_DATABASE_URL";
            return Err(Failure::new(ErrorCode::UsageInvalid, told).fix(fix).into());
        }
        loaded.config.check()?;
        Ok(loaded)
    }

    /// The configuration with the ports that the running hub got in the place of every port 0.
    fn load_beside_hub(&self) -> anyhow::Result<Config> {
        let mut config = self.load()?.config;
        let dir = config.data_dir();
        let listening = Listening::read(&dir).map_err(|error| {
            Failure::new(ErrorCode::DataDirUnusable, error.to_string()).at(file_path(&dir).display().to_string())
        })?;
        if let Some(listening) = listening {
            listening.fill_in(&mut config);
        }
        Ok(config)
    }
}

const CONFIG_ENV: &str = "KEYHAVEN_HUB_CONFIG";

/// For commands that end by themselves: one thread is enough.
fn block_on(future: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?.block_on(future)
}

/// Into a failure that has a code, for `map_err` on the way to `anyhow`.
fn failure(error: impl Into<Failure>) -> Failure {
    error.into()
}

async fn open(config: &Config) -> Result<Registry, Failure> {
    let key_file = config.tunnel.key_file.as_deref();
    Ok(Registry::open_with(&config.data_dir(), key_file, &config.database).await?)
}

fn version(output: Output) -> anyhow::Result<()> {
    let answer = Version {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        tunnel_protocols: version::SUPPORTED,
    };
    output.emit("version", &answer, || {
        format!("{} {}\ntunnel protocols: {}", answer.name, answer.version, text::joined(answer.tunnel_protocols))
    })?;
    Ok(())
}

#[derive(Serialize)]
struct Version {
    name: &'static str,
    version: &'static str,
    tunnel_protocols: &'static [u16],
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_command_explains_itself() {
        let mut command = Cli::command();
        command.build();
        command.clone().debug_assert();

        let mut unexplained = Vec::new();
        collect_unexplained(&command, &mut unexplained);

        assert_eq!(unexplained, Vec::<String>::new());
    }

    #[test]
    fn the_documented_commands_parse() {
        for line in [
            "serve",
            "init --backup-key /mnt/usb/backup.key --root-key /mnt/usb/root.key",
            "signing-key list --json",
            "signing-key rotate --root-key /mnt/usb/root.key --yes",
            "agent invite --name office --ttl 1h --address hub.example.org:9010",
            "agent invite --again office",
            "agent list --json",
            "agent show office",
            "agent drain office",
            "agent drain office --undo",
            "agent revoke office --yes",
            "key create --name web",
            "key create --name web --account acme --mode exact --budget-day 5 --budget-month 50.5 --budget-total 500 \
             --model gpt-4o --model claude-* --ip 10.0.0.0/8 --ip ::1 --expires 30d",
            "key set web --budget-day none --model none --expires none",
            "key list",
            "account create acme --zone premium",
            "account list --json",
            "account show acme",
            "account deposit acme 12.50 --reference invoice-7",
            "account set acme --zone discount --block",
            "call show call_01890000000070008000000000000001",
            "dispute list --all --json",
            "dispute resolve call_01890000000070008000000000000001 --to consumer --note refund --yes",
            "owner statement --agent office --csv",
            "owner payout --reference 2026-11 --csv --yes",
            "owner payout --reference 2026-11 --dry-run --json",
            "usage --key web --account acme --model gpt-4o --since 7d --json",
            "key revoke web --yes --dry-run",
            "price import model_prices.json",
            "price show gpt-4o --version 1",
            "price show --draft --json",
            "price diff",
            "price publish --yes",
            "price rollback 1 --dry-run",
            "status",
            "doctor",
            "config check",
            "config show --origin",
            "explain",
            "explain KH-E1002",
            "completions bash",
            "version",
            "--json --config hub.yaml --data-dir /tmp/hub --set log.level=debug status",
        ] {
            let parsed = Cli::try_parse_from(words(line));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }

    #[test]
    fn wrong_command_lines_are_usage_errors() {
        for line in [
            "",
            "agent",
            "agent invite --ttl 15",
            "agent invite --name a --again b",
            "agent revoke",
            "key create",
            "key create --name web --budget-day 1e3",
            "account deposit acme 12.50",
            "account deposit acme 0.0000000001 --reference r",
            "account set acme --block --unblock",
            "account create acme --zone gold",
            "call show 7",
            "dispute resolve call_01890000000070008000000000000001 --to hub --note x",
            "owner statement",
            "--set nothing status",
            "completions cmd",
            "servve",
        ] {
            assert!(Cli::try_parse_from(words(line)).is_err(), "{line}");
        }
    }

    #[test]
    fn flags_win_over_the_file_and_the_data_directory_is_one_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hub.yaml");
        std::fs::write(&file, "log:\n  level: warn\nconsumer:\n  listen: 127.0.0.1:1\n").unwrap();
        let line = format!("--config {} --data-dir /x --set consumer.listen=127.0.0.1:2 status", file.display());

        let cli = Cli::try_parse_from(words(&line)).unwrap();
        let config = cli.global.load().unwrap().config;

        assert_eq!(config.data_dir(), PathBuf::from("/x"));
        assert_eq!(config.consumer.listen.port(), 2);
        assert_eq!(config.log.level, "warn");
    }

    #[test]
    fn a_configuration_with_an_unknown_field_names_it_and_ends_with_the_code_for_it() {
        let cli = Cli::try_parse_from(words("--set consumer.lisen=x status")).unwrap();

        let error = cli.global.load().unwrap_err();

        let failure = error.downcast_ref::<Failure>().unwrap();
        assert_eq!(failure.code(), ErrorCode::ConfigInvalid);
        assert!(failure.to_string().contains("consumer.lisen"), "{failure}");
    }

    #[test]
    fn a_database_with_its_password_is_taken_from_the_file_and_not_from_the_command_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hub.yaml");
        std::fs::write(&file, "database:\n  url: mysql://a:hunter2@h:1/b\n").unwrap();
        let line = format!("--config {} status", file.display());
        let loaded = Cli::try_parse_from(words(&line)).unwrap().global.load().unwrap();
        assert_eq!(loaded.config.database.url.as_ref().unwrap().reveal(), "mysql://a:hunter2@h:1/b");
        let shown = format!("{loaded:?} {}", serde_json::to_string(&loaded.config).unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");

        let flag = Cli::try_parse_from(words("--set database.url=mysql://a:hunter2@h:1/b status")).unwrap();

        let failure = flag.global.load().unwrap_err();
        assert_eq!(failure.downcast_ref::<Failure>().unwrap().code(), ErrorCode::UsageInvalid);
        assert!(!format!("{failure:?}").contains("hunter2"), "{failure:?}");
    }

    #[test]
    fn a_configuration_that_contradicts_itself_stops_every_command() {
        let cli = Cli::try_parse_from(words("--set consumer.tls_key_file=k.pem status")).unwrap();

        let error = cli.global.load().unwrap_err();

        let failure = error.downcast_ref::<Failure>().unwrap();
        assert_eq!(failure.code(), ErrorCode::ConfigInvalid);
    }

    fn words(line: &str) -> Vec<&str> {
        std::iter::once("keyhaven-hub").chain(line.split_whitespace()).collect()
    }

    fn collect_unexplained(command: &clap::Command, found: &mut Vec<String>) {
        for argument in command.get_arguments() {
            if argument.get_help().is_none() {
                found.push(format!("{} {}", command.get_name(), argument.get_id()));
            }
        }
        for inner in command.get_subcommands() {
            if inner.get_about().is_none() {
                found.push(inner.get_name().to_owned());
            }
            if inner.get_name() != "help" {
                collect_unexplained(inner, found);
            }
        }
    }
}
