//! Random workflows on random hosts that lie, forget, come late and go away, with random cancellations,
//! restarts and trims. What must hold whatever happens is checked after every input; in the end the
//! hosts behave, and everything must come to its end.

mod seen;
mod workflows;

use std::collections::BTreeMap;

use proptest::prelude::*;

use proto::event::{Cancel, Failure};
use proto::id::CommandId;

use self::seen::Seen;
use self::workflows::workflows;
use super::script::{host, start};
use super::*;
use crate::dispatch::Dispatch;
use crate::sessions::quarantine::Policy;
use crate::sessions::table::{Announcement, Session, Table};

const LEASE_US: u64 = 10_000_000;
const QUARANTINE: Policy = Policy {
    losses: 2,
    window_us: 100_000_000,
    hold_us: 20_000_000,
};
const HOSTS: [&str; 3] = ["h0", "h1", "h2"];
const WORKERS: [&str; 2] = ["w0", "w1"];

/// A host as it sees itself.
#[derive(Default)]
struct FakeHost {
    session: Option<Session>,
    running: Vec<CommandId>,
    answered: Vec<(CommandId, ResultOutcome)>,
}

struct World {
    state: State,
    dispatch: Dispatch,
    table: Table,
    now: Time,
    log: Log,
    hosts: Vec<FakeHost>,
    seen: BTreeMap<TransactionId, Seen>,
    started: Vec<TransactionId>,
    workflows: Vec<WorkflowName>,
    trimmed: bool,
}

impl World {
    fn new(workflows: Vec<Workflow>) -> Self {
        let mut world = Self {
            state: State::new(Limits::default()),
            dispatch: Dispatch::new(),
            table: Table::new(LEASE_US, 10, QUARANTINE),
            now: Time(1),
            log: Log::default(),
            hosts: HOSTS.iter().map(|_| FakeHost::default()).collect(),
            seen: BTreeMap::new(),
            started: Vec::new(),
            workflows: workflows
                .iter()
                .map(|workflow| workflow.name.clone())
                .collect(),
            trimmed: false,
        };
        world.input(opened());
        for workflow in workflows {
            let workflow = Box::new(workflow);
            world.input(Input::Register { workflow });
        }
        world
    }

    /// What the driver does with an input: decide, obey the effects, match, check.
    fn input(&mut self, input: Input) -> Option<Reply> {
        let answer = self.decide(input);
        while let Some((command, host)) = self.dispatch.next_match(|key| self.state.is_queued(key))
        {
            let dispatched = Input::Dispatched {
                command,
                host: host.clone(),
            };
            assert_eq!(self.decide(dispatched), Some(Reply::Dispatched));
            let outgoing = self.state.outgoing(&command).unwrap();
            let at = HOSTS
                .iter()
                .position(|name| *name == host.as_str())
                .unwrap();
            self.hosts[at].running.push(outgoing.id.clone());
            self.table.grant(&host, outgoing.id, outgoing.worker);
        }
        self.nothing_stands_still();
        answer
    }

    fn decide(&mut self, input: Input) -> Option<Reply> {
        let mut decided = Decided::default();
        let reply = handle(
            &mut self.state,
            input,
            self.now,
            self.log.next,
            &mut decided,
        )
        .ok();
        let first = self.log.next;
        let events = self.log.append(decided.events);
        for (offset, event) in (first..).zip(&events) {
            self.see(offset, event);
        }
        for effect in decided.effects {
            match effect {
                Effect::Enqueue { command, worker } => self.dispatch.push(&worker, command),
                Effect::Withdraw { worker, .. } => {
                    self.dispatch
                        .withdraw(&worker, |key| self.state.is_queued(key));
                }
                Effect::Cancel { .. } | Effect::Changed { .. } => {}
                Effect::Ended { transaction, state } => {
                    assert_eq!(self.seen[&transaction].end, Some(state));
                }
            }
        }
        reply
    }

    /// Checks an event against all that was seen before.
    fn see(&mut self, offset: Offset, event: &Event) {
        match &event.kind {
            Kind::Transaction { id, workflow, what } => {
                let seen = self.seen.entry(*id).or_default();
                assert_eq!(seen.end, None, "{} after the end", line(event));
                seen.transaction(what, || {
                    Arc::clone(self.state.workflow(workflow, 0).unwrap())
                });
            }
            Kind::Command {
                id, command, what, ..
            } => {
                let seen = self.seen.get_mut(id).unwrap();
                assert_eq!(seen.end, None, "{} after the end", line(event));
                seen.command(offset, &command.id(*id), what);
            }
            _ => {}
        }
    }

    /// In every live transaction that isn't stopping, each step that may begin has begun; what stops has
    /// an open command; and what the engine counts is what there is.
    fn nothing_stands_still(&self) {
        for id in self.state.live() {
            let carried = self.state.snapshot(&id).unwrap().carried;
            let seen = &self.seen[&id];
            let open = seen
                .stages
                .values()
                .filter(|stage| !proto::lifecycle::is_outcome(**stage));
            assert!(open.count() > 0, "{id} is live and nothing is under way");
            if carried.failure.is_some() || carried.cancel.is_some() {
                continue;
            }
            let workflow = seen.workflow.as_ref().unwrap();
            for step in &workflow.steps {
                let may = step.after.iter().all(|before| seen.passed.contains(before));
                let begun = carried.steps.iter().any(|known| known.step == step.name);
                assert_eq!(may, begun, "step {} of {id}", step.name);
            }
        }
    }

    fn announce(&mut self, at: usize, held: &[CommandId]) {
        let announcement = Announcement {
            host: host(HOSTS[at]),
            workers: WORKERS
                .iter()
                .map(|worker| (WorkerName::parse(worker).unwrap(), 2))
                .collect(),
            // One place each.
            machine: String::new(),
            held: held.to_vec(),
        };
        let stage = |command: &CommandId| self.state.stage_at(&announcement.host, command);
        let came = self.table.announce(&announcement, self.now, stage).unwrap();
        for command in held {
            assert_ne!(came.kept.contains(command), came.revoked.contains(command));
        }
        self.hosts[at].session = Some(came.session);
        self.hosts[at].running = came.kept;
        match came.hold {
            None => self.dispatch.host_up(&announcement.host, &came.offered),
            Some(hold) => {
                assert!(hold.until > self.now);
                self.dispatch.host_gone(&announcement.host);
            }
        }
        self.decide(Input::HostConnected {
            host: announcement.host.clone(),
            workers: announcement.workers,
            machine: String::new(),
            version: String::new(),
            lease_us: LEASE_US,
        });
        self.input(Input::CommandsLost {
            host: announcement.host,
            commands: came.lost,
        });
    }

    fn disconnect(&mut self, at: usize) {
        let Some(session) = self.hosts[at].session.take() else {
            return;
        };
        let host = host(HOSTS[at]);
        self.dispatch.host_gone(&host);
        if let Some(drained) = self.table.disconnect(&host, session, self.now) {
            self.input(Input::HostDisconnected { host, drained });
        }
    }

    fn result(&mut self, at: usize, command: CommandId, outcome: ResultOutcome) -> Reply {
        let host = host(HOSTS[at]);
        if let Some(worker) = self.table.release(&host, &command) {
            self.dispatch.free(&host, &worker);
        }
        let known = self.state.holds(&host, &command);
        let reply = self
            .input(Input::Result {
                host,
                command,
                outcome,
                wait_us: 10,
                run_us: 1_000,
            })
            .unwrap();
        // Exactly the holder of an open command is heard.
        assert_eq!(reply == Reply::ResultAccepted, known);
        reply
    }

    /// A running command of a host answers.
    fn answer(&mut self, at: usize, which: usize, outcome: ResultOutcome) {
        let fake = &mut self.hosts[at];
        if fake.running.is_empty() || fake.session.is_none() {
            return;
        }
        let command = fake.running.swap_remove(which % fake.running.len());
        let reply = self.result(at, command.clone(), outcome.clone());
        if reply == Reply::ResultAccepted {
            self.hosts[at].answered.push((command, outcome));
        }
    }

    fn pass(&mut self, micros: u64, beating: &[bool]) {
        self.now = self.now.after_us(micros);
        for (at, beats) in beating.iter().enumerate() {
            if let (true, Some(session)) = (beats, self.hosts[at].session) {
                self.table
                    .renew(&host(HOSTS[at]), session, self.now)
                    .unwrap();
            }
        }
        for (host, offered) in self.table.let_in(self.now) {
            self.dispatch.host_up(&host, &offered);
        }
        for lapsed in self.table.lapse(self.now) {
            let at = HOSTS
                .iter()
                .position(|name| *name == lapsed.host.as_str())
                .unwrap();
            self.hosts[at].session = None;
            self.dispatch.host_gone(&lapsed.host);
            self.input(Input::HostLapsed {
                host: lapsed.host,
                commands: lapsed.commands,
            });
        }
        self.input(Input::Tick);
    }

    /// The process dies and starts again.
    fn restart(&mut self) {
        self.state = self.log.replayed(self.state.limits());
        self.hosts.iter_mut().for_each(|host| host.session = None);
        self.dispatch = Dispatch::new();
        for (command, worker) in self.state.queued() {
            self.dispatch.push(&worker, command);
        }
        self.table = Table::new(LEASE_US, 10, QUARANTINE);
        self.table.restore(self.state.hosts(), self.now);
        self.input(opened());
    }

    fn trim(&mut self) {
        let before = self.log.next;
        self.input(Input::Carry {
            before,
            limit: 1_000,
        });
        self.log.stored.retain(|stored| stored.offset >= before);
        self.trimmed = true;
        for id in self.state.ended() {
            self.state.remove(&id);
        }
    }

    fn found_again(&self) {
        let only = match self.trimmed {
            true => self.state.live(),
            false => self.started.clone(),
        };
        assert_found_again(&self.state, &self.log, &only);
    }

    fn act(&mut self, what: u8, a: u8, b: u16) {
        let (at, which) = (usize::from(a) % HOSTS.len(), usize::from(b));
        match what % 20 {
            0..=2 => {
                let mut id = [0; 16];
                id[..8].copy_from_slice(&self.log.next.to_be_bytes());
                let id = TransactionId(id);
                let workflow = self.workflows[usize::from(a) % self.workflows.len()].clone();
                let reply = self.input(Input::Start {
                    id,
                    workflow,
                    version: 0,
                    start: start(b"{\"in\":1}"),
                    ended: None,
                });
                assert_eq!(
                    reply,
                    Some(Reply::Started {
                        id,
                        existing: false
                    })
                );
                self.started.push(id);
            }
            3 => self.announce(at, &self.hosts[at].running.clone()),
            4 => {
                let kept: Vec<_> = self.hosts[at]
                    .running
                    .iter()
                    .skip(which % 3)
                    .cloned()
                    .collect();
                self.announce(at, &kept);
            }
            5 => self.disconnect(at),
            6..=8 => self.answer(at, which, completed(b)),
            9 | 10 => {
                let failure = Failure {
                    kind: "X".to_owned(),
                    ..Failure::default()
                };
                let not_retryable = which.is_multiple_of(4);
                self.answer(
                    at,
                    which,
                    ResultOutcome::Failed {
                        failure,
                        not_retryable,
                    },
                );
            }
            11 => self.answer(at, which, ResultOutcome::TimedOut),
            12 => self.answer(at, which, ResultOutcome::Cancelled),
            13 => {
                let answered = &self.hosts[at].answered;
                if let Some((command, outcome)) =
                    answered.get(which % answered.len().max(1)).cloned()
                {
                    let in_memory = self.state.transaction_state(&command.transaction).is_some();
                    let reply = self.result(at, command.clone(), outcome);
                    assert_eq!(reply == Reply::ResultDuplicate, in_memory);
                    let failure = Failure::default();
                    let another = ResultOutcome::Failed {
                        failure,
                        not_retryable: false,
                    };
                    let reply = self.result(at, command, another);
                    assert!(matches!(reply, Reply::ResultRefused { .. }), "{reply:?}");
                }
            }
            14 => {
                let other = (at + 1) % HOSTS.len();
                if let Some(command) = self.hosts[other].running.first().cloned() {
                    let reply = self.result(at, command, completed(b));
                    assert!(matches!(reply, Reply::ResultRefused { .. }), "{reply:?}");
                }
            }
            15 => self.pass(u64::from(b) * 200, &[a & 1 != 0, a & 2 != 0, a & 4 != 0]),
            16 => {
                if let Some(id) = self.started.get(which % self.started.len().max(1)).copied() {
                    let cancel = Cancel {
                        reason: String::new(),
                        skip_compensation: a & 1 == 0,
                    };
                    self.input(Input::Cancel { id, cancel });
                }
            }
            17 => {
                let stage = [Stage::PickedUp, Stage::Processing][usize::from(a & 1)];
                if let Some(command) = self.hosts[at].running.first().cloned() {
                    let host = host(HOSTS[at]);
                    self.input(Input::Progress {
                        host,
                        command,
                        stage,
                    });
                }
            }
            18 => self.restart(),
            _ => match a % 4 {
                0 => self.trim(),
                _ => self.found_again(),
            },
        }
    }

    /// From now on the hosts behave: everything must come to its end.
    fn drain(&mut self) {
        for round in 0.. {
            assert!(round < 1_000, "{:?} never end", self.state.live());
            if self.state.live().is_empty() {
                break;
            }
            for at in 0..HOSTS.len() {
                if self.hosts[at].session.is_none() {
                    self.announce(at, &self.hosts[at].running.clone());
                }
                while !self.hosts[at].running.is_empty() {
                    self.answer(at, 0, completed(0));
                }
            }
            // A host that is held back is let in again.
            if let Some(due) = self.state.next_due().or(self.table.due()) {
                self.pass(due.since_us(self.now), &[true; 3]);
            }
        }
        assert_eq!(self.state.queued_count(), 0);
        assert_eq!(self.state.next_due(), None);
        assert!(self.state.hosts().iter().all(|(_, held)| held.is_empty()));
        for (id, seen) in &self.seen {
            assert!(seen.end.is_some(), "{id}");
        }
    }
}

fn opened() -> Input {
    Input::Opened {
        version: "0".to_owned(),
        epoch: 1,
    }
}

fn completed(number: u16) -> ResultOutcome {
    ResultOutcome::Completed(format!("{{\"out\":{number}}}").into())
}

proptest! {
    // Half of what PROPTEST_CASES says, or of proptest's own default: each case is long.
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases / 2))]
    #[test]
    fn whatever_happens_the_rules_hold_and_everything_ends(
        workflows in prop::collection::vec(workflows(), 1..3),
        acts in prop::collection::vec((any::<u8>(), any::<u8>(), any::<u16>()), 1..150),
    ) {
        let mut world = World::new(workflows);
        for (what, a, b) in acts {
            world.act(what, a, b);
        }
        world.found_again();
        world.drain();
        world.found_again();
    }
}
