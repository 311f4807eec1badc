//! Queues matched to free slots: per worker first in, first out; the least loaded host first.
//!
//! Pure: fed by the driver, it holds no clock and no channel. It is derived from the engine's state
//! and the sessions, so nothing of it is ever stored. Its length is bounded by the engine, which counts
//! what is queued and refuses starts.

use proto::id::{HostId, WorkerName};

use crate::engine::CommandKey;

/// The queues and the seats.
#[derive(Debug, Default)]
pub struct Dispatch {}

#[expect(clippy::unused_self, reason = "skeleton")]
impl Dispatch {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }
    /// A command waits.
    pub fn push(&mut self, worker: &WorkerName, command: CommandKey) {
        let _ = (worker, command);
        unimplemented!()
    }
    /// A command that was pushed is no longer wanted; `still` says which ones are
    /// (`State::is_queued`).
    pub fn withdraw(&mut self, worker: &WorkerName, still: impl Fn(&CommandKey) -> bool) {
        let _ = (worker, still);
        unimplemented!()
    }
    /// A host offers slots, `(worker, slots, of these in use)`; replaces what it offered before.
    pub fn host_up(&mut self, host: &HostId, offered: &[(WorkerName, u32, u32)]) {
        let _ = (host, offered);
        unimplemented!()
    }
    /// A host takes nothing more: it drains, went away, or its lease lapsed.
    pub fn host_gone(&mut self, host: &HostId) {
        let _ = host;
        unimplemented!()
    }
    /// A slot became free (`Table::release` returned the worker).
    pub fn free(&mut self, host: &HostId, worker: &WorkerName) {
        let _ = (host, worker);
        unimplemented!()
    }
    /// The next command with the slot that it gets; none: nothing to match. `still` says whether a
    /// command is wanted (`State::is_queued`).
    pub fn next_match(
        &mut self,
        still: impl Fn(&CommandKey) -> bool,
    ) -> Option<(CommandKey, HostId)> {
        let _ = still;
        unimplemented!()
    }
    /// How many wait, by worker, by name: for metrics. Withdrawn ones may still be counted.
    pub fn waiting(&self) -> Vec<(WorkerName, usize)> {
        unimplemented!()
    }
}
