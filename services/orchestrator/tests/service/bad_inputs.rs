//! What clients and hosts must not send: the right code, a sentence that helps, and afterwards the next
//! good request is served.

use prost_types::Duration;
use proto::wire;
use proto::wire::execute_workflow_request::Payload;
use proto::wire::register_workflow_request::Source;
use tonic::{Code, Status};

use crate::harness::{Suite, reason, sequence, start, step};
use crate::host::{announce, open};

/// Afterwards everything goes on, and nothing was begun.
async fn still_serves(suite: &mut Suite, started: usize) {
    suite.execute("orders", "{}").await;
    let count = suite.count(wire::EventType::TransactionStarted).await;
    assert_eq!(count, started + 1);
}

fn check(what: &str, answer: Result<(), Status>, code: Code, expected: &str) {
    let Err(status) = answer else {
        panic!("{what} was accepted");
    };
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (code, expected),
        "{what}: {status:?}"
    );
    assert!(status.message().len() > 20, "{what}: {}", status.message());
}

async fn ready() -> (tempfile::TempDir, Suite) {
    let directory = tempfile::tempdir().unwrap();
    let mut suite = Suite::start(directory.path()).await;
    suite.register(sequence("orders", &["a"])).await;
    (directory, suite)
}

#[tokio::test(flavor = "multi_thread")]
async fn starts() {
    let (_directory, mut suite) = ready().await;
    let raw = |bytes: &[u8]| wire::ExecuteWorkflowRequest {
        payload: Some(Payload::InputJson(bytes.to_vec().into())),
        ..start("orders", "{}")
    };
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(1 << 20));
    let good = start("orders", "{}");
    let labels = (0..33).map(|n| (format!("l{n}"), String::new())).collect();
    let invalid = Code::InvalidArgument;
    let table = [
        ("no workflow", start("", "{}"), invalid, "FIELD_MISSING"),
        (
            "unknown workflow",
            start("ordrs", "{}"),
            Code::NotFound,
            "WORKFLOW_NOT_FOUND",
        ),
        (
            "unknown version",
            wire::ExecuteWorkflowRequest {
                version: 9,
                ..good.clone()
            },
            Code::NotFound,
            "WORKFLOW_NOT_FOUND",
        ),
        (
            "a name that moves",
            start("../x", "{}"),
            invalid,
            "NAME_INVALID",
        ),
        (
            "a key of 201 bytes",
            wire::ExecuteWorkflowRequest {
                idempotency_key: "k".repeat(201),
                ..good.clone()
            },
            invalid,
            "FIELD_INVALID",
        ),
        (
            "33 labels",
            wire::ExecuteWorkflowRequest {
                labels,
                ..good.clone()
            },
            invalid,
            "FIELD_INVALID",
        ),
        (
            "a wait below zero",
            wire::ExecuteWorkflowRequest {
                wait: Some(Duration {
                    seconds: -1,
                    nanos: 0,
                }),
                ..good.clone()
            },
            invalid,
            "FIELD_OUT_OF_RANGE",
        ),
        (
            "a wait of an hour",
            wire::ExecuteWorkflowRequest {
                wait: Some(Duration {
                    seconds: 3_600,
                    nanos: 0,
                }),
                ..good.clone()
            },
            invalid,
            "FIELD_OUT_OF_RANGE",
        ),
        (
            "an unknown form",
            wire::ExecuteWorkflowRequest {
                payload_form: 77,
                ..good
            },
            invalid,
            "FIELD_INVALID",
        ),
        ("an array", raw(b"[1]"), invalid, "PAYLOAD_NOT_OBJECT"),
        ("no JSON", raw(b"nul"), invalid, "PAYLOAD_NOT_OBJECT"),
        ("nothing", raw(b""), invalid, "PAYLOAD_NOT_OBJECT"),
        (
            "a key twice",
            raw(br#"{"a":1,"a":2}"#),
            invalid,
            "PAYLOAD_DUPLICATE_KEY",
        ),
        (
            "10,000 deep",
            raw(deep.as_bytes()),
            invalid,
            "PAYLOAD_TOO_DEEP",
        ),
        (
            "byte FF",
            raw(b"{\"a\":\"\xff\"}"),
            invalid,
            "PAYLOAD_NOT_UTF8",
        ),
        (
            "half a character",
            raw(br#"{"a":"\ud800"}"#),
            invalid,
            "PAYLOAD_NOT_UTF8",
        ),
        (
            "too large",
            raw(large.as_bytes()),
            invalid,
            "PAYLOAD_TOO_LARGE",
        ),
        (
            "5 MiB",
            raw(&vec![b' '; 5 << 20]),
            Code::OutOfRange,
            "MESSAGE_TOO_LARGE",
        ),
    ];
    for (what, request, code, expected) in table {
        let answer = suite.client.execute_workflow(request).await.map(|_| ());
        check(what, answer, code, expected);
    }
    let suggests = suite
        .client
        .execute_workflow(start("ordrs", "{}"))
        .await
        .unwrap_err();
    assert!(
        suggests.message().contains("\"orders\""),
        "{}",
        suggests.message()
    );
    still_serves(&mut suite, 0).await;
    suite.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions() {
    let (_directory, mut suite) = ready().await;
    let after = |name: &str| {
        Some(wire::Predecessors {
            steps: vec![name.to_owned()],
        })
    };
    let of = |steps: Vec<wire::Step>| {
        Some(Source::Workflow(wire::Workflow {
            name: "w".to_owned(),
            steps,
            ..Default::default()
        }))
    };
    let timeout = |seconds, nanos| {
        of(vec![wire::Step {
            timeout: Some(Duration { seconds, nanos }),
            ..step("a")
        }])
    };
    let many = (0..10_001).map(|n| step(&format!("s{n}"))).collect();
    let circle = vec![
        wire::Step {
            after: after("b"),
            ..step("a")
        },
        wire::Step {
            after: after("a"),
            ..step("b")
        },
    ];
    let yaml = |text: &str| Some(Source::WorkflowYaml(text.to_owned()));
    let attempts = wire::RetryPolicy {
        attempts: 1 << 31,
        ..Default::default()
    };
    let table = [
        ("nothing", None, "FIELD_MISSING"),
        ("no steps", of(vec![]), "FIELD_MISSING"),
        ("a circle", of(circle), "WORKFLOW_CYCLE"),
        (
            "an unknown step",
            of(vec![wire::Step {
                after: after("nope"),
                ..step("a")
            }]),
            "WORKFLOW_UNKNOWN_STEP",
        ),
        (
            "two of a name",
            of(vec![step("a"), step("a")]),
            "WORKFLOW_DUPLICATE_STEP",
        ),
        ("10,001 steps", of(many), "WORKFLOW_TOO_LARGE"),
        ("a timeout below zero", timeout(-1, 0), "FIELD_OUT_OF_RANGE"),
        ("no time", timeout(0, 0), "FIELD_OUT_OF_RANGE"),
        (
            "nanos without end",
            timeout(0, 2_000_000_000),
            "FIELD_OUT_OF_RANGE",
        ),
        (
            "attempts without end",
            of(vec![wire::Step {
                retry: Some(attempts),
                ..step("a")
            }]),
            "FIELD_OUT_OF_RANGE",
        ),
        (
            "a name that clears",
            of(vec![step("\u{1b}[2J")]),
            "NAME_INVALID",
        ),
        (
            "a name that turns",
            of(vec![step("\u{202e}x")]),
            "NAME_INVALID",
        ),
        ("no YAML", yaml("steps: ["), "WORKFLOW_MALFORMED"),
        (
            "a slip in YAML",
            yaml("name: w\nsteps:\n  - name: a\n    worker: a\n    retrys: {attempts: 2}\n"),
            "WORKFLOW_MALFORMED",
        ),
    ];
    for (what, source, expected) in table {
        let request = wire::RegisterWorkflowRequest {
            source,
            validate_only: false,
        };
        let answer = suite.client.register_workflow(request).await.map(|_| ());
        check(what, answer, Code::InvalidArgument, expected);
    }
    // To check only changes nothing.
    let request = wire::RegisterWorkflowRequest {
        source: of(vec![step("a")]),
        validate_only: true,
    };
    let checked = suite
        .client
        .register_workflow(request)
        .await
        .unwrap()
        .into_inner();
    assert!(checked.created && checked.workflow.unwrap().version == 1);
    let request = wire::GetWorkflowRequest {
        name: "w".to_owned(),
        version: 0,
    };
    let missing = suite.client.get_workflow(request).await.unwrap_err();
    assert_eq!(reason(&missing), "WORKFLOW_NOT_FOUND");
    still_serves(&mut suite, 0).await;
    suite.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn questions() {
    let (_directory, mut suite) = ready().await;
    let nobody = "01890a5d-ac96-774b-bcce-b302099a8057";
    let invalid = Code::InvalidArgument;
    for (id, code, expected) in [
        ("", invalid, "FIELD_MISSING"),
        ("1", invalid, "FIELD_INVALID"),
        (nobody, Code::NotFound, "TRANSACTION_NOT_FOUND"),
    ] {
        let transaction_id = id.to_owned();
        let status = suite.try_status(id).await.map(|_| ());
        check("status", status, code, expected);
        let cancel = wire::CancelTransactionRequest {
            transaction_id: transaction_id.clone(),
            ..Default::default()
        };
        let cancel = suite.client.cancel_transaction(cancel).await.map(|_| ());
        check("cancel", cancel, code, expected);
        let watch = wire::WatchTransactionRequest {
            transaction_id,
            ..Default::default()
        };
        let watch = suite.client.watch_transaction(watch).await.map(|_| ());
        check("watch", watch, code, expected);
    }
    let long = wire::CancelTransactionRequest {
        transaction_id: nobody.to_owned(),
        reason: "x".repeat(1_025),
        ..Default::default()
    };
    let answer = suite.client.cancel_transaction(long).await.map(|_| ());
    check("a long reason", answer, invalid, "FIELD_INVALID");
    let list = wire::ListTransactionsRequest::default();
    for (what, request, expected) in [
        (
            "a forged token",
            wire::ListTransactionsRequest {
                page_token: "f".repeat(48),
                ..list.clone()
            },
            "PAGE_TOKEN_INVALID",
        ),
        (
            "a page below zero",
            wire::ListTransactionsRequest {
                page_size: -1,
                ..list.clone()
            },
            "FIELD_OUT_OF_RANGE",
        ),
        (
            "no state",
            wire::ListTransactionsRequest {
                states: vec![99],
                ..list.clone()
            },
            "FIELD_INVALID",
        ),
    ] {
        let answer = suite.client.list_transactions(request).await.map(|_| ());
        check(what, answer, invalid, expected);
    }
    let clamped = wire::ListTransactionsRequest {
        page_size: 1_000_000_000,
        ..list
    };
    suite.client.list_transactions(clamped).await.unwrap();
    let later = Code::Unimplemented;
    let retry = wire::RetryTransactionRequest::default();
    let answer = suite.client.retry_transaction(retry).await.map(|_| ());
    check("retry", answer, later, "NOT_YET_IMPLEMENTED");
    let signal = wire::SignalTransactionRequest::default();
    let answer = suite.client.signal_transaction(signal).await.map(|_| ());
    check("signal", answer, later, "NOT_YET_IMPLEMENTED");
    still_serves(&mut suite, 0).await;
    suite.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn announcements() {
    let (_directory, mut suite) = ready().await;
    let invalid = Code::InvalidArgument;
    let none = wire::ConnectRequest::default();
    let with = |announce| wire::ConnectRequest {
        announce: Some(announce),
        ..Default::default()
    };
    let result = wire::ConnectRequest {
        results: vec![wire::CommandResult::default()],
        ..Default::default()
    };
    let table = [
        ("nothing", none, Code::FailedPrecondition, "ANNOUNCE_FIRST"),
        (
            "a result first",
            result,
            Code::FailedPrecondition,
            "ANNOUNCE_FIRST",
        ),
        (
            "no host_id",
            with(announce("", &[("a", 1)], &[])),
            invalid,
            "FIELD_MISSING",
        ),
        (
            "a bad host_id",
            with(announce("a\n", &[("a", 1)], &[])),
            invalid,
            "NAME_INVALID",
        ),
        (
            "no workers",
            with(announce("h", &[], &[])),
            invalid,
            "FIELD_MISSING",
        ),
        (
            "no slots",
            with(announce("h", &[("a", 0)], &[])),
            invalid,
            "FIELD_OUT_OF_RANGE",
        ),
        (
            "4e9 slots",
            with(announce("h", &[("a", 4_000_000_000)], &[])),
            invalid,
            "FIELD_OUT_OF_RANGE",
        ),
        (
            "a worker twice",
            with(announce("h", &[("a", 1), ("a", 1)], &[])),
            invalid,
            "FIELD_INVALID",
        ),
    ];
    for (what, first, code, expected) in table {
        let (_requests, mut responses) = open(&suite, first).await;
        check(what, responses.message().await.map(|_| ()), code, expected);
    }
    still_serves(&mut suite, 0).await;
    suite.stop().await;
}
