//! Bad starts, and bad questions about transactions.

use proto::wire::{
    CancelTransactionRequest, ExecuteWorkflowRequest, GetStatusRequest, ListTransactionsRequest,
    StreamEventsRequest, execute_workflow_request::Payload,
};
use tests::Suite;
use tonic::{Code, Request};

use super::{lives, refused};

fn start(workflow: &str, json: impl Into<Vec<u8>>) -> ExecuteWorkflowRequest {
    ExecuteWorkflowRequest {
        workflow: workflow.to_owned(),
        payload: Some(Payload::InputJson(json.into().into())),
        ..Default::default()
    }
}

#[tokio::test]
async fn bad_starts_are_refused() {
    let mut suite = Suite::start().await;
    let nested = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let large = |bytes: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(bytes - 8));
    let good = "three_noops";
    let keyed = |key: String| ExecuteWorkflowRequest {
        idempotency_key: key,
        ..start(good, "{}")
    };
    let labelled = |key: &str, value: &str| ExecuteWorkflowRequest {
        labels: [(key.to_owned(), value.to_owned())].into(),
        ..start(good, "{}")
    };
    let waiting = |seconds: i64, nanos: i32| ExecuteWorkflowRequest {
        wait: Some(prost_types::Duration { seconds, nanos }),
        ..start(good, "{}")
    };
    let ia = Code::InvalidArgument;
    let cases = [
        ("no name", start("", "{}"), (ia, "FIELD_MISSING")),
        (
            "a slip",
            start("three_nops", "{}"),
            (Code::NotFound, "WORKFLOW_NOT_FOUND"),
        ),
        (
            "a name that isn't one",
            start("../x\u{1b}[2J", "{}"),
            (ia, "NAME_INVALID"),
        ),
        ("a long key", keyed("k".repeat(201)), (ia, "FIELD_INVALID")),
        ("a list", start(good, "[1]"), (ia, "PAYLOAD_NOT_OBJECT")),
        (
            "half a word",
            start(good, "nul"),
            (ia, "PAYLOAD_NOT_OBJECT"),
        ),
        ("nothing", start(good, ""), (ia, "PAYLOAD_NOT_OBJECT")),
        (
            "a key twice",
            start(good, r#"{"a":1,"a":2}"#),
            (ia, "PAYLOAD_DUPLICATE_KEY"),
        ),
        ("10,000 deep", start(good, nested), (ia, "PAYLOAD_TOO_DEEP")),
        (
            "byte FF",
            start(good, b"{\"a\":\"\xff\"}".to_vec()),
            (ia, "PAYLOAD_NOT_UTF8"),
        ),
        (
            "half a pair",
            start(good, r#"{"a":"\ud800"}"#),
            (ia, "PAYLOAD_NOT_UTF8"),
        ),
        (
            "1 MiB and 1",
            start(good, large((1 << 20) + 1)),
            (ia, "PAYLOAD_TOO_LARGE"),
        ),
        (
            "5 MiB",
            start(good, large(5 << 20)),
            (Code::OutOfRange, "MESSAGE_TOO_LARGE"),
        ),
        ("a bad label", labelled("a b", "x"), (ia, "NAME_INVALID")),
        (
            "a negative wait",
            waiting(-1, 0),
            (ia, "FIELD_OUT_OF_RANGE"),
        ),
        (
            "impossible nanos",
            waiting(1, 2_000_000_000),
            (ia, "FIELD_OUT_OF_RANGE"),
        ),
        (
            "an hour's wait",
            waiting(3600, 0),
            (ia, "FIELD_OUT_OF_RANGE"),
        ),
    ];
    for (what, request, expected) in cases {
        let answer = suite.client().raw().execute_workflow(request).await;
        if what == "a slip" {
            let status = answer.as_ref().expect_err("refused");
            assert!(
                status.message().contains("three_noops"),
                "suggests: {status:?}"
            );
        }
        refused(&mut suite, what, answer, expected).await;
    }
    // The limit itself is allowed.
    let most = suite
        .client()
        .raw()
        .execute_workflow(start(good, large(1 << 20)))
        .await;
    assert!(most.is_ok(), "{most:?}");
}

#[tokio::test]
async fn bad_questions_about_transactions_are_refused() {
    let mut suite = Suite::start().await;
    let client = suite.client().raw();
    let ia = Code::InvalidArgument;
    let unknown = "01890a5d-ac96-774b-bcce-b302099a8057";
    for (id, expected) in [
        ("", (ia, "FIELD_MISSING")),
        ("1", (ia, "FIELD_INVALID")),
        ("\u{202e}x", (ia, "FIELD_INVALID")),
        (unknown, (Code::NotFound, "TRANSACTION_NOT_FOUND")),
    ] {
        let transaction_id = id.to_owned();
        let status = GetStatusRequest {
            transaction_id: transaction_id.clone(),
            payload_form: 0,
        };
        let answer = client.clone().get_status(status).await;
        refused(&mut suite, &format!("status of {id:?}"), answer, expected).await;
        let cancel = CancelTransactionRequest {
            transaction_id,
            ..Default::default()
        };
        let answer = client.clone().cancel_transaction(cancel).await;
        refused(&mut suite, &format!("cancelling {id:?}"), answer, expected).await;
    }
    let page = |page_size: i32, page_token: &str| ListTransactionsRequest {
        page_size,
        page_token: page_token.to_owned(),
        ..Default::default()
    };
    let answer = client.clone().list_transactions(page(10, "forged")).await;
    refused(
        &mut suite,
        "a forged token",
        answer,
        (ia, "PAGE_TOKEN_INVALID"),
    )
    .await;
    let answer = client.clone().list_transactions(page(-1, "")).await;
    refused(
        &mut suite,
        "a negative page",
        answer,
        (ia, "FIELD_OUT_OF_RANGE"),
    )
    .await;
    let clamped = client
        .clone()
        .list_transactions(page(1_000_000_000, ""))
        .await;
    assert!(clamped.is_ok(), "a page too large is clamped: {clamped:?}");
}

/// A deadline that has passed says so, and a client that goes away in mid-stream is no matter.
#[tokio::test]
async fn callers_that_cannot_wait_harm_nobody() {
    let mut suite = Suite::start().await;
    let client = suite.client().raw();
    let mut request = Request::new(start("three_noops", "{}"));
    let now = "1n".parse().expect("ASCII");
    request.metadata_mut().insert("grpc-timeout", now);
    let answer = client.clone().execute_workflow(request).await;
    let status = answer.expect_err("too late");
    let code = status.code();
    // The client's own clock may say it before the server's answer comes.
    assert!(
        matches!(code, Code::DeadlineExceeded | Code::Cancelled),
        "{status:?}"
    );
    lives(&mut suite, "a deadline of 1 ns").await;

    for _ in 0..20 {
        let started = suite
            .client()
            .start("one_slow", &serde_json::json!({}))
            .await;
        let id = started.expect("it starts").transaction_id;
        let mut watch = suite.client().watch(&id).await.expect("it can be watched");
        watch.next().await.expect("a first state");
        drop(watch);
        let mut monitor = suite.monitor().raw_events();
        let feed = monitor.stream_events(StreamEventsRequest::default()).await;
        drop(feed.expect("a feed"));
    }
    lives(&mut suite, "clients that went away").await;
}
