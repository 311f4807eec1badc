//! A worker host for the stories in which hosts come to harm: a process that can be stopped and killed,
//! whose handlers write down what they do, and which can take itself along.
//!
//! `test-host ORCHESTRATOR HOST_ID MACHINE SLOTS RECORD`; an empty HOST_ID draws one.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use multiagents_client::{Context, Failure, Host, Worker};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [orchestrator, host_id, machine, slots, record] = arguments.as_slice() else {
        anyhow::bail!("usage: test-host ORCHESTRATOR HOST_ID MACHINE SLOTS RECORD");
    };
    let slots = slots.parse().context("SLOTS")?;
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let asked = shutdown.clone();
    tokio::spawn(async move {
        terminate.recv().await;
        asked.cancel();
    });
    let mut host = Host::builder(orchestrator)
        .machine(machine)
        .worker(recorded(record), slots)
        .worker(recorder(record), slots)
        .worker(bulky(), slots)
        .worker(deadly(), 1);
    if !host_id.is_empty() {
        host = host.host_id(host_id);
    }
    host.run(shutdown).await?;
    Ok(())
}

/// Writes down that it begins and ends, with the step's key, and takes as long as `millis` says.
fn recorded(record: &str) -> Worker {
    let record = record.to_owned();
    Worker::new("recorded", move |context: Context| {
        let record = record.clone();
        async move {
            let key = context.idempotency_key().to_owned();
            note(&record, &format!("begin {key}"))?;
            let millis = context.get("millis")?.unwrap_or(0_u64);
            tokio::time::sleep(Duration::from_millis(millis)).await;
            note(&record, &format!("end {key}"))?;
            Ok(json!({ "by": std::process::id() }))
        }
    })
}

/// Writes down which attempt it is, before it does it: a moment's work, so that some is always at hand.
fn recorder(record: &str) -> Worker {
    let record = record.to_owned();
    Worker::new("recorder", move |context: Context| {
        let record = record.clone();
        async move {
            note(&record, context.command_id())?;
            tokio::time::sleep(Duration::from_millis(5)).await;
            Ok(json!({ "by": context.step() }))
        }
    })
}

/// Gives a large result.
fn bulky() -> Worker {
    Worker::new("bulky", |_: Context| async {
        Ok(json!({ "bulk": "x".repeat(64 << 10) }))
    })
}

/// Takes the process along.
fn deadly() -> Worker {
    Worker::new("deadly", |_: Context| async {
        std::process::abort();
        #[expect(unreachable_code, reason = "it says what the worker would give")]
        Ok(json!({}))
    })
}

/// One line, whole even if the process is killed within it.
fn note(record: &str, line: &str) -> Result<(), Failure> {
    let open = OpenOptions::new()
        .create(true)
        .append(true)
        .open(Path::new(record));
    let written = open.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    written.map_err(|error| Failure::new("NoRecord", error.to_string()))
}
