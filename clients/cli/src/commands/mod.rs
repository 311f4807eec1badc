//! One file per subcommand: what it takes, what it asks the services, what it prints.

pub(crate) mod up;
pub(crate) mod demo;
pub(crate) mod run;
pub(crate) mod status;
pub(crate) mod list;
pub(crate) mod cancel;
pub(crate) mod trace;
pub(crate) mod events;
pub(crate) mod workers;
pub(crate) mod errors;
pub(crate) mod alerts;
pub(crate) mod metrics;
pub(crate) mod verify;
pub(crate) mod backup;
pub(crate) mod restore;
pub(crate) mod workflows;
pub(crate) mod register;

use std::time::Duration;

use clap::Args;
use proto::wire;

use crate::output::Output;
use crate::words;

/// Over how long a stretch of time.
#[derive(Clone, Debug, Args)]
pub(crate) struct WindowArgument {
    /// How far back to look, such as 30s, 5m or 2h
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = words::parse_duration)]
    pub(crate) window: Duration,
}

impl WindowArgument {
    /// For a request.
    pub(crate) fn wire(&self) -> Option<prost_types::Duration> {
        Some(words::to_wire(self.window))
    }
}

/// Reads a label as it is typed.
pub(crate) fn parse_label(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| {
            format!(
                "\"{}\" is no label; write KEY=VALUE",
                words::shown(text, 80)
            )
        })
}

/// One line under an answer of the monitor: how old it is and what it doesn't know yet. Empty when
/// it is up to date.
pub(crate) fn staleness(as_of: Option<&wire::AsOf>) -> Option<String> {
    let as_of = as_of?;
    if as_of.sources.is_empty() {
        return Some("The monitor has heard of no orchestrator yet.".to_owned());
    }
    let behind: Vec<String> = as_of
        .sources
        .iter()
        .filter(|source| source.lag_events > 0 || !source.connected)
        .map(|source| {
            let state = if source.connected {
                ""
            } else {
                ", not connected"
            };
            format!(
                "{} behind {} ({}{state})",
                words::counted(source.lag_events, "event", "events"),
                words::shown(&source.source, 100),
                words::duration(source.lag.as_ref()),
            )
        })
        .collect();
    (!behind.is_empty()).then(|| format!("The monitor is {}.", behind.join("; ")))
}

/// What an answer covers and how true it is, as one quiet line.
pub(crate) fn covered(
    output: &Output,
    as_of: Option<&wire::AsOf>,
    window: Option<&wire::Window>,
) -> String {
    let mut line = String::new();
    if let Some(window) = window {
        let span = match (&window.start_time, &window.end_time) {
            (Some(start), Some(end)) => words::span(words::between(start, end)),
            _ => words::UNKNOWN.to_owned(),
        };
        line = format!(
            "Covers {span} up to {}.",
            output.zone.date_time(window.end_time.as_ref())
        );
    }
    if let Some(stale) = staleness(as_of) {
        line = format!("{line} {stale}");
    }
    output.painted(line.trim(), crate::output::Tone::Quiet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_that_its_monitor_is_behind() {
        let source = wire::SourceLag {
            source: "127.0.0.1:7001".into(),
            lag_events: 1,
            lag: Some(words::to_wire(Duration::from_millis(1_500))),
            connected: false,
            ..Default::default()
        };
        let mut as_of = wire::AsOf {
            sources: vec![source],
            ..Default::default()
        };
        assert_eq!(
            staleness(Some(&as_of)).as_deref(),
            Some("The monitor is 1 event behind 127.0.0.1:7001 (1.50 s, not connected).")
        );
        as_of.sources[0].connected = true;
        as_of.sources[0].lag_events = 0;
        assert_eq!(staleness(Some(&as_of)), None);
        as_of.sources.clear();
        assert!(staleness(Some(&as_of)).is_some_and(|line| line.contains("no orchestrator")));
    }

    #[test]
    fn a_label_needs_a_key() {
        assert_eq!(parse_label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(parse_label("=x").is_err());
    }
}
