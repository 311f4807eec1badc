//! The folds against naive counts over random histories.

use std::collections::{BTreeMap, BTreeSet};

use monitor::fold::Folds;
use monitor::folds::performance::Outcome;
use monitor::folds::rates::{Filter, outcomes};
use monitor::folds::settings::Settings;
use proptest::prelude::*;
use proto::event::{CommandEvent, Event, Kind};

use crate::history::*;

/// What a naive count finds among events from an instant on.
#[derive(Debug, Default, PartialEq)]
struct Naive {
    types: BTreeMap<u8, u64>,
    latencies: Vec<u64>,
    runs: Vec<u64>,
    outcomes: [u64; 4],
    peak: u64,
}

fn naive(events: &[Event], start_us: i64, workflow: Option<&str>, worker: Option<&str>) -> Naive {
    let mut found = Naive::default();
    let mut tens: BTreeMap<i64, u64> = BTreeMap::new();
    for event in events.iter().filter(|event| event.time.0 >= start_us) {
        let (its_workflow, its_worker) = match &event.kind {
            Kind::Transaction { workflow, .. } => (Some(workflow.as_str()), None),
            Kind::Command {
                workflow, command, ..
            } => (Some(workflow.as_str()), Some(command.worker.as_str())),
            _ => (None, None),
        };
        if workflow.is_some_and(|wanted| its_workflow != Some(wanted))
            || worker.is_some_and(|wanted| its_worker != Some(wanted))
        {
            continue;
        }
        *found.types.entry(event.event_type() as u8).or_default() += 1;
        *tens.entry(event.time.0.div_euclid(10_000_000)).or_default() += 1;
        if let Kind::Command { what, .. } = &event.kind {
            let (at, timing) = match what {
                CommandEvent::Completed { timing, .. } => (0, timing),
                CommandEvent::Failed { timing, .. } => (1, timing),
                CommandEvent::TimedOut { timing, .. } => (2, timing),
                CommandEvent::Lost { timing, .. } => (3, timing),
                _ => continue,
            };
            found.outcomes[at] += 1;
            found.latencies.push(timing.wait_us + timing.run_us);
            found.runs.push(timing.run_us);
        }
    }
    found.latencies.sort_unstable();
    found.runs.sort_unstable();
    found.peak = tens.into_values().max().unwrap_or(0);
    found
}

fn near(found: u64, sorted: &[u64], percent: usize) -> bool {
    let exact = sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1];
    found.abs_diff(exact) as f64 <= exact as f64 * 0.01
}

/// Names come from outside: what is over the bound is counted together, and nothing is left out.
#[test]
fn series_past_the_bound_are_counted_together() {
    let settings = Settings {
        series_max: 6,
        ..Settings::default()
    };
    let run = |worker: u8| Run {
        start_us: BEGIN + i64::from(worker) * 1_000,
        workflow: worker,
        worker,
        host: 0,
        wait_us: 10,
        run_us: 100,
        end: End::Completed,
    };
    let runs: Vec<Run> = (0..20).map(run).collect();
    let events = events(&runs);
    let folds = fold(&entries(&events, 9, &settings));
    let figures = folds.rates.figures(BEGIN, Filter::default());
    assert_eq!(figures.events(), events.len() as u64);
    let report = folds.performance.report(BEGIN);
    assert!(
        report.workers.len() <= 7,
        "{} workers",
        report.workers.len()
    );
    let all: u64 = report
        .workers
        .values()
        .map(|(figures, _)| figures.executions())
        .sum();
    assert_eq!(all, 20);
    assert!(report.workers["(other)"].0.executions() >= 14);
}

/// A source may be hours behind, or two of them, and tell of the same ten seconds more than once.
#[test]
fn the_fullest_ten_seconds_count_what_comes_late_and_by_turns() {
    let begun = |start_us: i64| Run {
        start_us,
        workflow: 0,
        worker: 0,
        host: 0,
        wait_us: 0,
        run_us: 0,
        end: End::Completed,
    };
    let two = [begun(BEGIN), begun(BEGIN + 10_000_000)].map(|run| run.events(0));
    let by_turns = two[0].iter().zip(&two[1]).flat_map(|(a, b)| [a, b]);
    let mut late: Vec<Event> = begun(BEGIN + 3 * 3_600_000_000).events(1);
    late.truncate(2);
    late.extend(by_turns.cloned());
    let folds = fold(&entries(&late, 2, &Settings::default()));
    let figures = folds.rates.figures(BEGIN, Filter::default());
    assert_eq!(figures.events(), 16);
    assert_eq!(figures.peak_in_ten_seconds, 7);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn event_metrics_are_what_a_naive_count_finds_in_the_window_they_say_they_cover(
        runs in runs(9_000, 120),
        size in 1_usize..40,
        window in 1_i64..12_000,
        workflow in prop::option::of(0_u8..4),
        worker in prop::option::of(0_u8..4),
    ) {
        let events = events(&runs);
        let folds = fold(&entries(&events, size, &Settings::default()));
        let workflow = workflow.map(|workflow| format!("flow-{workflow}"));
        let worker = worker.map(|worker| format!("worker-{worker}"));
        let (workflow, worker) = (workflow.as_deref(), worker.as_deref());
        let asked = folds.time_us - window * 1_000_000;
        let figures = folds.rates.figures(asked, Filter { workflow, worker });
        let first = events.iter().map(|event| event.time.0).min().unwrap();
        if workflow.is_none() || worker.is_none() {
            prop_assert!(figures.start_us <= asked.max(first), "the window is covered");
        }
        let naive = naive(&events, figures.start_us, workflow, worker);
        prop_assert_eq!(&figures.types, &naive.types);
        let ended = outcomes(&figures);
        prop_assert_eq!(ended.completed, naive.outcomes[0]);
        prop_assert_eq!(ended.errors, naive.outcomes[1..].iter().sum::<u64>());
        let count = naive.latencies.len() as u64;
        prop_assert_eq!(figures.latency.map_or(0, |latency| latency.count), count);
        prop_assert_eq!(ended.success_ratio().is_none(), count == 0);
        if let Some(latency) = figures.latency {
            prop_assert_eq!(latency.average_us, naive.latencies.iter().sum::<u64>() / count);
            prop_assert_eq!(latency.least_us, naive.latencies[0]);
            prop_assert_eq!(Some(&latency.most_us), naive.latencies.last());
            prop_assert!(near(latency.p50_us, &naive.latencies, 50));
            prop_assert!(near(latency.p95_us, &naive.latencies, 95));
            prop_assert!(near(latency.p99_us, &naive.latencies, 99));
        }
        prop_assert_eq!(figures.peak_in_ten_seconds, naive.peak);
    }

    #[test]
    fn performance_is_what_a_naive_count_finds(
        runs in runs(9_000, 120), size in 1_usize..40, window in 1_i64..12_000,
    ) {
        let events = events(&runs);
        let folds = fold(&entries(&events, size, &Settings::default()));
        let report = folds.performance.report(folds.time_us - window * 1_000_000);
        let mut all = [0; 4];
        for worker in 0..3 {
            let name = format!("worker-{worker}");
            let naive = naive(&events, report.start_us, None, Some(&name));
            let (figures, hosts) = report.workers.get(&name).cloned().unwrap_or_default();
            prop_assert_eq!(figures.outcomes, naive.outcomes);
            prop_assert_eq!(figures.run.map_or(0, |run| run.count), naive.runs.len() as u64);
            if let Some(run) = figures.run {
                prop_assert!(near(run.p95_us, &naive.runs, 95));
            }
            let by_host: u64 = hosts.values().map(|host| host.executions()).sum();
            prop_assert_eq!(by_host, figures.executions());
            let only = folds.performance.report_of(report.start_us, &name);
            prop_assert_eq!(only.workers.get(&name).map(|found| &found.0), Some(&figures).filter(|figures| figures.executions() > 0));
            all.iter_mut().zip(figures.outcomes).for_each(|(sum, count)| *sum += count);
        }
        prop_assert_eq!(report.all.outcomes, all);
    }

    #[test]
    fn counters_never_fall_and_count_everything_since_the_first_event(
        runs in runs(400_000, 80), size in 1_usize..40,
    ) {
        let events = events(&runs);
        let settings = Settings { figures_retention_seconds: 3_600, trace_retention_seconds: 3_600, ..Settings::default() };
        let mut folds = Folds::default();
        let mut before = 0;
        for entry in entries(&events, size, &settings) {
            folds.apply(&entry);
            let total = folds.rates.totals.values().sum();
            prop_assert!(total >= before);
            before = total;
        }
        prop_assert_eq!(before, events.len() as u64);
        let naive = naive(&events, 0, None, None);
        for (at, outcome) in [Outcome::Completed, Outcome::Failed, Outcome::Timeout, Outcome::Lost].into_iter().enumerate() {
            let total: u64 = folds.performance.totals().map(|(_, total)| total.of(outcome)).sum();
            prop_assert_eq!(total, naive.outcomes[at]);
        }
    }

    #[test]
    fn the_same_entries_give_the_same_bytes_with_a_snapshot_in_between_or_without(
        runs in runs(20_000, 80), size in 1_usize..40, cut in 0.0_f64..1.0,
    ) {
        let entries = entries(&events(&runs), size, &Settings::default());
        let whole = fold(&entries);
        let cut = (entries.len() as f64 * cut) as usize;
        let (before, after) = entries.split_at(cut);
        let bytes = postcard::to_stdvec(&fold(before)).unwrap();
        let mut again: Folds = postcard::from_bytes(&bytes).unwrap();
        // Published views share parts with the folds; they must not change with them.
        let view = again.clone();
        after.iter().for_each(|entry| again.apply(entry));
        prop_assert_eq!(again.encoded().unwrap(), whole.encoded().unwrap());
        prop_assert_eq!(postcard::to_stdvec(&view).unwrap(), bytes);
    }

    #[test]
    fn patterns_count_each_failure_once(
        runs in runs(3_000, 120), size in 1_usize..40, window in 1_i64..4_000,
    ) {
        let events = events(&runs);
        let folds = fold(&entries(&events, size, &Settings::default()));
        let (start_us, found) = folds.patterns.since(folds.time_us - window * 1_000_000, None);
        let naive = naive(&events, start_us, None, None);
        let count: u64 = found.iter().map(|found| found.count).sum();
        prop_assert_eq!(count, naive.outcomes[1..].iter().sum::<u64>());
        prop_assert!(found.windows(2).all(|pair| pair[0].count >= pair[1].count));
        let by_worker: u64 = (0..3)
            .flat_map(|worker| folds.patterns.since(start_us, Some(worker_name(worker).as_str())).1)
            .map(|found| found.count)
            .sum();
        prop_assert_eq!(by_worker, count);
    }

    #[test]
    fn traces_know_every_record_that_has_an_event_of_the_transaction(
        runs in runs(3_000, 60), size in 1_usize..40, ended_max in 0_u64..40,
    ) {
        let events = events(&runs);
        let settings = Settings { ended_traces_max: ended_max, ..Settings::default() };
        let entries = entries(&events, size, &settings);
        let folds = fold(&entries);
        let live = runs.iter().filter(|run| run.end == End::Open).count() as u64;
        prop_assert_eq!(folds.traces.live(), live);
        let mut at_hand = 0;
        for (number, run) in runs.iter().enumerate() {
            let id = transaction_id(run.start_us, number);
            let wanted: BTreeSet<u64> = entries
                .iter()
                .filter(|entry| match &entry.what {
                    monitor::fold::What::Events(events) => {
                        events.events.iter().any(|stored| stored.event.transaction() == Some(id))
                    }
                    _ => false,
                })
                .map(|entry| entry.record)
                .collect();
            let first = *wanted.first().unwrap();
            prop_assert!(folds.traces.first_record_since(run.start_us).unwrap() <= first);
            match folds.traces.find(&id.0) {
                Some(trace) => {
                    prop_assert!(!trace.partial);
                    prop_assert_eq!(trace.places.iter().copied().collect::<BTreeSet<_>>(), wanted);
                    at_hand += u64::from(trace.ended);
                }
                None => prop_assert!(run.end != End::Open),
            }
        }
        prop_assert_eq!(at_hand, ended_max.min(runs.len() as u64 - live));
    }
}
