//! What is particular to each type of event, as the generated code has it.

use super::carried;
use crate::convert;
use crate::event::{Cancel, CommandEvent, Event, Kind, Start, TransactionEvent};
use crate::id::StepName;
use crate::payload::Payload;
use crate::wire;
use crate::wire::event_record::Kind as Record;

pub(super) fn started_to_wire(start: &Start) -> wire::TransactionStarted {
    wire::TransactionStarted {
        version: start.version,
        input_bytes: start.input.size(),
        idempotency_key: start.idempotency_key.clone(),
        input_hash: start.input_hash.clone(),
        labels: start.labels.clone(),
        trace_parent: start.trace_parent.clone(),
    }
}

pub(super) fn cancel_to_wire(cancel: &Cancel) -> wire::CancelRequested {
    wire::CancelRequested {
        reason: cancel.reason.clone(),
        skip_compensation: cancel.skip_compensation,
    }
}

/// What is particular to an event's type, as the generated code has it.
pub fn record_kind(event: &Event) -> Record {
    match &event.kind {
        Kind::OrchestratorStarted { version, epoch } => {
            Record::OrchestratorStarted(wire::OrchestratorStarted {
                version: version.clone(),
                epoch: *epoch,
            })
        }
        Kind::WorkflowRegistered(workflow) => {
            Record::WorkflowRegistered(wire::WorkflowRegistered {
                workflow: Some(workflow.to_wire()),
            })
        }
        Kind::Transaction { what, .. } => transaction_kind(what),
        Kind::Command { what, .. } => command_kind(what),
        Kind::Host { what, .. } => convert::host_kind(what),
        Kind::ResultRefused {
            reason, command_id, ..
        } => Record::ResultRefused(wire::ResultRefused {
            reason: reason.clone(),
            command_id: command_id.clone(),
        }),
        Kind::SystemSampled { sample, .. } => Record::SystemSampled(wire::SystemSampled {
            sample: Some((**sample).clone()),
        }),
    }
}

fn transaction_kind(what: &TransactionEvent) -> Record {
    let text = |step: &Option<StepName>| step.as_ref().map(ToString::to_string).unwrap_or_default();
    match what {
        TransactionEvent::Started(start) => Record::TransactionStarted(started_to_wire(start)),
        TransactionEvent::Completed { failed_steps } => {
            Record::TransactionCompleted(wire::TransactionCompleted {
                failed_steps: failed_steps.iter().map(ToString::to_string).collect(),
            })
        }
        TransactionEvent::Failed {
            failure,
            failed_step,
            compensation_failed,
        } => Record::TransactionFailed(wire::TransactionFailed {
            failure: Some(failure.clone().into()),
            failed_step: text(failed_step),
            compensation_failed: *compensation_failed,
        }),
        TransactionEvent::CancelRequested(cancel) => {
            Record::CancelRequested(cancel_to_wire(cancel))
        }
        TransactionEvent::Cancelled => Record::TransactionCancelled(wire::TransactionCancelled {}),
        TransactionEvent::CompensationStarted {
            failure,
            failed_step,
        } => Record::CompensationStarted(wire::CompensationStarted {
            failure: Some(failure.clone().into()),
            failed_step: text(failed_step),
        }),
        TransactionEvent::Compensated => {
            Record::TransactionCompensated(wire::TransactionCompensated {})
        }
        TransactionEvent::Carried(carried) => Record::TransactionCarried(carried::to_wire(carried)),
    }
}

fn command_kind(what: &CommandEvent) -> Record {
    match what {
        CommandEvent::Queued { delay_us } => Record::CommandQueued(wire::CommandQueued {
            delay_us: *delay_us,
        }),
        CommandEvent::Dispatched => Record::CommandDispatched(wire::CommandDispatched {}),
        CommandEvent::PickedUp => Record::CommandPickedUp(wire::CommandPickedUp {}),
        CommandEvent::Processing => Record::CommandProcessing(wire::CommandProcessing {}),
        CommandEvent::Completed { result, .. } => {
            Record::CommandCompleted(wire::CommandCompleted {
                result_bytes: result.size(),
            })
        }
        CommandEvent::Failed {
            failure, retried, ..
        } => Record::CommandFailed(wire::CommandFailed {
            failure: Some(failure.clone().into()),
            retried: *retried,
        }),
        CommandEvent::TimedOut { retried, .. } => {
            Record::CommandTimedOut(wire::CommandTimedOut { retried: *retried })
        }
        CommandEvent::Lost { failure, .. } => Record::CommandLost(wire::CommandLost {
            retried: failure.is_none(),
            failure: failure.clone().map(Into::into),
        }),
        CommandEvent::Cancelled { .. } => Record::CommandCancelled(wire::CommandCancelled {}),
    }
}

/// What a transaction started with, its input put back.
pub(super) fn started_from_wire(what: wire::TransactionStarted, input: Payload) -> Start {
    Start {
        version: what.version,
        input,
        idempotency_key: what.idempotency_key,
        input_hash: what.input_hash,
        labels: what.labels,
        trace_parent: what.trace_parent,
    }
}
