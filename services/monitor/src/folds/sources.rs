//! Where each source stands: the place to resume from, the lag, and what went wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::event::Kind;
use serde::{Deserialize, Serialize};

use super::settings::Settings;
use crate::fold::{Entry, Fold, What};

/// How many starts are remembered, to know a cursor of a lost future.
const EPOCHS_MAX: usize = 10_000;

/// One orchestrator's log, as far as it was taken in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// The identity of its log.
    pub log_id: String,
    /// The offset after the last event taken in.
    pub next: u64,
    /// Where it resumes; empty: at its oldest event.
    pub cursor: String,
    /// Its head, as last told.
    pub head_offset: u64,
    /// The time of its newest event, as last told, in microseconds.
    pub head_time_us: i64,
    /// The time of the last event taken in, in microseconds.
    pub last_time_us: i64,
    /// Whether its stream is open.
    pub connected: bool,
    /// The highest epoch that its events told of.
    pub epoch: u64,
    /// Stretches that could not be had.
    pub gaps: u64,
    /// Events in those stretches.
    pub missing: u64,
    /// Events of unknown types.
    pub unknown: u64,
    /// Batches that could not be read.
    pub malformed: u64,
    /// How often it had another log than before.
    pub replaced: u64,
}

impl Source {
    /// How many events are missing up to its head.
    pub fn lag_events(&self) -> u64 {
        self.head_offset.saturating_sub(self.next)
    }

    /// How much older the last event taken in is than the head's newest, in microseconds.
    pub fn lag_us(&self) -> u64 {
        if self.lag_events() == 0 {
            return 0;
        }
        u64::try_from(self.head_time_us.saturating_sub(self.last_time_us)).unwrap_or(0)
    }
}

/// The fold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sources {
    /// By address.
    pub sources: BTreeMap<Arc<str>, Source>,
    /// The position at which each epoch of the monitor's own log began.
    pub epochs: Arc<BTreeMap<u64, u64>>,
}

impl Fold for Sources {
    const NAME: &'static str = "sources";

    fn apply(&mut self, entry: &Entry, _: &Settings) {
        match &entry.what {
            What::Events(events) => {
                let source = self.source(&events.source);
                source.next = events.first_offset + u64::from(entry.count);
                source.cursor.clone_from(&events.cursor);
                source.head_offset = events.head_offset.max(source.next);
                source.head_time_us = events.head_time.0;
                source.unknown += events.unknown;
                source.malformed += u64::from(events.malformed.is_some());
                for stored in &events.events {
                    source.last_time_us = stored.event.time.0;
                    if let Kind::OrchestratorStarted { epoch, .. } = stored.event.kind {
                        source.epoch = source.epoch.max(epoch);
                    }
                }
            }
            What::Started { epoch, .. } => {
                for source in self.sources.values_mut() {
                    source.connected = false;
                }
                let epochs = Arc::make_mut(&mut self.epochs);
                epochs.insert(*epoch, entry.position);
                while epochs.len() > EPOCHS_MAX {
                    epochs.pop_first();
                }
            }
            What::Connected { source, log_id } => {
                let source = self.source(source);
                source.connected = true;
                source.log_id.clone_from(log_id);
            }
            What::Disconnected { source, .. } => self.source(source).connected = false,
            What::Gap {
                source, from, to, ..
            } => {
                let source = self.source(source);
                source.gaps += 1;
                source.missing += to.saturating_sub(*from);
                source.next = *to;
            }
            What::Replaced { source, next, .. } => {
                let source = self.source(source);
                source.replaced += 1;
                source.next = *next;
                source.cursor.clear();
                source.head_offset = *next;
            }
            What::Tick | What::Sampled(_) | What::Unknown => {}
        }
    }
}

impl Sources {
    fn source(&mut self, name: &Arc<str>) -> &mut Source {
        self.sources.entry(name.clone()).or_default()
    }

    /// Whether a place that was handed out in `epoch` still means the same: nothing that was
    /// shown at or after it was lost in a crash since.
    pub fn still_there(&self, epoch: u64, position: u64) -> bool {
        match self.epochs.range(epoch.saturating_add(1)..).next() {
            Some((_, began)) => position <= *began,
            None => true,
        }
    }
}
