//! Commands: their stages and deadlines, and what an outcome leads to.

use std::ops::{Deref, DerefMut};

use bytes::Bytes;

use proto::event::{Command, CommandEvent, Failure, Kind, Timing};
use proto::id::{CommandId, HostId, Moment, Time};
use proto::lifecycle::{Stage, is_outcome, may_follow};
use proto::payload::Payload;

use super::effect::{Effect, Outgoing, OutgoingUndo, Piece};
use super::step::chance;
use super::{CommandKey, Reply, State, Turn};

/// One attempt at a step or at its undo, and its [`Course`]. A million that only wait are a usual
/// sight, so what they don't have takes no room.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) attempt: u32,
    pub(super) undo: bool,
    /// Its [`Stage`], which has four bytes by itself.
    stage: u8,
    pub(super) queued: Time,
    course: Option<Box<Course>>,
}

/// What has become of an attempt since it was queued.
#[derive(Debug)]
pub(super) struct Course {
    pub(super) host: Option<HostId>,
    pub(super) not_before: Option<Moment>,
    pub(super) dispatched: Option<Moment>,
    pub(super) picked_up: Option<Moment>,
    pub(super) processing: Option<Moment>,
    pub(super) ended: Option<Moment>,
    pub(super) timing: Timing,
    pub(super) failure: Option<Box<Failure>>,
}

static NO_COURSE: Course = Course::new();

impl Course {
    const fn new() -> Self {
        Self {
            host: None,
            not_before: None,
            dispatched: None,
            picked_up: None,
            processing: None,
            ended: None,
            timing: Timing {
                wait_us: 0,
                run_us: 0,
            },
            failure: None,
        }
    }
}

impl Deref for Attempt {
    type Target = Course;

    fn deref(&self) -> &Course {
        self.course.as_deref().unwrap_or(&NO_COURSE)
    }
}

impl DerefMut for Attempt {
    fn deref_mut(&mut self) -> &mut Course {
        self.course.get_or_insert_with(|| Box::new(Course::new()))
    }
}

impl Attempt {
    /// How many bytes its failure has.
    pub(super) fn failure_bytes(&self) -> u64 {
        self.failure.as_ref().map_or(0, |failure| failure.size())
    }

    pub(super) fn new(attempt: u32, undo: bool, queued: Time) -> Self {
        Self {
            attempt,
            undo,
            stage: Stage::Queued as u8,
            queued,
            course: None,
        }
    }

    pub(super) fn stage(&self) -> Stage {
        Stage::try_from(i32::from(self.stage)).unwrap_or(Stage::Unspecified)
    }

    pub(super) fn reach(&mut self, stage: Stage) {
        self.stage = stage as u8;
    }

    pub(super) fn is_open(&self) -> bool {
        !is_outcome(self.stage())
    }

    /// Whether a host has it.
    pub(super) fn is_out(&self) -> bool {
        self.is_open() && self.stage() != Stage::Queued
    }

    /// How long it took, by the engine's own instants.
    fn timing_by(&self, now: Time) -> Timing {
        let began = self.processing.or(self.dispatched).map(Moment::time);
        match began {
            None => Timing {
                wait_us: now.since_us(self.queued),
                run_us: 0,
            },
            Some(began) => Timing {
                wait_us: began.since_us(self.queued),
                run_us: now.since_us(began),
            },
        }
    }

    /// How long it took, by what its host says. What a host can't have measured is cut: neither part
    /// can be longer than the command was out, or than it was allowed to be.
    pub(super) fn timing_told(
        &self,
        wait_us: u64,
        run_us: u64,
        now: Time,
        timeout_us: u64,
    ) -> Timing {
        let dispatched = self.dispatched.map_or(self.queued, Moment::time);
        let longest = now.since_us(dispatched).max(timeout_us);
        Timing {
            wait_us: dispatched.since_us(self.queued) + wait_us.min(longest),
            run_us: run_us.min(longest),
        }
    }
}

/// The failure of an attempt that timed out.
pub(super) fn timeout_failure(timeout_us: u64) -> Failure {
    Failure {
        kind: "Timeout".to_owned(),
        message: format!(
            "no result within {} s",
            std::time::Duration::from_micros(timeout_us).as_secs_f64()
        ),
        detail: String::new(),
    }
}

/// An outcome on its way to its event.
pub(super) enum Outcome {
    Completed(Bytes),
    Failed {
        failure: Failure,
        not_retryable: bool,
    },
    TimedOut,
    Lost,
    Cancelled,
}

impl State {
    /// A dispatched command as its host receives it.
    pub fn outgoing(&self, command: &CommandKey) -> Option<Outgoing> {
        let transaction = &self.transactions[self.slot(&command.transaction)?];
        let attempt = transaction
            .step(command.step)?
            .attempt(command.attempt, command.undo)?;
        if !attempt.is_out() {
            return None;
        }
        let mut context = Vec::new();
        transaction.for_each_piece(command.step, |step, piece| {
            let json = piece.bytes();
            context.push(Piece { step, json });
        });
        let undo = command.undo.then(|| OutgoingUndo {
            result: transaction.result_for_undo(command.step),
            failure: transaction
                .failing()
                .map_or_else(Failure::default, |failing| failing.failure.clone()),
        });
        let step = &transaction.definition.workflow.steps[command.step as usize];
        Some(Outgoing {
            id: self.command_id(command)?,
            worker: self.worker_of(transaction, *command),
            workflow: transaction.workflow().clone(),
            context,
            timeout_us: super::state::timeout_us(step, command.undo),
            undo,
            trace_parent: transaction
                .extras
                .as_ref()
                .map_or_else(String::new, |extras| extras.trace_parent.clone()),
        })
    }
}

impl Turn<'_> {
    pub(super) fn dispatched(&mut self, command: CommandKey, host: HostId) -> Reply {
        let Some(slot) = self.state.slot(&command.transaction) else {
            return Reply::NotQueued;
        };
        if !self.state.is_queued(&command) {
            return Reply::NotQueued;
        }
        self.emit_command(slot, command, Some(host), CommandEvent::Dispatched);
        self.touch(slot);
        Reply::Dispatched
    }

    pub(super) fn progress(&mut self, host: &HostId, command: &CommandId, stage: Stage) {
        if !self.state.limits.observing_events {
            return;
        }
        let Some((slot, key)) = self.state.out_at(host, command) else {
            return;
        };
        let known = self.state.attempt(slot, &key);
        let Some(before) = known.map(Attempt::stage) else {
            return;
        };
        if !may_follow(before, stage) {
            return;
        }
        let what = match stage {
            Stage::PickedUp => CommandEvent::PickedUp,
            Stage::Processing => CommandEvent::Processing,
            _ => return,
        };
        if (before, stage) == (Stage::Dispatched, Stage::Processing) {
            // A handler that began had been picked up.
            self.emit_command(slot, key, Some(host.clone()), CommandEvent::PickedUp);
        }
        self.emit_command(slot, key, Some(host.clone()), what);
        self.touch(slot);
    }

    /// Commands that a host no longer has; those that it doesn't have by the engine's knowledge are
    /// passed over.
    pub(super) fn lost(&mut self, host: &HostId, commands: &[CommandId]) {
        for command in commands {
            if let Some((slot, key)) = self.state.out_at(host, command) {
                self.settle(slot, key, Outcome::Lost, None);
            }
        }
    }

    /// What a timer of a command means: the delay of its retry is over, or its deadline passed.
    pub(super) fn fired(&mut self, slot: usize, step: u16) {
        let transaction = &self.state.transactions[slot];
        let Some(attempt) = transaction
            .step(step)
            .and_then(|record| record.open_attempt())
        else {
            return;
        };
        let key = CommandKey {
            transaction: transaction.id,
            step,
            attempt: attempt.attempt,
            undo: attempt.undo,
        };
        if attempt.stage() == Stage::Queued {
            let worker = self.state.worker(slot, key);
            self.decided.effects.push(Effect::Enqueue {
                command: key,
                worker,
            });
            return;
        }
        // The host stops it by itself at about the same time; telling it costs little and helps
        // where its clock or its handler doesn't.
        if let (Some(host), Some(command)) = (attempt.host.clone(), self.state.command_id(&key)) {
            self.decided.effects.push(Effect::Cancel { command, host });
        }
        self.settle(slot, key, Outcome::TimedOut, None);
    }

    /// Cancels a step's open command while it waits; tells its host to stop it once it is out.
    pub(super) fn stop_command(&mut self, slot: usize, step: u16) {
        let transaction = &self.state.transactions[slot];
        let Some(attempt) = transaction
            .step(step)
            .and_then(|record| record.open_attempt())
        else {
            return;
        };
        let key = CommandKey {
            transaction: transaction.id,
            step,
            attempt: attempt.attempt,
            undo: attempt.undo,
        };
        match attempt.host.clone() {
            None => {
                let timing = attempt.timing_by(self.now);
                self.emit_command(slot, key, None, CommandEvent::Cancelled { timing });
                let worker = self.state.worker(slot, key);
                self.decided.effects.push(Effect::Withdraw {
                    command: key,
                    worker,
                });
            }
            Some(host) => {
                if let Some(command) = self.state.command_id(&key) {
                    self.decided.effects.push(Effect::Cancel { command, host });
                }
            }
        }
    }

    /// Records the outcome of a command that is out, and what follows from it. `timing` is what its
    /// host told; without, the engine's own instants count.
    pub(super) fn settle(
        &mut self,
        slot: usize,
        key: CommandKey,
        outcome: Outcome,
        timing: Option<Timing>,
    ) {
        let transaction = &self.state.transactions[slot];
        let Some(record) = transaction.step(key.step) else {
            return;
        };
        let Some(attempt) = record.attempt(key.attempt, key.undo) else {
            return;
        };
        let timing = timing.unwrap_or_else(|| attempt.timing_by(self.now));
        let host = attempt.host.clone();
        let (failures, losses) = if key.undo {
            (record.undo_failures + 1, record.undo_losses + 1)
        } else {
            (record.failures + 1, record.losses + 1)
        };
        let Some(retry) = transaction.retry(key.step, key.undo) else {
            return;
        };
        // A stopping transaction tries nothing again but its undoing.
        let goes_on = key.undo || !transaction.stopping();
        let again = goes_on && failures < retry.attempts;
        let mut delay_us = None;
        let mut retried = |again: bool| {
            if again {
                delay_us = Some(retry.delay_us(failures, chance(&key)));
            }
            again
        };
        let what = match outcome {
            Outcome::Completed(result) => CommandEvent::Completed {
                result: Payload::Held(result),
                timing,
            },
            Outcome::Failed {
                failure,
                not_retryable,
            } => CommandEvent::Failed {
                failure,
                retried: retried(again && !not_retryable),
                timing,
            },
            Outcome::TimedOut => CommandEvent::TimedOut {
                retried: retried(again),
                timing,
            },
            Outcome::Lost if goes_on && losses < retry.max_deliveries => {
                // The handler isn't to blame: another host gets it at once.
                delay_us = Some(0);
                CommandEvent::Lost {
                    failure: None,
                    timing,
                }
            }
            Outcome::Lost => CommandEvent::Lost {
                failure: Some(lost_for_good(
                    losses,
                    goes_on && retry.max_deliveries > 1,
                    host.as_ref(),
                )),
                timing,
            },
            Outcome::Cancelled => CommandEvent::Cancelled { timing },
        };
        self.emit_command(slot, key, host, what);
        self.follow(slot, key, delay_us);
        self.touch(slot);
    }

    /// What comes after an outcome: another attempt, the next undo, or the way on.
    fn follow(&mut self, slot: usize, key: CommandKey, delay_us: Option<u64>) {
        if let Some(delay_us) = delay_us {
            // The context fitted the attempt before, so it fits this one.
            let _ = self.queue(slot, key.step, key.undo, delay_us);
            return;
        }
        if !key.undo {
            return self.proceed(slot, key.step);
        }
        let attempt = self.state.attempt(slot, &key);
        match attempt.and_then(|attempt| attempt.failure.as_deref().cloned()) {
            None => self.undo_next(slot),
            Some(failure) => self.undo_failed(slot, key.step, failure),
        }
    }

    /// Emits an event of a command.
    pub(super) fn emit_command(
        &mut self,
        slot: usize,
        key: CommandKey,
        host: Option<HostId>,
        what: CommandEvent,
    ) {
        let transaction = &self.state.transactions[slot];
        let step = &transaction.definition.workflow.steps[key.step as usize];
        let command = Command {
            step: step.name.clone(),
            worker: self.state.worker_of(transaction, key),
            attempt: key.attempt,
            undo: key.undo,
            host,
        };
        self.emit(Kind::Command {
            id: transaction.id,
            workflow: transaction.workflow().clone(),
            command,
            what,
        });
    }
}

/// Why a lost command is not delivered again.
fn lost_for_good(losses: u32, poison: bool, host: Option<&HostId>) -> Failure {
    let host = host.map_or("?", HostId::as_str);
    let (kind, message) = if poison {
        let message = format!(
            "{losses} hosts were lost while they had the command, the last one \"{host}\": the \
             command itself may bring them down"
        );
        ("Poison", message)
    } else {
        let message = format!("host \"{host}\" was lost while it had the command");
        ("HostLost", message)
    };
    Failure {
        kind: kind.to_owned(),
        message,
        detail: String::new(),
    }
}
