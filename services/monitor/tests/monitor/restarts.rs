//! Stopping and starting: nothing is counted twice or lost, and every view equals its refold.

use monitor::fold::Folds;
use monitor::store::Snapshots;
use proto::wire;

use crate::history::*;
use crate::running::*;
use crate::service::recent;
use crate::source::FakeSource;

pub(crate) async fn verified(monitor: &Running) -> Vec<wire::ViewVerdict> {
    let mut stream = monitor
        .events()
        .verify_views(wire::VerifyViewsRequest {})
        .await
        .unwrap()
        .into_inner();
    let mut verdicts = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        verdicts.extend(message.verdict);
    }
    verdicts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_goes_on_where_it_was_and_every_view_verifies() {
    let directory = tempfile::tempdir().unwrap();
    let source = FakeSource::start().await;
    let runs = recent(60, 30, |number| End::Failed(number % 4));
    for batch in events(&runs).chunks(11) {
        source.append(batch);
    }
    let monitor = Running::start(directory.path(), source.address, &[]).await;
    let before = monitor.caught_up(source.next()).await;
    let verdicts = verified(&monitor).await;
    assert_eq!(verdicts.len(), 7);
    assert!(verdicts.iter().all(|verdict| verdict.equal), "{verdicts:?}");
    monitor.stop().await;

    source.append(&events(&recent(3, 5, |_| End::Completed)));
    // Once with its snapshot, once without any, from its log alone.
    for round in 0..2 {
        if round == 1 {
            std::fs::remove_dir_all(directory.path().join("snapshots")).unwrap();
        }
        let monitor = Running::start(directory.path(), source.address, &[]).await;
        let after = monitor.caught_up(source.next()).await;
        assert_eq!(after.total_events, source.next(), "round {round}");
        assert_eq!(after.total_commands, before.total_commands + 5);
        let page = monitor.page("/metrics").await;
        assert!(page.contains(&format!("multiagents_events_total {}", source.next())));
        assert!(verified(&monitor).await.iter().all(|verdict| verdict.equal));
        monitor.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_survive_the_trim_of_the_monitors_own_log() {
    let directory = tempfile::tempdir().unwrap();
    let source = FakeSource::start().await;
    let set = [
        ("log.segment_bytes", "4KiB"),
        ("log.retention_bytes", "32KiB"),
        ("event_monitoring.cleanup_interval_minutes", "0.05"),
    ];
    let monitor = Running::start(directory.path(), source.address, &set).await;
    let runs = recent(60, 600, |_| End::Completed);
    for batch in events(&runs).chunks(20) {
        source.append(batch);
    }
    monitor.caught_up(source.next()).await;
    let oldest = || {
        let mut segments: Vec<String> = std::fs::read_dir(directory.path().join("log"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|name| name.ends_with(".seg"))
            .collect();
        segments.sort_unstable();
        segments.first().cloned()
    };
    let first = oldest();
    wait_for(async || (oldest() != first).then_some(())).await;
    assert!(verified(&monitor).await.iter().all(|verdict| verdict.equal));
    monitor.stop().await;
    let monitor = Running::start(directory.path(), source.address, &set).await;
    let after = monitor.caught_up(source.next()).await;
    assert_eq!(after.total_events, source.next());
    let page = monitor.page("/metrics").await;
    assert!(
        page.contains("multiagents_worker_executions_total{worker=\"worker-0\"} 600"),
        "{page}"
    );
    monitor.stop().await;
}

#[tokio::test]
async fn a_second_monitor_on_the_same_directory_is_refused_with_its_exit_code() {
    let directory = tempfile::tempdir().unwrap();
    let source = FakeSource::start().await;
    let monitor = Running::start(directory.path(), source.address, &[]).await;
    monitor.page("/readyz").await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = config(directory.path(), source.address, &[]);
    let clock = kit::Clock::system(0);
    let error = monitor::run(config, listener, clock, Default::default())
        .await
        .unwrap_err();
    assert_eq!(kit::exit_code_of(&error), kit::exit::LOCKED, "{error:#}");
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_are_their_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let source = FakeSource::start().await;
    let monitor = Running::start(directory.path(), source.address, &[]).await;
    monitor.caught_up(0).await;
    monitor.stop().await;
    let snapshots = directory.path().join("snapshots");
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&snapshots), 0o700);
    let found: Vec<_> = std::fs::read_dir(&snapshots).unwrap().collect();
    assert_eq!(found.len(), 1);
    assert_eq!(mode(&found[0].as_ref().unwrap().path()), 0o600);
}

#[test]
fn a_snapshot_that_is_damaged_foreign_or_of_a_lost_future_is_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(directory.path(), [7; 16]).unwrap();
    let at = |position: u64| Folds {
        position,
        ..Folds::default()
    };
    for position in [10, 20, 30] {
        snapshots.write(&at(position), 0).unwrap();
    }
    let newest =
        |snapshots: &Snapshots, next| snapshots.newest(0, next).map(|folds| folds.position);
    assert_eq!(newest(&snapshots, 100), Some(30));
    assert_eq!(
        newest(&snapshots, 29),
        Some(20),
        "what lies past the log's end is of no use"
    );
    assert_eq!(
        snapshots.oldest(11, 100).map(|folds| folds.position),
        Some(20)
    );
    let path = directory.path().join(format!("{:020}.snapshot", 30));
    let mut bytes = std::fs::read(&path).unwrap();
    for at in [0, 9, 13, 20, 33, bytes.len() - 1] {
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(newest(&snapshots, 100), Some(20), "byte {at}");
        bytes[at] ^= 1;
    }
    let foreign = Snapshots::open(directory.path(), [8; 16]).unwrap();
    assert_eq!(newest(&foreign, 100), None);
}

#[test]
fn of_many_snapshots_the_oldest_the_newest_and_an_even_spread_stay() {
    let directory = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(directory.path(), [7; 16]).unwrap();
    for position in 1..=40 {
        let folds = Folds {
            position: position * 10,
            ..Folds::default()
        };
        snapshots.write(&folds, 50).unwrap();
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 8);
    assert_eq!(
        snapshots.oldest(0, 400).map(|folds| folds.position),
        Some(50)
    );
    assert_eq!(
        snapshots.newest(0, 400).map(|folds| folds.position),
        Some(400)
    );
}
