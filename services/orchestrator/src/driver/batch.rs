//! One batch from its last decision to the outside: matches, views, the append, and the one message
//! that lets everything out; or, where the log refused it, everything forgotten.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use eventlog::{AppendError, Offset, Refused};
use foldhash::{HashMap, HashSet};
use proto::error::{Problem, Reason};
use proto::id::{CommandId, HostId, Time, TransactionId};
use proto::wire;
use tokio::sync::watch;

use super::requests::Watchers;
use super::{Driver, Fatal};
use crate::engine::{self, Outgoing};
use crate::inbox::{Reply, StartReply, Started, View};
use crate::letting_out::Out;
use crate::sessions::line::Line;
use crate::sessions::message::HostMessage;
use crate::sessions::remembered::Remembered;
use crate::sessions::table::Session;
use crate::store::Row;

/// A message to a host is sent on when it has so many bytes; the host takes 4 MiB.
const MESSAGE_BYTES: usize = 1 << 20;

/// What waits for the batch.
#[derive(Default)]
pub(super) struct Pending {
    /// Answers that stand already.
    pub(super) out: Vec<Out>,
    /// Starts to be answered with how the transaction stands.
    pub(super) started: Vec<(TransactionId, bool, StartReply)>,
    /// Reads, answered as of the batch's end.
    pub(super) views: Vec<(TransactionId, Reply<Option<View>>)>,
    /// Cancellations, answered likewise.
    pub(super) cancelled: Vec<(TransactionId, Reply<Option<View>>)>,
    /// Watches to begin.
    pub(super) watches: Vec<(TransactionId, Reply<Option<watch::Receiver<View>>>)>,
    /// Watched transactions that changed.
    pub(super) changed: HashSet<TransactionId>,
    /// Transactions that ended.
    pub(super) ended: Vec<TransactionId>,
    /// What goes to each host.
    pub(super) hosts: HashMap<Session, HostMessages>,
    /// Since when observing events wait for others.
    pub(super) observing_since: Option<Time>,
    /// Matches that the next batch goes on with.
    pub(super) more_to_dispatch: bool,
}

impl Pending {
    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.out.is_empty()
            && self.started.is_empty()
            && self.views.is_empty()
            && self.cancelled.is_empty()
            && self.watches.is_empty()
            && self.changed.is_empty()
            && self.ended.is_empty()
            && self.hosts.is_empty()
    }

    pub(super) fn note_change(
        &mut self,
        id: TransactionId,
        watchers: &HashMap<TransactionId, Watchers>,
    ) {
        // Whoever waits for the end alone needs no view before it.
        if watchers.get(&id).is_some_and(Watchers::is_watched) {
            self.changed.insert(id);
        }
    }

    /// What goes to the host of a session.
    pub(super) fn host(&mut self, session: Session, line: &Arc<Line>) -> &mut HostMessages {
        self.hosts.entry(session).or_insert_with(|| HostMessages {
            line: line.clone(),
            full: Vec::new(),
            filling: HostMessage::default(),
        })
    }
}

/// Messages to one host.
pub(super) struct HostMessages {
    line: Arc<Line>,
    full: Vec<HostMessage>,
    filling: HostMessage,
}

impl HostMessages {
    pub(super) fn welcome(&mut self, welcome: wire::Welcome) {
        self.filling.add(&wire::ConnectResponse {
            welcome: Some(welcome),
            ..Default::default()
        });
    }

    pub(super) fn cancel(&mut self, command: &CommandId) {
        self.with_room(64).cancel(command);
    }

    pub(super) fn acknowledge(
        &mut self,
        command_id: &str,
        refused_reason: &str,
        message: &str,
        context_id: u64,
    ) {
        self.with_room(64 + message.len()).acknowledge(
            command_id,
            refused_reason,
            message,
            context_id,
        );
    }

    /// Gives how many bytes of payloads leave with it.
    fn command(&mut self, outgoing: &Outgoing, context_ids: &[u64]) -> usize {
        let pieces = outgoing.context.iter();
        let bytes: usize = pieces.map(|piece| piece.json.len() + 8).sum();
        let undo_bytes = outgoing.undo.as_ref().map_or(0, |undo| undo.result.len());
        self.with_room(bytes + undo_bytes + 128)
            .command(outgoing, context_ids);
        bytes + undo_bytes
    }

    /// The host may forget what is no longer counted on; said behind the commands that name it.
    pub(super) fn forget(&mut self, remembered: &mut Remembered) {
        if let Some(id) = remembered.forgotten() {
            self.filling.forget_below(id);
        }
    }

    /// The message being filled, with room for so many bytes.
    fn with_room(&mut self, bytes: usize) -> &mut HostMessage {
        let filled = self.filling.len();
        if filled > 0 && filled + bytes > MESSAGE_BYTES {
            self.full.push(std::mem::take(&mut self.filling));
        }
        &mut self.filling
    }

    fn let_out(self, out: &mut Vec<Out>) {
        let messages = self.full.into_iter().chain([self.filling]);
        out.extend(messages.map(|message| Out::Host(self.line.clone(), message)));
    }
}

impl Driver {
    /// Matches waiting commands with free slots; the events share the batch with what caused them.
    pub(super) fn dispatch(&mut self) {
        let bytes_max =
            usize::try_from(self.shared.config.driver.batch_bytes_max.0).unwrap_or(usize::MAX);
        let mut sent_bytes = 0;
        self.pending.more_to_dispatch = false;
        loop {
            // Large contexts are not in the log's batch, but leave with it all the same.
            if self.journal.batch_bytes() + sent_bytes > bytes_max {
                self.pending.more_to_dispatch = true;
                return;
            }
            let state = &self.state;
            let Some((command, host)) =
                self.dispatch.next_match(|command| state.is_queued(command))
            else {
                return;
            };
            let decided = self.decide(engine::Input::Dispatched {
                command,
                host: host.clone(),
            });
            match decided {
                Ok(engine::Reply::Dispatched) => {
                    let Some(outgoing) = self.state.outgoing(&command) else {
                        tracing::error!(?command, "a dispatched command is not to be found");
                        continue;
                    };
                    sent_bytes += self.give(&host, outgoing);
                }
                // It was queued a moment ago, and nothing happened since.
                answer => tracing::error!(?answer, ?command, "a queued command was not dispatched"),
            }
        }
    }

    /// Gives how many bytes of payloads that sends.
    fn give(&mut self, host: &HostId, mut outgoing: Outgoing) -> usize {
        let mut sent = 0;
        if let Some(open) = self.lines.get_mut(host) {
            let messages = self.pending.host(open.session, &open.line);
            let context_ids = open.remembered.shorten(&mut outgoing);
            sent = messages.command(&outgoing, &context_ids);
            messages.forget(&mut open.remembered);
        }
        self.table.grant(host, outgoing.id, outgoing.worker);
        sent
    }

    /// Appends the batch unless it only observes and nobody waits, and lets everything out.
    pub(super) fn settle(&mut self) -> Result<(), Fatal> {
        if !self.pending.is_empty() || !self.journal.only_observes() {
            return self.flush();
        }
        if self.journal.is_empty() {
            return Ok(());
        }
        let delay = super::micros(*self.shared.config.driver.observing_delay);
        let since = *self.pending.observing_since.get_or_insert(self.now);
        if since.after_us(delay) <= self.now {
            return self.flush();
        }
        Ok(())
    }

    /// Appends the batch and lets everything out.
    pub(super) fn flush(&mut self) -> Result<(), Fatal> {
        let events = self.journal.batch_events();
        let appending = Instant::now();
        let end = match self.journal.append() {
            Ok(end) => end,
            Err(error @ AppendError::Refused(Refused::Full(_) | Refused::Unfit(_))) => {
                return self.forget(&error);
            }
            Err(error) => {
                let problem = Problem::new(
                    Reason::StoreFailed,
                    "a write to the log failed and its fate is unknown; repeat with the same \
                     idempotency key, or look the transaction up, once the orchestrator is back",
                );
                self.refuse_everything(&problem);
                let mut out = Vec::new();
                for (_, watchers) in self.watchers.drain() {
                    watchers.told_a_problem(&problem, &mut out);
                }
                self.let_out(out);
                return Err(error.into());
            }
        };
        if events > 0 {
            let metrics = &self.shared.metrics;
            metrics
                .append_seconds
                .observe(appending.elapsed().as_secs_f64());
            metrics.batch_events.observe(f64::from(events));
            self.shared
                .head_time_us
                .store(self.now.0, Ordering::Relaxed);
        }
        // Hosts get to work while answers are made.
        let mut out = Vec::new();
        for (_, messages) in self.pending.hosts.drain() {
            messages.let_out(&mut out);
        }
        self.let_out(out);
        // Only now: of a batch that came to nothing nobody is to have seen anything.
        self.see(end);
        let out = std::mem::take(&mut self.pending.out);
        self.let_out(out);
        self.pending.observing_since = None;
        self.upkeep.appended(self.journal.durable());
        self.measure();
        Ok(())
    }

    /// Turns what asked for a view into answers, as of the batch's end, which is durable.
    fn see(&mut self, end: Offset) {
        // A start is answered before its end.
        for (id, existing, reply) in std::mem::take(&mut self.pending.started) {
            // Of one that was there already the caller may wait for the end, and it may be here.
            let snapshot = match existing {
                true => self.state.snapshot(&id),
                false => self.state.listed(&id),
            };
            let view = snapshot.map(|snapshot| view_of(id, snapshot, end));
            let started = Started { id, existing, view };
            self.pending.out.push(Out::Started(reply, Ok(started)));
        }
        for id in std::mem::take(&mut self.pending.ended) {
            self.pending.changed.remove(&id);
            let Some(view) = self.view(id, end) else {
                continue;
            };
            self.upkeep.ended(id, view.row.clone());
            if let Some(watchers) = self.watchers.remove(&id) {
                watchers.told_the_end(view, &mut self.pending.out);
            }
        }
        for id in std::mem::take(&mut self.pending.changed) {
            let Some(watchers) = self.watchers.get(&id) else {
                continue;
            };
            let Some(changes) = watchers.changes() else {
                if watchers.is_deserted() {
                    self.watchers.remove(&id);
                }
                continue;
            };
            if let Some(view) = self.view(id, end) {
                self.pending.out.push(Out::Changed(changes, view));
            }
        }
        let views = std::mem::take(&mut self.pending.views);
        let cancelled = std::mem::take(&mut self.pending.cancelled);
        for (id, reply) in views.into_iter().chain(cancelled) {
            let view = self.view(id, end);
            self.pending.out.push(Out::View(reply, Ok(view)));
        }
        for (id, reply) in std::mem::take(&mut self.pending.watches) {
            let watched = self.view(id, end).map(|view| self.watch(id, view));
            self.pending.out.push(Out::Watch(reply, Ok(watched)));
        }
    }

    /// How a transaction stands at the batch's end; none where it is not in memory.
    fn view(&self, id: TransactionId, offset: Offset) -> Option<View> {
        Some(view_of(id, self.state.snapshot(&id)?, offset))
    }

    pub(super) fn let_out(&self, out: Vec<Out>) {
        if !out.is_empty() {
            // Fails only when the runtime is gone, and with it everybody who waits.
            let _ = self.shared.gate.blocking_send(out);
        }
    }

    /// Every answer of the batch becomes a refusal.
    pub(super) fn refuse_everything(&mut self, problem: &Problem) {
        let pending = std::mem::take(&mut self.pending);
        let mut out: Vec<_> = pending
            .out
            .into_iter()
            .filter_map(|out| out.refuse(problem))
            .collect();
        let started = pending.started.into_iter();
        out.extend(started.map(|(.., reply)| Out::Started(reply, Err(problem.clone()))));
        let views = pending.views.into_iter().chain(pending.cancelled);
        out.extend(views.map(|(_, reply)| Out::View(reply, Err(problem.clone()))));
        let watches = pending.watches.into_iter();
        out.extend(watches.map(|(_, reply)| Out::Watch(reply, Err(problem.clone()))));
        self.let_out(out);
    }

    /// The log refused the batch: nothing of it happened. State is folded anew from what is durable;
    /// hosts come back to what they hold.
    fn forget(&mut self, error: &AppendError) -> Result<(), Fatal> {
        tracing::error!(%error, "the log refused a batch; the state is folded anew from the log");
        let problem = Problem::new(
            Reason::StoreFull,
            format!("{error}; nothing of this happened; free some disk and repeat"),
        )
        .retry_after(std::time::Duration::from_secs(5));
        // Who only asks is answered all the same, by the next batch.
        let views = std::mem::take(&mut self.pending.views);
        let watches = std::mem::take(&mut self.pending.watches);
        self.refuse_everything(&problem);
        (self.pending.views, self.pending.watches) = (views, watches);
        let mut out = Vec::new();
        for (_, open) in self.lines.drain() {
            self.shared.leases.remove(&open.session_id);
            out.push(Out::End(open.line, problem.clone()));
        }
        self.refold()?;
        // Those who wait for what never started would wait for ever.
        let state = &self.state;
        let lost = self
            .watchers
            .extract_if(|id, _| state.transaction_state(id).is_none());
        for (_, watchers) in lost {
            watchers.told_a_problem(&problem, &mut out);
        }
        self.let_out(out);
        Ok(())
    }

    fn measure(&self) {
        let metrics = &self.shared.metrics;
        metrics.set(&metrics.live, self.state.transaction_count());
        metrics.set(&metrics.queued, self.state.queued_count());
        metrics.set(&metrics.hosts, self.table.connected());
        metrics.set(&metrics.waiters, self.watchers.len());
    }
}

fn view_of(id: TransactionId, snapshot: engine::Snapshot, offset: Offset) -> View {
    let workflow = snapshot.workflow.clone();
    View {
        row: Arc::new(Row::of(id, snapshot)),
        workflow,
        offset,
    }
}
