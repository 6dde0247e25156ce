//! `init`: the keys of a new hub.
//!
//! Invariant: a hub that exists is never changed.

use std::fmt::Write;
use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use keyhaven_daemon::cli::Output;
use keyhaven_protocol::id::FleetId;
use keyhaven_protocol::id::HubNodeId;
use keyhaven_protocol::pin::Pin;
use serde::Serialize;

use crate::config::Config;
use crate::keys::BACKUP_KEY_FILE;
use crate::keys::HubKeys;
use crate::keys::OfflineFiles;
use crate::keys::ROOT_KEY_FILE;

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// Where to write the backup key, for instance on a stick to take away.
    /// Default: tunnel-backup.key in the data directory.
    #[arg(long, value_name = "FILE")]
    backup_key: Option<PathBuf>,
    /// Where to write the root of the signing keys, for instance on a stick to take away.
    /// Default: root.key in the data directory.
    #[arg(long, value_name = "FILE")]
    root_key: Option<PathBuf>,
}

pub(super) fn init(output: Output, config: &Config, args: &InitArgs) -> anyhow::Result<()> {
    let dir = config.data_dir();
    let offline = OfflineFiles { backup: args.backup_key.as_deref(), root: args.root_key.as_deref() };
    let keys = HubKeys::init(&dir, offline).map_err(super::failure)?;
    let [live_pin, backup_pin] = keys.pins();
    let answer = Initialised {
        fleet: keys.fleet(),
        node: keys.node(),
        live_pin,
        backup_pin,
        backup_key_file: args.backup_key.clone().unwrap_or_else(|| dir.join(BACKUP_KEY_FILE)),
        root_key_file: args.root_key.clone().unwrap_or_else(|| dir.join(ROOT_KEY_FILE)),
        data_dir: dir,
    };
    output.emit("init", &answer, || answer.to_text())?;
    Ok(())
}

/// What to tell whoever owns a new hub, here and in the log of `serve`.
pub(super) fn backup_key_advice(path: &Path) -> String {
    format!(
        "take the backup key away now: copy {} to a place that is not this machine and delete it \
         here; it lets the agents back in if the live key is lost or stolen",
        path.display()
    )
}

/// The same of the root key.
pub(super) fn root_key_advice(path: &Path) -> String {
    format!(
        "take the root key away now: copy {} to a place that is not this machine and delete it \
         here; the hub never reads it, and without it nobody can replace the hub's signing key",
        path.display()
    )
}

#[derive(Serialize)]
struct Initialised {
    data_dir: PathBuf,
    fleet: FleetId,
    node: HubNodeId,
    live_pin: Pin,
    backup_pin: Pin,
    backup_key_file: PathBuf,
    root_key_file: PathBuf,
}

impl Initialised {
    fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: &dyn std::fmt::Display| {
            // A String takes every write.
            let _ = writeln!(text, "{name:<12}{value}");
        };
        line("data dir", &self.data_dir.display());
        line("fleet", &self.fleet);
        line("node", &self.node);
        line("live pin", &self.live_pin);
        line("backup pin", &self.backup_pin);
        line("backup key", &self.backup_key_file.display());
        line("root key", &self.root_key_file.display());
        text + "\n"
            + &backup_key_advice(&self.backup_key_file)
            + "\n"
            + &root_key_advice(&self.root_key_file)
            + "\nnext: keyhaven-hub serve, then keyhaven-hub agent invite --name NAME\n"
    }
}

#[cfg(test)]
mod tests {
    use keyhaven_protocol::hex::Hex;

    use super::*;

    #[test]
    fn the_answer_names_the_keys_to_take_away_and_what_to_do_with_them() {
        let answer = Initialised {
            data_dir: "/d".into(),
            fleet: FleetId([1; 16]),
            node: HubNodeId([4; 16]),
            live_pin: Pin(Hex([2; 32])),
            backup_pin: Pin(Hex([3; 32])),
            backup_key_file: "/d/tunnel-backup.key".into(),
            root_key_file: "/d/root.key".into(),
        };

        let text = answer.to_text();

        assert!(text.starts_with("data dir    /d\nfleet       fl_0101"), "{text}");
        for file in ["/d/tunnel-backup.key", "/d/root.key"] {
            assert!(text.contains(&format!("copy {file} to a place that is not this machine")), "{text}");
        }
        assert_eq!(
            serde_json::to_value(&answer).unwrap(),
            serde_json::json!({
                "data_dir": "/d",
                "fleet": "fl_01010101010101010101010101010101",
                "node": "hn_04040404040404040404040404040404",
                "live_pin": "02".repeat(32),
                "backup_pin": "03".repeat(32),
                "backup_key_file": "/d/tunnel-backup.key",
                "root_key_file": "/d/root.key",
            })
        );
    }
}
