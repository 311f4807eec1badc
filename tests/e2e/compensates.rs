//! What was done is undone, in reverse, when a later step fails or a client cancels.

use std::time::Duration;

use multiagents_client::{Client, Step, Workflow};
use proto::wire::{CancelTransactionRequest, OnFailure, StepState, Transaction, TransactionState};
use serde_json::{Value, json};
use tests::Suite;
use tests::wait::{PATIENCE, until};
use tests::workers::{Notes, OwnHost, broken, eraser, scribe, stuck};

/// Two steps that can be undone, then the step that decides how the story ends.
fn workflow(third: Step) -> Workflow {
    Workflow::new("undone")
        .step(Step::new("reserve", "scribe").undo("eraser"))
        .step(Step::new("charge", "scribe").undo("eraser"))
        .step(third)
}

struct Stage {
    _suite: Suite,
    _host: OwnHost,
    client: Client,
    notes: Notes,
}

async fn set(workflow: Workflow) -> Stage {
    let suite = Suite::builder()
        .without_host()
        .without_monitor()
        .start()
        .await;
    let notes = Notes::default();
    let workers = [
        (scribe(&notes), 2),
        (eraser(&notes), 2),
        (broken(), 2),
        (stuck(), 2),
    ];
    let host = OwnHost::start(suite.orchestrator.address(), workers);
    let client = suite.client();
    client.register(workflow).await.expect("a workflow");
    Stage {
        client,
        notes,
        _host: host,
        _suite: suite,
    }
}

impl Stage {
    async fn ended(&self) -> Transaction {
        let input = json!({ "order": 7 });
        let ended = self
            .client
            .execute_and_wait("undone", &input, PATIENCE)
            .await;
        ended.expect("it starts")
    }

    /// Starts, and waits until the third step is at work.
    async fn at_the_third_step(&self) -> String {
        let started = self
            .client
            .start("undone", &json!({}))
            .await
            .expect("it starts");
        let id = started.transaction_id;
        until("the third step to run", PATIENCE, async || {
            let status = self
                .client
                .status(&id)
                .await
                .map_err(|error| error.to_string())?;
            let step = &status.steps[2];
            let attempt = step
                .attempts
                .last()
                .filter(|attempt| !attempt.host_id.is_empty());
            attempt.map(|_| ()).ok_or(format!("{step:?}"))
        })
        .await;
        id
    }

    fn undone(&self) -> Vec<Value> {
        let of = |note: &Value| note.get("undid").cloned();
        self.notes.all().iter().filter_map(of).collect()
    }
}

fn states(transaction: &Transaction) -> Vec<StepState> {
    transaction.steps.iter().map(|step| step.state()).collect()
}

#[tokio::test]
async fn a_failure_undoes_the_completed_steps_last_first() {
    let stage = set(workflow(Step::new("ship", "broken"))).await;
    let ended = stage.ended().await;
    assert_eq!(ended.state(), TransactionState::Compensated);
    assert_eq!(ended.failed_step, "ship");
    assert_eq!(stage.undone(), [json!("charge"), json!("reserve")]);
    assert_eq!(
        states(&ended),
        [
            StepState::Compensated,
            StepState::Compensated,
            StepState::Failed
        ]
    );
    // An undo knows what it undoes, and why.
    let notes = stage.notes.all();
    let undo = notes
        .iter()
        .find(|note| note["undid"] == "charge")
        .expect("it was undone");
    assert_eq!(undo["result"], json!({ "by": "charge", "charge": true }));
    assert_eq!(undo["failure"], "Broken: it never works");
    assert_eq!(undo["key"], format!("{}/charge/undo", ended.transaction_id));
}

/// The context is the input, overlaid in order with the results before the step.
#[tokio::test]
async fn a_step_sees_the_input_and_the_results_before_it() {
    let stage = set(workflow(Step::new("ship", "broken"))).await;
    stage.ended().await;
    let notes = stage.notes.all();
    let context = |step: &str| {
        let note = notes.iter().find(|note| note["did"] == step);
        note.expect("it ran")["context"].clone()
    };
    assert_eq!(context("reserve"), json!({ "order": 7 }));
    assert_eq!(
        context("charge"),
        json!({ "order": 7, "by": "reserve", "reserve": true })
    );
}

#[tokio::test]
async fn an_undo_that_fails_says_so_and_stops_the_phase() {
    let workflow = Workflow::new("undone")
        .step(Step::new("reserve", "scribe").undo("eraser"))
        .step(Step::new("charge", "scribe").undo("broken"))
        .step(("ship", "broken"));
    let stage = set(workflow).await;
    let ended = stage.ended().await;
    assert_eq!(ended.state(), TransactionState::Failed);
    assert!(ended.compensation_failed);
    assert_eq!(stage.undone(), [] as [Value; 0], "reserve stays as it is");
    assert_eq!(states(&ended)[1], StepState::CompensationFailed);
}

#[tokio::test]
async fn on_failure_fail_undoes_nothing_and_continue_goes_on() {
    let stage = set(workflow(
        Step::new("ship", "broken").on_failure(OnFailure::Fail),
    ))
    .await;
    let ended = stage.ended().await;
    assert_eq!(ended.state(), TransactionState::Failed);
    assert!(!ended.compensation_failed);
    assert_eq!(stage.undone(), [] as [Value; 0]);

    let passed_over = Workflow::new("undone")
        .step(Step::new("hint", "broken").on_failure(OnFailure::Continue))
        .step(("ship", "scribe"));
    stage
        .client
        .register(passed_over)
        .await
        .expect("a new version");
    let ended = stage.ended().await;
    assert_eq!(ended.state(), TransactionState::Completed);
    assert_eq!(ended.version, 2);
    assert_eq!(ended.failed_steps, ["hint"]);
}

#[tokio::test]
async fn a_cancelled_transaction_is_undone_and_ends_as_cancelled() {
    let stage = set(workflow(Step::new("ship", "stuck"))).await;
    let id = stage.at_the_third_step().await;
    stage
        .client
        .cancel(&id, "changed my mind")
        .await
        .expect("it is live");
    let ended = stage
        .client
        .wait_for_end(&id, PATIENCE)
        .await
        .expect("it ends");
    assert_eq!(ended.state(), TransactionState::Cancelled);
    assert_eq!(stage.undone(), [json!("charge"), json!("reserve")]);
    assert_eq!(states(&ended)[2], StepState::Cancelled);
    let again = stage
        .client
        .cancel(&id, "")
        .await
        .expect_err("it has ended");
    assert_eq!(again.reason(), "TRANSACTION_ENDED");
}

#[tokio::test]
async fn a_cancellation_can_leave_things_as_they_are() {
    let stage = set(workflow(Step::new("ship", "stuck"))).await;
    let id = stage.at_the_third_step().await;
    let request = CancelTransactionRequest {
        transaction_id: id.clone(),
        reason: String::new(),
        skip_compensation: true,
    };
    stage.client.cancel_as(request).await.expect("it is live");
    let ended = stage
        .client
        .wait_for_end(&id, PATIENCE)
        .await
        .expect("it ends");
    assert_eq!(ended.state(), TransactionState::Cancelled);
    assert_eq!(stage.undone(), [] as [Value; 0]);
}

/// A sibling of the step that failed is told to stop, and waited for.
#[tokio::test]
async fn running_siblings_of_a_failure_are_cancelled() {
    let workflow = Workflow::new("undone")
        .step(Step::new("reserve", "scribe").undo("eraser"))
        .parallel([("ship", "broken"), ("wait", "stuck")]);
    let stage = set(workflow).await;
    let started = std::time::Instant::now();
    let ended = stage.ended().await;
    assert_eq!(ended.state(), TransactionState::Compensated);
    assert_eq!(states(&ended)[2], StepState::Cancelled);
    assert_eq!(stage.undone(), [json!("reserve")]);
    assert!(
        started.elapsed() < Duration::from_secs(60),
        "nobody waited for the time-out"
    );
}
