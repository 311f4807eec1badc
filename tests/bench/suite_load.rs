//! A workflow of three steps that do nothing, one at a time and two hundred in flight, on a whole
//! suite of real processes.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use multiagents_client::Start;
use proto::wire::TransactionState;
use proto::wire::orchestrator_service_client::OrchestratorServiceClient;
use tests::{Suite, raw, record};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::processor_time;
use crate::report::Report;

const INPUT_BYTES: usize = 100;
const WARM_UP: usize = 300;
const ONE_AT_A_TIME: usize = 3_000;
const IN_FLIGHT: usize = 200;
/// Calls share connections, as a busy service's do.
const CONNECTIONS: usize = 4;
const LOAD_WARM_UP: Duration = Duration::from_secs(2);
const LOAD_TIME: Duration = Duration::from_secs(10);
const WAIT: Duration = Duration::from_secs(60);

type Client = OrchestratorServiceClient<Channel>;

/// Measures both, and then checks in the log that every transaction is there, each step once.
pub(crate) async fn measure(report: &mut Report) -> Result<()> {
    let suite = Suite::start().await;
    let address = suite.orchestrator.address();
    let mut client = OrchestratorServiceClient::new(raw::channel(address));
    let mut done = BTreeSet::new();
    for _ in 0..WARM_UP {
        done.insert(run(&mut client).await?);
    }
    rustix::fs::sync();
    let mut micros = Vec::with_capacity(ONE_AT_A_TIME);
    for _ in 0..ONE_AT_A_TIME {
        let began = Instant::now();
        done.insert(run(&mut client).await?);
        micros.push(began.elapsed().as_micros() as u64);
    }
    for (name, percent) in [("latency_ms_p50_1", 50), ("latency_ms_p99_1", 99)] {
        let millis = tests::count::percentile(&micros, percent) as f64 / 1e3;
        report.add(name, millis, "ms");
    }

    let ids = [
        suite.orchestrator.id(),
        suite.host.id(),
        suite.monitor.id(),
        std::process::id(),
    ];
    in_flight(address, LOAD_WARM_UP, &mut done).await?;
    rustix::fs::sync();
    let before = processor_time::of(&ids)?;
    let began = Instant::now();
    let count = in_flight(address, LOAD_TIME, &mut done).await?;
    let elapsed = began.elapsed().as_secs_f64();
    let used = processor_time::of(&ids)?.saturating_sub(before);
    report.add("workflows_per_second_200", count as f64 / elapsed, "1/s");
    let each = used.as_secs_f64() * 1e3 / count as f64;
    report.add("cpu_ms_per_workflow_200", each, "ms");
    check(&suite, &done).await
}

/// Starts one and waits for its end.
async fn run(client: &mut Client) -> Result<String> {
    let frame = br#"{"data":""}"#.len();
    let text = format!(r#"{{"data":"{}"}}"#, "x".repeat(INPUT_BYTES - frame));
    let start = Start::new("three_noops")
        .input_json(Bytes::from(text))
        .wait(WAIT);
    let answer = client
        .execute_workflow(start.into_wire())
        .await?
        .into_inner();
    let state = answer.transaction.context("no transaction")?.state();
    ensure!(
        state == TransactionState::Completed,
        "{} is {state:?}",
        answer.transaction_id
    );
    Ok(answer.transaction_id)
}

/// Two hundred callers at once for so long; each starts its next when its last has ended.
async fn in_flight(address: &str, time: Duration, done: &mut BTreeSet<String>) -> Result<usize> {
    let channels: Vec<_> = (0..CONNECTIONS).map(|_| raw::channel(address)).collect();
    let until = Instant::now() + time;
    let mut callers = JoinSet::new();
    for caller in 0..IN_FLIGHT {
        let mut client = OrchestratorServiceClient::new(channels[caller % CONNECTIONS].clone());
        callers.spawn(async move {
            let mut ids = Vec::new();
            while Instant::now() < until {
                ids.push(run(&mut client).await?);
            }
            anyhow::Ok(ids)
        });
    }
    let mut count = 0;
    while let Some(ids) = callers.join_next().await {
        let ids = ids??;
        count += ids.len();
        done.extend(ids);
    }
    Ok(count)
}

/// The log holds every transaction, ended, with all its steps, each once.
async fn check(suite: &Suite, done: &BTreeSet<String>) -> Result<()> {
    let events = suite.events().await;
    record::assert_sound(&events);
    let stories = record::stories(&events);
    let mut found = 0;
    for (id, story) in &stories {
        if !done.contains(&id.to_string()) {
            continue;
        }
        found += 1;
        ensure!(
            story.ends.len() == 1,
            "{id} ended {} times",
            story.ends.len()
        );
        ensure!(
            story.completions.len() == 3,
            "{id}: {:?}",
            story.completions
        );
    }
    ensure!(
        found == done.len(),
        "{found} of {} are in the log",
        done.len()
    );
    eprintln!("{found} transactions are in the log, each step of each once");
    Ok(())
}
