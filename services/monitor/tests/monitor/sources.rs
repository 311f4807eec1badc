//! What the monitor does when a source is cut off, trimmed, replaced, or writes what it can't read.

use bytes::Bytes;
use prost::Message as _;
use proto::event::{Event, Kind};
use proto::id::Time;
use proto::wire;

use crate::history::*;
use crate::restarts::verified;
use crate::running::*;
use crate::service::{ago, recent};
use crate::source::FakeSource;

fn started(epoch: u64) -> Event {
    Event {
        time: Time(ago(1)),
        kind: Kind::OrchestratorStarted {
            version: "0.1.0".into(),
            epoch,
        },
    }
}

async fn figure(monitor: &Running, name: &str) -> u64 {
    let page = monitor.page("/metrics").await;
    let line = page.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.rsplit(' ').next());
    value.map_or(0, |value| value.parse::<f64>().unwrap() as u64)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_cut_off_again_and_again_is_resumed_without_loss_or_double() {
    let directory = tempfile::tempdir().unwrap();
    let source = FakeSource::start().await;
    let monitor = Running::start(directory.path(), source.address, &[]).await;
    for batch in events(&recent(60, 60, |_| End::Completed)).chunks(30) {
        let reads = source.reads();
        let next = source.append(batch);
        source.cut();
        let metrics = monitor.caught_up(next).await;
        assert_eq!(metrics.total_events, next);
        // What is cut next is a stream that was opened anew.
        wait_for(async || (source.reads() > reads).then_some(())).await;
    }
    assert!(verified(&monitor).await.iter().all(|verdict| verdict.equal));
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_trimmed_while_the_monitor_was_down_is_a_gap_with_its_count() {
    let directory = tempfile::tempdir().unwrap();
    let source = FakeSource::start().await;
    let first = source.append(&events(&recent(60, 10, |_| End::Completed)));
    let monitor = Running::start(directory.path(), source.address, &[]).await;
    monitor.caught_up(first).await;
    monitor.stop().await;
    let second = source.append(&events(&recent(40, 20, |_| End::Completed)));
    let third = source.append(&events(&recent(20, 5, |_| End::Completed)));
    source.trim(second);
    let monitor = Running::start(directory.path(), source.address, &[]).await;
    let metrics = monitor.caught_up(third).await;
    assert_eq!(metrics.total_events, first + (third - second));
    let missing = figure(&monitor, "multiagents_source_missing_events_total").await;
    assert_eq!(missing, second - first);
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_log_at_the_same_address_is_followed_and_said() {
    let directory = tempfile::tempdir().unwrap();
    let source = FakeSource::start().await;
    let first = source.append(&events(&recent(60, 10, |_| End::Completed)));
    let monitor = Running::start(directory.path(), source.address, &[]).await;
    monitor.caught_up(first).await;
    source.replace();
    let second = source.append(&events(&recent(20, 3, |_| End::Completed)));
    source.cut();
    let metrics = wait_for(async || {
        let metrics = monitor.caught_up(0).await;
        (metrics.total_events == first + second).then_some(metrics)
    })
    .await;
    assert_eq!(metrics.as_of.unwrap().sources[0].offset, second);
    assert_eq!(
        figure(&monitor, "multiagents_source_replacements_total").await,
        1
    );
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_lost_its_tail_is_taken_from_its_next_start_on() {
    let directory = tempfile::tempdir().unwrap();
    let source = FakeSource::start().await;
    let kept =
        source.append(&[vec![started(1)], events(&recent(60, 4, |_| End::Completed))].concat());
    let lost = source.append(&events(&recent(40, 6, |_| End::Completed)));
    let monitor = Running::start(directory.path(), source.address, &[]).await;
    monitor.caught_up(lost).await;
    source.lose_tail(kept);
    let next =
        source.append(&[vec![started(2)], events(&recent(20, 1, |_| End::Completed))].concat());
    assert!(next < lost);
    source.cut();
    let metrics = wait_for(async || {
        let metrics = monitor.caught_up(0).await;
        (metrics.total_events == lost + (next - kept)).then_some(metrics)
    })
    .await;
    assert_eq!(metrics.as_of.unwrap().sources[0].offset, next);
    assert!(verified(&monitor).await.iter().all(|verdict| verdict.equal));
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_unknown_types_are_counted_and_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let source = FakeSource::start().await;
    let time = Time(ago(5));
    let batch = wire::EventBatch {
        first_offset: 0,
        time_us: time.0,
        events: vec![wire::EventRecord::default(), wire::EventRecord::default()],
        ..Default::default()
    };
    source.append_bytes(batch.encode_to_vec().into(), 2, time);
    let next = source.append(&events(&recent(3, 2, |_| End::Completed)));
    let monitor = Running::start(directory.path(), source.address, &[]).await;
    let metrics = monitor.caught_up(next).await;
    assert_eq!(metrics.total_events, next);
    let unknown = metrics
        .by_type
        .iter()
        .find(|found| found.r#type == 0)
        .unwrap();
    assert_eq!(unknown.count, 2);
    assert_eq!(
        figure(&monitor, "multiagents_source_unknown_events_total").await,
        2
    );
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_no_orchestrator_writes_hold_up_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let source = FakeSource::start().await;
    let time = Time(ago(5));
    // No protobuf at all; then a batch whose event names a transaction that isn't there.
    source.append_bytes(Bytes::from_static(b"\xff\xff\xff"), 3, time);
    let malformed = wire::EventBatch {
        first_offset: 3,
        time_us: time.0,
        events: vec![wire::EventRecord {
            transaction: 9,
            kind: Some(wire::event_record::Kind::CommandDispatched(
                wire::CommandDispatched {},
            )),
            ..Default::default()
        }],
        ..Default::default()
    };
    source.append_bytes(malformed.encode_to_vec().into(), 1, time);
    let next = source.append(&events(&recent(3, 2, |_| End::Completed)));
    let monitor = Running::start(directory.path(), source.address, &[]).await;
    let metrics = monitor.caught_up(next).await;
    assert_eq!(metrics.total_events, next - 4);
    assert_eq!(
        figure(&monitor, "multiagents_source_missing_events_total").await,
        3
    );
    assert_eq!(
        figure(&monitor, "multiagents_source_malformed_batches_total").await,
        1
    );
    assert!(verified(&monitor).await.iter().all(|verdict| verdict.equal));
    monitor.stop().await;
}
