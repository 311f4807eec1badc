//! A carried transaction as a batch stores it.

use super::kinds::{cancel_to_wire, started_from_wire, started_to_wire};
use crate::event::{Cancel, Carried, CarriedCommand, CarriedStep, Timing};
use crate::id::{HostId, StepName, Time};
use crate::lifecycle::{Stage, StepState, TransactionState};
use crate::payload::Payload;
use crate::wire;

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
        failure: step.failure.clone().map(Into::into),
        commands: step.commands.iter().map(command_to_wire).collect(),
        undo_failures: step.undo_failures,
        undo_losses: step.undo_losses,
    }
}

fn command_to_wire(command: &CarriedCommand) -> wire::CarriedCommand {
    let micros = |time: Option<Time>| time.map_or(0, |time| time.0);
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
        failure: command.failure.clone().map(Into::into),
        not_before_us: micros(command.not_before),
    }
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
        failed_step: StepName::parse(&what.failed_step).ok(),
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
        failure: step.failure.map(Into::into),
        commands: step
            .commands
            .into_iter()
            .map(command_from_wire)
            .collect::<Result<_, _>>()?,
    })
}

fn command_from_wire(command: wire::CarriedCommand) -> Result<CarriedCommand, String> {
    let time = |micros: i64| (micros != 0).then_some(Time(micros));
    Ok(CarriedCommand {
        attempt: command.attempt,
        undo: command.undo,
        stage: known(Stage::try_from(command.stage).ok())?,
        host: HostId::parse(&command.host_id).ok(),
        queued: Time(command.queued_us),
        dispatched: time(command.dispatched_us),
        picked_up: time(command.picked_up_us),
        processing: time(command.processing_us),
        ended: time(command.ended_us),
        timing: Timing {
            wait_us: command.wait_us,
            run_us: command.run_us,
        },
        failure: command.failure.map(Into::into),
        not_before: time(command.not_before_us),
    })
}

fn known<T>(value: Option<T>) -> Result<T, String> {
    value.ok_or_else(|| {
        "a carried transaction has a state that this program doesn't know".to_owned()
    })
}
