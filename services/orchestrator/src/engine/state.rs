//! The state: definitions, the transactions that have not left memory, and what finds them.
//!
//! Hash maps here are only looked into; whatever is listed is sorted first, so that no order of theirs
//! reaches an event.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::HashMap;
use slab::Slab;

use proto::error::Problem;
use proto::event::Kind;
use proto::id::{CommandId, HostId, Time, TransactionId, WorkerName, WorkflowName};
use proto::lifecycle::{Stage, TransactionState, is_end};
use proto::workflow::{Step, Workflow};

use super::catalogue::Catalogue;
use super::command::Attempt;
use super::host::KnownHost;
use super::index::Index;
use super::snapshot::Snapshot;
use super::timer::{Timer, Timers};
use super::transaction::Transaction;
use super::{CommandKey, Limits, Offset};

/// All that the engine knows.
#[derive(Debug)]
pub struct State {
    pub(super) limits: Limits,
    pub(super) catalogue: Catalogue,
    pub(super) transactions: Slab<Transaction>,
    /// Where a transaction stands in the slab.
    pub(super) index: Index,
    /// What their inputs and results take.
    pub(super) payload_bytes: u64,
    /// The idempotency keys of transactions in memory.
    keys: BTreeMap<WorkflowName, HashMap<Box<str>, TransactionId>>,
    pub(super) timers: Timers,
    /// How many commands wait for each worker; none: no entry.
    queued: HashMap<WorkerName, usize>,
    queued_count: usize,
    /// Hosts that came and neither left nor were lost.
    pub(super) hosts: BTreeMap<HostId, KnownHost>,
    /// When the orchestrator last opened its log.
    opened: Option<Time>,
}

/// How long an attempt at a step, or at its undo, may take.
pub(super) fn timeout_us(step: &Step, undo: bool) -> u64 {
    match &step.undo {
        Some(undoing) if undo => undoing.timeout_us,
        _ => step.timeout_us,
    }
}

impl State {
    /// An empty state.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            catalogue: Catalogue::default(),
            transactions: Slab::new(),
            index: Index::default(),
            payload_bytes: 0,
            keys: BTreeMap::new(),
            timers: Timers::default(),
            queued: HashMap::default(),
            queued_count: 0,
            hosts: BTreeMap::new(),
            opened: None,
        }
    }

    /// Its limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The earliest timer: when [`super::Input::Tick`] has something to do.
    pub fn next_due(&self) -> Option<Time> {
        self.timers.next_due()
    }

    /// A definition; version 0 is the newest. The error suggests the nearest name.
    pub fn workflow(&self, name: &WorkflowName, version: u32) -> Result<&Arc<Workflow>, Problem> {
        let definition = self.catalogue.demand(name, version)?;
        Ok(&definition.workflow)
    }

    /// The newest version of each workflow, by name.
    pub fn workflows(&self) -> impl Iterator<Item = &Arc<Workflow>> {
        self.catalogue.newest()
    }

    /// All versions of all workflows with the offsets where the log holds them, by name and version.
    pub fn definitions(&self) -> impl Iterator<Item = (&Arc<Workflow>, Offset)> {
        self.catalogue.all()
    }

    /// Puts back a definition from state.db.
    pub fn restore_definition(&mut self, workflow: &Arc<Workflow>, offset: Offset) {
        self.catalogue.keep(workflow, offset);
    }

    /// What registering this workflow would answer: its version, and whether that would be new.
    pub fn preview(&self, workflow: &Workflow) -> (u32, bool) {
        self.catalogue.preview(workflow)
    }

    /// How a transaction in memory stands.
    pub fn transaction_state(&self, id: &TransactionId) -> Option<TransactionState> {
        Some(self.transactions[self.slot(id)?].state)
    }

    /// How many transactions are in memory.
    pub fn transaction_count(&self) -> usize {
        self.transactions.len()
    }

    /// How many bytes the inputs and results of the transactions in memory have.
    pub fn payload_bytes(&self) -> u64 {
        self.payload_bytes
    }

    /// How many commands wait for a worker, retries whose time has not come included.
    pub fn queued_for(&self, worker: &WorkerName) -> usize {
        self.queued.get(worker).copied().unwrap_or_default()
    }

    /// How many commands wait in all.
    pub fn queued_count(&self) -> usize {
        self.queued_count
    }

    /// The transaction in memory that has an idempotency key, and its `input_hash`.
    pub fn find_key(&self, workflow: &WorkflowName, key: &str) -> Option<(TransactionId, Bytes)> {
        let id = self.keys.get(workflow)?.get(key)?;
        let extras = self.transactions[self.slot(id)?].extras.as_ref()?;
        Some((*id, extras.input_hash.clone()))
    }

    /// A transaction in memory, whole.
    pub fn snapshot(&self, id: &TransactionId) -> Option<Snapshot> {
        Some(self.transactions[self.slot(id)?].snapshot())
    }

    /// A transaction in memory as far as lists show it: of its steps those that failed alone.
    pub fn listed(&self, id: &TransactionId) -> Option<Snapshot> {
        Some(self.transactions[self.slot(id)?].listed())
    }

    /// Puts back a transaction from state.db. Its definition comes with it.
    pub fn restore(&mut self, id: TransactionId, snapshot: Snapshot) {
        let workflow = &snapshot.workflow;
        if self
            .catalogue
            .find(&workflow.name, workflow.version)
            .is_none()
        {
            self.catalogue.keep(workflow, snapshot.first_offset);
        }
        let Some(definition) = self.catalogue.find(&workflow.name, workflow.version) else {
            return;
        };
        let definition = Arc::clone(definition);
        self.take_out(&id);
        let slot = self.insert(Transaction::restored(id, definition, snapshot));
        let open: Vec<(u16, Stage, bool, WorkerName)> = (self.transactions[slot].steps.iter())
            .filter_map(|record| {
                let attempt = record.open_attempt()?;
                let key = self.key_of(slot, record.step, attempt);
                let waits = attempt.stage() == Stage::Queued;
                let timed = !waits || attempt.not_before.is_some();
                Some((record.step, attempt.stage(), timed, self.worker(slot, key)))
            })
            .collect();
        for (step, stage, timed, worker) in open {
            if stage == Stage::Queued {
                self.joined_queue(&worker);
            }
            if timed {
                let timer = self.timer(slot, step);
                timer.into_iter().for_each(|timer| self.timers.set(timer));
            }
        }
    }

    /// Lets an ended transaction leave memory; a live one stays.
    pub fn remove(&mut self, id: &TransactionId) {
        if self.transaction_state(id).is_some_and(is_end) {
            self.take_out(id);
        }
    }

    /// The ended transactions that are still in memory, by id.
    pub fn ended(&self) -> Vec<TransactionId> {
        self.ids(is_end)
    }

    /// The live transactions, by id.
    pub fn live(&self) -> Vec<TransactionId> {
        self.ids(|state| !is_end(state))
    }

    fn ids(&self, wanted: impl Fn(TransactionState) -> bool) -> Vec<TransactionId> {
        let mut ids: Vec<_> = (self.transactions.iter())
            .filter(|(_, transaction)| wanted(transaction.state))
            .map(|(_, transaction)| transaction.id)
            .collect();
        ids.sort_unstable();
        ids
    }

    /// A command's key; none if its transaction is not in memory or has no such step.
    pub fn key(&self, command: &CommandId) -> Option<CommandKey> {
        self.find_command(command).map(|(_, key)| key)
    }

    /// A command's id; none if its transaction is not in memory.
    pub fn command_id(&self, command: &CommandKey) -> Option<CommandId> {
        let transaction = &self.transactions[self.slot(&command.transaction)?];
        let step = transaction
            .definition
            .workflow
            .steps
            .get(command.step as usize)?;
        Some(CommandId {
            transaction: command.transaction,
            step: step.name.clone(),
            undo: command.undo,
            attempt: command.attempt,
        })
    }

    /// Whether a command waits for a slot.
    pub fn is_queued(&self, command: &CommandKey) -> bool {
        self.slot(&command.transaction)
            .and_then(|slot| self.attempt(slot, command))
            .is_some_and(|attempt| attempt.stage() == Stage::Queued)
    }

    /// Whether `host` has that command open.
    pub fn holds(&self, host: &HostId, command: &CommandId) -> bool {
        self.stage_at(host, command).is_some()
    }

    /// How far a command has come that `host` has open: what `Table::announce` asks.
    pub fn stage_at(&self, host: &HostId, command: &CommandId) -> Option<Stage> {
        let (slot, key) = self.out_at(host, command)?;
        Some(self.attempt(slot, &key)?.stage())
    }

    /// Whether a host that has that command should be told to stop it: ask for each command that a
    /// reconnecting host kept, since the telling may have been lost with the connection.
    pub fn is_cancelling(&self, command: &CommandId) -> bool {
        self.slot(&command.transaction)
            .is_some_and(|slot| !command.undo && self.transactions[slot].stopping())
    }

    /// After a replay: the commands that wait for a slot now, oldest first; for `Dispatch::push`.
    /// Retries whose time has not come follow as effects of ticks.
    pub fn queued(&self) -> Vec<(CommandKey, WorkerName)> {
        let mut waiting = Vec::new();
        for (slot, transaction) in &self.transactions {
            for record in &transaction.steps {
                let Some(attempt) = record
                    .open_attempt()
                    .filter(|attempt| attempt.stage() == Stage::Queued)
                else {
                    continue;
                };
                let delayed = self
                    .timer(slot, record.step)
                    .is_some_and(|timer| self.timers.is_set(&timer));
                if !delayed {
                    waiting.push((
                        attempt.queued,
                        self.key_of(slot, record.step, attempt),
                        slot,
                    ));
                }
            }
        }
        waiting.sort_unstable();
        let named = |(_, key, slot)| (key, self.worker(slot, key));
        waiting.into_iter().map(named).collect()
    }

    /// When the orchestrator last opened its log; state.db keeps that.
    pub fn opened(&self) -> Option<Time> {
        self.opened
    }

    /// Puts that back, before the transactions whose deadlines it moves.
    pub fn restore_opened(&mut self, opened: Option<Time>) {
        self.opened = opened;
    }

    /// What state.db keeps of the hosts: where each came, and the events that tell of it once more, for
    /// [`State::evolve`].
    pub fn retold_hosts(&self) -> Vec<(Offset, Vec<Kind>)> {
        let retold = self.hosts.iter().map(|(host, known)| {
            let kind = |what| Kind::Host {
                host: host.clone(),
                what,
            };
            (known.at, known.retold().into_iter().map(kind).collect())
        });
        retold.collect()
    }

    /// After a replay: every known host with the commands that it has; for `Table::restore`.
    pub fn hosts(&self) -> Vec<(HostId, Vec<(CommandId, WorkerName)>)> {
        let mut hosts: BTreeMap<HostId, Vec<(CommandId, WorkerName)>> = BTreeMap::new();
        for host in self.hosts.keys() {
            hosts.entry(host.clone()).or_default();
        }
        for (slot, transaction) in &self.transactions {
            for record in &transaction.steps {
                let Some(attempt) = record.open_attempt() else {
                    continue;
                };
                let key = self.key_of(slot, record.step, attempt);
                if let (Some(host), Some(id)) = (&attempt.host, self.command_id(&key)) {
                    let held = hosts.entry(host.clone()).or_default();
                    held.push((id, self.worker(slot, key)));
                }
            }
        }
        hosts.values_mut().for_each(|held| held.sort_unstable());
        hosts.into_iter().collect()
    }

    /// Where a transaction stands in the slab.
    pub(super) fn slot(&self, id: &TransactionId) -> Option<usize> {
        self.index.find(&self.transactions, id)
    }

    pub(super) fn insert(&mut self, transaction: Transaction) -> usize {
        let id = transaction.id;
        if let Some(key) = transaction.idempotency_key() {
            let keys = self.keys.entry(transaction.workflow().clone()).or_default();
            keys.insert(key.into(), id);
        }
        self.payload_bytes += transaction.payload_bytes();
        let slot = self.transactions.insert(transaction);
        self.index.insert(&self.transactions, slot);
        slot
    }

    fn take_out(&mut self, id: &TransactionId) {
        let Some(slot) = self.index.remove(&self.transactions, id) else {
            return;
        };
        let transaction = self.transactions.remove(slot);
        let bytes = transaction.payload_bytes();
        self.payload_bytes = self.payload_bytes.saturating_sub(bytes);
        if let Some(key) = transaction.idempotency_key()
            && let Some(keys) = self.keys.get_mut(transaction.workflow())
        {
            keys.remove(key);
        }
    }

    /// The command that an id names, if its transaction is in memory.
    pub(super) fn find_command(&self, command: &CommandId) -> Option<(usize, CommandKey)> {
        let slot = self.slot(&command.transaction)?;
        let definition = &self.transactions[slot].definition;
        let key = CommandKey {
            transaction: command.transaction,
            step: definition.step_index(command.step.as_str())?,
            attempt: command.attempt,
            undo: command.undo,
        };
        Some((slot, key))
    }

    /// The command that an id names, if `host` has it open.
    pub(super) fn out_at(&self, host: &HostId, command: &CommandId) -> Option<(usize, CommandKey)> {
        let (slot, key) = self.find_command(command)?;
        let attempt = self.attempt(slot, &key)?;
        (attempt.is_out() && attempt.host.as_ref() == Some(host)).then_some((slot, key))
    }

    pub(super) fn attempt(&self, slot: usize, key: &CommandKey) -> Option<&Attempt> {
        self.transactions
            .get(slot)?
            .step(key.step)?
            .attempt(key.attempt, key.undo)
    }

    fn key_of(&self, slot: usize, step: u16, attempt: &Attempt) -> CommandKey {
        CommandKey {
            transaction: self.transactions[slot].id,
            step,
            attempt: attempt.attempt,
            undo: attempt.undo,
        }
    }

    pub(super) fn worker(&self, slot: usize, key: CommandKey) -> WorkerName {
        self.worker_of(&self.transactions[slot], key)
    }

    pub(super) fn worker_of(&self, transaction: &Transaction, key: CommandKey) -> WorkerName {
        let step = &transaction.definition.workflow.steps[key.step as usize];
        match &step.undo {
            Some(undo) if key.undo => undo.worker.clone(),
            _ => step.worker.clone(),
        }
    }

    /// The timer that a step's open command has by rights, set or not.
    pub(super) fn timer(&self, slot: usize, step: u16) -> Option<Timer> {
        let transaction = &self.transactions[slot];
        let attempt = transaction.step(step)?.open_attempt()?;
        let due = match attempt.dispatched {
            None => attempt.not_before?.time(),
            Some(dispatched) => {
                let step = &transaction.definition.workflow.steps[step as usize];
                let dispatched = dispatched.time();
                let deadline = dispatched.after_us(timeout_us(step, attempt.undo));
                // Who was out while the orchestrator was away gets the time to come back.
                match self.opened {
                    Some(opened) if dispatched < opened => {
                        deadline.max(opened.after_us(self.limits.reconnect_us))
                    }
                    _ => deadline,
                }
            }
        };
        Some(Timer {
            due,
            transaction: transaction.id,
            step,
        })
    }

    /// The orchestrator opened its log: deadlines of what was out meanwhile move.
    pub(super) fn reopened(&mut self, time: Time) {
        let out: Vec<(usize, u16)> = (self.transactions.iter())
            .flat_map(|(slot, transaction)| {
                let open = transaction
                    .steps
                    .iter()
                    .filter(|record| record.open_attempt().is_some_and(Attempt::is_out));
                open.map(move |record| (slot, record.step))
            })
            .collect();
        for &(slot, step) in &out {
            let timer = self.timer(slot, step);
            timer.iter().for_each(|timer| self.timers.clear(timer));
        }
        self.opened = Some(time);
        for (slot, step) in out {
            let timer = self.timer(slot, step);
            timer.into_iter().for_each(|timer| self.timers.set(timer));
        }
    }

    pub(super) fn joined_queue(&mut self, worker: &WorkerName) {
        self.queued_count += 1;
        match self.queued.get_mut(worker) {
            Some(count) => *count += 1,
            None => {
                self.queued.insert(worker.clone(), 1);
            }
        }
    }

    pub(super) fn left_queue(&mut self, worker: &WorkerName) {
        self.queued_count = self.queued_count.saturating_sub(1);
        match self.queued.get_mut(worker) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                self.queued.remove(worker);
            }
        }
    }
}
