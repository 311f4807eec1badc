//! A transaction as its answers show it, written straight into their bytes.
//!
//! The end of a transaction is what most calls wait for, and a whole one has dozens of names and
//! instants, each of which the generated types would own. What is written here must be what
//! `transaction.proto` says; a test holds it against the generated code.

use prost::Message as _;
use proto::cursor::Cursor;
use proto::event::{CarriedCommand, CarriedStep};
use proto::id::{CommandId, StepName, TransactionId};
use proto::lifecycle::{self, StepState};
use proto::payload::{Payload, to_wire};
use proto::wire;
use proto::workflow::{OnFailure, Step, Workflow};
use proto::write::{
    Output, bytes, duration, failure, generated, instant, message, number, payload, text, value,
};

use crate::store::Row;

/// A transaction to be shown.
#[derive(Clone, Copy)]
pub(super) struct Shown<'a> {
    pub(super) row: &'a Row,
    pub(super) workflow: Option<&'a Workflow>,
    /// Where in the log all of it is true.
    pub(super) cursor: Cursor,
    /// The form of payloads; none: as in lists, without payloads and steps.
    pub(super) form: Option<wire::PayloadForm>,
}

impl Shown<'_> {
    /// As the generated type, for answers that are not on the way of every transaction.
    pub(super) fn to_wire(self) -> wire::Transaction {
        let mut written = Vec::new();
        self.write(&mut written);
        // A test shows that they can be read.
        wire::Transaction::decode(bytes::Bytes::from(written)).unwrap_or_default()
    }

    /// As the bytes of a `Transaction`.
    pub(super) fn write(self, out: &mut impl Output) {
        let Self {
            row,
            workflow,
            form,
            ..
        } = self;
        let carried = &row.carried;
        message(out, 1, |out| row.id.write(out));
        text(out, 2, row.workflow.as_str());
        number(out, 3, carried.start.version.into());
        value(out, 4, carried.state);
        if let Some(form) = form {
            payload_of(out, 5, &carried.start.input, form);
            for step in workflow.iter().flat_map(|workflow| &workflow.steps) {
                message(out, 6, |out| step_status(out, row, step, form));
            }
        }
        instant(out, 7, carried.start_time);
        instant(out, 8, row.update_time);
        if row.ended() {
            instant(out, 9, row.update_time);
        }
        failure(out, 10, carried.failure.as_ref());
        if let Some(step) = &carried.failed_step {
            text(out, 11, step.as_str());
        }
        for step in workflow.iter().flat_map(|workflow| &workflow.steps) {
            let failed = step.on_failure == OnFailure::Continue
                && carried_step(row, &step.name)
                    .is_some_and(|carried| carried.state == StepState::Failed);
            if failed {
                text(out, 12, step.name.as_str());
            }
        }
        let compensation_failed =
            (carried.steps.iter()).any(|step| step.state == StepState::CompensationFailed);
        number(out, 13, compensation_failed.into());
        number(out, 14, carried.cancel.is_some().into());
        for (key, value) in &carried.start.labels {
            message(out, 15, |out| {
                text(out, 1, key);
                text(out, 2, value);
            });
        }
        text(out, 16, &carried.start.idempotency_key);
        bytes(out, 17, &self.cursor.text());
    }
}

fn carried_step<'a>(row: &'a Row, name: &StepName) -> Option<&'a CarriedStep> {
    row.carried.steps.iter().find(|step| step.step == *name)
}

fn step_status(out: &mut impl Output, row: &Row, step: &Step, form: wire::PayloadForm) {
    text(out, 1, step.name.as_str());
    text(out, 2, step.worker.as_str());
    let Some(carried) = carried_step(row, &step.name) else {
        // What is still pending at the end never ran, and never will.
        let state = match lifecycle::is_end(row.carried.state) {
            true => StepState::Skipped,
            false => StepState::Pending,
        };
        value(out, 3, state);
        return;
    };
    value(out, 3, carried.state);
    if let Some(result) = &carried.result {
        payload_of(out, 4, result, form);
    }
    for (tag, undo) in [(5, false), (6, true)] {
        for command in carried
            .commands
            .iter()
            .filter(|command| command.undo == undo)
        {
            message(out, tag, |out| {
                command_status(out, row.id, &step.name, command);
            });
        }
    }
    failure(out, 7, carried.failure.as_deref());
}

fn command_status(
    out: &mut impl Output,
    transaction: TransactionId,
    step: &StepName,
    command: &CarriedCommand,
) {
    let id = CommandId {
        transaction,
        step: step.clone(),
        undo: command.undo,
        attempt: command.attempt,
    };
    message(out, 1, |out| id.write(out));
    number(out, 2, command.attempt.into());
    value(out, 3, command.stage);
    if let Some(host) = &command.host {
        text(out, 4, host.as_str());
    }
    let instants = [
        (5, command.queued.moment()),
        (6, command.dispatched),
        (7, command.picked_up),
        (8, command.processing),
        (9, command.ended),
    ];
    for (tag, moment) in instants {
        if let Some(moment) = moment {
            instant(out, tag, moment.time());
        }
    }
    if command.ended.is_some() {
        duration(out, 10, command.timing.wait_us);
        duration(out, 11, command.timing.run_us);
    }
    failure(out, 12, command.failure.as_deref());
}

fn payload_of(out: &mut impl Output, tag: u32, shown: &Payload, form: wire::PayloadForm) {
    match shown {
        Payload::Held(json) if form == wire::PayloadForm::Json => {
            message(out, tag, |out| payload(out, 2, json));
        }
        Payload::Held(json) => generated(out, tag, &to_wire(json, form)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::sync::Arc;

    use proto::convert::{to_timestamp, us_to_duration};
    use proto::event::{Cancel, Carried, Failure, Start, Timing};
    use proto::id::{HostId, Time, WorkflowName};
    use proto::lifecycle::{Stage, TransactionState};

    use super::*;

    const CURSOR: Cursor = Cursor {
        log_id: [7; 16],
        epoch: 3,
        partition: 0,
        offset: 1_000,
    };

    fn held(json: &'static str) -> Payload {
        Payload::Held(bytes::Bytes::from_static(json.as_bytes()))
    }

    fn refused() -> Failure {
        Failure {
            kind: "Refused".to_owned(),
            message: "no stock".to_owned(),
            detail: "x".repeat(300),
        }
    }

    fn attempt(attempt: u32, undo: bool, stage: Stage) -> CarriedCommand {
        let ended = !matches!(stage, Stage::Queued);
        let at = |micros| ended.then_some(Time(micros)).and_then(Time::moment);
        CarriedCommand {
            undo,
            attempt,
            stage,
            host: ended.then(|| HostId::parse("h-1").unwrap()),
            queued: Time(1_000_001),
            not_before: None,
            dispatched: at(1_000_002),
            picked_up: at(1_000_003),
            processing: at(1_000_004),
            ended: at(3_000_005),
            timing: Timing {
                wait_us: 3,
                run_us: 2_000_000,
            },
            failure: (stage == Stage::Failed).then(|| Box::new(refused())),
        }
    }

    /// Compensated, with a step of every kind.
    fn row() -> (Row, Arc<Workflow>) {
        let step = |name: &str, on_failure| wire::Step {
            name: name.to_owned(),
            worker: format!("{name}_worker"),
            on_failure,
            ..Default::default()
        };
        let fail = wire::OnFailure::Fail.into();
        let workflow = Workflow::check(&wire::Workflow {
            name: "orders".to_owned(),
            steps: vec![
                step("reserve", fail),
                step("notify", wire::OnFailure::Continue.into()),
                step("pay", fail),
                step("ship", fail),
            ],
            ..Default::default()
        });
        let workflow = Arc::new(workflow.unwrap());
        let carried_step = |at: usize, state, result, commands: Vec<CarriedCommand>| CarriedStep {
            step: workflow.steps[at].name.clone(),
            state,
            result,
            completed_offset: 5,
            failures: 0,
            losses: 0,
            undo_failures: 0,
            undo_losses: 0,
            failure: commands.last().and_then(|last| last.failure.clone()),
            commands: commands.into(),
        };
        let carried = Carried {
            start_time: Time(1_000_000),
            start: Start {
                version: 2,
                input: held(r#"{"order":7}"#),
                idempotency_key: "k-1".to_owned(),
                input_hash: bytes::Bytes::new(),
                labels: [
                    ("team".to_owned(), "a".to_owned()),
                    ("x".to_owned(), String::new()),
                ]
                .into(),
                trace_parent: String::new(),
            },
            state: TransactionState::Compensated,
            failure: Some(refused()),
            failed_step: Some(workflow.steps[2].name.clone()),
            cancel: Some(Cancel {
                reason: String::new(),
                skip_compensation: false,
            }),
            steps: vec![
                carried_step(
                    0,
                    StepState::CompensationFailed,
                    Some(held(r#"{"reserved":true}"#)),
                    vec![
                        attempt(1, false, Stage::Completed),
                        attempt(1, true, Stage::Failed),
                    ],
                ),
                carried_step(
                    1,
                    StepState::Failed,
                    None,
                    vec![attempt(1, false, Stage::Failed)],
                ),
                carried_step(
                    2,
                    StepState::Failed,
                    None,
                    vec![attempt(12, false, Stage::Queued)],
                ),
            ],
        };
        let row = Row {
            id: TransactionId([9; 16]),
            workflow: WorkflowName::parse("orders").unwrap(),
            carried,
            update_time: Time(4_000_000),
            first_offset: 1,
        };
        (row, workflow)
    }

    #[test]
    fn what_is_written_is_what_the_generated_code_writes() {
        let (row, workflow) = row();
        for form in [
            None,
            Some(wire::PayloadForm::Struct),
            Some(wire::PayloadForm::Json),
        ] {
            for workflow in [None, Some(&*workflow)] {
                let shown = Shown {
                    row: &row,
                    workflow,
                    cursor: CURSOR,
                    form,
                };
                let mut written = Vec::new();
                shown.write(&mut written);
                let read = wire::Transaction::decode(&*written).unwrap();
                assert_eq!(read.encode_to_vec(), written);
                assert_eq!(read, shown.to_wire());
            }
        }
    }

    #[test]
    fn everything_is_shown() {
        let (row, workflow) = row();
        let shown = Shown {
            row: &row,
            workflow: Some(&workflow),
            cursor: CURSOR,
            form: Some(wire::PayloadForm::Json),
        };
        let json = |text: &'static str| {
            Some(wire::Payload {
                form: Some(wire::payload::Form::Json(bytes::Bytes::from_static(
                    text.as_bytes(),
                ))),
            })
        };
        let at = |micros| Some(to_timestamp(Time(micros)));
        let failed = Some(wire::Failure::from(refused()));
        let id = row.id;
        let command = |step: &str, verb: &str, stage: Stage| wire::CommandStatus {
            command_id: format!("{id}/{step}/{verb}"),
            attempt: verb.split_once('#').unwrap().1.parse().unwrap(),
            stage: stage.into(),
            queued_time: at(1_000_001),
            failure: failed.clone().filter(|_| stage == Stage::Failed),
            ..Default::default()
        };
        let ended = |status: wire::CommandStatus| wire::CommandStatus {
            host_id: "h-1".to_owned(),
            dispatched_time: at(1_000_002),
            picked_up_time: at(1_000_003),
            processing_time: at(1_000_004),
            end_time: at(3_000_005),
            wait: Some(us_to_duration(3)),
            run: Some(us_to_duration(2_000_000)),
            ..status
        };
        let step = |name: &str, state: StepState| wire::StepStatus {
            name: name.to_owned(),
            worker: format!("{name}_worker"),
            state: state.into(),
            ..Default::default()
        };
        let steps = vec![
            wire::StepStatus {
                result: json(r#"{"reserved":true}"#),
                attempts: vec![ended(command("reserve", "do#1", Stage::Completed))],
                undo_attempts: vec![ended(command("reserve", "undo#1", Stage::Failed))],
                failure: failed.clone(),
                ..step("reserve", StepState::CompensationFailed)
            },
            wire::StepStatus {
                attempts: vec![ended(command("notify", "do#1", Stage::Failed))],
                failure: failed.clone(),
                ..step("notify", StepState::Failed)
            },
            wire::StepStatus {
                attempts: vec![command("pay", "do#12", Stage::Queued)],
                ..step("pay", StepState::Failed)
            },
            step("ship", StepState::Skipped),
        ];
        let expected = wire::Transaction {
            transaction_id: id.to_string(),
            workflow: "orders".to_owned(),
            version: 2,
            state: TransactionState::Compensated.into(),
            input: json(r#"{"order":7}"#),
            steps,
            start_time: at(1_000_000),
            update_time: at(4_000_000),
            end_time: at(4_000_000),
            failure: failed,
            failed_step: "pay".to_owned(),
            failed_steps: vec!["notify".to_owned()],
            compensation_failed: true,
            cancel_requested: true,
            labels: row.carried.start.labels.clone(),
            idempotency_key: "k-1".to_owned(),
            cursor: CURSOR.to_string(),
        };
        assert_eq!(shown.to_wire(), expected);
        let listed = Shown {
            form: None,
            ..shown
        };
        let expected = wire::Transaction {
            input: None,
            steps: Vec::new(),
            ..expected
        };
        assert_eq!(listed.to_wire(), expected);
    }
}
