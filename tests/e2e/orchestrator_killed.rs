//! kill -9 of the orchestrator, at many moments, under load: what was acknowledged goes on to its
//! end, once, and no completed step is recorded twice.

use std::collections::BTreeMap;

use proto::id::TransactionId;
use proto::wire::{Stage, TransactionState};
use serde_json::json;
use tests::chance::Chance;
use tests::load::Load;
use tests::wait::{PATIENCE, until};
use tests::{Suite, record};

/// More than the ten that are promised.
const KILLS: u32 = 12;
const CLIENTS: usize = 16;

#[tokio::test]
async fn every_acknowledged_transaction_is_found_finished_once() {
    let mut chance = Chance::new();
    let mut suite = Suite::start().await;
    let client = suite.client();
    let load = Load::start(&client, CLIENTS, "three_noops");
    for kill in 0..KILLS {
        // Under load: some more starts are acknowledged before each kill, another number each time.
        let goal = load.count() + 1 + chance.below(150) as usize;
        until("more acknowledgements", PATIENCE, async || {
            let count = load.count();
            (count >= goal)
                .then_some(())
                .ok_or(format!("{count} of {goal}"))
        })
        .await;
        suite.orchestrator.kill();
        if kill % 4 == 3 {
            // And once while it is coming up: killed again before it says that it is ready.
            suite.orchestrator.start();
            for _ in 0..chance.below(8) {
                tests::wait::a_moment().await;
            }
            suite.orchestrator.kill();
        }
        suite.orchestrator.start_ready().await;
    }
    let acknowledged = load.stop().await;
    assert!(acknowledged.len() > KILLS as usize);

    let mut keys_of = BTreeMap::new();
    for (key, id) in &acknowledged {
        let other = keys_of.insert(id.clone(), key.clone());
        assert_eq!(other, None, "{id} was given to two keys");
        let ended = client
            .wait_for_end(id, PATIENCE)
            .await
            .expect("it is known");
        assert_eq!(
            ended.state(),
            TransactionState::Completed,
            "{id}: {ended:?}"
        );
    }

    let events = suite.events().await;
    record::assert_sound(&events);
    let stories = record::stories(&events);
    for id in acknowledged.values() {
        let story = &stories[&TransactionId::parse(id).expect("an id")];
        assert_eq!(story.ends.len(), 1, "{id}");
        assert_eq!(story.completions.len(), 3, "{id}: {:?}", story.completions);
    }
    let epochs = events.iter().filter(|stored| {
        matches!(
            stored.event.kind,
            proto::event::Kind::OrchestratorStarted { .. }
        )
    });
    assert!(epochs.count() > KILLS as usize, "each start is an event");

    // The monitor, which was cut off each time, says the same.
    suite.monitor_caught_up().await;
    let mut verification = suite.monitor().verify().await.expect("it verifies");
    while let Some(step) = verification.next().await.expect("it goes on") {
        if let Some(verdict) = step.verdict {
            assert!(verdict.equal, "{}: {}", verdict.view, verdict.difference);
        }
    }
}

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
        for beside in ["state.db-wal", "state.db-shm"] {
            let _may_be_gone = std::fs::remove_file(state.with_file_name(beside));
        }
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
