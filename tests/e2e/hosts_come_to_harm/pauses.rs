//! Processes that stand still and go on: SIGSTOP and SIGCONT.

use proto::event::Kind;
use proto::wire::{Stage, TransactionState};
use rustix::process::Signal;
use serde_json::json;
use tests::harm::{self, TestHost};
use tests::wait::{PATIENCE, until};
use tests::{Suite, http, record};

use super::{bare, short_lease};

#[tokio::test]
async fn a_host_that_stands_still_past_its_lease_loses_its_work_and_its_late_result_is_seen() {
    let suite = short_lease(Suite::builder().without_host()).start().await;
    let client = suite.client();
    harm::register(&client, "recorded", 5).await;
    let place = (suite.directory(), suite.orchestrator.address());
    let stopped = TestHost::new(place.0, place.1, "stopped", 1)
        .start(&suite)
        .await;
    let started = client.start("recorded", &json!({ "millis": 200 })).await;
    let id = started.expect("it starts").transaction_id;
    stopped.wrote("begin").await;
    stopped.process.signal(Signal::STOP);

    let mut other = TestHost::new(place.0, place.1, "other", 1)
        .start(&suite)
        .await;
    let ended = client.wait_for_end(&id, PATIENCE).await.expect("it ends");
    assert_eq!(ended.state(), TransactionState::Completed);
    assert_eq!(harm::stages(&ended), [Stage::Lost, Stage::Completed]);

    // It goes on, and finishes what is no longer its own.
    stopped.process.signal(Signal::CONT);
    let name = "multiagents_orchestrator_results_refused_total{reason=\"LEASE_LAPSED\"}";
    until("the refusal to be counted", PATIENCE, async || {
        let count = harm::metric(&suite, name).await;
        (count >= 1.0).then_some(()).ok_or(format!("{count}"))
    })
    .await;
    let events = suite.events().await;
    record::assert_sound(&events);
    let late = format!("{id}/it/do#1");
    let refused = harm::count(&events, |event| {
        matches!(&event.kind, Kind::ResultRefused { host, reason, command_id }
            if host.as_str() == "stopped" && reason == "LEASE_LAPSED" && *command_id == late)
    });
    assert!(refused >= 1, "the refusal is an event");
    suite.monitor_caught_up().await;
    let page = http::get(suite.monitor.address(), "/metrics")
        .await
        .expect("the monitor's");
    let counted = page.body.lines().any(|line| {
        line.contains("result_refused") && !line.starts_with('#') && !line.ends_with(" 0")
    });
    assert!(counted, "the monitor counts it:\n{}", page.body);

    // And it works as before.
    assert!(other.process.stop().await.success());
    let ended = client
        .execute_and_wait("recorded", &json!({}), PATIENCE)
        .await;
    let ended = ended.expect("it ends");
    assert_eq!(ended.state(), TransactionState::Completed);
    assert_eq!(ended.steps[0].attempts[0].host_id, "stopped");
}

#[tokio::test]
async fn a_host_that_stands_still_for_less_than_its_lease_keeps_its_work() {
    let suite = bare().start().await;
    let client = suite.client();
    harm::register(&client, "recorded", 5).await;
    let place = (suite.directory(), suite.orchestrator.address());
    let paused = TestHost::new(place.0, place.1, "paused", 1)
        .start(&suite)
        .await;
    let started = client.start("recorded", &json!({ "millis": 200 })).await;
    let id = started.expect("it starts").transaction_id;
    paused.wrote("begin").await;
    paused.process.signal(Signal::STOP);
    // Others don't wait for it, and take longer than it had still to go.
    let _other = TestHost::new(place.0, place.1, "other", 1)
        .start(&suite)
        .await;
    for _ in 0..3 {
        let ended = client
            .execute_and_wait("recorded", &json!({ "millis": 100 }), PATIENCE)
            .await;
        let ended = ended.expect("it ends");
        assert_eq!(ended.steps[0].attempts[0].host_id, "other");
    }
    paused.process.signal(Signal::CONT);
    let ended = client.wait_for_end(&id, PATIENCE).await.expect("it ends");
    assert_eq!(harm::stages(&ended), [Stage::Completed]);
    assert_eq!(harm::count(&suite.events().await, harm::is_lost), 0);
}

/// While it stood still nobody could renew a lease: that is held against nobody.
#[tokio::test]
async fn an_orchestrator_that_stands_still_takes_no_lease_away() {
    let suite = short_lease(bare()).start().await;
    let client = suite.client();
    harm::register(&client, "recorded", 5).await;
    let (directory, address) = (suite.directory(), suite.orchestrator.address());
    let host = TestHost::new(directory, address, "h", 2)
        .start(&suite)
        .await;
    let mut ids = Vec::new();
    // The longer one ends more than a lease after the other.
    for millis in [500, 2_500] {
        let started = client.start("recorded", &json!({ "millis": millis })).await;
        ids.push(started.expect("it starts").transaction_id);
    }
    for id in &ids {
        host.wrote(&format!("begin {id}")).await;
    }
    suite.orchestrator.signal(Signal::STOP);
    for id in &ids {
        host.wrote(&format!("end {id}")).await;
    }
    suite.orchestrator.signal(Signal::CONT);
    for id in &ids {
        let ended = client.wait_for_end(id, PATIENCE).await.expect("it ends");
        assert_eq!(harm::stages(&ended), [Stage::Completed]);
    }
    assert_eq!(harm::count(&suite.events().await, harm::is_lost_host), 0);
    assert!(
        host.record().values().all(|times| *times == 1),
        "{:?}",
        host.record()
    );
}
