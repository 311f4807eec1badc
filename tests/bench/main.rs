//! `make bench`: how fast the suite is beside the machine's own limits, measured in the same run.
//!
//! It prints a table and writes one JSON object, figure name → `{value, unit}`, to the file that its
//! first argument names; further arguments choose parts. It asserts no speed; what it does assert is
//! that nothing was lost or done twice.

mod limits;
mod caller;
mod load;
mod turns;
mod core;
mod compare;
mod waiting;
mod finished;
mod payloads;
mod bare;
mod processes;
mod report;

use std::path::Path;

use anyhow::{Context as _, Result};

use report::Report;
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What can be chosen; the limits are measured in any case, for the ratios.
const PARTS: [&str; 6] = [
    "core",
    "load",
    "monitored",
    "waiting",
    "payloads",
    "finished",
];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // One thread, as the services' own runtimes have: more would only wake each other.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match words.as_slice() {
        // The other end of the raw calls, and a worker host, in processes of their own as the
        // suite's services are.
        [limits::SERVER_WORD, address] => runtime.block_on(limits::serve(address)),
        [payloads::HOST_WORD, address] => runtime.block_on(payloads::host(address)),
        [bare::PEER_WORD, address, begins, bytes] => bare::peer(address, begins, bytes),
        [compare::WORD, one, two] => {
            let folders = [one, two].map(|folder| Path::new(*folder));
            runtime.block_on(unless_stopped(compare::measure(folders)))
        }
        [file, parts @ ..] if parts.iter().all(|part| PARTS.contains(part)) => {
            runtime.block_on(unless_stopped(measure(Path::new(file), parts)))
        }
        _ => anyhow::bail!(
            "usage: bench FILE [PART…], or bench compare FOLDER FOLDER; FILE gets the figures as JSON, \
             PART is one of {}, FOLDER has a build's binaries",
            PARTS.join(", ")
        ),
    }
}

/// Ends as soon as it is asked to: whoever just died would leave its processes running.
async fn unless_stopped(measuring: impl Future<Output = Result<()>>) -> Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        done = measuring => done,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
        _ = terminated.recv() => anyhow::bail!("terminated"),
    }
}

async fn measure(file: &Path, parts: &[&str]) -> Result<()> {
    let wanted = |part: &str| parts.is_empty() || parts.contains(&"core") || parts.contains(&part);
    let mut report = Report::default();
    // What is still to be written back would slow every sync.
    rustix::fs::sync();
    limits::disk(&mut report).context("the disk's limits")?;
    limits::calls(&mut report)
        .await
        .context("the calls' limits")?;
    if wanted("load") {
        core::load(&mut report).await.context("the load")?;
    }
    if wanted("monitored") {
        core::monitored(&mut report)
            .await
            .context("the load with a monitor")?;
    }
    if wanted("waiting") {
        waiting::measure(&mut report)
            .await
            .context("what waits for a worker")?;
    }
    if wanted("payloads") {
        payloads::measure(&mut report)
            .await
            .context("large payloads")?;
    }
    if wanted("finished") {
        finished::measure(&mut report)
            .await
            .context("ten million that have finished")?;
    }
    report.print();
    report.write(file)
}
