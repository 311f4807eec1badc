//! Wire to strict and back. The only place that meets UNSPECIFIED.

use std::time::Duration;

use bytes::Bytes;
use prost_types::Timestamp;

use crate::batch::Stored;
use crate::error::{Problem, Reason};
use crate::event::{
    Command, CommandEvent, Event, Failure, HostEvent, Kind, Timing, TransactionEvent,
};
use crate::id::Time;
use crate::lifecycle;
use crate::wire;

/// A wire duration in microseconds, between two limits; `field` is how the message names it.
pub fn duration_to_us(
    field: &str,
    duration: &prost_types::Duration,
    least_us: u64,
    most_us: u64,
) -> Result<u64, Problem> {
    let whole = (0..1_000_000_000)
        .contains(&duration.nanos)
        .then(|| {
            let seconds = u64::try_from(duration.seconds).ok()?;
            let nanos = u64::try_from(duration.nanos).ok()?;
            seconds.checked_mul(1_000_000)?.checked_add(nanos / 1_000)
        })
        .flatten();
    match whole {
        Some(us) if (least_us..=most_us).contains(&us) => Ok(us),
        _ => Err(Problem::field(
            Reason::FieldOutOfRange,
            field,
            format!(
                "{field} is {} s and {} ns; it must be {} to {}",
                duration.seconds,
                duration.nanos,
                human(least_us),
                human(most_us)
            ),
        )),
    }
}

/// A limit as a person writes it.
fn human(us: u64) -> String {
    match us {
        0 => "0".to_owned(),
        us if us % 86_400_000_000 == 0 => format!("{} days", us / 86_400_000_000),
        us if us % 3_600_000_000 == 0 => format!("{} h", us / 3_600_000_000),
        us if us % 60_000_000 == 0 => format!("{} min", us / 60_000_000),
        us if us % 1_000_000 == 0 => format!("{} s", us / 1_000_000),
        us => format!("{} ms", us as f64 / 1_000.0),
    }
}

/// Microseconds as a wire duration.
pub fn us_to_duration(us: u64) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(us / 1_000_000).unwrap_or(i64::MAX),
        nanos: i32::try_from(us % 1_000_000 * 1_000).unwrap_or_default(),
    }
}

/// A wire duration that a host measured, in microseconds; nonsense counts as none.
pub fn measured_us(duration: Option<&prost_types::Duration>) -> u64 {
    duration
        .and_then(|duration| duration_to_us("", duration, 0, u64::MAX).ok())
        .unwrap_or_default()
}

/// A wire duration as the standard library's; nonsense counts as zero.
pub fn to_std(duration: &prost_types::Duration) -> Duration {
    Duration::from_micros(measured_us(Some(duration)))
}

/// An instant as a wire timestamp.
pub fn to_timestamp(time: Time) -> Timestamp {
    Timestamp {
        seconds: time.0.div_euclid(1_000_000),
        nanos: i32::try_from(time.0.rem_euclid(1_000_000) * 1_000).unwrap_or_default(),
    }
}

/// A wire timestamp as an instant, cut to microseconds.
pub fn from_timestamp(timestamp: &Timestamp) -> Time {
    Time(
        timestamp
            .seconds
            .saturating_mul(1_000_000)
            .saturating_add(i64::from(timestamp.nanos) / 1_000),
    )
}

impl From<wire::Failure> for Failure {
    fn from(failure: wire::Failure) -> Self {
        Self {
            kind: failure.kind,
            message: failure.message,
            detail: failure.detail,
        }
    }
}

impl From<Failure> for wire::Failure {
    fn from(failure: Failure) -> Self {
        Self {
            kind: failure.kind,
            message: failure.message,
            detail: failure.detail,
        }
    }
}

/// The payload of a request: JSON bytes, or a Struct; neither is an empty object. Checked against
/// `bytes_max` and the rules of payloads.
pub fn input_of(
    payload: Option<wire::execute_workflow_request::Payload>,
    bytes_max: usize,
) -> Result<Bytes, Problem> {
    use wire::execute_workflow_request::Payload;
    let (field, bytes) = match payload {
        None => return Ok(Bytes::from_static(b"{}")),
        Some(Payload::Input(object)) => ("input", crate::payload::from_struct(&object)?),
        Some(Payload::InputJson(json)) => ("input_json", crate::payload::kept(json, true)),
    };
    crate::payload::check(field, &bytes, bytes_max)?;
    Ok(bytes)
}

/// A stored event in the full form that feeds and traces give to people.
pub fn to_full(stored: &Stored) -> wire::Event {
    let Event { time, kind } = &stored.event;
    let mut full = wire::Event {
        offset: stored.offset,
        time: Some(to_timestamp(*time)),
        r#type: stored.event.event_type().into(),
        kind: Some(full_kind(&stored.event)),
        ..Default::default()
    };
    match kind {
        Kind::OrchestratorStarted { .. } => {}
        Kind::WorkflowRegistered(workflow) => full.workflow = workflow.name.to_string(),
        Kind::Transaction { id, workflow, what } => {
            full.transaction_id = id.to_string();
            full.workflow = workflow.to_string();
            if let TransactionEvent::Started(start) = what {
                full.trace_parent.clone_from(&start.trace_parent);
            }
        }
        Kind::Command {
            id,
            workflow,
            command,
            what,
        } => {
            full.transaction_id = id.to_string();
            full.workflow = workflow.to_string();
            full.command_id = command.id(*id).to_string();
            let Command {
                step,
                worker,
                attempt,
                undo,
                host,
            } = command;
            full.step = step.to_string();
            full.worker = worker.to_string();
            full.attempt = *attempt;
            full.undo = *undo;
            full.host_id = host.as_ref().map(ToString::to_string).unwrap_or_default();
            full.stage = lifecycle::stage(what).into();
            if let Some(timing) = timing(what) {
                full.wait = Some(us_to_duration(timing.wait_us));
                full.run = Some(us_to_duration(timing.run_us));
            }
        }
        Kind::Host { host, .. } => full.host_id = host.to_string(),
        Kind::ResultRefused {
            host, command_id, ..
        } => {
            full.host_id = host.to_string();
            full.command_id.clone_from(command_id);
        }
        Kind::SystemSampled { host, .. } => {
            full.host_id = host.as_ref().map(ToString::to_string).unwrap_or_default();
        }
    }
    full
}

/// How long a command took, where the event is an outcome.
pub fn timing(what: &CommandEvent) -> Option<Timing> {
    match what {
        CommandEvent::Completed { timing, .. }
        | CommandEvent::Failed { timing, .. }
        | CommandEvent::TimedOut { timing, .. }
        | CommandEvent::Lost { timing, .. }
        | CommandEvent::Cancelled { timing } => Some(*timing),
        CommandEvent::Queued { .. }
        | CommandEvent::Dispatched
        | CommandEvent::PickedUp
        | CommandEvent::Processing => None,
    }
}

fn full_kind(event: &Event) -> wire::event::Kind {
    use wire::event::Kind as Full;
    match crate::batch::record_kind(event) {
        wire::event_record::Kind::OrchestratorStarted(what) => Full::OrchestratorStarted(what),
        wire::event_record::Kind::WorkflowRegistered(what) => Full::WorkflowRegistered(what),
        wire::event_record::Kind::TransactionStarted(what) => Full::TransactionStarted(what),
        wire::event_record::Kind::TransactionCompleted(what) => Full::TransactionCompleted(what),
        wire::event_record::Kind::TransactionFailed(what) => Full::TransactionFailed(what),
        wire::event_record::Kind::CancelRequested(what) => Full::CancelRequested(what),
        wire::event_record::Kind::TransactionCancelled(what) => Full::TransactionCancelled(what),
        wire::event_record::Kind::CompensationStarted(what) => Full::CompensationStarted(what),
        wire::event_record::Kind::TransactionCompensated(what) => {
            Full::TransactionCompensated(what)
        }
        wire::event_record::Kind::TransactionCarried(what) => Full::TransactionCarried(what),
        wire::event_record::Kind::CommandQueued(what) => Full::CommandQueued(what),
        wire::event_record::Kind::CommandDispatched(what) => Full::CommandDispatched(what),
        wire::event_record::Kind::CommandPickedUp(what) => Full::CommandPickedUp(what),
        wire::event_record::Kind::CommandProcessing(what) => Full::CommandProcessing(what),
        wire::event_record::Kind::CommandCompleted(what) => Full::CommandCompleted(what),
        wire::event_record::Kind::CommandFailed(what) => Full::CommandFailed(what),
        wire::event_record::Kind::CommandTimedOut(what) => Full::CommandTimedOut(what),
        wire::event_record::Kind::CommandLost(what) => Full::CommandLost(what),
        wire::event_record::Kind::CommandCancelled(what) => Full::CommandCancelled(what),
        wire::event_record::Kind::ResultRefused(what) => Full::ResultRefused(what),
        wire::event_record::Kind::HostConnected(what) => Full::HostConnected(what),
        wire::event_record::Kind::HostDisconnected(what) => Full::HostDisconnected(what),
        wire::event_record::Kind::HostLost(what) => Full::HostLost(what),
        wire::event_record::Kind::HostDraining(what) => Full::HostDraining(what),
        wire::event_record::Kind::HostQuarantined(what) => Full::HostQuarantined(what),
        wire::event_record::Kind::SystemSampled(what) => Full::SystemSampled(what),
    }
}

/// Workers with their slots, as a host offers them.
pub fn offered(workers: &[(crate::id::WorkerName, u32)]) -> Vec<wire::OfferedWorker> {
    let offer = |(worker, slots): &(crate::id::WorkerName, u32)| wire::OfferedWorker {
        worker: worker.to_string(),
        slots: *slots,
    };
    workers.iter().map(offer).collect()
}

/// The host's event as a batch stores it.
pub fn host_kind(what: &HostEvent) -> wire::event_record::Kind {
    use wire::event_record::Kind as Record;
    match what {
        HostEvent::Connected {
            workers,
            machine,
            version,
            lease_us,
            carried,
        } => Record::HostConnected(wire::HostConnected {
            workers: offered(workers),
            machine: machine.clone(),
            version: version.clone(),
            lease_us: *lease_us,
            carried: *carried,
        }),
        HostEvent::Disconnected { drained } => {
            Record::HostDisconnected(wire::HostDisconnected { drained: *drained })
        }
        HostEvent::Lost => Record::HostLost(wire::HostLost {}),
        HostEvent::Draining => Record::HostDraining(wire::HostDraining {}),
        HostEvent::Quarantined { hold_us, losses } => {
            Record::HostQuarantined(wire::HostQuarantined {
                hold_us: *hold_us,
                losses: *losses,
            })
        }
    }
}
