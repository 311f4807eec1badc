//! Figures counted from the raw log, in the plainest way: lists and loops.

use std::collections::BTreeMap;

use proto::batch::Stored;
use proto::event::{CommandEvent, Event, Kind, Timing, TransactionEvent};
use proto::{convert, lifecycle};

/// What a log says in figures.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Events.
    pub events: u64,
    /// By type, as the contract's number.
    pub by_type: BTreeMap<i32, u64>,
    /// Events of commands by stage, as the contract's number.
    pub by_stage: BTreeMap<i32, u64>,
    /// Transactions that started.
    pub started: u64,
    /// Transactions that ended.
    pub ended: u64,
    /// All workers together.
    pub all: Outcomes,
    /// Each worker.
    pub workers: BTreeMap<String, Outcomes>,
    /// How often each failure came: (kind, message).
    pub failures: BTreeMap<(String, String), u64>,
}

/// How commands came out. Cancelled ones count in none of it.
#[derive(Clone, Debug, Default)]
pub struct Outcomes {
    /// Completed.
    pub completed: u64,
    /// Failed.
    pub failed: u64,
    /// Timed out.
    pub timed_out: u64,
    /// Lost.
    pub lost: u64,
    /// Cancelled.
    pub cancelled: u64,
    /// How long each waited and ran.
    pub timings: Vec<Timing>,
}

impl Outcomes {
    /// Those that count in a ratio.
    pub fn total(&self) -> u64 {
        self.completed + self.errors()
    }

    /// Failed, timed out and lost.
    pub fn errors(&self) -> u64 {
        self.failed + self.timed_out + self.lost
    }

    /// The part that completed; none without outcomes.
    pub fn success_ratio(&self) -> Option<f64> {
        (self.total() > 0).then(|| self.completed as f64 / self.total() as f64)
    }

    fn add(&mut self, what: &CommandEvent) {
        match what {
            CommandEvent::Completed { .. } => self.completed += 1,
            CommandEvent::Failed { .. } => self.failed += 1,
            CommandEvent::TimedOut { .. } => self.timed_out += 1,
            CommandEvent::Lost { .. } => self.lost += 1,
            CommandEvent::Cancelled { .. } => {
                self.cancelled += 1;
                return;
            }
            CommandEvent::Queued { .. }
            | CommandEvent::Dispatched
            | CommandEvent::PickedUp
            | CommandEvent::Processing => return,
        }
        self.timings.extend(convert::timing(what));
    }
}

/// Counts.
pub fn figures<'a>(events: impl IntoIterator<Item = &'a Stored>) -> Figures {
    let mut figures = Figures::default();
    for Stored { event, .. } in events {
        figures.events += 1;
        *figures
            .by_type
            .entry(event.event_type().into())
            .or_default() += 1;
        let Event { kind, .. } = event;
        match kind {
            Kind::Transaction { what, .. } => {
                if matches!(what, TransactionEvent::Started(_)) {
                    figures.started += 1;
                }
                if lifecycle::state_after(what).is_some_and(lifecycle::is_end) {
                    figures.ended += 1;
                }
            }
            Kind::Command { command, what, .. } => {
                let stage = lifecycle::stage(what).into();
                *figures.by_stage.entry(stage).or_default() += 1;
                figures.all.add(what);
                let worker = command.worker.to_string();
                figures.workers.entry(worker).or_default().add(what);
                if let CommandEvent::Failed { failure, .. } = what {
                    let failure = (failure.kind.clone(), failure.message.clone());
                    *figures.failures.entry(failure).or_default() += 1;
                }
            }
            _ => {}
        }
    }
    figures
}

/// Which value `percent` of 100 don't exceed, exactly.
pub fn percentile(values: &[u64], percent: u64) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() as u64 * percent).div_ceil(100).max(1);
    sorted.get(rank as usize - 1).copied().unwrap_or_default()
}
