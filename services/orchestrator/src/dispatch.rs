//! Queues matched to free slots: per worker first in, first out; the least loaded host first.
//!
//! Pure: fed by the driver, it holds no clock and no channel. It is derived from the engine's state
//! and the sessions, so nothing of it is ever stored. Its length is bounded by the engine, which counts
//! what is queued and refuses starts. (A priority would be one queue more per worker.)

use std::collections::{BTreeSet, VecDeque};

use foldhash::HashMap;
use proto::id::{HostId, WorkerName};

use crate::engine::CommandKey;

/// The queues and the slots.
#[derive(Debug, Default)]
pub struct Dispatch {
    /// Only looked into by name; what is listed is sorted.
    workers: HashMap<WorkerName, Queue>,
    /// What each host offers.
    hosts: HashMap<HostId, Vec<WorkerName>>,
    /// Workers where a match may be found, each once.
    hopeful: VecDeque<WorkerName>,
    /// Rises with each match, so that of equally loaded hosts the one that rested longest is next.
    turn: u64,
}

/// One worker's commands and slots.
#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<CommandKey>,
    /// How many of these are no longer wanted, at most.
    withdrawn: usize,
    seats: HashMap<HostId, Seat>,
    /// The seats with a free slot: load, turn, host.
    free: BTreeSet<(u32, u64, HostId)>,
    hopeful: bool,
}

/// A host's slots for one worker.
#[derive(Clone, Copy, Debug)]
struct Seat {
    slots: u32,
    used: u32,
    turn: u64,
}

impl Seat {
    /// Which part of its slots is taken, in 1/2^20.
    fn load(self) -> u32 {
        let part = (u64::from(self.used) << 20) / u64::from(self.slots.max(1));
        u32::try_from(part).unwrap_or(u32::MAX)
    }

    fn is_free(self) -> bool {
        self.used < self.slots
    }
}

impl Queue {
    /// Changes a seat and its place among the free ones.
    fn seat(&mut self, host: &HostId, change: impl FnOnce(&mut Seat)) {
        let Some(seat) = self.seats.get_mut(host) else {
            return;
        };
        if seat.is_free() {
            self.free.remove(&(seat.load(), seat.turn, host.clone()));
        }
        change(seat);
        if seat.is_free() {
            self.free.insert((seat.load(), seat.turn, host.clone()));
        }
    }
}

impl Dispatch {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// A command waits.
    pub fn push(&mut self, worker: &WorkerName, command: CommandKey) {
        if let Some(queue) = self.workers.get_mut(worker) {
            queue.waiting.push_back(command);
        } else {
            let queue = self.workers.entry(worker.clone()).or_default();
            queue.waiting.push_back(command);
        }
        self.hope(worker);
    }

    /// A command that was pushed is no longer wanted; `still` says which ones are
    /// (`State::is_queued`). It is dropped when its turn comes, or when half of the queue is such.
    pub fn withdraw(&mut self, worker: &WorkerName, still: impl Fn(&CommandKey) -> bool) {
        let Some(queue) = self.workers.get_mut(worker) else {
            return;
        };
        queue.withdrawn += 1;
        if queue.withdrawn * 2 > queue.waiting.len() {
            queue.waiting.retain(still);
            queue.withdrawn = 0;
        }
        self.forget(worker);
    }

    /// A host offers slots, `(worker, slots, of these in use)`; replaces what it offered before.
    pub fn host_up(&mut self, host: &HostId, offered: &[(WorkerName, u32, u32)]) {
        self.host_gone(host);
        let workers = offered.iter().map(|(worker, ..)| worker.clone()).collect();
        self.hosts.insert(host.clone(), workers);
        for (worker, slots, used) in offered {
            let queue = self.workers.entry(worker.clone()).or_default();
            let seat = Seat {
                slots: *slots,
                used: *used,
                turn: 0,
            };
            queue.seats.insert(host.clone(), seat);
            if seat.is_free() {
                queue.free.insert((seat.load(), seat.turn, host.clone()));
            }
            self.hope(worker);
        }
    }

    /// A host takes nothing more: it drains, went away, or its lease lapsed.
    pub fn host_gone(&mut self, host: &HostId) {
        for worker in self.hosts.remove(host).unwrap_or_default() {
            if let Some(queue) = self.workers.get_mut(&worker)
                && let Some(seat) = queue.seats.remove(host)
            {
                queue.free.remove(&(seat.load(), seat.turn, host.clone()));
            }
            self.forget(&worker);
        }
    }

    /// A slot became free (`Table::release` returned the worker). A host that is gone is passed over.
    pub fn free(&mut self, host: &HostId, worker: &WorkerName) {
        if let Some(queue) = self.workers.get_mut(worker) {
            queue.seat(host, |seat| seat.used = seat.used.saturating_sub(1));
            self.hope(worker);
        }
    }

    /// The next command with the slot that it gets, which is taken; none: nothing to match. `still` says
    /// whether a command is wanted (`State::is_queued`).
    pub fn next_match(
        &mut self,
        still: impl Fn(&CommandKey) -> bool,
    ) -> Option<(CommandKey, HostId)> {
        while let Some(worker) = self.hopeful.front() {
            if let Some(queue) = self.workers.get_mut(worker) {
                while let Some((.., host)) = queue.free.first() {
                    let Some(command) = queue.waiting.pop_front() else {
                        break;
                    };
                    if !still(&command) {
                        queue.withdrawn = queue.withdrawn.saturating_sub(1);
                        continue;
                    }
                    let host = host.clone();
                    self.turn += 1;
                    queue.seat(&host, |seat| {
                        seat.used += 1;
                        seat.turn = self.turn;
                    });
                    return Some((command, host));
                }
                queue.hopeful = false;
            }
            if let Some(worker) = self.hopeful.pop_front() {
                self.forget(&worker);
            }
        }
        None
    }

    /// How many wait, by worker, by name: for metrics. Withdrawn ones may still be counted.
    pub fn waiting(&self) -> Vec<(WorkerName, usize)> {
        let count = |(worker, queue): (&WorkerName, &Queue)| (worker.clone(), queue.waiting.len());
        let mut waiting: Vec<_> = self.workers.iter().map(count).collect();
        waiting.sort_unstable();
        waiting
    }

    /// Marks a worker for the next match, if it has both a command and a slot.
    fn hope(&mut self, worker: &WorkerName) {
        let Some(queue) = self.workers.get_mut(worker) else {
            return;
        };
        if !queue.hopeful && !queue.waiting.is_empty() && !queue.free.is_empty() {
            queue.hopeful = true;
            self.hopeful.push_back(worker.clone());
        }
    }

    /// Drops a worker that nothing waits for and nobody offers: names come from outside.
    fn forget(&mut self, worker: &WorkerName) {
        let idle =
            |queue: &Queue| queue.waiting.is_empty() && queue.seats.is_empty() && !queue.hopeful;
        if self.workers.get(worker).is_some_and(idle) {
            self.workers.remove(worker);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use proto::id::TransactionId;

    use super::*;

    fn command(number: u8) -> CommandKey {
        CommandKey {
            transaction: TransactionId([number; 16]),
            step: 0,
            attempt: 1,
            undo: false,
        }
    }

    fn worker(name: &str) -> WorkerName {
        WorkerName::parse(name).unwrap()
    }

    fn host(name: &str) -> HostId {
        HostId::parse(name).unwrap()
    }

    /// All matches there are, as `number@host`.
    fn matches(dispatch: &mut Dispatch) -> Vec<String> {
        std::iter::from_fn(|| dispatch.next_match(|_| true))
            .map(|(command, host)| format!("{}@{host}", command.transaction.0[0]))
            .collect()
    }

    #[test]
    fn who_came_first_is_served_first_and_no_slot_is_given_twice() {
        let mut dispatch = Dispatch::new();
        for number in 1..=4 {
            dispatch.push(&worker("w"), command(number));
        }
        assert!(matches(&mut dispatch).is_empty());
        dispatch.host_up(&host("a"), &[(worker("w"), 2, 0)]);
        assert_eq!(matches(&mut dispatch), ["1@a", "2@a"]);
        dispatch.free(&host("a"), &worker("w"));
        assert_eq!(matches(&mut dispatch), ["3@a"]);
        dispatch.free(&host("a"), &worker("other"));
        dispatch.free(&host("stranger"), &worker("w"));
        assert!(matches(&mut dispatch).is_empty());
    }

    #[test]
    fn the_least_loaded_host_is_first_and_of_equals_the_one_that_rested() {
        let mut dispatch = Dispatch::new();
        dispatch.host_up(&host("big"), &[(worker("w"), 4, 2)]);
        dispatch.host_up(&host("small"), &[(worker("w"), 2, 0)]);
        for number in 1..=4 {
            dispatch.push(&worker("w"), command(number));
        }
        assert_eq!(
            matches(&mut dispatch),
            ["1@small", "2@big", "3@small", "4@big"]
        );
    }

    #[test]
    fn a_host_that_is_gone_or_draining_gets_nothing() {
        let mut dispatch = Dispatch::new();
        dispatch.host_up(&host("a"), &[(worker("w"), 1, 0), (worker("v"), 1, 0)]);
        dispatch.host_gone(&host("a"));
        dispatch.push(&worker("w"), command(1));
        dispatch.free(&host("a"), &worker("w"));
        assert!(matches(&mut dispatch).is_empty());
        dispatch.host_up(&host("a"), &[(worker("w"), 2, 1)]);
        dispatch.push(&worker("w"), command(2));
        assert_eq!(matches(&mut dispatch), ["1@a"]);
    }

    #[test]
    fn what_was_withdrawn_is_passed_over_and_does_not_pile_up() {
        let mut dispatch = Dispatch::new();
        for number in 1..=100 {
            dispatch.push(&worker("w"), command(number));
            dispatch.withdraw(&worker("w"), |_| false);
        }
        assert!(dispatch.waiting().is_empty());
        dispatch.push(&worker("w"), command(1));
        dispatch.push(&worker("w"), command(2));
        dispatch.host_up(&host("a"), &[(worker("w"), 1, 0)]);
        let wanted = |key: &CommandKey| *key == command(2);
        assert_eq!(dispatch.next_match(wanted), Some((command(2), host("a"))));
    }

    proptest! {
        #[test]
        fn no_host_holds_more_than_its_slots_and_nothing_waits_beside_a_free_slot(
            steps in prop::collection::vec((0u8..6, 0u8..3, 0u8..3), 1..200)
        ) {
            let workers = ["u", "v", "w"].map(worker);
            let hosts = ["a", "b", "c"].map(host);
            let mut dispatch = Dispatch::new();
            let mut held: BTreeMap<(HostId, WorkerName), u32> = BTreeMap::new();
            let mut slots: BTreeMap<(HostId, WorkerName), u32> = BTreeMap::new();
            let mut waiting: BTreeMap<WorkerName, VecDeque<CommandKey>> = BTreeMap::new();
            for (number, (what, at, other)) in steps.into_iter().enumerate() {
                let (host, worker) = (&hosts[at as usize], &workers[other as usize]);
                match what {
                    0 => {
                        let offered: Vec<_> = workers[..=other as usize].iter()
                            .map(|worker| (worker.clone(), u32::from(at) + 1, 0)).collect();
                        dispatch.host_up(host, &offered);
                        slots.retain(|(known, _), _| known != host);
                        held.retain(|(known, _), _| known != host);
                        slots.extend(offered.into_iter().map(|(worker, slots, _)| ((host.clone(), worker), slots)));
                    }
                    1 => {
                        dispatch.host_gone(host);
                        slots.retain(|(known, _), _| known != host);
                        held.retain(|(known, _), _| known != host);
                    }
                    2 => if let Some(used) = held.get_mut(&(host.clone(), worker.clone())) && *used > 0 {
                        *used -= 1;
                        dispatch.free(host, worker);
                    },
                    _ => {
                        let mut key = command(0);
                        key.step = u16::try_from(number).unwrap();
                        dispatch.push(worker, key);
                        waiting.entry(worker.clone()).or_default().push_back(key);
                    }
                }
                while let Some((key, host)) = dispatch.next_match(|_| true) {
                    let (worker, queue) = waiting.iter_mut()
                        .find(|(_, queue)| queue.front() == Some(&key)).unwrap();
                    queue.pop_front();
                    let used = held.entry((host.clone(), worker.clone())).or_default();
                    *used += 1;
                    prop_assert!(*used <= slots[&(host, worker.clone())]);
                }
                for ((host, worker), slots) in &slots {
                    let used = held.get(&(host.clone(), worker.clone())).copied().unwrap_or_default();
                    let idle = waiting.get(worker).is_none_or(VecDeque::is_empty);
                    prop_assert!(idle || used == *slots);
                }
            }
        }
    }
}
