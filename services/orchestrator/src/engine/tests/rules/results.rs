//! Which result counts.

use super::*;

fn refused(scene: &Scene) -> Reason {
    match scene.reply {
        Reply::ResultRefused { reason, .. } => reason,
        ref other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn the_same_result_again_is_a_duplicate_and_another_one_a_conflict() {
    let mut scene = check(
        TWO,
        "
        start > started, a queued
        a@h   > a dispatched
        a ok  > a completed, b queued
        a ok
        ",
    );
    assert_eq!(scene.reply, Reply::ResultDuplicate);
    scene.play("a ok {\"other\":1} > refused RESULT_CONFLICT");
    assert_eq!(refused(&scene), Reason::ResultConflict);
    scene.play("a fail X > refused RESULT_CONFLICT");
}

#[test]
fn a_result_of_a_stranger_or_of_nothing_counts_for_nothing() {
    let mut scene = check(
        TWO,
        "
        start  > started, a queued
        a ok from h > refused NOT_LEASE_HOLDER
        a@h    > a dispatched
        a ok from g > refused NOT_LEASE_HOLDER
        a#2 ok from h > refused COMMAND_UNKNOWN
        b ok from h > refused COMMAND_UNKNOWN
        ~a ok from h > refused COMMAND_UNKNOWN
        ",
    );
    let unknown = CommandId {
        transaction: TransactionId([99; 16]),
        ..scene.command("a")
    };
    let result = Input::Result {
        host: host("h"),
        command: unknown,
        outcome: ResultOutcome::TimedOut,
        wait_us: 0,
        run_us: 0,
    };
    assert_eq!(scene.input(result), ["refused COMMAND_UNKNOWN"]);
    scene.play("a ok > a completed, b queued");
}

#[test]
fn a_result_under_a_lapsed_lease_or_past_the_deadline_counts_for_nothing() {
    check(
        "- {name: a, worker: w, timeout: 10, retry: {attempts: 2, initial_delay: 0, jitter: 0}}",
        "
        start   > started, a queued
        a@h     > a dispatched
        lapse h > h lost, a lost again, a#2 queued
        a#1 ok  > refused LEASE_LAPSED
        a@h     > a#2 dispatched
        +10     > a#2 timed out again, a#3 queued
        a#2 ok  > refused LEASE_LAPSED
        a#2 timeout
        a@g     > a#3 dispatched
        a ok    > a#3 completed, COMPLETED
        a#1 ok  > refused LEASE_LAPSED
        ",
    );
}

#[test]
fn a_result_for_a_cancelled_transaction_changes_nothing() {
    check(
        TWO,
        "
        start  > started, a queued
        a@h    > a dispatched
        cancel > cancel requested
        a stopped > a cancelled, CANCELLED
        a ok   > refused RESULT_CONFLICT
        a stopped
        ",
    );
}

#[test]
fn a_host_that_stops_a_command_unasked_has_failed_it() {
    check(
        "- {name: a, worker: w, retry: {attempts: 2, initial_delay: 0}}",
        "
        start     > started, a queued
        a@h       > a dispatched
        a stopped > a failed Cancelled again, a#2 queued
        a#1 stopped
        a@h       > a#2 dispatched
        a stopped > a#2 failed Cancelled, FAILED Cancelled
        ",
    );
}

#[test]
fn a_bad_result_fails_its_command_by_its_policy() {
    let (outcome, problem) = checked_result(Bytes::from_static(b"[1]"), 100);
    assert!(matches!(
        outcome,
        ResultOutcome::Failed { failure: Failure { ref kind, .. }, not_retryable: false } if kind == "InvalidResult"
    ));
    assert_eq!(problem.unwrap().reason, Reason::PayloadNotObject);
    let (outcome, _) = checked_result(Bytes::from_static(b"{\"a\":1}"), 3);
    assert!(matches!(
        outcome,
        ResultOutcome::Failed { failure: Failure { ref kind, .. }, .. } if kind == "PayloadTooLarge"
    ));
    let (outcome, problem) = checked_result(Bytes::from_static(b"{}"), 3);
    assert_eq!(outcome, ResultOutcome::Completed(Bytes::from_static(b"{}")));
    assert!(problem.is_none());
}

#[test]
fn an_ended_transactions_row_still_knows_its_results() {
    let scene = check(
        TWO,
        "
        start > started, a queued
        a@h   > a dispatched
        a ok  > a completed, b queued
        b@h   > b dispatched
        b ok  > b completed, COMPLETED
        ",
    );
    let row = snapshot(&scene);
    let known = |host_name: &str, result: &'static [u8]| {
        let outcome = ResultOutcome::Completed(Bytes::from_static(result));
        is_duplicate(&row, &host(host_name), &scene.command("b"), &outcome)
    };
    assert!(known("h", b"{\"b\":1}"));
    assert!(!known("h", b"{}"));
    assert!(!known("g", b"{\"b\":1}"));
}

#[test]
fn wait_and_run_add_the_engines_instants_to_what_the_host_measured() {
    let mut scene = check(
        TWO,
        "
        start > started, a queued
        +3
        a@h   > a dispatched
        +1
        a ok  > a completed, b queued
        ",
    );
    let timing = |scene: &Scene, at: usize| snapshot(scene).carried.steps[at].commands[0].timing;
    assert_eq!(
        (timing(&scene, 0).wait_us, timing(&scene, 0).run_us),
        (3_001_000, 20_000)
    );
    scene.play(
        "+2\n b@h > b dispatched\n +4\n b runs > b picked up, b processing\n +296 > b timed out, FAILED Timeout",
    );
    assert_eq!(
        (timing(&scene, 1).wait_us, timing(&scene, 1).run_us),
        (6_000_000, 296_000_000)
    );
}

#[test]
fn a_host_cannot_claim_more_time_than_there_was() {
    let mut scene = check(TWO, "start > started, a queued\n a@h > a dispatched");
    let liar = Input::Result {
        host: host("h"),
        command: scene.command("a"),
        outcome: ResultOutcome::TimedOut,
        wait_us: u64::MAX,
        run_us: u64::MAX,
    };
    scene.input(liar);
    let timing = snapshot(&scene).carried.steps[0].commands[0].timing;
    assert_eq!((timing.wait_us, timing.run_us), (300_000_000, 300_000_000));
}

#[test]
fn stages_never_go_back() {
    check(
        TWO,
        "
        start    > started, a queued
        a picked from h
        a@h      > a dispatched
        a picked from g
        a runs   > a picked up, a processing
        a picked
        a runs
        ",
    );
    let silent = Limits {
        observing_events: false,
        ..Limits::default()
    };
    check_with(
        silent,
        TWO,
        "start > started, a queued\n a@h > a dispatched\n a runs",
    );
}
