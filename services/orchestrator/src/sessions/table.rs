//! The sessions of worker hosts: leases, reconnects, and who was given which command.
//!
//! Pure: no clock, no channel; the driver owns it. Which result counts is the engine's to say (it
//! knows each attempt's host, stage and result); this table knows when a host has to be given up, and
//! which slots are taken.

use proto::error::Problem;
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
}

#[expect(clippy::unused_self, reason = "skeleton")]
#[expect(clippy::needless_pass_by_value, reason = "skeleton")]
impl Table {
    /// An empty table. `hosts_max`: full means that a new host is refused with HOSTS_LIMIT.
    pub fn new(lease_us: u64, hosts_max: usize) -> Self {
        Self {
            lease_us,
            hosts_max,
        }
    }
    /// After a replay (`State::hosts`): every known host gets its lease in full to come back.
    pub fn restore(&mut self, hosts: Vec<(HostId, Vec<(CommandId, WorkerName)>)>, now: Time) {
        let _ = (hosts, now, self.lease_us, self.hosts_max);
        unimplemented!()
    }
    /// A host came, or came back. `holds` says whether the engine has the command open at this host
    /// (`State::holds`).
    pub fn announce(
        &mut self,
        announcement: Announcement,
        now: Time,
        holds: impl Fn(&CommandId) -> bool,
    ) -> Result<Announced, Problem> {
        let _ = (announcement, now, holds);
        unimplemented!()
    }
    /// A sign of life that came at `at`: the lease runs anew from there. SESSION_UNKNOWN if it is no open
    /// session.
    pub fn renew(&mut self, host: &HostId, session: Session, at: Time) -> Result<(), Problem> {
        let _ = (host, session, at);
        unimplemented!()
    }
    /// Whether this is the host's open session.
    pub fn is_open(&self, host: &HostId, session: Session) -> bool {
        let _ = (host, session);
        unimplemented!()
    }
    /// The host wants no more commands. True if that is news.
    pub fn drain(&mut self, host: &HostId, session: Session) -> bool {
        let _ = (host, session);
        unimplemented!()
    }
    /// The stream of a session ended. Some(drained) if it was the host's open one; its lease runs on
    /// unless it left drained and holds nothing.
    pub fn disconnect(&mut self, host: &HostId, session: Session) -> Option<bool> {
        let _ = (host, session);
        unimplemented!()
    }
    /// A command was given to a host.
    pub fn grant(&mut self, host: &HostId, command: CommandId, worker: WorkerName) {
        let _ = (host, command, worker);
        unimplemented!()
    }
    /// The host reported a result, whatever became of it: its slot is free. The worker if it was taken: for
    /// `Dispatch::free`, unless the host drains or is away.
    pub fn release(&mut self, host: &HostId, command: &CommandId) -> Option<WorkerName> {
        let _ = (host, command);
        unimplemented!()
    }
    /// When the next lease lapses.
    pub fn due(&self) -> Option<Time> {
        unimplemented!()
    }
    /// The hosts whose leases have lapsed; they are forgotten. By id.
    pub fn lapse(&mut self, now: Time) -> Vec<Lapsed> {
        let _ = now;
        unimplemented!()
    }
    /// The open session of a host.
    pub fn session(&self, host: &HostId) -> Option<Session> {
        let _ = host;
        unimplemented!()
    }
    /// How many hosts have an open session.
    pub fn connected(&self) -> usize {
        unimplemented!()
    }
}
