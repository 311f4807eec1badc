//! The sessions of worker hosts: leases, reconnects, and who was given which command.
//!
//! Pure: no clock, no channel; the driver owns it. Which result counts is the engine's to say (it
//! knows each attempt's host, stage and result); this table knows when a host has to be given up, and
//! which slots are taken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use foldhash::HashMap;
use proto::error::{Problem, Reason};
use proto::id::{CommandId, HostId, Time, WorkerName};
use proto::lifecycle::Stage;

use super::quarantine::{Hold, Life, Place, Policy, Quarantine};

/// Names one stream of a host; rises with each announcement and is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Session(pub u64);

/// What a host says when it comes.
#[derive(Clone, Debug)]
pub struct Announcement {
    /// Who it is.
    pub host: HostId,
    /// What it offers; checked: at least one, each once, 1 to the limit of slots.
    pub workers: Vec<(WorkerName, u32)>,
    /// The name of its machine; may be empty.
    pub machine: String,
    /// Commands that it says it has from an earlier session.
    pub held: Vec<CommandId>,
}

/// What a host offers: worker, slots, and how many of these are in use.
pub type Offered = Vec<(WorkerName, u32, u32)>;

/// What became of an announcement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// The new session.
    pub session: Session,
    /// The session that it takes the place of: end its stream with SESSION_REPLACED.
    pub replaced: Option<Session>,
    /// Held commands that stay the host's.
    pub kept: Vec<CommandId>,
    /// Held commands that are no longer the host's: for its Welcome.
    pub revoked: Vec<CommandId>,
    /// Commands that it was given and no longer has: for `Input::CommandsLost`.
    pub lost: Vec<CommandId>,
    /// What it offers with the slots in use: for `Dispatch::host_up`, at once or, where it is held
    /// back, when [`Table::let_in`] says so.
    pub offered: Offered,
    /// Whether it is held back, and until when.
    pub hold: Option<Hold>,
}

/// A host whose lease lapsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lapsed {
    /// Which host.
    pub host: HostId,
    /// The stream to end, where one is still open.
    pub session: Option<Session>,
    /// What it held: for `Input::HostLapsed`.
    pub commands: Vec<CommandId>,
}

/// All hosts that are connected or whose lease still runs.
#[derive(Debug)]
pub struct Table {
    lease_us: u64,
    hosts_max: usize,
    hosts: BTreeMap<HostId, Host>,
    /// When each lease lapses, the next one first.
    due: BTreeSet<(Time, HostId)>,
    quarantine: Quarantine,
    /// Until when hosts are held back, the next one to be let in first.
    holds: BTreeSet<(Time, HostId)>,
    sessions: u64,
}

/// One host.
#[derive(Debug)]
struct Host {
    /// Its open stream; none while it is away.
    session: Option<Session>,
    expires: Time,
    draining: bool,
    /// What it was given and has not answered, with the worker whose slot that takes. Looked into by
    /// name; sorted where it is listed.
    held: HashMap<CommandId, WorkerName>,
    /// Where it came up; none where only the log knows it.
    place: Option<Arc<Place>>,
    began: Time,
    /// When its stream ended.
    left: Option<Time>,
    /// While it is held back: what it offers.
    held_back: Option<(Hold, Vec<(WorkerName, u32)>)>,
}

impl Host {
    /// The life that ends now.
    fn life(&self, now: Time) -> Option<Life> {
        let place = self.place.clone()?;
        let ended = self.left.unwrap_or(now);
        Some(Life {
            place,
            began: self.began,
            ended,
        })
    }

    /// What it offers, with the slots that its commands take.
    fn offered(&self, workers: &[(WorkerName, u32)]) -> Offered {
        let used = |worker: &WorkerName| self.held.values().filter(|held| *held == worker).count();
        let offer = |(worker, slots): &(WorkerName, u32)| {
            let used = u32::try_from(used(worker)).unwrap_or(u32::MAX);
            (worker.clone(), *slots, used)
        };
        workers.iter().map(offer).collect()
    }
}

impl Table {
    /// An empty table. `hosts_max`: full means that a new host is refused with HOSTS_LIMIT.
    pub fn new(lease_us: u64, hosts_max: usize, quarantine: Policy) -> Self {
        Self {
            lease_us,
            hosts_max,
            hosts: BTreeMap::new(),
            due: BTreeSet::new(),
            quarantine: Quarantine::new(quarantine, hosts_max),
            holds: BTreeSet::new(),
            sessions: 0,
        }
    }

    /// After a replay (`State::hosts`): every known host gets its lease in full to come back.
    pub fn restore(&mut self, hosts: Vec<(HostId, Vec<(CommandId, WorkerName)>)>, now: Time) {
        let expires = now.after_us(self.lease_us);
        self.due.clear();
        self.holds.clear();
        self.hosts = hosts
            .into_iter()
            .map(|(host, held)| {
                self.due.insert((expires, host.clone()));
                let known = Host {
                    session: None,
                    expires,
                    draining: false,
                    held: held.into_iter().collect(),
                    place: None,
                    began: now,
                    left: None,
                    held_back: None,
                };
                (host, known)
            })
            .collect();
    }

    /// A host came, or came back. `stage` says how far a command is that the engine has open at this
    /// host (`State::stage_at`).
    pub fn announce(
        &mut self,
        announcement: &Announcement,
        now: Time,
        stage: impl Fn(&CommandId) -> Option<Stage>,
    ) -> Result<Announced, Problem> {
        let host = &announcement.host;
        let mut known = self.hosts.remove(host);
        if known.is_none() && self.hosts.len() >= self.hosts_max {
            return Err(Problem::new(
                Reason::HostsLimit,
                format!(
                    "{} hosts are connected, as many as max_hosts allows; raise it or stop one",
                    self.hosts_max
                ),
            ));
        }
        self.sessions += 1;
        let session = Session(self.sessions);
        let given = known.as_mut().map(|known| std::mem::take(&mut known.held));
        let matched = match_held(given.unwrap_or_default(), &announcement.held, &stage);
        if let Some(known) = &known {
            self.due.remove(&(known.expires, host.clone()));
        }
        let place = Place::of(host, &announcement.machine, &announcement.workers);
        let has_begun = |command: &CommandId| stage(command) >= Some(Stage::PickedUp);
        let mut renewed = Host {
            session: Some(session),
            expires: now.after_us(self.lease_us),
            draining: false,
            held: matched.still,
            place: Some(place.clone()),
            began: now,
            left: None,
            held_back: None,
        };
        let hold = match &known {
            // The same process as before, as far as can be told: what it was given may have been lost
            // on the way.
            Some(known) if !matched.lost.iter().any(&has_begun) => {
                renewed.began = known.began;
                let hold = known.held_back.as_ref().map(|(hold, _)| *hold);
                hold.filter(|hold| hold.until > now)
            }
            // It came back without what it was at: that was a crash.
            Some(known) => {
                if let Some(life) = known.life(now) {
                    self.quarantine.lost(&life, &matched.lost, now);
                }
                self.quarantine.hold(&place, now)
            }
            None => self.quarantine.hold(&place, now),
        };
        if let Some(before) = known.as_ref().and_then(|known| known.held_back.as_ref()) {
            self.holds.remove(&(before.0.until, host.clone()));
        }
        if let Some(hold) = hold {
            renewed.held_back = Some((hold, announcement.workers.clone()));
            self.holds.insert((hold.until, host.clone()));
        }
        let offered = renewed.offered(&announcement.workers);
        self.due.insert((renewed.expires, host.clone()));
        self.hosts.insert(host.clone(), renewed);
        Ok(Announced {
            session,
            replaced: known.and_then(|known| known.session),
            kept: matched.kept,
            revoked: matched.revoked,
            lost: matched.lost,
            offered,
            hold,
        })
    }

    /// A sign of life that came at `at`: the lease runs anew from there. SESSION_UNKNOWN if it is no open
    /// session.
    pub fn renew(&mut self, host: &HostId, session: Session, at: Time) -> Result<(), Problem> {
        let lease_us = self.lease_us;
        let Some(known) = self.open(host, session) else {
            return Err(Problem::new(
                Reason::SessionUnknown,
                format!("host \"{host}\" has no such session; Connect first"),
            ));
        };
        let expires = at.after_us(lease_us);
        let before = known.expires;
        if expires > before {
            known.expires = expires;
            self.due.remove(&(before, host.clone()));
            self.due.insert((expires, host.clone()));
        }
        Ok(())
    }

    /// Whether this is the host's open session.
    pub fn is_open(&self, host: &HostId, session: Session) -> bool {
        self.session(host) == Some(session)
    }

    /// The host wants no more commands. True if that is news.
    pub fn drain(&mut self, host: &HostId, session: Session) -> bool {
        self.open(host, session)
            .is_some_and(|known| !std::mem::replace(&mut known.draining, true))
    }

    /// The stream of a session ended. Some(drained) if it was the host's open one; its lease runs on
    /// unless it left drained and holds nothing.
    pub fn disconnect(&mut self, host: &HostId, session: Session, now: Time) -> Option<bool> {
        let known = self.open(host, session)?;
        known.session = None;
        known.left = Some(now);
        let drained = known.draining && known.held.is_empty();
        if drained {
            let expires = known.expires;
            self.due.remove(&(expires, host.clone()));
            self.forget(host);
        }
        Some(drained)
    }

    /// A command was given to a host.
    pub fn grant(&mut self, host: &HostId, command: CommandId, worker: WorkerName) {
        if let Some(known) = self.hosts.get_mut(host) {
            known.held.insert(command, worker);
        }
    }

    /// The host reported a result, whatever became of it: its slot is free. The worker if it was taken:
    /// for `Dispatch::free`.
    pub fn release(&mut self, host: &HostId, command: &CommandId) -> Option<WorkerName> {
        self.hosts.get_mut(host)?.held.remove(command)
    }

    /// When the next lease lapses, or the next host is let in.
    pub fn due(&self) -> Option<Time> {
        let next = |due: &BTreeSet<(Time, HostId)>| due.first().map(|(time, _)| *time);
        [next(&self.due), next(&self.holds)]
            .into_iter()
            .flatten()
            .min()
    }

    /// Hosts that are no longer held back, with what they offer: for `Dispatch::host_up`.
    pub fn let_in(&mut self, now: Time) -> Vec<(HostId, Offered)> {
        let mut let_in = Vec::new();
        while self.holds.first().is_some_and(|(until, _)| *until <= now) {
            let host = self.holds.pop_first().map(|(_, host)| host);
            let known = host.as_ref().and_then(|host| self.hosts.get_mut(host));
            let Some((host, known)) = host.as_ref().zip(known) else {
                continue;
            };
            if let Some((_, workers)) = known.held_back.take()
                && known.session.is_some()
                && !known.draining
            {
                let_in.push((host.clone(), known.offered(&workers)));
            }
        }
        let_in
    }

    /// The hosts whose leases have lapsed, the longest ago first; they are forgotten.
    pub fn lapse(&mut self, now: Time) -> Vec<Lapsed> {
        let mut lapsed = Vec::new();
        while let Some((expires, host)) = self.due.pop_first() {
            if expires > now {
                self.due.insert((expires, host));
                break;
            }
            if let Some(known) = self.forget(&host) {
                let life = known.life(now);
                let mut commands: Vec<_> = known.held.into_keys().collect();
                commands.sort_unstable();
                if let Some(life) = life {
                    self.quarantine.lost(&life, &commands, now);
                }
                lapsed.push(Lapsed {
                    host,
                    session: known.session,
                    commands,
                });
            }
        }
        lapsed
    }

    /// The open session of a host.
    pub fn session(&self, host: &HostId) -> Option<Session> {
        self.hosts.get(host)?.session
    }

    /// How many hosts have an open session.
    pub fn connected(&self) -> usize {
        let open = |known: &&Host| known.session.is_some();
        self.hosts.values().filter(open).count()
    }

    fn forget(&mut self, host: &HostId) -> Option<Host> {
        let known = self.hosts.remove(host)?;
        if let Some((hold, _)) = &known.held_back {
            self.holds.remove(&(hold.until, host.clone()));
        }
        Some(known)
    }

    fn open(&mut self, host: &HostId, session: Session) -> Option<&mut Host> {
        let known = self.hosts.get_mut(host)?;
        (known.session == Some(session)).then_some(known)
    }
}

/// What of a host's commands it still has.
#[derive(Default)]
struct Matched {
    still: HashMap<CommandId, WorkerName>,
    kept: Vec<CommandId>,
    revoked: Vec<CommandId>,
    lost: Vec<CommandId>,
}

/// Compares what a host was given with what it says it has.
fn match_held(
    mut given: HashMap<CommandId, WorkerName>,
    held: &[CommandId],
    stage: &impl Fn(&CommandId) -> Option<Stage>,
) -> Matched {
    let holds = |command: &CommandId| stage(command).is_some();
    let mut matched = Matched::default();
    for command in held {
        match given.remove_entry(command) {
            Some((command, worker)) if holds(&command) => {
                matched.kept.push(command.clone());
                matched.still.insert(command, worker);
            }
            _ if matched.still.contains_key(command) => {}
            unknown => {
                matched.revoked.push(command.clone());
                // Open at this host by the engine's knowledge alone: it has to come again.
                let lost = unknown.is_none() && holds(command);
                matched.lost.extend(lost.then(|| command.clone()));
            }
        }
    }
    let mut left: Vec<_> = given.into_keys().filter(holds).collect();
    left.sort_unstable();
    matched.lost.extend(left);
    matched
}

#[cfg(test)]
mod tests;
