//! The engine: state + input + now → events and effects. It decides everything that happens to a
//! transaction.
//!
//! Pure and synchronous: no clock, no randomness, no channel, no I/O, no generated type; time comes
//! in as [`Time`], ids come in with the input. Live and replay share [`State::evolve`], so the same log
//! gives the same state. No order of a hash map reaches an event.
//!
//! | to see | read |
//! |---|---|
//! | what can come in, what goes out | this file, `effect.rs` |
//! | start, cancel, finish, compensate | `transaction.rs` |
//! | order, join, retry | `step.rs` |
//! | stages, deadlines, outcomes | `command.rs` |
//! | which result counts | `result.rs` |
//! | definitions and their versions | `catalogue.rs` |
//! | how an event changes the state | `evolve.rs` |
//! | a transaction as bytes-to-be, there and back | `snapshot.rs` |

mod catalogue;
mod command;
mod effect;
mod evolve;
mod host;
mod index;
mod kept;
mod result;
mod snapshot;
mod state;
mod step;
mod timer;
mod transaction;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;

use proto::error::{Problem, Reason, word};
use proto::event::{
    Cancel, Event, Failure, HostEvent, Kind, Start, SystemSample, TransactionEvent,
};
use proto::id::{CommandId, HostId, Time, TransactionId, WorkerName, WorkflowName};
use proto::lifecycle::{Stage, is_end};
use proto::workflow::Workflow;

pub use effect::{Decided, Effect, Outgoing, OutgoingUndo, Piece};
pub use result::{checked_result, is_duplicate};
pub use snapshot::{Snapshot, absent_step_state};
pub use state::State;

/// An event's place in the log.
pub type Offset = u64;

/// What the engine will not exceed.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Transactions that have not left memory. Full: starts are refused as OVERLOADED.
    pub max_live_transactions: usize,
    /// Inputs, results and failures of those transactions, in bytes. A start whose input would exceed it is refused
    /// as OVERLOADED; what runs may still add its results.
    pub max_live_payload_bytes: u64,
    /// Commands that wait for one worker. Full: starts whose first step needs that worker are
    /// refused as OVERLOADED; work that has begun goes on.
    pub max_queued_per_worker: usize,
    /// Attempts that a step keeps for people to see, of its doing and of its undoing each.
    pub max_attempts_kept: usize,
    /// A context, its pieces together. Above: the step fails with kind ContextTooLarge.
    pub max_context_bytes: u64,
    /// Whether picked_up and processing are recorded.
    pub observing_events: bool,
    /// How long a command that was out when the orchestrator went away has at least, in
    /// microseconds from the next start, before its deadline counts: its host must come back first.
    pub reconnect_us: u64,
    /// Timers that one tick fires at most; what is left is still due.
    pub max_timers_per_tick: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_live_transactions: 1_000_000,
            max_live_payload_bytes: 2 << 30,
            max_queued_per_worker: 1_000_000,
            max_attempts_kept: 100,
            max_context_bytes: 2 << 20,
            observing_events: true,
            reconnect_us: 10_000_000,
            max_timers_per_tick: 4_096,
        }
    }
}

/// A command in few bytes: what queues hold, a million at times. A [`CommandId`] names the step by its text instead and
/// is what the outside knows; [`State::key`] and [`State::command_id`] turn one into the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandKey {
    /// Its transaction.
    pub transaction: TransactionId,
    /// Its step's place in the definition.
    pub step: u16,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// True for the compensation.
    pub undo: bool,
}

/// Everything that can change the state.
#[derive(Clone, Debug)]
pub enum Input {
    /// The orchestrator opened its log. First of all inputs after a replay.
    Opened {
        /// The program's version.
        version: String,
        /// The log's epoch.
        epoch: u64,
    },
    /// Keep a workflow that was checked; its version is ignored.
    Register {
        /// The workflow.
        workflow: Box<Workflow>,
    },
    /// Start a transaction.
    Start {
        /// Its id, drawn by the caller.
        id: TransactionId,
        /// Its workflow.
        workflow: WorkflowName,
        /// The version; 0: the newest.
        version: u32,
        /// What it starts with; its `version` is filled in here. Payload and limits were checked at
        /// the edge. `input_hash` covers the canonical input, the version as asked for, and the labels.
        start: Box<Start>,
        /// An ended transaction, no longer in memory, that has this idempotency key, and its
        /// `input_hash`. Keys of transactions in memory are known here.
        ended: Option<(TransactionId, Bytes)>,
    },
    /// Ask a transaction to end as cancelled.
    Cancel {
        /// Which.
        id: TransactionId,
        /// How.
        cancel: Cancel,
    },
    /// A host announced itself (`Table::announce` took it).
    HostConnected {
        /// Which.
        host: HostId,
        /// What it offers.
        workers: Vec<(WorkerName, u32)>,
        /// The name of its machine.
        machine: String,
        /// The program's version.
        version: String,
        /// Its lease, in microseconds.
        lease_us: u64,
    },
    /// A host takes no more commands.
    HostDraining {
        /// Which.
        host: HostId,
    },
    /// A host gets no commands for a while, since hosts of its kind crash in a loop.
    HostQuarantined {
        /// Which.
        host: HostId,
        /// For how long, in microseconds.
        hold_us: u64,
        /// For how many losses.
        losses: u32,
    },
    /// A host's stream ended; its lease runs on.
    HostDisconnected {
        /// Which.
        host: HostId,
        /// Whether it left on purpose.
        drained: bool,
    },
    /// A host's lease lapsed (`Table::lapse`).
    HostLapsed {
        /// Which.
        host: HostId,
        /// What it held.
        commands: Vec<CommandId>,
    },
    /// A host came back without commands that it was given (`Announced::lost`): they are lost.
    CommandsLost {
        /// Which host.
        host: HostId,
        /// Which commands.
        commands: Vec<CommandId>,
    },
    /// A host came back with commands that are no longer its own (`Announced::revoked`): what it still
    /// makes of those that were lost is refused beforehand.
    Revoked {
        /// Which host.
        host: HostId,
        /// Which commands.
        commands: Vec<CommandId>,
    },
    /// Dispatch matched a queued command with a slot.
    Dispatched {
        /// Which command.
        command: CommandKey,
        /// The slot's host.
        host: HostId,
    },
    /// A host says that a command reached a stage: picked_up or processing.
    Progress {
        /// Which host.
        host: HostId,
        /// Which command.
        command: CommandId,
        /// Which stage.
        stage: Stage,
    },
    /// A host says how a command ended.
    Result {
        /// Which host.
        host: HostId,
        /// Which command.
        command: CommandId,
        /// How it ended.
        outcome: ResultOutcome,
        /// From its arrival at the host to its handler's start, in microseconds.
        wait_us: u64,
        /// From its handler's start to its end, in microseconds.
        run_us: u64,
    },
    /// A result could not even be read.
    Refused {
        /// Which host sent it.
        host: HostId,
        /// Why it is refused.
        reason: Reason,
        /// What it named.
        command_id: String,
    },
    /// A machine told how it does.
    Sampled {
        /// Which host; none for the orchestrator's own machine.
        host: Option<HostId>,
        /// The sample.
        sample: Box<SystemSample>,
    },
    /// Time passed: see [`State::next_due`].
    Tick,
    /// What lies before an offset is to be trimmed: carry definitions, hosts and live transactions
    /// that have their beginning there.
    Carry {
        /// The first offset that stays.
        before: Offset,
        /// How many to carry at once, at most.
        limit: usize,
    },
}

/// How a host says that a command ended.
#[derive(Clone, Debug, PartialEq)]
pub enum ResultOutcome {
    /// Its handler succeeded; the result was checked at the edge ([`checked_result`]).
    Completed(Bytes),
    /// Its handler failed.
    Failed {
        /// Why.
        failure: Failure,
        /// True: another attempt would fail just so.
        not_retryable: bool,
    },
    /// The host stopped it at its deadline.
    TimedOut,
    /// The host stopped it on request.
    Cancelled,
}

/// What an input was answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Nothing to say.
    None,
    /// The workflow is kept.
    Registered {
        /// Under this version.
        version: u32,
        /// False: this content was the newest already.
        created: bool,
    },
    /// The transaction is there.
    Started {
        /// Its id: another than the input's when it existed.
        id: TransactionId,
        /// Whether the idempotency key named one that was there already.
        existing: bool,
    },
    /// The cancellation is under way, or was before.
    Cancelling,
    /// The command is out: send [`State::outgoing`].
    Dispatched,
    /// The command was no longer queued: give the slot back.
    NotQueued,
    /// The result counts.
    ResultAccepted,
    /// The same result had counted before; acknowledge it again.
    ResultDuplicate,
    /// The result counts for nothing.
    ResultRefused {
        /// Why: COMMAND_UNKNOWN, LEASE_LAPSED, NOT_LEASE_HOLDER or RESULT_CONFLICT.
        reason: Reason,
        /// The same as a sentence.
        message: String,
    },
    /// How many events were carried; as many as the limit: ask again.
    Carried(usize),
}

/// Decides on an input, evolves the state at once, and appends what follows to `decided`. `next` is
/// the offset that the first new event gets. After an error nothing has changed.
pub fn handle(
    state: &mut State,
    input: Input,
    now: Time,
    next: Offset,
    decided: &mut Decided,
) -> Result<Reply, Problem> {
    let mut turn = Turn {
        state,
        now,
        next,
        decided,
    };
    match input {
        Input::Start {
            id,
            workflow,
            version,
            start,
            ended,
        } => turn.start(id, &workflow, version, start, ended),
        Input::Cancel { id, cancel } => turn.cancel(&id, cancel),
        Input::Register { workflow } => Ok(turn.register(*workflow)),
        Input::Dispatched { command, host } => Ok(turn.dispatched(command, host)),
        Input::Result {
            host,
            command,
            outcome,
            wait_us,
            run_us,
        } => Ok(turn.result(host, &command, outcome, wait_us, run_us)),
        Input::Carry { before, limit } => Ok(turn.carry(before, limit)),
        other => {
            turn.observe(other);
            Ok(Reply::None)
        }
    }
}

/// One input on its way: what it leads to is applied as soon as it is decided.
struct Turn<'a> {
    state: &'a mut State,
    now: Time,
    next: Offset,
    decided: &'a mut Decided,
}

impl Turn<'_> {
    /// Records that something happened.
    fn emit(&mut self, kind: Kind) {
        let event = Event {
            time: self.now,
            kind,
        };
        self.state.evolve(self.next, &event);
        self.next += 1;
        self.decided.events.push(event);
    }

    fn register(&mut self, mut workflow: Workflow) -> Reply {
        let (version, created) = self.state.preview(&workflow);
        if created {
            workflow.version = version;
            self.emit(Kind::WorkflowRegistered(Arc::new(workflow)));
        }
        Reply::Registered { version, created }
    }

    /// Definitions first, so that a reader of what is left knows them when the transactions come.
    fn carry(&mut self, before: Offset, limit: usize) -> Reply {
        let old = |(_, offset): &(&Arc<Workflow>, Offset)| *offset < before;
        let workflows: Vec<_> = (self.state.definitions().filter(old).take(limit))
            .map(|(workflow, _)| Arc::clone(workflow))
            .collect();
        let mut count = workflows.len();
        for workflow in workflows {
            self.emit(Kind::WorkflowRegistered(workflow));
        }
        let mut hosts = self.state.retold_hosts();
        hosts.retain(|(at, _)| *at < before);
        hosts.truncate(limit - count);
        count += hosts.len();
        for kind in hosts.into_iter().flat_map(|(_, retold)| retold) {
            self.emit(kind);
        }
        let mut slots: Vec<(Offset, usize)> = (self.state.transactions.iter())
            .filter(|(_, transaction)| {
                transaction.first_offset < before && !is_end(transaction.state)
            })
            .map(|(slot, transaction)| (transaction.first_offset, slot))
            .collect();
        slots.sort_unstable();
        for (_, slot) in slots.into_iter().take(limit - count) {
            let carried = Box::new(self.state.transactions[slot].carried());
            self.emit_of(slot, TransactionEvent::Carried(carried));
            self.touch(slot);
            count += 1;
        }
        Reply::Carried(count)
    }

    /// What is answered with nothing.
    fn observe(&mut self, input: Input) {
        let of_host = |host, what| Kind::Host { host, what };
        match input {
            Input::Opened { version, epoch } => {
                self.emit(Kind::OrchestratorStarted { version, epoch });
            }
            Input::HostConnected {
                host,
                workers,
                machine,
                version,
                lease_us,
            } => {
                let what = HostEvent::Connected {
                    workers,
                    machine,
                    version,
                    lease_us,
                    carried: false,
                };
                self.emit(of_host(host, what));
            }
            Input::HostDraining { host } => self.emit(of_host(host, HostEvent::Draining)),
            Input::HostQuarantined {
                host,
                hold_us,
                losses,
            } => self.emit(of_host(host, HostEvent::Quarantined { hold_us, losses })),
            Input::HostDisconnected { host, drained } => {
                self.emit(of_host(host, HostEvent::Disconnected { drained }));
            }
            Input::HostLapsed { host, commands } => {
                self.emit(of_host(host.clone(), HostEvent::Lost));
                self.lost(&host, &commands);
            }
            Input::CommandsLost { host, commands } => self.lost(&host, &commands),
            Input::Revoked { host, commands } => self.revoked(&host, &commands),
            Input::Progress {
                host,
                command,
                stage,
            } => self.progress(&host, &command, stage),
            Input::Refused {
                host,
                reason,
                command_id,
            } => self.emit(Kind::ResultRefused {
                host,
                reason: word(reason).to_owned(),
                command_id,
            }),
            Input::Sampled { host, sample } => self.emit(Kind::SystemSampled { host, sample }),
            Input::Tick => self.tick(),
            Input::Start { .. }
            | Input::Cancel { .. }
            | Input::Register { .. }
            | Input::Dispatched { .. }
            | Input::Result { .. }
            | Input::Carry { .. } => {}
        }
    }

    fn tick(&mut self) {
        for _ in 0..self.state.limits.max_timers_per_tick {
            let Some(timer) = self.state.timers.fire(self.now) else {
                return;
            };
            if let Some(slot) = self.state.slot(&timer.transaction) {
                self.fired(slot, timer.step);
            }
        }
    }
}
