//! The sessions of worker hosts: leases, reconnects, and who was given which command.
//!
//! Pure: no clock, no channel; the driver owns it. Which result counts is the engine's to say (it
//! knows each attempt's host, stage and result); this table knows when a host has to be given up, and
//! which slots are taken.

use std::collections::{BTreeMap, BTreeSet};

use proto::error::{Problem, Reason};
use proto::id::{CommandId, HostId, Time, WorkerName};

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
    /// Commands that it says it has from an earlier session.
    pub held: Vec<CommandId>,
}

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
    /// What it offers with the slots in use: for `Dispatch::host_up`.
    pub offered: Vec<(WorkerName, u32, u32)>,
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
    sessions: u64,
}

/// One host.
#[derive(Debug)]
struct Host {
    /// Its open stream; none while it is away.
    session: Option<Session>,
    expires: Time,
    draining: bool,
    /// What it was given and has not answered, with the worker whose slot that takes.
    held: BTreeMap<CommandId, WorkerName>,
}

impl Table {
    /// An empty table. `hosts_max`: full means that a new host is refused with HOSTS_LIMIT.
    pub fn new(lease_us: u64, hosts_max: usize) -> Self {
        Self {
            lease_us,
            hosts_max,
            hosts: BTreeMap::new(),
            due: BTreeSet::new(),
            sessions: 0,
        }
    }

    /// After a replay (`State::hosts`): every known host gets its lease in full to come back.
    pub fn restore(&mut self, hosts: Vec<(HostId, Vec<(CommandId, WorkerName)>)>, now: Time) {
        let expires = now.after_us(self.lease_us);
        self.due.clear();
        self.hosts = hosts
            .into_iter()
            .map(|(host, held)| {
                self.due.insert((expires, host.clone()));
                let known = Host {
                    session: None,
                    expires,
                    draining: false,
                    held: held.into_iter().collect(),
                };
                (host, known)
            })
            .collect();
    }

    /// A host came, or came back. `holds` says whether the engine has the command open at this host
    /// (`State::holds`).
    pub fn announce(
        &mut self,
        announcement: &Announcement,
        now: Time,
        holds: impl Fn(&CommandId) -> bool,
    ) -> Result<Announced, Problem> {
        let Announcement {
            host,
            workers,
            held,
        } = announcement;
        let known = self.hosts.remove(host);
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
        let mut given = BTreeMap::new();
        let mut replaced = None;
        if let Some(known) = known {
            self.due.remove(&(known.expires, host.clone()));
            replaced = known.session;
            given = known.held;
        }
        let (mut kept, mut revoked) = (Vec::new(), Vec::new());
        let mut lost = Vec::new();
        let mut still = BTreeMap::new();
        for command in held {
            match given.remove_entry(command) {
                Some((command, worker)) if holds(&command) => {
                    kept.push(command.clone());
                    still.insert(command, worker);
                }
                _ if still.contains_key(command) => {}
                unknown => {
                    revoked.push(command.clone());
                    // Open at this host by the engine's knowledge alone: it has to come again.
                    lost.extend((unknown.is_none() && holds(command)).then(|| command.clone()));
                }
            }
        }
        lost.extend(given.into_keys().filter(|command| holds(command)));
        let used = |worker: &WorkerName| still.values().filter(|held| *held == worker).count();
        let offered = (workers.iter())
            .map(|(worker, slots)| {
                let used = u32::try_from(used(worker)).unwrap_or(u32::MAX);
                (worker.clone(), *slots, used)
            })
            .collect();
        let expires = now.after_us(self.lease_us);
        self.due.insert((expires, host.clone()));
        self.hosts.insert(
            host.clone(),
            Host {
                session: Some(session),
                expires,
                draining: false,
                held: still,
            },
        );
        Ok(Announced {
            session,
            replaced,
            kept,
            revoked,
            lost,
            offered,
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
    pub fn disconnect(&mut self, host: &HostId, session: Session) -> Option<bool> {
        let known = self.open(host, session)?;
        known.session = None;
        let drained = known.draining && known.held.is_empty();
        if drained {
            let expires = known.expires;
            self.due.remove(&(expires, host.clone()));
            self.hosts.remove(host);
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

    /// When the next lease lapses.
    pub fn due(&self) -> Option<Time> {
        self.due.first().map(|(time, _)| *time)
    }

    /// The hosts whose leases have lapsed, the longest ago first; they are forgotten.
    pub fn lapse(&mut self, now: Time) -> Vec<Lapsed> {
        let mut lapsed = Vec::new();
        while let Some((expires, host)) = self.due.pop_first() {
            if expires > now {
                self.due.insert((expires, host));
                break;
            }
            if let Some(known) = self.hosts.remove(&host) {
                lapsed.push(Lapsed {
                    host,
                    session: known.session,
                    commands: known.held.into_keys().collect(),
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

    fn open(&mut self, host: &HostId, session: Session) -> Option<&mut Host> {
        let known = self.hosts.get_mut(host)?;
        (known.session == Some(session)).then_some(known)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proto::id::{StepName, TransactionId};

    use super::*;

    const LEASE_US: u64 = 10;

    fn host() -> HostId {
        HostId::parse("h").unwrap()
    }

    fn worker() -> WorkerName {
        WorkerName::parse("w").unwrap()
    }

    fn command(attempt: u32) -> CommandId {
        CommandId {
            transaction: TransactionId([1; 16]),
            step: StepName::parse("s").unwrap(),
            undo: false,
            attempt,
        }
    }

    fn announcement(held: &[CommandId]) -> Announcement {
        Announcement {
            host: host(),
            workers: vec![(worker(), 4)],
            held: held.to_vec(),
        }
    }

    /// A table with one host that came at 0 and was given commands 1 to 3.
    fn busy() -> (Table, Session) {
        let mut table = Table::new(LEASE_US, 2);
        let came = table
            .announce(&announcement(&[]), Time(0), |_| true)
            .unwrap();
        for attempt in 1..=3 {
            table.grant(&host(), command(attempt), worker());
        }
        (table, came.session)
    }

    #[test]
    fn a_lease_lapses_once_its_time_is_over_and_not_before() {
        let (mut table, session) = busy();
        assert_eq!(table.due(), Some(Time(10)));
        table.renew(&host(), session, Time(5)).unwrap();
        // A heartbeat that was overtaken shortens nothing.
        table.renew(&host(), session, Time(3)).unwrap();
        assert!(table.lapse(Time(14)).is_empty());
        let lapsed = table.lapse(Time(15));
        assert_eq!(lapsed.len(), 1);
        assert_eq!(lapsed[0].session, Some(session));
        assert_eq!(lapsed[0].commands, [command(1), command(2), command(3)]);
        assert_eq!(table.due(), None);
        let problem = table.renew(&host(), session, Time(16)).unwrap_err();
        assert_eq!(problem.reason, Reason::SessionUnknown);
    }

    #[test]
    fn who_reconnects_in_time_keeps_what_it_holds() {
        let (mut table, session) = busy();
        assert_eq!(table.disconnect(&host(), session), Some(false));
        assert_eq!(table.connected(), 0);
        // 1 it still has, 2 it forgot, 3 ended meanwhile, 9 it never had.
        let holds = |held: &CommandId| held.attempt <= 2;
        let held = [command(1), command(3), command(9), command(1)];
        let back = table
            .announce(&announcement(&held), Time(8), holds)
            .unwrap();
        assert_eq!(back.replaced, None);
        assert_eq!(back.kept, [command(1)]);
        assert_eq!(back.revoked, [command(3), command(9)]);
        assert_eq!(back.lost, [command(2)]);
        assert_eq!(back.offered, [(worker(), 4, 1)]);
        assert_eq!(table.due(), Some(Time(18)));
        assert_eq!(table.release(&host(), &command(1)), Some(worker()));
        assert_eq!(table.release(&host(), &command(1)), None);
        assert_eq!(table.release(&host(), &command(3)), None);
    }

    #[test]
    fn a_second_stream_replaces_the_first_whose_end_changes_nothing() {
        let (mut table, first) = busy();
        let second = table
            .announce(&announcement(&[command(1)]), Time(1), |_| true)
            .unwrap();
        assert_eq!(second.replaced, Some(first));
        assert!(table.is_open(&host(), second.session));
        assert_eq!(table.disconnect(&host(), first), None);
        assert!(!table.drain(&host(), first));
        assert!(table.renew(&host(), first, Time(2)).is_err());
        assert!(table.is_open(&host(), second.session));
    }

    #[test]
    fn a_drained_host_leaves_at_once_and_one_with_work_only_after_its_lease() {
        let (mut table, session) = busy();
        assert!(table.drain(&host(), session));
        assert!(!table.drain(&host(), session));
        assert_eq!(table.disconnect(&host(), session), Some(false));
        assert_eq!(table.lapse(Time(10)).len(), 1);
        let came = table
            .announce(&announcement(&[]), Time(20), |_| true)
            .unwrap();
        table.drain(&host(), came.session);
        assert_eq!(table.disconnect(&host(), came.session), Some(true));
        assert_eq!(table.due(), None);
    }

    #[test]
    fn after_a_restart_every_lease_begins_anew_in_full() {
        let mut table = Table::new(LEASE_US, 2);
        table.restore(vec![(host(), vec![(command(1), worker())])], Time(1_000));
        assert_eq!(table.due(), Some(Time(1_010)));
        let back = table
            .announce(&announcement(&[command(1)]), Time(1_009), |_| true)
            .unwrap();
        assert_eq!(back.kept, [command(1)]);
        assert!(table.lapse(Time(1_010)).is_empty());
    }

    #[test]
    fn a_full_table_refuses_strangers_only() {
        let (mut table, _) = busy();
        for (name, fits) in [("x", true), ("y", false), ("h", true)] {
            let stranger = Announcement {
                host: HostId::parse(name).unwrap(),
                ..announcement(&[])
            };
            let answer = table.announce(&stranger, Time(1), |_| true);
            assert_eq!(answer.is_ok(), fits, "{name}");
        }
    }
}
