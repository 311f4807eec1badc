//! The loop: take what has piled up, decide, evolve, append with one sync, let out, again.
//!
//! On one thread of its own; the only writer of the log of record. Whatever has seen an event
//! leaves after that event's sync, all of a batch as one message. While it syncs the inbox fills, so
//! batches grow with load and no timer makes anyone wait. Nothing that must answer promptly waits on
//! this thread: heartbeats and readers of the log go past it.

mod opening;
mod requests;
mod hosts;
mod batch;
mod upkeep;

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use eventlog::AppendError;
use foldhash::HashMap;
use proto::id::{HostId, Time, TransactionId};

use crate::busy_poll::{Awake, BusyPoll};
use crate::config::Config;
use crate::dispatch::Dispatch;
use crate::engine::{self, Decided, Effect, State};
use crate::inbox::{Inbox, Input, Queued};
use crate::journal::Journal;
use crate::letting_out::{Gate, Out};
use crate::metrics::Metrics;
use crate::sessions::line::Leases;
use crate::sessions::message::HostMessage;
use crate::sessions::table::Table;
use crate::store::{Keys, Lookup, Pace, StoreError, StoreThread, Stored};

use batch::Pending;
use hosts::OpenLine;
use requests::Watchers;
use upkeep::Upkeep;

/// Why the driver could not go on. The process ends, and finds out at its next start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fatal {
    /// The log's word.
    #[error(
        "the log could not be written, and nobody knows what of it is there: {0}; starting again \
         finds out"
    )]
    Append(#[from] AppendError),
    /// The log could not be read at the start.
    #[error("the log could not be read: {0}")]
    Read(#[from] eventlog::ReadError),
    /// What is in the log can't be folded.
    #[error("the log can't be folded: {0}; it may be of a newer version")]
    Fold(String),
    /// Not even a new state.db works.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// state.db broke while in use.
    #[error("{0}; it is set aside and rebuilt from the log at the next start")]
    StoreDamaged(String),
    /// The operating system refused a thread.
    #[error("a thread could not be started: {0}")]
    Thread(std::io::Error),
}

/// What the driver shares with the rest of the service.
#[derive(Clone)]
pub(crate) struct Shared {
    /// Every limit.
    pub config: Arc<Config>,
    /// The engine's time.
    pub clock: kit::Clock,
    /// To say that requests are welcome.
    pub inbox: Inbox,
    /// Where batches leave.
    pub gate: Gate,
    /// Whether whoever lets batches out stays awake for the next.
    pub awake: Awake,
    /// What heartbeats find sessions by.
    pub leases: Leases,
    /// Lookups in state.db, once it is open.
    pub lookup: Arc<OnceLock<Lookup>>,
    /// Which idempotency keys state.db may have.
    pub keys: Keys,
    /// How many handovers state.db has taken.
    pub handovers: Arc<AtomicU64>,
    /// The time of the newest durable event.
    pub head_time_us: Arc<AtomicI64>,
    /// Definitions, to show what only state.db has.
    pub catalogue: crate::catalogue::Catalogue,
    /// What `/metrics` tells.
    pub metrics: Metrics,
    /// When state.db is written.
    pub pace: Pace,
}

/// The only one who changes anything.
pub(crate) struct Driver {
    shared: Shared,
    inputs: Receiver<Queued>,
    journal: Journal,
    state: State,
    table: Table,
    dispatch: Dispatch,
    store: StoreThread,
    lines: HashMap<HostId, OpenLine>,
    watchers: HashMap<TransactionId, Watchers>,
    pending: Pending,
    upkeep: Upkeep,
    decided: Decided,
    busy_poll: BusyPoll,
    now: Time,
    /// Leases are not judged before this: heartbeats that came while this process stood still have
    /// to be heard first.
    judge_after: Time,
    stopping: bool,
}

/// What whoever steps the driver by hand sees of it, and does for it.
impl Driver {
    /// What the engine knows.
    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Whether something lies in the inbox.
    pub(crate) fn has_inputs(&self) -> bool {
        !self.inputs.is_empty()
    }

    /// Writes what was handed to state.db; whether there was anything.
    pub(crate) fn write_rows(&mut self) -> bool {
        self.store.step()
    }
}

impl Driver {
    /// Until it is asked to stop, or can't go on.
    pub(crate) fn run(mut self) -> Result<(), Fatal> {
        while !self.stopping {
            let wait = self.wait();
            let first = self.next_input(wait);
            self.turn(first, wait)?;
        }
        self.end()
    }

    /// One turn of the loop, after at most `wait` in which nothing was due.
    pub(crate) fn turn(&mut self, first: Option<Queued>, wait: Duration) -> Result<(), Fatal> {
        let now = Time(self.shared.clock.now_micros());
        self.notice_a_standstill(now, wait);
        self.now = now;
        self.take(first);
        let ended = self.upkeep.ended_in_memory();
        self.busy_poll
            .under_way(self.state.transaction_count().saturating_sub(ended));
        self.tick();
        self.dispatch();
        self.keep_up()?;
        self.settle()?;
        self.hand_over()
    }

    /// The next input; none when something else is due first.
    pub(crate) fn next_input(&mut self, wait: Duration) -> Option<Queued> {
        if let Ok(queued) = self.inputs.try_recv() {
            return Some(queued);
        }
        if wait.is_zero() {
            return None;
        }
        let inputs = &self.inputs;
        if let Some(queued) = self.busy_poll.look(|| inputs.try_recv().ok()) {
            return Some(queued);
        }
        let since = Instant::now();
        crossbeam_channel::select! {
            recv(self.inputs) -> queued => {
                self.busy_poll.came_after(since.elapsed());
                queued.ok()
            }
            recv(self.store.stored()) -> stored => {
                self.upkeep.noticed(stored.unwrap_or_else(|_| Stored::ended()));
                None
            }
            default(wait) => None,
        }
    }

    /// How long nothing is due.
    pub(crate) fn wait(&self) -> Duration {
        if !self.pending.is_empty() || self.pending.more_to_dispatch {
            return Duration::ZERO;
        }
        let dues = [
            self.state.next_due(),
            self.table.due().map(|due| due.max(self.judge_after)),
            self.pending
                .observing_since
                .map(|since| since.after_us(micros(*self.shared.config.driver.observing_delay))),
            self.upkeep.due(self.journal.durable(), self.now),
        ];
        let now = Time(self.shared.clock.now_micros());
        let soonest = dues.into_iter().flatten().min();
        // An hour: a clock that is slewed must not oversleep for good.
        soonest.map_or(Duration::from_secs(3_600), |due| {
            Duration::from_micros(due.since_us(now))
        })
    }

    /// A process that stood still (paused, starved, its machine suspended) finds every lease lapsed,
    /// while the heartbeats that came meanwhile lie unread.
    fn notice_a_standstill(&mut self, now: Time, wait: Duration) {
        let turn_us = now.since_us(self.now).saturating_sub(micros(wait));
        let heartbeat_us = micros(*self.shared.config.sessions.heartbeat_interval);
        if turn_us > heartbeat_us.min(1_000_000) {
            self.judge_after = now.after_us(heartbeat_us);
            tracing::warn!(
                turn_us,
                "a turn of the loop took long; leases are judged a heartbeat later"
            );
        }
    }

    /// Takes an input and all that have piled up behind it, as far as one batch goes.
    fn take(&mut self, first: Option<Queued>) {
        let limits = &self.shared.config.driver;
        let bytes_max = usize::try_from(limits.batch_bytes_max.0).unwrap_or(usize::MAX);
        let inputs_max = limits.batch_inputs_max;
        let mut taken = 0;
        let mut next = first;
        while let Some(queued) = next {
            taken += 1;
            self.input(queued.input);
            let full = taken >= inputs_max || self.journal.batch_bytes() >= bytes_max;
            next = match full || self.stopping {
                true => None,
                false => self.inputs.try_recv().ok(),
            };
        }
        if taken > 0 {
            self.shared.metrics.inputs.observe(taken as f64);
        }
    }

    fn input(&mut self, input: Input) {
        match input {
            Input::Register {
                workflows,
                validate_only,
                reply,
            } => self.register(workflows, validate_only, reply),
            Input::Start(request) => self.start(*request),
            Input::Cancel { id, cancel, reply } => self.cancel(id, cancel, reply),
            Input::Get { id, reply } => self.pending.views.push((id, reply)),
            Input::Watch { id, reply } => self.pending.watches.push((id, reply)),
            Input::GetWorkflow {
                name,
                version,
                reply,
            } => {
                let found = self.state.workflow(&name, version).cloned();
                self.pending.out.push(Out::Workflow(reply, found));
            }
            Input::ListWorkflows {
                after,
                limit,
                reply,
            } => self.list_workflows(after.as_ref(), limit, reply),
            Input::Checkpoint { reply } => self.upkeep.checkpoint(reply),
            Input::Announced(announced) => self.announced(*announced),
            Input::Said {
                host,
                session,
                said,
            } => self.said(&host, session, said),
            Input::Closed { host, session } => self.closed(&host, session),
            Input::Sampled(sample) => {
                self.decide_or_say(engine::Input::Sampled { host: None, sample });
            }
            Input::Stop => self.stopping = true,
        }
    }

    /// Decides, evolves, and puts what follows where it belongs.
    fn decide(&mut self, input: engine::Input) -> Result<engine::Reply, proto::error::Problem> {
        let next = self.journal.next();
        let reply = engine::handle(&mut self.state, input, self.now, next, &mut self.decided);
        let mut decided = std::mem::take(&mut self.decided);
        if reply.is_ok() {
            for (offset, event) in (next..).zip(&decided.events) {
                self.shared.metrics.count(event);
                self.upkeep.saw(offset, event, &self.shared.catalogue);
                if event.observes() && self.journal.only_observes() {
                    self.pending.observing_since.get_or_insert(self.now);
                }
                self.journal.push(event);
            }
            for effect in decided.effects.drain(..) {
                self.obey(effect);
            }
        }
        decided.events.clear();
        decided.effects.clear();
        self.decided = decided;
        reply
    }

    /// As [`Driver::decide`], where nobody waits for an answer.
    fn decide_or_say(&mut self, input: engine::Input) {
        if let Err(problem) = self.decide(input) {
            tracing::warn!(%problem, "an input was refused");
        }
    }

    fn obey(&mut self, effect: Effect) {
        match effect {
            Effect::Enqueue { command, worker } => self.dispatch.push(&worker, command),
            Effect::Withdraw { worker, .. } => {
                let state = &self.state;
                self.dispatch
                    .withdraw(&worker, |command| state.is_queued(command));
            }
            Effect::Cancel { command, host } => self.tell_to_stop(&host, &command),
            Effect::Changed { transaction } => {
                self.upkeep.changed(transaction);
                self.pending.note_change(transaction, &self.watchers);
            }
            Effect::Ended { transaction, .. } => {
                self.upkeep.changed(transaction);
                self.pending.ended.push(transaction);
            }
        }
    }

    /// Timers and leases.
    fn tick(&mut self) {
        while self.state.next_due().is_some_and(|due| due <= self.now) {
            self.decide_or_say(engine::Input::Tick);
            if self.journal.batch_bytes() > 1 << 20 {
                break;
            }
        }
        self.judge_leases();
    }

    /// The last batch, the last rows, the log's end.
    pub(crate) fn end(mut self) -> Result<(), Fatal> {
        for open in self.lines.values() {
            let goodbye = Out::Host(open.line.clone(), HostMessage::goodbye());
            self.pending.out.push(goodbye);
        }
        self.flush()?;
        self.last_handover();
        self.journal.close()?;
        tracing::info!("the log is closed");
        Ok(())
    }
}

/// A configured duration in microseconds.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
