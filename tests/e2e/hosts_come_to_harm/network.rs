//! The network between a host and the orchestrator fails.

use std::time::Duration;

use proto::wire::{Stage, TransactionState};
use serde_json::json;
use tests::chance::Chance;
use tests::harm::{self, TestHost};
use tests::proxy::Proxy;
use tests::record;
use tests::wait::{PATIENCE, until};

use super::{bare, short_lease};

/// Connections of session and heartbeats are reset at random moments under work: what the host had it
/// keeps, and what it had done it delivers.
#[tokio::test]
async fn connections_that_are_reset_again_and_again_lose_and_repeat_nothing() {
    const TRANSACTIONS: usize = 120;
    let mut chance = Chance::new();
    let suite = bare().start().await;
    let client = suite.client();
    harm::register(&client, "recorded", 100).await;
    let proxy = Proxy::start(suite.orchestrator.address(), Duration::from_millis(1)).await;
    let host = TestHost::new(suite.directory(), proxy.address(), "h", 8)
        .start(&suite)
        .await;
    let mut ids = Vec::new();
    for _ in 0..TRANSACTIONS {
        let started = client.start("recorded", &json!({ "millis": 30 })).await;
        ids.push(started.expect("it starts").transaction_id);
    }
    let mut resets = 0;
    let mut done = 0;
    while done < TRANSACTIONS {
        // Some more are done before each reset, another number each time.
        let goal = TRANSACTIONS.min(done + 1 + chance.below(12) as usize);
        done = until("some to be done", PATIENCE, async || {
            let done = ends(&host).count();
            (done >= goal)
                .then_some(done)
                .ok_or(format!("{done} of {goal}"))
        })
        .await;
        proxy.reset();
        resets += 1;
    }
    assert!(resets > 2, "{resets} resets");
    for id in &ids {
        let ended = client.wait_for_end(id, PATIENCE).await.expect("it ends");
        assert_eq!(ended.state(), TransactionState::Completed);
    }
    let events = suite.events().await;
    record::assert_sound(&events);
    assert_eq!(harm::count(&events, harm::is_quarantine), 0);
    assert_eq!(ends(&host).count(), TRANSACTIONS);
    assert!(ends(&host).all(|times| times == 1), "{:?}", host.record());
}

/// How often each command came to its handler's end.
fn ends(host: &TestHost) -> impl Iterator<Item = u32> {
    let record = host.record().into_iter();
    record
        .filter(|(line, _)| line.starts_with("end"))
        .map(|(_, times)| times)
}

#[tokio::test]
async fn a_host_that_is_cut_off_for_less_than_its_lease_delivers_what_it_did_meanwhile() {
    let suite = bare().start().await;
    let client = suite.client();
    harm::register(&client, "recorded", 5).await;
    let proxy = Proxy::start(suite.orchestrator.address(), Duration::ZERO).await;
    let host = TestHost::new(suite.directory(), proxy.address(), "h", 1)
        .start(&suite)
        .await;
    let started = client.start("recorded", &json!({ "millis": 100 })).await;
    let id = started.expect("it starts").transaction_id;
    host.wrote("begin").await;
    proxy.freeze();
    host.wrote("end").await;
    proxy.thaw();
    let ended = client.wait_for_end(&id, PATIENCE).await.expect("it ends");
    assert_eq!(harm::stages(&ended), [Stage::Completed]);
}

#[tokio::test]
async fn a_host_that_is_cut_off_past_its_lease_changes_nothing_with_what_it_did_meanwhile() {
    let suite = short_lease(bare()).start().await;
    let client = suite.client();
    harm::register(&client, "recorded", 5).await;
    let proxy = Proxy::start(suite.orchestrator.address(), Duration::ZERO).await;
    let cut_off = TestHost::new(suite.directory(), proxy.address(), "far", 1)
        .start(&suite)
        .await;
    let started = client.start("recorded", &json!({ "millis": 100 })).await;
    let id = started.expect("it starts").transaction_id;
    cut_off.wrote("begin").await;
    proxy.freeze();
    let (directory, address) = (suite.directory(), suite.orchestrator.address());
    let mut near = TestHost::new(directory, address, "near", 1)
        .start(&suite)
        .await;
    let ended = client.wait_for_end(&id, PATIENCE).await.expect("it ends");
    assert_eq!(harm::stages(&ended), [Stage::Lost, Stage::Completed]);
    assert_eq!(ended.steps[0].attempts[1].host_id, "near");
    proxy.thaw();
    // It is back: it gets the next.
    assert!(near.process.stop().await.success());
    let ended = client
        .execute_and_wait("recorded", &json!({}), PATIENCE)
        .await;
    let ended = ended.expect("it ends");
    assert_eq!(ended.steps[0].attempts[0].host_id, "far");
    let events = suite.events().await;
    record::assert_sound(&events);
    assert_eq!(harm::count(&events, harm::is_lost), 1);
}

/// Neither end hears of the connection's end. The orchestrator's probes find out, and the host learns it
/// by its heartbeats, long before the lease is over.
#[tokio::test]
async fn a_half_open_connection_is_found_out_and_nothing_is_lost() {
    let suite = bare()
        .setting("orchestrator", "server.keepalive_interval", "500ms")
        .setting("orchestrator", "server.keepalive_timeout", "500ms")
        .setting("orchestrator", "sessions.lease", "6s")
        .setting("orchestrator", "sessions.heartbeat_interval", "500ms")
        .start()
        .await;
    let client = suite.client();
    harm::register(&client, "recorded", 5).await;
    let proxy = Proxy::start(suite.orchestrator.address(), Duration::ZERO).await;
    let host = TestHost::new(suite.directory(), proxy.address(), "h", 1)
        .start(&suite)
        .await;
    let started = client.start("recorded", &json!({ "millis": 100 })).await;
    let id = started.expect("it starts").transaction_id;
    host.wrote("begin").await;
    let before = proxy.connections();
    proxy.forget();
    let ended = client.wait_for_end(&id, PATIENCE).await.expect("it ends");
    assert_eq!(harm::stages(&ended), [Stage::Completed]);
    assert!(
        proxy.connections() > before,
        "it came back by another connection"
    );
    assert_eq!(harm::count(&suite.events().await, harm::is_lost_host), 0);
}
