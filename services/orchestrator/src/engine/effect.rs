//! What the outside must do next, as data. Effects come from [`super::handle`] alone, so replay,
//! which only evolves, lets none out. They leave when the events beside them are durable.

use bytes::Bytes;

use proto::event::{Event, Failure};
use proto::id::{CommandId, HostId, TransactionId, WorkerName, WorkflowName};
use proto::lifecycle::TransactionState;

use super::CommandKey;

/// What one or several inputs led to: events in the order of their offsets, and effects.
#[derive(Debug, Default)]
pub struct Decided {
    /// What happened; the state has evolved by each of them already.
    pub events: Vec<Event>,
    /// What to do once these events are durable, in this order. Only [`Effect::Enqueue`] and
    /// [`Effect::Withdraw`] may be obeyed at once, since dispatching makes events of the same batch.
    pub effects: Vec<Effect>,
}

/// Something that the outside must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A command is ready for a slot: `Dispatch::push`.
    Enqueue {
        /// Which command.
        command: CommandKey,
        /// The worker that it is for.
        worker: WorkerName,
    },
    /// A command that may stand in the queue is no longer wanted: `Dispatch::withdraw`.
    Withdraw {
        /// Which command.
        command: CommandKey,
        /// The worker that it was for.
        worker: WorkerName,
    },
    /// Tell a host to stop a command.
    Cancel {
        /// Which command.
        command: CommandId,
        /// The host that has it.
        host: HostId,
    },
    /// A transaction changed: watchers want to see it, and its row is out of date.
    Changed {
        /// Which transaction.
        transaction: TransactionId,
    },
    /// A transaction ended: as `Changed`, and it leaves memory (`State::remove`) once its row is
    /// committed.
    Ended {
        /// Which transaction.
        transaction: TransactionId,
        /// How.
        state: TransactionState,
    },
}

/// A command as its host receives it.
#[derive(Clone, Debug, PartialEq)]
pub struct Outgoing {
    /// Its id.
    pub id: CommandId,
    /// The worker that it is for.
    pub worker: WorkerName,
    /// The workflow, for logs.
    pub workflow: WorkflowName,
    /// The input and then the results of the steps before it, in the order of the definition.
    pub context: Vec<Piece>,
    /// How long the handler may take, in microseconds.
    pub timeout_us: u64,
    /// What an undo receives besides.
    pub undo: Option<OutgoingUndo>,
    /// The caller's W3C `traceparent`; empty: none.
    pub trace_parent: String,
}

/// A piece of a context. For as long as its transaction lives, a step's result is always the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// Whose result it is; none: it is the input.
    pub step: Option<u16>,
    /// The JSON text.
    pub json: Bytes,
}

/// What an undo receives besides its step's context.
#[derive(Clone, Debug, PartialEq)]
pub struct OutgoingUndo {
    /// The step's result; empty where it never came.
    pub result: Bytes,
    /// Why the transaction is being undone.
    pub failure: Failure,
}
