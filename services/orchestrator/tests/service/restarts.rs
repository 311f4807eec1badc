//! What was acknowledged goes on after a restart, whatever happened to state.db.

use std::path::Path;

use proto::wire;
use proto::wire::{EventType, TransactionState};

use crate::harness::{Suite, json, sequence};
use crate::host::{FakeHost, completed};

const LARGE: usize = 20_000;

/// Two steps, the first one done, its result too large for a row.
async fn half_done(suite: &mut Suite) -> (String, String) {
    suite.register(sequence("orders", &["a", "b"])).await;
    let mut host = FakeHost::connect(suite, "h", &[("a", 1), ("b", 1)]).await;
    let id = suite.execute("orders", r#"{"n":1}"#).await;
    host.do_next(&format!("{{\"large\":\"{}\"}}", "x".repeat(LARGE)))
        .await;
    (id, host.command().await.command_id)
}

/// The host comes back with the command it had, and everything ends once.
async fn goes_on(suite: &mut Suite, id: &str, held: &str) {
    let workers = [("a", 1), ("b", 1)];
    let mut host = FakeHost::reconnect(suite, "h", &workers, &[held.to_owned()]).await;
    assert!(host.welcome.revoked_command_ids.is_empty());
    host.complete(held, r#"{"y":2}"#).await;
    let ended = suite.until(id, TransactionState::Completed).await;
    assert_eq!(json(ended.steps[0].result.as_ref()).len(), LARGE + 12);
    assert_eq!(json(ended.steps[1].result.as_ref()), r#"{"y":2}"#);
    assert_eq!(ended.steps[1].attempts.len(), 1);
    assert_eq!(suite.count(EventType::CommandCompleted).await, 2);
    assert_eq!(suite.count(EventType::CommandLost).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_where_the_last_run_ended() {
    let directory = tempfile::tempdir().unwrap();
    let mut suite = Suite::start(directory.path()).await;
    let (id, held) = half_done(&mut suite).await;
    suite.stop().await;
    let mut suite = Suite::start(directory.path()).await;
    goes_on(&mut suite, &id, &held).await;
    suite.stop().await;
    // Ended ones are found without a replay.
    let mut suite = Suite::start(directory.path()).await;
    let ended = suite.status(&id).await;
    assert_eq!(ended.state(), TransactionState::Completed);
    assert_eq!(json(ended.steps[0].result.as_ref()).len(), LARGE + 12);
    assert_eq!(suite.count(EventType::OrchestratorStarted).await, 3);
    suite.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_state_db_or_with_a_spoilt_one_everything_is_still_there() {
    for spoil in [
        |path: &Path| std::fs::remove_file(path).unwrap(),
        |path: &Path| std::fs::write(path, vec![0xa5; 40_960]).unwrap(),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let mut suite = Suite::start(directory.path()).await;
        let (id, held) = half_done(&mut suite).await;
        suite.stop().await;
        spoil(&directory.path().join("state.db"));
        let mut suite = Suite::start(directory.path()).await;
        goes_on(&mut suite, &id, &held).await;
        suite.stop().await;
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else if entry.file_name() != "LOCK" {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_taken_in_mid_flight_has_everything_that_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let mut suite = Suite::start(directory.path()).await;
    let (id, held) = half_done(&mut suite).await;
    let mut more = Vec::new();
    for number in 0..20 {
        more.push(
            suite
                .execute("orders", &format!("{{\"n\":{number}}}"))
                .await,
        );
    }
    // As a crash would leave it: nothing was closed.
    let image = tempfile::tempdir().unwrap();
    copy(directory.path(), image.path());
    suite.stop().await;
    let mut suite = Suite::start(image.path()).await;
    for id in more {
        assert_eq!(suite.status(&id).await.workflow, "orders");
    }
    // The first step of the others would otherwise be given to the host as well.
    let mut host = FakeHost::reconnect(&suite, "h", &[("b", 1)], std::slice::from_ref(&held)).await;
    host.report(&held, completed("{}")).await;
    assert_eq!(host.acknowledgement().await, "");
    let ended = suite.until(&id, TransactionState::Completed).await;
    assert_eq!(ended.steps[0].attempts.len(), 1);
    suite.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_directory_is_refused_with_a_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let suite = Suite::start(directory.path()).await;
    let config = crate::harness::config(directory.path());
    let Err(refused) = orchestrator::open_log(&config) else {
        panic!("two writers");
    };
    assert_eq!(kit::exit_code_of(&refused), 75);
    assert!(refused.to_string().contains("in use"), "{refused}");
    suite.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_survive_and_the_same_content_is_the_same_version() {
    let directory = tempfile::tempdir().unwrap();
    let mut suite = Suite::start(directory.path()).await;
    suite.register(sequence("orders", &["a"])).await;
    suite.register(sequence("orders", &["a", "b"])).await;
    suite.stop().await;
    let mut suite = Suite::start(directory.path()).await;
    suite.register(sequence("orders", &["a", "b"])).await;
    let newest = wire::GetWorkflowRequest {
        name: "orders".to_owned(),
        version: 0,
    };
    let answer = suite
        .client
        .get_workflow(newest)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.workflow.unwrap().version, 2);
    suite.stop().await;
}
