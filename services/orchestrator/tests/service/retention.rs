//! Trimming: what has ended goes as a whole, what lives is carried.

use std::time::Duration;

use kit::config::ByteCount;
use proto::wire;
use proto::wire::{EventType, TransactionState};

use crate::harness::{PATIENCE, Suite, config, json, reason, sequence};
use crate::host::FakeHost;

#[tokio::test(flavor = "multi_thread")]
async fn ended_transactions_are_trimmed_and_live_ones_carried() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    config.log.segment_bytes = ByteCount(16 << 10);
    config.log.retention_bytes = ByteCount(64 << 10);
    config.store.trim_interval.0 = Duration::from_millis(20);
    // So long the event of its start stays in any case.
    config.sessions.lease.0 = Duration::from_secs(1);
    let mut suite = Suite::start_with(config.clone()).await;
    suite.register(sequence("orders", &["a", "b"])).await;
    let mut host = FakeHost::connect(&suite, "h", &[("a", 1), ("b", 0x10)]).await;
    let large = "x".repeat(6_000);
    let live = suite
        .execute("orders", &format!("{{\"in\":\"{large}\"}}"))
        .await;
    let held = host.do_next(&format!("{{\"out\":\"{large}\"}}")).await;
    assert!(held.command_id.starts_with(&live));
    let kept = host.command().await;
    // Until the log's beginning is gone.
    let first_ended = suite.execute("orders", "{}").await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let padding = "y".repeat(1_000);
        let id = suite
            .execute("orders", &format!("{{\"p\":\"{padding}\"}}"))
            .await;
        while suite.status(&id).await.end_time.is_none() {
            let _ = host.do_next("{}").await;
        }
        let gone = suite.try_status(&first_ended).await;
        if gone.is_err_and(|status| reason(&status) == "TRANSACTION_NOT_FOUND") {
            break;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "nothing was trimmed"
        );
    }
    assert!(suite.events().await[0].offset > 0);
    assert!(suite.count(EventType::TransactionCarried).await > 0);
    suite.stop().await;

    // The log alone is enough: also for what was carried.
    std::fs::remove_file(directory.path().join("state.db")).unwrap();
    let mut suite = Suite::start_with(config).await;
    let held = [kept.command_id.clone()];
    let mut host = FakeHost::reconnect(&suite, "h", &[("b", 1)], &held).await;
    host.complete(&kept.command_id, "{}").await;
    let ended = suite.until(&live, TransactionState::Completed).await;
    assert_eq!(json(ended.input.as_ref()).len(), 6_009);
    assert_eq!(json(ended.steps[0].result.as_ref()).len(), 6_010);
    let expired = suite
        .event_log()
        .read_events(wire::ReadEventsRequest {
            cursor: beginning(&ended.cursor),
            follow: false,
        })
        .await
        .unwrap_err();
    assert_eq!(reason(&expired), "CURSOR_EXPIRED");
    suite.stop().await;
}

/// The cursor of the log's first event.
fn beginning(cursor: &str) -> String {
    let cursor = proto::cursor::Cursor::parse(cursor).unwrap();
    proto::cursor::Cursor {
        offset: 0,
        ..cursor
    }
    .to_string()
}
