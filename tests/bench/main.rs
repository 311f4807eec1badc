//! `make bench`: how fast the suite is beside the machine's own limits, measured in the same run.
//!
//! It prints a table and writes one JSON object, figure name → `{value, unit}`, to the file that its
//! argument names. It asserts no speed; what it does assert is that nothing was lost or done twice.

mod limits;
mod suite_load;
mod processor_time;
mod report;

use std::path::Path;

use anyhow::{Context as _, Result};

use report::Report;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new()?;
    match arguments.as_slice() {
        // The other end of the raw calls, in a process of its own as the suite's services are.
        [word, address] if word == limits::SERVER_WORD => runtime.block_on(limits::serve(address)),
        [file] => runtime.block_on(measure(Path::new(file))),
        _ => anyhow::bail!("usage: bench FILE; FILE gets the figures as JSON"),
    }
}

async fn measure(file: &Path) -> Result<()> {
    let mut report = Report::default();
    // What is still to be written back would slow every sync.
    rustix::fs::sync();
    limits::disk(&mut report).context("the disk's limits")?;
    limits::calls(&mut report)
        .await
        .context("the calls' limits")?;
    suite_load::measure(&mut report)
        .await
        .context("the suite")?;
    report.print();
    report.write(file)
}
