//! A transaction as its answers show it.

use proto::convert::{to_timestamp, us_to_duration};
use proto::cursor::Cursor;
use proto::event::{CarriedCommand, CarriedStep};
use proto::id::{CommandId, StepName, Time, TransactionId};
use proto::lifecycle::{self, StepState};
use proto::payload::{self, Payload};
use proto::wire;
use proto::workflow::{OnFailure, Step, Workflow};

use crate::store::Row;

/// Complete, with steps, and payloads in the form that was asked for.
pub(crate) fn complete(
    row: &Row,
    workflow: Option<&Workflow>,
    form: wire::PayloadForm,
    cursor: &Cursor,
) -> wire::Transaction {
    let steps = match workflow {
        Some(workflow) => workflow
            .steps
            .iter()
            .map(|step| step_status(row, step, form))
            .collect(),
        None => Vec::new(),
    };
    wire::Transaction {
        input: payload_of(&row.carried.start.input, form),
        steps,
        ..listed(row, workflow, cursor)
    }
}

/// As in lists: without payloads and steps.
pub(crate) fn listed(row: &Row, workflow: Option<&Workflow>, cursor: &Cursor) -> wire::Transaction {
    let carried = &row.carried;
    let passed_over = |step: &&Step| {
        step.on_failure == OnFailure::Continue
            && carried_step(row, &step.name).is_some_and(|step| step.state == StepState::Failed)
    };
    wire::Transaction {
        transaction_id: row.id.to_string(),
        workflow: row.workflow.to_string(),
        version: carried.start.version,
        state: carried.state.into(),
        input: None,
        steps: Vec::new(),
        start_time: Some(to_timestamp(carried.start_time)),
        update_time: Some(to_timestamp(row.update_time)),
        end_time: row.ended().then(|| to_timestamp(row.update_time)),
        failure: carried.failure.clone().map(Into::into),
        failed_step: carried
            .failed_step
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        failed_steps: workflow
            .map(|workflow| {
                let failed = workflow.steps.iter().filter(passed_over);
                failed.map(|step| step.name.to_string()).collect()
            })
            .unwrap_or_default(),
        compensation_failed: carried
            .steps
            .iter()
            .any(|step| step.state == StepState::CompensationFailed),
        cancel_requested: carried.cancel.is_some(),
        labels: carried.start.labels.clone(),
        idempotency_key: carried.start.idempotency_key.clone(),
        cursor: cursor.to_string(),
    }
}

fn carried_step<'a>(row: &'a Row, name: &StepName) -> Option<&'a CarriedStep> {
    row.carried.steps.iter().find(|step| step.step == *name)
}

fn payload_of(payload: &Payload, form: wire::PayloadForm) -> Option<wire::Payload> {
    match payload {
        Payload::Held(bytes) => Some(payload::to_wire(bytes, form)),
        Payload::Absent(_) => None,
    }
}

fn step_status(row: &Row, step: &Step, form: wire::PayloadForm) -> wire::StepStatus {
    let status = wire::StepStatus {
        name: step.name.to_string(),
        worker: step.worker.to_string(),
        ..wire::StepStatus::default()
    };
    let Some(carried) = carried_step(row, &step.name) else {
        // What is still pending at the end never ran, and never will.
        let state = match lifecycle::is_end(row.carried.state) {
            true => StepState::Skipped,
            false => StepState::Pending,
        };
        return wire::StepStatus {
            state: state.into(),
            ..status
        };
    };
    let attempts = |undo: bool| {
        carried
            .commands
            .iter()
            .filter(|command| command.undo == undo)
            .map(|command| command_status(row.id, &step.name, command))
            .collect()
    };
    wire::StepStatus {
        state: carried.state.into(),
        result: carried
            .result
            .as_ref()
            .and_then(|result| payload_of(result, form)),
        attempts: attempts(false),
        undo_attempts: attempts(true),
        failure: carried.failure.clone().map(Into::into),
        ..status
    }
}

fn command_status(
    transaction: TransactionId,
    step: &StepName,
    command: &CarriedCommand,
) -> wire::CommandStatus {
    let id = CommandId {
        transaction,
        step: step.clone(),
        undo: command.undo,
        attempt: command.attempt,
    };
    let at = |time: Option<Time>| time.map(to_timestamp);
    let ended = command.ended.is_some();
    wire::CommandStatus {
        command_id: id.text(),
        attempt: command.attempt,
        stage: command.stage.into(),
        host_id: command
            .host
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        queued_time: Some(to_timestamp(command.queued)),
        dispatched_time: at(command.dispatched),
        picked_up_time: at(command.picked_up),
        processing_time: at(command.processing),
        end_time: at(command.ended),
        wait: ended.then(|| us_to_duration(command.timing.wait_us)),
        run: ended.then(|| us_to_duration(command.timing.run_us)),
        failure: command.failure.clone().map(Into::into),
    }
}
