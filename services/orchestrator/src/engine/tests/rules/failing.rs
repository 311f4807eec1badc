//! What the failure of a step means for its transaction.

use super::*;

#[test]
fn without_anything_to_undo_a_failed_transaction_is_failed_at_once() {
    let scene = check(
        TWO,
        "
        start    > started, a queued
        a@h      > a dispatched
        a fail X > a failed X, FAILED X
        ",
    );
    assert_eq!(state_of(&scene, "a"), StepState::Failed);
    assert_eq!(state_of(&scene, "b"), StepState::Skipped);
    assert!(!snapshot(&scene).compensation_failed());
}

#[test]
fn siblings_of_a_failed_step_are_stopped_awaited_and_undone() {
    let mut scene = check(
        FORK,
        "
        start    > started, a queued
        a@h      > a dispatched
        a ok     > a completed, b queued, c queued
        b@h      > b dispatched
        c@g      > c dispatched
        c fail X > c failed X
        ",
    );
    let told =
        |effect: &Effect| matches!(effect, Effect::Cancel { host: name, .. } if *name == host("h"));
    assert!(scene.effects.iter().any(told));
    assert!(scene.state.is_cancelling(&scene.command("b")));
    // b completes all the same: it counts as completed, begins nothing, and is undone first.
    scene.play(
        "
        b ok    > b completed, compensating X, ~b queued
        ~b@h    > ~b dispatched
        ~b ok   > ~b completed, ~a queued
        ~a@h    > ~a dispatched
        ~a ok   > ~a completed, COMPENSATED
        ",
    );
    assert_eq!(state_of(&scene, "a"), StepState::Compensated);
    assert_eq!(state_of(&scene, "c"), StepState::Failed);
    assert_eq!(state_of(&scene, "d"), StepState::Skipped);
    assert_eq!(snapshot(&scene).carried.failure.unwrap().kind, "X");
}

#[test]
fn a_sibling_that_fails_while_stopped_is_not_retried_and_the_first_failure_stays() {
    let scene = check(
        FORK,
        "
        start    > started, a queued
        a@h      > a dispatched
        a ok     > a completed, b queued, c queued
        b@h      > b dispatched
        c@g      > c dispatched
        c fail X > c failed X
        b fail Y > b failed Y, compensating X, ~a queued
        ",
    );
    assert_eq!(snapshot(&scene).carried.failed_step.unwrap().as_str(), "c");
}

#[test]
fn what_waits_for_a_slot_or_a_retry_is_cancelled_at_once() {
    let scene = check(
        FORK,
        "
        start    > started, a queued
        a@h      > a dispatched
        a ok     > a completed, b queued, c queued
        c@g      > c dispatched
        c fail X > c failed X, b cancelled, compensating X, ~a queued
        ",
    );
    assert!(matches!(scene.effects[0], Effect::Withdraw { .. }));
    check(
        FORK,
        "
        start    > started, a queued
        a@h      > a dispatched
        a ok     > a completed, b queued, c queued
        b@g      > b dispatched
        b fail Y > b failed Y again, b#2 queued +1000ms
        c@g      > c dispatched
        c fail X > c failed X, b#2 cancelled, compensating X, ~a queued
        +10
        ",
    );
}

#[test]
fn a_stopped_sibling_is_awaited_to_its_deadline_or_its_hosts_loss() {
    let fork = "
        start    > started, a queued
        a@h      > a dispatched
        a ok     > a completed, b queued, c queued
        b@h      > b dispatched
        c@g      > c dispatched
        c fail X > c failed X
    ";
    check(
        FORK,
        &format!("{fork}\n +300 > b timed out, compensating X, ~a queued"),
    );
    check(
        FORK,
        &format!("{fork}\n lapse h > h lost, b lost HostLost, compensating X, ~a queued"),
    );
}

#[test]
fn on_failure_fail_undoes_nothing() {
    check(
        "
- {name: a, worker: w, undo: {worker: u}}
- {name: b, worker: w, on_failure: fail}
",
        "
        start    > started, a queued
        a@h      > a dispatched
        a ok     > a completed, b queued
        b@h      > b dispatched
        b fail X > b failed X, FAILED X
        ",
    );
}

#[test]
fn on_failure_continue_goes_on_without_the_result() {
    let scene = check(
        "
- {name: a, worker: w, on_failure: continue}
- {name: b, worker: w}
",
        "
        start    > started, a queued
        a@h      > a dispatched
        a fail X > a failed X, b queued
        b@h      > b dispatched
        ",
    );
    assert_eq!(context(&scene, "b"), ["in {\"in\":1}"]);
    let mut scene = scene;
    scene.play("b ok > b completed, COMPLETED without [\"a\"]");
    assert_eq!(snapshot(&scene).failed_steps().len(), 1);
    assert_eq!(snapshot(&scene).carried.failure, None);
}
