//! Logs: to standard error, for people or for machines, written by a thread of their own.
//!
//! Invariant: libraries that might print what passes through them stay at
//! `info`, whatever level is asked for; bodies and keys never reach a log; a standard
//! error that nobody reads delays no call.

use std::io;
use std::io::Write as _;

use keyhaven_protocol::ErrorCode;
use serde::Deserialize;
use serde::Serialize;
use tracing::Level;
use tracing::Metadata;
use tracing_appender::non_blocking::ErrorCounter;
use tracing_appender::non_blocking::NonBlockingBuilder;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::Registry;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::failure::Failure;
use crate::terminal::stderr_takes_colour;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One readable line per event, coloured on a terminal.
    #[default]
    Human,
    /// One JSON object per line.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level is neither a level nor a list of directives.
    #[error(
        "{level:?} is not a log level; use error, warn, info, debug, trace or directives such as info,keyhaven_hub=debug"
    )]
    Level {
        /// What was given instead of a level.
        level: String,
    },
    /// Something else already receives this process's logs.
    #[error("logging was set up twice")]
    AlreadySet,
}

impl From<TelemetryError> for Failure {
    fn from(error: TelemetryError) -> Self {
        let code = match error {
            TelemetryError::Level { .. } => ErrorCode::ConfigInvalid,
            TelemetryError::AlreadySet => ErrorCode::Internal,
        };
        Self::new(code, error.to_string())
    }
}

/// Lines that wait to be written; further ones are counted and dropped.
const WAITING_LINES_MAX: usize = 16 * 1024;

/// The logs of this process. Dropping it writes what still waits.
#[must_use = "logs end where this is dropped"]
pub struct Logs {
    writer: Option<WorkerGuard>,
    dropped: ErrorCounter,
}

/// Sends this process's logs to standard error. Only a `main` calls it, once.
///
/// # Errors
/// `level` cannot be understood, or logs already go elsewhere.
pub fn init(level: &str, format: LogFormat) -> Result<Logs, TelemetryError> {
    let filter = parse_level(level)?;
    // The thread flushes whenever no line waits, so a buffer costs no delay.
    let (lines, writer) = NonBlockingBuilder::default()
        .buffered_lines_limit(WAITING_LINES_MAX)
        .lossy(true)
        .thread_name("logs")
        .finish(io::BufWriter::new(io::stderr()));
    let dropped = lines.error_counter();

    tracing_subscriber::registry()
        .with(layer(filter, format, lines))
        .try_init()
        .map_err(|_| TelemetryError::AlreadySet)?;
    Ok(Logs { writer: Some(writer), dropped })
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.writer = None;
        let dropped = self.dropped.dropped_lines();
        if dropped > 0 {
            // Nobody may be reading; then nobody misses it.
            let _ = writeln!(io::stderr(), "{dropped} lines of log were dropped: standard error took them too slowly");
        }
    }
}

fn layer<W>(filter: EnvFilter, format: LogFormat, writer: W) -> impl Layer<Registry>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = match format {
        LogFormat::Human => lines.with_ansi(stderr_takes_colour()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    };
    lines.with_filter(filter_fn(is_safe_to_log)).with_filter(filter)
}

fn parse_level(level: &str) -> Result<EnvFilter, TelemetryError> {
    let malformed = || TelemetryError::Level { level: level.to_owned() };
    let directives: Vec<&str> = level.split(',').map(str::trim).collect();
    if !directives.iter().copied().all(ends_in_level) {
        return Err(malformed());
    }

    EnvFilter::try_new(directives.join(",")).map_err(|_| malformed())
}

/// The filter takes any other word for the name of a crate, and a misspelt
/// level would silence everything.
fn ends_in_level(directive: &str) -> bool {
    let last = directive.rsplit('=').next().unwrap_or_default();

    ["error", "warn", "info", "debug", "trace", "off"].iter().any(|name| last.eq_ignore_ascii_case(name))
}

/// A WebSocket or HTTP library at `trace` prints what it carries.
fn is_safe_to_log(event: &Metadata<'_>) -> bool {
    event.target().starts_with("keyhaven") || *event.level() <= Level::INFO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_understood_and_slips_are_not() {
        for level in ["info", "WARN", "off", "info,keyhaven_hub=debug", "info, keyhaven_agent::link=trace"] {
            assert!(parse_level(level).is_ok(), "{level}");
        }
        for level in ["", "verbose", "inf", "info,", "keyhaven_hub", "keyhaven_hub=loud"] {
            assert!(matches!(parse_level(level), Err(TelemetryError::Level { .. })), "{level}");
        }
    }

    #[test]
    fn a_library_that_prints_what_it_carries_is_never_heard_below_info() {
        use std::sync::Arc;
        use std::sync::Mutex;

        #[derive(Clone, Default)]
        struct Log(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Log {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let log = Log::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::registry()
                .with(layer(parse_level("trace").unwrap(), LogFormat::Json, move || writer.clone()));

        tracing::subscriber::with_default(subscriber, || {
            tracing::trace!(target: "tungstenite::protocol", "received the body");
            tracing::debug!(target: "hyper::proto", "parsed the key");
            tracing::info!(target: "hyper::proto", "foreign fact");
            tracing::trace!(target: "keyhaven_hub::dispatch", ttfb_ms = 7, "own detail");
        });

        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let messages: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(messages.len(), 2, "{text}");
        assert_eq!(messages[0]["message"], "foreign fact");
        assert_eq!(messages[1]["message"], "own detail");
        assert_eq!(messages[1]["ttfb_ms"], 7);
    }
}
