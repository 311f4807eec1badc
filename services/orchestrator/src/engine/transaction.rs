//! A transaction in memory, and what happens to it as a whole: start, cancel, stop, compensate, end.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use proto::error::{Problem, Reason};
use proto::event::{Cancel, Failure, Kind, Start, TransactionEvent};
use proto::id::{StepName, Time, TransactionId, WorkflowName};
use proto::lifecycle::{StepState, TransactionState, is_end};
use proto::workflow::OnFailure;

use super::catalogue::Definition;
use super::command::Attempt;
use super::effect::Effect;
use super::kept::Kept;
use super::step::StepRecord;
use super::{Offset, Reply, Turn};

/// After how long an overloaded engine is worth another try.
const OVERLOADED_RETRY: std::time::Duration = std::time::Duration::from_secs(1);

/// A transaction that has not left memory.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) id: TransactionId,
    pub(super) definition: Arc<Definition>,
    pub(super) input: Kept,
    /// What most starts don't bring; none when all of it is empty.
    pub(super) extras: Option<Box<Extras>>,
    pub(super) state: TransactionState,
    pub(super) start_time: Time,
    pub(super) updated: Time,
    /// Where the log has its beginning, or last carried it.
    pub(super) first_offset: Offset,
    /// Commands without an outcome; a workflow has at most 10,000 steps, each with one at most.
    pub(super) open: u16,
    /// Steps that completed or were passed over.
    pub(super) done: u16,
    /// Why it does not go on; none while it does.
    stopped: Option<Box<Stopped>>,
    /// The steps that are no longer pending, by their place in the definition. Most transactions that
    /// wait have begun one, which stands here itself.
    pub(super) steps: SmallVec<[StepRecord; 1]>,
}

/// What a start may bring besides its input.
#[derive(Debug)]
pub(super) struct Extras {
    pub(super) idempotency_key: String,
    pub(super) input_hash: Bytes,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) trace_parent: String,
}

/// Why a transaction does not go on, or did not.
#[derive(Debug, Default)]
pub(super) struct Stopped {
    /// The failure that stops it, or undoes it, or ended it.
    pub(super) failing: Option<Failing>,
    pub(super) cancel: Option<Cancel>,
}

/// A failure, and the step whose it was.
#[derive(Debug)]
pub(super) struct Failing {
    pub(super) failure: Failure,
    pub(super) step: Option<StepName>,
}

impl Transaction {
    /// A transaction at its start.
    pub(super) fn new(
        id: TransactionId,
        definition: Arc<Definition>,
        start: &Start,
        start_time: Time,
        offset: Offset,
    ) -> Self {
        let plain = start.idempotency_key.is_empty()
            && start.labels.is_empty()
            && start.trace_parent.is_empty();
        let extras = (!plain).then(|| {
            Box::new(Extras {
                idempotency_key: start.idempotency_key.clone(),
                input_hash: start.input_hash.clone(),
                labels: start.labels.clone(),
                trace_parent: start.trace_parent.clone(),
            })
        });
        Self {
            id,
            definition,
            input: Kept::of(&start.input),
            extras,
            state: TransactionState::Pending,
            start_time,
            updated: start_time,
            first_offset: offset,
            open: 0,
            done: 0,
            stopped: None,
            steps: SmallVec::new(),
        }
    }

    /// What it started with, put together again.
    pub(super) fn start(&self) -> Start {
        let extras = self.extras.as_deref();
        Start {
            version: self.definition.workflow.version,
            input: self.input.payload(),
            idempotency_key: extras.map_or_else(String::new, |some| some.idempotency_key.clone()),
            input_hash: extras.map_or_else(Bytes::new, |some| some.input_hash.clone()),
            labels: extras.map_or_else(BTreeMap::new, |some| some.labels.clone()),
            trace_parent: extras.map_or_else(String::new, |some| some.trace_parent.clone()),
        }
    }

    pub(super) fn idempotency_key(&self) -> Option<&str> {
        let key = self.extras.as_ref()?.idempotency_key.as_str();
        (!key.is_empty()).then_some(key)
    }

    pub(super) fn workflow(&self) -> &WorkflowName {
        &self.definition.workflow.name
    }

    /// How many bytes its input, its results and the failures of its attempts have.
    pub(super) fn payload_bytes(&self) -> u64 {
        let results = self.steps.iter().filter_map(|step| step.result.as_ref());
        let attempts = self.steps.iter().flat_map(|step| &step.attempts);
        self.input.size()
            + results.map(Kept::size).sum::<u64>()
            + attempts.map(Attempt::failure_bytes).sum::<u64>()
    }

    /// Whether no further step starts.
    pub(super) fn stopping(&self) -> bool {
        self.failing().is_some() || self.cancel().is_some()
    }

    pub(super) fn failing(&self) -> Option<&Failing> {
        self.stopped.as_ref()?.failing.as_ref()
    }

    pub(super) fn cancel(&self) -> Option<&Cancel> {
        self.stopped.as_ref()?.cancel.as_ref()
    }

    /// To say why it does not go on.
    pub(super) fn stopped(&mut self) -> &mut Stopped {
        self.stopped.get_or_insert_default()
    }

    /// The record of a step; none while it is pending.
    pub(super) fn step(&self, step: u16) -> Option<&StepRecord> {
        let at = self.step_place(step).ok()?;
        Some(&self.steps[at])
    }

    pub(super) fn step_mut(&mut self, step: u16) -> Option<&mut StepRecord> {
        let at = self.step_place(step).ok()?;
        Some(&mut self.steps[at])
    }

    /// The record of a step, begun if it was pending.
    pub(super) fn step_begun(&mut self, step: u16) -> &mut StepRecord {
        let at = match self.step_place(step) {
            Ok(at) => at,
            Err(at) => {
                self.steps.insert(at, StepRecord::new(step));
                at
            }
        };
        &mut self.steps[at]
    }

    fn step_place(&self, step: u16) -> Result<usize, usize> {
        // Where all steps before it have begun, which is the rule, it stands at its own place.
        match self.steps.get(step as usize) {
            Some(record) if record.step == step => Ok(step as usize),
            _ => self.steps.binary_search_by_key(&step, |record| record.step),
        }
    }

    /// The step to undo next: the last completed one of those that need undoing.
    fn next_undo(&self) -> Option<u16> {
        let steps = &self.definition.workflow.steps;
        self.steps
            .iter()
            .filter(|record| {
                let stands = matches!(
                    record.state,
                    StepState::Completed | StepState::Failed | StepState::Cancelled
                );
                // Set where a step completed, or may have had its effect and says to undo it then.
                stands && record.completed_offset != 0 && steps[record.step as usize].undo.is_some()
            })
            .max_by_key(|record| record.completed_offset)
            .map(|record| record.step)
    }
}

impl Turn<'_> {
    pub(super) fn start(
        &mut self,
        id: TransactionId,
        workflow: &WorkflowName,
        version: u32,
        mut start: Box<Start>,
        ended: Option<(TransactionId, Bytes)>,
    ) -> Result<Reply, Problem> {
        let definition = Arc::clone(self.state.catalogue.demand(workflow, version)?);
        if !start.idempotency_key.is_empty() {
            let known = self.state.find_key(workflow, &start.idempotency_key);
            if let Some((id, input_hash)) = known.or(ended) {
                return repeated(id, &input_hash, &start);
            }
        }
        self.admit(&definition, start.input.size())?;
        if self.state.slot(&id).is_some() {
            return Err(Problem::new(
                Reason::Internal,
                format!("transaction {id} is there already; draw another id"),
            ));
        }
        start.version = definition.workflow.version;
        self.emit(Kind::Transaction {
            id,
            workflow: definition.workflow.name.clone(),
            what: TransactionEvent::Started(start),
        });
        let slot = self.state.slot(&id).ok_or_else(|| {
            Problem::new(
                Reason::Internal,
                format!("transaction {id} was not started"),
            )
        })?;
        self.begin(slot);
        self.touch(slot);
        Ok(Reply::Started {
            id,
            existing: false,
        })
    }

    /// Refuses a start that finds no room.
    fn admit(&self, definition: &Definition, input_bytes: u64) -> Result<(), Problem> {
        let limits = &self.state.limits;
        let overloaded = |message: String| {
            Err(Problem::new(Reason::Overloaded, message).retry_after(OVERLOADED_RETRY))
        };
        if self.state.transaction_count() >= limits.max_live_transactions {
            return overloaded(format!(
                "{} transactions are live, as many as max_live_transactions allows; repeat later",
                limits.max_live_transactions
            ));
        }
        let held = self.state.payload_bytes();
        if held + input_bytes > limits.max_live_payload_bytes {
            return overloaded(format!(
                "inputs, results and failures take {held} bytes of the {} that max_live_payload_bytes allows, and \
                 this input has {input_bytes}; repeat later",
                limits.max_live_payload_bytes
            ));
        }
        for step in &definition.workflow.steps {
            let waiting = self.state.queued_for(&step.worker);
            if step.after.is_empty() && waiting >= limits.max_queued_per_worker {
                return overloaded(format!(
                    "{waiting} commands wait for worker \"{}\", as many as max_queued_per_worker \
                     allows; connect more hosts or repeat later",
                    step.worker
                ));
            }
        }
        Ok(())
    }

    pub(super) fn cancel(&mut self, id: &TransactionId, cancel: Cancel) -> Result<Reply, Problem> {
        let Some(slot) = self.state.slot(id) else {
            return Err(Problem::field(
                Reason::TransactionNotFound,
                "transaction_id",
                format!("there is no transaction {id}; check the id and the retention"),
            ));
        };
        let transaction = &self.state.transactions[slot];
        if is_end(transaction.state) {
            return Err(Problem::new(
                Reason::TransactionEnded,
                format!("transaction {id} has ended; there is nothing left to cancel"),
            ));
        }
        if transaction.cancel().is_some() {
            return Ok(Reply::Cancelling);
        }
        if transaction.state == TransactionState::Compensating {
            return Err(Problem::new(
                Reason::TransactionCompensating,
                format!("transaction {id} is undoing its steps already; wait for its end"),
            ));
        }
        self.emit_of(slot, TransactionEvent::CancelRequested(cancel));
        self.stop(slot);
        self.conclude(slot);
        self.touch(slot);
        Ok(Reply::Cancelling)
    }

    /// Nothing more begins: what waits is cancelled at once, what runs is told to stop and awaited.
    pub(super) fn stop(&mut self, slot: usize) {
        let transaction = &self.state.transactions[slot];
        if transaction.open == 0 {
            return;
        }
        let open: Vec<u16> = (transaction.steps.iter())
            .filter(|record| record.open_attempt().is_some())
            .map(|record| record.step)
            .collect();
        for step in open {
            self.stop_command(slot, step);
        }
    }

    /// Once a stopping transaction has no open command: it ends, or its undoing begins.
    pub(super) fn conclude(&mut self, slot: usize) {
        let transaction = &self.state.transactions[slot];
        if transaction.open > 0 || !transaction.stopping() || is_end(transaction.state) {
            return;
        }
        let to_undo = transaction.next_undo().is_some();
        if let Some(cancel) = transaction.cancel() {
            if cancel.skip_compensation || !to_undo {
                return self.emit_of(slot, TransactionEvent::Cancelled);
            }
            let message = if cancel.reason.is_empty() {
                "a client cancelled the transaction".to_owned()
            } else {
                cancel.reason.clone()
            };
            let failure = Failure {
                kind: "Cancelled".to_owned(),
                message,
                detail: String::new(),
            };
            self.emit_of(
                slot,
                TransactionEvent::CompensationStarted {
                    failure,
                    failed_step: None,
                },
            );
            return self.undo_next(slot);
        }
        let Some(failing) = transaction.failing() else {
            return;
        };
        let (failure, failed_step) = (failing.failure.clone(), failing.step.clone());
        let undo = (failed_step.as_ref())
            .and_then(|step| transaction.definition.step_index(step.as_str()))
            .is_none_or(|step| {
                let step = &transaction.definition.workflow.steps[step as usize];
                step.on_failure != OnFailure::Fail
            });
        if undo && to_undo {
            self.emit_of(
                slot,
                TransactionEvent::CompensationStarted {
                    failure,
                    failed_step,
                },
            );
            return self.undo_next(slot);
        }
        self.emit_of(
            slot,
            TransactionEvent::Failed {
                failure,
                failed_step,
                compensation_failed: false,
            },
        );
    }

    /// Begins the next undo, or says that all is undone.
    pub(super) fn undo_next(&mut self, slot: usize) {
        let transaction = &self.state.transactions[slot];
        match transaction.next_undo() {
            Some(step) => {
                if let Err(failure) = self.queue(slot, step, true, 0) {
                    self.undo_failed(slot, step, failure);
                }
            }
            None if transaction.cancel().is_some() => {
                self.emit_of(slot, TransactionEvent::Cancelled);
            }
            None => self.emit_of(slot, TransactionEvent::Compensated),
        }
    }

    /// The first undo that fails for good ends the phase.
    pub(super) fn undo_failed(&mut self, slot: usize, step: u16, failure: Failure) {
        let workflow = &self.state.transactions[slot].definition.workflow;
        let failed_step = Some(workflow.steps[step as usize].name.clone());
        self.emit_of(
            slot,
            TransactionEvent::Failed {
                failure,
                failed_step,
                compensation_failed: true,
            },
        );
    }

    /// Every step has completed or was passed over.
    pub(super) fn complete(&mut self, slot: usize) {
        let transaction = &self.state.transactions[slot];
        let steps = &transaction.definition.workflow.steps;
        let failed_steps = (transaction.steps.iter())
            .filter(|record| record.state == StepState::Failed)
            .map(|record| steps[record.step as usize].name.clone())
            .collect();
        self.emit_of(slot, TransactionEvent::Completed { failed_steps });
    }

    /// Says that a transaction changed, or ended.
    pub(super) fn touch(&mut self, slot: usize) {
        let Some(transaction) = self.state.transactions.get(slot) else {
            return;
        };
        let effect = if is_end(transaction.state) {
            Effect::Ended {
                transaction: transaction.id,
                state: transaction.state,
            }
        } else {
            Effect::Changed {
                transaction: transaction.id,
            }
        };
        self.decided.effects.push(effect);
    }

    /// Emits an event of a transaction as a whole.
    pub(super) fn emit_of(&mut self, slot: usize, what: TransactionEvent) {
        let transaction = &self.state.transactions[slot];
        let (id, workflow) = (transaction.id, transaction.workflow().clone());
        self.emit(Kind::Transaction { id, workflow, what });
    }
}

/// The answer to a start whose key is known.
fn repeated(id: TransactionId, input_hash: &Bytes, start: &Start) -> Result<Reply, Problem> {
    if *input_hash == start.input_hash {
        return Ok(Reply::Started { id, existing: true });
    }
    Err(Problem::field(
        Reason::IdempotencyKeyReused,
        "idempotency_key",
        format!(
            "idempotency_key \"{}\" belongs to transaction {id}, which has another input, version or \
             labels; use a new key",
            proto::id::shown(&start.idempotency_key, 64)
        ),
    )
    .with("transaction_id", id.to_string()))
}
