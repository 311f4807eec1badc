//! Order, joins, contexts and versions.

use super::*;

#[test]
fn steps_run_one_after_the_other() {
    let scene = check(
        TWO,
        "
        start  > started, a queued
        a@h    > a dispatched
        a picked > a picked up
        a runs > a processing
        a ok   > a completed, b queued
        b@h    > b dispatched
        b ok   > b completed, COMPLETED
        ",
    );
    assert_eq!(snapshot(&scene).carried.state, TransactionState::Completed);
    assert!(matches!(
        scene.effects.last(),
        Some(Effect::Ended {
            state: TransactionState::Completed,
            ..
        })
    ));
}

#[test]
fn a_transaction_is_pending_until_a_command_is_out() {
    let mut scene = check(TWO, "start > started, a queued");
    assert_eq!(snapshot(&scene).carried.state, TransactionState::Pending);
    scene.play("a@h > a dispatched");
    assert_eq!(snapshot(&scene).carried.state, TransactionState::Running);
}

#[test]
fn branches_run_at_once_and_join() {
    check(
        FORK,
        "
        start > started, a queued
        a@h   > a dispatched
        a ok  > a completed, b queued, c queued
        b@h   > b dispatched
        c@g   > c dispatched
        c ok  > c completed
        b ok  > b completed, d queued
        d@h   > d dispatched
        d ok  > d completed, COMPLETED
        ",
    );
}

#[test]
fn a_context_is_the_input_and_the_results_before_it_in_the_definitions_order() {
    let scene = check(
        FORK,
        "
        start      > started, a queued
        a@h        > a dispatched
        a ok       > a completed, b queued, c queued
        c@h        > c dispatched
        b@h        > b dispatched
        c ok       > c completed
        ",
    );
    // A branch doesn't see what its sibling has completed.
    assert_eq!(context(&scene, "b"), ["in {\"in\":1}", "0 {\"a\":1}"]);
    let mut scene = scene;
    scene.play("b ok > b completed, d queued\n d@h > d dispatched");
    assert_eq!(
        context(&scene, "d"),
        ["in {\"in\":1}", "0 {\"a\":1}", "1 {\"b\":1}", "2 {\"c\":1}"]
    );
}

#[test]
fn a_context_that_is_too_large_fails_its_step_before_any_host_has_it() {
    let limits = Limits {
        max_context_bytes: 20,
        ..Limits::default()
    };
    check_with(
        limits,
        TWO,
        "
        start > started, a queued
        a@h   > a dispatched
        a ok {\"text\":\"twenty-characters\"} > a completed, b queued, b failed ContextTooLarge, FAILED ContextTooLarge
        ",
    );
}

#[test]
fn a_long_chain_of_steps_that_fail_at_once_and_are_passed_over_ends() {
    let wire = proto::wire::Workflow {
        name: "w".to_owned(),
        steps: (0..9_000)
            .map(|at| proto::wire::Step {
                name: format!("s{at}"),
                worker: "w".to_owned(),
                on_failure: proto::wire::OnFailure::Continue.into(),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    };
    let limits = Limits {
        max_context_bytes: 1,
        ..Limits::default()
    };
    let mut scene = Scene::new(limits, TWO);
    let workflow = Box::new(Workflow::check(&wire).unwrap());
    scene.input(Input::Register { workflow });
    let events = scene.input(Input::Start {
        id: TransactionId([1; 16]),
        workflow: WorkflowName::parse("w").unwrap(),
        version: 2,
        start: start(b"{}"),
        ended: None,
    });
    assert_eq!(events.len(), 2 * 9_000 + 2);
    assert!(events.last().unwrap().starts_with("COMPLETED without"));
}

#[test]
fn a_running_transaction_keeps_its_definition() {
    let mut scene = check(TWO, "start > started, a queued");
    let newer = workflow("- {name: x, worker: w}");
    assert_eq!(
        scene.input(Input::Register {
            workflow: newer.clone()
        }),
        ["w 2 registered"]
    );
    assert!(scene.input(Input::Register { workflow: newer }).is_empty());
    assert_eq!(
        scene.reply,
        Reply::Registered {
            version: 2,
            created: false
        }
    );
    scene.play(
        "
        a@h   > a dispatched
        a ok  > a completed, b queued
        start > started, x queued
        ",
    );
    // The older content again is what shall run from now on.
    assert_eq!(
        scene.input(Input::Register {
            workflow: workflow(TWO)
        }),
        ["w 3 registered"]
    );
}
