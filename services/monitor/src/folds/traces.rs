//! What happened in which transaction: where in the monitor's log its events stand.
//!
//! Live transactions and the recently ended ones have their places at hand. For older ones there
//! is an index of time: a transaction's id tells when it started, so its events are found by
//! reading the log from there. No event is kept twice.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use proto::batch::Stored;
use proto::event::Kind;
use proto::lifecycle::{TransactionState, is_end, state_after};
use serde::{Deserialize, Serialize};

use super::settings::Settings;
use super::shards::Shards;
use super::tiers::cutoff_us;
use crate::fold::{Entry, Fold, What};

/// The 16 bytes of a transaction's id.
pub type Id = [u8; 16];

const MINUTE_US: i64 = 60_000_000;

/// Where a transaction's events stand.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// Positions of the records that have events of it, rising.
    pub places: Vec<u64>,
    /// True when the first of its events is not among them.
    pub partial: bool,
    /// True once it has ended.
    pub ended: bool,
    last_us: i64,
}

/// The fold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Traces {
    table: Shards<Id, Trace>,
    /// Ended ones in the order in which they ended, to know which leave first.
    ended: Arc<VecDeque<Id>>,
    /// For each minute of the events' own time the first record that has an event of it.
    minutes: Arc<BTreeMap<i64, u64>>,
    last_us: i64,
    live: u64,
}

impl Fold for Traces {
    const NAME: &'static str = "traces";

    fn apply(&mut self, entry: &Entry, settings: &Settings) {
        if !settings.events {
            return;
        }
        let now = entry.time.0;
        if settings.sweep_is_due(self.last_us, now) {
            self.sweep(cutoff_us(now, settings.trace_retention_seconds));
        }
        self.last_us = now;
        let What::Events(events) = &entry.what else {
            return;
        };
        for stored in &events.events {
            let minute = stored.event.time.0.div_euclid(MINUTE_US);
            if !self.minutes.contains_key(&minute) {
                Arc::make_mut(&mut self.minutes).insert(minute, entry.record);
            }
        }
        // What one result leads to stands together, and its transaction is looked up once.
        let transaction = |stored: &Stored| stored.event.transaction();
        for run in (events.events).chunk_by(|one, next| transaction(one) == transaction(next)) {
            if let Some(id) = run.first().and_then(transaction) {
                self.seen(id.0, run, entry.record);
            }
        }
        self.leave(settings.ended_traces_max);
    }
}

/// What an event makes of its transaction.
fn state_of(stored: &Stored) -> Option<TransactionState> {
    match &stored.event.kind {
        Kind::Transaction { what, .. } => state_after(what),
        _ => None,
    }
}

impl Traces {
    /// Takes in events of one transaction that follow one another.
    fn seen(&mut self, id: Id, run: &[Stored], record: u64) {
        let part = self.table.part(&id);
        let trace = part.entry(id).or_insert_with(|| {
            self.live += 1;
            let first = run.first().and_then(state_of);
            Trace {
                partial: first != Some(TransactionState::Pending),
                ..Trace::default()
            }
        });
        if trace.places.last() != Some(&record) {
            trace.places.push(record);
        }
        for stored in run {
            trace.last_us = trace.last_us.max(stored.event.time.0);
            let Some(state) = state_of(stored) else {
                continue;
            };
            match (trace.ended, is_end(state)) {
                (false, true) => {
                    trace.ended = true;
                    self.live -= 1;
                    Arc::make_mut(&mut self.ended).push_back(id);
                }
                (true, false) => {
                    // A retry opened a new run; its place in the order of ends is void.
                    trace.ended = false;
                    self.live += 1;
                }
                (false, false) | (true, true) => {}
            }
        }
    }

    /// Lets the transactions that ended first go, until no more than `limit` ended ones stay.
    fn leave(&mut self, limit: u64) {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        if self.ended.len() <= limit {
            return;
        }
        let ended = Arc::make_mut(&mut self.ended);
        while ended.len() > limit {
            let Some(id) = ended.pop_front() else {
                return;
            };
            let part = self.table.part(&id);
            if part.get(&id).is_some_and(|trace| trace.ended) {
                part.remove(&id);
            }
        }
    }

    fn sweep(&mut self, before_us: i64) {
        let before = before_us.div_euclid(MINUTE_US);
        if self.minutes.range(..before).next().is_some() {
            let minutes = Arc::make_mut(&mut self.minutes);
            *minutes = minutes.split_off(&before);
        }
        let old: Vec<Id> = self
            .table
            .iter()
            .filter(|(_, trace)| trace.last_us < before_us)
            .map(|(id, _)| *id)
            .collect();
        for id in old {
            let gone = self.table.part(&id).remove(&id);
            // What is live but silent for so long has lost its end in a gap.
            if gone.is_some_and(|trace| !trace.ended) {
                self.live -= 1;
            }
        }
        let table = &self.table;
        if self.ended.iter().any(|id| table.get(id).is_none()) {
            Arc::make_mut(&mut self.ended).retain(|id| table.get(id).is_some());
        }
    }

    /// Where a transaction's events stand, if that is at hand.
    pub fn find(&self, id: &Id) -> Option<&Trace> {
        self.table.get(id)
    }

    /// The first record that can have an event of a transaction that started at `start_us`; none
    /// when nothing so young is there.
    pub fn first_record_since(&self, start_us: i64) -> Option<u64> {
        // A minute's grace: ids are drawn by another clock than events are timed by.
        let minute = start_us.div_euclid(MINUTE_US) - 1;
        self.minutes
            .range(minute..)
            .map(|(_, record)| *record)
            .min()
    }

    /// How many transactions have started and not ended.
    pub fn live(&self) -> u64 {
        self.live
    }
}
