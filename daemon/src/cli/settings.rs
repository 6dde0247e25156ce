//! `config check` and `config show`, the same for every program.
//!
//! Invariant: what is secret was replaced before it came here; see [`Leaf`].

use std::io;
use std::path::Path;

use serde::Serialize;

use crate::cli::Output;
use crate::cli::table;
use crate::config::Leaf;
use crate::config::Origin;

/// Says that a configuration is valid, where it was read from and what it leads to.
///
/// # Errors
/// Standard output cannot be written.
pub fn config_checked(output: Output, file: Option<&Path>, data_dir: &Path) -> io::Result<()> {
    let answer = Checked { valid: true, file, data_dir };
    output.emit("config-check", &answer, || answer.to_text())
}

/// Prints every field in force, and where each came from if that was asked for.
///
/// # Errors
/// Standard output cannot be written.
pub fn config_shown(output: Output, leaves: &[Leaf], origin: bool) -> io::Result<()> {
    let fields: Vec<Field> = leaves.iter().map(|leaf| Field::of(leaf, origin)).collect();
    output.emit("config", &fields, || shown(&fields))
}

#[derive(Serialize)]
struct Checked<'a> {
    valid: bool,
    file: Option<&'a Path>,
    data_dir: &'a Path,
}

impl Checked<'_> {
    fn to_text(&self) -> String {
        let file = match self.file {
            Some(file) => file.display().to_string(),
            None => "no file, defaults and environment only".to_owned(),
        };
        format!("valid: {file}\ndata dir: {}", self.data_dir.display())
    }
}

#[derive(Serialize)]
struct Field<'a> {
    path: &'a str,
    value: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<&'a Origin>,
}

impl<'a> Field<'a> {
    fn of(leaf: &'a Leaf, origin: bool) -> Self {
        Self { path: &leaf.path, value: &leaf.value, origin: origin.then_some(&leaf.origin) }
    }
}

fn shown(fields: &[Field<'_>]) -> String {
    let row = |field: &Field<'_>| {
        let mut row = vec![field.path.to_owned(), field.value.to_owned()];
        row.extend(field.origin.map(ToString::to_string));
        row
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

        let plain = Field::of(&leaf, false);
        let full = Field::of(&leaf, true);

        assert_eq!(serde_json::to_value(&plain).unwrap(), serde_json::json!({"path": "log.level", "value": "debug"}));
        assert_eq!(
            serde_json::to_value(&full).unwrap(),
            serde_json::json!({"path": "log.level", "value": "debug", "origin": {"from": "flag"}})
        );
        assert!(!shown(&[plain]).contains("FROM"));
        assert!(shown(&[full]).contains("command line"));
    }
}
