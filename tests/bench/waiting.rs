//! A million transactions that wait for a worker which no host offers: what each takes in memory.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use multiagents_client::{Start, Workflow};
use proto::wire;
use proto::wire::execute_workflows_response::Answer;
use proto::wire::orchestrator_service_client::OrchestratorServiceClient;
use tests::{Suite, raw, wait};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::core::unmonitored;
use crate::processes;
use crate::report::Report;

const WAITING: usize = 1_000_000;
const INPUT: &[u8] = b"{}";
const AHEAD: usize = 1_000;
/// A process that gives nothing back any more has come to rest: two readings so near each other.
const REST_BYTES: u64 = 1 << 20;

pub(crate) async fn measure(report: &mut Report) -> Result<()> {
    let room = (WAITING + 10_000).to_string();
    let suite = unmonitored()
        .setting("orchestrator", "engine.max_live_transactions", &room)
        .setting("orchestrator", "engine.max_queued_per_worker", &room)
        .start()
        .await;
    let id = suite.orchestrator.id();
    let before = processes::memory_of(id)?;
    start(&suite, WAITING).await?;
    let after = at_rest(id).await;
    let each = (after - before) as f64 / WAITING as f64 - INPUT.len() as f64;
    report.add("bytes_per_waiting_transaction", each, "bytes");
    Ok(())
}

/// Starts so many transactions that nobody works on.
pub(crate) async fn start(suite: &Suite, count: usize) -> Result<()> {
    let workflow = Workflow::new("for_nobody").step(("only", "nobody_offers_it"));
    suite.client().register(workflow).await?;
    let mut caller = OrchestratorServiceClient::new(raw::channel(suite.orchestrator.address()));
    let (say, said) = mpsc::channel(AHEAD);
    let begin = tokio::spawn(async move {
        for number in 0..count as u64 {
            let start = Start::new("for_nobody").input_json(Bytes::from_static(INPUT));
            let request = wire::ExecuteWorkflowsRequest {
                request_id: number,
                start: Some(start.into_wire()),
            };
            say.send(request).await?;
        }
        anyhow::Ok(())
    });
    let answers = caller.execute_workflows(ReceiverStream::new(said)).await?;
    let mut answers = answers.into_inner();
    for _ in 0..count {
        let message = answers.message().await?.context("the stream ended")?;
        let started = matches!(message.answer, Some(Answer::Started(_)));
        ensure!(started, "{:?}", message.answer);
    }
    begin.await?
}

/// The memory of a process once it neither takes more nor gives any back.
async fn at_rest(id: u32) -> u64 {
    let mut last = 0;
    let mut still = 0;
    wait::until("the memory to come to rest", wait::PATIENCE, async || {
        let now = processes::memory_of(id).map_err(|error| error.to_string())?;
        still = match now.abs_diff(last) < REST_BYTES {
            true => still + 1,
            false => 0,
        };
        last = now;
        // For longer than state.db is written behind.
        match still >= 60 {
            true => Ok(now),
            false => Err(format!("{now} bytes")),
        }
    })
    .await
}
