//! A transaction's trace, read from the monitor's log at the places that the fold knows.

use std::collections::HashMap;

use eventlog::{ReadError, Reader};
use proto::batch::Stored;
use proto::convert::{to_full, to_timestamp};
use proto::error::{Problem, Reason};
use proto::event::{Command, CommandEvent, Failure, Kind, TransactionEvent};
use proto::id::{CommandId, Time, TransactionId};
use proto::lifecycle::{Stage, TransactionState, is_end, is_outcome, stage, state_after};
use proto::wire;

use super::answers::as_of;
use crate::feed::{FeedError, read_log};
use crate::fold::{Folds, What};

/// What was found of a transaction.
#[derive(Default)]
struct Found {
    events: Vec<Stored>,
    truncated: bool,
}

/// The trace of a transaction at the view's position. Blocks.
pub(super) fn read(
    reader: &Reader,
    view: &Folds,
    id: TransactionId,
    events_max: usize,
) -> Result<wire::GetTransactionTraceResponse, Problem> {
    let mut found = Found::default();
    let places = view.traces.find(&id.0);
    // What is older than the places at hand is found by time.
    if places.is_none_or(|trace| trace.partial) {
        let until = places
            .and_then(|trace| trace.places.first())
            .copied()
            .unwrap_or(view.position);
        scan(reader, view, id, until, events_max, &mut found)?;
    }
    for place in places.into_iter().flat_map(|trace| &trace.places) {
        if found.events.len() >= events_max {
            found.truncated = true;
            break;
        }
        collect(reader, view, id, *place, &mut found)?;
    }
    // A record is read whole, whatever it has of this transaction.
    found.truncated |= found.events.len() > events_max;
    found.events.truncate(events_max);
    if found.events.is_empty() {
        return Err(Problem::field(
            Reason::TransactionNotFound,
            "transaction_id",
            format!(
                "no event of transaction {id} is retained; check the id, and \
                 event_monitoring.trace_retention_hours for old ones"
            ),
        ));
    }
    Ok(answer(view, id, &found))
}

/// The events of one record.
fn collect(
    reader: &Reader,
    view: &Folds,
    id: TransactionId,
    place: u64,
    found: &mut Found,
) -> Result<(), Problem> {
    let records = match reader.read(place, 1, false) {
        Ok(records) => records,
        Err(ReadError::Trimmed { .. }) => {
            found.truncated = true;
            return Ok(());
        }
        Err(error) => return Err(damaged(&error.into())),
    };
    for record in records.iter().filter(|record| record.first < view.position) {
        let entries = crate::entry::decode(record).map_err(|error| damaged(&error.into()))?;
        for entry in entries {
            if let What::Events(events) = entry.what {
                let of_it = |stored: &Stored| stored.event.transaction() == Some(id);
                found.events.extend(events.events.into_iter().filter(of_it));
            }
        }
    }
    Ok(())
}

/// Reads on from the time in the id, to the transaction's end or to where its places begin.
fn scan(
    reader: &Reader,
    view: &Folds,
    id: TransactionId,
    until: u64,
    events_max: usize,
    found: &mut Found,
) -> Result<(), Problem> {
    let Some(first) = view.traces.first_record_since(started_us(id)) else {
        return Ok(());
    };
    let oldest = reader.bounds().oldest;
    let mut position = first.max(oldest);
    while position < until && found.events.len() < events_max {
        let records = match read_log(reader, position) {
            Ok(records) => records,
            // A trim came in between: what it took is missing.
            Err(FeedError::Read(ReadError::Trimmed { oldest, .. })) => {
                position = oldest;
                continue;
            }
            Err(error) => return Err(damaged(&error)),
        };
        let Some(last) = records.last() else {
            break;
        };
        position = last.end;
        for record in records.iter().filter(|record| record.first < until) {
            for entry in &record.entries {
                let What::Events(events) = &entry.what else {
                    continue;
                };
                let of_it = |stored: &&Stored| stored.event.transaction() == Some(id);
                found
                    .events
                    .extend(events.events.iter().filter(of_it).cloned());
            }
            if found.events.last().is_some_and(ends) {
                return Ok(());
            }
        }
    }
    found.truncated |= found.events.len() >= events_max;
    Ok(())
}

/// The time that a UUIDv7 tells, in microseconds.
fn started_us(id: TransactionId) -> i64 {
    let millis = id.0[..6]
        .iter()
        .fold(0_i64, |millis, byte| millis << 8 | i64::from(*byte));
    millis.saturating_mul(1_000)
}

fn ends(stored: &Stored) -> bool {
    match &stored.event.kind {
        Kind::Transaction { what, .. } => state_after(what).is_some_and(is_end),
        _ => false,
    }
}

fn damaged(error: &FeedError) -> Problem {
    Problem::new(Reason::LogDamaged, error.to_string())
}

fn answer(view: &Folds, id: TransactionId, found: &Found) -> wire::GetTransactionTraceResponse {
    let mut state = TransactionState::Running;
    let mut workflow = String::new();
    let mut spans = Spans::default();
    for stored in &found.events {
        let time = stored.event.time;
        match &stored.event.kind {
            Kind::Transaction {
                workflow: name,
                what,
                ..
            } => {
                workflow = name.to_string();
                state = state_after(what).unwrap_or(state);
            }
            Kind::Command {
                workflow: name,
                command,
                what,
                ..
            } => {
                workflow = name.to_string();
                if state == TransactionState::Pending && matches!(what, CommandEvent::Dispatched) {
                    state = TransactionState::Running;
                }
                spans.add(id, command, what, time);
            }
            _ => {}
        }
    }
    let begins = matches!(
        found.events.first().map(|stored| &stored.event.kind),
        Some(Kind::Transaction {
            what: TransactionEvent::Started(_),
            ..
        })
    );
    wire::GetTransactionTraceResponse {
        as_of: Some(as_of(view)),
        transaction_id: id.to_string(),
        workflow,
        state: state.into(),
        events: found.events.iter().map(to_full).collect(),
        commands: spans.spans,
        truncated: found.truncated || !begins,
    }
}

/// Commands in the order in which they were queued.
#[derive(Default)]
struct Spans {
    spans: Vec<wire::CommandSpan>,
    places: HashMap<CommandId, usize>,
}

impl Spans {
    fn add(&mut self, id: TransactionId, command: &Command, what: &CommandEvent, time: Time) {
        let command_id = command.id(id);
        let next = self.spans.len();
        let place = *self.places.entry(command_id.clone()).or_insert(next);
        if place == next {
            self.spans.push(wire::CommandSpan {
                command_id: command_id.to_string(),
                step: command.step.to_string(),
                worker: command.worker.to_string(),
                attempt: command.attempt,
                undo: command.undo,
                ..wire::CommandSpan::default()
            });
        }
        let span = &mut self.spans[place];
        if let Some(host) = &command.host {
            span.host_id = host.to_string();
        }
        let now = stage(what);
        span.stage = now.into();
        match now {
            Stage::Queued => span.queued_time = Some(to_timestamp(time)),
            Stage::Dispatched => span.dispatched_time = Some(to_timestamp(time)),
            Stage::Processing => span.processing_time = Some(to_timestamp(time)),
            outcome if is_outcome(outcome) => span.end_time = Some(to_timestamp(time)),
            _ => {}
        }
        span.failure = failure(what).map(Into::into).or(span.failure.take());
    }
}

fn failure(what: &CommandEvent) -> Option<Failure> {
    match what {
        CommandEvent::Failed { failure, .. } => Some(failure.clone()),
        CommandEvent::Lost { failure, .. } => failure.clone(),
        _ => None,
    }
}
