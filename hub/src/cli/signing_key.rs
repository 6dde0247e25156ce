//! `signing-key`: the keys that sign tickets, statements and price tables, and the next of them.
//!
//! Invariant: no private key is ever printed.

use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;
use clap::Subcommand;
use keyhaven_daemon::cli::Output;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::id::FleetId;
use serde::Serialize;

use super::confirm::Consent;
use crate::config::Config;
use crate::keys::HubKeys;
use crate::keys::ROOT_KEY_FILE;
use crate::keys::Signer;

#[derive(Debug, Subcommand)]
pub(super) enum SigningKeyCommand {
    /// List all signing keys there were, and the one in use.
    List,
    /// Make a new signing key; the hub uses it from its next start on.
    Rotate(RotateArgs),
}

#[derive(Debug, Args)]
pub(super) struct RotateArgs {
    /// The root key that `init` made. Default: root.key in the data directory.
    #[arg(long, value_name = "FILE")]
    root_key: Option<PathBuf>,
    #[command(flatten)]
    consent: Consent,
}

pub(super) fn run(output: Output, config: &Config, command: SigningKeyCommand) -> anyhow::Result<()> {
    let keys = HubKeys::load(&config.data_dir(), config.tunnel.key_file.as_deref()).map_err(super::failure)?;
    match command {
        SigningKeyCommand::List => emit(output, &keys, keys.signer()),
        SigningKeyCommand::Rotate(args) => rotate(output, config, &keys, &args),
    }
}

fn rotate(output: Output, config: &Config, keys: &HubKeys, args: &RotateArgs) -> anyhow::Result<()> {
    let dir = config.data_dir();
    if args.consent.dry_run {
        output.note("the signing key would be replaced; nothing was done");
        return emit(output, keys, keys.signer());
    }
    let question = format!(
        "Replace signing key {} of fleet {}? Agents that have heard of the new one take no orders of the old.",
        keys.signer().number(),
        keys.fleet()
    );
    args.consent.ask(&question)?;
    let root_file = args.root_key.clone().unwrap_or_else(|| dir.join(ROOT_KEY_FILE));
    let signer = HubKeys::rotate(&dir, &root_file).map_err(super::failure)?;
    output.note("take the root key away again, and restart a running hub now: `keyhaven-hub serve --replace`");
    emit(output, keys, &signer)
}

fn emit(output: Output, keys: &HubKeys, signer: &Signer) -> anyhow::Result<()> {
    let answer = Listed::of(keys.fleet(), signer);
    output.emit("signing-keys", &answer, || answer.to_text())?;
    Ok(())
}

#[derive(Serialize)]
struct Listed {
    fleet: FleetId,
    root: Hex<32>,
    keys: Vec<Listing>,
}

#[derive(Serialize)]
struct Listing {
    number: usize,
    public_key: Hex<32>,
    in_use: bool,
}

impl Listed {
    fn of(fleet: FleetId, signer: &Signer) -> Self {
        let in_use = signer.key().verifying_key();
        let listing = |(number, key): (usize, &ed25519_dalek::VerifyingKey)| Listing {
            number,
            public_key: Hex(key.to_bytes()),
            in_use: *key == in_use,
        };
        let keys = signer.list().keys().enumerate().map(listing).collect();
        Self { fleet, root: Hex(signer.list().root().to_bytes()), keys }
    }

    fn to_text(&self) -> String {
        let mut text = format!("fleet  {}\nroot   {}", self.fleet, self.root);
        for key in &self.keys {
            let state = if key.in_use { "in use" } else { "replaced" };
            // A String takes every write.
            let _ = write!(text, "\n{:<6} {}  {state}", key.number, key.public_key);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::OfflineFiles;

    #[test]
    fn the_list_shows_public_keys_and_which_one_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let keys = HubKeys::init(dir.path(), OfflineFiles::default()).unwrap();
        let rotated = HubKeys::rotate(dir.path(), &dir.path().join(ROOT_KEY_FILE)).unwrap();

        let listed = Listed::of(keys.fleet(), &rotated);

        let in_use: Vec<bool> = listed.keys.iter().map(|key| key.in_use).collect();
        assert_eq!(in_use, [false, true]);
        assert_eq!(listed.keys[0].public_key, Hex(keys.verifying_key()));
        let text = listed.to_text();
        assert!(text.ends_with(&format!("{}  in use", Hex(rotated.key().verifying_key().to_bytes()))), "{text}");
        assert!(!text.contains(&Hex(rotated.key().to_bytes()).to_string()), "{text}");
    }
}
