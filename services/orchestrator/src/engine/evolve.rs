//! How an event changes the state. Live and replay are this one code: it decides nothing, and what
//! doesn't fit (an event of a transaction whose beginning was trimmed) changes nothing.

use std::sync::Arc;

use proto::error::{Problem, Reason};
use proto::event::{Command, CommandEvent, Event, Failure, Kind, TransactionEvent};
use proto::id::{StepName, Time, TransactionId, WorkflowName};
use proto::lifecycle::{Stage, StepState, TransactionState, stage, state_after};
use proto::payload::Payload;
use proto::workflow::OnFailure;

use super::command::{Attempt, timeout_failure};
use super::host::KnownHost;
use super::kept::Kept;
use super::snapshot::Snapshot;
use super::state::timeout_us;
use super::transaction::{Failing, Transaction};
use super::{Offset, State};

impl State {
    /// Applies an event: what [`super::handle`] decided, or what the log holds.
    pub fn evolve(&mut self, offset: Offset, event: &Event) {
        let time = event.time;
        match &event.kind {
            Kind::OrchestratorStarted { .. } => self.reopened(time),
            Kind::WorkflowRegistered(workflow) => self.catalogue.keep(workflow, offset),
            Kind::Transaction { id, workflow, what } => {
                self.evolve_transaction(offset, time, *id, workflow, what);
            }
            Kind::Command {
                id, command, what, ..
            } => self.evolve_command(offset, time, id, command, what),
            Kind::Host { host, what } => {
                let known = self.hosts.remove(host);
                if let Some(known) = KnownHost::after(known, offset, what) {
                    self.hosts.insert(host.clone(), known);
                }
            }
            Kind::ResultRefused { .. } | Kind::SystemSampled { .. } => {}
        }
    }

    /// As [`State::evolve`] for an event read from the log: refuses one that needs a definition which
    /// isn't there, and copies payloads out of the batch that they are a slice of.
    pub fn replay(&mut self, offset: Offset, mut event: Event) -> Result<(), Problem> {
        if let Kind::Transaction { id, workflow, what } = &mut event.kind {
            let version = match what {
                TransactionEvent::Started(start) => {
                    detach(&mut start.input);
                    start.version
                }
                TransactionEvent::Carried(carried) => {
                    detach(&mut carried.start.input);
                    let results = carried.steps.iter_mut();
                    results
                        .filter_map(|step| step.result.as_mut())
                        .for_each(detach);
                    carried.start.version
                }
                _ => 0,
            };
            if version != 0 && self.catalogue.find(workflow, version).is_none() {
                return Err(Problem::new(
                    Reason::LogDamaged,
                    format!(
                        "event {offset} belongs to transaction {id} of workflow \"{workflow}\" version \
                         {version}, whose registration is not in the log before it"
                    ),
                ));
            }
        }
        if let Kind::Command {
            what: CommandEvent::Completed { result, .. },
            ..
        } = &mut event.kind
        {
            detach(result);
        }
        self.evolve(offset, &event);
        Ok(())
    }

    fn evolve_transaction(
        &mut self,
        offset: Offset,
        time: Time,
        id: TransactionId,
        workflow: &WorkflowName,
        what: &TransactionEvent,
    ) {
        match what {
            TransactionEvent::Started(start) => {
                let Some(definition) = self.catalogue.find(workflow, start.version) else {
                    return;
                };
                let definition = Arc::clone(definition);
                self.insert(Transaction::new(id, definition, start, time, offset));
                return;
            }
            TransactionEvent::Carried(carried) if self.slot(&id).is_none() => {
                let Some(definition) = self.catalogue.find(workflow, carried.start.version) else {
                    return;
                };
                let snapshot = Snapshot {
                    workflow: Arc::clone(&definition.workflow),
                    carried: carried.as_ref().clone(),
                    first_offset: offset,
                    updated: time,
                };
                self.restore(id, snapshot);
                return;
            }
            _ => {}
        }
        let Some(slot) = self.slot(&id) else { return };
        let transaction = &mut self.transactions[slot];
        transaction.updated = time;
        if let Some(state) = state_after(what) {
            transaction.state = state;
        }
        match what {
            TransactionEvent::CancelRequested(cancel) => {
                transaction.stopped().cancel = Some(cancel.clone());
            }
            TransactionEvent::CompensationStarted {
                failure,
                failed_step,
            }
            | TransactionEvent::Failed {
                failure,
                failed_step,
                ..
            } => {
                let (failure, step) = (failure.clone(), failed_step.clone());
                transaction.stopped().failing = Some(Failing { failure, step });
            }
            TransactionEvent::Cancelled => transaction.stopped().failing = None,
            // It is the very state that is carried.
            TransactionEvent::Carried(_) => transaction.first_offset = offset,
            TransactionEvent::Started(_)
            | TransactionEvent::Completed { .. }
            | TransactionEvent::Compensated => {}
        }
    }

    fn evolve_command(
        &mut self,
        offset: Offset,
        time: Time,
        id: &TransactionId,
        command: &Command,
        what: &CommandEvent,
    ) {
        let Some(slot) = self.slot(id) else { return };
        let transaction = &mut self.transactions[slot];
        let Some(step) = transaction.definition.step_index(command.step.as_str()) else {
            return;
        };
        transaction.updated = time;
        if let CommandEvent::Queued { delay_us } = what {
            return self.evolve_queued(slot, time, step, command, *delay_us);
        }
        // What only watches moves no timer.
        let watches = matches!(what, CommandEvent::PickedUp | CommandEvent::Processing);
        let timer = match watches {
            true => None,
            false => self.timer(slot, step),
        };
        let transaction = &mut self.transactions[slot];
        let attempt = (transaction.step_mut(step))
            .and_then(|record| record.attempt_mut(command.attempt, command.undo))
            .filter(|attempt| attempt.is_open());
        let Some(attempt) = attempt else { return };
        let left_queue = attempt.stage() == Stage::Queued;
        attempt.reach(stage(what));
        let ended = !attempt.is_open();
        match what {
            CommandEvent::Dispatched => {
                attempt.host.clone_from(&command.host);
                attempt.dispatched = time.moment();
                if transaction.state == TransactionState::Pending {
                    transaction.state = TransactionState::Running;
                }
            }
            CommandEvent::PickedUp => attempt.picked_up = time.moment(),
            CommandEvent::Processing => attempt.processing = time.moment(),
            CommandEvent::Queued { .. } => {}
            CommandEvent::Completed { .. }
            | CommandEvent::Failed { .. }
            | CommandEvent::TimedOut { .. }
            | CommandEvent::Lost { .. }
            | CommandEvent::Cancelled { .. } => {
                attempt.ended = time.moment();
                attempt.timing = proto::convert::timing(what).unwrap_or_default();
                transaction.open = transaction.open.saturating_sub(1);
                transaction.ended(offset, step, command.undo, what);
                let last = transaction
                    .step(step)
                    .and_then(|record| record.attempts.last());
                self.payload_bytes += match what {
                    CommandEvent::Completed { result, .. } if !command.undo => result.size(),
                    CommandEvent::Completed { .. } | CommandEvent::Cancelled { .. } => 0,
                    _ => last.map_or(0, Attempt::failure_bytes),
                };
            }
        }
        if left_queue {
            self.left_queue(&command.worker);
        }
        if left_queue || ended {
            timer.iter().for_each(|timer| self.timers.clear(timer));
        }
        if left_queue && !ended {
            let deadline = self.timer(slot, step);
            deadline
                .into_iter()
                .for_each(|timer| self.timers.set(timer));
        }
    }

    fn evolve_queued(
        &mut self,
        slot: usize,
        time: Time,
        step: u16,
        command: &Command,
        delay_us: u64,
    ) {
        let kept = self.limits.max_attempts_kept;
        let transaction = &mut self.transactions[slot];
        transaction.open += 1;
        let record = transaction.step_begun(step);
        if command.undo {
            record.state = StepState::Compensating;
        }
        let mut attempt = Attempt::new(command.attempt, command.undo, time);
        if delay_us > 0 {
            attempt.not_before = time.after_us(delay_us).moment();
        }
        record.attempts.push(attempt);
        let trimmed = record.trim(command.undo, kept);
        let bytes = trimmed.map_or(0, |attempt| attempt.failure_bytes());
        self.payload_bytes = self.payload_bytes.saturating_sub(bytes);
        self.joined_queue(&command.worker);
        if delay_us > 0 {
            let delay = self.timer(slot, step);
            delay.into_iter().for_each(|timer| self.timers.set(timer));
        }
    }
}

impl Transaction {
    /// What the outcome of a step's attempt, or of its undo's, makes of the step.
    fn ended(&mut self, offset: Offset, step: u16, undo: bool, what: &CommandEvent) {
        let definition = Arc::clone(&self.definition);
        let defined = &definition.workflow.steps[step as usize];
        let Some(record) = self.step_mut(step) else {
            return;
        };
        // The failure of the attempt, and whether it is the step's for good.
        let (failure, last): (Option<Failure>, bool) = match what {
            CommandEvent::Completed { result, .. } => {
                if undo {
                    record.state = StepState::Compensated;
                } else {
                    record.state = StepState::Completed;
                    record.result = Some(Kept::of(result));
                    record.completed_offset = offset;
                    self.done += 1;
                }
                return;
            }
            CommandEvent::Cancelled { .. } => {
                record.state = StepState::Cancelled;
                return;
            }
            CommandEvent::Failed {
                failure, retried, ..
            } => {
                record.count_failure(undo);
                (Some(failure.clone()), !retried)
            }
            CommandEvent::TimedOut { retried, .. } => {
                record.count_failure(undo);
                (Some(timeout_failure(timeout_us(defined, undo))), !retried)
            }
            CommandEvent::Lost { failure, .. } => {
                record.count_loss(undo);
                (failure.clone(), failure.is_some())
            }
            CommandEvent::Queued { .. }
            | CommandEvent::Dispatched
            | CommandEvent::PickedUp
            | CommandEvent::Processing => return,
        };
        let unknown = matches!(
            what,
            CommandEvent::TimedOut { .. } | CommandEvent::Lost { .. }
        );
        if unknown && !undo && defined.compensate_unknown {
            record.completed_offset = offset;
        }
        if let Some(attempt) = record.attempts.last_mut() {
            attempt.failure = failure.clone().map(Box::new);
        }
        if !last {
            return;
        }
        if undo {
            record.state = StepState::CompensationFailed;
            return;
        }
        record.state = StepState::Failed;
        self.failed_for_good(defined.on_failure, &defined.name, failure);
    }

    /// The first step that fails for good stops its transaction, unless it is to be passed over.
    fn failed_for_good(
        &mut self,
        on_failure: OnFailure,
        step: &StepName,
        failure: Option<Failure>,
    ) {
        if on_failure == OnFailure::Continue {
            self.done += 1;
        } else if !self.stopping() {
            self.stopped().failing = Some(Failing {
                failure: failure.unwrap_or_default(),
                step: Some(step.clone()),
            });
        }
    }
}

/// A slice would keep its whole batch in memory.
fn detach(payload: &mut Payload) {
    *payload = payload.copied();
}
