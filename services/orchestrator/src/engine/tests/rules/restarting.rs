//! What a start finds again, and what a trim carries.

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
fn a_trim_tells_once_more_of_each_host_that_is_here_and_how_it_is() {
    let mut scene = check(
        TWO,
        "
        come here   > here connected
        come going  > going connected
        drain going > going draining
        come away   > away connected
        break away  > away away
        come left   > left connected
        leave left  > left drained
        come dead   > dead connected
        lapse dead  > dead lost
        carry       > w 1 registered, away carried, away away, going carried, going draining, here carried
        come here   > here connected
        ",
    );
    let known = scene.state.hosts();
    scene.log.stored.retain(|stored| stored.offset > 9);
    assert_eq!(scene.log.replayed(scene.state.limits()).hosts(), known);
    scene.play("lapse away > away lost");
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
