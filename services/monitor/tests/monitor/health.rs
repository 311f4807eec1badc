//! Who is healthy, and the sentences that say why not: one case a line of semantics' "Counting".

use monitor::fold::Folds;
use monitor::folds::judgement::{Word, WorkerHealth, judge, judge_all};
use monitor::folds::settings::Settings;
use proptest::prelude::*;
use proto::event::{Event, HostEvent, Kind};
use proto::id::Time;

use crate::history::*;

const SECOND: i64 = 1_000_000;

fn health_of(folds: &Folds, worker: &str) -> Option<WorkerHealth> {
    judge(
        worker,
        &folds.health,
        &folds.performance,
        &folds.settings,
        folds.time_us,
    )
}

fn after(events: &[Event]) -> WorkerHealth {
    after_with(events, &Settings::default())
}

fn after_with(events: &[Event], settings: &Settings) -> WorkerHealth {
    health_of(&fold(&entries(events, 7, settings)), "worker-0").unwrap()
}

/// Commands of worker 0, each ending so, one a second.
fn commands(ends: &[End]) -> Vec<Event> {
    commands_on(0, ends)
}

fn commands_on(host: u8, ends: &[End]) -> Vec<Event> {
    ends.iter()
        .enumerate()
        .flat_map(|(number, end)| {
            Run {
                start_us: BEGIN + (1 + number as i64) * SECOND,
                workflow: 0,
                worker: 0,
                host,
                wait_us: 1_000,
                run_us: 100_000,
                end: *end,
            }
            .events(usize::from(host) * 1_000 + number)
        })
        .collect()
}

fn host_event(seconds: i64, host: u8, what: HostEvent) -> Event {
    Event {
        time: Time(BEGIN + seconds * SECOND),
        kind: Kind::Host {
            host: host_id(host),
            what,
        },
    }
}

/// Only the first two events of a command: it started and is queued.
fn queued(seconds: i64) -> Vec<Event> {
    let run = Run {
        start_us: BEGIN + seconds * SECOND,
        workflow: 0,
        worker: 0,
        host: 0,
        wait_us: 0,
        run_us: 0,
        end: End::Open,
    };
    run.events(9_000 + seconds as usize)[..2].to_vec()
}

fn with_host(mut events: Vec<Event>) -> Vec<Event> {
    events.insert(0, host_connected(BEGIN, 0, 4));
    events.sort_by_key(|event| event.time);
    events
}

fn ends(failed: usize, completed: usize) -> Vec<End> {
    let mut ends = vec![End::Failed(0); failed];
    ends.extend(vec![End::Completed; completed]);
    ends
}

#[test]
fn a_live_host_that_is_idle_is_healthy() {
    let health = after(&with_host(Vec::new()));
    assert_eq!((health.word, health.issues.len()), (Word::Healthy, 0));
    assert_eq!((health.slots, health.busy, health.queued), (4, 0, 0));
}

#[test]
fn busy_and_saturated_are_healthy_and_said_in_figures() {
    let mut events = commands(&[End::Open; 4]);
    events.extend(queued(9));
    let health = after(&with_host(events));
    assert_eq!((health.word, health.issues), (Word::Healthy, Vec::new()));
    assert_eq!((health.slots, health.busy, health.queued), (4, 4, 1));
}

#[test]
fn ten_perfect_commands_are_healthy() {
    let health = after(&with_host(commands(&ends(0, 10))));
    assert_eq!(health.word, Word::Healthy);
    assert_eq!(health.busy, 0);
    assert!(health.last_outcome_us.is_some());
}

#[test]
fn nobody_there_and_nothing_waiting_is_inactive() {
    let mut events = with_host(commands(&ends(0, 3)));
    events.push(host_event(60, 0, HostEvent::Disconnected { drained: true }));
    let health = after(&events);
    assert_eq!(health.word, Word::Inactive);
    assert_eq!(
        health.issues,
        ["no live host offers it, and nothing waits for it"]
    );
    assert!(!health.hosts[0].live);
}

#[test]
fn work_that_waits_with_no_live_host_is_failed() {
    let health = after(&queued(1));
    assert_eq!(health.word, Word::Failed);
    assert_eq!(
        health.issues,
        ["1 command waits, and no live host offers it"]
    );
}

#[test]
fn a_host_whose_stream_ended_is_live_until_its_lease_lapses() {
    let mut events = with_host(Vec::new());
    events.push(host_event(5, 0, HostEvent::Disconnected { drained: false }));
    events.extend(queued(6));
    assert_eq!(after(&events).word, Word::Healthy);
    events.push(host_event(15, 0, HostEvent::Lost));
    let health = after(&events);
    assert_eq!(health.word, Word::Failed);
    assert_eq!(health.hosts[0].issues, ["the host's lease lapsed"]);
    events.push(host_connected(BEGIN + 20 * SECOND, 0, 4));
    assert_eq!(after(&events).word, Word::Healthy);
}

#[test]
fn a_worker_that_always_fails_is_failed_from_ten_outcomes_on() {
    let nine = after(&with_host(commands(&ends(9, 0))));
    assert_eq!(
        nine.word,
        Word::Degraded,
        "nine outcomes are too few to say failed"
    );
    let ten = after(&with_host(commands(&ends(10, 0))));
    assert_eq!(ten.word, Word::Failed);
    assert_eq!(
        ten.issues,
        ["10 of 10 executions in the last 30 min failed: 100.0 %, and 50 % is too many"]
    );
}

#[test]
fn the_error_threshold_is_reached_at_one_in_five() {
    assert_eq!(
        after(&with_host(commands(&ends(1, 4)))).word,
        Word::Degraded
    );
    assert_eq!(after(&with_host(commands(&ends(1, 5)))).word, Word::Healthy);
    let never = Settings {
        error_rate_threshold: 0.0,
        ..Settings::default()
    };
    let perfect = after_with(&with_host(commands(&ends(0, 5))), &never);
    assert_eq!(
        perfect.word,
        Word::Healthy,
        "a threshold of zero needs an error all the same"
    );
}

#[test]
fn cancelled_commands_count_in_no_ratio() {
    let mut all = ends(1, 5);
    all.extend([End::Cancelled; 30]);
    assert_eq!(after(&with_host(commands(&all))).word, Word::Healthy);
}

#[test]
fn a_slow_worker_is_degraded_and_says_how_slow() {
    let slow = Settings {
        slow_execution_us: 100_000,
        ..Settings::default()
    };
    let health = after_with(&with_host(commands(&ends(0, 3))), &slow);
    assert_eq!(health.word, Word::Degraded);
    assert_eq!(
        health.issues,
        ["its executions in the last 30 min took 0.10 s on average, and 0.10 s is slow"]
    );
}

#[test]
fn what_lies_before_the_window_is_forgiven() {
    let mut events = with_host(commands(&ends(10, 0)));
    assert_eq!(after(&events).word, Word::Failed);
    let later = BEGIN + 45 * 60 * SECOND;
    events.push(host_connected(later, 1, 1));
    assert_eq!(after(&events).word, Word::Healthy);
}

#[test]
fn one_bad_host_among_good_ones_degrades_the_worker_and_is_named() {
    let mut events = with_host(commands(&ends(0, 100)));
    events.push(host_connected(BEGIN + 1, 1, 4));
    events.extend(commands_on(1, &ends(10, 0)));
    events.sort_by_key(|event| event.time);
    let health = after(&events);
    assert_eq!(health.word, Word::Degraded);
    assert!(
        health.issues[0].starts_with("on host-1 it is failed: 10 of 10"),
        "{:?}",
        health.issues
    );
    let words: Vec<Word> = health.hosts.iter().map(|host| host.word).collect();
    assert_eq!(words, [Word::Healthy, Word::Failed]);
}

#[test]
fn draining_alone_is_no_issue_but_work_that_waits_for_it_is() {
    let mut events = with_host(Vec::new());
    events.push(host_event(2, 0, HostEvent::Draining));
    let health = after(&events);
    assert_eq!(health.word, Word::Healthy);
    assert!(health.hosts[0].draining);
    events.extend(queued(3));
    let health = after(&events);
    assert_eq!(health.word, Word::Degraded);
    assert_eq!(
        health.issues[0],
        "1 command waits, and every live host that offers it is draining"
    );
}

#[test]
fn a_quarantined_host_is_degraded_says_so_and_gets_over_it() {
    let mut events = with_host(Vec::new());
    let what = HostEvent::Quarantined {
        hold_us: 60_000_000,
        losses: 6,
    };
    events.push(host_event(2, 0, what));
    events.extend(queued(3));
    let health = after(&events);
    assert_eq!(health.word, Word::Degraded);
    let held = health.hosts[0].quarantine.unwrap();
    assert_eq!(held.until_us, BEGIN + 62 * SECOND);
    assert_eq!(
        health.issues,
        [
            "1 command waits, and every live host that offers it is draining or quarantined",
            "quarantined for another 59 s, since hosts like it were lost 6 times",
        ]
    );
    // Its time is up.
    let mut over = events.clone();
    over.extend(queued(62));
    let health = after(&over);
    assert_eq!(
        (health.word, health.hosts[0].quarantine),
        (Word::Healthy, None)
    );
    // The orchestrator started anew, and said nothing of it.
    events.push(host_connected(BEGIN + 5 * SECOND, 0, 4));
    assert_eq!(after(&events).word, Word::Healthy);
}

#[test]
fn a_host_that_is_told_of_once_more_is_as_it_was_or_new_to_a_log_without_its_coming() {
    let mut told_again = host_connected(BEGIN + 3 * SECOND, 0, 4);
    let Kind::Host { what, .. } = &mut told_again.kind else {
        unreachable!()
    };
    if let HostEvent::Connected { carried, .. } = what {
        *carried = true;
    }
    let quarantined = HostEvent::Quarantined {
        hold_us: 60_000_000,
        losses: 6,
    };
    for what in [HostEvent::Draining, quarantined] {
        let mut events = with_host(Vec::new());
        events.push(host_event(2, 0, what));
        let shown = |events: &[Event]| {
            let host = after(events).hosts.remove(0);
            (host.draining, host.quarantine, host.word)
        };
        let before = shown(&events);
        events.push(told_again.clone());
        assert_eq!(shown(&events), before);
    }
    let health = after(&[told_again]);
    assert_eq!((health.word, health.hosts.len()), (Word::Healthy, 1));
}

#[test]
fn a_worker_nobody_named_is_unknown() {
    let folds = fold(&entries(&with_host(Vec::new()), 7, &Settings::default()));
    assert!(health_of(&folds, "nobody").is_none());
    let all = judge_all(
        &folds.health,
        &folds.performance,
        &folds.settings,
        folds.time_us,
    );
    let names: Vec<&str> = all.iter().map(|health| health.worker.as_str()).collect();
    assert_eq!(names, ["worker-0", "worker-1", "worker-2"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn slots_and_queues_are_what_is_open(runs in runs(2_000, 100), size in 1_usize..30) {
        let mut events = events(&runs);
        events.insert(0, host_connected(BEGIN, 0, 1_000));
        events.insert(1, host_connected(BEGIN, 1, 1_000));
        let entries = entries(&events, size, &Settings::default());
        let folds = fold(&entries);
        let open = runs.iter().filter(|run| run.end == End::Open).count();
        prop_assert_eq!(folds.health.open_commands(), open);
        for worker in 0..3 {
            let health = health_of(&folds, worker_name(worker).as_str()).unwrap();
            let busy = runs.iter().filter(|run| run.end == End::Open && run.worker == worker).count();
            prop_assert_eq!(health.busy as usize, busy);
            prop_assert_eq!(health.queued, 0);
            prop_assert_eq!(health.word == Word::Healthy, health.issues.is_empty());
        }
    }
}
