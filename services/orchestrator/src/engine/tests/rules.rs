//! Each rule of semantics.md that is the engine's, as a history.

use proto::event::{Cancel, Failure};
use proto::id::CommandId;
use proto::lifecycle::{StepState, TransactionState};
use proto::workflow::Workflow;

use super::script::{Scene, check, check_with, host, start, workflow};
use super::*;

const TWO: &str = "
- {name: a, worker: wa}
- {name: b, worker: wb}
";

/// a, then b and c at once, then d.
const FORK: &str = "
- {name: a, worker: w, undo: {worker: u}}
- parallel:
  - {name: b, worker: w, undo: {worker: u}, retry: {attempts: 2, jitter: 0}}
  - {name: c, worker: w, undo: {worker: u}}
- {name: d, worker: w}
";

fn snapshot(scene: &Scene) -> Snapshot {
    scene.state.snapshot(scene.ids.last().unwrap()).unwrap()
}

fn state_of(scene: &Scene, step: &str) -> StepState {
    let snapshot = snapshot(scene);
    let found = snapshot
        .carried
        .steps
        .iter()
        .find(|known| known.step.as_str() == step);
    found.map_or_else(|| absent_step_state(&snapshot.carried), |step| step.state)
}

mod flow {
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
        let context = |scene: &Scene, step: &str| {
            let key = scene.state.key(&scene.command(step)).unwrap();
            scene.state.outgoing(&key).unwrap().context
        };
        // A branch doesn't see what its sibling has completed.
        assert_eq!(context(&scene, "b"), ["{\"in\":1}", "{\"a\":1}"]);
        let mut scene = scene;
        scene.play("b ok > b completed, d queued\n d@h > d dispatched");
        assert_eq!(
            context(&scene, "d"),
            ["{\"in\":1}", "{\"a\":1}", "{\"b\":1}", "{\"c\":1}"]
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
        let steps: String = (0..9_000)
            .map(|at| format!("- {{name: s{at}, worker: w, on_failure: continue}}\n"))
            .collect();
        let wire = proto::wire::Workflow {
            name: "w".to_owned(),
            steps: steps
                .lines()
                .enumerate()
                .map(|(at, _)| proto::wire::Step {
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
}

mod retries {
    use super::*;

    const THREE: &str = "
- {name: a, worker: w, timeout: 10, retry: {attempts: 3, initial_delay: 2s, multiplier: 3, jitter: 0, max_deliveries: 3}}
";

    #[test]
    fn failed_and_timed_out_attempts_count_and_wait_ever_longer() {
        let mut scene = check(
            THREE,
            "
            start    > started, a queued
            a@h      > a dispatched
            a fail X > a failed X again, a#2 queued +2000ms
            +1.9
            ",
        );
        assert!(scene.effects.is_empty());
        scene.play("+0.1");
        assert!(matches!(scene.effects[..], [Effect::Enqueue { .. }]));
        scene.play(
            "
            a@h   > a#2 dispatched
            +9.9
            +0.1  > a#2 timed out again, a#3 queued +6000ms
            +6
            a@h   > a#3 dispatched
            a fail Y > a#3 failed Y, FAILED Y
            ",
        );
    }

    #[test]
    fn what_is_not_retryable_is_not_retried() {
        check(
            THREE,
            "
            start > started, a queued
            a@h   > a dispatched
            a fail X final > a failed X, FAILED X
            ",
        );
    }

    #[test]
    fn a_lost_command_is_delivered_again_at_once_until_it_counts_as_poison() {
        check(
            THREE,
            "
            start   > started, a queued
            a@h     > a dispatched
            lapse h > h lost, a lost again, a#2 queued
            a@g     > a#2 dispatched
            gone g  > a#2 lost again, a#3 queued
            a@g     > a#3 dispatched
            lapse g > g lost, a#3 lost Poison, FAILED Poison
            ",
        );
    }

    #[test]
    fn losses_are_not_failures() {
        check(
            THREE,
            "
            start    > started, a queued
            a@h      > a dispatched
            lapse h  > h lost, a lost again, a#2 queued
            a@g      > a#2 dispatched
            a fail X > a#2 failed X again, a#3 queued +2000ms
            ",
        );
    }

    #[test]
    fn a_single_delivery_that_is_lost_says_so() {
        check(
            "- {name: a, worker: w, retry: {max_deliveries: 1}}",
            "
            start   > started, a queued
            a@h     > a dispatched
            lapse h > h lost, a lost HostLost, FAILED HostLost
            ",
        );
    }

    #[test]
    fn a_queued_command_has_no_deadline() {
        check(
            THREE,
            "start > started, a queued\n +1000000\n a@h > a dispatched",
        );
    }

    #[test]
    fn jitter_takes_away_at_most_its_part_and_differs_between_transactions() {
        let steps = "- {name: a, worker: w, retry: {attempts: 2, initial_delay: 10s, jitter: 0.5}}";
        let delays: Vec<u64> = (0..8)
            .scan(Scene::new(Limits::default(), steps), |scene, _| {
                scene.play("start > started, a queued\n a@h > a dispatched");
                let failed = Input::Result {
                    host: host("h"),
                    command: scene.command("a"),
                    outcome: ResultOutcome::TimedOut,
                    wait_us: 0,
                    run_us: 0,
                };
                scene.input(failed);
                let last = &scene.log.stored.last().unwrap().event.kind;
                let Kind::Command {
                    what: CommandEvent::Queued { delay_us },
                    ..
                } = last
                else {
                    panic!("no retry");
                };
                Some(*delay_us)
            })
            .collect();
        assert!(
            delays
                .iter()
                .all(|delay| (5_000_000..=10_000_000).contains(delay))
        );
        assert!(delays.windows(2).any(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn only_the_newest_attempts_are_kept() {
        let limits = Limits {
            max_attempts_kept: 2,
            ..Limits::default()
        };
        let scene = check_with(
            limits,
            THREE,
            "
            start    > started, a queued
            a@h      > a dispatched
            a fail X > a failed X again, a#2 queued +2000ms
            a@h      > a#2 dispatched
            a fail X > a#2 failed X again, a#3 queued +6000ms
            a#1 fail X from h > refused LEASE_LAPSED
            ",
        );
        let kept: Vec<u32> = snapshot(&scene).carried.steps[0]
            .commands
            .iter()
            .map(|command| command.attempt)
            .collect();
        assert_eq!(kept, [2, 3]);
    }
}

mod results {
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
        let timing =
            |scene: &Scene, at: usize| snapshot(scene).carried.steps[at].commands[0].timing;
        assert_eq!(
            (timing(&scene, 0).wait_us, timing(&scene, 0).run_us),
            (3_001_000, 20_000)
        );
        scene.play("+2\n b@h > b dispatched\n +4\n b runs > b processing\n +296 > b timed out, FAILED Timeout");
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
            a runs   > a processing
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
}

mod failing {
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
        let told = |effect: &Effect| matches!(effect, Effect::Cancel { host: name, .. } if *name == host("h"));
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
        let key = scene.state.key(&scene.command("b")).unwrap();
        assert_eq!(scene.state.outgoing(&key).unwrap().context, ["{\"in\":1}"]);
        let mut scene = scene;
        scene.play("b ok > b completed, COMPLETED without [\"a\"]");
        assert_eq!(snapshot(&scene).failed_steps().len(), 1);
        assert_eq!(snapshot(&scene).carried.failure, None);
    }
}

mod compensation {
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
        assert_eq!(outgoing.context, ["{\"in\":1}", "{\"a\":1}", "{\"b\":1}"]);
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
}

mod cancelling {
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
}

mod starting {
    use super::*;

    #[test]
    fn a_key_starts_one_transaction() {
        let mut scene = check(TWO, "start key > started, a queued\n start key");
        assert_eq!(
            scene.reply,
            Reply::Started {
                id: scene.ids[0],
                existing: true
            }
        );
        let mut other = start(b"{}");
        other.idempotency_key = "key".to_owned();
        other.input_hash = Bytes::from_static(b"another");
        let again = |start: &Start, ended| Input::Start {
            id: TransactionId([77; 16]),
            workflow: WorkflowName::parse("w").unwrap(),
            version: 0,
            start: Box::new(start.clone()),
            ended,
        };
        let problem = scene.try_input(again(&other, None)).unwrap_err();
        assert_eq!(problem.reason, Reason::IdempotencyKeyReused);
        // One that has left memory is brought along by who looked it up.
        other.idempotency_key = "old".to_owned();
        let old = (TransactionId([5; 16]), other.input_hash.clone());
        assert!(scene.input(again(&other, Some(old.clone()))).is_empty());
        assert_eq!(
            scene.reply,
            Reply::Started {
                id: old.0,
                existing: true
            }
        );
    }

    #[test]
    fn a_key_is_free_again_once_its_transaction_is_forgotten() {
        let mut scene = check(
            TWO,
            "
            start key > started, a queued
            cancel    > cancel requested, a cancelled, CANCELLED
            start key
            ",
        );
        scene.state.remove(&scene.ids[0].clone());
        scene.ids.clear();
        assert_eq!(scene.state.transaction_count(), 0);
        let events = scene.input(Input::Start {
            id: TransactionId([9; 16]),
            workflow: WorkflowName::parse("w").unwrap(),
            version: 1,
            start: start(b"{}"),
            ended: None,
        });
        assert_eq!(events, ["started", "a queued"]);
        scene.state.remove(&TransactionId([9; 16]));
        assert_eq!(scene.state.transaction_count(), 1, "a live one stays");
    }

    #[test]
    fn an_unknown_workflow_is_named_with_the_nearest_and_an_unknown_version_with_the_newest() {
        let mut scene = Scene::new(Limits::default(), TWO);
        for (name, version, words) in [("v", 0, "is it \"w\"?"), ("w", 7, "its newest is 1")] {
            let problem = scene
                .try_input(Input::Start {
                    id: TransactionId([1; 16]),
                    workflow: WorkflowName::parse(name).unwrap(),
                    version,
                    start: start(b"{}"),
                    ended: None,
                })
                .unwrap_err();
            assert_eq!(problem.reason, Reason::WorkflowNotFound);
            assert!(problem.message.contains(words), "{}", problem.message);
        }
    }

    #[test]
    fn a_full_house_refuses_starts_and_says_when_to_come_again() {
        let few = Limits {
            max_live_transactions: 1,
            ..Limits::default()
        };
        let short = Limits {
            max_queued_per_worker: 1,
            ..Limits::default()
        };
        for limits in [few, short] {
            let mut scene = check_with(
                limits,
                TWO,
                "start > started, a queued\n start > ! OVERLOADED",
            );
            let problem = scene
                .try_input(Input::Start {
                    id: TransactionId([9; 16]),
                    workflow: WorkflowName::parse("w").unwrap(),
                    version: 0,
                    start: start(b"{}"),
                    ended: None,
                })
                .unwrap_err();
            assert!(problem.retry_after.is_some());
        }
    }
}

mod restarting {
    use super::*;

    #[test]
    fn what_was_out_gets_the_time_to_come_back_before_its_deadline_counts() {
        check(
            "- {name: a, worker: w, timeout: 5}",
            "
            start > started, a queued
            a@h   > a dispatched
            +4.9
            open  > opened
            +9.9
            +0.1  > a timed out, FAILED Timeout
            ",
        );
    }

    #[test]
    fn a_long_deadline_stays_as_it_was() {
        let mut scene = check(
            "- {name: a, worker: w, timeout: 100}",
            "
            start > started, a queued
            a@h   > a dispatched
            open  > opened
            ",
        );
        assert_eq!(scene.state.next_due(), Some(Time(101_000_000)));
        assert_eq!(scene.state.hosts().len(), 1);
        scene.play("a ok > a completed, COMPLETED");
        assert_eq!(scene.state.next_due(), None);
    }

    #[test]
    fn queued_commands_are_found_again_and_delayed_ones_when_their_time_comes() {
        let steps = "
- parallel:
  - {name: a, worker: w, retry: {attempts: 2, initial_delay: 10s, jitter: 0}}
  - {name: b, worker: w}
";
        let mut scene = check(
            steps,
            "
            start    > started, a queued, b queued
            a@h      > a dispatched
            a fail X > a failed X again, a#2 queued +10000ms
            open     > opened
            ",
        );
        let queued = scene.state.queued();
        assert_eq!(queued.len(), 1);
        assert_eq!(
            scene.state.command_id(&queued[0].0),
            Some(scene.command("b"))
        );
        scene.play("+10");
        assert!(matches!(scene.effects[..], [Effect::Enqueue { .. }]));
    }

    #[test]
    fn a_trim_carries_what_is_live_and_a_refold_of_the_rest_finds_it() {
        let mut scene = check(
            FORK,
            "
            start  > started, a queued
            cancel > cancel requested, a cancelled, CANCELLED
            start  > started, a queued
            a@h    > a dispatched
            a ok   > a completed, b queued, c queued
            b@h    > b dispatched
            carry  > w 1 registered, carried
            ",
        );
        let before = scene.log.next - 2;
        scene.log.stored.retain(|stored| stored.offset >= before);
        scene.ids.remove(0);
        assert_eq!(snapshot(&scene).first_offset, before + 1);
        assert!(
            scene
                .state
                .definitions()
                .all(|(_, offset)| offset == before)
        );
        scene.state = scene.log.replayed(scene.state.limits());
        scene.play("b ok > b completed\n c@h > c dispatched\n c ok > c completed, d queued");
    }

    #[test]
    fn events_of_what_was_trimmed_change_nothing_and_a_missing_definition_is_loud() {
        let scene = check(
            TWO,
            "start > started, a queued\n a@h > a dispatched\n a ok > a completed, b queued",
        );
        let mut state = State::new(Limits::default());
        for stored in scene.log.stored.iter().skip(3) {
            state.replay(stored.offset, stored.event.clone()).unwrap();
        }
        assert_eq!(state.transaction_count(), 0);
        let started = scene.log.stored[2].clone();
        let problem = state.replay(started.offset, started.event).unwrap_err();
        assert_eq!(problem.reason, Reason::LogDamaged);
    }
}
