//! Results: which one counts, which is the same again, and why the others are refused.

use bytes::Bytes;

use proto::error::{Problem, Reason, word};
use proto::event::{Failure, Kind};
use proto::id::{CommandId, HostId};
use proto::lifecycle::Stage;
use proto::payload::{self, Payload};

use super::command::Outcome;
use super::snapshot::Snapshot;
use super::{Reply, ResultOutcome, Turn};

/// Checks a result at the edge, off the driver: what is no JSON object within the limit fails its
/// command instead, by the step's retry policy, and the problem says what to acknowledge.
pub fn checked_result(result: Bytes, bytes_max: usize) -> (ResultOutcome, Option<Problem>) {
    match payload::check("completed_json", &result, bytes_max) {
        Ok(()) => (ResultOutcome::Completed(result), None),
        Err(problem) => {
            let kind = match problem.reason {
                Reason::PayloadTooLarge => "PayloadTooLarge",
                _ => "InvalidResult",
            };
            let failure = Failure {
                kind: kind.to_owned(),
                message: problem.message.clone(),
                detail: String::new(),
            };
            let outcome = ResultOutcome::Failed {
                failure,
                not_retryable: false,
            };
            (outcome, Some(problem))
        }
    }
}

/// What a result is worth.
enum Verdict {
    Counts,
    Duplicate,
    Refused(Reason),
}

/// What an attempt says to a result.
fn judge(
    host: &HostId,
    outcome: &ResultOutcome,
    stage: Stage,
    holder: Option<&HostId>,
    result: Option<&Payload>,
    failure: Option<&Failure>,
) -> Verdict {
    if holder != Some(host) {
        return Verdict::Refused(Reason::NotLeaseHolder);
    }
    let same = |same: bool| match same {
        true => Verdict::Duplicate,
        false => Verdict::Refused(Reason::ResultConflict),
    };
    match stage {
        Stage::Dispatched | Stage::PickedUp | Stage::Processing => Verdict::Counts,
        Stage::Completed => same(match (outcome, result) {
            (ResultOutcome::Completed(told), Some(Payload::Held(known))) => told == known,
            // An undo's result isn't kept; nor are the bytes where only the size is at hand.
            (ResultOutcome::Completed(_), None) => true,
            (ResultOutcome::Completed(told), Some(Payload::Absent(size))) => {
                told.len() as u64 == *size
            }
            _ => false,
        }),
        Stage::Failed => same(match outcome {
            ResultOutcome::Failed { failure: told, .. } => Some(told) == failure,
            ResultOutcome::Cancelled => failure == Some(&unasked()),
            ResultOutcome::Completed(_) | ResultOutcome::TimedOut => false,
        }),
        Stage::Timeout => match outcome {
            ResultOutcome::TimedOut => Verdict::Duplicate,
            _ => Verdict::Refused(Reason::LeaseLapsed),
        },
        Stage::Lost => Verdict::Refused(Reason::LeaseLapsed),
        Stage::Cancelled => same(matches!(outcome, ResultOutcome::Cancelled)),
        Stage::Queued | Stage::Unspecified => Verdict::Refused(Reason::NotLeaseHolder),
    }
}

/// A host that stops a command nobody asked it to stop has failed it.
fn unasked() -> Failure {
    Failure {
        kind: "Cancelled".to_owned(),
        message: "the host stopped the command without being asked to".to_owned(),
        detail: String::new(),
    }
}

fn refused(reason: Reason) -> Reply {
    let message = match reason {
        Reason::NotLeaseHolder => "another host has the command, or none yet; drop the result",
        Reason::LeaseLapsed => {
            "the lease lapsed or the deadline passed before the result came; drop it"
        }
        Reason::ResultConflict => "another result was recorded before; drop this one",
        _ => "nobody knows the command, or its transaction has left; drop the result",
    };
    Reply::ResultRefused {
        reason,
        message: message.to_owned(),
    }
}

/// What the result of a transaction that has left memory is answered, by its row. None: it counts for
/// nothing and `Input::Result` says so.
pub fn is_duplicate(
    ended: &Snapshot,
    host: &HostId,
    command: &CommandId,
    outcome: &ResultOutcome,
) -> bool {
    let known = (ended.carried.steps.iter())
        .find(|step| step.step == command.step)
        .and_then(|step| {
            let wanted = |known: &&proto::event::CarriedCommand| {
                known.attempt == command.attempt && known.undo == command.undo
            };
            Some((step, step.commands.iter().find(wanted)?))
        });
    known.is_some_and(|(step, known)| {
        let verdict = judge(
            host,
            outcome,
            known.stage,
            known.host.as_ref(),
            step.result.as_ref().filter(|_| !known.undo),
            known.failure.as_deref(),
        );
        matches!(verdict, Verdict::Duplicate)
    })
}

impl Turn<'_> {
    pub(super) fn result(
        &mut self,
        host: HostId,
        command: &CommandId,
        outcome: ResultOutcome,
        wait_us: u64,
        run_us: u64,
    ) -> Reply {
        let (slot, key) = match self.state.find_command(command) {
            Some(found) => found,
            None => return self.refuse(host, command, Reason::CommandUnknown),
        };
        let transaction = &self.state.transactions[slot];
        let step = transaction.step(key.step);
        let Some(attempt) = self.state.attempt(slot, &key) else {
            // One that was forgotten since is as late as one whose deadline passed.
            let forgotten = step
                .and_then(|step| step.attempts.iter().find(|known| known.undo == key.undo))
                .is_some_and(|oldest| key.attempt < oldest.attempt);
            let reason = match forgotten {
                true => Reason::LeaseLapsed,
                false => Reason::CommandUnknown,
            };
            return self.refuse(host, command, reason);
        };
        let result = step
            .filter(|_| !key.undo && !attempt.is_open())
            .and_then(|step| Some(step.result.as_ref()?.payload()));
        let verdict = judge(
            &host,
            &outcome,
            attempt.stage(),
            attempt.host.as_ref(),
            result.as_ref(),
            attempt.failure.as_deref(),
        );
        match verdict {
            Verdict::Duplicate => return Reply::ResultDuplicate,
            Verdict::Refused(reason) => return self.refuse(host, command, reason),
            Verdict::Counts => {}
        }
        let definition = &transaction.definition.workflow.steps[key.step as usize];
        let timeout_us = super::state::timeout_us(definition, key.undo);
        let timing = attempt.timing_told(wait_us, run_us, self.now, timeout_us);
        let asked = transaction.stopping() && !key.undo;
        let outcome = match outcome {
            ResultOutcome::Completed(result) => Outcome::Completed(result),
            ResultOutcome::Failed {
                failure,
                not_retryable,
            } => Outcome::Failed {
                failure,
                not_retryable,
            },
            ResultOutcome::TimedOut => Outcome::TimedOut,
            ResultOutcome::Cancelled if asked => Outcome::Cancelled,
            ResultOutcome::Cancelled => Outcome::Failed {
                failure: unasked(),
                not_retryable: false,
            },
        };
        self.settle(slot, key, outcome, Some(timing));
        Reply::ResultAccepted
    }

    /// What a host still has of commands that it lost. It is told to drop them, so their results never
    /// come; those that had counted, or that nobody knows, are no news.
    pub(super) fn revoked(&mut self, host: &HostId, commands: &[CommandId]) {
        for command in commands {
            let known = self.state.find_command(command);
            let attempt = known.and_then(|(slot, key)| self.state.attempt(slot, &key));
            let lost = attempt.is_some_and(|attempt| {
                attempt.stage() == Stage::Lost && attempt.host.as_ref() == Some(host)
            });
            if lost {
                self.refuse(host.clone(), command, Reason::LeaseLapsed);
            }
        }
    }

    fn refuse(&mut self, host: HostId, command: &CommandId, reason: Reason) -> Reply {
        self.emit(Kind::ResultRefused {
            host,
            reason: word(reason).to_owned(),
            command_id: command.to_string(),
        });
        refused(reason)
    }
}
