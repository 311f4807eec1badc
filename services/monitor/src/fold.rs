//! What a fold is, and the list of folds.
//!
//! A fold takes the entries of the monitor's own log one by one and keeps what its answers need.
//! All folds together, at one position, are what readers see. Nothing here does I/O.

use std::sync::Arc;

use proto::batch::Stored;
use proto::event::SystemSample;
use proto::id::Time;
use serde::{Deserialize, Serialize};

use crate::folds::health::Health;
use crate::folds::metrics::Metrics;
use crate::folds::patterns::Patterns;
use crate::folds::performance::Performance;
use crate::folds::rates::Rates;
use crate::folds::settings::Settings;
use crate::folds::sources::Sources;
use crate::folds::traces::Traces;

/// One entry of the monitor's log, in strict types.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The position of the record that it stands in: where to read it again.
    pub record: u64,
    /// Its own position.
    pub position: u64,
    /// How many positions it takes.
    pub count: u32,
    /// When it was written; never earlier than any event in it.
    pub time: Time,
    /// What it is.
    pub what: What,
}

impl Entry {
    /// The position after it.
    pub fn end(&self) -> u64 {
        self.position + u64::from(self.count)
    }

    /// The earliest instant that it tells of, in microseconds; a batch's events come in the order of
    /// their times.
    pub fn since_us(&self) -> i64 {
        match &self.what {
            What::Events(events) => events
                .events
                .first()
                .map_or(self.time.0, |first| first.event.time.0.min(self.time.0)),
            _ => self.time.0,
        }
    }

    /// The position of one of its events.
    pub fn position_of(&self, event: &Stored) -> u64 {
        match &self.what {
            What::Events(events) => {
                self.position + event.offset.saturating_sub(events.first_offset)
            }
            _ => self.position,
        }
    }
}

/// What was taken in or noticed.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// Events of a source.
    Events(Events),
    /// A second passed.
    Tick,
    /// The monitor opened its log.
    Started {
        /// The log's epoch.
        epoch: u64,
        /// The settings from here on.
        settings: Arc<Settings>,
    },
    /// The monitor's own machine told how it does.
    Sampled(Box<SystemSample>),
    /// The stream from a source opened.
    Connected {
        /// The source.
        source: Arc<str>,
        /// The identity of its log.
        log_id: String,
    },
    /// The stream from a source ended.
    Disconnected {
        /// The source.
        source: Arc<str>,
        /// Why.
        reason: String,
    },
    /// Events of a source can't be had.
    Gap {
        /// The source.
        source: Arc<str>,
        /// The first that is missing.
        from: u64,
        /// The first that isn't.
        to: u64,
        /// Why.
        reason: String,
    },
    /// A source has another log than before, or lost the tail of it.
    Replaced {
        /// The source.
        source: Arc<str>,
        /// Why.
        reason: String,
        /// From which offset on it is read.
        next: u64,
    },
    /// Written by a newer monitor.
    Unknown,
}

/// Events of a source.
#[derive(Clone, Debug, PartialEq)]
pub struct Events {
    /// The source.
    pub source: Arc<str>,
    /// The offset of the first, there.
    pub first_offset: u64,
    /// Those of known types.
    pub events: Vec<Stored>,
    /// How many have a type that this program doesn't know.
    pub unknown: u64,
    /// Why the batch could not be read, where it couldn't; there are no events then.
    pub malformed: Option<String>,
    /// Where the source resumes.
    pub cursor: String,
    /// The source's head, as told with them.
    pub head_offset: u64,
    /// The time of the source's newest event.
    pub head_time: Time,
}

/// Digests entries, purely: the same entries give the same state, byte for byte.
pub trait Fold {
    /// The name of its view.
    const NAME: &'static str;

    /// Takes one entry in.
    fn apply(&mut self, entry: &Entry, settings: &Settings);
}

/// All folds at one position.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Folds {
    /// The position after the last entry taken in.
    pub position: u64,
    /// The time of that entry, in microseconds.
    pub time_us: i64,
    /// The settings now.
    pub settings: Arc<Settings>,
    /// Where each source stands.
    pub sources: Sources,
    /// How much, how fast, how long.
    pub rates: Rates,
    /// What happened in which transaction.
    pub traces: Traces,
    /// How each worker does.
    pub performance: Performance,
    /// Which failures are the same.
    pub patterns: Patterns,
    /// Who is there.
    pub health: Health,
    /// How machines do.
    pub metrics: Metrics,
}

impl Folds {
    /// Takes one entry in.
    pub fn apply(&mut self, entry: &Entry) {
        if let What::Started { settings, .. } = &entry.what {
            self.settings = settings.clone();
        }
        let settings = self.settings.clone();
        self.sources.apply(entry, &settings);
        self.rates.apply(entry, &settings);
        self.traces.apply(entry, &settings);
        self.performance.apply(entry, &settings);
        self.patterns.apply(entry, &settings);
        self.health.apply(entry, &settings);
        self.metrics.apply(entry, &settings);
        self.position = entry.end();
        self.time_us = self.time_us.max(entry.time.0);
    }

    /// The time at which all answers are true.
    pub fn time(&self) -> Time {
        Time(self.time_us)
    }

    /// Each view's name and bytes, to compare one state of the folds with another.
    ///
    /// # Errors
    /// Only when memory runs out.
    pub fn encoded(&self) -> Result<Vec<(&'static str, Vec<u8>)>, postcard::Error> {
        Ok(vec![
            (Sources::NAME, postcard::to_stdvec(&self.sources)?),
            (Rates::NAME, postcard::to_stdvec(&self.rates)?),
            (Traces::NAME, postcard::to_stdvec(&self.traces)?),
            (Performance::NAME, postcard::to_stdvec(&self.performance)?),
            (Patterns::NAME, postcard::to_stdvec(&self.patterns)?),
            (Health::NAME, postcard::to_stdvec(&self.health)?),
            (Metrics::NAME, postcard::to_stdvec(&self.metrics)?),
        ])
    }
}
