//! A sync that fails, a disk that is slow, a disk that is full.

use std::time::{Duration, Instant};

use multiagents_client::{Client, Start, Workflow};
use proto::event::{CommandEvent, HostEvent, Kind};
use proto::wire::TransactionState;
use serde_json::json;
use tests::chance::Chance;
use tests::faults::{Fault, SmallDisk, Strace};
use tests::process::resident_mebibytes;
use tests::rounds::{progress, rounds};
use tests::wait::{PATIENCE, until};
use tests::{Suite, SuiteBuilder};

use super::Chaos;

/// How long the failing sync takes to fail: time in which nobody may be acknowledged.
const FAILING: Duration = Duration::from_secs(2);
/// The process ends within a second of it; ten times that on a machine that is busy with tests.
const END_WITHIN: f64 = 10.0;

#[tokio::test]
async fn a_sync_that_fails_ends_the_process_and_nothing_is_acknowledged_from_it_on() {
    if !Strace::is_here() {
        return;
    }
    let mut chance = Chance::new();
    let mut chaos = Chaos::start(Suite::builder().without_monitor()).await;
    let failures = rounds(2, 30);
    for failure in 0..failures {
        progress("failed syncs", failure, failures);
        chaos.acknowledged(30).await;
        let what = format!(
            "error=EIO:delay_exit={}:when={}",
            FAILING.as_micros(),
            1 + chance.below(20)
        );
        let log = chaos.suite.directory().join("strace.log");
        let orchestrator = &chaos.suite.orchestrator;
        let fault = Fault {
            calls: "fdatasync",
            what: &what,
            file: None,
        };
        let strace = Strace::attach(orchestrator, "driver", &fault, &log).await;
        let status = chaos.suite.orchestrator.ended(PATIENCE).await;
        let ended = Instant::now();
        assert_eq!(status.code(), Some(74), "{status}");
        let silence = ended - chaos.load.last_acknowledged_at().expect("some were");
        assert!(
            silence + Duration::from_millis(500) > FAILING,
            "acknowledged {silence:?} before the end, while the sync was failing"
        );
        let took = from_failure_to_end(&strace.detach());
        println!("ended {took:.3} s after the failed sync");
        assert!(took < END_WITHIN, "{took} s");
        chaos.suite.orchestrator.start_ready().await;
    }
    chaos.compare().await;
}

/// Seconds between the failed sync's return and the thread's end.
fn from_failure_to_end(trace: &str) -> f64 {
    let time = |line: &str| {
        let first = line.split_whitespace().next()?;
        first.parse::<f64>().ok()
    };
    let failed = trace.lines().find(|line| line.contains("EIO"));
    let ended = trace.lines().find(|line| line.contains("+++ exited"));
    let (Some(failed), Some(ended)) = (failed.and_then(time), ended.and_then(time)) else {
        panic!("no failed sync or no end was traced:\n{trace}");
    };
    ended - failed - FAILING.as_secs_f64()
}

#[tokio::test]
async fn a_slow_disk_loses_no_lease_and_fills_no_memory() {
    if !Strace::is_here() {
        return;
    }
    let chaos = Chaos::start(Suite::builder().without_monitor()).await;
    chaos.acknowledged(30).await;
    let orchestrator = &chaos.suite.orchestrator;
    let before = resident_mebibytes(orchestrator.id());
    let log = chaos.suite.directory().join("strace.log");
    let fault = Fault {
        calls: "fdatasync",
        what: "delay_exit=500000",
        file: None,
    };
    let strace = Strace::attach(orchestrator, "driver", &fault, &log).await;
    // Several leases long.
    let syncs = rounds(12, 120) as usize;
    until("so many slow syncs", PATIENCE * 3, async || {
        let trace = std::fs::read_to_string(&log).unwrap_or_default();
        let count = trace.matches("(DELAYED)").count();
        (count >= syncs).then_some(()).ok_or(format!("{count}"))
    })
    .await;
    let after = resident_mebibytes(orchestrator.id());
    strace.detach();
    assert!(after < before + 64, "{before} MiB became {after} MiB");
    let (_suite, events) = chaos.compare().await;
    let lost = |kind: &Kind| match kind {
        Kind::Host { what, .. } => matches!(what, HostEvent::Lost),
        Kind::Command { what, .. } => matches!(what, CommandEvent::Lost { .. }),
        _ => false,
    };
    let lost = events.iter().filter(|stored| lost(&stored.event.kind));
    assert_eq!(lost.count(), 0, "no lease lapses for want of a fast disk");
}

#[tokio::test]
async fn a_write_without_room_is_refused_and_the_next_one_goes_on() {
    if !Strace::is_here() {
        return;
    }
    let mut chaos = Chaos::start(Suite::builder().without_monitor()).await;
    let id = chaos.suite.orchestrator.id();
    let log = chaos.suite.directory().join("strace.log");
    let segment = "orchestrator/log/00000000000000000000.seg";
    let segment = chaos.suite.directory().join(segment);
    let fault = Fault {
        calls: "pwrite64",
        what: "error=ENOSPC:when=1",
        file: Some(&segment),
    };
    let fulls = rounds(3, 30);
    for full in 0..fulls {
        progress("full disks", full, fulls);
        chaos.acknowledged(30).await;
        let orchestrator = &chaos.suite.orchestrator;
        let strace = Strace::attach(orchestrator, "driver", &fault, &log).await;
        chaos.acknowledged(30).await;
        let trace = strace.detach();
        assert!(trace.contains("ENOSPC"), "{trace}");
    }
    let orchestrator = &mut chaos.suite.orchestrator;
    let same = orchestrator.runs() && orchestrator.id() == id;
    assert!(same, "it is the same process still");
    chaos.compare().await;
}

/// A suite whose orchestrator has its data there, and a log made for a small disk.
fn on(disk: &SmallDisk) -> SuiteBuilder {
    Suite::builder()
        .data(disk.path())
        .setting("orchestrator", "log.segment_bytes", "4MiB")
        .setting("orchestrator", "log.reserve_bytes", "8MiB")
}

async fn begun(client: &Client, workflow: &str, count: usize, bytes: usize) -> Vec<String> {
    let input = json!({ "data": "x".repeat(bytes) });
    let mut ids = Vec::new();
    for _ in 0..count {
        let started = client.start(workflow, &input).await;
        ids.push(started.expect("it starts").transaction_id);
    }
    ids
}

async fn all_complete(client: &Client, ids: &[String]) {
    for id in ids {
        let ended = client.wait_for_end(id, PATIENCE).await.expect("it ends");
        assert_eq!(ended.state(), TransactionState::Completed);
    }
}

async fn works_again(client: &Client) {
    until("it to work again", PATIENCE, async || {
        let again = client
            .execute_and_wait("three_noops", &json!({}), PATIENCE)
            .await;
        again.map_err(|error| error.to_string())
    })
    .await;
}

#[tokio::test]
async fn a_full_disk_refuses_starts_ends_what_runs_and_works_again_when_there_is_room() {
    for disk in SmallDisk::each(40) {
        let mut suite = on(&disk).start().await;
        let (client, id) = (suite.client(), suite.orchestrator.id());
        let slow = client.start("one_slow", &json!({ "data": "x" })).await;
        let slow = slow.expect("it starts").transaction_id;
        let filler = json!({ "data": "x".repeat(200_000) });
        let fill = || Start::new("three_noops").input(&filler).expect("an object");
        let refused = until("the disk to be full", PATIENCE, async || {
            match client.begin(fill()).await {
                Ok(_) => Err("there is room".to_owned()),
                Err(error) => Ok(error),
            }
        })
        .await;
        assert_eq!(refused.reason(), "STORE_FULL", "{refused}");
        // What runs ends, and everything can be read.
        let ended = client.wait_for_end(&slow, PATIENCE).await.expect("it ends");
        assert_eq!(ended.state(), TransactionState::Completed);
        let events = suite.events().await;
        tests::record::assert_sound(&events);
        suite.monitor_caught_up().await;

        disk.make_room();
        works_again(&client).await;
        assert!(suite.orchestrator.runs() && suite.orchestrator.id() == id);
        assert!(suite.orchestrator.stop().await.success());
    }
}

/// What the log has kept in reserve ends work; state.db has none, and nobody waits for it.
#[tokio::test]
async fn where_state_db_finds_no_room_what_runs_ends_and_a_stop_and_a_start_succeed() {
    for disk in SmallDisk::each(40) {
        let mut suite = on(&disk)
            .without_monitor()
            .setting("orchestrator", "store.unwritten_max", "10")
            .start()
            .await;
        let client = suite.client();
        // More than state.db's WAL has room for already.
        let ids = begun(&client, "one_slow", 200, 4_000).await;
        disk.fill();
        all_complete(&client, &ids).await;
        let refused = client.start("one_slow", &json!({})).await;
        assert_eq!(refused.expect_err("no room").reason(), "STORE_FULL");
        let said = suite.orchestrator.printed();
        assert!(said.contains("state.db cannot be written"), "{said}");

        assert!(suite.orchestrator.stop().await.success());
        suite.orchestrator.start_ready().await;
        all_complete(&client, &ids).await;
        disk.make_room();
        works_again(&client).await;
        tests::record::assert_sound(&suite.events().await);
        assert!(suite.orchestrator.stop().await.success());
    }
}

/// Results are taken to the last byte; then they wait with their host.
#[tokio::test]
async fn a_batch_that_meets_the_end_of_the_disk_is_forgotten_without_any_room() {
    for disk in SmallDisk::each(40) {
        let mut suite = on(&disk).start().await;
        let (client, id) = (suite.client(), suite.orchestrator.id());
        let large_at_last = Workflow::new("large_at_last")
            .step(("wait", "slow_processor"))
            .step(("say", "echo"));
        client.register(large_at_last).await.expect("a workflow");
        let ids = begun(&client, "large_at_last", 50, 200_000).await;
        disk.fill();
        until("batches to be refused", PATIENCE, async || {
            let printed = suite.orchestrator.printed();
            let refused = printed.matches("the log refused a batch").count();
            (refused >= 3).then_some(()).ok_or(format!("{refused}"))
        })
        .await;
        disk.make_room();
        all_complete(&client, &ids).await;
        assert!(suite.orchestrator.runs() && suite.orchestrator.id() == id);
        tests::record::assert_sound(&suite.events().await);
        assert!(suite.orchestrator.stop().await.success());
    }
}

/// More than a replay writes at once, and nothing of it can be written.
#[tokio::test]
async fn a_start_over_a_long_tail_on_a_full_disk_serves_what_it_holds() {
    for disk in SmallDisk::each(100) {
        let mut suite = on(&disk)
            .without_monitor()
            .setting("orchestrator", "store.write_interval", "1h")
            .start()
            .await;
        let client = suite.client();
        let ids = begun(&client, "three_noops", 100, 400_000).await;
        all_complete(&client, &ids).await;
        suite.orchestrator.kill();
        disk.fill();
        suite.orchestrator.start_ready().await;
        let said = suite.orchestrator.printed();
        assert!(said.contains("state.db cannot be written"), "{said}");
        all_complete(&client, &ids).await;
        disk.make_room();
        works_again(&client).await;
        all_complete(&client, &ids).await;
        assert!(suite.orchestrator.stop().await.success());
    }
}
