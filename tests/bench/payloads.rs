//! Payloads of 64 KiB: how much of what the disk can take the log gets, and how much of what a bare program
//! gets there in the same ways.

use anyhow::{Context as _, Result};
use multiagents_client::{Host, Worker, Workflow};
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use crate::bare;
use crate::core::{LOAD_TIME, unmonitored};
use crate::load::{Load, check, object};
use crate::processes::Another;
use crate::report::Report;

/// The argument that makes this program a worker host.
pub(crate) const HOST_WORD: &str = "serve-large-results";
const WORKER: &str = "large_result";
const PAYLOAD_BYTES: usize = 64 << 10;
const STEPS: u8 = 3;
const IN_FLIGHT: usize = 32;

/// Offers a worker whose results are large, until it is killed.
pub(crate) async fn host(address: &str) -> Result<()> {
    let result = RawValue::from_string(String::from_utf8(object(PAYLOAD_BYTES).into())?)?;
    // It is needed until the process ends; shared like this, no answer copies it first.
    let result: &RawValue = Box::leak(result);
    let worker = Worker::new(WORKER, move |_| async move { Ok(result) });
    let host = Host::builder(address).worker(worker, IN_FLIGHT as u32);
    host.run(CancellationToken::new()).await?;
    Ok(())
}

pub(crate) async fn measure(report: &mut Report) -> Result<()> {
    let shape = bare::Shape {
        in_flight: IN_FLIGHT,
        steps: STEPS,
        payload_bytes: PAYLOAD_BYTES,
    };
    let bare = bare::measure(shape).context("bare payloads")?;
    report.add("limit_bare_payloads_mb_per_second", bare, "MB/s");
    let suite = unmonitored().without_host().start().await;
    let workflow = (1..=STEPS).fold(Workflow::new("three_large"), |workflow, step| {
        workflow.step((format!("step_{step}"), WORKER))
    });
    suite.client().register(workflow).await?;
    let _host = Another::start(&[HOST_WORD, suite.orchestrator.address()])?;
    let load = Load {
        address: suite.orchestrator.address().to_owned(),
        workflow: "three_large",
        input: object(PAYLOAD_BYTES),
        keys: false,
    };
    let warm = load.one_at_a_time(20).await?;
    rustix::fs::sync();
    let done = load.calls(IN_FLIGHT, LOAD_TIME).await?;
    // The input and a result of each step.
    let logged = done.per_second() * f64::from(1 + STEPS) * PAYLOAD_BYTES as f64 / 1e6;
    report.add("payload_64k_mb_per_second", logged, "MB/s");
    if let Some(limit) = report.value("limit_synced_write_mb_per_second") {
        report.add("payload_64k_ratio", logged / limit, "");
    }
    report.add("payload_64k_bare_ratio", logged / bare, "");
    check(&suite.client(), &[&warm, &done], STEPS.into()).await
}
