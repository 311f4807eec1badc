//! The monitor is stopped for a while; work goes on, and afterwards it agrees with the log.

use std::time::Duration;

use serde_json::json;
use tests::load::Load;
use tests::wait::{PATIENCE, until};
use tests::{Suite, count};

#[tokio::test]
async fn work_goes_on_without_it_and_it_catches_up_to_the_same_figures() {
    let mut suite = Suite::start().await;
    let client = suite.client();
    let load = Load::start(&client, 8, "three_noops");
    let more = async |goal: usize| {
        until("more acknowledgements", PATIENCE, async || {
            let count = load.count();
            (count >= goal)
                .then_some(())
                .ok_or(format!("{count} of {goal}"))
        })
        .await;
    };
    for by_force in [true, false, true] {
        more(load.count() + 100).await;
        if by_force {
            suite.monitor.kill();
        } else {
            assert!(suite.monitor.stop().await.success());
        }
        more(load.count() + 200).await;
        suite.monitor.start_ready().await;
    }
    let acknowledged = load.stop().await;
    for id in acknowledged.values() {
        client.wait_for_end(id, PATIENCE).await.expect("it ends");
    }
    suite.monitor_caught_up().await;

    let window = Duration::from_secs(3600);
    let answer = suite
        .monitor()
        .event_metrics(Some(window))
        .await
        .expect("figures");
    let upto = answer.as_of.as_ref().expect("a position").sources[0].offset;
    let events = suite.events().await;
    let counted = count::figures(events.iter().filter(|stored| stored.offset < upto));
    assert_eq!(answer.total_events, counted.events);
    assert_eq!(
        answer.total_commands,
        counted.all.total() + counted.all.cancelled
    );
    assert_eq!(answer.transactions_started, counted.started);
    assert_eq!(answer.transactions_ended, counted.ended);
    assert_eq!(answer.success_ratio, counted.all.success_ratio());
    for worker in ["noop"] {
        let answer = suite
            .monitor()
            .worker_performance(worker, Some(window))
            .await;
        let performance = answer.expect("figures").performance.expect("figures");
        assert_eq!(
            performance.total_executions,
            counted.workers[worker].total()
        );
    }
}

/// A start needs the orchestrator alone.
#[tokio::test]
async fn nothing_waits_for_a_monitor_that_never_was() {
    let suite = Suite::builder().without_monitor().start().await;
    let ended = suite
        .client()
        .execute_and_wait("three_noops", &json!({}), PATIENCE)
        .await;
    assert!(ended.is_ok());
}
