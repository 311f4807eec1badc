//! `multiagents status`: a transaction with its steps, attempts, results and failures.

use proto::wire;

use crate::Context;
use crate::contracts;
use crate::failure::{Failure, exit};
use crate::output::{Output, Tone, tone_of};
use crate::table::{self, Table};
use crate::words;

/// The longest payload that is shown to people; --json gives all of it.
const PAYLOAD_CHARACTERS_MAX: usize = 300;

/// What `status` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  multiagents status 0198c5a2-6c1e-7c43-a4a3-0f2f6f0e7c11
  multiagents status ID --json | jq '.transaction.steps[] | {name, state, result}'")]
pub(crate) struct Arguments {
    /// The transaction's id
    #[arg(value_name = "ID")]
    pub(crate) transaction_id: String,
}

/// Shows it.
pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<u8, Failure> {
    let transaction = context
        .suite
        .orchestrator()
        .await?
        .status(&arguments.transaction_id)
        .await?;
    if context.output.json {
        let answer = wire::GetStatusResponse {
            transaction: Some(transaction),
        };
        let json = contracts::to_json("GetStatusResponse", &answer);
        context.output.json(&json)?;
    } else {
        print(&transaction, &mut context.output)?;
    }
    Ok(exit::OK)
}

/// Prints a transaction for people.
pub(crate) fn print(transaction: &wire::Transaction, output: &mut Output) -> Result<(), Failure> {
    for (name, value) in facts(transaction, output) {
        output.line(format!("{name:<12} {value}"))?;
    }
    if transaction.steps.is_empty() {
        return Ok(());
    }
    output.blank()?;
    output.table(steps(transaction))
}

fn facts(transaction: &wire::Transaction, output: &Output) -> Vec<(&'static str, String)> {
    let state = words::transaction_state(transaction.state);
    let mut facts = vec![
        ("Transaction", words::shown(&transaction.transaction_id, 64)),
        (
            "Workflow",
            format!(
                "{} (version {})",
                words::shown(&transaction.workflow, 128),
                transaction.version
            ),
        ),
        ("State", output.painted(&state, tone_of(&state))),
        (
            "Started",
            output.zone.date_time(transaction.start_time.as_ref()),
        ),
    ];
    if let (Some(start), Some(end)) = (&transaction.start_time, &transaction.end_time) {
        let took = words::span(words::between(start, end));
        facts.push((
            "Ended",
            format!("{} (took {took})", output.zone.date_time(Some(end))),
        ));
    }
    if transaction.cancel_requested {
        facts.push(("Cancel", "was asked for".to_owned()));
    }
    if let Some(failure) = &transaction.failure {
        let step = if transaction.failed_step.is_empty() {
            String::new()
        } else {
            format!(" (step {})", words::shown(&transaction.failed_step, 128))
        };
        facts.push(("Failure", format!("{}{step}", failure_text(failure))));
    }
    if transaction.compensation_failed {
        let text = "the compensation failed; completed steps may not be undone";
        facts.push(("Attention", output.painted(text, Tone::Bad)));
    }
    if !transaction.failed_steps.is_empty() {
        let names = transaction.failed_steps.join(", ");
        facts.push(("Went on", format!("without {}", words::shown(&names, 300))));
    }
    if !transaction.labels.is_empty() {
        facts.push(("Labels", labels(transaction)));
    }
    if !transaction.idempotency_key.is_empty() {
        facts.push(("Key", words::shown(&transaction.idempotency_key, 200)));
    }
    if let Some(input) = &transaction.input {
        facts.push(("Input", payload_text(input)));
    }
    facts
}

/// The labels as they are typed.
pub(crate) fn labels(transaction: &wire::Transaction) -> String {
    let labels: Vec<String> = transaction
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    words::shown(&labels.join(" "), 300)
}

fn steps(transaction: &wire::Transaction) -> Table {
    let mut table = Table::new(&[
        "STEP", "WORKER", "STATE", "ATTEMPTS", "WAIT", "RUN", "RESULT",
    ]);
    for step in &transaction.steps {
        let state = words::step_state(step.state);
        let last = step.attempts.last();
        let result = match (&step.result, &step.failure) {
            (Some(result), _) => payload_text(result),
            (None, Some(failure)) => failure_text(failure),
            (None, None) => String::new(),
        };
        table.row([
            table::text(&step.name),
            table::text(&step.worker),
            table::word(&state, tone_of(&state)),
            table::figure(step.attempts.len()),
            table::figure(words::duration(last.and_then(|last| last.wait.as_ref()))),
            table::figure(words::duration(last.and_then(|last| last.run.as_ref()))),
            table::text(result),
        ]);
    }
    table
}

/// A failure as "Kind: message".
pub(crate) fn failure_text(failure: &wire::Failure) -> String {
    let kind = words::shown(&failure.kind, 128);
    if failure.message.is_empty() {
        return kind;
    }
    format!("{kind}: {}", words::shown(&failure.message, 300))
}

/// A payload on one line.
fn payload_text(payload: &wire::Payload) -> String {
    let json = contracts::payload_value(payload).to_string();
    words::shown(&json, PAYLOAD_CHARACTERS_MAX)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::output::captured;
    use std::time::Duration;

    fn payload(json: &'static str) -> Option<wire::Payload> {
        Some(wire::Payload {
            form: Some(wire::payload::Form::Json(json.into())),
        })
    }

    #[test]
    fn a_transaction_is_told_with_its_steps_results_and_failure() {
        let time = |seconds: i64| {
            Some(prost_types::Timestamp {
                seconds: 1_700_000_000 + seconds,
                nanos: 0,
            })
        };
        let failure = wire::Failure {
            kind: "NetworkError".into(),
            message: "Connection \u{1b}[2Jtimeout".into(),
            ..Default::default()
        };
        let transaction = wire::Transaction {
            transaction_id: "0198".into(),
            workflow: "simple_monitoring".into(),
            version: 2,
            state: wire::TransactionState::Failed.into(),
            input: payload(r#"{"data":"x"}"#),
            start_time: time(0),
            end_time: time(2),
            failure: Some(failure.clone()),
            failed_step: "flaky_step".into(),
            labels: [("team".to_owned(), "a".to_owned())].into(),
            steps: vec![
                wire::StepStatus {
                    name: "fast_step".into(),
                    worker: "fast_processor".into(),
                    state: wire::StepState::Completed.into(),
                    result: payload(r#"{"processed":"X"}"#),
                    attempts: vec![wire::CommandStatus {
                        wait: Some(words::to_wire(Duration::from_micros(900))),
                        run: Some(words::to_wire(Duration::from_millis(32))),
                        ..Default::default()
                    }],
                    ..Default::default()
                },
                wire::StepStatus {
                    name: "flaky_step".into(),
                    worker: "flaky_processor".into(),
                    state: wire::StepState::Failed.into(),
                    failure: Some(failure),
                    ..Default::default()
                },
            ],
            ..Default::default()
        };
        let text = captured(false, |output| print(&transaction, output)).unwrap();
        assert_eq!(
            text,
            "\
Transaction  0198
Workflow     simple_monitoring (version 2)
State        failed
Started      2023-11-14 22:13:20.000Z
Ended        2023-11-14 22:13:22.000Z (took 2.00 s)
Failure      NetworkError: Connection \\u{1b}[2Jtimeout (step flaky_step)
Labels       team=a
Input        {\"data\":\"x\"}

STEP        WORKER           STATE      ATTEMPTS    WAIT      RUN  RESULT
fast_step   fast_processor   completed         1  900 µs  32.0 ms  {\"processed\":\"X\"}
flaky_step  flaky_processor  failed            0       -        -  NetworkError: Connection \\u{1b}[2Jtimeout
"
        );
    }
}
