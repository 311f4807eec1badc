//! Attempts, time-outs and delays.

use std::time::Duration;

use multiagents_client::{Retry, Step, Workflow};
use proto::event::{CommandEvent, Kind};
use proto::wire::{Stage, Transaction, TransactionState};
use serde_json::{Value, json};
use tests::Suite;
use tests::wait::PATIENCE;
use tests::workers::{OwnHost, hopeless, panicking, reluctant, stuck};

/// A suite whose host offers these workers, and how one step by `worker` ended.
async fn run(step: Step, input: Value) -> (Suite, Transaction) {
    let suite = Suite::builder()
        .without_host()
        .without_monitor()
        .start()
        .await;
    let workers = [
        (reluctant(), 2),
        (hopeless(), 2),
        (stuck(), 2),
        (panicking(), 2),
    ];
    let host = OwnHost::start(suite.orchestrator.address(), workers);
    let client = suite.client();
    client
        .register(Workflow::new("retried").step(step))
        .await
        .expect("a workflow");
    let ended = client.execute_and_wait("retried", &input, PATIENCE).await;
    let ended = ended.expect("it starts");
    drop(host);
    (suite, ended)
}

fn stages(ended: &Transaction) -> Vec<Stage> {
    ended.steps[0]
        .attempts
        .iter()
        .map(|attempt| attempt.stage())
        .collect()
}

fn patient(attempts: u32) -> Retry {
    Retry::attempts(attempts)
        .initial_delay(Duration::from_millis(80))
        .multiplier(2.0)
        .jitter(0.5)
}

#[tokio::test]
async fn a_step_that_fails_twice_completes_at_its_third_attempt_after_growing_delays() {
    let step = Step::new("s", "reluctant").retry(patient(3));
    let (suite, ended) = run(step, json!({ "failures": 2 })).await;
    assert_eq!(ended.state(), TransactionState::Completed);
    assert_eq!(
        stages(&ended),
        [Stage::Failed, Stage::Failed, Stage::Completed]
    );

    let mut delays = Vec::new();
    let mut queued_at = Vec::new();
    let mut dispatched_at = Vec::new();
    for stored in suite.events().await {
        if let Kind::Command { what, .. } = stored.event.kind {
            match what {
                CommandEvent::Queued { delay_us } => {
                    delays.push(delay_us);
                    queued_at.push(stored.event.time);
                }
                CommandEvent::Dispatched => dispatched_at.push(stored.event.time),
                _ => {}
            }
        }
    }
    assert_eq!(delays[0], 0);
    assert!((40_000..=80_000).contains(&delays[1]), "{delays:?}");
    assert!((80_000..=160_000).contains(&delays[2]), "{delays:?}");
    for at in 0..3 {
        let waited = dispatched_at[at].since_us(queued_at[at]);
        assert!(
            waited >= delays[at],
            "attempt {} came {waited} us after",
            at + 1
        );
    }
}

#[tokio::test]
async fn a_step_that_goes_on_failing_fails_its_transaction() {
    let step = Step::new("s", "reluctant").retry(patient(2));
    let (_suite, ended) = run(step, json!({ "failures": 9 })).await;
    assert_eq!(ended.state(), TransactionState::Failed);
    assert_eq!(stages(&ended), [Stage::Failed, Stage::Failed]);
    assert_eq!(ended.failed_step, "s");
    let failure = ended.failure.expect("a failure");
    assert_eq!(
        (failure.kind.as_str(), failure.message.as_str()),
        ("Reluctant", "not yet")
    );
}

#[tokio::test]
async fn what_no_retry_can_mend_is_not_tried_again() {
    let (_suite, ended) = run(Step::new("s", "hopeless").retry(patient(5)), json!({})).await;
    assert_eq!(ended.state(), TransactionState::Failed);
    assert_eq!(stages(&ended), [Stage::Failed]);
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_times_out_and_counts() {
    let step = Step::new("s", "stuck")
        .timeout(Duration::from_millis(150))
        .retry(patient(2));
    let (_suite, ended) = run(step, json!({})).await;
    assert_eq!(ended.state(), TransactionState::Failed);
    assert_eq!(stages(&ended), [Stage::Timeout, Stage::Timeout]);
    for attempt in &ended.steps[0].attempts {
        let run = attempt.run.as_ref().expect("a duration");
        assert!(run.seconds < 5, "{run:?}");
    }
}

#[tokio::test]
async fn a_handler_that_panics_fails_its_command_and_nothing_else() {
    let (suite, ended) = run(Step::new("s", "panicking"), json!({})).await;
    assert_eq!(ended.state(), TransactionState::Failed);
    assert_eq!(ended.failure.expect("a failure").kind, "Panic");
    let events = suite.events().await;
    let lost = events.iter().any(|stored| {
        matches!(
            stored.event.kind,
            Kind::Command {
                what: CommandEvent::Lost { .. },
                ..
            }
        )
    });
    assert!(!lost, "the host lives on");
}
