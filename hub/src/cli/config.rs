//! `config check` and `config show`.
//!
//! Invariant: what is shown is what `serve` with the same flags would use.

use std::path::PathBuf;

use clap::Subcommand;
use keyhaven_daemon::cli::Output;
use keyhaven_daemon::cli::table;
use keyhaven_daemon::config::Leaf;
use keyhaven_daemon::config::Origin;
use serde::Serialize;

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
        ConfigCommand::Check => {
            let answer = Checked { valid: true, file: global.config.clone(), data_dir: loaded.config.data_dir() };
            output.emit("config-check", &answer, || answer.to_text())?;
        }
        ConfigCommand::Show { origin } => {
            let fields: Vec<Field> = loaded.leaves.into_iter().map(|leaf| Field::of(leaf, origin)).collect();
            output.emit("config", &fields, || shown(&fields))?;
        }
    }
    Ok(())
}

#[derive(Serialize)]
struct Checked {
    valid: bool,
    file: Option<PathBuf>,
    data_dir: PathBuf,
}

impl Checked {
    fn to_text(&self) -> String {
        let file = match &self.file {
            Some(file) => file.display().to_string(),
            None => "no file, defaults and environment only".to_owned(),
        };
        format!("valid: {file}\ndata dir: {}", self.data_dir.display())
    }
}

#[derive(Serialize)]
struct Field {
    path: String,
    value: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<Origin>,
}

impl Field {
    fn of(leaf: Leaf, origin: bool) -> Self {
        Self { path: leaf.path, value: leaf.value, origin: origin.then_some(leaf.origin) }
    }
}

fn shown(fields: &[Field]) -> String {
    let row = |field: &Field| match &field.origin {
        Some(origin) => vec![field.path.clone(), field.value.clone(), origin.to_string()],
        None => vec![field.path.clone(), field.value.clone()],
    };
    let with_origin = fields.iter().any(|field| field.origin.is_some());
    let headers: &[&str] = if with_origin { &["FIELD", "VALUE", "FROM"] } else { &["FIELD", "VALUE"] };
    table(headers, fields.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_shown_only_when_asked_for() {
        let leaf = Leaf { path: "log.level".to_owned(), value: "debug".to_owned(), origin: Origin::Flag };

        let plain = Field::of(leaf.clone(), false);
        let full = Field::of(leaf, true);

        assert_eq!(serde_json::to_value(&plain).unwrap(), serde_json::json!({"path": "log.level", "value": "debug"}));
        assert_eq!(
            serde_json::to_value(&full).unwrap(),
            serde_json::json!({"path": "log.level", "value": "debug", "origin": {"from": "flag"}})
        );
        assert!(!shown(&[plain]).contains("FROM"));
        assert!(shown(&[full]).contains("command line"));
    }
}
