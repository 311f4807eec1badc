//! The strict event: what the engine decides, the journal writes, and every fold reads.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::id::{
    CommandId, HostId, Moment, StepName, Time, TransactionId, WorkerName, WorkflowName,
};
use crate::lifecycle::{Stage, StepState, TransactionState};
use crate::payload::Payload;
use crate::wire;
pub use crate::wire::{EventType, SystemSample};
use crate::workflow::Workflow;

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// When, by the engine's time.
    pub time: Time,
    /// What.
    pub kind: Kind,
}

/// What happened, and to whom.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// The orchestrator opened its log.
    OrchestratorStarted {
        /// The program's version.
        version: String,
        /// The log's epoch.
        epoch: u64,
    },
    /// A workflow was registered; its version is set.
    WorkflowRegistered(Arc<Workflow>),
    /// Something happened to a transaction as a whole.
    Transaction {
        /// Which transaction.
        id: TransactionId,
        /// Its workflow.
        workflow: WorkflowName,
        /// What.
        what: TransactionEvent,
    },
    /// Something happened to a command.
    Command {
        /// Its transaction.
        id: TransactionId,
        /// Its transaction's workflow.
        workflow: WorkflowName,
        /// Which command.
        command: Command,
        /// What.
        what: CommandEvent,
    },
    /// Something happened to a worker host.
    Host {
        /// Which host.
        host: HostId,
        /// What.
        what: HostEvent,
    },
    /// A result came that counts for nothing.
    ResultRefused {
        /// From which host.
        host: HostId,
        /// Why, as an ErrorReason without its prefix.
        reason: String,
        /// The command that it named.
        command_id: String,
    },
    /// A machine told how it does.
    SystemSampled {
        /// The host that sent it; none for the orchestrator's own.
        host: Option<HostId>,
        /// The sample.
        sample: Box<SystemSample>,
    },
}

/// A command as its events name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The step.
    pub step: StepName,
    /// The worker.
    pub worker: WorkerName,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// True for the compensation.
    pub undo: bool,
    /// The host; none until it is dispatched.
    pub host: Option<HostId>,
}

impl Command {
    /// The command's id within `transaction`.
    pub fn id(&self, transaction: TransactionId) -> CommandId {
        CommandId {
            transaction,
            step: self.step.clone(),
            undo: self.undo,
            attempt: self.attempt,
        }
    }
}

/// How long a command waited and ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// From queued to processing, in microseconds.
    pub wait_us: u64,
    /// From processing to the outcome, in microseconds.
    pub run_us: u64,
}

impl Timing {
    /// From queued to the outcome.
    pub fn latency_us(self) -> u64 {
        self.wait_us.saturating_add(self.run_us)
    }
}

/// Why something failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// The kind, such as "NetworkError".
    pub kind: String,
    /// What happened, in one sentence.
    pub message: String,
    /// More, for debugging.
    pub detail: String,
}

impl Failure {
    /// How many bytes its texts have.
    pub fn size(&self) -> u64 {
        (self.kind.len() + self.message.len() + self.detail.len()) as u64
    }
}

/// What a transaction started with.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    /// The version of its workflow.
    pub version: u32,
    /// The input.
    pub input: Payload,
    /// The client's key; empty: none.
    pub idempotency_key: String,
    /// A hash of canonical input, version and labels; empty without a key.
    pub input_hash: Bytes,
    /// What the client tagged it with.
    pub labels: BTreeMap<String, String>,
    /// The caller's W3C `traceparent`; empty: none.
    pub trace_parent: String,
}

/// What happened to a transaction as a whole.
#[derive(Clone, Debug, PartialEq)]
pub enum TransactionEvent {
    /// It started.
    Started(Box<Start>),
    /// It completed.
    Completed {
        /// Steps that failed and were passed over.
        failed_steps: Vec<StepName>,
    },
    /// It failed.
    Failed {
        /// Why.
        failure: Failure,
        /// The step whose failure it was.
        failed_step: Option<StepName>,
        /// Whether the compensation itself failed.
        compensation_failed: bool,
    },
    /// A client asked to cancel it.
    CancelRequested(Cancel),
    /// It ended as cancelled.
    Cancelled,
    /// The undoing of its completed steps began.
    CompensationStarted {
        /// Why.
        failure: Failure,
        /// The step that failed.
        failed_step: Option<StepName>,
    },
    /// Every undo succeeded.
    Compensated,
    /// It was carried past a trim.
    Carried(Box<Carried>),
}

/// A live transaction's whole state, on its way past a trim.
#[derive(Clone, Debug, PartialEq)]
pub struct Carried {
    /// When it started.
    pub start_time: Time,
    /// What it started with.
    pub start: Start,
    /// Its state.
    pub state: TransactionState,
    /// The failure that it carries.
    pub failure: Option<Failure>,
    /// The step that failed.
    pub failed_step: Option<StepName>,
    /// The cancellation that was asked for.
    pub cancel: Option<Cancel>,
    /// Every step that is no longer pending, in the definition's order.
    pub steps: Vec<CarriedStep>,
}

/// A cancellation that was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cancel {
    /// The client's words.
    pub reason: String,
    /// Whether completed steps stay as they are.
    pub skip_compensation: bool,
}

/// A step within a carried transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct CarriedStep {
    /// Its name.
    pub step: StepName,
    /// Its state.
    pub state: StepState,
    /// Its result.
    pub result: Option<Payload>,
    /// Where it completed, for the order of the compensation.
    pub completed_offset: u64,
    /// How many of its attempts failed or timed out.
    pub failures: u32,
    /// How many of its attempts were lost.
    pub losses: u32,
    /// As failures, of its undo.
    pub undo_failures: u32,
    /// As losses, of its undo.
    pub undo_losses: u32,
    /// The last failure.
    pub failure: Option<Box<Failure>>,
    /// Its attempts so far, oldest first.
    pub commands: SmallVec<[CarriedCommand; 1]>,
}

/// One attempt within a carried step.
#[derive(Clone, Debug, PartialEq)]
pub struct CarriedCommand {
    /// Which attempt.
    pub attempt: u32,
    /// Whether it is an attempt at the undo.
    pub undo: bool,
    /// Where in its life it is.
    pub stage: Stage,
    /// The host that has or had it.
    pub host: Option<HostId>,
    /// When it was queued.
    pub queued: Time,
    /// When it was dispatched; none before.
    pub dispatched: Option<Moment>,
    /// When a slot took it; none before.
    pub picked_up: Option<Moment>,
    /// When its handler began; none before.
    pub processing: Option<Moment>,
    /// When its outcome came; none before.
    pub ended: Option<Moment>,
    /// How long it took, once it has ended.
    pub timing: Timing,
    /// Why it failed, where it did.
    pub failure: Option<Box<Failure>>,
    /// Before when it must not be dispatched.
    pub not_before: Option<Moment>,
}

/// What happened to a command.
#[derive(Clone, Debug, PartialEq)]
pub enum CommandEvent {
    /// It waits for a slot.
    Queued {
        /// How long it must wait for its retry first, in microseconds.
        delay_us: u64,
    },
    /// It was given to its host.
    Dispatched,
    /// A slot took it.
    PickedUp,
    /// Its handler began.
    Processing,
    /// Outcome: its handler succeeded.
    Completed {
        /// The result.
        result: Payload,
        /// How long it took.
        timing: Timing,
    },
    /// Outcome: its handler failed.
    Failed {
        /// Why.
        failure: Failure,
        /// Whether another attempt follows.
        retried: bool,
        /// How long it took.
        timing: Timing,
    },
    /// Outcome: its deadline passed.
    TimedOut {
        /// Whether another attempt follows.
        retried: bool,
        /// How long it took.
        timing: Timing,
    },
    /// Outcome: its host's lease lapsed.
    Lost {
        /// Why it is not delivered again; none when it is.
        failure: Option<Failure>,
        /// How long it took.
        timing: Timing,
    },
    /// Outcome: it was cancelled.
    Cancelled {
        /// How long it took.
        timing: Timing,
    },
}

/// What happened to a worker host.
#[derive(Clone, Debug, PartialEq)]
pub enum HostEvent {
    /// It announced itself.
    Connected {
        /// What it offers, and how many at once.
        workers: Vec<(WorkerName, u32)>,
        /// The name of its machine.
        machine: String,
        /// The program's version.
        version: String,
        /// How long its lease is, in microseconds.
        lease_us: u64,
        /// Whether it came earlier, and a trim takes the event that said so.
        carried: bool,
    },
    /// Its stream ended.
    Disconnected {
        /// Whether it left on purpose.
        drained: bool,
    },
    /// Its lease lapsed.
    Lost,
    /// It takes no more commands.
    Draining,
    /// It gets no commands for a while, since hosts of its kind crash in a loop.
    Quarantined {
        /// For how long, in microseconds.
        hold_us: u64,
        /// For how many losses.
        losses: u32,
    },
}

impl Carried {
    /// Calls `take` with each payload, in the order in which a batch keeps them.
    pub fn for_each_payload<'a>(&'a self, mut take: impl FnMut(&'a Payload)) {
        take(&self.start.input);
        let results = self.steps.iter().filter_map(|step| step.result.as_ref());
        results.for_each(take);
    }
}

impl Event {
    /// Calls `take` with each payload that the event brings along, in the order in which a batch
    /// keeps them.
    pub fn for_each_payload<'a>(&'a self, mut take: impl FnMut(&'a Payload)) {
        match &self.kind {
            Kind::Transaction {
                what: TransactionEvent::Started(start),
                ..
            } => take(&start.input),
            Kind::Transaction {
                what: TransactionEvent::Carried(carried),
                ..
            } => carried.for_each_payload(take),
            Kind::Command {
                what: CommandEvent::Completed { result, .. },
                ..
            } => take(result),
            _ => {}
        }
    }

    /// The workflow that it is about.
    pub fn workflow(&self) -> Option<&WorkflowName> {
        match &self.kind {
            Kind::WorkflowRegistered(definition) => Some(&definition.name),
            Kind::Transaction { workflow, .. } | Kind::Command { workflow, .. } => Some(workflow),
            Kind::OrchestratorStarted { .. }
            | Kind::Host { .. }
            | Kind::ResultRefused { .. }
            | Kind::SystemSampled { .. } => None,
        }
    }

    /// The worker whose command it is about.
    pub fn worker(&self) -> Option<&WorkerName> {
        match &self.kind {
            Kind::Command { command, .. } => Some(&command.worker),
            _ => None,
        }
    }

    /// The transaction that it belongs to.
    pub fn transaction(&self) -> Option<TransactionId> {
        match &self.kind {
            Kind::Transaction { id, .. } | Kind::Command { id, .. } => Some(*id),
            _ => None,
        }
    }

    /// Whether it only observes: nothing waits for it, and no state depends on it but what is shown.
    pub fn observes(&self) -> bool {
        matches!(
            self.kind,
            Kind::Command {
                what: CommandEvent::PickedUp | CommandEvent::Processing,
                ..
            } | Kind::ResultRefused { .. }
                | Kind::SystemSampled { .. }
        )
    }

    /// What happened, as a word.
    pub fn event_type(&self) -> wire::EventType {
        use wire::EventType as Type;
        match &self.kind {
            Kind::OrchestratorStarted { .. } => Type::OrchestratorStarted,
            Kind::WorkflowRegistered(_) => Type::WorkflowRegistered,
            Kind::ResultRefused { .. } => Type::ResultRefused,
            Kind::SystemSampled { .. } => Type::SystemSampled,
            Kind::Transaction { what, .. } => match what {
                TransactionEvent::Started(_) => Type::TransactionStarted,
                TransactionEvent::Completed { .. } => Type::TransactionCompleted,
                TransactionEvent::Failed { .. } => Type::TransactionFailed,
                TransactionEvent::CancelRequested(_) => Type::CancelRequested,
                TransactionEvent::Cancelled => Type::TransactionCancelled,
                TransactionEvent::CompensationStarted { .. } => Type::CompensationStarted,
                TransactionEvent::Compensated => Type::TransactionCompensated,
                TransactionEvent::Carried(_) => Type::TransactionCarried,
            },
            Kind::Command { what, .. } => match what {
                CommandEvent::Queued { .. } => Type::CommandQueued,
                CommandEvent::Dispatched => Type::CommandDispatched,
                CommandEvent::PickedUp => Type::CommandPickedUp,
                CommandEvent::Processing => Type::CommandProcessing,
                CommandEvent::Completed { .. } => Type::CommandCompleted,
                CommandEvent::Failed { .. } => Type::CommandFailed,
                CommandEvent::TimedOut { .. } => Type::CommandTimedOut,
                CommandEvent::Lost { .. } => Type::CommandLost,
                CommandEvent::Cancelled { .. } => Type::CommandCancelled,
            },
            Kind::Host { what, .. } => match what {
                HostEvent::Connected { .. } => Type::HostConnected,
                HostEvent::Disconnected { .. } => Type::HostDisconnected,
                HostEvent::Lost => Type::HostLost,
                HostEvent::Draining => Type::HostDraining,
                HostEvent::Quarantined { .. } => Type::HostQuarantined,
            },
        }
    }
}
