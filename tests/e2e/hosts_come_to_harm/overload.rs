//! Three times as much as the hosts can do, from clients who don't wait: the door sheds what is too much,
//! early and with a time to come back, and what was accepted is done.

use std::time::{Duration, Instant};

use multiagents_client::{Client, Error};
use proto::wire::TransactionState;
use serde_json::json;
use tests::Suite;
use tests::harm::{self, TestHost};
use tests::process::peak_mebibytes;
use tests::wait::{PATIENCE, is_long, until};
use tokio::task::JoinSet;

use super::bare;

/// What the hosts could do in a second at the very best: four slots, 20 ms each.
const CAPACITY: u32 = 200;

#[tokio::test]
async fn what_is_too_much_is_shed_at_the_door_and_what_was_accepted_is_done() {
    let (span, peak_span) = match is_long() {
        true => (Duration::from_secs(60), Duration::from_secs(5)),
        false => (Duration::from_secs(3), Duration::from_secs(1)),
    };
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
    let input = json!({ "millis": 20 });

    // As many as the hosts can do, and no more.
    let mut callers = JoinSet::new();
    let began = Instant::now();
    for _ in 0..8 {
        let (client, input) = (client.clone(), input.clone());
        callers.spawn(async move {
            let mut done = 0_u32;
            while began.elapsed() < peak_span {
                let ended = client.execute_and_wait("recorded", &input, PATIENCE).await;
                ended.expect("it ends");
                done += 1;
            }
            done
        });
    }
    let done: u32 = callers.join_all().await.into_iter().sum();
    let peak = f64::from(done) / began.elapsed().as_secs_f64();

    let mut calls = JoinSet::new();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / (3 * CAPACITY));
    let began = Instant::now();
    let mut offered = 0;
    // An open loop: nobody waits for the answer to the start before.
    while began.elapsed() < span {
        ticks.tick().await;
        offered += 1;
        let (client, input) = (client.clone(), input.clone());
        calls.spawn(async move { client.start("recorded", &input).await });
    }
    let took = began.elapsed();
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
    // Who comes now waits for what was accepted before, no more.
    until("the door to be open again", PATIENCE, async || {
        let ended = client.execute_and_wait("recorded", &input, PATIENCE);
        ended.await.map_err(|error| error.to_string())
    })
    .await;
    let recovery = began.elapsed() - took;
    assert!(shed > offered / 10, "{shed} of {offered} shed");
    for id in &accepted {
        let ended = client.wait_for_end(id, PATIENCE).await.expect("it ends");
        assert_eq!(ended.state(), TransactionState::Completed);
        assert_eq!(ended.steps[0].attempts.len(), 1);
    }
    assert!(host.record().values().all(|times| *times == 1));
    let goodput = accepted.len() as f64 / (took + recovery).as_secs_f64();
    println!(
        "{offered} offered in {took:?}: {} accepted and done, {shed} shed; {goodput:.0}/s done, {:.2} of \
         the {peak:.0}/s without too much; {recovery:?} until the next one ended",
        accepted.len(),
        goodput / peak
    );
    // Work doesn't sink under the refusals: 0.9 and 5 s are promised; tenfold slack for any machine.
    assert!(goodput > 0.09 * peak, "{goodput} of {peak}");
    assert!(recovery < Duration::from_secs(50), "{recovery:?}");
}

/// What the orchestrator may take beside payloads, and in copies of those that are under way.
const BESIDE_MEBIBYTES: u64 = 128;

#[tokio::test]
async fn large_inputs_are_shed_before_they_fill_memory_and_a_restart_takes_no_more() {
    let mut suite = bare()
        .setting("orchestrator", "engine.max_live_payload_bytes", "64MiB")
        .start()
        .await;
    let client = suite.client();
    harm::register(&client, "recorded", 5).await;
    let bounded = |suite: &Suite, when: &str| {
        let peak = peak_mebibytes(suite.orchestrator.id());
        println!("{peak} MiB {when}");
        assert!(peak < 64 + BESIDE_MEBIBYTES, "{peak} MiB {when}");
    };
    let accepted = offer_megabytes(&client, 480).await;
    assert_eq!(accepted.len(), 67);
    bounded(&suite, "while they were shed");
    suite.orchestrator.kill();
    suite.orchestrator.start_ready().await;
    bounded(&suite, "after a restart");

    let (directory, address) = (suite.directory(), suite.orchestrator.address());
    let _host = TestHost::new(directory, address, "h", 4)
        .start(&suite)
        .await;
    for id in &accepted {
        let ended = client.wait_for_end(id, PATIENCE).await.expect("it ends");
        assert_eq!(ended.state(), TransactionState::Completed);
    }
    // They have ended; once state.db has them they leave memory, and others find room.
    let mut more = 0;
    until("others to find room", PATIENCE, async || {
        more += offer_megabytes(&client, 80).await.len();
        (more >= 300).then_some(()).ok_or(format!("{more}"))
    })
    .await;
    bounded(&suite, "while others found room");
    suite.orchestrator.kill();
    for name in ["state.db", "state.db-wal"] {
        std::fs::remove_file(suite.directory().join("orchestrator").join(name)).expect("a file");
    }
    suite.orchestrator.start_ready().await;
    bounded(&suite, "after a rebuild of state.db");
}

/// Starts with inputs of a megabyte each, eight at once; those that were not shed.
async fn offer_megabytes(client: &Client, count: usize) -> Vec<String> {
    let input = json!({ "filler": "x".repeat(1_000_000) });
    let mut callers = JoinSet::new();
    for _ in 0..8 {
        let (client, input) = (client.clone(), input.clone());
        callers.spawn(async move {
            let mut accepted = Vec::new();
            for _ in 0..count / 8 {
                match client.start("recorded", &input).await {
                    Ok(started) => accepted.push(started.transaction_id),
                    Err(error) => assert_eq!(error.reason(), "OVERLOADED", "{error}"),
                }
            }
            accepted
        });
    }
    callers.join_all().await.into_iter().flatten().collect()
}
