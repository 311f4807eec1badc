//! A wall clock that steps, either way, by an hour and by years: no timer comes early, none is stuck.

use std::time::{Duration, Instant};

use multiagents_client::{Retry, Step, Workflow};
use proto::wire::TransactionState;
use serde_json::json;
use tests::faults::have;
use tests::rounds::{progress, rounds};
use tests::wait::PATIENCE;
use tests::workers::{OwnHost, broken, stuck};
use tests::{Suite, record};

const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
/// How long the step that never ends may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long the step that always fails waits before its second attempt.
const DELAY: Duration = Duration::from_secs(2);
const STEPS: [&str; 6] = ["+1h", "-1h", "+3650d", "-3650d", "+90s", "+0"];

#[tokio::test]
async fn a_clock_that_steps_fires_and_delays_nothing() {
    if !have("libfaketime", LIBRARY) {
        return;
    }
    let time = tempfile::NamedTempFile::new().expect("a file");
    let set = |offset: &str| std::fs::write(time.path(), format!("{offset}\n")).expect("room");
    set("+0");
    let mut suite = Suite::builder()
        .without_host()
        .without_monitor()
        .variable("LD_PRELOAD", LIBRARY)
        .variable(
            "FAKETIME_TIMESTAMP_FILE",
            &time.path().display().to_string(),
        )
        .variable("FAKETIME_NO_CACHE", "1")
        .variable("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .start()
        .await;
    let client = suite.client();
    let patient = Retry::attempts(2)
        .initial_delay(DELAY)
        .max_delay(DELAY)
        .jitter(0.0);
    let waits = Workflow::new("waits").step(Step::new("wait", "stuck").timeout(TIMEOUT));
    let retries = Workflow::new("retries").step(Step::new("fail", "broken").retry(patient));
    for workflow in [waits, retries] {
        client.register(workflow).await.expect("a workflow");
    }
    let address = suite.orchestrator.address().to_owned();
    let _host = OwnHost::start(&address, [(stuck(), 64), (broken(), 64)]);
    let rounds = rounds(6, 60);
    for round in 0..rounds {
        progress("steps of the clock", round, rounds);
        let began = Instant::now();
        let mut started = Vec::new();
        for workflow in ["waits", "retries"] {
            let start = client.start(workflow, &json!({})).await;
            started.push(start.expect("it starts").transaction_id);
        }
        set(STEPS[round as usize % STEPS.len()]);
        if round % 3 == 2 {
            // The time that a start begins with is never before the newest event's.
            suite.orchestrator.kill();
            suite.orchestrator.start_ready().await;
        }
        for id in started {
            let ended = client.wait_for_end(&id, PATIENCE).await.expect("it ends");
            assert_eq!(ended.state(), TransactionState::Failed, "{ended:?}");
            let took = began.elapsed();
            // The engine's time is slewed towards the wall clock, by half a percent at most.
            let least = TIMEOUT.min(DELAY).mul_f64(0.99);
            assert!(took >= least, "after {took:?} it was too early");
        }
    }
    let stepped = suite.events().await;
    record::assert_sound(&stepped);
    assert!(suite.orchestrator.stop().await.success());
}
