//! Rolling restarts under load, of hosts and of the orchestrator: nothing is lost, nothing done twice.

use serde_json::json;
use tests::harm::{self, TestHost};
use tests::wait::{PATIENCE, until};
use tests::{Suite, record};

use super::bare;

/// Transactions that are started one after another for as long as the story goes.
async fn more_are_done(suite: &Suite, ids: &mut Vec<String>, count: usize) {
    let client = suite.client();
    let first = ids.len();
    for _ in 0..count {
        let started = client.start("recorded", &json!({ "millis": 20 })).await;
        ids.push(started.expect("it starts").transaction_id);
    }
    // Half of them only: the others are at work while the next restart comes.
    for id in &ids[first..first + count / 2] {
        client.wait_for_end(id, PATIENCE).await.expect("it ends");
    }
}

/// Every step was done exactly once, by what the workers wrote down and by what the log says.
async fn each_is_done_once(suite: &Suite, ids: &[String], host: &TestHost) {
    for id in ids {
        suite
            .client()
            .wait_for_end(id, PATIENCE)
            .await
            .expect("it ends");
    }
    let events = suite.events().await;
    record::assert_sound(&events);
    let stories = record::stories(&events);
    assert_eq!(stories.len(), ids.len());
    assert!(
        stories
            .values()
            .all(|story| story.completions.len() == 1 && story.ends.len() == 1)
    );
    let record = host.record();
    assert_eq!(record.len(), 2 * ids.len(), "a beginning and an end each");
    assert!(record.values().all(|times| *times == 1), "{record:?}");
}

#[tokio::test]
async fn hosts_are_replaced_one_by_one_under_load() {
    let suite = bare().start().await;
    harm::register(&suite.client(), "recorded", 5).await;
    let (directory, address) = (suite.directory(), suite.orchestrator.address());
    let mut hosts = Vec::new();
    for machine in ["m1", "m2", "m3"] {
        let host = TestHost::on_machine(directory, address, "", machine, 4);
        hosts.push(host.start(&suite).await);
    }
    let mut ids = Vec::new();
    for round in 0..6 {
        more_are_done(&suite, &mut ids, 30).await;
        let host = &mut hosts[round % 3];
        let status = host.process.stop().await;
        assert!(status.success(), "{status}");
        host.start_again(&suite).await;
    }
    each_is_done_once(&suite, &ids, &hosts[0]).await;
    assert_eq!(
        harm::count(&suite.events().await, harm::is_lost),
        0,
        "each left in order"
    );
}

#[tokio::test]
async fn the_orchestrator_is_replaced_again_and_again_under_load() {
    let mut suite = bare().start().await;
    harm::register(&suite.client(), "recorded", 5).await;
    let mut hosts = Vec::new();
    for name in ["h1", "h2"] {
        let host = TestHost::new(suite.directory(), suite.orchestrator.address(), name, 4);
        hosts.push(host.start(&suite).await);
    }
    let mut ids = Vec::new();
    for round in 0..4 {
        more_are_done(&suite, &mut ids, 40).await;
        match round % 2 {
            0 => assert!(suite.orchestrator.stop().await.success()),
            _ => suite.orchestrator.kill(),
        }
        suite.orchestrator.start_ready().await;
        until("the hosts to come back", PATIENCE, async || {
            let count = harm::metric(&suite, "multiagents_orchestrator_hosts_connected").await;
            (count == 2.0).then_some(()).ok_or(format!("{count}"))
        })
        .await;
    }
    each_is_done_once(&suite, &ids, &hosts[0]).await;
    assert_eq!(
        harm::count(&suite.events().await, harm::is_lost_host),
        0,
        "each kept its lease"
    );
}
