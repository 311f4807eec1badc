//! A log that refuses, and one that doesn't know.

use eventlog::{MemoryStore, Options, Refused, Room};
use proto::wire;
use proto::wire::{EventType, TransactionState};

use crate::harness::{Suite, config, reason, sequence, start, start_and_wait};
use crate::host::{FakeHost, completed};

async fn on(store: &MemoryStore, directory: &std::path::Path) -> Suite {
    let log = store.open(Options::default()).unwrap();
    Suite::start_on(config(directory), Box::new(log)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn near_the_end_of_the_disk_what_ends_work_is_taken_and_what_begins_it_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let store = MemoryStore::new();
    let mut suite = on(&store, directory.path()).await;
    suite.register(sequence("orders", &["a"])).await;
    let id = suite.execute("orders", "{}").await;
    store.set_room(Room::Reserved);
    let refused = suite
        .client
        .execute_workflow(start("orders", "{}"))
        .await
        .unwrap_err();
    assert_eq!(reason(&refused), "STORE_FULL");
    let mut host = FakeHost::connect(&suite, "h", &[("a", 1)]).await;
    host.do_next("{}").await;
    suite.until(&id, TransactionState::Completed).await;
    store.set_room(Room::Ample);
    suite.execute("orders", "{}").await;
    suite.stop().await;
}

/// Lost with its batch are a start and its end; who asked for both over a stream is told once.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_of_a_stream_that_the_log_refused_is_refused_once() {
    use proto::wire::execute_workflows_response::Answer;
    let directory = tempfile::tempdir().unwrap();
    let store = MemoryStore::new();
    let mut suite = on(&store, directory.path()).await;
    suite.register(sequence("orders", &["a"])).await;
    let refused = loop {
        store.refuse_next(Refused::Full("a test".to_owned()));
        // The refused batch may be one of the orchestrator's own samples: then a host ends the start.
        let mut answers = suite.stream(vec![start_and_wait("orders", "{}")]).await;
        let first = answers.message().await.unwrap().unwrap();
        match first.answer.unwrap() {
            Answer::Refused(refused) => {
                let more = answers.message().await.unwrap();
                assert!(more.is_none(), "{more:?}");
                break refused;
            }
            _ => continue,
        }
    };
    assert_eq!(refused.reason, "STORE_FULL");
    suite.stop().await;
}

/// The start was durable long before: to say that nothing happened would be to ask for another one.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_an_end_that_the_log_refused_waits_for_the_next_one() {
    use proto::wire::execute_workflows_response::Answer;
    let directory = tempfile::tempdir().unwrap();
    let store = MemoryStore::new();
    let mut suite = on(&store, directory.path()).await;
    suite.register(sequence("orders", &["a"])).await;
    let mut client = suite.client.clone();
    let waiting = tokio::spawn(async move {
        client
            .execute_workflow(start_and_wait("orders", "{}"))
            .await
    });
    let mut streamed = suite.stream(vec![start_and_wait("orders", "{}")]).await;
    let mut host = FakeHost::connect(&suite, "h", &[("a", 2)]).await;
    let held = [host.command().await, host.command().await].map(|command| command.command_id);
    let watched = held[0].split('/').next().unwrap().to_owned();
    let request = wire::WatchTransactionRequest {
        transaction_id: watched,
        ..Default::default()
    };
    let mut watch = suite
        .client
        .watch_transaction(request)
        .await
        .unwrap()
        .into_inner();
    store.refuse_next(Refused::Full("a test".to_owned()));
    for id in &held {
        host.report(id, completed("{}")).await;
    }
    assert_eq!(reason(&host.end().await), "STORE_FULL");

    let mut host = FakeHost::reconnect(&suite, "h", &[("a", 2)], &held).await;
    for id in &held {
        host.complete(id, "{}").await;
    }
    let ended = waiting.await.unwrap().unwrap().into_inner();
    let ended = ended.transaction.unwrap();
    assert_eq!(ended.state(), TransactionState::Completed);
    while let Some(answer) = streamed.message().await.unwrap() {
        assert!(
            !matches!(answer.answer, Some(Answer::Refused(_))),
            "{answer:?}"
        );
        if let Some(Answer::Ended(ended)) = answer.answer {
            let ended = ended.transaction.unwrap();
            assert_eq!(ended.state(), TransactionState::Completed);
        }
    }
    let mut last = None;
    while let Some(change) = watch.message().await.unwrap() {
        last = change.transaction;
    }
    assert_eq!(last.unwrap().state(), TransactionState::Completed);
    suite.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_batch_never_happened_and_the_next_one_does() {
    let directory = tempfile::tempdir().unwrap();
    let store = MemoryStore::new();
    let mut suite = on(&store, directory.path()).await;
    suite.register(sequence("orders", &["a"])).await;
    let before = suite.execute("orders", "{}").await;
    store.refuse_next(Refused::Full("a test".to_owned()));
    // The refused batch may be one of the orchestrator's own samples.
    let refused = loop {
        match suite.client.execute_workflow(start("orders", "{}")).await {
            Ok(_) => {}
            Err(status) => break status,
        }
        store.refuse_next(Refused::Full("a test".to_owned()));
    };
    assert_eq!(reason(&refused), "STORE_FULL");
    let after = suite.execute("orders", "{}").await;
    let mut host = FakeHost::connect(&suite, "h", &[("a", 8)]).await;
    let started = suite.count(EventType::TransactionStarted).await;
    for _ in 0..started {
        host.do_next("{}").await;
    }
    suite.until(&before, TransactionState::Completed).await;
    suite.until(&after, TransactionState::Completed).await;
    suite.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_of_unknown_fate_ends_the_process_with_74() {
    for written in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let store = MemoryStore::new();
        let mut suite = on(&store, directory.path()).await;
        suite.register(sequence("orders", &["a"])).await;
        store.unknown_next(written);
        let failed = suite
            .client
            .execute_workflow(start("orders", "{}"))
            .await
            .unwrap_err();
        assert_eq!(reason(&failed), "STORE_FAILED");
        let end = suite.ended().await.unwrap_err();
        assert_eq!(kit::exit_code_of(&end), 74);
        // The next start finds out.
        let suite = on(&store, directory.path()).await;
        let started = suite.count(EventType::TransactionStarted).await;
        assert_eq!(started, usize::from(written));
        suite.stop().await;
    }
}
