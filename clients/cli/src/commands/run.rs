//! `multiagents run`: starts a transaction, and waits for its end if told to.

use std::io::Read as _;
use std::time::{Duration, Instant};

use multiagents_client::{Error, Start, Started};
use proto::wire;
use serde_json::json;

use crate::Context;
use crate::commands::status;
use crate::contracts;
use crate::failure::{Failure, exit};
use crate::progress;
use crate::words;

/// More than any service takes, so that a wrong path doesn't fill the memory.
const INPUT_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Longer than anybody waits, and short enough to be added to any clock.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// What `run` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  multiagents run simple_monitoring --input '{\"data\":\"x\"}'
  multiagents run simple_monitoring --input @order.json --wait 2m
  multiagents run orders --input '{}' --key order-4711 --label team=shop

With --wait the exit code is 0 only if the transaction completed, and 1 if it ended in any other
way or not in time; it is 2 when the input is no JSON object. With --key the same call again gives
the same transaction.")]
pub(crate) struct Arguments {
    /// The workflow's name
    pub(crate) workflow: String,
    /// What the first steps receive: a JSON object, @FILE, or - for standard input
    #[arg(long, value_name = "JSON", default_value = "{}")]
    pub(crate) input: String,
    /// Wait for the end, at most so long if a duration is given
    #[arg(long, value_name = "DURATION", num_args = 0..=1, value_parser = words::parse_duration)]
    pub(crate) wait: Option<Option<Duration>>,
    /// An idempotency key: the same key gives the same transaction
    #[arg(
        long,
        value_name = "KEY",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) key: String,
    /// Tag the transaction; can be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = super::parse_label)]
    pub(crate) label: Vec<(String, String)>,
    /// Which version of the workflow; the newest if not given
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) version: u32,
}

/// Starts it.
pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<u8, Failure> {
    let began = Instant::now();
    let client = context.suite.orchestrator().await?;
    let start = Start::new(arguments.workflow)
        .version(arguments.version)
        .input_json(read_input(&arguments.input)?)
        .key(arguments.key)
        .labels(arguments.label.into_iter().collect());
    let started = client.begin(start).await.map_err(refused)?;
    let Some(wait) = arguments.wait else {
        return print_start(started, context);
    };
    let id = words::shown(&started.transaction_id, 64);
    let spinner = progress::spinner(&format!("{id} runs"));
    let patience = wait.map_or(FOR_EVER, |wait| wait.saturating_sub(began.elapsed()));
    let ended = client.wait_for_end(&started.transaction_id, patience).await;
    spinner.finish_and_clear();
    print_end(&ended?, started.existing, context)
}

/// An input that is no payload is wrong usage to a script; all else stays a refusal.
fn refused(error: Error) -> Failure {
    let in_input = error.reason().starts_with("PAYLOAD_");
    let failure = Failure::from(error);
    if !in_input {
        return failure;
    }
    Failure {
        exit: exit::USAGE,
        message: format!("--input: {}", failure.message),
        ..failure
    }
}

fn print_start(started: Started, context: &mut Context) -> Result<u8, Failure> {
    if context.output.json {
        let answer = wire::ExecuteWorkflowResponse {
            transaction_id: started.transaction_id,
            transaction: Some(started.transaction),
            existing: started.existing,
        };
        let json = contracts::to_json("ExecuteWorkflowResponse", &answer);
        context.output.json(&json)?;
        return Ok(exit::OK);
    }
    let id = words::shown(&started.transaction_id, 64);
    context.output.line(&id)?;
    if context.output.terminal {
        let verb = if started.existing {
            "was there already"
        } else {
            "started"
        };
        context.output.note(format!(
            "The transaction {verb}; `multiagents status {id}` shows how it stands."
        ));
    }
    Ok(exit::OK)
}

fn print_end(
    transaction: &wire::Transaction,
    existing: bool,
    context: &mut Context,
) -> Result<u8, Failure> {
    if context.output.json {
        let json = json!({
            "transaction_id": transaction.transaction_id,
            "transaction": contracts::to_json("Transaction", transaction),
            "existing": existing,
        });
        context.output.json(&json)?;
    } else {
        status::print(transaction, &mut context.output)?;
    }
    let completed = i32::from(wire::TransactionState::Completed);
    if transaction.state == completed {
        return Ok(exit::OK);
    }
    if !words::has_ended(transaction.state) {
        context.output.note(format!(
            "The transaction is still {} and goes on; `multiagents status {}` shows how it stands.",
            words::transaction_state(transaction.state),
            words::shown(&transaction.transaction_id, 64),
        ));
    }
    Ok(exit::REFUSED)
}

/// The input as bytes, from where the word says. The orchestrator alone judges what is in it.
fn read_input(word: &str) -> Result<Vec<u8>, Failure> {
    let unreadable = |what: &str, error: std::io::Error| {
        Failure::usage(format!("--input: can't read {what}: {error}"))
    };
    let mut bytes = Vec::new();
    if word == "-" {
        std::io::stdin()
            .take(INPUT_BYTES_MAX)
            .read_to_end(&mut bytes)
            .map_err(|error| unreadable("standard input", error))?;
        return Ok(bytes);
    }
    let Some(path) = word.strip_prefix('@') else {
        return Ok(word.as_bytes().to_vec());
    };
    let named = format!("\"{}\"", words::shown(path, 200));
    std::fs::File::open(path)
        .and_then(|file| file.take(INPUT_BYTES_MAX).read_to_end(&mut bytes))
        .map_err(|error| unreadable(&named, error))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn an_input_is_passed_on_as_it_was_typed_even_when_it_is_no_json() {
        assert_eq!(read_input("{\"a\": 1}").unwrap(), b"{\"a\": 1}");
        assert_eq!(read_input("nul").unwrap(), b"nul");
    }

    #[test]
    fn an_input_file_that_is_not_there_is_a_usage_error_that_names_it() {
        let refused = read_input("@/nowhere/x.json").unwrap_err();
        assert_eq!(refused.exit, exit::USAGE);
        assert!(refused.message.contains("/nowhere/x.json"), "{refused}");
    }
}
