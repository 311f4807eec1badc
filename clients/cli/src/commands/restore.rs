//! `multiagents restore`: an empty data directory is filled from a backup.
//!
//! The orchestrator's own binary does it, since it alone knows the log's files; here is what people
//! see of it.

use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use crate::Context;
use crate::failure::{Failure, exit};
use crate::output::Output;
use crate::progress;
use crate::services::{Which, binary, dying_with_us};
use crate::words;

/// What `restore` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  multiagents restore nightly.backup --data-dir restored && multiagents up --data-dir restored
  multiagents restore --check nightly.backup
  multiagents restore cut-off.backup --accept-loss

The backup is checked as a whole, with its chain of hashes, before anything is written; one that is
damaged or cut off is refused (exit code 2), or restored up to its last whole batch with
--accept-loss. A restore that was interrupted is never started from, and can be repeated. On a machine
of the orchestrator alone: multiagents-orchestrator --data-dir DIR restore FILE.")]
pub(crate) struct Arguments {
    /// The file that `multiagents backup` wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where the services shall keep their data; the orchestrator's is restored into DIR/orchestrator
    #[arg(long, value_name = "DIR", default_value = ".multiagents")]
    data_dir: PathBuf,
    /// Restore what is whole of a damaged backup, and say what is lost
    #[arg(long)]
    accept_loss: bool,
    /// Only read the backup and check it
    #[arg(long, conflicts_with = "accept_loss")]
    check: bool,
}

/// Restores it.
pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<u8, Failure> {
    let data_dir = arguments.data_dir.join(Which::Orchestrator.name());
    let mut command = dying_with_us(&binary(Which::Orchestrator)?);
    command.arg("--data-dir").arg(&data_dir);
    command
        .args(["restore", "--progress"])
        .args(arguments.accept_loss.then_some("--accept-loss"))
        .args(arguments.check.then_some("--check"))
        .arg("--")
        .arg(&arguments.file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn()?;
    let (Some(answers), Some(mut errors)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(Failure::refused("the orchestrator's binary has no output"));
    };
    let bar = progress::byte_bar(0, "Checking");
    let mut outcome = None;
    let mut lines = BufReader::new(answers).lines();
    while let Some(line) = lines.next_line().await? {
        let line: Value = serde_json::from_str(&line).unwrap_or_default();
        if let Some(told) = line.get("outcome") {
            outcome = Some(told.clone());
        }
        bar.set_length(number(&line, "total_bytes"));
        bar.set_position(number(&line, "done_bytes"));
        if line["doing"] == "restoring" {
            bar.set_message("Restoring");
        }
    }
    bar.finish_and_clear();
    let mut said = String::new();
    errors.read_to_string(&mut said).await?;
    let status = child.wait().await?;
    let said = said.trim();
    match (status.code(), outcome) {
        (Some(0), Some(outcome)) => {
            print(&arguments, &data_dir, &outcome, &mut context.output)?;
            Ok(exit::OK)
        }
        (code, _) => {
            let code = code.and_then(|code| u8::try_from(code).ok());
            let name = "multiagents-orchestrator: ";
            Err(Failure::service_ended(
                code.filter(|code| *code > 0).unwrap_or(exit::REFUSED),
                match said.strip_prefix(name).unwrap_or(said) {
                    "" => "the restore was ended from outside; repeat it",
                    said => said,
                },
            ))
        }
    }
}

fn number(line: &Value, key: &str) -> u64 {
    line[key].as_u64().unwrap_or_default()
}

fn print(
    arguments: &Arguments,
    data_dir: &std::path::Path,
    outcome: &Value,
    output: &mut Output,
) -> Result<(), Failure> {
    if output.json {
        return output.json(outcome);
    }
    let (oldest, next) = (
        number(outcome, "oldest_offset"),
        number(outcome, "next_offset"),
    );
    let events = words::counted(next - oldest, "event", "events");
    let file = arguments.file.display();
    if arguments.check {
        return output.line(format!(
            "{file} is whole: {events} (offsets {oldest} to {next}), and the chain of hashes holds."
        ));
    }
    output.line(format!(
        "Restored {events} (offsets {oldest} to {next}) into {}.",
        data_dir.display()
    ))?;
    if let Some(flaw) = outcome["flaw"].as_str() {
        let lost = words::counted(number(outcome, "lost_events"), "event is", "events are");
        output.line(format!("{lost} lost: {flaw}."))?;
    }
    output.line(format!(
        "Start it with: multiagents up --data-dir {}",
        arguments.data_dir.display()
    ))
}
