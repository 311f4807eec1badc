//! A carried transaction as a batch stores it.

use prost::encoding::{WireType, encode_key, encode_varint};

use super::kinds::{cancel_to_wire, started_from_wire, started_to_wire};
use crate::error::Problem;
use crate::event::{Cancel, Carried, CarriedCommand, CarriedStep, Start, Timing};
use crate::id::{HostId, Moment, StepName, Time};
use crate::lifecycle::{Stage, StepState, TransactionState};
use crate::payload::Payload;
use crate::wire;
use crate::write;

/// Its field in the record.
const CARRIED_TAG: u32 = 29;

pub(super) fn to_wire(carried: &Carried) -> wire::TransactionCarried {
    wire::TransactionCarried {
        start_time_us: carried.start_time.0,
        started: Some(started_to_wire(&carried.start)),
        state: carried.state.into(),
        failure: carried.failure.clone().map(Into::into),
        failed_step: carried
            .failed_step
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        cancel_requested: carried.cancel.as_ref().map(cancel_to_wire),
        steps: carried.steps.iter().map(step_to_wire).collect(),
    }
}

fn step_to_wire(step: &CarriedStep) -> wire::CarriedStep {
    wire::CarriedStep {
        step: step.step.to_string(),
        state: step.state.into(),
        result_bytes: step.result.as_ref().map(Payload::size),
        completed_offset: step.completed_offset,
        failures: step.failures,
        losses: step.losses,
        failure: step.failure.as_deref().cloned().map(Into::into),
        commands: step.commands.iter().map(command_to_wire).collect(),
        undo_failures: step.undo_failures,
        undo_losses: step.undo_losses,
    }
}

fn command_to_wire(command: &CarriedCommand) -> wire::CarriedCommand {
    let micros = |moment: Option<Moment>| moment.map_or(0, |moment| moment.time().0);
    wire::CarriedCommand {
        attempt: command.attempt,
        undo: command.undo,
        stage: command.stage.into(),
        host_id: command
            .host
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        queued_us: command.queued.0,
        dispatched_us: micros(command.dispatched),
        picked_up_us: micros(command.picked_up),
        processing_us: micros(command.processing),
        ended_us: micros(command.ended),
        wait_us: command.timing.wait_us,
        run_us: command.timing.run_us,
        failure: command.failure.as_deref().cloned().map(Into::into),
        not_before_us: micros(command.not_before),
    }
}

/// Writes it as the record's field: state.db has one for each transaction, so the generated code, which
/// owns a copy of everything, is for the others.
pub(super) fn write(carried: &Carried, out: &mut Vec<u8>) {
    write::message(out, CARRIED_TAG, |out| {
        write::number(out, 1, carried.start_time.0 as u64);
        write::message(out, 2, |out| write_start(&carried.start, out));
        write::value(out, 3, carried.state);
        write::failure(out, 4, carried.failure.as_ref());
        let failed_step = carried.failed_step.as_ref();
        write::text(out, 5, failed_step.map_or("", StepName::as_str));
        if let Some(cancel) = &carried.cancel {
            write::message(out, 6, |out| {
                write::text(out, 1, &cancel.reason);
                write::number(out, 2, cancel.skip_compensation.into());
            });
        }
        for step in &carried.steps {
            write::message(out, 7, |out| write_step(step, out));
        }
    });
}

pub(super) fn write_start(start: &Start, out: &mut Vec<u8>) {
    write::number(out, 1, start.version.into());
    write::number(out, 2, start.input.size());
    write::text(out, 3, &start.idempotency_key);
    write::bytes(out, 4, &start.input_hash);
    for (key, value) in &start.labels {
        write::message(out, 5, |out| {
            write::text(out, 1, key);
            write::text(out, 2, value);
        });
    }
    write::text(out, 6, &start.trace_parent);
}

fn write_step(step: &CarriedStep, out: &mut Vec<u8>) {
    write::text(out, 1, step.step.as_str());
    write::value(out, 2, step.state);
    if let Some(result) = &step.result {
        // Present even where it is 0.
        encode_key(3, WireType::Varint, out);
        encode_varint(result.size(), out);
    }
    write::number(out, 4, step.completed_offset);
    write::number(out, 5, step.failures.into());
    write::number(out, 6, step.losses.into());
    write::failure(out, 7, step.failure.as_deref());
    for command in &step.commands {
        write::message(out, 8, |out| write_command(command, out));
    }
    write::number(out, 9, step.undo_failures.into());
    write::number(out, 10, step.undo_losses.into());
}

fn write_command(command: &CarriedCommand, out: &mut Vec<u8>) {
    let micros = |moment: Option<Moment>| moment.map_or(0, |moment| moment.time().0 as u64);
    write::number(out, 1, command.attempt.into());
    write::number(out, 2, command.undo.into());
    write::value(out, 3, command.stage);
    write::text(out, 4, command.host.as_ref().map_or("", HostId::as_str));
    write::number(out, 5, command.queued.0 as u64);
    write::number(out, 6, micros(command.dispatched));
    write::number(out, 7, micros(command.picked_up));
    write::number(out, 8, micros(command.processing));
    write::number(out, 9, micros(command.ended));
    write::number(out, 10, command.timing.wait_us);
    write::number(out, 11, command.timing.run_us);
    write::failure(out, 12, command.failure.as_deref());
    write::number(out, 13, micros(command.not_before));
}

/// Reads it; `payload` gives the next payload of a size.
pub(super) fn from_wire(
    what: wire::TransactionCarried,
    payload: &mut dyn FnMut(u64) -> Result<Payload, String>,
) -> Result<Carried, String> {
    let state = known(TransactionState::try_from(what.state).ok())?;
    let started = what.started.ok_or("a carried transaction has no start")?;
    let input = payload(started.input_bytes)?;
    Ok(Carried {
        start_time: Time(what.start_time_us),
        start: started_from_wire(started, input),
        state,
        failure: what.failure.map(Into::into),
        failed_step: optional(&what.failed_step, StepName::parse),
        cancel: what.cancel_requested.map(|cancel| Cancel {
            reason: cancel.reason,
            skip_compensation: cancel.skip_compensation,
        }),
        steps: what
            .steps
            .into_iter()
            .map(|step| step_from_wire(step, payload))
            .collect::<Result<_, _>>()?,
    })
}

fn step_from_wire(
    step: wire::CarriedStep,
    payload: &mut dyn FnMut(u64) -> Result<Payload, String>,
) -> Result<CarriedStep, String> {
    Ok(CarriedStep {
        state: known(StepState::try_from(step.state).ok())?,
        step: StepName::parse(&step.step).map_err(|problem| problem.message)?,
        result: step.result_bytes.map(payload).transpose()?,
        completed_offset: step.completed_offset,
        failures: step.failures,
        losses: step.losses,
        undo_failures: step.undo_failures,
        undo_losses: step.undo_losses,
        failure: step.failure.map(|failure| Box::new(failure.into())),
        commands: step
            .commands
            .into_iter()
            .map(command_from_wire)
            .collect::<Result<_, _>>()?,
    })
}

fn command_from_wire(command: wire::CarriedCommand) -> Result<CarriedCommand, String> {
    let time = |micros: i64| Time(micros).moment();
    Ok(CarriedCommand {
        attempt: command.attempt,
        undo: command.undo,
        stage: known(Stage::try_from(command.stage).ok())?,
        host: optional(&command.host_id, HostId::parse),
        queued: Time(command.queued_us),
        dispatched: time(command.dispatched_us),
        picked_up: time(command.picked_up_us),
        processing: time(command.processing_us),
        ended: time(command.ended_us),
        timing: Timing {
            wait_us: command.wait_us,
            run_us: command.run_us,
        },
        failure: command.failure.map(|failure| Box::new(failure.into())),
        not_before: time(command.not_before_us),
    })
}

/// A name that may be absent, which is the rule: to say what is wrong with it would cost more than all
/// the rest.
fn optional<T>(text: &str, parse: fn(&str) -> Result<T, Problem>) -> Option<T> {
    match text.is_empty() {
        true => None,
        false => parse(text).ok(),
    }
}

fn known<T>(value: Option<T>) -> Result<T, String> {
    value.ok_or_else(|| {
        "a carried transaction has a state that this program doesn't know".to_owned()
    })
}
