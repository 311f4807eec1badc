//! What an observer of the events alone knows, and what it may never see.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::event::{Cancel, CommandEvent, TransactionEvent};
use proto::id::{CommandId, StepName};
use proto::lifecycle::{Stage, TransactionState, is_end};
use proto::workflow::{OnFailure, Workflow};

type Offset = u64;

/// What an observer of the events alone knows of one transaction.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) workflow: Option<Arc<Workflow>>,
    pub(crate) stages: BTreeMap<CommandId, Stage>,
    /// Steps that completed, with the offset.
    completed: BTreeMap<usize, Offset>,
    pub(crate) passed: BTreeSet<usize>,
    /// Steps with an attempt of unknown effect that are to be undone for it, with its offset.
    unknown: BTreeMap<usize, Offset>,
    failures: BTreeMap<(usize, bool), u32>,
    losses: BTreeMap<(usize, bool), u32>,
    undone: Vec<usize>,
    cancel: Option<Cancel>,
    pub(crate) end: Option<TransactionState>,
}

impl Seen {
    fn step(&self, name: &StepName) -> usize {
        self.workflow
            .as_ref()
            .unwrap()
            .step_index(name.as_str())
            .unwrap()
    }

    pub(crate) fn command(&mut self, offset: Offset, id: &CommandId, what: &CommandEvent) {
        let workflow = Arc::clone(self.workflow.as_ref().unwrap());
        let at = self.step(&id.step);
        let step = &workflow.steps[at];
        let known = self
            .stages
            .insert(id.clone(), proto::lifecycle::stage(what));
        let before = known.unwrap_or(Stage::Unspecified);
        assert!(
            proto::lifecycle::may_follow(before, proto::lifecycle::stage(what)),
            "{id}: {before:?} then {what:?}"
        );
        let retry = match id.undo {
            true => &step.undo.as_ref().unwrap().retry,
            false => &step.retry,
        };
        let (failures, losses) = (
            self.failures.entry((at, id.undo)).or_default(),
            self.losses.entry((at, id.undo)).or_default(),
        );
        match what {
            CommandEvent::Queued { .. } if id.undo => {
                let mut left: Vec<_> = self.completed.iter().chain(&self.unknown).collect();
                left.retain(|(step, _)| {
                    workflow.steps[**step].undo.is_some() && !self.undone.contains(step)
                });
                let last = left.into_iter().max_by_key(|(_, offset)| **offset).unwrap();
                assert_eq!(*last.0, at, "not the last completed one is undone");
            }
            CommandEvent::Queued { .. } => {
                assert!(step.after.iter().all(|before| self.passed.contains(before)));
            }
            CommandEvent::Completed { .. } if id.undo => self.undone.push(at),
            CommandEvent::Completed { .. } => {
                self.unknown.remove(&at);
                assert_eq!(self.completed.insert(at, offset), None, "completed twice");
                self.passed.insert(at);
            }
            CommandEvent::Failed { retried, .. } | CommandEvent::TimedOut { retried, .. } => {
                *failures += 1;
                assert!(*failures <= retry.attempts);
                assert!(!retried || *failures < retry.attempts);
                if !retried && !id.undo && step.on_failure == OnFailure::Continue {
                    self.passed.insert(at);
                }
            }
            CommandEvent::Lost { failure, .. } => {
                *losses += 1;
                assert!(*losses <= retry.max_deliveries);
                if failure.is_some() && !id.undo && step.on_failure == OnFailure::Continue {
                    self.passed.insert(at);
                }
            }
            _ => {}
        }
        let unknown = matches!(
            what,
            CommandEvent::TimedOut { .. } | CommandEvent::Lost { .. }
        );
        if unknown && !id.undo && step.compensate_unknown {
            self.unknown.insert(at, offset);
        }
    }

    pub(crate) fn transaction(
        &mut self,
        what: &TransactionEvent,
        workflow: impl FnOnce() -> Arc<Workflow>,
    ) {
        if let TransactionEvent::Carried(_) = what {
            return;
        }
        if let TransactionEvent::Started(_) = what {
            assert!(self.workflow.is_none(), "started twice");
            self.workflow = Some(workflow());
            return;
        }
        let workflow = self.workflow.as_ref().unwrap();
        let to_undo = (self.completed.keys().chain(self.unknown.keys()))
            .filter(|step| workflow.steps[**step].undo.is_some() && !self.undone.contains(step))
            .count();
        match what {
            TransactionEvent::Completed { failed_steps } => {
                assert_eq!(self.passed.len(), workflow.steps.len());
                assert_eq!(
                    self.completed.len() + failed_steps.len(),
                    workflow.steps.len()
                );
            }
            TransactionEvent::Failed {
                compensation_failed: false,
                failed_step,
                ..
            } => {
                let failed = failed_step.as_ref().map(|name| self.step(name)).unwrap();
                assert!(to_undo == 0 || workflow.steps[failed].on_failure == OnFailure::Fail);
                assert!(self.undone.is_empty());
            }
            TransactionEvent::Failed { .. } => assert!(to_undo > 0),
            TransactionEvent::CompensationStarted { .. } => assert!(to_undo > 0),
            TransactionEvent::Compensated => {
                assert_eq!(to_undo, 0);
                assert!(self.cancel.is_none());
            }
            TransactionEvent::Cancelled => {
                let cancel = self.cancel.as_ref().unwrap();
                assert!(to_undo == 0 || cancel.skip_compensation);
            }
            TransactionEvent::CancelRequested(cancel) => {
                assert!(self.cancel.is_none());
                self.cancel = Some(cancel.clone());
            }
            TransactionEvent::Started(_) | TransactionEvent::Carried(_) => {}
        }
        let open = (self.stages.values()).any(|stage| !proto::lifecycle::is_outcome(*stage));
        self.end = proto::lifecycle::state_after(what).filter(|state| is_end(*state));
        assert!(self.end.is_none() || !open, "ended with open commands");
    }
}
