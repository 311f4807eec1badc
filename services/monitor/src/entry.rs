//! Entries as bytes and back: the only place that knows how the monitor's own log is written.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use proto::batch::{Decoded, Malformed};
use proto::id::Time;
use proto::wire;
use proto::wire::monitor_entry::Kind;

use crate::fold::{Entry, Events, What};
use crate::folds::settings::Settings;

/// Something to be written: an entry that has no place yet.
#[derive(Clone, Debug)]
pub struct Note {
    /// What it is.
    pub what: What,
    /// How many positions it takes.
    pub count: u32,
    /// A source's batch, as it came; empty for everything else.
    pub batch: Bytes,
}

impl Note {
    /// A note of one position.
    pub fn one(what: What) -> Self {
        Self {
            what,
            count: 1,
            batch: Bytes::new(),
        }
    }
}

/// Why a record can't be read.
#[derive(Debug, thiserror::Error)]
#[error("the record at position {position} of the monitor's log can't be read: {what}")]
pub struct Unreadable {
    /// The record's position.
    pub position: u64,
    /// What is wrong.
    pub what: String,
}

/// The notes as the bytes of one record.
pub fn encode(time: Time, notes: &[Note]) -> Vec<u8> {
    let record = wire::MonitorRecord {
        time_us: time.0,
        entries: notes
            .iter()
            .map(|note| wire::MonitorEntry {
                kind: to_wire(note),
            })
            .collect(),
    };
    record.encode_to_vec()
}

/// The notes as entries of the record at `position`.
pub fn place(position: u64, time: Time, notes: Vec<Note>) -> Vec<Entry> {
    let mut next = position;
    notes
        .into_iter()
        .map(|note| {
            let entry = Entry {
                record: position,
                position: next,
                count: note.count,
                time,
                what: note.what,
            };
            next = entry.end();
            entry
        })
        .collect()
}

/// Reads a record's entries.
pub fn decode(record: &eventlog::Record) -> Result<Vec<Entry>, Unreadable> {
    let unreadable = |what: String| Unreadable {
        position: record.first,
        what,
    };
    let decoded = wire::MonitorRecord::decode(record.events.clone())
        .map_err(|error| unreadable(error.to_string()))?;
    let notes = decoded.entries.into_iter().map(from_wire).collect();
    let entries = place(record.first, Time(decoded.time_us), notes);
    match entries.last().map(Entry::end) {
        Some(end) if end == record.end() => Ok(entries),
        end => Err(unreadable(format!(
            "its entries end at {end:?}, and it ends at {}",
            record.end()
        ))),
    }
}

/// A source's batch, parsed: the events from `first_offset` on, `count` of them. The caller has
/// seen to it that the batch has them.
pub fn events_of(
    source: Arc<str>,
    decoded: Result<Decoded, Malformed>,
    first_offset: u64,
    count: u32,
    head: (u64, Time),
    cursor: String,
) -> Events {
    let taken = first_offset..first_offset + u64::from(count);
    let (events, unknown, malformed) = match decoded {
        Ok(mut decoded) => {
            decoded
                .events
                .retain(|stored| taken.contains(&stored.offset));
            let unknown = decoded
                .unknown
                .iter()
                .filter(|offset| taken.contains(offset))
                .count();
            (decoded.events, unknown as u64, None)
        }
        Err(malformed) => (Vec::new(), 0, Some(malformed.to_string())),
    };
    Events {
        source,
        first_offset,
        events,
        unknown,
        malformed,
        cursor,
        head_offset: head.0,
        head_time: head.1,
    }
}

fn to_wire(note: &Note) -> Option<Kind> {
    Some(match &note.what {
        What::Events(events) => Kind::Batch(wire::SourceBatch {
            source: events.source.to_string(),
            first_offset: events.first_offset,
            count: note.count,
            batch: note.batch.clone(),
            cursor: events.cursor.clone(),
            head_offset: events.head_offset,
            head_time_us: events.head_time.0,
        }),
        What::Tick => Kind::Tick(wire::Tick {}),
        What::Started { epoch, settings } => Kind::Started(wire::MonitorStarted {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            epoch: *epoch,
            settings: Some(settings_to_wire(settings)),
        }),
        What::Sampled(sample) => Kind::Sampled(wire::SystemSampled {
            sample: Some((**sample).clone()),
        }),
        What::Connected { source, log_id } => Kind::Connected(wire::SourceConnected {
            source: source.to_string(),
            log_id: log_id.clone(),
        }),
        What::Disconnected { source, reason } => Kind::Disconnected(wire::SourceDisconnected {
            source: source.to_string(),
            reason: reason.clone(),
        }),
        What::Gap {
            source,
            from,
            to,
            reason,
        } => Kind::Gap(wire::SourceGap {
            source: source.to_string(),
            from_offset: *from,
            to_offset: *to,
            reason: reason.clone(),
        }),
        What::Replaced {
            source,
            reason,
            next,
        } => Kind::Replaced(wire::SourceReplaced {
            source: source.to_string(),
            reason: reason.clone(),
            next_offset: *next,
        }),
        What::Unknown => return None,
    })
}

fn from_wire(entry: wire::MonitorEntry) -> Note {
    let Some(kind) = entry.kind else {
        return Note::one(What::Unknown);
    };
    let source = |text: String| Arc::<str>::from(text);
    Note::one(match kind {
        Kind::Batch(batch) => {
            let decoded = proto::batch::decode(&batch.batch, None);
            let head = (batch.head_offset, Time(batch.head_time_us));
            let events = events_of(
                source(batch.source),
                decoded,
                batch.first_offset,
                batch.count,
                head,
                batch.cursor,
            );
            return Note {
                what: What::Events(events),
                count: batch.count,
                batch: batch.batch,
            };
        }
        Kind::Tick(_) => What::Tick,
        Kind::Started(started) => What::Started {
            epoch: started.epoch,
            settings: Arc::new(settings_from_wire(&started.settings.unwrap_or_default())),
        },
        Kind::Sampled(sampled) => What::Sampled(Box::new(sampled.sample.unwrap_or_default())),
        Kind::Connected(connected) => What::Connected {
            source: source(connected.source),
            log_id: connected.log_id,
        },
        Kind::Disconnected(disconnected) => What::Disconnected {
            source: source(disconnected.source),
            reason: disconnected.reason,
        },
        Kind::Gap(gap) => What::Gap {
            source: source(gap.source),
            from: gap.from_offset,
            to: gap.to_offset,
            reason: gap.reason,
        },
        Kind::Replaced(replaced) => What::Replaced {
            source: source(replaced.source),
            reason: replaced.reason,
            next: replaced.next_offset,
        },
    })
}

fn settings_to_wire(settings: &Settings) -> wire::MonitorSettings {
    wire::MonitorSettings {
        events: settings.events,
        workers: settings.workers,
        system: settings.system,
        trace_retention_seconds: settings.trace_retention_seconds,
        figures_retention_seconds: settings.figures_retention_seconds,
        cleanup_interval_seconds: settings.cleanup_interval_seconds,
        payload_sizes: settings.payload_sizes,
        detailed_timing: settings.detailed_timing,
        performance_window_seconds: settings.performance_window_seconds,
        error_rate_threshold: settings.error_rate_threshold,
        slow_execution_us: settings.slow_execution_us,
        series_max: settings.series_max,
        ended_traces_max: settings.ended_traces_max,
        patterns_max: settings.patterns_max,
    }
}

fn settings_from_wire(settings: &wire::MonitorSettings) -> Settings {
    Settings {
        events: settings.events,
        workers: settings.workers,
        system: settings.system,
        trace_retention_seconds: settings.trace_retention_seconds,
        figures_retention_seconds: settings.figures_retention_seconds,
        cleanup_interval_seconds: settings.cleanup_interval_seconds,
        payload_sizes: settings.payload_sizes,
        detailed_timing: settings.detailed_timing,
        performance_window_seconds: settings.performance_window_seconds,
        error_rate_threshold: settings.error_rate_threshold,
        slow_execution_us: settings.slow_execution_us,
        series_max: settings.series_max,
        ended_traces_max: settings.ended_traces_max,
        patterns_max: settings.patterns_max,
    }
}
