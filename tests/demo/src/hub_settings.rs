//! The demo's hub configuration: the demo's defaults under what the operator's file says.
//!
//! Invariant: every address is a loopback address, whoever gave it, and no environment variable of
//! a real hub is obeyed.

use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::path::Path;

use keyhaven_daemon::config::Origin;
use keyhaven_daemon::config::Source;
use keyhaven_daemon::config::load;
use keyhaven_daemon::failure::Failure;
use keyhaven_hub::config::Config;
use keyhaven_hub::config::ENV_PREFIX;
use keyhaven_protocol::ErrorCode;

use crate::arguments::Arguments;
use crate::home::Home;

/// On a terminal, logs would drown what the demo says.
const LOG_LEVEL_FOR_PEOPLE: &str = "warn";

/// How the hub is to be run.
#[derive(Debug, Clone)]
pub(crate) struct HubSettings {
    /// Its configuration.
    pub(crate) config: Config,
    /// Whether a free port will do when the consumers' is taken.
    pub(crate) consumer_may_move: bool,
    /// Whether any tunnel port will do.
    pub(crate) tunnel_may_move: bool,
}

impl HubSettings {
    /// The settings in force.
    ///
    /// # Errors
    /// The file is not a hub's configuration, or an address is not a loopback address.
    pub(crate) fn load(arguments: &Arguments, home: &Home) -> Result<Self, Failure> {
        let foreign_env = |name: &str| match name.starts_with(ENV_PREFIX) {
            true => None,
            false => std::env::var(name).ok(),
        };
        let file = arguments.hub_config.as_deref();
        let source = Source { env_prefix: ENV_PREFIX, file, flags: &[], env: &foreign_env, ignored_env: &[] };
        let loaded = load::<Config>(&source)?;
        let is_default = |path: &str| {
            let leaf = loaded.leaves.iter().find(|leaf| leaf.path == path);
            leaf.is_none_or(|leaf| leaf.origin == Origin::Default)
        };
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut config = loaded.config.clone();
        let (consumer_may_move, tunnel_may_move) = (is_default("consumer.listen"), is_default("tunnel.listen"));
        if home.is_kept() || is_default("data_dir") {
            config.data_dir = Some(home.hub());
        }
        if tunnel_may_move {
            config.tunnel.listen = any_port;
        }
        if is_default("admin.listen") {
            config.admin.listen = any_port;
        }
        if is_default("log.level") && !arguments.json {
            LOG_LEVEL_FOR_PEOPLE.clone_into(&mut config.log.level);
        }
        if let Some(listen) = arguments.listen {
            config.consumer.listen = listen;
        }
        refuse_beyond_loopback(&config, file)?;
        Ok(Self { config, consumer_may_move: consumer_may_move && arguments.listen.is_none(), tunnel_may_move })
    }
}

fn refuse_beyond_loopback(config: &Config, file: Option<&Path>) -> Result<(), Failure> {
    for (name, address) in [
        ("consumer.listen", config.consumer.listen),
        ("tunnel.listen", config.tunnel.listen),
        ("admin.listen", config.admin.listen),
    ] {
        if address.ip().is_loopback() {
            continue;
        }
        let failure = Failure::new(
            ErrorCode::ConfigInvalid,
            format!("{name} is {address}, and a demo listens on loopback addresses only"),
        );
        let place = file.map_or_else(|| "--listen".to_owned(), |file| file.display().to_string());
        return Err(failure
            .at(place)
            .fix("give an address such as 127.0.0.1:9000; for others, run `keyhaven-hub serve`"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn without_a_file_everything_is_in_the_demos_home_and_on_loopback() {
        let home = Home::open(None).unwrap();

        let settings = settings(&[], &home).unwrap();

        assert_eq!(settings.config.data_dir(), home.hub());
        assert_eq!(settings.config.consumer.listen.to_string(), "127.0.0.1:9000");
        assert_eq!(settings.config.tunnel.listen.to_string(), "127.0.0.1:0");
        assert_eq!(settings.config.log.level, "warn");
        assert!(settings.consumer_may_move);
        assert_eq!(super::HubSettings::load(&parsed(&["--json"]), &home).unwrap().config.log.level, "info");
    }

    #[test]
    fn what_the_file_says_wins_over_the_demos_defaults_and_a_flag_over_the_file() {
        let home = Home::open(None).unwrap();
        let file = home.dir().join("hub.yaml");
        let text =
            "consumer:\n  listen: 127.0.0.1:9123\n  request_body_bytes_max: 77\ntunnel:\n  listen: 127.0.0.1:9124\n";
        std::fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();

        let from_file = settings(&["--hub-config", file], &home).unwrap();
        let from_flag = settings(&["--hub-config", file, "--listen", "127.0.0.1:9125"], &home).unwrap();

        assert_eq!(from_file.config.consumer.listen.port(), 9123);
        assert_eq!(from_file.config.consumer.request_body_bytes_max, 77);
        assert_eq!(from_file.config.tunnel.listen.port(), 9124);
        assert!(!from_file.consumer_may_move && !from_file.tunnel_may_move);
        assert_eq!(from_flag.config.consumer.listen.port(), 9125);
    }

    #[test]
    fn an_address_beyond_loopback_is_refused_whoever_gave_it() {
        let home = Home::open(None).unwrap();
        let file = home.dir().join("hub.yaml");

        let flag = settings(&["--listen", "0.0.0.0:9000"], &home).unwrap_err();
        assert_eq!(flag.code(), ErrorCode::ConfigInvalid);
        for key in ["consumer", "tunnel", "admin"] {
            std::fs::write(&file, format!("{key}:\n  listen: 10.0.0.1:9000\n")).unwrap();
            let refused = settings(&["--hub-config", file.to_str().unwrap()], &home).unwrap_err();
            assert!(refused.to_string().contains(&format!("{key}.listen is 10.0.0.1:9000")), "{refused}");
        }
    }

    fn settings(words: &[&str], home: &Home) -> Result<HubSettings, Failure> {
        HubSettings::load(&parsed(words), home)
    }

    fn parsed(words: &[&str]) -> Arguments {
        Arguments::try_parse_from([&["keyhaven-demo"], words].concat()).unwrap()
    }
}
