//! The settings of a program, and what each layer says about them.
//!
//! Invariant: a later layer replaces what an earlier one said about the same
//! setting, whole; two layers never mix within one setting.

use super::ConfigError;
use super::Leaf;
use super::Origin;
use super::Source;
use super::place_in;
use super::values::is_secret;
use super::values::readings_of_node;
use super::values::readings_of_text;
use super::values::shown;
use super::values::without_passwords;
use super::yaml::Content;
use super::yaml::Entry;
use super::yaml::Node;
use serde_json::Value;
use std::path::Path;

/// All settings of a program.
pub(super) struct Layers {
    settings: Vec<Setting>,
}

struct Setting {
    path: Vec<String>,
    default: Value,
    said: Option<Said>,
}

/// What the last layer that spoke says: what its value may mean, the likeliest
/// first, and where it stands.
struct Said {
    readings: Vec<Value>,
    origin: Origin,
    place: String,
}

impl Setting {
    fn key(&self) -> String {
        self.path.join(".")
    }

    fn env_name(&self, prefix: &str) -> String {
        format!("{prefix}_{}", self.path.join("_").to_ascii_uppercase())
    }
}

impl Layers {
    /// The settings that the defaults have, and nothing said about them.
    pub(super) fn new(defaults: &Value) -> Self {
        let mut settings = Vec::new();
        collect(defaults, &mut Vec::new(), &mut settings);
        Self { settings }
    }

    /// The file's say.
    pub(super) fn add_file(&mut self, file: &Path, root: Option<Node>) -> Result<(), ConfigError> {
        match root.map(|root| (root.line, root.column, root.content)) {
            None => Ok(()),
            Some((_, _, Content::Map(entries))) => self.add_entries(file, &entries, &[]),
            Some((line, column, Content::Scalar { .. } | Content::List(_))) => Err(ConfigError::Syntax {
                place: place_in(file, line, column),
                message: "the file must be a mapping of keys to values".to_owned(),
            }),
        }
    }

    /// The environment's say; `names` are all the names it has.
    pub(super) fn add_env(&mut self, source: &Source<'_>, names: Vec<String>) -> Result<(), ConfigError> {
        for setting in &mut self.settings {
            let name = setting.env_name(source.env_prefix);
            if let Some(text) = (source.env)(&name) {
                let origin = Origin::Env(name);
                let readings = readings_of_text(&text, &setting.default);
                setting.said = Some(Said { readings, place: origin.to_string(), origin });
            }
        }
        self.refuse_unknown_env(source, names)
    }

    /// The command line's say.
    pub(super) fn add_flags(&mut self, flags: &[(String, String)]) -> Result<(), ConfigError> {
        for (key, text) in flags {
            let Some(setting) = self.settings.iter_mut().find(|setting| setting.key() == *key) else {
                return Err(self.unknown_key(key, Origin::Flag.to_string()));
            };
            let readings = readings_of_text(text, &setting.default);
            setting.said = Some(Said { readings, place: Origin::Flag.to_string(), origin: Origin::Flag });
        }
        Ok(())
    }

    /// The tree of all settings in force. `check` says whether a tree is a
    /// configuration; each setting is tried alone upon the defaults first, so
    /// that the one at fault can be named. One that fails alone may still be
    /// right together with others.
    pub(super) fn settle(
        self,
        defaults: Value,
        check: impl Fn(&Value) -> Result<(), serde_json::Error>,
    ) -> Result<(Value, Vec<Leaf>), ConfigError> {
        let mut tree = defaults.clone();
        let mut leaves = Vec::new();
        let mut doubt = None;
        for setting in self.settings {
            let (value, origin) = match setting.said {
                None => (setting.default, Origin::Default),
                Some(said) => {
                    let (value, fault) = choose_reading(&setting.path, &said, &defaults, &check);
                    doubt = doubt.or(fault);
                    put(&mut tree, &setting.path, value.clone());
                    (value, said.origin)
                }
            };
            leaves.push(Leaf { path: setting.path.join("."), value: shown(&setting.path, &value), origin });
        }

        match check(&tree) {
            Ok(()) => Ok((tree, leaves)),
            Err(error) => Err(doubt.unwrap_or_else(|| ConfigError::Conflict { message: error.to_string() })),
        }
    }

    fn add_entries(&mut self, file: &Path, entries: &[Entry], above: &[String]) -> Result<(), ConfigError> {
        for entry in entries {
            let path: Vec<String> = above.iter().cloned().chain([entry.key.clone()]).collect();
            let place = place_in(file, entry.value.line, entry.value.column);
            if let Some(setting) = self.settings.iter_mut().find(|setting| setting.path == path) {
                let readings = readings_of_node(&entry.value, &setting.default);
                let origin = Origin::File { path: file.to_owned(), line: entry.line };
                setting.said = Some(Said { readings, origin, place });
            } else if self.is_section(&path) {
                self.add_section(file, &entry.value, &path, place)?;
            } else {
                return Err(self.unknown_key(&path.join("."), place_in(file, entry.line, entry.column)));
            }
        }
        Ok(())
    }

    fn add_section(&mut self, file: &Path, node: &Node, path: &[String], place: String) -> Result<(), ConfigError> {
        match &node.content {
            Content::Map(entries) => self.add_entries(file, entries, path),
            // All keys of the section may be commented out.
            _ if node.is_blank() => Ok(()),
            Content::Scalar { .. } | Content::List(_) => Err(ConfigError::Value {
                place,
                key: path.join("."),
                message: format!("expected a section with the keys {}", self.keys_below(path).join(", ")),
            }),
        }
    }

    fn is_section(&self, path: &[String]) -> bool {
        self.settings.iter().any(|setting| setting.path.len() > path.len() && setting.path.starts_with(path))
    }

    fn keys_below(&self, path: &[String]) -> Vec<String> {
        let below = self.settings.iter().filter(|setting| setting.path.starts_with(path));
        let mut keys: Vec<String> = below.filter_map(|setting| setting.path.get(path.len()).cloned()).collect();
        keys.dedup();
        keys
    }

    fn unknown_key(&self, key: &str, place: String) -> ConfigError {
        let mut known: Vec<String> = Vec::new();
        for setting in &self.settings {
            for depth in 1..=setting.path.len() {
                known.push(setting.path[..depth].join("."));
            }
        }
        // A key that exists but stands in another section.
        let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
        let elsewhere = || known.iter().find(|name| last(name) == last(key)).cloned();
        let suggestion = nearest(key, &known).or_else(elsewhere);
        ConfigError::Unknown { place, kind: "key", name: key.to_owned(), suggestion }
    }

    fn refuse_unknown_env(&self, source: &Source<'_>, names: Vec<String>) -> Result<(), ConfigError> {
        let prefix = format!("{}_", source.env_prefix);
        let known: Vec<String> = self.settings.iter().map(|setting| setting.env_name(source.env_prefix)).collect();
        let stranger = names.into_iter().find(|name| {
            let is_ours = name.starts_with(&prefix) && !source.ignored_env.contains(&name.as_str());
            is_ours && !known.contains(name) && (source.env)(name).is_some()
        });

        match stranger {
            None => Ok(()),
            Some(name) => Err(ConfigError::Unknown {
                place: "environment".to_owned(),
                kind: "environment variable",
                suggestion: nearest(&name, &known),
                name,
            }),
        }
    }
}

/// An empty object is a map that somebody may fill, hence one setting.
fn collect(value: &Value, path: &mut Vec<String>, settings: &mut Vec<Setting>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                path.push(name.clone());
                collect(value, path, settings);
                path.pop();
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
            settings.push(Setting { path: path.clone(), default: value.clone(), said: None })
        }
    }
}

/// The first reading that fits; if none does, the likeliest, and why it does not.
fn choose_reading(
    path: &[String],
    said: &Said,
    defaults: &Value,
    check: impl Fn(&Value) -> Result<(), serde_json::Error>,
) -> (Value, Option<ConfigError>) {
    let mut misfit = None;
    for reading in &said.readings {
        let mut tree = defaults.clone();
        put(&mut tree, path, reading.clone());
        match check(&tree) {
            Ok(()) => return (reading.clone(), None),
            Err(error) => misfit = misfit.or(Some((reading, error))),
        }
    }

    let (likeliest, error) = misfit.expect("a text always has a reading");
    let fault = ConfigError::Value {
        place: said.place.clone(),
        key: path.join("."),
        message: explain(path, &error.to_string()),
    };
    (likeliest.clone(), Some(fault))
}

/// Turns `invalid type: string "x", expected u16` around, and drops what was
/// found if it is a secret.
fn explain(path: &[String], found: &str) -> String {
    let secret = path.last().is_some_and(|name| is_secret(name));
    match (found.rsplit_once(", expected "), secret) {
        (Some((_, expected)), true) => format!("expected {expected}"),
        (Some((found, expected)), false) => {
            format!("expected {expected}; {}", without_passwords(found))
        }
        (None, true) => "the value does not fit".to_owned(),
        (None, false) => without_passwords(found),
    }
}

fn put(tree: &mut Value, path: &[String], value: Value) {
    let mut place = tree;
    for name in path {
        let Some(below) = place.get_mut(name) else {
            return;
        };
        place = below;
    }
    *place = value;
}

/// The known name that differs least, if the difference may be a slip.
fn nearest(name: &str, known: &[String]) -> Option<String> {
    let slips_max = (name.len() / 4).clamp(1, 4);
    let distance = |other: &String| strsim::damerau_levenshtein(name, other);

    known.iter().filter(|other| distance(other) <= slips_max).min_by_key(|other| distance(other)).cloned()
}
