//! `init`: the keys of a new hub.
//!
//! Invariant: a hub that exists is never changed.

use std::fmt::Write;
use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use keyhaven_daemon::cli::Output;
use keyhaven_protocol::id::FleetId;
use keyhaven_protocol::pin::Pin;
use serde::Serialize;

use crate::config::Config;
use crate::keys::BACKUP_KEY_FILE;
use crate::keys::HubKeys;

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// Where to write the backup key, for instance on a stick to take away.
    /// Default: tunnel-backup.key in the data directory.
    #[arg(long, value_name = "FILE")]
    backup_key: Option<PathBuf>,
}

pub(super) fn init(output: Output, config: &Config, args: &InitArgs) -> anyhow::Result<()> {
    let dir = config.data_dir();
    let keys = HubKeys::init(&dir, args.backup_key.as_deref()).map_err(super::failure)?;
    let [live_pin, backup_pin] = keys.pins();
    let answer = Initialised {
        fleet: keys.fleet(),
        live_pin,
        backup_pin,
        backup_key_file: args.backup_key.clone().unwrap_or_else(|| dir.join(BACKUP_KEY_FILE)),
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

#[derive(Serialize)]
struct Initialised {
    data_dir: PathBuf,
    fleet: FleetId,
    live_pin: Pin,
    backup_pin: Pin,
    backup_key_file: PathBuf,
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
        line("live pin", &self.live_pin);
        line("backup pin", &self.backup_pin);
        line("backup key", &self.backup_key_file.display());
        text + "\n"
            + &backup_key_advice(&self.backup_key_file)
            + "\nnext: keyhaven-hub serve, then keyhaven-hub agent invite --name NAME\n"
    }
}

#[cfg(test)]
mod tests {
    use keyhaven_protocol::hex::Hex;

    use super::*;

    #[test]
    fn the_answer_names_the_backup_key_and_what_to_do_with_it() {
        let answer = Initialised {
            data_dir: "/d".into(),
            fleet: FleetId([1; 16]),
            live_pin: Pin(Hex([2; 32])),
            backup_pin: Pin(Hex([3; 32])),
            backup_key_file: "/d/tunnel-backup.key".into(),
        };

        let text = answer.to_text();

        assert!(text.starts_with("data dir    /d\nfleet       fl_0101"), "{text}");
        assert!(text.contains("copy /d/tunnel-backup.key to a place that is not this machine"));
        assert_eq!(
            serde_json::to_value(&answer).unwrap(),
            serde_json::json!({
                "data_dir": "/d",
                "fleet": "fl_01010101010101010101010101010101",
                "live_pin": "02".repeat(32),
                "backup_pin": "03".repeat(32),
                "backup_key_file": "/d/tunnel-backup.key",
            })
        );
    }
}
