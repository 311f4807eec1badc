//! Idempotency keys: one start, for as long as its transaction is retained.

use proto::wire;
use proto::wire::TransactionState;
use proto::wire::execute_workflow_request::Payload;

use crate::harness::{Suite, reason, sequence, start, start_and_wait};
use crate::host::FakeHost;

fn with_key(request: wire::ExecuteWorkflowRequest, key: &str) -> wire::ExecuteWorkflowRequest {
    wire::ExecuteWorkflowRequest {
        idempotency_key: key.to_owned(),
        ..request
    }
}

fn input_as_struct() -> Payload {
    use prost_types::value::Kind;
    let number = |number| prost_types::Value {
        kind: Some(Kind::NumberValue(number)),
    };
    Payload::Input(prost_types::Struct {
        fields: [("b".to_owned(), number(2.0)), ("a".to_owned(), number(1.0))].into(),
    })
}

/// The same start in three forms, and others that differ in one thing each.
async fn one_start_and_no_other(suite: &mut Suite, id: &str) {
    let same = [
        start("orders", r#"{"a":1,"b":2}"#),
        start("orders", r#" {"b": 2, "a": 1} "#),
        wire::ExecuteWorkflowRequest {
            payload: Some(input_as_struct()),
            ..start("orders", "{}")
        },
    ];
    for request in same {
        let answer = suite.client.execute_workflow(with_key(request, "k")).await;
        let answer = answer.unwrap().into_inner();
        assert!(answer.existing);
        assert_eq!(answer.transaction_id, id);
        assert_eq!(answer.transaction.unwrap().transaction_id, id);
    }
    let different = [
        start("orders", r#"{"a":1}"#),
        wire::ExecuteWorkflowRequest {
            version: 1,
            ..start("orders", r#"{"a":1,"b":2}"#)
        },
        wire::ExecuteWorkflowRequest {
            labels: [("a".to_owned(), "b".to_owned())].into(),
            ..start("orders", r#"{"a":1,"b":2}"#)
        },
    ];
    for request in different {
        let refused = suite.client.execute_workflow(with_key(request, "k")).await;
        assert_eq!(reason(&refused.unwrap_err()), "IDEMPOTENCY_KEY_REUSED");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_key_is_the_same_transaction_live_ended_written_and_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut suite = Suite::start(directory.path()).await;
    suite.register(sequence("orders", &["w"])).await;
    suite.register(sequence("others", &["w"])).await;
    let request = with_key(start("orders", r#"{"a":1,"b":2}"#), "k");
    let first = suite
        .client
        .execute_workflow(request)
        .await
        .unwrap()
        .into_inner();
    assert!(!first.existing);
    let id = first.transaction_id;
    one_start_and_no_other(&mut suite, &id).await;

    let mut host = FakeHost::connect(&suite, "h", &[("w", 2)]).await;
    host.do_next("{}").await;
    suite.until(&id, TransactionState::Completed).await;
    one_start_and_no_other(&mut suite, &id).await;

    // A list brings state.db up to now, and what has ended leaves memory.
    let list = wire::ListTransactionsRequest::default();
    suite.client.list_transactions(list).await.unwrap();
    one_start_and_no_other(&mut suite, &id).await;
    assert_eq!(suite.count(wire::EventType::TransactionStarted).await, 1);

    // The key is the workflow's own.
    let other = with_key(start("others", r#"{"a":1,"b":2}"#), "k");
    let other = suite
        .client
        .execute_workflow(other)
        .await
        .unwrap()
        .into_inner();
    assert!(!other.existing && other.transaction_id != id);
    drop(host);
    suite.stop().await;

    let mut suite = Suite::start(directory.path()).await;
    one_start_and_no_other(&mut suite, &id).await;
    suite.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_one_key_is_one_start_and_all_get_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let mut suite = Suite::start(directory.path()).await;
    suite.register(sequence("orders", &["w"])).await;
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let mut client = suite.client.clone();
            let request = with_key(start_and_wait("orders", "{}"), "k");
            tokio::spawn(async move { client.execute_workflow(request).await })
        })
        .collect();
    let mut host = FakeHost::connect(&suite, "h", &[("w", 2)]).await;
    host.do_next("{}").await;
    let mut ids = std::collections::BTreeSet::new();
    for call in calls {
        let answer = call.await.unwrap().unwrap().into_inner();
        let transaction = answer.transaction.unwrap();
        assert_eq!(transaction.state(), TransactionState::Completed);
        ids.insert(answer.transaction_id);
    }
    assert_eq!(ids.len(), 1);
    assert_eq!(suite.count(wire::EventType::TransactionStarted).await, 1);
    suite.stop().await;
}

/// What a stream of these starts is answered, a line each, sorted; it ends when all of them have.
async fn over_a_stream(
    suite: &mut Suite,
    starts: Vec<wire::ExecuteWorkflowRequest>,
) -> Vec<String> {
    use proto::wire::execute_workflows_response::Answer;
    let mut answers = suite.stream(starts).await;
    let mut lines = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        let line = |verb: &str, answer: wire::ExecuteWorkflowResponse| {
            let transaction = answer.transaction.unwrap();
            assert_eq!(transaction.transaction_id, answer.transaction_id);
            let (state, steps) = (transaction.state(), transaction.steps.len());
            format!(
                "{verb} {state:?}, {steps} steps, existing: {}",
                answer.existing
            )
        };
        let said = match answer.answer.unwrap() {
            Answer::Started(started) => line("1 started", started),
            Answer::Ended(ended) => line("2 ended", ended),
            Answer::Refused(refused) => format!("refused {}", refused.reason),
        };
        lines.push(format!("{} {said}", answer.request_id));
    }
    // Of one start they come in order.
    let order = |lines: &[String]| -> Vec<String> {
        let mut by_start = lines.to_vec();
        by_start.sort_by_key(|line| line[..1].to_owned());
        by_start
    };
    let in_order = order(&lines);
    lines.sort();
    assert_eq!(in_order, lines);
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_key_over_a_stream_is_answered_with_the_start_and_the_end_that_it_has() {
    let directory = tempfile::tempdir().unwrap();
    let mut suite = Suite::start(directory.path()).await;
    suite.register(sequence("orders", &["w"])).await;
    let request = || with_key(start_and_wait("orders", "{}"), "k");
    let mut host = FakeHost::connect(&suite, "h", &[("w", 2)]).await;

    // Live: whoever comes second gets the same end.
    let doing = tokio::spawn(async move {
        host.do_next("{}").await;
        host
    });
    let both = over_a_stream(&mut suite, vec![request(), request()]).await;
    let of_who = |existing: bool| {
        both.iter()
            .filter(move |line| line.ends_with(&existing.to_string()))
    };
    assert_eq!(both.len(), 4, "{both:?}");
    assert_eq!(of_who(true).count(), 2, "{both:?}");
    assert_eq!(
        both.iter()
            .filter(|line| line.contains("ended Completed, 1 steps"))
            .count(),
        2
    );
    drop(doing.await.unwrap());

    // Ended, and then in state.db alone, which a list brings up to now.
    for _ in 0..2 {
        let without_wait = with_key(start("orders", "{}"), "k");
        let other = with_key(start("orders", r#"{"a":1}"#), "k");
        let answers = over_a_stream(&mut suite, vec![request(), without_wait, other]).await;
        assert_eq!(
            answers,
            [
                "1 1 started Completed, 0 steps, existing: true",
                "1 2 ended Completed, 1 steps, existing: true",
                "2 1 started Completed, 0 steps, existing: true",
                "3 refused IDEMPOTENCY_KEY_REUSED",
            ]
        );
        let list = wire::ListTransactionsRequest::default();
        suite.client.list_transactions(list).await.unwrap();
    }
    suite.stop().await;
}
