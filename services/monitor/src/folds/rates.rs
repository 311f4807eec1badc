//! How much, how fast, how long: events by type and commands' latency, over any window.
//!
//! Counters since the log's first event stand beside the windows; they never fall.

use std::collections::BTreeMap;

use proto::convert::timing;
use proto::event::{CommandEvent, Kind, TransactionEvent};
use serde::{Deserialize, Serialize};

use super::histogram::{Histogram, Merged, Summary};
use super::names::{NameId, Names, OTHER_ID};
use super::settings::Settings;
use super::tiers::{Bucket, Tiers, WIDTHS, cutoff_us};
use crate::fold::{Entry, Fold, What};

/// An event's type by its number; 0 is one that this program doesn't know.
pub type TypeNumber = u8;

/// The fold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    names: Names,
    tiers: Tiers<Cells>,
    last_us: i64,
    /// Events by type, ever.
    pub totals: BTreeMap<TypeNumber, u64>,
    /// Bytes that transactions started with, ever.
    pub input_bytes_total: u64,
    /// Bytes of results, ever.
    pub result_bytes_total: u64,
}

/// Whose figures. Pairs are kept for two hours only: their number is a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Subject {
    All,
    Workflow(NameId),
    Worker(NameId),
    Pair(NameId, NameId),
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Cells(BTreeMap<Subject, Cell>);

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Cell {
    /// Events by type, those that came.
    types: Vec<(TypeNumber, u64)>,
    latency: Histogram,
    /// The most events in ten seconds; in buckets of a minute and more.
    peak: u64,
    /// Ten seconds that are being counted there, as events come late.
    late: (i64, u64),
}

impl Cell {
    fn count(&mut self, number: TypeNumber) {
        match self
            .types
            .binary_search_by_key(&number, |(number, _)| *number)
        {
            Ok(at) => self.types[at].1 += 1,
            Err(at) => self.types.insert(at, (number, 1)),
        }
    }

    fn events(&self) -> u64 {
        self.types.iter().map(|(_, count)| count).sum()
    }
}

impl Bucket for Cells {
    fn absorb(&mut self, other: &Self, tier: usize) {
        for (subject, cell) in &other.0 {
            if tier > 1 && matches!(subject, Subject::Pair(..)) {
                continue;
            }
            let target = self.0.entry(*subject).or_default();
            for (number, count) in &cell.types {
                match target
                    .types
                    .binary_search_by_key(number, |(number, _)| *number)
                {
                    Ok(at) => target.types[at].1 += count,
                    Err(at) => target.types.insert(at, (*number, *count)),
                }
            }
            target.latency.merge(&cell.latency);
            if tier > 1 {
                let peak = if tier == 2 { cell.events() } else { cell.peak };
                target.peak = target.peak.max(peak);
            }
        }
    }
}

/// What to ask for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter<'a> {
    /// Only this workflow.
    pub workflow: Option<&'a str>,
    /// Only this worker.
    pub worker: Option<&'a str>,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Where the window that is covered begins, in microseconds.
    pub start_us: i64,
    /// Events by type.
    pub types: BTreeMap<TypeNumber, u64>,
    /// From queued to the outcome; cancelled commands don't count.
    pub latency: Option<Summary>,
    /// The most events in ten seconds, aligned to tens.
    pub peak_in_ten_seconds: u64,
}

impl Figures {
    /// All events.
    pub fn events(&self) -> u64 {
        self.types.values().sum()
    }

    /// Events of some types.
    pub fn of(&self, types: &[i32]) -> u64 {
        types
            .iter()
            .filter_map(|number| self.types.get(&TypeNumber::try_from(*number).ok()?))
            .sum()
    }
}

impl Fold for Rates {
    const NAME: &'static str = "rates";

    fn apply(&mut self, entry: &Entry, settings: &Settings) {
        if !settings.events {
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
            self.event(&stored.event, settings);
        }
        for _ in 0..events.unknown {
            self.count(events.head_time.0.min(now), 0, None, None, None, settings);
        }
    }
}

impl Rates {
    fn event(&mut self, event: &proto::event::Event, settings: &Settings) {
        let number = TypeNumber::try_from(event.event_type() as i32).unwrap_or_default();
        let (mut workflow, mut worker, mut latency) = (None, None, None);
        match &event.kind {
            Kind::WorkflowRegistered(definition) => {
                workflow = Some(self.names.intern(definition.name.as_str()));
            }
            Kind::Transaction {
                workflow: name,
                what,
                ..
            } => {
                workflow = Some(self.names.intern(name.as_str()));
                if let TransactionEvent::Started(start) = what
                    && settings.payload_sizes
                {
                    self.input_bytes_total += start.input.size();
                }
            }
            Kind::Command {
                workflow: name,
                command,
                what,
                ..
            } => {
                workflow = Some(self.names.intern(name.as_str()));
                worker = Some(self.names.intern(command.worker.as_str()));
                if !matches!(what, CommandEvent::Cancelled { .. }) {
                    latency = timing(what).map(|timing| timing.latency_us());
                }
                if let CommandEvent::Completed { result, .. } = what
                    && settings.payload_sizes
                {
                    self.result_bytes_total += result.size();
                }
            }
            Kind::OrchestratorStarted { .. }
            | Kind::Host { .. }
            | Kind::ResultRefused { .. }
            | Kind::SystemSampled { .. } => {}
        }
        self.count(event.time.0, number, workflow, worker, latency, settings);
    }

    fn count(
        &mut self,
        time_us: i64,
        number: TypeNumber,
        workflow: Option<NameId>,
        worker: Option<NameId>,
        latency: Option<u64>,
        settings: &Settings,
    ) {
        *self.totals.entry(number).or_default() += 1;
        let (tier, cells) = self.tiers.at(time_us);
        let ten = time_us.div_euclid(10_000_000);
        let limit = usize::try_from(settings.series_max).unwrap_or(usize::MAX);
        let mut add = |subject: Subject, other: Subject| {
            let over = cells.0.len() >= limit && !cells.0.contains_key(&subject);
            let cell = cells
                .0
                .entry(if over { other } else { subject })
                .or_default();
            cell.count(number);
            if let Some(us) = latency {
                cell.latency.record(us);
            }
            if tier > 1 {
                cell.late = if cell.late.0 == ten {
                    (ten, cell.late.1 + 1)
                } else {
                    (ten, 1)
                };
                cell.peak = cell.peak.max(cell.late.1);
            }
        };
        add(Subject::All, Subject::All);
        if let Some(workflow) = workflow {
            add(Subject::Workflow(workflow), Subject::Workflow(OTHER_ID));
        }
        if let Some(worker) = worker {
            add(Subject::Worker(worker), Subject::Worker(OTHER_ID));
        }
        if let (Some(workflow), Some(worker), true) = (workflow, worker, tier < 2) {
            add(
                Subject::Pair(workflow, worker),
                Subject::Pair(OTHER_ID, OTHER_ID),
            );
        }
    }

    /// The figures from an instant on.
    pub fn figures(&self, start_us: i64, filter: Filter<'_>) -> Figures {
        let subject = match (filter.workflow, filter.worker) {
            (None, None) => Some(Subject::All),
            (Some(workflow), None) => self.names.find(workflow).map(Subject::Workflow),
            (None, Some(worker)) => self.names.find(worker).map(Subject::Worker),
            (Some(workflow), Some(worker)) => self
                .names
                .find(workflow)
                .zip(self.names.find(worker))
                .map(|(workflow, worker)| Subject::Pair(workflow, worker)),
        };
        let both = filter.workflow.is_some() && filter.worker.is_some();
        let start_us = if both {
            start_us.max(self.tiers.coarse_before_us())
        } else {
            start_us
        };
        let covered = self.tiers.since(start_us);
        let mut figures = Figures {
            start_us: covered.start_us,
            ..Figures::default()
        };
        let Some(subject) = subject else {
            return figures;
        };
        let mut latency = Merged::default();
        let mut tens: BTreeMap<i64, u64> = BTreeMap::new();
        for (tier, start, cells) in covered.buckets {
            let Some(cell) = cells.0.get(&subject) else {
                continue;
            };
            for (number, count) in &cell.types {
                *figures.types.entry(*number).or_default() += count;
            }
            latency.add(&cell.latency);
            if tier < 2 {
                *tens.entry(start.div_euclid(WIDTHS[1])).or_default() += cell.events();
            } else {
                figures.peak_in_ten_seconds = figures.peak_in_ten_seconds.max(cell.peak);
            }
        }
        figures.peak_in_ten_seconds = tens
            .into_values()
            .fold(figures.peak_in_ten_seconds, u64::max);
        figures.latency = latency.summary();
        figures
    }
}

/// How commands ended, as the types of events tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Completed ones.
    pub completed: u64,
    /// Failed, timed-out and lost ones.
    pub errors: u64,
    /// Cancelled ones, which count in no ratio.
    pub cancelled: u64,
}

impl Outcomes {
    /// The part that completed; none without outcomes.
    pub fn success_ratio(self) -> Option<f64> {
        let all = self.completed + self.errors;
        (all > 0).then(|| self.completed as f64 / all as f64)
    }

    /// The part that are errors; none without outcomes.
    pub fn error_ratio(self) -> Option<f64> {
        let all = self.completed + self.errors;
        (all > 0).then(|| self.errors as f64 / all as f64)
    }
}

/// The outcomes among some figures.
pub fn outcomes(figures: &Figures) -> Outcomes {
    use proto::event::EventType as Type;
    Outcomes {
        completed: figures.of(&[Type::CommandCompleted as i32]),
        errors: figures.of(&[
            Type::CommandFailed as i32,
            Type::CommandTimedOut as i32,
            Type::CommandLost as i32,
        ]),
        cancelled: figures.of(&[Type::CommandCancelled as i32]),
    }
}
