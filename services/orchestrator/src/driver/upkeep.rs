//! What goes on behind the loop: rows handed to state.db, ended transactions let go of, retention.
//!
//! Nothing here makes the loop wait, but for the one bound on what state.db may be behind.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use eventlog::Offset;
use foldhash::{HashMap, HashSet};
use proto::error::{Problem, Reason};
use proto::event::{Event, Kind};
use proto::id::{Time, TransactionId, WorkflowName};
use proto::workflow::Workflow;

use super::{Driver, Fatal, micros};
use crate::catalogue::Catalogue;
use crate::engine;
use crate::inbox::{LookedUp, Reply};
use crate::letting_out::Out;
use crate::store::{Handover, Known, Row, Stored};

/// For so many handovers the keys of what left memory are still known here: longer than any
/// look-up in state.db lasts.
const HANDOVERS_REMEMBERED: u64 = 32;
/// Rows whose payloads take so many bytes are handed over early: memory that is soon free again is used
/// again, and what starts are refused for is not taken by what has ended.
const UNWRITTEN_BYTES: u64 = 64 << 20;
/// Definitions and transactions carried in one batch.
const CARRIED_AT_ONCE: usize = 1_000;

type KeysOfOneHandover = (u64, Vec<(WorkflowName, String)>);

/// How far state.db and retention are.
#[derive(Default)]
pub(super) struct Upkeep {
    /// Transactions whose rows are out of date.
    changed: HashSet<TransactionId>,
    /// Rows of ended transactions, for the next handover.
    rows: Vec<Arc<Row>>,
    /// What their payloads take.
    row_bytes: u64,
    /// What is remembered of them.
    ended: Vec<Ended>,
    /// Definitions that came since the last handover.
    workflows: Vec<(Offset, Arc<Workflow>)>,
    /// Whether hosts came or went since the last handover.
    hosts_changed: bool,
    /// Ended transactions of the handover that is under way; they leave memory with its answer.
    leaving: Vec<Ended>,
    /// Whether a handover is under way.
    under_way: bool,
    /// Up to where state.db was handed everything.
    handed: Offset,
    /// Up to where state.db has everything.
    applied: Offset,
    next_handover: Time,
    next_trim: Time,
    /// Where the log says that it was opened.
    opened_at: Offset,
    /// Who waits for state.db, and up to where; none: to the end of the batch.
    checkpoints: Vec<(Option<Offset>, Reply<Offset>)>,
    /// Keys of transactions that left memory lately.
    lately: HashMap<(WorkflowName, String), Known>,
    lately_by_handover: VecDeque<KeysOfOneHandover>,
    handovers: u64,
    trim: Trim,
    /// Answers of state.db that were met while waiting for inputs.
    answers: Vec<Stored>,
}

/// An ended transaction on its way out of memory, whose row is the store's to free.
pub(super) struct Ended {
    pub(super) id: TransactionId,
    /// Its idempotency key, and what that was used for.
    key: Option<Box<((WorkflowName, String), Known)>>,
}

impl Ended {
    pub(super) fn of(row: &Row) -> Self {
        let start = &row.carried.start;
        let key = (!start.idempotency_key.is_empty()).then(|| {
            let key = (row.workflow.clone(), start.idempotency_key.clone());
            let known = Known {
                id: row.id,
                input_hash: start.input_hash.clone(),
            };
            Box::new((key, known))
        });
        Self { id: row.id, key }
    }
}

/// How far a trim is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Trim {
    #[default]
    Idle,
    /// Live transactions and definitions from before are being carried.
    Carrying { before: Offset },
    /// What was carried must be in state.db first.
    Waiting { before: Offset, at: Offset },
    /// The log is trimmed; rows before this go with the next handover.
    Forgetting { before: Offset },
}

impl Upkeep {
    /// After a fold that state.db had everything of up to `applied`, of a log that begins at `oldest`.
    pub(super) fn new(applied: Offset, folded: Folded, oldest: Offset) -> Self {
        // The last run may have ended between a trim and the rows that go with it.
        let trim = match oldest {
            0 => Trim::Idle,
            before => Trim::Forgetting { before },
        };
        let under_way = folded.under_way.is_some();
        let (handed, leaving) = folded.under_way.unwrap_or((applied, Vec::new()));
        Self {
            trim,
            changed: folded.changed,
            workflows: folded.workflows,
            // The fold may have met some.
            hosts_changed: true,
            under_way,
            leaving,
            handed,
            applied,
            ..Self::default()
        }
    }

    pub(super) fn changed(&mut self, id: TransactionId) {
        self.changed.insert(id);
    }

    /// An event was decided.
    pub(super) fn saw(&mut self, offset: Offset, event: &Event, catalogue: &Catalogue) {
        match &event.kind {
            Kind::WorkflowRegistered(workflow) => {
                self.workflows.push((offset, workflow.clone()));
                catalogue.insert(workflow);
            }
            Kind::Host { .. } => self.hosts_changed = true,
            Kind::OrchestratorStarted { .. } => self.opened_at = offset,
            _ => {}
        }
    }

    pub(super) fn ended(&mut self, id: TransactionId, row: Arc<Row>) {
        self.changed.remove(&id);
        self.ended.push(Ended::of(&row));
        self.row_bytes += row.payload_bytes();
        self.rows.push(row);
    }

    pub(super) fn checkpoint(&mut self, reply: Reply<Offset>) {
        self.checkpoints.push((None, reply));
    }

    /// The batch is durable up to `end`.
    pub(super) fn appended(&mut self, end: Offset) {
        for (until, _) in &mut self.checkpoints {
            until.get_or_insert(end);
        }
    }

    /// Rows that are held for state.db: those being written, those that will be, and those that are
    /// made of what changed.
    fn waiting(&self) -> usize {
        self.rows.len() + self.leaving.len() + self.changed.len()
    }

    /// Transactions that have ended and not yet left memory.
    pub(super) fn ended_in_memory(&self) -> usize {
        self.rows.len() + self.leaving.len()
    }

    pub(super) fn noticed(&mut self, answer: Stored) {
        self.answers.push(answer);
    }

    /// When something is to be done next.
    pub(super) fn due(&self, durable: Offset, now: Time) -> Option<Time> {
        let trim = match self.trim {
            Trim::Idle => Some(self.next_trim),
            Trim::Carrying { .. } => Some(now),
            Trim::Waiting { at, .. } => (self.applied >= at).then_some(now),
            Trim::Forgetting { .. } => (!self.under_way).then_some(now),
        };
        // The answer to a handover that is under way wakes the loop.
        let behind = !self.under_way && durable > self.handed;
        let handover = behind.then_some(self.next_handover);
        let checkpoint = (!self.under_way && !self.checkpoints.is_empty()).then_some(now);
        [trim, handover, checkpoint].into_iter().flatten().min()
    }

    /// What a key was used for, by a transaction that is no longer in memory.
    pub(super) fn known(
        &self,
        workflow: &WorkflowName,
        key: &str,
        looked_up: LookedUp,
    ) -> Result<Option<Known>, Problem> {
        if looked_up.known.is_some() {
            return Ok(looked_up.known);
        }
        if looked_up.handovers + HANDOVERS_REMEMBERED < self.handovers {
            return Err(Problem::new(
                Reason::Overloaded,
                "the look-up of the idempotency key took too long; repeat",
            )
            .retry_after(std::time::Duration::from_millis(100)));
        }
        let key = (workflow.clone(), key.to_owned());
        Ok(self.lately.get(&key).cloned())
    }

    /// A handover is committed: its ended transactions leave memory.
    fn committed(&mut self, applied: Offset) -> Vec<TransactionId> {
        self.under_way = false;
        self.applied = applied;
        self.handovers += 1;
        let (mut left, mut keys) = (Vec::with_capacity(self.leaving.len()), Vec::new());
        for Ended { id, key } in self.leaving.drain(..) {
            left.push(id);
            if let Some((key, known)) = key.map(|boxed| *boxed) {
                self.lately.insert(key.clone(), known);
                keys.push(key);
            }
        }
        self.lately_by_handover.push_back((self.handovers, keys));
        while self
            .lately_by_handover
            .front()
            .is_some_and(|(number, _)| number + HANDOVERS_REMEMBERED < self.handovers)
        {
            let (_, keys) = self.lately_by_handover.pop_front().unwrap_or_default();
            for key in keys {
                self.lately.remove(&key);
            }
        }
        left
    }

    /// Everything that changed, as of `durable`.
    fn handover(&mut self, state: &engine::State, durable: Offset) -> Handover {
        let mut rows = std::mem::take(&mut self.rows);
        self.row_bytes = 0;
        self.leaving = std::mem::take(&mut self.ended);
        let mut changed: Vec<_> = self.changed.drain().collect();
        // By id is by time, which is how the indexes are filled best; and it repeats itself.
        changed.sort_unstable();
        for id in changed {
            if let Some(snapshot) = state.snapshot(&id) {
                let row = Arc::new(Row::of(id, snapshot));
                if row.ended() {
                    self.leaving.push(Ended::of(&row));
                }
                rows.push(row);
            }
        }
        let forget_before = match self.trim {
            Trim::Forgetting { before } => {
                self.trim = Trim::Idle;
                Some(before)
            }
            _ => None,
        };
        self.under_way = true;
        self.handed = durable;
        Handover {
            applied: durable,
            opened: state.opened(),
            rows,
            workflows: std::mem::take(&mut self.workflows),
            hosts: std::mem::take(&mut self.hosts_changed).then(|| state.retold_hosts()),
            forget_before,
        }
    }
}

/// What a fold of the log found that state.db may not have.
#[derive(Default)]
pub(super) struct Folded {
    pub(super) changed: HashSet<TransactionId>,
    pub(super) workflows: Vec<(Offset, Arc<Workflow>)>,
    /// What can't be written at present: up to where, and what leaves memory with it.
    pub(super) under_way: Option<(Offset, Vec<Ended>)>,
}

impl Driver {
    /// Takes state.db's answers, and does the next part of a trim.
    pub(super) fn keep_up(&mut self) -> Result<(), Fatal> {
        let mut answers = std::mem::take(&mut self.upkeep.answers);
        answers.extend(self.store.stored().try_iter());
        for answer in answers {
            self.stored(answer)?;
        }
        self.trim()
    }

    fn stored(&mut self, answer: Stored) -> Result<(), Fatal> {
        match answer {
            Stored::Applied(applied) => {
                let left = self.upkeep.committed(applied);
                // Whoever looks a key up from here on finds it in state.db, or is told by `lately`.
                self.shared
                    .handovers
                    .store(self.upkeep.handovers, Ordering::Release);
                for id in &left {
                    self.state.remove(id);
                }
                let ready = self
                    .upkeep
                    .checkpoints
                    .extract_if(.., |(until, _)| until.is_some_and(|until| until <= applied));
                let answers = ready.map(|(_, reply)| Out::Checkpoint(reply, Ok(applied)));
                self.pending.out.extend(answers);
                Ok(())
            }
            Stored::Damaged(why) => Err(Fatal::StoreDamaged(why)),
        }
    }

    /// Hands over what changed, if it is time; the batch before is durable.
    pub(super) fn hand_over(&mut self) -> Result<(), Fatal> {
        let waiting = self.upkeep.waiting();
        // The one wait of this loop: memory must not take what the disk doesn't. Where that takes nothing
        // at all, no start is taken either (`room_for_more`), and what ends is all that comes.
        let full = waiting > self.shared.config.store.unwritten_max;
        if self.upkeep.under_way
            && full
            && !self.store.is_failing()
            && let Some(answer) = self.store.wait()
        {
            self.stored(answer)?;
        }
        let wanted = self.now >= self.upkeep.next_handover
            || !self.upkeep.checkpoints.is_empty()
            || waiting > self.shared.config.store.unwritten_max / 2
            || self.upkeep.row_bytes > UNWRITTEN_BYTES
            || matches!(self.upkeep.trim, Trim::Forgetting { .. });
        if self.upkeep.under_way || !wanted {
            return Ok(());
        }
        if !self.journal.is_empty() {
            // Rows must not show what is not durable.
            self.flush()?;
        }
        let durable = self.journal.durable();
        self.upkeep.appended(durable);
        let nothing_new = durable == self.upkeep.applied
            && self.upkeep.changed.is_empty()
            && !matches!(self.upkeep.trim, Trim::Forgetting { .. });
        if nothing_new {
            let answers = self.upkeep.checkpoints.drain(..);
            let out: Vec<_> = answers
                .map(|(_, reply)| Out::Checkpoint(reply, Ok(durable)))
                .collect();
            self.let_out(out);
            return Ok(());
        }
        self.upkeep.next_handover = self
            .now
            .after_us(micros(*self.shared.config.store.write_interval));
        let handover = self.upkeep.handover(&self.state, durable);
        self.store.hand_over(handover);
        Ok(())
    }

    /// One step of a trim: what is live is carried, state.db learns it, then the log is trimmed, then
    /// the rows of what was trimmed go.
    fn trim(&mut self) -> Result<(), Fatal> {
        match self.upkeep.trim {
            Trim::Idle => {
                if self.now < self.upkeep.next_trim {
                    return Ok(());
                }
                let interval = micros(*self.shared.config.store.trim_interval);
                self.upkeep.next_trim = self.now.after_us(interval);
                let before = self.journal.overdue(self.now.0);
                if let Some(before) = before.and_then(|before| self.keeping_deadlines(before)) {
                    tracing::info!(before, "retention asks to trim the log");
                    self.upkeep.trim = Trim::Carrying { before };
                }
                Ok(())
            }
            Trim::Carrying { before } => {
                let carried = self.decide(engine::Input::Carry {
                    before,
                    limit: CARRIED_AT_ONCE,
                });
                match carried {
                    Ok(engine::Reply::Carried(count)) if count >= CARRIED_AT_ONCE => {}
                    Ok(_) => {
                        self.upkeep.trim = Trim::Waiting {
                            before,
                            at: self.journal.next(),
                        };
                    }
                    Err(problem) => {
                        tracing::warn!(%problem, "nothing could be carried, so nothing is trimmed");
                        self.upkeep.trim = Trim::Idle;
                    }
                }
                Ok(())
            }
            Trim::Waiting { before, at } if self.upkeep.applied >= at => {
                let oldest = self.journal.trim(before)?;
                tracing::info!(oldest, "the log is trimmed");
                self.upkeep.trim = Trim::Forgetting { before: oldest };
                Ok(())
            }
            Trim::Waiting { .. } | Trim::Forgetting { .. } => Ok(()),
        }
    }

    /// How far a trim may go. What was out when the log was opened has a lease's time to come back: until
    /// that is over, the event that says when it was opened stays.
    fn keeping_deadlines(&self, before: Offset) -> Option<Offset> {
        let lease = micros(*self.shared.config.sessions.lease);
        let opened = self.state.opened();
        match opened.is_none_or(|opened| self.now > opened.after_us(lease)) {
            true => Some(before),
            false => Some(before.min(self.upkeep.opened_at))
                .filter(|before| *before > self.journal.bounds().oldest),
        }
    }

    /// Before the end; what can't be written at present is folded anew at the next start.
    pub(super) fn last_handover(&mut self) {
        if self.upkeep.under_way
            && let Some(Stored::Applied(applied)) = self.store.wait()
        {
            self.upkeep.committed(applied);
        }
        if self.upkeep.under_way || self.journal.durable() == self.upkeep.applied {
            return;
        }
        let handover = self.upkeep.handover(&self.state, self.journal.durable());
        self.store.hand_over(handover);
        let _ = self.store.wait();
    }

    /// Takes over who waited for state.db before a refold.
    pub(super) fn renew_upkeep(&mut self, applied: Offset, folded: Folded) {
        let oldest = self.journal.bounds().oldest;
        let renewed = Upkeep::new(applied, folded, oldest);
        let old = std::mem::replace(&mut self.upkeep, renewed);
        self.upkeep.opened_at = old.opened_at;
        self.upkeep.handovers = old.handovers + HANDOVERS_REMEMBERED + 1;
        self.shared
            .handovers
            .store(self.upkeep.handovers, Ordering::Release);
        self.upkeep.checkpoints = old
            .checkpoints
            .into_iter()
            .map(|(_, reply)| (None, reply))
            .collect();
    }
}
