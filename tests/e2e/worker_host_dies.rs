//! A worker host goes away, by force or in order.

use proto::event::{CommandEvent, HostEvent, Kind};
use proto::wire::{Stage, TransactionState};
use serde_json::json;
use tests::wait::{PATIENCE, until};
use tests::{Suite, record};

/// Starts a slow step and waits until its handler runs.
async fn working(suite: &Suite) -> String {
    let client = suite.client();
    let started = client.start("one_slow", &json!({ "data": "X" })).await;
    let id = started.expect("it starts").transaction_id;
    until("the step to be at work", PATIENCE, async || {
        let status = client
            .status(&id)
            .await
            .map_err(|error| error.to_string())?;
        let attempt = status.steps[0].attempts.last();
        match attempt.map(|attempt| attempt.stage()) {
            Some(Stage::Processing) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    id
}

#[tokio::test]
async fn the_work_of_a_killed_host_is_done_by_another_and_recorded_once() {
    let mut suite = Suite::builder().without_monitor().start().await;
    let id = working(&suite).await;
    suite.host.kill();
    suite.host.start_ready().await;
    let ended = suite
        .client()
        .wait_for_end(&id, PATIENCE)
        .await
        .expect("it ends");
    assert_eq!(ended.state(), TransactionState::Completed);
    let stages: Vec<_> = ended.steps[0]
        .attempts
        .iter()
        .map(|attempt| attempt.stage())
        .collect();
    assert_eq!(stages, [Stage::Lost, Stage::Completed]);
    let hosts: Vec<_> = ended.steps[0]
        .attempts
        .iter()
        .map(|attempt| &attempt.host_id)
        .collect();
    assert_ne!(hosts[0], hosts[1], "each process is a host of its own");

    let events = suite.events().await;
    record::assert_sound(&events);
    let lost = events.iter().any(|stored| {
        matches!(
            stored.event.kind,
            Kind::Host {
                what: HostEvent::Lost,
                ..
            }
        )
    });
    assert!(lost, "the log says that the host was lost");
}

#[tokio::test]
async fn a_host_that_is_told_to_stop_finishes_what_it_has() {
    let mut suite = Suite::builder().without_monitor().start().await;
    let id = working(&suite).await;
    let status = suite.host.stop().await;
    assert!(status.success(), "{status}");
    let ended = suite
        .client()
        .wait_for_end(&id, PATIENCE)
        .await
        .expect("it ends");
    assert_eq!(ended.state(), TransactionState::Completed);
    assert_eq!(ended.steps[0].attempts.len(), 1, "nothing was lost");
    let events = suite.events().await;
    let drained = events.iter().any(|stored| {
        matches!(
            stored.event.kind,
            Kind::Host {
                what: HostEvent::Disconnected { drained: true },
                ..
            }
        )
    });
    assert!(drained, "the log says that it left on purpose");
    let lost = events.iter().any(|stored| {
        matches!(
            stored.event.kind,
            Kind::Command {
                what: CommandEvent::Lost { .. },
                ..
            }
        )
    });
    assert!(!lost);
}
