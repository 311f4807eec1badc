//! What clients ask for: definitions, starts, cancellations, and watching.

use std::sync::Arc;
use std::time::Duration;

use eventlog::Room;
use proto::error::{Problem, Reason};
use proto::event::Cancel;
use proto::id::{TransactionId, WorkflowName};
use proto::workflow::Workflow;
use tokio::sync::watch;

use super::Driver;
use crate::engine;
use crate::inbox::{Registered, Reply, StartReply, StartRequest, Started, View};
use crate::letting_out::Out;

/// Who waits for news of one transaction.
#[derive(Default)]
pub(super) struct Watchers {
    /// Answered at its end.
    ends: Vec<StartReply>,
    /// Shown each change.
    changes: Option<watch::Sender<View>>,
}

impl Watchers {
    /// Where to show a change, if somebody looks.
    pub(super) fn changes(&self) -> Option<watch::Sender<View>> {
        self.changes
            .as_ref()
            .filter(|changes| changes.receiver_count() > 0)
            .cloned()
    }

    /// Whether somebody asked to be shown each change.
    pub(super) fn is_watched(&self) -> bool {
        self.changes.is_some()
    }

    /// Whether nobody is left.
    pub(super) fn is_deserted(&self) -> bool {
        self.changes().is_none() && self.ends.iter().all(StartReply::is_deserted)
    }

    pub(super) fn told_the_end(self, view: View, out: &mut Vec<Out>) {
        let id = view.row.id;
        for reply in self.ends {
            let started = Started {
                id,
                existing: false,
                view: Some(view.clone()),
            };
            out.push(Out::Ended(reply, Ok(started)));
        }
        if let Some(changes) = self.changes {
            out.push(Out::Changed(changes, view));
        }
    }

    pub(super) fn told_a_problem(self, problem: &Problem, out: &mut Vec<Out>) {
        let ends = self.ends.into_iter();
        out.extend(ends.map(|reply| Out::Ended(reply, Err(problem.clone()))));
    }
}

impl Driver {
    pub(super) fn register(
        &mut self,
        workflows: Vec<Workflow>,
        validate_only: bool,
        reply: Reply<Vec<Registered>>,
    ) {
        let answer = match validate_only {
            true => Ok(self.preview(workflows)),
            false => self.room_for_more().and_then(|()| self.keep(workflows)),
        };
        self.pending.out.push(Out::Registered(reply, answer));
    }

    fn keep(&mut self, workflows: Vec<Workflow>) -> Result<Vec<Registered>, Problem> {
        let mut kept = Vec::with_capacity(workflows.len());
        for mut workflow in workflows {
            let input = engine::Input::Register {
                workflow: Box::new(workflow.clone()),
            };
            if let engine::Reply::Registered { version, created } = self.decide(input)? {
                workflow.version = version;
                kept.push(Registered {
                    workflow: Arc::new(workflow),
                    created,
                });
            }
        }
        Ok(kept)
    }

    fn preview(&self, workflows: Vec<Workflow>) -> Vec<Registered> {
        let previewed = workflows.into_iter().map(|mut workflow| {
            let (version, created) = self.state.preview(&workflow);
            workflow.version = version;
            Registered {
                workflow: Arc::new(workflow),
                created,
            }
        });
        previewed.collect()
    }

    pub(super) fn list_workflows(
        &mut self,
        after: Option<&WorkflowName>,
        limit: usize,
        reply: Reply<Vec<Arc<Workflow>>>,
    ) {
        let listed = self
            .state
            .workflows()
            .filter(|workflow| after.is_none_or(|after| workflow.name > *after))
            .take(limit)
            .cloned()
            .collect();
        self.pending.out.push(Out::Workflows(reply, Ok(listed)));
    }

    pub(super) fn start(&mut self, request: StartRequest) {
        let StartRequest {
            id,
            workflow,
            version,
            start,
            looked_up,
            until_end,
            reply,
        } = request;
        let known = if start.idempotency_key.is_empty() {
            Ok(None)
        } else {
            self.upkeep
                .known(&workflow, &start.idempotency_key, looked_up)
        };
        let started = known
            .and_then(|known| self.room_for_more().map(|()| known))
            .and_then(|known| {
                self.decide(engine::Input::Start {
                    id,
                    workflow,
                    version,
                    start,
                    ended: known.map(|known| (known.id, known.input_hash)),
                })
            });
        match started {
            Err(problem) => self.pending.out.push(Out::Started(reply, Err(problem))),
            Ok(engine::Reply::Started { id, existing }) => {
                if until_end && !existing {
                    let ends = &mut self.watchers_of(id).ends;
                    match &reply {
                        StartReply::Call(_) => return ends.push(reply),
                        StartReply::Streamed(start) => {
                            ends.push(StartReply::Streamed(start.clone()));
                        }
                    }
                }
                self.pending.started.push((id, existing, reply));
            }
            Ok(other) => {
                tracing::error!(?other, "a start was answered with something else");
            }
        }
    }

    pub(super) fn cancel(&mut self, id: TransactionId, cancel: Cancel, reply: Reply<Option<View>>) {
        if self.state.transaction_state(&id).is_none() {
            // state.db may have it, and the caller looks there.
            self.pending.out.push(Out::View(reply, Ok(None)));
            return;
        }
        match self.decide(engine::Input::Cancel { id, cancel }) {
            Ok(_) => self.pending.cancelled.push((id, reply)),
            Err(problem) => self.pending.out.push(Out::View(reply, Err(problem))),
        }
    }

    /// Shows `view` now and every change from here on.
    pub(super) fn watch(&mut self, id: TransactionId, view: View) -> watch::Receiver<View> {
        if view.row.ended() {
            return watch::channel(view).1;
        }
        let watchers = self.watchers_of(id);
        match watchers.changes() {
            Some(changes) => {
                let receiver = changes.subscribe();
                // The others get it once more, which is no news to them.
                let _ = changes.send(view);
                receiver
            }
            None => {
                let (changes, receiver) = watch::channel(view);
                watchers.changes = Some(changes);
                receiver
            }
        }
    }

    /// Who waits for a transaction, those who went away left out.
    fn watchers_of(&mut self, id: TransactionId) -> &mut Watchers {
        let watchers = self.watchers.entry(id).or_default();
        if watchers.ends.len() == watchers.ends.capacity() {
            watchers.ends.retain(|reply| !reply.is_deserted());
        }
        watchers
    }

    /// Near the end of the disk only what ends work is taken.
    fn room_for_more(&self) -> Result<(), Problem> {
        if self.store.is_failing() {
            return Err(Problem::new(
                Reason::StoreFull,
                "state.db cannot be written, so only results, cancellations and reads are taken; free \
                 some space, or see in the orchestrator's log what ails it, and repeat",
            )
            .retry_after(Duration::from_secs(5)));
        }
        match self.journal.room() {
            Room::Ample | Room::Low => Ok(()),
            Room::Reserved => Err(Problem::new(
                Reason::StoreFull,
                "the disk is nearly full, so only results, cancellations and reads are taken; free some \
                 space and repeat",
            )
            .retry_after(Duration::from_secs(5))),
        }
    }
}
