//! How each worker does: its executions, their outcomes, how long they ran and waited.

use std::collections::BTreeMap;

use proto::event::{Command, CommandEvent, Kind, Timing};
use serde::{Deserialize, Serialize};

use super::histogram::{Histogram, Merged, Summary};
use super::names::{NameId, Names, OTHER, OTHER_ID};
use super::settings::Settings;
use super::tiers::{Bucket, Tiers, cutoff_us};
use crate::fold::{Entry, Fold, What};

/// Upper bounds of the cumulative histograms, in microseconds.
pub const BOUNDS_US: [u64; 15] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// The fold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Performance {
    names: Names,
    tiers: Tiers<Cells>,
    last_us: i64,
    totals: BTreeMap<NameId, Total>,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Its handler succeeded.
    Completed,
    /// Its handler failed.
    Failed,
    /// Its deadline passed.
    Timeout,
    /// Its host's lease lapsed.
    Lost,
    /// It was cancelled.
    Cancelled,
}

/// Every outcome, with its word.
pub const OUTCOMES: [(Outcome, &str); 5] = [
    (Outcome::Completed, "completed"),
    (Outcome::Failed, "failed"),
    (Outcome::Timeout, "timeout"),
    (Outcome::Lost, "lost"),
    (Outcome::Cancelled, "cancelled"),
];

/// The outcome that an event is, if it is one.
pub fn outcome(what: &CommandEvent) -> Option<(Outcome, Timing)> {
    match what {
        CommandEvent::Completed { timing, .. } => Some((Outcome::Completed, *timing)),
        CommandEvent::Failed { timing, .. } => Some((Outcome::Failed, *timing)),
        CommandEvent::TimedOut { timing, .. } => Some((Outcome::Timeout, *timing)),
        CommandEvent::Lost { timing, .. } => Some((Outcome::Lost, *timing)),
        CommandEvent::Cancelled { timing } => Some((Outcome::Cancelled, *timing)),
        CommandEvent::Queued { .. }
        | CommandEvent::Dispatched
        | CommandEvent::PickedUp
        | CommandEvent::Processing => None,
    }
}

/// A worker's counters since the log's first event.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Total {
    outcomes: [u64; 5],
    /// From queued to the outcome.
    pub latency: Cumulative,
    /// From processing to the outcome.
    pub run: Cumulative,
    /// From queued to processing.
    pub wait: Cumulative,
}

impl Total {
    /// Commands that ended so.
    pub fn of(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize]
    }

    /// Commands that count in ratios.
    pub fn executions(&self) -> u64 {
        self.outcomes[..4].iter().sum()
    }
}

/// A histogram that only grows, in Prometheus' form.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cumulative {
    /// How many fell under each bound and over the one before; the last are over all.
    pub counts: [u64; 16],
    /// Their sum, in microseconds.
    pub sum_us: u64,
}

impl Cumulative {
    fn record(&mut self, us: u64) {
        let at = BOUNDS_US.partition_point(|bound| *bound < us);
        self.counts[at] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }
}

/// Worker, and host; none for all hosts together.
type Subject = (NameId, Option<NameId>);

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Cells(BTreeMap<Subject, Cell>);

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Cell {
    /// Completed, failed, timeout, lost.
    outcomes: [u64; 4],
    run: Histogram,
    wait: Histogram,
}

impl Bucket for Cells {
    fn absorb(&mut self, other: &Self, _: i64, _: usize) {
        for (subject, cell) in &other.0 {
            let target = self.0.entry(*subject).or_default();
            for (sum, count) in target.outcomes.iter_mut().zip(cell.outcomes) {
                *sum += count;
            }
            target.run.merge(&cell.run);
            target.wait.merge(&cell.wait);
        }
    }
}

/// A worker's figures over a window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Completed, failed, timeout, lost.
    pub outcomes: [u64; 4],
    /// How long handlers took.
    pub run: Option<Summary>,
    /// How long commands waited; none where timing isn't detailed.
    pub wait: Option<Summary>,
}

impl Figures {
    /// Commands that count in ratios.
    pub fn executions(&self) -> u64 {
        self.outcomes.iter().sum()
    }

    /// Failed, timed-out and lost ones.
    pub fn errors(&self) -> u64 {
        self.outcomes[1..].iter().sum()
    }

    /// The part that are errors; none without executions.
    pub fn error_ratio(&self) -> Option<f64> {
        let executions = self.executions();
        (executions > 0).then(|| self.errors() as f64 / executions as f64)
    }

    /// The part that completed; none without executions.
    pub fn success_ratio(&self) -> Option<f64> {
        let executions = self.executions();
        (executions > 0).then(|| self.outcomes[0] as f64 / executions as f64)
    }
}

/// Every worker's figures over a window.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Where the window that is covered begins, in microseconds.
    pub start_us: i64,
    /// By worker: together, and by host.
    pub workers: BTreeMap<String, (Figures, BTreeMap<String, Figures>)>,
    /// All together.
    pub all: Figures,
}

#[derive(Default)]
struct Sum {
    outcomes: [u64; 4],
    run: Merged,
    wait: Merged,
}

impl Sum {
    fn add(&mut self, cell: &Cell) {
        for (sum, count) in self.outcomes.iter_mut().zip(cell.outcomes) {
            *sum += count;
        }
        self.run.add(&cell.run);
        self.wait.add(&cell.wait);
    }

    fn figures(&self) -> Figures {
        Figures {
            outcomes: self.outcomes,
            run: self.run.summary(),
            wait: self.wait.summary(),
        }
    }
}

impl Fold for Performance {
    const NAME: &'static str = "performance";

    fn apply(&mut self, entry: &Entry, settings: &Settings) {
        if !settings.workers {
            return;
        }
        let now = entry.time.0;
        self.tiers.roll(now);
        self.tiers.follow(entry.since_us());
        if settings.sweep_is_due(self.last_us, now) {
            self.tiers
                .forget(cutoff_us(now, settings.retention_seconds()));
        }
        self.last_us = now;
        let What::Events(events) = &entry.what else {
            return;
        };
        for stored in &events.events {
            if let Kind::Command { command, what, .. } = &stored.event.kind
                && let Some((outcome, timing)) = outcome(what)
            {
                self.ended(stored.event.time.0, command, outcome, timing, settings);
            }
        }
    }
}

impl Performance {
    fn ended(
        &mut self,
        time_us: i64,
        command: &Command,
        outcome: Outcome,
        timing: Timing,
        settings: &Settings,
    ) {
        let worker = self.names.intern(command.worker.as_str());
        let host = command
            .host
            .as_ref()
            .map(|host| self.names.intern(host.as_str()));
        let limit = usize::try_from(settings.series_max).unwrap_or(usize::MAX);
        let over = self.totals.len() >= limit && !self.totals.contains_key(&worker);
        let total = self
            .totals
            .entry(if over { OTHER_ID } else { worker })
            .or_default();
        total.outcomes[outcome as usize] += 1;
        if outcome == Outcome::Cancelled {
            return;
        }
        total.latency.record(timing.latency_us());
        total.run.record(timing.run_us);
        if settings.detailed_timing {
            total.wait.record(timing.wait_us);
        }
        let (_, cells) = self.tiers.at(time_us);
        let mut add = |subject: Subject, other: Subject| {
            let over = cells.0.len() >= limit && !cells.0.contains_key(&subject);
            let cell = cells
                .0
                .entry(if over { other } else { subject })
                .or_default();
            cell.outcomes[outcome as usize] += 1;
            cell.run.record(timing.run_us);
            if settings.detailed_timing {
                cell.wait.record(timing.wait_us);
            }
        };
        add((worker, None), (OTHER_ID, None));
        if let Some(host) = host {
            add((worker, Some(host)), (OTHER_ID, Some(OTHER_ID)));
        }
    }

    /// Every worker's figures from an instant on.
    pub fn report(&self, start_us: i64) -> Report {
        self.sum(start_us, None)
    }

    /// One worker's figures from an instant on; nothing else is in the report.
    pub fn report_of(&self, start_us: i64, worker: &str) -> Report {
        match self.names.find(worker) {
            Some(id) => self.sum(start_us, Some(id)),
            None => Report {
                start_us: self.tiers.since(start_us).start_us,
                ..Report::default()
            },
        }
    }

    fn sum(&self, start_us: i64, only: Option<NameId>) -> Report {
        let covered = self.tiers.since(start_us);
        let mut all = Sum::default();
        let mut sums: BTreeMap<Subject, Sum> = BTreeMap::new();
        for (_, _, cells) in covered.buckets {
            let range = match only {
                Some(worker) => cells.0.range((worker, None)..=(worker, Some(NameId::MAX))),
                None => cells.0.range(..),
            };
            for (subject, cell) in range {
                if subject.1.is_none() {
                    all.add(cell);
                }
                sums.entry(*subject).or_default().add(cell);
            }
        }
        let mut report = Report {
            start_us: covered.start_us,
            all: all.figures(),
            ..Report::default()
        };
        for ((worker, host), sum) in sums {
            let name = self.names.name(worker).to_owned();
            let of_worker = report.workers.entry(name).or_default();
            match host {
                None => of_worker.0 = sum.figures(),
                Some(host) => {
                    let name = self.names.name(host).to_owned();
                    of_worker.1.insert(name, sum.figures());
                }
            }
        }
        report
    }

    /// The counters of each worker, by name.
    pub fn totals(&self) -> impl Iterator<Item = (&str, &Total)> {
        self.totals.iter().map(|(worker, total)| {
            let name = if *worker == OTHER_ID {
                OTHER
            } else {
                self.names.name(*worker)
            };
            (name, total)
        })
    }
}
