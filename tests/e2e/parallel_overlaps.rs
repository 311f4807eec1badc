//! Parallel steps truly run at once, and a join waits for all of them.

use std::collections::BTreeMap;

use multiagents_client::Workflow;
use proto::event::{CommandEvent, Kind};
use proto::id::Time;
use proto::wire::TransactionState;
use serde_json::json;
use tests::Suite;
use tests::wait::PATIENCE;
use tests::workers::{OwnHost, meeting};

/// Each branch can only end while all the others run: were they run in turn, none ever would.
#[tokio::test]
async fn branches_that_wait_for_each_other_all_complete() {
    let suite = Suite::builder()
        .without_host()
        .without_monitor()
        .start()
        .await;
    let _host = OwnHost::start(suite.orchestrator.address(), [(meeting(4), 4)]);
    let client = suite.client();
    let workflow = Workflow::new("meet").parallel([
        ("a", "meeting"),
        ("b", "meeting"),
        ("c", "meeting"),
        ("d", "meeting"),
    ]);
    client.register(workflow).await.expect("a workflow");
    let ended = client.execute_and_wait("meet", &json!({}), PATIENCE).await;
    assert_eq!(
        ended.expect("it starts").state(),
        TransactionState::Completed
    );
}

#[tokio::test]
async fn the_pages_branches_overlap_and_the_join_comes_after_all_of_them() {
    let suite = Suite::builder().without_monitor().start().await;
    let client = suite.client();
    let mut completed = false;
    // Its flaky branch fails now and then; then the join never starts.
    for _ in 0..40 {
        let ended = client
            .execute_and_wait("parallel_monitoring", &json!({ "data": "x" }), PATIENCE)
            .await
            .expect("it starts");
        if ended.state() == TransactionState::Completed {
            let spans = spans(&suite, &ended.transaction_id).await;
            let branches =
                ["process_a", "process_b", "process_c", "process_d"].map(|name| spans[name]);
            // The slow branch runs for half a second at least, and the flaky one for a tenth: these
            // two were at work at one moment.
            let (from_b, to_b) = spans["process_b"];
            let (from_c, to_c) = spans["process_c"];
            assert!(from_b < to_c && from_c < to_b, "{spans:?}");
            let all_dispatched = branches.iter().map(|span| span.0).max();
            assert!(
                all_dispatched < Some(to_b),
                "all started before the slow one ended: {spans:?}"
            );
            let last_end = branches.iter().map(|span| span.1).max();
            assert!(last_end <= Some(spans["combine"].0), "{spans:?}");
            assert!(
                branches.iter().all(|span| spans["prepare"].1 <= span.0),
                "{spans:?}"
            );
            completed = true;
            break;
        }
    }
    assert!(completed, "parallel_monitoring failed forty times in a row");
}

/// From dispatched to the outcome, by step, out of the raw log.
async fn spans(suite: &Suite, transaction: &str) -> BTreeMap<String, (Time, Time)> {
    let mut spans = BTreeMap::new();
    for stored in suite.events().await {
        let Kind::Command {
            id, command, what, ..
        } = &stored.event.kind
        else {
            continue;
        };
        if id.to_string() != transaction {
            continue;
        }
        let span = spans
            .entry(command.step.to_string())
            .or_insert((Time(i64::MAX), Time(i64::MIN)));
        match what {
            CommandEvent::Dispatched => span.0 = stored.event.time,
            CommandEvent::Completed { .. } => span.1 = stored.event.time,
            _ => {}
        }
    }
    spans
}
