//! The state: definitions, the transactions that have not left memory, and what finds them.

use std::sync::Arc;

use proto::error::Problem;
use proto::event::Event;
use proto::id::{CommandId, HostId, Time, TransactionId, WorkerName, WorkflowName};
use proto::lifecycle::TransactionState;
use proto::workflow::Workflow;

use super::effect::Outgoing;
use super::snapshot::Snapshot;
use super::{CommandKey, Limits, Offset};

/// All that the engine knows.
#[derive(Debug)]
pub struct State {
    limits: Limits,
}

#[expect(clippy::unused_self, reason = "skeleton")]
#[expect(clippy::needless_pass_by_value, reason = "skeleton")]
impl State {
    /// An empty state.
    pub fn new(limits: Limits) -> Self {
        Self { limits }
    }
    /// Its limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
    /// Applies an event of the log: live and replay are the same code.
    pub fn evolve(&mut self, offset: Offset, event: &Event) {
        let _ = (offset, event);
        unimplemented!()
    }
    /// As [`State::evolve`] for an event read from the log: refuses what can't be applied, and copies
    /// payloads out of the batch that they are a slice of.
    pub fn replay(&mut self, offset: Offset, event: Event) -> Result<(), Problem> {
        let _ = (offset, event);
        unimplemented!()
    }
    /// The earliest timer.
    pub fn next_due(&self) -> Option<Time> {
        unimplemented!()
    }
    /// A definition; version 0 is the newest. The error suggests the nearest name.
    pub fn workflow(&self, name: &WorkflowName, version: u32) -> Result<&Arc<Workflow>, Problem> {
        let _ = (name, version);
        unimplemented!()
    }
    /// The newest version of each workflow, by name.
    pub fn workflows(&self) -> impl Iterator<Item = &Arc<Workflow>> {
        std::iter::empty()
    }
    /// All versions of all workflows with the offsets at which they were registered, by name and version.
    pub fn definitions(&self) -> impl Iterator<Item = (&Arc<Workflow>, Offset)> {
        std::iter::empty()
    }
    /// Puts back a definition from state.db.
    pub fn restore_definition(&mut self, workflow: Arc<Workflow>, offset: Offset) {
        let _ = (workflow, offset);
        unimplemented!()
    }
    /// What registering this workflow would answer: its version, and whether that would be new.
    pub fn preview(&self, workflow: &Workflow) -> (u32, bool) {
        let _ = workflow;
        unimplemented!()
    }
    /// How a transaction in memory stands.
    pub fn transaction_state(&self, id: &TransactionId) -> Option<TransactionState> {
        let _ = id;
        unimplemented!()
    }
    /// How many transactions are in memory.
    pub fn transaction_count(&self) -> usize {
        unimplemented!()
    }
    /// How many commands wait for a worker, retries whose time has not come included.
    pub fn queued_for(&self, worker: &WorkerName) -> usize {
        let _ = worker;
        unimplemented!()
    }
    /// How many commands wait in all.
    pub fn queued_count(&self) -> usize {
        unimplemented!()
    }
    /// The transaction in memory that has an idempotency key, and its `input_hash`.
    pub fn find_key(
        &self,
        workflow: &WorkflowName,
        key: &str,
    ) -> Option<(TransactionId, bytes::Bytes)> {
        let _ = (workflow, key);
        unimplemented!()
    }
    /// A transaction in memory, whole.
    pub fn snapshot(&self, id: &TransactionId) -> Option<Snapshot> {
        let _ = id;
        unimplemented!()
    }
    /// Puts back a transaction from state.db. Its definition must be there.
    pub fn restore(&mut self, id: TransactionId, snapshot: Snapshot) {
        let _ = (id, snapshot);
        unimplemented!()
    }
    /// Lets an ended transaction leave memory; a live one stays.
    pub fn remove(&mut self, id: &TransactionId) {
        let _ = id;
        unimplemented!()
    }
    /// The ended transactions that are still in memory, by id: after a replay, those whose rows may
    /// be missing.
    pub fn ended(&self) -> Vec<TransactionId> {
        unimplemented!()
    }
    /// The live transactions in memory, by id.
    pub fn live(&self) -> Vec<TransactionId> {
        unimplemented!()
    }
    /// A command's key; none if its transaction is not in memory or has no such step.
    pub fn key(&self, command: &CommandId) -> Option<CommandKey> {
        let _ = command;
        unimplemented!()
    }
    /// A command's id; none if its transaction is not in memory.
    pub fn command_id(&self, command: &CommandKey) -> Option<CommandId> {
        let _ = command;
        unimplemented!()
    }
    /// Whether a command waits for a slot.
    pub fn is_queued(&self, command: &CommandKey) -> bool {
        let _ = command;
        unimplemented!()
    }
    /// Whether `host` has that command open: what `Table::announce` asks.
    pub fn holds(&self, host: &HostId, command: &CommandId) -> bool {
        let _ = (host, command);
        unimplemented!()
    }
    /// Whether a host that has that command should be told to stop it: ask for each command that a
    /// reconnecting host kept, since the telling may have been lost.
    pub fn is_cancelling(&self, command: &CommandId) -> bool {
        let _ = command;
        unimplemented!()
    }
    /// A dispatched command as its host receives it.
    pub fn outgoing(&self, command: &CommandKey) -> Option<Outgoing> {
        let _ = command;
        unimplemented!()
    }
    /// After a replay: the commands that wait for a slot now, oldest first; for `Dispatch::push`.
    /// Retries whose time has not come follow as effects of ticks.
    pub fn queued(&self) -> Vec<(CommandKey, WorkerName)> {
        unimplemented!()
    }
    /// After a replay: every known host with the commands that it has; for `Table::restore`.
    pub fn hosts(&self) -> Vec<(HostId, Vec<(CommandId, WorkerName)>)> {
        unimplemented!()
    }
}
