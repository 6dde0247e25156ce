//! Opening the vault for a command: where the passphrase comes from, and
//! saying what protects the keys.
//!
//! Invariant: a passphrase is read from a private file, the environment or the
//! terminal, never from an argument.

use std::fs::File;
use std::path::Path;

use clap::ValueEnum;
use keyhaven_daemon::failure::Failure;
use keyhaven_protocol::ErrorCode;
use secrecy::ExposeSecret as _;
use secrecy::SecretString;

use crate::cli::Context;
use crate::cli::prompt;
use crate::cli::shown;
use crate::vault::Vault;
use crate::vault::unlock::Backend;
use crate::vault::unlock::Unlock;
use crate::vault::unlock::exposed_mode;
use crate::vault::unlock::key_file_path;

pub(crate) const PASSPHRASE_VARIABLE: &str = "KEYHAVEN_AGENT_PASSPHRASE";
const GOOD_PASSPHRASE_CHARS: usize = 12;

/// What shall protect a new vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum NewVault {
    /// A random key in the file `vault.key`, readable by its owner alone.
    KeyFile,
    /// A passphrase, needed whenever the agent starts.
    Passphrase,
}

impl NewVault {
    const fn backend(self) -> Backend {
        match self {
            Self::KeyFile => Backend::KeyFile,
            Self::Passphrase => Backend::Passphrase,
        }
    }
}

/// Opens the vault that is there.
pub(crate) fn open(context: &Context) -> anyhow::Result<Vault> {
    let backend = Vault::backend_of(&context.dir)?;
    let unlock = match backend {
        Backend::KeyFile => Unlock::KeyFile,
        Backend::Passphrase => Unlock::Passphrase(passphrase(context, Asking::Known)?),
    };
    let vault = Vault::open(&context.dir, &unlock)?;
    announce(context, &vault);
    Ok(vault)
}

/// Opens the vault that is there, or makes one. `wanted` must agree with what is there.
pub(crate) fn open_or_create(context: &Context, wanted: Option<NewVault>) -> anyhow::Result<Vault> {
    if Vault::exists(&context.dir) {
        let backend = Vault::backend_of(&context.dir)?;
        if let Some(wanted) = wanted.filter(|wanted| wanted.backend() != backend) {
            return Err(super::usage(format!(
                "--vault {} was asked for, but the vault in {} is sealed by {}",
                wanted.backend().name(),
                shown(&context.dir),
                backend.name()
            ))
            .fix("leave --vault away, or give another --data-dir")
            .into());
        }
        return open(context);
    }
    let unlock = match wanted.map_or_else(|| default_backend(context), NewVault::backend) {
        Backend::KeyFile => Unlock::KeyFile,
        Backend::Passphrase => Unlock::Passphrase(passphrase(context, Asking::New)?),
    };
    let vault = Vault::create(&context.dir, &unlock)?;
    context.output.note(&format!(
        "made a new vault in {}; `--vault key-file` or `--vault passphrase` chooses what protects it",
        shown(&context.dir)
    ));
    announce(context, &vault);
    Ok(vault)
}

/// A passphrase that was provided is meant to be used.
fn default_backend(context: &Context) -> Backend {
    let provided = context.config.vault.passphrase_file.is_some() || std::env::var_os(PASSPHRASE_VARIABLE).is_some();
    if provided { Backend::Passphrase } else { Backend::KeyFile }
}

fn announce(context: &Context, vault: &Vault) {
    context.output.note(&match vault.backend() {
        Backend::KeyFile => {
            format!("vault: key-file (whoever can read {} can use the keys)", shown(&key_file_path(&context.dir)))
        }
        Backend::Passphrase => "vault: passphrase".to_owned(),
    });
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Asking {
    Known,
    New,
}

fn passphrase(context: &Context, asking: Asking) -> anyhow::Result<SecretString> {
    let from_variable = std::env::var(PASSPHRASE_VARIABLE).ok();
    let text = match (&context.config.vault.passphrase_file, from_variable) {
        (Some(file), variable) => {
            if variable.is_some() {
                context.output.note(&format!("{PASSPHRASE_VARIABLE} is not used: vault.passphrase_file is set"));
            }
            passphrase_file(file)?
        }
        (None, Some(variable)) => SecretString::from(variable.trim()),
        (None, None) if prompt::can_ask_for_secrets() => ask(asking)?,
        (None, None) => {
            return Err(Failure::new(
                ErrorCode::VaultLocked,
                "it needs a passphrase, and there is no terminal to ask on",
            )
            .fix(format!("set vault.passphrase_file in the configuration, or {PASSPHRASE_VARIABLE}"))
            .into());
        }
    };
    if text.expose_secret().is_empty() {
        return Err(Failure::new(ErrorCode::VaultLocked, "the passphrase is empty").into());
    }
    if asking == Asking::New && text.expose_secret().chars().count() < GOOD_PASSPHRASE_CHARS {
        context.output.note(&format!(
            "warning: a passphrase of fewer than {GOOD_PASSPHRASE_CHARS} characters can be guessed \
             by whoever copies the vault"
        ));
    }
    Ok(text)
}

fn ask(asking: Asking) -> anyhow::Result<SecretString> {
    let first = prompt::secret("Passphrase of the vault: ")?;
    if asking == Asking::New {
        let again = prompt::secret("The same again: ")?;
        if first.expose_secret() != again.expose_secret() {
            return Err(super::usage("the two passphrases differ").into());
        }
    }
    Ok(first)
}

fn passphrase_file(path: &Path) -> Result<SecretString, Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::new(ErrorCode::ConfigUnreadable, error.to_string())
            .at(format!("vault.passphrase_file: {}", shown(path)))
    };
    let file = File::open(path).map_err(unreadable)?;
    if let Some(mode) = exposed_mode(&file).map_err(unreadable)? {
        return Err(Failure::new(
            ErrorCode::VaultLocked,
            format!("the passphrase file has mode {mode:04o}: others could read it"),
        )
        .at(shown(path))
        .fix(format!("chmod 600 {}", shown(path))));
    }
    let text = prompt::secret_from(file).map_err(unreadable)?;
    let first_line = text.expose_secret().lines().next().unwrap_or_default();
    Ok(SecretString::from(first_line))
}
