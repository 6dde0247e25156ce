//! Layered configuration: flag over environment over file over default.
//!
//! Invariant: a key, variable or flag that names nothing is an error, and an
//! error names the place where the value came from.

mod expand;
mod layers;
mod values;
mod yaml;

use crate::failure::Failure;
use keyhaven_protocol::ErrorCode;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use layers::Layers;

/// A configuration file larger than this is a mistake.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Where settings come from.
pub struct Source<'a> {
    /// What the variables' names begin with, such as `KEYHAVEN_HUB`: the key
    /// `consumer.listen` is then `KEYHAVEN_HUB_CONSUMER_LISTEN`.
    pub env_prefix: &'a str,
    /// The YAML file, which must exist.
    pub file: Option<&'a Path>,
    /// Dotted keys and their values, as given on the command line.
    pub flags: &'a [(String, String)],
    /// The value of an environment variable.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// Variables that have the prefix and are not settings.
    pub ignored_env: &'a [&'a str],
}

/// Where one setting came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "from", content = "at")]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The file, on this line.
    File {
        /// The file.
        path: PathBuf,
        /// The line of its key, from 1.
        line: u64,
    },
    /// The environment variable of this name.
    Env(String),
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::Flag => f.write_str("command line"),
        }
    }
}

/// One setting as `config show` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Leaf {
    /// The dotted key.
    pub path: String,
    /// The value in force; `[secret]` in place of secrets.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// A configuration and where each part of it came from.
#[derive(Debug)]
pub struct Loaded<C> {
    /// The configuration in force.
    pub config: C,
    /// All its settings, in the order of their keys.
    pub leaves: Vec<Leaf>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is absent, too large, not text, or not ours to read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        source: io::Error,
    },
    /// The file is not YAML as we take it.
    #[error("{message}")]
    Syntax {
        /// File, line and column.
        place: String,
        /// What is wrong there.
        message: String,
    },
    /// No setting has this name.
    #[error("unknown {kind} `{name}`{}", did_you_mean(suggestion.as_deref()))]
    Unknown {
        /// Where it stands.
        place: String,
        /// `key` or `environment variable`.
        kind: &'static str,
        /// The name that was given.
        name: String,
        /// A name that exists and is much like it.
        suggestion: Option<String>,
    },
    /// The value does not fit its key.
    #[error("`{key}`: {message}")]
    Value {
        /// Where the value stands.
        place: String,
        /// The dotted key.
        key: String,
        /// What was expected, and what was found unless it is secret.
        message: String,
    },
    /// Each value is fine alone, but not together.
    #[error("{message}")]
    Conflict {
        /// What was expected.
        message: String,
    },
    /// `${NAME}` without such a variable, all of them.
    #[error("not set: {}", list_missing(missing))]
    VariablesMissing {
        /// Where the first one is used.
        place: String,
        /// Names, and the lines that use them.
        missing: Vec<(String, u64)>,
    },
    /// The program's own defaults do not form a configuration.
    #[error("the built-in defaults are not a configuration: {message}")]
    Defaults {
        /// What is wrong with them.
        message: String,
    },
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let failure = |code| Self::new(code, error.to_string());
        match &error {
            ConfigError::Unreadable { .. } => failure(ErrorCode::ConfigUnreadable),
            ConfigError::Syntax { place, .. }
            | ConfigError::Unknown { place, .. }
            | ConfigError::Value { place, .. } => failure(ErrorCode::ConfigInvalid).at(place),
            ConfigError::Conflict { .. } => failure(ErrorCode::ConfigInvalid),
            ConfigError::VariablesMissing { place, .. } => failure(ErrorCode::ConfigVariableMissing).at(place),
            ConfigError::Defaults { .. } => failure(ErrorCode::Internal),
        }
    }
}

/// Loads a configuration. Its keys are those of `C::default()` once serialised,
/// so `C` must not skip fields when it serialises; what is `null`, a list or an
/// empty object there is one setting whose inner shape `C` itself checks.
///
/// Variables are looked up by `source.env`; the names of those that nobody
/// knows are found by asking it for every name this process has.
///
/// # Errors
/// See `ConfigError`; the first problem found, except that missing variables
/// are reported together.
pub fn load<C>(source: &Source<'_>) -> Result<Loaded<C>, ConfigError>
where
    C: Serialize + DeserializeOwned + Default,
{
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());

    load_with_names(source, names.collect())
}

/// Where a program of ours keeps its things when nothing else is said:
/// `/var/lib/keyhaven/<program>` for root, and `$XDG_DATA_HOME/keyhaven/<program>`
/// or `~/.local/share/keyhaven/<program>` for everybody else.
pub fn default_data_dir(program: &str) -> PathBuf {
    if is_root() {
        return Path::new("/var/lib/keyhaven").join(program);
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data_home = absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
    data_home.unwrap_or_else(|| PathBuf::from(".")).join("keyhaven").join(program)
}

#[cfg(unix)]
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(not(unix))]
fn is_root() -> bool {
    false
}

fn load_with_names<C>(source: &Source<'_>, env_names: Vec<String>) -> Result<Loaded<C>, ConfigError>
where
    C: Serialize + DeserializeOwned + Default,
{
    let defaults = serde_json::to_value(C::default()).map_err(|error| defaults_broken(&error))?;
    check::<C>(&defaults).map_err(|error| defaults_broken(&error))?;

    let mut layers = Layers::new(&defaults);
    if let Some(path) = source.file {
        layers.add_file(path, parse_file(path, source.env)?)?;
    }
    layers.add_env(source, env_names)?;
    layers.add_flags(source.flags)?;

    let (value, leaves) = layers.settle(defaults, |value| check::<C>(value))?;
    let config = C::deserialize(value).map_err(|error| ConfigError::Conflict { message: error.to_string() })?;
    Ok(Loaded { config, leaves })
}

fn check<C: DeserializeOwned>(value: &Value) -> Result<(), serde_json::Error> {
    C::deserialize(value).map(drop)
}

fn defaults_broken(error: &serde_json::Error) -> ConfigError {
    ConfigError::Defaults { message: error.to_string() }
}

fn parse_file(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Option<yaml::Node>, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let text = read_bounded(path).map_err(unreadable)?;

    let mut root = yaml::parse(&text).map_err(|fault| fault.in_file(path))?;
    if let Some(root) = &mut root {
        expand::expand(root, env).map_err(|fault| fault.in_file(path))?;
    }
    Ok(root)
}

/// Bounded while reading: a path may name a pipe or a device.
fn read_bounded(path: &Path) -> io::Result<String> {
    use std::io::Read;

    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

fn place_in(path: &Path, line: u64, column: u64) -> String {
    format!("{}:{line}:{column}", path.display())
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

fn list_missing(missing: &[(String, u64)]) -> String {
    let listed: Vec<String> = missing.iter().map(|(name, line)| format!("{name} (line {line})")).collect();
    listed.join(", ")
}

#[cfg(test)]
mod tests;
