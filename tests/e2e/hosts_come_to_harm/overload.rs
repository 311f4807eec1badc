//! Three times as much as the hosts can do, from clients who don't wait: the door sheds what is too much,
//! early and with a time to come back, and what was accepted is done.

use std::time::{Duration, Instant};

use multiagents_client::Error;
use proto::wire::TransactionState;
use serde_json::json;
use tests::harm::{self, TestHost};
use tests::wait::{PATIENCE, is_long};
use tokio::task::JoinSet;

use super::bare;

/// What the hosts can do in a second: four slots, 20 ms each.
const CAPACITY: u32 = 200;

#[tokio::test]
async fn what_is_too_much_is_shed_at_the_door_and_what_was_accepted_is_done() {
    let span = Duration::from_secs(if is_long() { 60 } else { 3 });
    let suite = bare()
        .setting("orchestrator", "engine.max_queued_per_worker", "100")
        .start()
        .await;
    let client = suite.client();
    harm::register(&client, "recorded", 5).await;
    let (directory, address) = (suite.directory(), suite.orchestrator.address());
    let host = TestHost::new(directory, address, "h", 4)
        .start(&suite)
        .await;
    let mut calls = JoinSet::new();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / (3 * CAPACITY));
    let began = Instant::now();
    let mut offered = 0;
    // An open loop: nobody waits for the answer to the start before.
    while began.elapsed() < span {
        ticks.tick().await;
        offered += 1;
        let client = client.clone();
        calls.spawn(async move { client.start("recorded", &json!({ "millis": 20 })).await });
    }
    let (mut accepted, mut shed) = (Vec::new(), 0);
    while let Some(answer) = calls.join_next().await {
        match answer.expect("no panic") {
            Ok(started) => accepted.push(started.transaction_id),
            Err(Error::Refused(refusal)) => {
                assert_eq!(refusal.reason, "OVERLOADED", "{refusal:?}");
                assert_eq!(refusal.code, tonic::Code::ResourceExhausted);
                assert!(refusal.retry_after.is_some(), "{refusal:?}");
                shed += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    let took = began.elapsed();
    assert!(shed > offered / 10, "{shed} of {offered} shed");
    let last = accepted.last().cloned().expect("some are accepted");
    client.wait_for_end(&last, PATIENCE).await.expect("it ends");
    for id in &accepted {
        let ended = client.wait_for_end(id, PATIENCE).await.expect("it ends");
        assert_eq!(ended.state(), TransactionState::Completed);
        assert_eq!(ended.steps[0].attempts.len(), 1);
    }
    println!(
        "{offered} offered in {took:?}, {} accepted and done, {shed} shed; {} by then would be all",
        accepted.len(),
        f64::from(CAPACITY) * took.as_secs_f64(),
    );
    // Work didn't sink under the refusals: a tenth of what is possible is little enough to ask of any
    // machine.
    let possible = f64::from(CAPACITY) * took.as_secs_f64();
    assert!(
        accepted.len() as f64 > possible / 10.0,
        "{} accepted",
        accepted.len()
    );
    assert!(host.record().values().all(|times| *times == 1));
    // And afterwards the door is open.
    let ended = client
        .execute_and_wait("recorded", &json!({}), PATIENCE)
        .await;
    ended.expect("it ends");
}
