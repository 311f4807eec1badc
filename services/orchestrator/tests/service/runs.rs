//! A transaction from its start to its end, as clients and hosts see it.

use proto::wire;
use proto::wire::{Stage, StepState, TransactionState};

use crate::harness::{
    PATIENCE, Suite, config, json, reason, sequence, start, start_and_wait, step,
};
use crate::host::{FakeHost, failed};

#[tokio::test(flavor = "multi_thread")]
async fn steps_receive_the_input_overlaid_with_the_results_before_them() {
    let directory = tempfile::tempdir().unwrap();
    let mut suite = Suite::start(directory.path()).await;
    suite.register(sequence("orders", &["a", "b"])).await;
    let mut host = FakeHost::connect(&suite, "h", &[("a", 1), ("b", 1)]).await;
    let mut client = suite.client.clone();
    let waiting = tokio::spawn(async move {
        client
            .execute_workflow(start_and_wait("orders", r#"{"n":1}"#))
            .await
    });
    let first = host.do_next(r#"{"x":12345678901234567890}"#).await;
    assert_eq!(first.worker, "a");
    assert_eq!(first.context_json, [r#"{"n":1}"#.as_bytes()]);
    let second = host.do_next(r#"{"y":2}"#).await;
    assert_eq!(
        second.context_json,
        [r#"{"n":1}"#.as_bytes(), br#"{"x":12345678901234567890}"#]
    );
    let ended = waiting.await.unwrap().unwrap().into_inner();
    let transaction = ended.transaction.unwrap();
    assert_eq!(transaction.state(), TransactionState::Completed);
    assert!(!ended.existing && transaction.end_time.is_some());
    assert_eq!(json(transaction.input.as_ref()), r#"{"n":1}"#);
    let [a, b] = &transaction.steps[..] else {
        panic!("{transaction:?}");
    };
    assert_eq!(
        (a.state(), b.state()),
        (StepState::Completed, StepState::Completed)
    );
    assert_eq!(json(a.result.as_ref()), r#"{"x":12345678901234567890}"#);
    let attempt = &a.attempts[0];
    assert_eq!(attempt.command_id, first.command_id);
    assert_eq!(
        (attempt.stage(), attempt.host_id.as_str()),
        (Stage::Completed, "h")
    );
    assert_eq!(attempt.run.as_ref().map(|run| run.nanos), Some(2_000_000));
    suite.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_steps_are_out_at_once_and_join() {
    let directory = tempfile::tempdir().unwrap();
    let mut suite = Suite::start(directory.path()).await;
    let after = |names: &[&str]| {
        Some(wire::Predecessors {
            steps: names.iter().map(|name| (*name).to_owned()).collect(),
        })
    };
    suite
        .register(wire::Workflow {
            name: "fan".to_owned(),
            steps: vec![
                wire::Step {
                    after: after(&[]),
                    ..step("left")
                },
                wire::Step {
                    after: after(&[]),
                    ..step("right")
                },
                wire::Step {
                    after: after(&["left", "right"]),
                    ..step("join")
                },
            ],
            ..Default::default()
        })
        .await;
    let mut host = FakeHost::connect(&suite, "h", &[("left", 1), ("right", 1), ("join", 1)]).await;
    let id = suite.execute("fan", "{}").await;
    let (one, other) = (host.command().await, host.command().await);
    host.complete(&other.command_id, r#"{"from":"right"}"#)
        .await;
    host.complete(&one.command_id, r#"{"from":"left"}"#).await;
    let join = host.do_next("{}").await;
    // The order of the definition, whoever finished first.
    assert_eq!(
        join.context_json,
        [
            b"{}".as_slice(),
            br#"{"from":"left"}"#,
            br#"{"from":"right"}"#
        ]
    );
    suite.until(&id, TransactionState::Completed).await;
    suite.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_undoes_what_was_done() {
    let directory = tempfile::tempdir().unwrap();
    let mut suite = Suite::start(directory.path()).await;
    let mut workflow = sequence("trip", &["book", "pay"]);
    workflow.steps[0].undo = Some(wire::Undo {
        worker: "unbook".to_owned(),
        ..Default::default()
    });
    suite.register(workflow).await;
    let mut host = FakeHost::connect(&suite, "h", &[("book", 1), ("pay", 1), ("unbook", 1)]).await;
    let id = suite.execute("trip", "{}").await;
    host.do_next(r#"{"seat":"7F"}"#).await;
    let pay = host.command().await;
    host.report(&pay.command_id, failed("CardDeclined")).await;
    let undo = host.do_next("{}").await;
    assert_eq!(undo.worker, "unbook");
    let context = undo.undo.unwrap();
    assert_eq!(context.result_json, br#"{"seat":"7F"}"#.as_slice());
    assert_eq!(context.failure.unwrap().kind, "CardDeclined");
    let ended = suite.until(&id, TransactionState::Compensated).await;
    assert_eq!(ended.failed_step, "pay");
    assert_eq!(ended.steps[0].state(), StepState::Compensated);
    assert_eq!(ended.steps[0].undo_attempts.len(), 1);
    suite.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_is_up_says_how_things_stand() {
    let directory = tempfile::tempdir().unwrap();
    let mut suite = Suite::start(directory.path()).await;
    suite.register(sequence("orders", &["a"])).await;
    let request = wire::ExecuteWorkflowRequest {
        wait: Some(prost_types::Duration {
            seconds: 0,
            nanos: 1_000_000,
        }),
        ..start("orders", r#"{"n":1}"#)
    };
    let answer = suite
        .client
        .execute_workflow(request)
        .await
        .unwrap()
        .into_inner();
    let transaction = answer.transaction.unwrap();
    assert_eq!(transaction.state(), TransactionState::Pending);
    assert_eq!(transaction.steps.len(), 1);
    assert_eq!(transaction.transaction_id, answer.transaction_id);
    suite.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_transaction_stops_its_command_and_ends_as_cancelled() {
    let directory = tempfile::tempdir().unwrap();
    let mut suite = Suite::start(directory.path()).await;
    suite.register(sequence("orders", &["a", "b"])).await;
    let mut host = FakeHost::connect(&suite, "h", &[("a", 1), ("b", 1)]).await;
    let id = suite.execute("orders", "{}").await;
    let command = host.command().await;
    let cancel = wire::CancelTransactionRequest {
        transaction_id: id.clone(),
        reason: "changed my mind".to_owned(),
        skip_compensation: false,
    };
    for _ in 0..2 {
        let answer = suite
            .client
            .cancel_transaction(cancel.clone())
            .await
            .unwrap();
        assert!(answer.into_inner().transaction.unwrap().cancel_requested);
    }
    assert_eq!(host.cancel().await, command.command_id);
    host.report(
        &command.command_id,
        wire::command_result::Outcome::Cancelled(wire::Cancelled {}),
    )
    .await;
    let ended = suite.until(&id, TransactionState::Cancelled).await;
    assert_eq!(ended.steps[1].state(), StepState::Skipped);
    let again = suite.client.cancel_transaction(cancel).await.unwrap_err();
    assert_eq!(crate::harness::reason(&again), "TRANSACTION_ENDED");
    suite.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_shows_what_was_acknowledged_before_it_newest_first() {
    let directory = tempfile::tempdir().unwrap();
    let mut suite = Suite::start(directory.path()).await;
    suite.register(sequence("orders", &["a"])).await;
    suite.register(sequence("others", &["a"])).await;
    let mut started = Vec::new();
    for number in 0..5 {
        started.push(
            suite
                .execute("orders", &format!("{{\"n\":{number}}}"))
                .await,
        );
    }
    suite.execute("others", "{}").await;
    started.reverse();
    let mut request = wire::ListTransactionsRequest {
        page_size: 2,
        workflow: "orders".to_owned(),
        ..Default::default()
    };
    let mut listed = Vec::new();
    loop {
        let page = suite
            .client
            .list_transactions(request.clone())
            .await
            .unwrap()
            .into_inner();
        for transaction in page.transactions {
            assert!(transaction.input.is_none() && transaction.steps.is_empty());
            listed.push(transaction.transaction_id);
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(listed, started);
    suite.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_starts_over_one_stream_are_each_answered_for_themselves() {
    use proto::wire::execute_workflows_response::Answer;
    let directory = tempfile::tempdir().unwrap();
    let mut suite = Suite::start(directory.path()).await;
    suite.register(sequence("orders", &["a"])).await;
    let mut host = FakeHost::connect(&suite, "h", &[("a", 4)]).await;
    let starts = vec![start_and_wait("orders", "{}"), start("unknown", "{}")];
    let mut answers = suite.stream(starts).await;
    host.do_next("{}").await;
    let mut seen = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        seen.push(match answer.answer.unwrap() {
            Answer::Started(_) => format!("{} started", answer.request_id),
            Answer::Ended(ended) => {
                let state = ended.transaction.unwrap().state();
                format!("{} {state:?}", answer.request_id)
            }
            Answer::Refused(refused) => format!("{} {}", answer.request_id, refused.reason),
        });
    }
    seen.sort();
    assert_eq!(seen, ["1 Completed", "1 started", "2 WORKFLOW_NOT_FOUND"]);
    suite.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_waits_for_ends_does_not_hold_up_a_stop() {
    use proto::wire::execute_workflows_response::Answer;
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    config.server.drain_grace.0 = 10 * PATIENCE;
    let mut suite = Suite::start_with(config).await;
    suite.register(sequence("orders", &["a"])).await;
    let mut answers = suite.stream(vec![start_and_wait("orders", "{}")]).await;
    let first = answers.message().await.unwrap().unwrap();
    assert!(matches!(first.answer, Some(Answer::Started(_))));
    tokio::time::timeout(PATIENCE, suite.stop()).await.unwrap();
    assert_eq!(
        reason(&answers.message().await.unwrap_err()),
        "SHUTTING_DOWN"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_transaction_keeps_the_definition_that_it_started_with() {
    let directory = tempfile::tempdir().unwrap();
    let mut suite = Suite::start(directory.path()).await;
    suite.register(sequence("orders", &["a", "b"])).await;
    let mut host = FakeHost::connect(&suite, "h", &[("a", 1), ("b", 1), ("c", 1)]).await;
    let old = suite.execute("orders", "{}").await;
    suite.register(sequence("orders", &["a", "c"])).await;
    host.do_next("{}").await;
    assert_eq!(host.do_next("{}").await.worker, "b");
    assert_eq!(
        suite.until(&old, TransactionState::Completed).await.version,
        1
    );
    let new = suite.execute("orders", "{}").await;
    host.do_next("{}").await;
    assert_eq!(host.do_next("{}").await.worker, "c");
    assert_eq!(
        suite.until(&new, TransactionState::Completed).await.version,
        2
    );
    suite.stop().await;
}
