//! `multiagents trace`: a transaction as a waterfall, from the monitor's commands and events.

use std::collections::HashMap;
use std::time::Duration;

use proto::wire;

use crate::Context;
use crate::commands::{staleness, status::failure_text};
use crate::contracts;
use crate::failure::{Failure, exit};
use crate::output::{Output, Tone, tone_of};
use crate::words;

/// The bars' width where the terminal leaves room for more, and at least.
const BAR_COLUMNS_MAX: usize = 60;
const BAR_COLUMNS_MIN: usize = 16;

/// What `trace` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  multiagents trace ID
  multiagents trace ID --events
  multiagents trace ID --json | jq '.commands[] | {step, stage, queued_time, end_time}'

Each bar is one attempt at a step: \u{2591} while it waits for a slot, \u{2588} while its handler runs.")]
pub(crate) struct Arguments {
    /// The transaction's id
    #[arg(value_name = "ID")]
    transaction_id: String,
    /// Print every event below the waterfall
    #[arg(long)]
    events: bool,
}

/// Draws it.
pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<u8, Failure> {
    let trace = context
        .suite
        .monitor()
        .await?
        .trace(&arguments.transaction_id)
        .await?;
    if context.output.json {
        let json = contracts::to_json("GetTransactionTraceResponse", &trace);
        context.output.json(&json)?;
    } else {
        print(&trace, arguments.events, &mut context.output)?;
    }
    Ok(exit::OK)
}

fn print(
    trace: &wire::GetTransactionTraceResponse,
    events: bool,
    output: &mut Output,
) -> Result<(), Failure> {
    let state = words::transaction_state(trace.state);
    let (start, end) = extent(trace);
    output.line(format!(
        "{}  {}  {}  {}",
        words::shown(&trace.transaction_id, 64),
        words::shown(&trace.workflow, 128),
        output.painted(&state, tone_of(&state)),
        words::span(Duration::from_micros(end.since_us(start))),
    ))?;
    if trace.truncated {
        output.line("Its oldest events were trimmed; the beginning is missing.")?;
    }
    output.blank()?;
    for line in waterfall(trace, output) {
        output.line(line)?;
    }
    for command in &trace.commands {
        if let Some(failure) = &command.failure {
            let line = format!(
                "{}: {}",
                words::shown(&label(command), 140),
                failure_text(failure)
            );
            output.line(output.painted(&line, Tone::Bad))?;
        }
    }
    if events {
        output.blank()?;
        for event in &trace.events {
            output.line(event_line(event, start))?;
        }
    }
    if let Some(stale) = staleness(trace.as_of.as_ref()) {
        output.line(output.painted(&stale, Tone::Quiet))?;
    }
    Ok(())
}

/// From the first to the last thing that is known of the transaction.
fn extent(trace: &wire::GetTransactionTraceResponse) -> (proto::id::Time, proto::id::Time) {
    let events = trace.events.iter().filter_map(|event| event.time.as_ref());
    let commands = trace.commands.iter().flat_map(|command| {
        [
            &command.queued_time,
            &command.processing_time,
            &command.end_time,
        ]
        .into_iter()
        .flatten()
    });
    let mut times: Vec<_> = events
        .chain(commands)
        .map(proto::convert::from_timestamp)
        .collect();
    times.sort_unstable();
    (
        times.first().copied().unwrap_or_default(),
        times.last().copied().unwrap_or_default(),
    )
}

fn label(command: &wire::CommandSpan) -> String {
    let undo = if command.undo { "undo " } else { "" };
    let attempt = if command.attempt > 1 {
        format!(" #{}", command.attempt)
    } else {
        String::new()
    };
    format!("{undo}{}{attempt}", command.step)
}

fn waterfall(trace: &wire::GetTransactionTraceResponse, output: &Output) -> Vec<String> {
    let (start, end) = extent(trace);
    let rows: Vec<[String; 3]> = trace
        .commands
        .iter()
        .map(|command| {
            [
                words::shown(&label(command), 40),
                words::shown(&command.worker, 40),
                words::stage(command.stage),
            ]
        })
        .collect();
    let width_of = |column: usize, heading: &str| {
        let longest = rows.iter().map(|row| row[column].chars().count()).max();
        longest.unwrap_or(0).max(heading.len())
    };
    let headings = ["STEP", "WORKER", "STAGE"];
    let widths = [0, 1, 2].map(|column| width_of(column, headings[column]));
    // Two spaces after each column, and room for the figure behind the bar.
    let taken = widths.iter().sum::<usize>() + 3 * 2 + 12;
    let columns = output
        .width
        .saturating_sub(taken)
        .clamp(BAR_COLUMNS_MIN, BAR_COLUMNS_MAX);
    let runs: HashMap<&str, u64> = trace
        .events
        .iter()
        .filter_map(|event| {
            let run = proto::convert::measured_us(Some(event.run.as_ref()?));
            Some((event.command_id.as_str(), run))
        })
        .collect();
    let scale = Scale {
        start,
        span_us: end.since_us(start).max(1),
        columns,
    };
    let mut lines = vec![output.painted(
        &format!(
            "{:<a$}  {:<b$}  {}",
            headings[0],
            headings[1],
            headings[2],
            a = widths[0],
            b = widths[1]
        ),
        Tone::Strong,
    )];
    for (row, command) in rows.iter().zip(&trace.commands) {
        let stage = format!("{:<width$}", row[2], width = widths[2]);
        lines.push(format!(
            "{:<a$}  {:<b$}  {}  {}  {}",
            row[0],
            row[1],
            output.painted(&stage, tone_of(&row[2])),
            scale.bar(command, runs.get(command.command_id.as_str()).copied(), end),
            took(command),
            a = widths[0],
            b = widths[1],
        ));
    }
    lines
}

fn took(command: &wire::CommandSpan) -> String {
    match (&command.queued_time, &command.end_time) {
        (Some(queued), Some(ended)) => words::span(words::between(queued, ended)),
        _ => "open".to_owned(),
    }
}

/// How time lies on columns.
struct Scale {
    start: proto::id::Time,
    span_us: u64,
    columns: usize,
}

impl Scale {
    fn column(&self, time: proto::id::Time) -> usize {
        let columns = u64::try_from(self.columns).unwrap_or(u64::MAX);
        let at =
            u128::from(time.since_us(self.start)) * u128::from(columns) / u128::from(self.span_us);
        usize::try_from(at)
            .unwrap_or(self.columns)
            .min(self.columns)
    }

    /// The command's bar: at least one column, so that nothing is too fast to be seen.
    ///
    /// Where its host measured how long the handler ran, that is the dark part: it is exact, while
    /// the word that the handler began may have travelled with its result.
    fn bar(
        &self,
        command: &wire::CommandSpan,
        run_us: Option<u64>,
        now: proto::id::Time,
    ) -> String {
        let time = |time: &Option<prost_types::Timestamp>| {
            time.as_ref().map(proto::convert::from_timestamp)
        };
        let queued = time(&command.queued_time).unwrap_or(self.start);
        let ended = time(&command.end_time).unwrap_or(now);
        // Where nobody saw the handler begin, all of it counts as waiting up to the dispatch.
        let measured = match (run_us, &command.end_time) {
            (Some(run_us), Some(_)) => {
                let run_us = i64::try_from(run_us).unwrap_or(i64::MAX);
                Some(proto::id::Time(ended.0.saturating_sub(run_us)).max(queued))
            }
            _ => None,
        };
        let began = measured
            .or_else(|| time(&command.processing_time))
            .or_else(|| time(&command.dispatched_time))
            .unwrap_or(ended);
        let first = self.column(queued).min(self.columns.saturating_sub(1));
        let last = self.column(ended).clamp(first + 1, self.columns);
        let middle = self.column(began).clamp(first, last.saturating_sub(1));
        let mut bar = " ".repeat(first);
        bar.push_str(&"░".repeat(middle - first));
        let ran = command.processing_time.is_some() || command.dispatched_time.is_some();
        bar.push_str(&if ran { "█" } else { "░" }.repeat(last - middle));
        bar.push_str(&" ".repeat(self.columns - last));
        bar
    }
}

/// One event, at its time since the transaction's start.
fn event_line(event: &wire::Event, start: proto::id::Time) -> String {
    let at = event.time.as_ref().map_or(0, |time| {
        proto::convert::from_timestamp(time).since_us(start)
    });
    let mut line = format!(
        "+{:>9.3} s  {:<24}",
        Duration::from_micros(at).as_secs_f64(),
        words::event_type(event.r#type)
    );
    for part in [&event.step, &event.worker, &event.host_id] {
        if !part.is_empty() {
            line.push_str("  ");
            line.push_str(&words::shown(part, 128));
        }
    }
    if event.attempt > 1 {
        line.push_str(&format!("  attempt {}", event.attempt));
    }
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::output::captured;
    use proptest::prelude::*;

    fn time(milliseconds: i64) -> Option<prost_types::Timestamp> {
        Some(proto::convert::to_timestamp(proto::id::Time(
            1_700_000_000_000_000 + milliseconds * 1_000,
        )))
    }

    fn span(
        step: &str,
        queued: i64,
        processing: Option<i64>,
        ended: Option<i64>,
    ) -> wire::CommandSpan {
        wire::CommandSpan {
            command_id: format!("0198/{step}/do#1"),
            step: step.into(),
            worker: "w".into(),
            attempt: 1,
            stage: wire::Stage::Completed.into(),
            queued_time: time(queued),
            processing_time: processing.and_then(time),
            end_time: ended.and_then(time),
            ..Default::default()
        }
    }

    #[test]
    fn a_waterfall_shows_waiting_running_retries_and_failures() {
        let mut failed = span("flaky", 500, Some(750), Some(1_000));
        failed.stage = wire::Stage::Failed.into();
        failed.attempt = 2;
        failed.failure = Some(wire::Failure {
            kind: "NetworkError".into(),
            message: "Connection timeout".into(),
            ..Default::default()
        });
        let trace = wire::GetTransactionTraceResponse {
            transaction_id: "0198".into(),
            workflow: "demo".into(),
            state: wire::TransactionState::Failed.into(),
            commands: vec![span("fast", 0, Some(490), Some(500)), failed],
            events: vec![
                wire::Event {
                    time: time(0),
                    r#type: wire::EventType::TransactionStarted.into(),
                    ..Default::default()
                },
                // The word that it began came late; the host's own figure is the right one.
                wire::Event {
                    time: time(500),
                    r#type: wire::EventType::CommandCompleted.into(),
                    command_id: "0198/fast/do#1".into(),
                    run: Some(words::to_wire(Duration::from_millis(250))),
                    ..Default::default()
                },
            ],
            ..Default::default()
        };
        let text = captured(false, |output| {
            output.width = 20 + 3 * 2 + 12;
            print(&trace, true, output)
        })
        .unwrap();
        assert_eq!(
            text,
            "\
0198  demo  failed  1.00 s

STEP      WORKER  STAGE
fast      w       completed  ░░░░████          500.0 ms
flaky #2  w       failed             ░░░░████  500.0 ms
flaky #2: NetworkError: Connection timeout

+    0.000 s  transaction_started
+    0.500 s  command_completed
"
        );
    }

    proptest! {
        #[test]
        fn every_bar_is_as_wide_as_the_scale_whatever_the_times(
            queued in -10i64..2_000,
            processing in proptest::option::of(-10i64..2_000),
            ended in proptest::option::of(-10i64..2_000),
            run in proptest::option::of(0u64..5_000_000),
        ) {
            let scale = Scale {
                start: proto::convert::from_timestamp(&time(0).unwrap_or_default()),
                span_us: 1_000_000,
                columns: 30,
            };
            let bar = scale.bar(&span("s", queued, processing, ended), run, scale.start);
            prop_assert_eq!(bar.chars().count(), 30);
            prop_assert!(bar.contains('█') || bar.contains('░'));
        }
    }
}
