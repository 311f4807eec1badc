//! `multiagents events`: the log's events, from a cursor, and then as they happen.
//!
//! A cut connection is resumed at the last cursor, so nothing is printed twice and nothing is left
//! out; what was trimmed meanwhile is said.

use multiagents_client::{FeedItem, FeedMessage};
use proto::wire;
use serde_json::json;

use crate::Context;
use crate::commands::status::failure_text;
use crate::contracts;
use crate::failure::{Failure, exit};
use crate::output::{Output, Tone, printable, tone_of};
use crate::words;

/// What `events` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  multiagents events --follow --from live
  multiagents events --transaction ID
  multiagents events --worker flaky_processor --stage failed --stage timeout
  multiagents events --follow --from CURSOR --json | tee -a events.jsonl

At its end, or when you stop it, it says the cursor to go on from. With --json each line is an
object with one key: `event`; `gap`, events that were trimmed before they could be read; or
`cursor`, the place after all lines before it.")]
pub(crate) struct Arguments {
    /// Go on with new events as they happen, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// Where to begin: a cursor, `oldest`, or `live` for new events alone
    #[arg(long, value_name = "CURSOR", default_value = "oldest")]
    from: String,
    /// Only of this transaction; can be given several times
    #[arg(long, value_name = "ID")]
    transaction: Vec<String>,
    /// Only of this workflow; can be given several times
    #[arg(long, value_name = "NAME")]
    workflow: Vec<String>,
    /// Only of this worker; can be given several times
    #[arg(long, value_name = "NAME")]
    worker: Vec<String>,
    /// Only at this stage; can be given several times
    #[arg(long, value_name = "STAGE", value_parser = words::parse_stage)]
    stage: Vec<wire::Stage>,
    /// Only of this type, such as transaction_failed; can be given several times
    #[arg(long = "type", value_name = "TYPE", value_parser = words::parse_event_type)]
    event_type: Vec<wire::EventType>,
}

/// Prints them.
pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<u8, Failure> {
    let mut feed = context.suite.monitor().await?.events(request(&arguments));
    let mut cut = false;
    let ended = loop {
        let message = tokio::select! {
            biased;
            _interrupted = tokio::signal::ctrl_c() => break Ok(exit::OK),
            message = feed.next() => message,
        };
        match message {
            Ok(Some(message)) => {
                // One word about a cut, however many attempts it takes to get over it.
                let again = cut;
                cut = matches!(message.item, FeedItem::Interrupted(_));
                if again && cut {
                    continue;
                }
                if let Err(failure) = print(&message, &mut context.output) {
                    break Err(failure);
                }
            }
            Ok(None) => break Ok(exit::OK),
            Err(error) => break Err(error.into()),
        }
    };
    let reader_gone = matches!(&ended, Err(failure) if failure.reader_gone);
    // A cursor that was refused leads nowhere.
    let led_on = ended.is_ok() || feed.cursor() != arguments.from;
    if !context.output.json && !feed.cursor().is_empty() && !reader_gone && led_on {
        context.output.note(format!(
            "Go on with: multiagents events --from {}",
            words::shown(feed.cursor(), 400)
        ));
    }
    ended
}

fn request(arguments: &Arguments) -> wire::StreamEventsRequest {
    let (cursor, start) = match arguments.from.as_str() {
        "oldest" => ("", wire::FeedStart::Oldest),
        "live" => ("", wire::FeedStart::Live),
        cursor => (cursor, wire::FeedStart::Unspecified),
    };
    wire::StreamEventsRequest {
        cursor: cursor.to_owned(),
        start: start.into(),
        filter: Some(wire::EventFilter {
            transaction_ids: arguments.transaction.clone(),
            workflows: arguments.workflow.clone(),
            workers: arguments.worker.clone(),
            stages: arguments
                .stage
                .iter()
                .map(|stage| (*stage).into())
                .collect(),
            types: arguments
                .event_type
                .iter()
                .map(|event_type| (*event_type).into())
                .collect(),
        }),
        on_slow: wire::OnSlow::CatchUp.into(),
        until_head: !arguments.follow,
        min_interval: None,
    }
}

fn print(message: &FeedMessage, output: &mut Output) -> Result<(), Failure> {
    match &message.item {
        FeedItem::Events(events) => {
            // A message is written at once: a write for each event is what would cost.
            let lines: Vec<String> = events
                .iter()
                .map(|event| {
                    if output.json {
                        let json = json!({"event": contracts::to_json("Event", event)});
                        printable(&json.to_string())
                    } else {
                        event_line(event, output)
                    }
                })
                .collect();
            if !lines.is_empty() {
                output.line(lines.join("\n"))?;
            }
        }
        FeedItem::Gap(gap) => {
            if output.json {
                output.json_line(&json!({"gap": contracts::to_json("Gap", gap)}))?;
            } else {
                let text = format!(
                    "-- {} missing here ({})",
                    words::counted(gap.count, "event is", "events are"),
                    words::shown(&gap.reason, 60)
                );
                output.line(output.painted(&text, Tone::Warning))?;
            }
        }
        FeedItem::Interrupted(error) => {
            output.note(format!(
                "The feed was cut and goes on by itself: {}",
                words::shown(&error.message(), 300)
            ));
            return Ok(());
        }
        FeedItem::Opened { .. } | FeedItem::Heartbeat => {}
    }
    if output.json && !message.cursor.is_empty() {
        output.json_line(&json!({"cursor": message.cursor}))?;
    }
    Ok(())
}

/// One event on one line: when, what, whose.
fn event_line(event: &wire::Event, output: &Output) -> String {
    let word = words::event_type(event.r#type);
    let tone = tone_of(word.rsplit('_').next().unwrap_or_default());
    let mut line = format!(
        "{}  {}",
        output.zone.date_time(event.time.as_ref()),
        output.painted(&format!("{word:<23}"), tone),
    );
    for part in [&event.workflow, &event.step, &event.worker, &event.host_id] {
        if !part.is_empty() {
            line.push_str("  ");
            line.push_str(&words::shown(part, 128));
        }
    }
    if event.attempt > 1 {
        line.push_str(&format!("  attempt {}", event.attempt));
    }
    if let Some(run) = &event.run {
        line.push_str(&format!("  {}", words::duration(Some(run))));
    }
    if let Some(failure) = failure_of(event) {
        line.push_str(&format!("  {}", failure_text(failure)));
    }
    if let Some(wire::event::Kind::CancelRequested(cancel)) = &event.kind
        && !cancel.reason.is_empty()
    {
        line.push_str(&format!("  {}", words::shown(&cancel.reason, 200)));
    }
    if !event.transaction_id.is_empty() {
        let id = words::shown(&event.transaction_id, 64);
        line.push_str(&format!("  {}", output.painted(&id, Tone::Quiet)));
    }
    line
}

fn failure_of(event: &wire::Event) -> Option<&wire::Failure> {
    use wire::event::Kind;
    match event.kind.as_ref()? {
        Kind::CommandFailed(failed) => failed.failure.as_ref(),
        Kind::CommandLost(lost) => lost.failure.as_ref(),
        Kind::TransactionFailed(failed) => failed.failure.as_ref(),
        Kind::CompensationStarted(started) => started.failure.as_ref(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::output::captured;

    fn failed() -> wire::Event {
        wire::Event {
            offset: 7,
            time: Some(prost_types::Timestamp {
                seconds: 1_700_000_000,
                nanos: 0,
            }),
            transaction_id: "0198".into(),
            workflow: "error_monitoring".into(),
            step: "risky_process".into(),
            worker: "flaky_processor".into(),
            attempt: 2,
            r#type: wire::EventType::CommandFailed.into(),
            stage: wire::Stage::Failed.into(),
            kind: Some(wire::event::Kind::CommandFailed(wire::CommandFailed {
                failure: Some(wire::Failure {
                    kind: "RateLimitError".into(),
                    message: "Too many\u{7} requests".into(),
                    ..Default::default()
                }),
                retried: false,
            })),
            ..Default::default()
        }
    }

    fn message(item: FeedItem) -> FeedMessage {
        FeedMessage {
            item,
            cursor: "c1".into(),
            lag_events: 0,
        }
    }

    #[test]
    fn a_failure_is_one_line_with_its_words_made_printable() {
        let events = message(FeedItem::Events(vec![failed()]));
        let text = captured(false, |output| print(&events, output)).unwrap();
        assert_eq!(
            text,
            "2023-11-14 22:13:20.000Z  command_failed           error_monitoring  risky_process  \
             flaky_processor  attempt 2  RateLimitError: Too many\\u{7} requests  0198\n"
        );
    }

    #[test]
    fn a_cancellation_says_why_it_was_asked_for() {
        let cancel = wire::Event {
            r#type: wire::EventType::CancelRequested.into(),
            kind: Some(wire::event::Kind::CancelRequested(wire::CancelRequested {
                reason: "ordered\u{1b} twice".into(),
                skip_compensation: false,
            })),
            ..failed()
        };
        let events = message(FeedItem::Events(vec![cancel]));
        let text = captured(false, |output| print(&events, output)).unwrap();
        assert!(text.contains("  ordered\\u{1b} twice  "), "{text}");
    }

    #[test]
    fn programs_get_a_line_for_each_event_gap_and_cursor() {
        let events = message(FeedItem::Events(vec![failed(), failed()]));
        let text = captured(true, |output| print(&events, output)).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0]["event"]["type"], "command_failed");
        assert_eq!(lines[2], json!({"cursor": "c1"}));

        let gap = message(FeedItem::Gap(wire::Gap {
            count: 12,
            reason: "trimmed".into(),
            ..Default::default()
        }));
        let text = captured(true, |output| print(&gap, output)).unwrap();
        assert!(text.contains(r#""count":12"#), "{text}");
        let text = captured(false, |output| print(&gap, output)).unwrap();
        assert_eq!(text, "-- 12 events are missing here (trimmed)\n");
    }
}
