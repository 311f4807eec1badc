//! A machine that is busy with something else, and streams that are full: hosts stay alive, and a dead
//! one is noticed all the same.

use std::time::{Duration, Instant};

use serde_json::json;
use tests::harm::{self, Spinning, TestHost};
use tests::wait::{PATIENCE, is_long, until};

use super::bare;

/// 16 processes spin beside a host that sends 64 KiB in each result, for a minute where `TEST_LONG` is
/// set, else for a few seconds with a lease to match.
#[tokio::test]
async fn no_lease_lapses_on_a_busy_machine_and_a_dead_host_is_noticed() {
    let (lease, interval, span) = match is_long() {
        true => ("10s", "2500ms", Duration::from_secs(60)),
        false => ("3s", "750ms", Duration::from_secs(5)),
    };
    let suite = bare()
        .setting("orchestrator", "sessions.lease", lease)
        .setting("orchestrator", "sessions.heartbeat_interval", interval)
        .start()
        .await;
    let client = suite.client();
    harm::register(&client, "bulky", 5).await;
    let (directory, address) = (suite.directory(), suite.orchestrator.address());
    let mut host = TestHost::new(directory, address, "h", 8)
        .start(&suite)
        .await;
    let spinning = Spinning::start(16);
    let until_then = Instant::now() + span;
    let bulk = "x".repeat(64 << 10);
    let mut loads = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (client, bulk) = (client.clone(), bulk.clone());
        loads.spawn(async move {
            let mut done = 0;
            while Instant::now() < until_then {
                let input = json!({ "bulk": bulk });
                let ended = client.execute_and_wait("bulky", &input, PATIENCE).await;
                ended.expect("it starts");
                done += 1;
            }
            done
        });
    }
    let done: u32 = loads.join_all().await.into_iter().sum();
    assert!(done > 4, "{done} done");
    let events = suite.events().await;
    assert_eq!(harm::count(&events, harm::is_lost_host), 0, "{done} done");
    assert_eq!(harm::count(&events, harm::is_lost), 0, "{done} done");

    // Still busy, and now it is dead.
    host.process.kill();
    until("its loss to be noticed", PATIENCE, async || {
        let lost = harm::metric(&suite, "multiagents_orchestrator_hosts_lost_total").await;
        (lost == 1.0).then_some(()).ok_or(format!("{lost}"))
    })
    .await;
    drop(spinning);
}
