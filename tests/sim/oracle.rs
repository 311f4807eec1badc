//! What somebody who sees durable events and nothing else knows, and what may never be seen.
//!
//! It lives through every crash: what it has read must be there for ever, or be trimmed. Everything that
//! leaves the orchestrator is held against it, so nothing may leave that isn't durable.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use eventlog::{Hash, Offset, Reader};
use proto::batch::decode;
use proto::event::{CommandEvent, Event, HostEvent, Kind, TransactionEvent};
use proto::id::{CommandId, HostId, Time, TransactionId, WorkflowName};
use proto::lifecycle::{self, Stage, TransactionState};
use proto::payload::Payload;
use proto::wire;
use proto::wire::command_result::Outcome;
use proto::workflow::Workflow;
use tonic::Status;

use crate::seen::Seen;

/// Everything that was ever durable.
#[derive(Default)]
pub(crate) struct Oracle {
    /// How far it has read, and the chain there.
    next: Offset,
    hash: Hash,
    /// What is trimmed.
    oldest: Offset,
    workflows: BTreeMap<(WorkflowName, u32), Arc<Workflow>>,
    pub(crate) seen: BTreeMap<TransactionId, Seen>,
    states: BTreeMap<TransactionId, TransactionState>,
    cancelled: BTreeSet<TransactionId>,
    /// Where the retained story of each begins.
    first: BTreeMap<TransactionId, Offset>,
    keys: BTreeMap<(String, String), TransactionId>,
    /// The hashes of each transaction's input and of what its commands came to.
    payloads: BTreeMap<TransactionId, Vec<u64>>,
    /// The inputs of what was started without a key.
    keyless: BTreeSet<Vec<u8>>,
    /// Which host has or had each command.
    given: BTreeMap<CommandId, HostId>,
    /// Every result that any host ever sent, true or not.
    sent: BTreeSet<(HostId, String, String)>,
    /// When each host was last heard, by the orchestrator's clock.
    heard: BTreeMap<HostId, Time>,
    lease_us: u64,
    pub(crate) lost: u64,
    pub(crate) refused: u64,
    pub(crate) carried: u64,
    pub(crate) events: u64,
    /// Of the whole story.
    pub(crate) fingerprint: u64,
}

impl Oracle {
    /// Before anything happened.
    pub(crate) fn new(lease_us: u64) -> Self {
        Self {
            lease_us,
            ..Self::default()
        }
    }

    /// After a start: all that was read is there still.
    pub(crate) fn survived(&mut self, log: &Reader) {
        let bounds = log.bounds();
        assert!(
            bounds.next >= self.next,
            "the log ended at {} and now ends at {}: what was durable is lost",
            self.next,
            bounds.next
        );
        assert!(
            bounds.oldest >= self.oldest || self.next == 0,
            "what was trimmed is back"
        );
        if self.next > bounds.oldest {
            let records = log.read(self.next - 1, 1, false).expect("the log reads");
            let record = records.first().expect("a record where one was");
            assert_eq!(record.end(), self.next, "a record of another length");
            assert_eq!(record.hash, self.hash, "another story than the one before");
        }
    }

    /// Reads what is new, and checks each event against all that came before.
    pub(crate) fn catch_up(&mut self, log: &Reader) {
        let bounds = log.bounds();
        self.oldest = bounds.oldest;
        while self.next < bounds.next {
            let records = log.read(self.next, 1 << 20, true).expect("the log reads");
            for record in records {
                assert_eq!(record.first, self.next, "a hole in the log");
                let decoded = decode(&record.events, Some(&record.payloads)).expect("it decodes");
                assert!(decoded.unknown.is_empty());
                for stored in decoded.events {
                    self.see(stored.offset, &stored.event);
                }
                self.next = record.end();
                self.hash = record.hash;
            }
        }
    }

    fn see(&mut self, offset: Offset, event: &Event) {
        self.events += 1;
        let mut hasher = DefaultHasher::new();
        (self.fingerprint, format!("{event:?}")).hash(&mut hasher);
        self.fingerprint = hasher.finish();
        match &event.kind {
            Kind::WorkflowRegistered(workflow) => {
                let key = (workflow.name.clone(), workflow.version);
                self.workflows.insert(key, Arc::clone(workflow));
            }
            Kind::Transaction { id, workflow, what } => {
                self.transaction(offset, *id, workflow, what);
            }
            Kind::Command {
                id, command, what, ..
            } => {
                let seen = self.seen.get_mut(id).expect("a command of nothing");
                assert_eq!(seen.end, None, "{what:?} after the end of {id}");
                let host = command.host.as_ref();
                let command = command.id(*id);
                seen.command(offset, &command, what);
                self.command(&command, host, what);
            }
            Kind::Host { host, what } => self.host(host, event.time, what),
            Kind::ResultRefused { .. } => self.refused += 1,
            Kind::OrchestratorStarted { .. } => self.hear_all(event.time),
            Kind::SystemSampled { .. } => {}
        }
    }

    fn transaction(
        &mut self,
        offset: Offset,
        id: TransactionId,
        workflow: &WorkflowName,
        what: &TransactionEvent,
    ) {
        let version = match what {
            TransactionEvent::Started(start) => {
                self.first.insert(id, offset);
                self.payloads.insert(id, vec![hash_of(&start.input)]);
                self.key_is_free(workflow, &start.idempotency_key, id);
                if let (true, Payload::Held(input)) =
                    (start.idempotency_key.is_empty(), &start.input)
                {
                    self.keyless.insert(input.to_vec());
                }
                start.version
            }
            TransactionEvent::Carried(carried) => {
                self.carried += 1;
                self.first.insert(id, offset);
                let state = self.states.get(&id).copied();
                assert_eq!(
                    state,
                    Some(carried.state),
                    "{id} was carried in another state"
                );
                carried.start.version
            }
            _ => 0,
        };
        let definition = self.workflows.get(&(workflow.clone(), version)).cloned();
        let seen = self.seen.entry(id).or_default();
        assert_eq!(seen.end, None, "{what:?} after the end of {id}");
        seen.transaction(what, || {
            definition.expect("a definition that was registered")
        });
        if let TransactionEvent::CancelRequested(_) = what {
            self.cancelled.insert(id);
        }
        if let Some(state) = lifecycle::state_after(what) {
            self.states.insert(id, state);
        }
    }

    /// One key, one transaction, for as long as that is retained.
    fn key_is_free(&mut self, workflow: &WorkflowName, key: &str, id: TransactionId) {
        if key.is_empty() {
            return;
        }
        let key = (workflow.as_str().to_owned(), key.to_owned());
        if let Some(before) = self.keys.insert(key.clone(), id) {
            assert!(
                !self.is_retained(before),
                "{key:?} started {before} and then {id}"
            );
        }
    }

    fn command(&mut self, id: &CommandId, host: Option<&HostId>, what: &CommandEvent) {
        match what {
            CommandEvent::Dispatched => {
                let host = host.expect("a host that has it").clone();
                assert_eq!(
                    self.given.insert(id.clone(), host),
                    None,
                    "{id} was given twice"
                );
                if self.states.get(&id.transaction) == Some(&TransactionState::Pending) {
                    self.states
                        .insert(id.transaction, TransactionState::Running);
                }
            }
            CommandEvent::Completed { result, .. } => {
                let host = self
                    .given
                    .get(id)
                    .expect("a result of a command that is out");
                let Payload::Held(result) = result else {
                    panic!("{id} has a result without its payload");
                };
                let pieces = self.payloads.get_mut(&id.transaction);
                pieces
                    .expect("an input")
                    .push(hash_of(&Payload::Held(result.clone())));
                let text = format!("completed {}", String::from_utf8_lossy(result));
                let said = (host.clone(), id.to_string(), text);
                assert!(self.sent.contains(&said), "nobody who had it said {said:?}");
            }
            CommandEvent::Lost { .. } => self.lost += 1,
            _ => {}
        }
    }

    fn host(&mut self, host: &HostId, at: Time, what: &HostEvent) {
        match what {
            HostEvent::Connected { carried: true, .. } => {
                let known = self.heard.contains_key(host);
                assert!(known, "{host} is told of again, and is not here");
            }
            HostEvent::Connected { .. } => self.hear(host, at),
            HostEvent::Lost => {
                let heard = self.heard.remove(host).expect("a host that was there");
                let lapses = heard.after_us(self.lease_us);
                assert!(
                    at >= lapses,
                    "{host} was heard at {heard:?} and given up at {at:?}, within its lease"
                );
            }
            HostEvent::Disconnected { drained: true } => {
                self.heard.remove(host);
            }
            HostEvent::Disconnected { drained: false }
            | HostEvent::Draining
            | HostEvent::Quarantined { .. } => {}
        }
    }

    /// A sign of life reached the orchestrator.
    pub(crate) fn hear(&mut self, host: &HostId, at: Time) {
        let heard = self.heard.entry(host.clone()).or_insert(at);
        *heard = (*heard).max(at);
    }

    /// A start of the orchestrator gives every host its lease anew, by a clock that may show less than
    /// the last one did, where no event was that late.
    pub(crate) fn hear_all(&mut self, at: Time) {
        self.heard.values_mut().for_each(|heard| *heard = at);
    }

    /// No host that is silent for good is kept for good.
    pub(crate) fn nobody_is_overdue(&self, now: Time, since: Time, grace_us: u64) {
        for (host, heard) in &self.heard {
            let due = (*heard).max(since).after_us(self.lease_us + grace_us);
            assert!(
                now <= due,
                "{host} was last heard at {heard:?}, and it is {now:?}"
            );
        }
    }

    /// A host sends this, rightly or not.
    pub(crate) fn sends(&mut self, host: &HostId, result: &wire::CommandResult) {
        if let Some(Outcome::CompletedJson(json)) = &result.outcome {
            let text = format!("completed {}", String::from_utf8_lossy(json));
            self.sent
                .insert((host.clone(), result.command_id.clone(), text));
        }
    }

    /// Whether a transaction's beginning is still in the log.
    pub(crate) fn is_retained(&self, id: TransactionId) -> bool {
        let first = self.first.get(&id).copied();
        let live = self
            .states
            .get(&id)
            .is_some_and(|state| !lifecycle::is_end(*state));
        live || first.is_some_and(|first| first >= self.oldest)
    }

    /// The workflows that may be started.
    pub(crate) fn workflow_names(&self) -> Vec<String> {
        let names: BTreeSet<_> = self
            .workflows
            .keys()
            .map(|(name, _)| name.to_string())
            .collect();
        names.into_iter().collect()
    }

    pub(crate) fn transactions(&self) -> impl Iterator<Item = (&TransactionId, TransactionState)> {
        self.states.iter().map(|(id, state)| (id, *state))
    }

    /// A host has a whole context: the input, and results of the same transaction.
    pub(crate) fn has_context(&self, command: &wire::Command) {
        let id: CommandId = command.command_id.parse().expect("a command's name");
        let payloads = self.payloads.get(&id.transaction).expect("it started");
        let mut pieces =
            (command.context_json.iter()).map(|piece| hash_of(&Payload::Held(piece.clone())));
        assert_eq!(pieces.next(), Some(payloads[0]), "{id} has another input");
        for (at, piece) in pieces.enumerate() {
            let is_result = payloads[1..].contains(&piece);
            assert!(is_result, "{id} has a piece {} that is no result", at + 1);
        }
    }

    /// What leaves for a host has happened.
    pub(crate) fn may_tell(&self, host: &HostId, message: &wire::ConnectResponse) {
        for command in &message.commands {
            let id: CommandId = command.command_id.parse().expect("a command's name");
            assert_eq!(
                self.given.get(&id),
                Some(host),
                "{id} left before it was durable"
            );
        }
        for told in &message.acknowledgements {
            let Ok(id) = told.command_id.parse::<CommandId>() else {
                continue;
            };
            if !told.refused_reason.is_empty() {
                continue;
            }
            let seen = self
                .seen
                .get(&id.transaction)
                .expect("a result of something");
            let stage = seen.stages.get(&id).copied().unwrap_or(Stage::Unspecified);
            assert!(
                lifecycle::is_outcome(stage),
                "{id} was acknowledged at {stage:?}"
            );
        }
    }

    /// What a client is shown of a transaction has happened.
    pub(crate) fn may_show(&self, id: TransactionId, shown: TransactionState) {
        let state = self.states.get(&id).copied();
        let known = state.unwrap_or_else(|| panic!("{id} was shown before it was durable"));
        assert!(
            known == shown || !lifecycle::is_end(shown),
            "{id} was shown as {shown:?} and is {known:?}"
        );
    }

    /// What a client is told of a start.
    pub(crate) fn may_acknowledge(&self, workflow: &str, key: &str, id: TransactionId) {
        if key.is_empty() {
            return;
        }
        let owner = self.keys.get(&(workflow.to_owned(), key.to_owned()));
        assert!(
            owner == Some(&id) || !self.is_retained(id),
            "{key} is {owner:?}, and {id} was said"
        );
    }

    /// A client is told that a start without a key did not happen, and may start it again.
    pub(crate) fn may_deny(&self, input: &[u8], status: &Status) {
        let durable = self.keyless.contains(input);
        assert!(!durable, "it did happen: {status:?}");
    }

    /// What a client is told of a cancellation.
    pub(crate) fn may_cancel(&self, id: TransactionId) {
        assert!(
            self.cancelled.contains(&id),
            "{id} was said to be cancelled before it was"
        );
    }
}

fn hash_of(payload: &Payload) -> u64 {
    let mut hasher = DefaultHasher::new();
    payload.bytes().hash(&mut hasher);
    hasher.finish()
}
