//! How much, how fast, how long: events by type and commands' latency, over any window.
//!
//! Counters since the log's first event stand beside the windows; they never fall.

use std::collections::BTreeMap;

use proto::convert::timing;
use proto::event::{CommandEvent, Event, Kind, TransactionEvent};
use proto::id::{WorkerName, WorkflowName};
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
    /// In buckets of a minute and more, tens of seconds and their events: the fullest ones, which are
    /// all that a minute has. In an hour's an event that comes late may find its ten forgotten.
    tens: Vec<(i64, u64)>,
}

/// So many tens of seconds are kept in a bucket: a minute's.
const TENS_KEPT: usize = 6;

impl Cell {
    fn count(&mut self, number: TypeNumber, events: u64) {
        match self
            .types
            .binary_search_by_key(&number, |(number, _)| *number)
        {
            Ok(at) => self.types[at].1 += events,
            Err(at) => self.types.insert(at, (number, events)),
        }
    }

    fn events(&self) -> u64 {
        self.types.iter().map(|(_, count)| count).sum()
    }

    /// Counts events of ten seconds.
    fn fill(&mut self, ten: i64, events: u64) {
        if let Some((_, count)) = self.tens.iter_mut().find(|(kept, _)| *kept == ten) {
            *count += events;
            return;
        }
        if self.tens.len() == TENS_KEPT {
            let least = (0..TENS_KEPT).min_by_key(|at| self.tens[*at].1);
            least.map(|at| self.tens.swap_remove(at));
        }
        self.tens.push((ten, events));
    }
}

impl Bucket for Cells {
    fn absorb(&mut self, other: &Self, start: i64, tier: usize) {
        for (subject, cell) in &other.0 {
            if tier > 1 && matches!(subject, Subject::Pair(..)) {
                continue;
            }
            let target = self.0.entry(*subject).or_default();
            for (number, count) in &cell.types {
                target.count(*number, *count);
            }
            target.latency.merge(&cell.latency);
            if tier == 2 {
                target.fill(start.div_euclid(WIDTHS[1]), cell.events());
            }
            for (ten, events) in &cell.tens {
                target.fill(*ten, *events);
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
        let mut alike = Vec::new();
        for stored in &events.events {
            self.sizes(&stored.event, settings);
            let (same, latency) = sorted(&stored.event);
            let at = alike.iter().position(|one: &Alike<'_>| one.same == same);
            let at = at.unwrap_or_else(|| {
                if alike.len() == ALIKE_MAX {
                    self.count(&mut alike, settings);
                }
                alike.push(Alike::new(same, stored.event.time.0));
                alike.len() - 1
            });
            alike[at].events += 1;
            alike[at].latencies.extend(latency);
        }
        if events.unknown > 0 {
            let since_us = events.head_time.0.min(now);
            alike.push(Alike {
                events: events.unknown,
                ..Alike::new(Same::unknown(since_us), since_us)
            });
        }
        self.count(&mut alike, settings);
    }
}

/// So many kinds of events of one batch are gathered before they are counted.
const ALIKE_MAX: usize = 16;

/// What events have in common that are counted as one.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Same<'a> {
    second: i64,
    number: TypeNumber,
    workflow: Option<&'a str>,
    worker: Option<&'a str>,
}

/// Events of a batch that are counted as one: most of them differ in nothing that counts here.
struct Alike<'a> {
    same: Same<'a>,
    /// When the first of them happened.
    since_us: i64,
    events: u64,
    latencies: Vec<u64>,
}

impl Same<'_> {
    /// An event of a type that this program doesn't know.
    fn unknown(time_us: i64) -> Self {
        Self {
            second: time_us.div_euclid(1_000_000),
            number: 0,
            workflow: None,
            worker: None,
        }
    }
}

impl<'a> Alike<'a> {
    fn new(same: Same<'a>, since_us: i64) -> Self {
        Self {
            same,
            since_us,
            events: 0,
            latencies: Vec::new(),
        }
    }
}

/// What an event is counted as, and its command's latency where it is an outcome that has one.
fn sorted(event: &Event) -> (Same<'_>, Option<u64>) {
    let latency = match &event.kind {
        Kind::Command { what, .. } if !matches!(what, CommandEvent::Cancelled { .. }) => {
            timing(what).map(|timing| timing.latency_us())
        }
        _ => None,
    };
    let same = Same {
        second: event.time.0.div_euclid(1_000_000),
        number: TypeNumber::try_from(event.event_type() as i32).unwrap_or_default(),
        workflow: event.workflow().map(WorkflowName::as_str),
        worker: event.worker().map(WorkerName::as_str),
    };
    (same, latency)
}

impl Rates {
    fn sizes(&mut self, event: &Event, settings: &Settings) {
        if !settings.payload_sizes {
            return;
        }
        match &event.kind {
            Kind::Transaction {
                what: TransactionEvent::Started(start),
                ..
            } => self.input_bytes_total += start.input.size(),
            Kind::Command {
                what: CommandEvent::Completed { result, .. },
                ..
            } => self.result_bytes_total += result.size(),
            _ => {}
        }
    }

    /// Counts what was gathered.
    fn count(&mut self, alike: &mut Vec<Alike<'_>>, settings: &Settings) {
        let limit = usize::try_from(settings.series_max).unwrap_or(usize::MAX);
        for Alike {
            same,
            since_us,
            events,
            latencies,
        } in alike.drain(..)
        {
            let workflow = same.workflow.map(|name| self.names.intern(name));
            let worker = same.worker.map(|name| self.names.intern(name));
            *self.totals.entry(same.number).or_default() += events;
            let (tier, cells) = self.tiers.at(since_us);
            let ten = same.second.div_euclid(10);
            let mut add = |subject: Subject, other: Subject| {
                let over = cells.0.len() >= limit && !cells.0.contains_key(&subject);
                let cell = cells
                    .0
                    .entry(if over { other } else { subject })
                    .or_default();
                cell.count(same.number, events);
                for us in &latencies {
                    cell.latency.record(*us);
                }
                if tier > 1 {
                    cell.fill(ten, events);
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
                for (ten, events) in &cell.tens {
                    *tens.entry(*ten).or_default() += events;
                }
            }
        }
        figures.peak_in_ten_seconds = tens.into_values().max().unwrap_or(0);
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
