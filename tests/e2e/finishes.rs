//! A workflow is started and finishes; its status says how, and every way of asking agrees.

use std::time::Duration;

use multiagents_client::{Client, Start};
use proto::wire::{ListTransactionsRequest, Transaction, TransactionState, payload::Form};
use serde_json::{Value, json};
use tests::Suite;
use tests::wait::PATIENCE;

/// A step's own result.
fn result(transaction: &Transaction, step: &str) -> Value {
    let found = transaction.steps.iter().find(|status| status.name == step);
    let found = found.unwrap_or_else(|| panic!("no step {step}"));
    match found
        .result
        .as_ref()
        .and_then(|result| result.form.as_ref())
    {
        Some(Form::Json(json)) => serde_json::from_slice(json).expect("JSON"),
        other => panic!("{step}: {other:?}"),
    }
}

/// Runs until it completes: `flaky_processor` fails three times out of ten, as on the page.
async fn completed(client: &Client, workflow: &str, input: &Value) -> Transaction {
    for _ in 0..40 {
        let ended = client
            .execute_and_wait(workflow, input, PATIENCE)
            .await
            .expect("it starts");
        match ended.state() {
            TransactionState::Completed => return ended,
            // Nothing of the page's workflows has an undo.
            TransactionState::Failed => {
                let failure = ended.failure.expect("a failure");
                assert!(
                    [
                        "NetworkError",
                        "ValidationError",
                        "ServiceUnavailable",
                        "RateLimitError"
                    ]
                    .contains(&failure.kind.as_str()),
                    "{failure:?}"
                );
            }
            other => panic!("ended as {other:?}"),
        }
    }
    panic!("{workflow} failed forty times in a row");
}

#[tokio::test]
async fn the_pages_workflows_complete_with_each_steps_own_result() {
    let suite = Suite::start().await;
    let client = suite.client();
    let input = json!({ "data": "Straße nach Ærø, 3 km" });

    let simple = completed(&client, "simple_monitoring", &input).await;
    let fast = result(&simple, "fast_step");
    assert_eq!(fast["processed"], "STRASSE NACH ÆRØ, 3 KM");
    assert_eq!(fast["processing_time"], "fast");
    assert_eq!(fast["worker_type"], "fast_processor");
    let slow = result(&simple, "slow_step");
    assert_eq!(slow["processed"], "straße nach ærø, 3 km");
    let seconds = slow["processing_time"].as_str().expect("text");
    let seconds: f64 = seconds.trim_end_matches('s').parse().expect("seconds");
    assert!((0.5..=2.0).contains(&seconds), "{seconds}");
    let flaky = result(&simple, "flaky_step");
    assert_eq!(flaky["processed"], "Straße Nach Ærø, 3 Km");
    assert_eq!(flaky["success"], true);

    let parallel = completed(&client, "parallel_monitoring", &json!({ "data": "ab" })).await;
    let names: Vec<_> = parallel
        .steps
        .iter()
        .map(|step| step.name.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "prepare",
            "process_a",
            "process_b",
            "process_c",
            "process_d",
            "combine"
        ]
    );
    assert_eq!(result(&parallel, "combine")["processed"], "AB");

    let cpu = json!({ "data": "x", "complexity": 10_000 });
    let first = completed(&client, "cpu_intensive_monitoring", &cpu).await;
    let step = &first.steps[0].name;
    let sum = result(&first, step)["calculation_result"].clone();
    assert_eq!(sum["iterations"], 10_000);
    assert_eq!(sum["computational_load"], "high");
    let second = completed(&client, "cpu_intensive_monitoring", &cpu).await;
    assert_eq!(
        result(&second, step)["calculation_result"],
        sum,
        "the same input gives the same sum"
    );
}

/// The page's edge cases: no `data`, empty, numbers for text, Unicode.
#[tokio::test]
async fn odd_data_is_processed_all_the_same() {
    let suite = Suite::builder().without_monitor().start().await;
    let client = suite.client();
    for (input, processed) in [
        (json!({}), ""),
        (json!({ "data": "" }), ""),
        (json!({ "data": null }), ""),
        (json!({ "data": 42 }), "42"),
        (json!({ "data": "héllo wörld 😀" }), "HÉLLO WÖRLD 😀"),
    ] {
        let ended = completed(&client, "two_fast", &input).await;
        assert_eq!(result(&ended, "one")["processed"], processed, "{input}");
    }
}

#[tokio::test]
async fn status_watch_and_list_tell_the_same_story() {
    let suite = Suite::builder().without_monitor().start().await;
    let client = suite.client();
    let start = Start::new("one_slow")
        .input(&json!({ "data": "X" }))
        .expect("an object")
        .label("team", "blue");
    let started = client.begin(start).await.expect("it starts");
    let id = started.transaction_id;
    assert!(!started.existing);

    let mut states = Vec::new();
    let mut watch = client.watch(&id).await.expect("it can be watched");
    let mut last = None;
    while let Some(seen) = watch.next().await.expect("the watch goes on") {
        states.push(seen.state());
        last = Some(seen);
    }
    states.dedup();
    assert_eq!(states.last(), Some(&TransactionState::Completed));
    assert!(states.contains(&TransactionState::Running), "{states:?}");
    let last = last.expect("at least one");

    let status = client.status(&id).await.expect("it is known");
    assert_eq!(
        Transaction {
            cursor: String::new(),
            ..status.clone()
        },
        Transaction {
            cursor: String::new(),
            ..last
        },
        "the watch ends with what the status says"
    );
    let attempt = &status.steps[0].attempts[0];
    assert_eq!(attempt.command_id, format!("{id}/slow/do#1"));
    let run = attempt.run.as_ref().expect("a duration");
    assert!(
        run.seconds < 3 && (run.seconds > 0 || run.nanos >= 400_000_000),
        "{run:?}"
    );

    let labelled = |value: &str| ListTransactionsRequest {
        labels: [("team".to_owned(), value.to_owned())].into(),
        ..Default::default()
    };
    let listed = client
        .list(labelled("blue"))
        .await
        .expect("a list")
        .transactions;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].transaction_id, id);
    assert_eq!(listed[0].state(), TransactionState::Completed);
    let other = client.list(labelled("red")).await.expect("a list");
    assert_eq!(other.transactions, []);
}

#[tokio::test]
async fn a_list_gives_each_transaction_once_newest_first_over_its_pages() {
    let suite = Suite::builder()
        .without_host()
        .without_monitor()
        .start()
        .await;
    let client = suite.client();
    let mut started = Vec::new();
    for number in 0..25 {
        let start = client
            .start("three_noops", &json!({ "number": number }))
            .await;
        started.push(start.expect("it starts").transaction_id);
    }
    started.reverse();
    let mut listed = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListTransactionsRequest {
            page_size: 10,
            page_token,
            states: vec![TransactionState::Pending.into()],
            ..Default::default()
        };
        let page = client.list(request).await.expect("a page");
        assert!(page.transactions.len() <= 10);
        listed.extend(page.transactions.into_iter().map(|one| one.transaction_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, started);
}

#[tokio::test]
async fn a_payload_comes_back_byte_for_byte() {
    let suite = Suite::builder().without_monitor().start().await;
    let client = suite.client();
    let text = r#"{ "id": 12345678901234567890, "x":1.50e3,"u":"\u00e9" }"#;
    let start = Start::new("three_noops").input_json(text).wait(PATIENCE);
    let ended = client.begin(start).await.expect("it starts").transaction;
    assert_eq!(ended.state(), TransactionState::Completed);
    let input = ended.input.and_then(|input| input.form);
    assert_eq!(input, Some(Form::Json(text.into())));
}

#[tokio::test]
async fn a_key_starts_once_in_whatever_form_the_input_comes() {
    let suite = Suite::builder()
        .without_host()
        .without_monitor()
        .start()
        .await;
    let client = suite.client();
    let start = |text: &str| {
        Start::new("three_noops")
            .input_json(text.to_owned())
            .key("k-1")
    };
    let first = client
        .begin(start(r#"{"a":1,"b":{"c":[2]}}"#))
        .await
        .expect("it starts");
    let again = client
        .begin(start(r#"{ "b": {"c": [2]}, "a": 1 }"#))
        .await
        .expect("it is there");
    assert_eq!(again.transaction_id, first.transaction_id);
    assert!(!first.existing && again.existing);

    let refused = client
        .begin(start(r#"{"a":2}"#))
        .await
        .expect_err("another input");
    assert_eq!(refused.reason(), "IDEMPOTENCY_KEY_REUSED");

    // Many at once, as after a client's time-out.
    let mut storm = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let client = client.clone();
        let start = Start::new("three_noops").input_json("{}").key("storm");
        storm.spawn(async move { client.begin(start).await.expect("it starts") });
    }
    let answers = storm.join_all().await;
    assert_eq!(answers.iter().filter(|answer| !answer.existing).count(), 1);
    assert!(
        answers
            .iter()
            .all(|one| one.transaction_id == answers[0].transaction_id)
    );
}

#[tokio::test]
async fn wait_answers_with_how_things_stand_when_its_time_is_up() {
    let suite = Suite::builder()
        .without_host()
        .without_monitor()
        .start()
        .await;
    let standing = suite
        .client()
        .execute_and_wait("three_noops", &json!({}), Duration::from_millis(300))
        .await
        .expect("an answer");
    assert_eq!(standing.state(), TransactionState::Pending);
    assert_eq!(standing.steps.len(), 3, "complete, with its steps");
}
