//! Steps: which one may begin, what its context is, when it is tried again, and what its end means.

use std::ops::{Deref, DerefMut};

use bytes::Bytes;
use smallvec::SmallVec;

use proto::event::{CommandEvent, Failure};
use proto::lifecycle::StepState;
use proto::workflow::{OnFailure, Retry};

use super::command::Attempt;
use super::effect::Effect;
use super::kept::Kept;
use super::transaction::Transaction;
use super::{CommandKey, Offset, Turn};

/// A step that is no longer pending, and its [`Tally`].
#[derive(Debug)]
pub(super) struct StepRecord {
    /// Its place in the definition.
    pub(super) step: u16,
    pub(super) state: StepState,
    /// Oldest first; those at the undo follow those at the step.
    pub(super) attempts: SmallVec<[Attempt; 1]>,
    tally: Option<Box<Tally>>,
}

/// What the outcomes of a step's attempts came to.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) failures: u32,
    pub(super) losses: u32,
    pub(super) undo_failures: u32,
    pub(super) undo_losses: u32,
    /// Where it completed; or, for a step that says `compensate_unknown`, where an attempt ended that
    /// may have had its effect. 0: nothing to undo.
    pub(super) completed_offset: Offset,
    pub(super) result: Option<Kept>,
}

static NO_TALLY: Tally = Tally::new();

impl Tally {
    const fn new() -> Self {
        Self {
            failures: 0,
            losses: 0,
            undo_failures: 0,
            undo_losses: 0,
            completed_offset: 0,
            result: None,
        }
    }
}

impl Deref for StepRecord {
    type Target = Tally;

    fn deref(&self) -> &Tally {
        self.tally.as_deref().unwrap_or(&NO_TALLY)
    }
}

impl DerefMut for StepRecord {
    fn deref_mut(&mut self) -> &mut Tally {
        self.tally.get_or_insert_with(|| Box::new(Tally::new()))
    }
}

impl StepRecord {
    pub(super) fn new(step: u16) -> Self {
        Self {
            step,
            state: StepState::Running,
            attempts: SmallVec::new(),
            tally: None,
        }
    }

    /// The attempt without an outcome; it is the last one.
    pub(super) fn open_attempt(&self) -> Option<&Attempt> {
        self.attempts.last().filter(|attempt| attempt.is_open())
    }

    pub(super) fn attempt(&self, attempt: u32, undo: bool) -> Option<&Attempt> {
        let wanted = |known: &&Attempt| known.attempt == attempt && known.undo == undo;
        self.attempts.iter().rfind(wanted)
    }

    pub(super) fn attempt_mut(&mut self, attempt: u32, undo: bool) -> Option<&mut Attempt> {
        let wanted = |known: &&mut Attempt| known.attempt == attempt && known.undo == undo;
        self.attempts.iter_mut().rfind(wanted)
    }

    /// An attempt failed or timed out.
    pub(super) fn count_failure(&mut self, undo: bool) {
        match undo {
            true => self.undo_failures += 1,
            false => self.failures += 1,
        }
    }

    /// An attempt was lost with its host.
    pub(super) fn count_loss(&mut self, undo: bool) {
        match undo {
            true => self.undo_losses += 1,
            false => self.losses += 1,
        }
    }

    /// The number that the next attempt gets.
    fn next_attempt(&self, undo: bool) -> u32 {
        let last = self.attempts.last().filter(|last| last.undo == undo);
        last.map_or(1, |last| last.attempt.saturating_add(1))
    }

    /// Forgets the oldest attempt of a kind beyond `kept`; gives it.
    pub(super) fn trim(&mut self, undo: bool, kept: usize) -> Option<Attempt> {
        let of_kind = |attempt: &&Attempt| attempt.undo == undo;
        if self.attempts.len() <= kept || self.attempts.iter().filter(of_kind).count() <= kept {
            return None;
        }
        let mut attempts = self.attempts.iter();
        let oldest = attempts.position(|attempt| attempt.undo == undo)?;
        Some(self.attempts.remove(oldest))
    }
}

impl Transaction {
    /// Whether a step lets its followers go: it completed, or failed and is passed over.
    fn passed(&self, step: u16) -> bool {
        self.step(step).is_some_and(|record| match record.state {
            StepState::Completed => true,
            StepState::Failed => {
                let step = &self.definition.workflow.steps[step as usize];
                step.on_failure == OnFailure::Continue
            }
            _ => false,
        })
    }

    fn ready(&self, step: u16) -> bool {
        let after = &self.definition.workflow.steps[step as usize].after;
        self.step(step).is_none()
            && after
                .iter()
                .all(|&before| self.passed(super::catalogue::place(before)))
    }

    /// Calls `take` with each piece of a step's context, and whose result it is: the input, then the
    /// results before it.
    pub(super) fn for_each_piece<'a>(
        &'a self,
        step: u16,
        mut take: impl FnMut(Option<u16>, &'a Kept),
    ) {
        take(None, &self.input);
        self.definition.for_each_ancestor(step, |before| {
            if let Some(result) = self.step(before).and_then(|record| record.result.as_ref()) {
                take(Some(before), result);
            }
        });
    }

    /// The result of a step as an undo receives it.
    pub(super) fn result_for_undo(&self, step: u16) -> Bytes {
        self.step(step)
            .and_then(|record| record.result.as_ref())
            .map_or_else(Bytes::new, Kept::bytes)
    }

    fn context_size(&self, step: u16, undo: bool) -> u64 {
        let mut size = 0;
        self.for_each_piece(step, |_, piece| size += piece.size());
        let result = self.step(step).and_then(|record| record.result.as_ref());
        size + result.filter(|_| undo).map_or(0, Kept::size)
    }

    /// The policy by which a step, or its undo, is tried again.
    pub(super) fn retry(&self, step: u16, undo: bool) -> Option<&Retry> {
        let step = &self.definition.workflow.steps[step as usize];
        match (&step.undo, undo) {
            (_, false) => Some(&step.retry),
            (Some(undo), true) => Some(&undo.retry),
            (None, true) => None,
        }
    }
}

impl Turn<'_> {
    /// Begins the steps that follow nothing.
    pub(super) fn begin(&mut self, slot: usize) {
        let workflow = &self.state.transactions[slot].definition.workflow;
        let first: Vec<u16> = (0..)
            .zip(&workflow.steps)
            .filter(|(_, step)| step.after.is_empty())
            .map(|(at, _)| at)
            .collect();
        let mut passed = Vec::new();
        for step in first {
            if !self.begin_step(slot, step, &mut passed) {
                return;
            }
        }
        self.pass_on(slot, passed);
    }

    /// What follows the end of a step: its followers begin; or it failed for good, and the rest stops;
    /// or it was the last one.
    pub(super) fn proceed(&mut self, slot: usize, step: u16) {
        let transaction = &self.state.transactions[slot];
        if !transaction.stopping() {
            return self.pass_on(slot, vec![step]);
        }
        let name = &transaction.definition.workflow.steps[step as usize].name;
        let failing = transaction.failing();
        let its_own = failing.is_some_and(|failing| failing.step.as_ref() == Some(name));
        if its_own {
            self.stop(slot);
        }
        self.conclude(slot);
    }

    /// Begins what follows the steps in `passed`. A step can fail before any host has it and be passed
    /// over in turn; a list instead of a recursion keeps a chain of those off the stack.
    fn pass_on(&mut self, slot: usize, mut passed: Vec<u16>) {
        while let Some(step) = passed.pop() {
            let definition = std::sync::Arc::clone(&self.state.transactions[slot].definition);
            for &next in definition.followers(step) {
                if self.state.transactions[slot].ready(next)
                    && !self.begin_step(slot, next, &mut passed)
                {
                    return;
                }
            }
        }
        let transaction = &self.state.transactions[slot];
        if transaction.done as usize == transaction.definition.workflow.steps.len() {
            self.complete(slot);
        }
    }

    /// Begins a step. False: that stopped the transaction.
    fn begin_step(&mut self, slot: usize, step: u16, passed: &mut Vec<u16>) -> bool {
        if self.queue(slot, step, false, 0).is_ok() {
            return true;
        }
        if self.state.transactions[slot].stopping() {
            self.stop(slot);
            self.conclude(slot);
            return false;
        }
        passed.push(step);
        true
    }

    /// Queues the next attempt at a step or at its undo. One whose context is too large fails right
    /// away and for good, and the error is its failure.
    pub(super) fn queue(
        &mut self,
        slot: usize,
        step: u16,
        undo: bool,
        delay_us: u64,
    ) -> Result<(), Failure> {
        let transaction = &self.state.transactions[slot];
        let attempt = transaction
            .step(step)
            .map_or(1, |record| record.next_attempt(undo));
        let command = CommandKey {
            transaction: transaction.id,
            step,
            attempt,
            undo,
        };
        let size = transaction.context_size(step, undo);
        let size_max = self.state.limits.max_context_bytes;
        self.emit_command(slot, command, None, CommandEvent::Queued { delay_us });
        if size > size_max {
            let failure = Failure {
                kind: "ContextTooLarge".to_owned(),
                message: format!(
                    "the context has {size} bytes; at most {size_max} are allowed (max_context_bytes)"
                ),
                detail: String::new(),
            };
            let what = CommandEvent::Failed {
                failure: failure.clone(),
                retried: false,
                timing: proto::event::Timing::default(),
            };
            self.emit_command(slot, command, None, what);
            return Err(failure);
        }
        if delay_us == 0 {
            let worker = self.state.worker(slot, command);
            self.decided
                .effects
                .push(Effect::Enqueue { command, worker });
        }
        Ok(())
    }
}

/// What chance says about an attempt, 0..1: drawn from its name, so that the engine stays pure.
pub(super) fn chance(command: &CommandKey) -> f64 {
    let mut bits =
        u64::from(command.step) << 33 ^ u64::from(command.attempt) << 1 ^ u64::from(command.undo);
    for half in command.transaction.0.chunks_exact(8) {
        let half = half
            .iter()
            .fold(0, |word, &byte| word << 8 | u64::from(byte));
        // The mixing of splitmix64.
        bits = (bits ^ half).wrapping_add(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
    }
    (bits >> 11) as f64 / (1u64 << 53) as f64
}
