//! A transaction as the strict form that a trim carries, that state.db keeps, and that answers are
//! rendered from; there and back without a loss.

use std::sync::Arc;

use proto::event::{Carried, CarriedCommand, CarriedStep};
use proto::id::{StepName, Time};
use proto::lifecycle::{Stage, StepState, TransactionState, is_end};
use proto::workflow::{OnFailure, Workflow};

use super::Offset;
use super::catalogue::Definition;
use super::command::Attempt;
use super::kept::Kept;
use super::step::StepRecord;
use super::transaction::{Failing, Transaction};

/// A transaction, whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The definition that it keeps to its end.
    pub workflow: Arc<Workflow>,
    /// Its state. Steps that never began are not in its list: [`absent_step_state`] says how they stand.
    pub carried: Carried,
    /// Where the log has its beginning, or last carried it: what a trim must not cut.
    pub first_offset: Offset,
    /// When it last changed; once it has ended, when it ended.
    pub updated: Time,
}

impl Snapshot {
    /// Whether its compensation failed.
    pub fn compensation_failed(&self) -> bool {
        let failed = |step: &CarriedStep| step.state == StepState::CompensationFailed;
        self.carried.state == TransactionState::Failed && self.carried.steps.iter().any(failed)
    }

    /// Steps that failed and were passed over, in the definition's order.
    pub fn failed_steps(&self) -> Vec<StepName> {
        (self.carried.steps.iter())
            .filter(|step| {
                let defined = self.workflow.step_index(step.step.as_str());
                step.state == StepState::Failed
                    && defined
                        .is_some_and(|at| self.workflow.steps[at].on_failure == OnFailure::Continue)
            })
            .map(|step| step.step.clone())
            .collect()
    }
}

/// How a step stands that is not in the list of a carried transaction: pending, or skipped once
/// nothing begins any more.
pub fn absent_step_state(carried: &Carried) -> StepState {
    let stopped = is_end(carried.state)
        || carried.state == TransactionState::Compensating
        || carried.failure.is_some()
        || carried.cancel.is_some();
    if stopped {
        StepState::Skipped
    } else {
        StepState::Pending
    }
}

impl Transaction {
    /// Its whole state.
    pub(super) fn carried(&self) -> Carried {
        self.carried_with(|_| true)
    }

    /// With the steps that are `wanted`.
    fn carried_with(&self, wanted: impl Fn(&StepRecord) -> bool) -> Carried {
        let failing = self.failing();
        Carried {
            start_time: self.start_time,
            start: self.start(),
            state: self.state,
            failure: failing.map(|failing| failing.failure.clone()),
            failed_step: failing.and_then(|failing| failing.step.clone()),
            cancel: self.cancel().cloned(),
            steps: (self.steps.iter())
                .filter(|record| wanted(record))
                .map(|record| {
                    let step = &self.definition.workflow.steps[record.step as usize];
                    record.carried(step.name.clone())
                })
                .collect(),
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        self.snapshot_of(self.carried())
    }

    pub(super) fn listed(&self) -> Snapshot {
        self.snapshot_of(self.carried_with(|record| {
            matches!(
                record.state,
                StepState::Failed | StepState::CompensationFailed
            )
        }))
    }

    fn snapshot_of(&self, carried: Carried) -> Snapshot {
        Snapshot {
            workflow: Arc::clone(&self.definition.workflow),
            carried,
            first_offset: self.first_offset,
            updated: self.updated,
        }
    }

    /// The transaction that a snapshot was taken of.
    pub(super) fn restored(
        id: proto::id::TransactionId,
        definition: Arc<Definition>,
        snapshot: Snapshot,
    ) -> Self {
        let carried = snapshot.carried;
        let mut transaction = Self::new(
            id,
            definition,
            &carried.start,
            carried.start_time,
            snapshot.first_offset,
        );
        transaction.state = carried.state;
        transaction.updated = snapshot.updated;
        if carried.failure.is_some() || carried.cancel.is_some() {
            let step = carried.failed_step;
            let stopped = transaction.stopped();
            stopped.failing = carried.failure.map(|failure| Failing { failure, step });
            stopped.cancel = carried.cancel;
        }
        for step in carried.steps {
            let Some(place) = transaction.definition.step_index(step.step.as_str()) else {
                continue;
            };
            let passed_over = transaction.definition.workflow.steps[place as usize].on_failure
                == OnFailure::Continue;
            let record = StepRecord::restored(place, step);
            transaction.open += u16::from(record.open_attempt().is_some());
            let done = match record.state {
                StepState::Completed => true,
                StepState::Failed => passed_over,
                // Undone steps were done, but nobody counts any more.
                _ => record.result.is_some(),
            };
            transaction.done += u16::from(done);
            transaction.steps.push(record);
        }
        transaction.steps.sort_by_key(|record| record.step);
        transaction
    }
}

impl StepRecord {
    fn carried(&self, step: StepName) -> CarriedStep {
        CarriedStep {
            step,
            state: self.state,
            result: self.result.as_ref().map(Kept::payload),
            completed_offset: self.completed_offset,
            failures: self.failures,
            losses: self.losses,
            undo_failures: self.undo_failures,
            undo_losses: self.undo_losses,
            failure: (self.attempts.last()).and_then(|attempt| attempt.failure.clone()),
            commands: self.attempts.iter().map(Attempt::carried).collect(),
        }
    }

    fn restored(place: u16, step: CarriedStep) -> Self {
        let mut record = Self::new(place);
        record.state = step.state;
        record.attempts = step.commands.into_iter().map(Attempt::restored).collect();
        let told = step.result.is_some()
            || step.completed_offset != 0
            || (step.failures | step.losses | step.undo_failures | step.undo_losses) != 0;
        if told {
            let tally = &mut *record;
            tally.failures = step.failures;
            tally.losses = step.losses;
            tally.undo_failures = step.undo_failures;
            tally.undo_losses = step.undo_losses;
            tally.completed_offset = step.completed_offset;
            tally.result = step.result.as_ref().map(Kept::of);
        }
        record
    }
}

impl Attempt {
    fn carried(&self) -> CarriedCommand {
        CarriedCommand {
            attempt: self.attempt,
            undo: self.undo,
            stage: self.stage(),
            host: self.host.clone(),
            queued: self.queued,
            dispatched: self.dispatched,
            picked_up: self.picked_up,
            processing: self.processing,
            ended: self.ended,
            timing: self.timing,
            failure: self.failure.clone(),
            not_before: self.not_before,
        }
    }

    fn restored(command: CarriedCommand) -> Self {
        let mut attempt = Self::new(command.attempt, command.undo, command.queued);
        attempt.reach(command.stage);
        if command.stage == Stage::Queued && command.not_before.is_none() {
            return attempt;
        }
        let course = &mut *attempt;
        course.host = command.host;
        course.not_before = command.not_before;
        course.dispatched = command.dispatched;
        course.picked_up = command.picked_up;
        course.processing = command.processing;
        course.ended = command.ended;
        course.timing = command.timing;
        course.failure = command.failure;
        attempt
    }
}
