//! What a cancellation does, and when it is too late.

use super::*;

#[test]
fn what_waits_is_cancelled_and_what_completed_is_undone() {
    let scene = check(
        FORK,
        "
        start  > started, a queued
        a@h    > a dispatched
        a ok   > a completed, b queued, c queued
        b@h    > b dispatched
        cancel > cancel requested, c cancelled
        cancel
        b stopped > b cancelled, compensating Cancelled, ~a queued
        cancel
        ~a@h   > ~a dispatched
        ~a ok  > ~a completed, CANCELLED
        cancel > ! TRANSACTION_ENDED
        ",
    );
    assert_eq!(state_of(&scene, "b"), StepState::Cancelled);
    assert_eq!(state_of(&scene, "d"), StepState::Skipped);
}

#[test]
fn what_runs_may_still_complete_and_begins_nothing() {
    check(
        TWO,
        "
        start  > started, a queued
        a@h    > a dispatched
        cancel > cancel requested
        a ok   > a completed, CANCELLED
        ",
    );
}

#[test]
fn compensation_can_be_skipped() {
    check(
        FORK,
        "
        start > started, a queued
        a@h   > a dispatched
        a ok  > a completed, b queued, c queued
        cancel keep > cancel requested, b cancelled, c cancelled, CANCELLED
        ",
    );
}

#[test]
fn a_failure_after_the_cancellation_changes_nothing_about_its_end() {
    check(
        FORK,
        "
        start  > started, a queued
        a@h    > a dispatched
        a ok   > a completed, b queued, c queued
        b@h    > b dispatched
        cancel > cancel requested, c cancelled
        b fail X > b failed X, compensating Cancelled, ~a queued
        ",
    );
}

#[test]
fn a_failed_transaction_that_still_waits_for_siblings_can_be_cancelled() {
    check(
        FORK,
        "
        start    > started, a queued
        a@h      > a dispatched
        a ok     > a completed, b queued, c queued
        b@h      > b dispatched
        c@h      > c dispatched
        c fail X > c failed X
        cancel keep > cancel requested
        b stopped > b cancelled, CANCELLED
        ",
    );
}

#[test]
fn during_the_compensation_of_a_failure_it_is_too_late() {
    let scene = check(
        FORK,
        "
        start    > started, a queued
        a@h      > a dispatched
        a ok     > a completed, b queued, c queued
        c@h      > c dispatched
        c fail X > c failed X, b cancelled, compensating X, ~a queued
        cancel   > ! TRANSACTION_COMPENSATING
        ",
    );
    let mut scene = scene;
    let stranger = Input::Cancel {
        id: TransactionId([99; 16]),
        cancel: Cancel::default(),
    };
    let problem = scene.try_input(stranger).unwrap_err();
    assert_eq!(problem.reason, Reason::TransactionNotFound);
}

#[test]
fn an_undo_that_fails_after_a_cancellation_ends_as_failed() {
    check(
        FORK,
        "
        start  > started, a queued
        a@h    > a dispatched
        a ok   > a completed, b queued, c queued
        cancel > cancel requested, b cancelled, c cancelled, compensating Cancelled, ~a queued
        ~a@h   > ~a dispatched
        ~a fail X > ~a failed X, FAILED X half undone
        ",
    );
}
