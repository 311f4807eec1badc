//! What is undone, in which order, and what stops it.

use super::*;

const THREE: &str = "
- {name: a, worker: w, undo: {worker: u}}
- {name: b, worker: w}
- {name: c, worker: w, undo: {worker: u, timeout: 7, retry: {attempts: 2, initial_delay: 0}}}
- {name: d, worker: w}
";

const TO_D: &str = "
    start > started, a queued
    a@h   > a dispatched
    a ok  > a completed, b queued
    b@h   > b dispatched
    b ok  > b completed, c queued
    c@h   > c dispatched
    c ok  > c completed, d queued
    d@h   > d dispatched
    d fail X > d failed X, compensating X, ~c queued
";

#[test]
fn completed_steps_are_undone_one_at_a_time_the_last_one_first() {
    let mut scene = check(THREE, TO_D);
    scene.play("~c@h > ~c dispatched");
    let key = scene.state.key(&scene.command("~c")).unwrap();
    let outgoing = scene.state.outgoing(&key).unwrap();
    assert_eq!(outgoing.worker.as_str(), "u");
    assert_eq!(outgoing.timeout_us, 7_000_000);
    assert_eq!(
        context(&scene, "~c"),
        ["in {\"in\":1}", "0 {\"a\":1}", "1 {\"b\":1}"]
    );
    let undo = outgoing.undo.unwrap();
    assert_eq!(
        (undo.result, undo.failure.kind.as_str()),
        (Bytes::from("{\"c\":1}"), "X")
    );
    assert_eq!(
        outgoing.id.idempotency_key(),
        format!("{}/c/undo", scene.ids[0])
    );
    scene.play(
        "
        ~c ok > ~c completed, ~a queued
        ~a@h  > ~a dispatched
        ~a ok > ~a completed, COMPENSATED
        ",
    );
}

#[test]
fn the_order_is_that_of_completion_not_of_the_definition() {
    check(
        FORK,
        "
        start > started, a queued
        a@h   > a dispatched
        a ok  > a completed, b queued, c queued
        b@h   > b dispatched
        c@h   > c dispatched
        c ok  > c completed
        b ok  > b completed, d queued
        d@h   > d dispatched
        d fail X > d failed X, compensating X, ~b queued
        ~b@h  > ~b dispatched
        ~b ok > ~b completed, ~c queued
        ~c@h  > ~c dispatched
        ~c ok > ~c completed, ~a queued
        ~a@h  > ~a dispatched
        ~a ok > ~a completed, COMPENSATED
        ",
    );
}

#[test]
fn an_undo_has_retries_and_the_first_that_fails_for_good_stops_the_phase() {
    let scene = check(
        THREE,
        &format!(
            "{TO_D}
            ~c@h     > ~c dispatched
            +7       > ~c timed out again, ~c#2 queued
            ~c@h     > ~c#2 dispatched
            ~c fail Z > ~c#2 failed Z, FAILED Z half undone
            "
        ),
    );
    assert!(snapshot(&scene).compensation_failed());
    assert_eq!(state_of(&scene, "c"), StepState::CompensationFailed);
    assert_eq!(state_of(&scene, "a"), StepState::Completed);
    assert_eq!(snapshot(&scene).carried.failed_step.unwrap().as_str(), "c");
}

#[test]
fn a_lost_undo_is_delivered_again() {
    check(
        THREE,
        &format!(
            "{TO_D}
            ~c@h    > ~c dispatched
            lapse h > h lost, ~c lost again, ~c#2 queued
            "
        ),
    );
}

#[test]
fn an_attempt_of_unknown_effect_is_undone_where_the_step_says_so() {
    let unknown = "
- {name: a, worker: w, undo: {worker: u}, compensate_unknown: true, timeout: 5, retry: {attempts: 2, initial_delay: 0}}
";
    let mut scene = check(
        unknown,
        "
        start    > started, a queued
        a@h      > a dispatched
        +5       > a timed out again, a#2 queued
        a@h      > a#2 dispatched
        a fail X > a#2 failed X, compensating X, ~a queued
        ~a@h     > ~a dispatched
        ",
    );
    let key = scene.state.key(&scene.command("~a")).unwrap();
    assert_eq!(scene.state.outgoing(&key).unwrap().undo.unwrap().result, "");
    scene.play("~a ok > ~a completed, COMPENSATED");
    // A failure is no unknown effect: the handler said that it had none.
    check(
        unknown,
        "
        start    > started, a queued
        a@h      > a dispatched
        a fail X final > a failed X, FAILED X
        ",
    );
}
