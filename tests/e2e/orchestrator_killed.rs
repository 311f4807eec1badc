//! The orchestrator is killed: work that runs goes on, and what stands beside the log can be lost. How
//! it fares when it is killed again and again under load is told in `chaos/kills.rs`.

use proto::wire::{Stage, TransactionState};
use serde_json::json;
use tests::Suite;
use tests::wait::{PATIENCE, until};

/// Work that runs while the orchestrator is away is neither lost nor done twice.
#[tokio::test]
async fn a_host_keeps_its_work_through_a_restart() {
    let mut suite = Suite::builder().without_monitor().start().await;
    let client = suite.client();
    let started = client.start("one_slow", &json!({ "data": "x" })).await;
    let id = started.expect("it starts").transaction_id;
    until("the step to be at work", PATIENCE, async || {
        let status = client
            .status(&id)
            .await
            .map_err(|error| error.to_string())?;
        match status.steps[0]
            .attempts
            .last()
            .map(|attempt| attempt.stage())
        {
            Some(Stage::Processing) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    suite.orchestrator.kill();
    suite.orchestrator.start_ready().await;
    let ended = client.wait_for_end(&id, PATIENCE).await.expect("it ends");
    assert_eq!(ended.state(), TransactionState::Completed);
    assert_eq!(
        ended.steps[0].attempts.len(),
        1,
        "it wasn't dispatched again"
    );
}

/// `state.db` is a fold: without it, or with a spoilt one, everything is still there.
#[tokio::test]
async fn what_stands_beside_the_log_can_be_lost() {
    let mut suite = Suite::builder().without_monitor().start().await;
    let client = suite.client();
    let mut ids = Vec::new();
    for number in 0..20 {
        let input = json!({ "number": number });
        let ended = client
            .execute_and_wait("three_noops", &input, PATIENCE)
            .await;
        ids.push(ended.expect("it starts").transaction_id);
    }
    let data = suite.directory().join("orchestrator");
    let state = tests::process::find(&data, "state.db").expect("state.db");
    for spoil in ["lost", "corrupt"] {
        assert!(suite.orchestrator.stop().await.success());
        let _may_be_gone = std::fs::remove_file(state.with_file_name("state.db-wal"));
        match spoil {
            "lost" => std::fs::remove_file(&state).expect("it is there"),
            _ => std::fs::write(&state, b"no database at all").expect("it can be written"),
        }
        suite.orchestrator.start_ready().await;
        for id in &ids {
            let status = client
                .status(id)
                .await
                .unwrap_or_else(|error| panic!("{spoil}: {error}"));
            assert_eq!(status.state(), TransactionState::Completed, "{spoil}");
            assert_eq!(status.steps.len(), 3, "{spoil}");
        }
    }
}
