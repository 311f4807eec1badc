//! Logging, set up once: console, file or both, as text or as JSON lines.
//!
//! Whoever logs never waits on a disk or a terminal: lines go to one thread through a bounded
//! queue, and what does not fit is counted and said. What others chose (names, messages) is
//! printed with control characters made visible.

mod lines;
mod sink;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::PathBuf;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;

use lines::{Form, Lines};
pub use sink::Guard;

/// The `logging` section of every service's configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Logging {
    /// Where log lines go.
    pub default_logger: Destination,
    /// `DEBUG`, `INFO`, `WARNING`, `ERROR`, `CRITICAL`, or a filter such as `info,kit=debug`.
    #[serde(deserialize_with = "level")]
    pub level: String,
    /// The log file, for `file` and `composite`.
    pub file_path: PathBuf,
    /// The file is rotated before it grows beyond this many MiB.
    #[serde(deserialize_with = "crate::config::above_zero")]
    pub max_file_size_mb: u64,
    /// How many rotated files (`.1` is the newest) are kept.
    pub backup_count: u64,
    /// One JSON object a line, in the file and on a console that is the only destination. The
    /// console of a composite is always text.
    pub json_format: bool,
}

impl Default for Logging {
    fn default() -> Self {
        Self {
            default_logger: Destination::Console,
            level: "INFO".into(),
            file_path: "logs/service.log".into(),
            max_file_size_mb: 100,
            backup_count: 5,
            json_format: false,
        }
    }
}

/// Where log lines go.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Destination {
    /// Standard error.
    Console,
    /// The file alone.
    File,
    /// Standard error and the file.
    Composite,
}

/// Sets logging up for the whole process. Keep the guard until the end: dropping it writes out
/// what is still queued.
///
/// # Errors
/// A level that is none, a file that cannot be opened, or logging that is set up already.
pub fn init(component: &'static str, logging: &Logging) -> anyhow::Result<Guard> {
    let (subscriber, guard) = subscriber(component, logging)?;
    tracing::subscriber::set_global_default(subscriber)
        .map_err(|_| anyhow::anyhow!("logging is set up already"))?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        let message = panic_message(panic.payload());
        tracing::error!(place, message, "panic");
    }));
    Ok(guard)
}

/// The same without touching the process: for a test or a part of a program.
///
/// # Errors
/// As [`init`].
pub fn subscriber(
    component: &'static str,
    logging: &Logging,
) -> anyhow::Result<(impl tracing::Subscriber + Send + Sync + use<>, Guard)> {
    let filter = filter(&logging.level)?;
    let console = logging.default_logger != Destination::File;
    let file = logging.default_logger != Destination::Console;
    let console_form = console.then(|| match (logging.json_format && !file, colours()) {
        (true, _) => Form::Json,
        (false, true) => Form::ColouredText,
        (false, false) => Form::Text,
    });
    let file_form = file.then_some(if logging.json_format {
        Form::Json
    } else {
        Form::Text
    });
    let roller = match file {
        true => Some(sink::open(
            &logging.file_path,
            logging.max_file_size_mb,
            logging.backup_count,
        )?),
        false => None,
    };
    let (queue, guard) = sink::start(roller)?;
    let lines = Lines::new(component, console_form, file_form, queue);
    Ok((
        tracing_subscriber::registry().with(filter).with(lines),
        guard,
    ))
}

/// Colours are for people: only on a terminal, and not where NO_COLOR asks for none.
fn colours() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

fn filter(level: &str) -> anyhow::Result<EnvFilter> {
    let plain = match level.trim().to_ascii_uppercase().as_str() {
        "TRACE" => Some(LevelFilter::TRACE),
        "DEBUG" => Some(LevelFilter::DEBUG),
        "INFO" => Some(LevelFilter::INFO),
        "WARN" | "WARNING" => Some(LevelFilter::WARN),
        "ERROR" | "CRITICAL" => Some(LevelFilter::ERROR),
        "OFF" => Some(LevelFilter::OFF),
        _ => None,
    };
    let directives = match plain {
        // The libraries' own debug lines would bury ours; a filter of one's own can ask for them.
        Some(plain) if plain > LevelFilter::INFO => {
            format!("{plain},h2=info,hyper=info,hyper_util=info,tonic=info,tower=info")
        }
        Some(plain) => plain.to_string(),
        None if level.contains(['=', ',']) => level.to_owned(),
        None => anyhow::bail!(
            "{level:?} is no level; expected DEBUG, INFO, WARNING, ERROR, CRITICAL or a filter such \
             as info,kit=debug"
        ),
    };
    EnvFilter::try_new(&directives)
        .map_err(|error| anyhow::anyhow!("{level:?} is no level and no filter: {error}"))
}

/// Checked where it is read, so that the refusal has its place.
fn level<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let level = String::deserialize(from)?;
    filter(&level).map_err(D::Error::custom)?;
    Ok(level)
}

/// What a panic said, if it said anything readable.
pub(crate) fn panic_message(payload: &(dyn std::any::Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}

/// The text with control characters and direction overrides made visible, so that no name or
/// message can move the cursor, hide a line or forge one.
pub fn escape_control(text: &str) -> Cow<'_, str> {
    if !text.contains(is_control) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            c if is_control(c) => {
                let _ = write!(escaped, "\\u{{{:x}}}", u32::from(c));
            }
            c => escaped.push(c),
        }
    }
    Cow::Owned(escaped)
}

/// C0, DEL, C1, line and paragraph separators, and what turns the writing direction.
fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests;
