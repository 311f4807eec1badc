//! Who is there: hosts and their leases, slots and commands; and from that, with the figures of
//! the window, who is healthy and why not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::batch::Stored;
use proto::event::{Command, CommandEvent, HostEvent, Kind};
use proto::id::{Time, TransactionId};
use serde::{Deserialize, Serialize};

use super::names::{NameId, Names};
use super::performance::outcome;
use super::settings::Settings;
use super::shards::{Sharded, Shards};
use crate::fold::{Entry, Fold, What};

/// How long a host that is gone is still shown.
const GONE_SHOWN_US: i64 = 600_000_000;

/// The fold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Health {
    names: Names,
    hosts: Arc<BTreeMap<NameId, Host>>,
    workers: Arc<BTreeMap<NameId, Worker>>,
    open: Shards<CommandKey, Open>,
}

/// A worker host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// The name of its machine.
    pub machine: String,
    /// The slots for each of its workers, and how many have a command.
    workers: BTreeMap<NameId, Slots>,
    /// Whether its lease runs.
    pub live: bool,
    /// Whether its stream is open.
    pub connected: bool,
    /// Whether it takes no more commands.
    pub draining: bool,
    /// Whether it left on purpose.
    pub drained: bool,
    /// Since hosts of its kind crash in a loop: until when it gets no commands.
    quarantine: Option<Quarantine>,
    /// When something was last heard of it, in microseconds.
    pub last_us: i64,
}

/// How a host is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// Until when, in microseconds.
    pub until_us: i64,
    /// For how many losses.
    pub losses: u32,
}

impl Host {
    /// How it is held back at an instant, where it is.
    pub fn quarantine(&self, now_us: i64) -> Option<Quarantine> {
        self.quarantine
            .filter(|held| self.live && held.until_us > now_us)
    }
}

/// The places of a worker on a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    /// How many.
    pub slots: u32,
    /// How many have a command.
    pub busy: u32,
    /// Whether the host offers the worker; else it only had commands for it.
    pub offered: bool,
}

/// A worker that was offered by a host or named by a command.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// Commands that wait for a slot.
    pub queued: u64,
    /// When it last came to an outcome, in microseconds.
    pub last_outcome_us: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct CommandKey {
    transaction: [u8; 16],
    step: NameId,
    attempt: u32,
    undo: bool,
}

impl Sharded for CommandKey {
    fn shard(&self) -> u8 {
        self.transaction[15]
    }
}

/// A command without an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Open {
    worker: NameId,
    host: Option<NameId>,
}

impl Fold for Health {
    const NAME: &'static str = "health";

    fn apply(&mut self, entry: &Entry, settings: &Settings) {
        if !settings.workers {
            return;
        }
        match &entry.what {
            What::Events(events) => {
                // Of what came of a command at once, only its last place counts.
                for stored in events
                    .events
                    .chunk_by(of_one_command)
                    .filter_map(<[_]>::last)
                {
                    let time_us = stored.event.time.0;
                    match &stored.event.kind {
                        Kind::Command {
                            id, command, what, ..
                        } => self.command(*id, command, what, time_us),
                        Kind::Host { host, what } => self.host(host.as_str(), what, time_us),
                        Kind::SystemSampled {
                            host: Some(host), ..
                        }
                        | Kind::ResultRefused { host, .. } => self.heard(host.as_str(), time_us),
                        Kind::SystemSampled { host: None, .. }
                        | Kind::OrchestratorStarted { .. }
                        | Kind::WorkflowRegistered(_)
                        | Kind::Transaction { .. } => {}
                    }
                }
            }
            // What was open may have ended unseen; hosts are heard of again.
            What::Gap { .. } => self.forget_commands(),
            What::Replaced { .. } => {
                self.forget_commands();
                self.hosts = Arc::default();
            }
            What::Tick => self.drop_gone(entry.time.0),
            What::Started { .. }
            | What::Sampled(_)
            | What::Connected { .. }
            | What::Disconnected { .. }
            | What::Unknown => {}
        }
    }
}

/// Whether two events that follow one another are of the same attempt at the same step.
fn of_one_command(one: &Stored, next: &Stored) -> bool {
    let (
        Kind::Command { id, command, .. },
        Kind::Command {
            id: next_id,
            command: next,
            ..
        },
    ) = (&one.event.kind, &next.event.kind)
    else {
        return false;
    };
    id == next_id
        && command.step == next.step
        && (command.attempt, command.undo) == (next.attempt, next.undo)
}

impl Health {
    fn worker(&mut self, worker: NameId) -> &mut Worker {
        Arc::make_mut(&mut self.workers).entry(worker).or_default()
    }

    fn slots(&mut self, host: NameId, worker: NameId) -> &mut Slots {
        let host = Arc::make_mut(&mut self.hosts).entry(host).or_default();
        host.workers.entry(worker).or_default()
    }

    fn heard(&mut self, host: &str, time_us: i64) {
        if let Some(id) = self.names.find(host)
            && let Some(host) = Arc::make_mut(&mut self.hosts).get_mut(&id)
        {
            host.last_us = host.last_us.max(time_us);
        }
    }

    fn command(&mut self, id: TransactionId, command: &Command, what: &CommandEvent, time_us: i64) {
        let worker = self.names.intern(command.worker.as_str());
        let host = command
            .host
            .as_ref()
            .map(|host| self.names.intern(host.as_str()));
        let key = CommandKey {
            transaction: id.0,
            step: self.names.intern(command.step.as_str()),
            attempt: command.attempt,
            undo: command.undo,
        };
        if let Some(host) = host
            && let Some(host) = Arc::make_mut(&mut self.hosts).get_mut(&host)
        {
            host.last_us = host.last_us.max(time_us);
        }
        let now = outcome(what).is_none().then_some(Open { worker, host });
        let part = self.open.part(&key);
        let known = match now {
            Some(open) => part.insert(key, open),
            None => part.remove(&key),
        };
        // A command's place is taken back before its new one is counted, so that no event that
        // is missed can make the counts drift.
        match known {
            Some(Open {
                worker,
                host: Some(host),
            }) => {
                let slots = self.slots(host, worker);
                slots.busy = slots.busy.saturating_sub(1);
            }
            Some(Open { worker, host: None }) => {
                let worker = self.worker(worker);
                worker.queued = worker.queued.saturating_sub(1);
            }
            None => {}
        }
        if now.is_none() {
            self.worker(worker).last_outcome_us = Some(time_us);
            return;
        }
        match host {
            Some(host) => self.slots(host, worker).busy += 1,
            None => self.worker(worker).queued += 1,
        }
        // It is a worker that was named, even where it has no command in its queue.
        self.worker(worker);
    }

    fn host(&mut self, name: &str, what: &HostEvent, time_us: i64) {
        let id = self.names.intern(name);
        let offered: Vec<(NameId, u32)> = match what {
            HostEvent::Connected { workers, .. } => workers
                .iter()
                .map(|(worker, slots)| (self.names.intern(worker.as_str()), *slots))
                .collect(),
            HostEvent::Disconnected { .. }
            | HostEvent::Lost
            | HostEvent::Draining
            | HostEvent::Quarantined { .. } => Vec::new(),
        };
        for (worker, _) in &offered {
            self.worker(*worker);
        }
        let host = Arc::make_mut(&mut self.hosts).entry(id).or_default();
        host.last_us = time_us;
        match what {
            // Nothing new of a host that is here.
            HostEvent::Connected { carried: true, .. } if host.live => {}
            HostEvent::Connected { machine, .. } => {
                host.machine.clone_from(machine);
                (host.live, host.connected) = (true, true);
                (host.draining, host.drained) = (false, false);
                // Said again where it goes on.
                host.quarantine = None;
                for slots in host.workers.values_mut() {
                    slots.slots = 0;
                    slots.offered = false;
                }
                for (worker, slots) in offered {
                    let place = host.workers.entry(worker).or_default();
                    place.slots = slots;
                    place.offered = true;
                }
            }
            HostEvent::Disconnected { drained } => {
                host.connected = false;
                host.drained = *drained;
                // Its lease still runs, unless it left on purpose.
                host.live &= !drained;
            }
            HostEvent::Lost => (host.live, host.connected) = (false, false),
            HostEvent::Draining => host.draining = true,
            HostEvent::Quarantined { hold_us, losses } => {
                host.quarantine = Some(Quarantine {
                    until_us: Time(time_us).after_us(*hold_us).0,
                    losses: *losses,
                });
            }
        }
    }

    fn forget_commands(&mut self) {
        self.open = Shards::default();
        for worker in Arc::make_mut(&mut self.workers).values_mut() {
            worker.queued = 0;
        }
        for host in Arc::make_mut(&mut self.hosts).values_mut() {
            host.workers.values_mut().for_each(|slots| slots.busy = 0);
        }
    }

    /// Forgets hosts that are gone for a while: their ids never come back.
    fn drop_gone(&mut self, now_us: i64) {
        let is_gone = |host: &Host| {
            !host.live
                && host.last_us < now_us - GONE_SHOWN_US
                && host.workers.values().all(|slots| slots.busy == 0)
        };
        if self.hosts.values().any(is_gone) {
            Arc::make_mut(&mut self.hosts).retain(|_, host| !is_gone(host));
        }
    }

    /// Every worker that is known, by name.
    pub fn workers(&self) -> BTreeMap<&str, &Worker> {
        self.workers
            .iter()
            .map(|(id, worker)| (self.names.name(*id), worker))
            .collect()
    }

    /// A worker by its name.
    pub fn find(&self, worker: &str) -> Option<&Worker> {
        self.workers.get(&self.names.find(worker)?)
    }

    /// The hosts that offer a worker, or have commands of it, by host.
    pub fn hosts_of(&self, worker: &str) -> BTreeMap<&str, (&Host, Slots)> {
        let Some(worker) = self.names.find(worker) else {
            return BTreeMap::new();
        };
        self.hosts
            .iter()
            .filter_map(|(id, host)| {
                let slots = *host.workers.get(&worker)?;
                let shown = slots.offered || slots.busy > 0;
                shown.then(|| (self.names.name(*id), (host, slots)))
            })
            .collect()
    }

    /// Live hosts.
    pub fn live_hosts(&self) -> BTreeSet<&str> {
        self.hosts
            .iter()
            .filter(|(_, host)| host.live)
            .map(|(id, _)| self.names.name(*id))
            .collect()
    }

    /// Commands without an outcome.
    pub fn open_commands(&self) -> usize {
        self.open.len()
    }
}
