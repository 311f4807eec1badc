//! Wrong requests: each gets the right code and a sentence that helps, and after each the next good
//! one is served by the same process.

mod starts;
mod definitions;
mod wires;
mod sessions;
mod questions;

use tests::Suite;
use tests::wait::PATIENCE;
use tonic::{Code, Status};

/// What a refusal must be like.
type Expected = (Code, &'static str);

/// Checks a refusal, and that the suite goes on as if nothing had been.
async fn refused<T>(suite: &mut Suite, what: &str, answer: Result<T, Status>, expected: Expected) {
    let Err(status) = answer else {
        panic!("{what}: was taken")
    };
    let reason = tests::raw::reason(&status);
    assert_eq!(
        (status.code(), reason.as_str()),
        expected,
        "{what}: {status:?}"
    );
    assert!(
        status.message().len() > 10,
        "{what}: no sentence: {status:?}"
    );
    assert!(
        !status.message().chars().any(char::is_control),
        "{what}: a control character came back: {status:?}"
    );
    lives(suite, what).await;
}

/// The same processes still serve.
async fn lives(suite: &mut Suite, what: &str) {
    assert!(
        suite.orchestrator.runs() && suite.monitor.runs(),
        "{what} ended a process"
    );
    let next = suite
        .client()
        .execute_and_wait("three_noops", &serde_json::json!({}), PATIENCE)
        .await
        .unwrap_or_else(|error| panic!("after {what}: {error}"));
    assert_eq!(
        next.state(),
        proto::wire::TransactionState::Completed,
        "after {what}"
    );
}
