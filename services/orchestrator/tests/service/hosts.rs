//! Sessions, leases, and which result counts.

use std::time::Duration;

use proto::wire;
use proto::wire::{EventType, TransactionState};

use crate::harness::{Suite, config, reason, sequence, step};
use crate::host::{FakeHost, completed};

#[tokio::test(flavor = "multi_thread")]
async fn a_result_counts_once_and_only_from_who_has_the_command() {
    let directory = tempfile::tempdir().unwrap();
    let mut suite = Suite::start(directory.path()).await;
    suite.register(sequence("orders", &["a", "b"])).await;
    // The second step keeps the transaction in memory, where a conflict is known as one.
    let mut host = FakeHost::connect(&suite, "h", &[("a", 1), ("b", 1)]).await;
    let mut stranger = FakeHost::connect(&suite, "s", &[("other", 1)]).await;
    let id = suite.execute("orders", "{}").await;
    let command = host.command().await.command_id;

    stranger.report(&command, completed(r#"{"by":"s"}"#)).await;
    assert_eq!(stranger.acknowledgement().await, "NOT_LEASE_HOLDER");
    for unknown in ["no command", "01890a5d-ac96-774b-bcce-b302099a8057/a/do#1"] {
        host.report(unknown, completed("{}")).await;
        assert_eq!(host.acknowledgement().await, "COMMAND_UNKNOWN");
    }
    host.complete(&command, r#"{"by":"h"}"#).await;
    host.complete(&command, r#"{"by":"h"}"#).await;
    host.report(&command, completed(r#"{"by":"x"}"#)).await;
    assert_eq!(host.acknowledgement().await, "RESULT_CONFLICT");

    host.do_next("{}").await;
    suite.until(&id, TransactionState::Completed).await;
    assert_eq!(suite.count(EventType::CommandCompleted).await, 2);
    assert_eq!(suite.count(EventType::ResultRefused).await, 4);
    suite.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_counted_before_a_restart_is_acknowledged_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut suite = Suite::start(directory.path()).await;
    suite.register(sequence("orders", &["a"])).await;
    let mut host = FakeHost::connect(&suite, "h", &[("a", 1)]).await;
    let id = suite.execute("orders", "{}").await;
    let command = host.do_next(r#"{"x":1}"#).await.command_id;
    suite.until(&id, TransactionState::Completed).await;
    suite.stop().await;
    let suite = Suite::start(directory.path()).await;
    let held = [command.clone()];
    let mut host = FakeHost::reconnect(&suite, "h", &[("a", 1)], &held).await;
    host.complete(&command, r#"{"x":1}"#).await;
    host.report(&command, completed(r#"{"x":2}"#)).await;
    assert_ne!(host.acknowledgement().await, "");
    assert_eq!(suite.count(EventType::CommandCompleted).await, 1);
    suite.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_is_no_object_fails_its_command() {
    let directory = tempfile::tempdir().unwrap();
    let mut suite = Suite::start(directory.path()).await;
    suite.register(sequence("orders", &["a"])).await;
    let mut host = FakeHost::connect(&suite, "h", &[("a", 1)]).await;
    let id = suite.execute("orders", "{}").await;
    let command = host.command().await.command_id;
    host.report(&command, completed("[1]")).await;
    assert_eq!(host.acknowledgement().await, "PAYLOAD_NOT_OBJECT");
    let ended = suite.until(&id, TransactionState::Failed).await;
    assert_eq!(ended.failed_step, "a");
    suite.stop().await;
}

fn workflow_of(name: &str, step: wire::Step) -> wire::Workflow {
    wire::Workflow {
        name: name.to_owned(),
        steps: vec![step],
        ..Default::default()
    }
}

fn short_lease(directory: &std::path::Path) -> orchestrator::config::Config {
    let mut config = config(directory);
    // Twenty times the interval of a test's heartbeats: a busy machine must not end a lease.
    config.sessions.lease.0 = Duration::from_secs(1);
    config.sessions.heartbeat_interval.0 = Duration::from_millis(250);
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_host_loses_its_command_to_another_and_its_late_result_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut suite = Suite::start_with(short_lease(directory.path())).await;
    suite.register(sequence("orders", &["a"])).await;
    let mut silent = FakeHost::without_heartbeats(&suite, "silent", &[("a", 1)], &[]).await;
    let id = suite.execute("orders", "{}").await;
    let first = silent.command().await;
    let mut lively = FakeHost::connect(&suite, "lively", &[("a", 1)]).await;
    let second = lively.command().await;
    assert_ne!(first.command_id, second.command_id);
    assert_eq!((first.attempt, second.attempt), (1, 2));
    assert_eq!(reason(&silent.end().await), "LEASE_LAPSED");

    let workers = [("other", 1)];
    let held = [first.command_id.clone()];
    let mut late = FakeHost::reconnect(&suite, "silent", &workers, &held).await;
    assert_eq!(late.welcome.revoked_command_ids, held);
    assert_eq!(suite.count(EventType::ResultRefused).await, 1);
    late.report(&first.command_id, completed(r#"{"late":true}"#))
        .await;
    assert_eq!(late.acknowledgement().await, "LEASE_LAPSED");

    lively.complete(&second.command_id, "{}").await;
    let ended = suite.until(&id, TransactionState::Completed).await;
    assert_eq!(ended.steps[0].attempts.len(), 2);
    assert_eq!(suite.count(EventType::CommandLost).await, 1);
    assert_eq!(suite.count(EventType::ResultRefused).await, 2);
    suite.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_keep_a_lease_for_many_times_its_length() {
    let directory = tempfile::tempdir().unwrap();
    let mut suite = Suite::start_with(short_lease(directory.path())).await;
    suite.register(sequence("orders", &["a", "wait"])).await;
    let mut host = FakeHost::connect(&suite, "h", &[("a", 1)]).await;
    let id = suite.execute("orders", "{}").await;
    let command = host.command().await;
    // Three hosts that say nothing lapse one after the other: three leases have passed then.
    for number in 0..3 {
        let id = format!("silent-{number}");
        let mut silent = FakeHost::without_heartbeats(&suite, &id, &[("x", 1)], &[]).await;
        assert_eq!(reason(&silent.end().await), "LEASE_LAPSED");
    }
    host.complete(&command.command_id, "{}").await;
    assert_eq!(suite.count(EventType::CommandLost).await, 0);
    assert_eq!(suite.status(&id).await.steps[0].attempts.len(), 1);
    suite.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_comes_back_keeps_what_it_holds_and_loses_what_it_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let mut suite = Suite::start(directory.path()).await;
    suite.register(sequence("orders", &["a"])).await;
    let mut host = FakeHost::connect(&suite, "h", &[("a", 2)]).await;
    let kept_id = suite.execute("orders", "{}").await;
    let kept = host.command().await.command_id;
    let lost_id = suite.execute("orders", "{}").await;
    let lost = host.command().await.command_id;
    let mut again =
        FakeHost::reconnect(&suite, "h", &[("a", 2)], std::slice::from_ref(&kept)).await;
    assert_eq!(reason(&host.end().await), "SESSION_REPLACED");
    let second = again.command().await;
    assert!(second.command_id.starts_with(&lost_id) && second.command_id != lost);
    again.complete(&kept, "{}").await;
    again.complete(&second.command_id, "{}").await;
    suite.until(&kept_id, TransactionState::Completed).await;
    suite.until(&lost_id, TransactionState::Completed).await;
    assert_eq!(suite.count(EventType::CommandLost).await, 1);
    suite.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_crashes_in_a_loop_is_held_back_and_its_commands_go_elsewhere() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    config.sessions.quarantine.losses = 3;
    config.sessions.quarantine.hold.0 = Duration::from_secs(2);
    let mut suite = Suite::start_with(config).await;
    let mut step = step("a");
    step.retry = Some(wire::RetryPolicy {
        max_deliveries: 10,
        ..Default::default()
    });
    suite.register(workflow_of("orders", step)).await;
    let id = suite.execute("orders", "{}").await;
    let mut attempts = Vec::new();
    for _ in 0..3 {
        // A new process of the same name: it has nothing of what the one before was given.
        let mut crasher = FakeHost::connect(&suite, "crasher", &[("a", 1)]).await;
        let command = crasher.command().await;
        attempts.push(command.attempt);
        crasher.begin(&suite, &command.command_id).await;
    }
    assert_eq!(attempts, [1, 2, 3]);
    let mut held_back = FakeHost::connect(&suite, "crasher", &[("a", 1)]).await;
    let mut sane = FakeHost::connect(&suite, "sane", &[("a", 1)]).await;
    assert_eq!(sane.do_next("{}").await.attempt, 4);
    suite.until(&id, TransactionState::Completed).await;
    assert_eq!(suite.count(EventType::HostQuarantined).await, 1);

    // With all of the other's slots taken, the next waits until the hold is over.
    let (first, second) = (
        suite.execute("orders", "{}").await,
        suite.execute("orders", "{}").await,
    );
    let taken = sane.command().await;
    assert!(taken.command_id.starts_with(&first));
    assert!(
        held_back
            .do_next("{}")
            .await
            .command_id
            .starts_with(&second)
    );
    sane.complete(&taken.command_id, "{}").await;
    assert_eq!(suite.count(EventType::HostQuarantined).await, 1);
    suite.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_kills_every_host_ends_as_poison_and_holds_none_of_them_back() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    config.sessions.quarantine.losses = 2;
    let mut suite = Suite::start_with(config).await;
    suite.register(sequence("orders", &["a"])).await;
    let id = suite.execute("orders", "{}").await;
    // Five deliveries, which is the default. A new process of a victim shows that the one before died;
    // of idle hosts the first by name is served first.
    let offer = [("a", 1)];
    let mut victim = FakeHost::connect(&suite, "c", &offer).await;
    let first = victim.command().await;
    victim.begin(&suite, &first.command_id).await;
    let mut next = FakeHost::connect(&suite, "b", &offer).await;
    let mut idle = vec![FakeHost::connect(&suite, "c", &offer).await];
    let second = next.command().await;
    next.begin(&suite, &second.command_id).await;
    next = FakeHost::connect(&suite, "a", &offer).await;
    idle.push(FakeHost::connect(&suite, "b", &offer).await);
    for attempt in 3..=5 {
        let command = next.command().await;
        assert_eq!(command.attempt, attempt);
        next.begin(&suite, &command.command_id).await;
        next = FakeHost::connect(&suite, "a", &offer).await;
    }
    let ended = suite.until(&id, TransactionState::Failed).await;
    let failure = ended.failure.unwrap();
    assert_eq!(failure.kind, "Poison");
    assert!(failure.message.contains("5 hosts were lost"), "{failure:?}");
    assert_eq!(suite.count(EventType::CommandLost).await, 5);
    assert_eq!(suite.count(EventType::HostQuarantined).await, 0);
    suite.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_host_gets_nothing_more_and_leaves_in_peace() {
    let directory = tempfile::tempdir().unwrap();
    let mut suite = Suite::start(directory.path()).await;
    suite.register(sequence("orders", &["a"])).await;
    let mut host = FakeHost::connect(&suite, "h", &[("a", 2)]).await;
    let first = suite.execute("orders", "{}").await;
    let command = host.command().await;
    host.say(wire::ConnectRequest {
        draining: true,
        ..Default::default()
    })
    .await;
    host.complete(&command.command_id, "{}").await;
    suite.until(&first, TransactionState::Completed).await;
    let second = suite.execute("orders", "{}").await;
    let mut other = FakeHost::connect(&suite, "other", &[("a", 1)]).await;
    assert!(other.do_next("{}").await.command_id.starts_with(&second));
    suite.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_bound_what_a_host_gets_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut suite = Suite::start(directory.path()).await;
    suite.register(sequence("orders", &["a"])).await;
    let mut host = FakeHost::connect(&suite, "h", &[("a", 2)]).await;
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(suite.execute("orders", "{}").await);
    }
    for _ in 0..3 {
        let (one, two) = (host.command().await, host.command().await);
        assert_eq!(suite.count(EventType::CommandDispatched).await % 2, 0);
        host.report(&one.command_id, completed("{}")).await;
        host.report(&two.command_id, completed("{}")).await;
    }
    for id in ids {
        suite.until(&id, TransactionState::Completed).await;
    }
    suite.stop().await;
}
