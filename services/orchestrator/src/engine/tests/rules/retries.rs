//! When a step is tried again, and after how long.

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
