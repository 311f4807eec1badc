//! Which commands a host has: running, or ended and not yet acknowledged. Pure bookkeeping.
//!
//! That a handler began is told at once, or by its result where that leaves with the same message.
//! A result is kept until its acknowledgement came, and sent again in each new session. A command
//! is never taken twice while it is here.

use std::collections::VecDeque;
use std::hash::BuildHasher as _;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use slab::Slab;
use tokio_util::sync::CancellationToken;

use crate::wire::{CommandProgress, CommandResult, Stage};

/// The commands of one host.
#[derive(Debug)]
pub struct Table {
    /// Where each command stands in `commands`, found by its id. An id is kept once.
    places: HashTable<usize>,
    hashing: RandomState,
    commands: Slab<Entry>,
    held_count: usize,
    /// The order in which results came, for sending again.
    next_order: u64,
    /// What is to be sent in this session: order and place.
    unsent: VecDeque<(u64, usize)>,
    /// Commands whose handlers began since the last message.
    begun: Vec<String>,
    commands_max: usize,
}

#[derive(Debug)]
enum Entry {
    /// At work; with `revoked` its result is nobody's any more.
    Running {
        command_id: String,
        cancelled: CancellationToken,
        revoked: bool,
        /// Whether its handler began and nobody was told yet.
        begun_untold: bool,
    },
    /// Ended.
    Held { order: u64, result: CommandResult },
}

impl Entry {
    fn command_id(&self) -> &str {
        match self {
            Self::Running { command_id, .. } => command_id,
            Self::Held { result, .. } => &result.command_id,
        }
    }
}

/// Whether a command is to be run.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is new.
    New,
    /// It is here already: a second delivery.
    Known,
    /// More commands than this host ever announced slots for.
    Full,
}

impl Table {
    pub fn new(commands_max: usize) -> Self {
        Self {
            places: HashTable::new(),
            hashing: RandomState::default(),
            commands: Slab::new(),
            held_count: 0,
            next_order: 0,
            unsent: VecDeque::new(),
            begun: Vec::new(),
            commands_max,
        }
    }

    /// Whether a command would be taken in.
    pub fn admission(&self, command_id: &str) -> Admission {
        if self.place(command_id).is_some() {
            Admission::Known
        } else if self.commands.len() >= self.commands_max {
            Admission::Full
        } else {
            Admission::New
        }
    }

    /// Takes a command in, unless it is here.
    pub fn admit(&mut self, command_id: &str, cancelled: &CancellationToken) -> Admission {
        let admission = self.admission(command_id);
        if admission == Admission::New {
            self.insert(Entry::Running {
                command_id: command_id.to_owned(),
                cancelled: cancelled.clone(),
                revoked: false,
                begun_untold: false,
            });
        }
        admission
    }

    /// A slot took a command and its handler begins: with a slot free the two are one moment.
    pub fn begin(&mut self, command_id: &str) {
        if let Some(Entry::Running { begun_untold, .. }) = self.get_mut(command_id) {
            *begun_untold = true;
            self.begun.push(command_id.to_owned());
        }
    }

    /// What began and has not ended since: to be told now.
    pub fn next_progress(&mut self) -> Vec<CommandProgress> {
        let mut progress = Vec::new();
        for command_id in std::mem::take(&mut self.begun) {
            if let Some(Entry::Running { begun_untold, .. }) = self.get_mut(&command_id)
                && std::mem::take(begun_untold)
            {
                let stage = Stage::Processing.into();
                progress.push(CommandProgress { command_id, stage });
            }
        }
        progress
    }

    /// Tells a running command to stop.
    pub fn cancel(&self, command_id: &str) {
        if let Some(Entry::Running { cancelled, .. }) = self.get(command_id) {
            cancelled.cancel();
        }
    }

    /// Stops a command that is another host's now, and drops its result. True if it was at work; a
    /// result that was held may have counted before, its acknowledgement lost.
    pub fn revoke(&mut self, command_id: &str) -> bool {
        match self.get_mut(command_id) {
            Some(Entry::Running {
                cancelled, revoked, ..
            }) => {
                *revoked = true;
                cancelled.cancel();
                true
            }
            Some(Entry::Held { .. }) => {
                self.acknowledge(command_id);
                false
            }
            None => false,
        }
    }

    /// Keeps the result of a running command, to be sent; a revoked one's is dropped.
    pub fn finish(&mut self, mut result: CommandResult) {
        let Some(place) = self.place(&result.command_id) else {
            return;
        };
        let order = self.next_order;
        match &mut self.commands[place] {
            Entry::Running { revoked: true, .. } => {
                self.remove(&result.command_id, false);
            }
            Entry::Running { begun_untold, .. } => {
                result.began = *begun_untold;
                self.commands[place] = Entry::Held { order, result };
                self.queue_newest(place);
            }
            Entry::Held { .. } => {}
        }
    }

    /// Keeps the result of a new command that came to its end before anything else could happen to
    /// it, so that it was never at work here. It says itself whether its handler began.
    pub fn hold(&mut self, result: CommandResult) {
        if self.admission(&result.command_id) == Admission::New {
            let order = self.next_order;
            let place = self.insert(Entry::Held { order, result });
            self.queue_newest(place);
        }
    }

    /// Is done with a command whose result was acknowledged, or refused for good; gives that.
    pub fn acknowledge(&mut self, command_id: &str) -> Option<CommandResult> {
        match self.remove(command_id, true)? {
            Entry::Held { result, .. } => {
                self.held_count -= 1;
                Some(result)
            }
            Entry::Running { .. } => None,
        }
    }

    /// Results to send now, oldest first: at least one if there is one, then as many as fit.
    pub fn next_results(&mut self, bytes_max: usize) -> Vec<CommandResult> {
        use prost::Message as _;
        let mut results = Vec::with_capacity(self.unsent.len());
        let mut bytes = 0;
        while let Some(&(order, place)) = self.unsent.front() {
            // One that was acknowledged meanwhile has left its place, perhaps to another.
            if let Some(Entry::Held {
                order: held,
                result,
            }) = self.commands.get(place)
                && *held == order
            {
                bytes += result.encoded_len();
                if bytes > bytes_max && !results.is_empty() {
                    break;
                }
                results.push(result.clone());
            }
            self.unsent.pop_front();
        }
        results
    }

    /// A new session: whatever was not acknowledged is to be sent again.
    pub fn send_again(&mut self) {
        let held = self
            .commands
            .iter()
            .filter_map(|(place, entry)| match entry {
                Entry::Held { order, .. } => Some((*order, place)),
                Entry::Running { .. } => None,
            });
        let mut held: Vec<_> = held.collect();
        held.sort_unstable();
        self.unsent = held.into();
    }

    /// Every command that is here, for the announcement.
    pub fn command_ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = self
            .commands
            .iter()
            .filter(|(_, entry)| !matches!(entry, Entry::Running { revoked: true, .. }))
            .map(|(_, entry)| entry.command_id().to_owned())
            .collect();
        ids.sort_unstable();
        ids
    }

    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty() || !self.begun.is_empty()
    }

    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// How many are ended and not acknowledged.
    pub fn held_count(&self) -> usize {
        self.held_count
    }

    /// How many are at work.
    pub fn running_count(&self) -> usize {
        self.commands.len() - self.held_count
    }

    fn place(&self, command_id: &str) -> Option<usize> {
        let hash = self.hashing.hash_one(command_id);
        let is_it = |place: &usize| self.commands[*place].command_id() == command_id;
        self.places.find(hash, is_it).copied()
    }

    fn get(&self, command_id: &str) -> Option<&Entry> {
        self.commands.get(self.place(command_id)?)
    }

    fn get_mut(&mut self, command_id: &str) -> Option<&mut Entry> {
        let place = self.place(command_id)?;
        self.commands.get_mut(place)
    }

    /// Puts in a command that is not here.
    fn insert(&mut self, entry: Entry) -> usize {
        let hash = self.hashing.hash_one(entry.command_id());
        let place = self.commands.insert(entry);
        let (commands, hashing) = (&self.commands, &self.hashing);
        self.places.insert_unique(hash, place, |place| {
            hashing.hash_one(commands[*place].command_id())
        });
        place
    }

    /// Takes out a command that is held, or one that runs; none if there is no such one.
    fn remove(&mut self, command_id: &str, held: bool) -> Option<Entry> {
        let hash = self.hashing.hash_one(command_id);
        let is_it = |place: &usize| {
            let entry = &self.commands[*place];
            matches!(entry, Entry::Held { .. }) == held && entry.command_id() == command_id
        };
        let found = self.places.find_entry(hash, is_it).ok()?;
        let (place, _) = found.remove();
        Some(self.commands.remove(place))
    }

    /// The result of this place is the newest.
    fn queue_newest(&mut self, place: usize) {
        self.unsent.push_back((self.next_order, place));
        self.next_order += 1;
        self.held_count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn result(id: &str) -> CommandResult {
        CommandResult {
            command_id: id.to_owned(),
            ..Default::default()
        }
    }

    fn ids(results: &[CommandResult]) -> Vec<&str> {
        results
            .iter()
            .map(|result| result.command_id.as_str())
            .collect()
    }

    #[test]
    fn a_second_delivery_is_not_taken_while_the_command_runs_or_its_result_is_held() {
        let token = CancellationToken::new();
        let mut table = Table::new(8);
        assert_eq!(table.admit("a", &token), Admission::New);
        assert_eq!(table.admit("a", &token), Admission::Known);
        table.finish(result("a"));
        assert_eq!(table.admit("a", &token), Admission::Known);
        table.acknowledge("a");
        assert!(table.is_empty());
    }

    #[test]
    fn what_was_sent_and_not_acknowledged_is_sent_again_in_its_order() {
        let token = CancellationToken::new();
        let mut table = Table::new(8);
        for id in ["a", "b", "c"] {
            table.admit(id, &token);
        }
        table.finish(result("c"));
        table.finish(result("a"));
        assert_eq!(ids(&table.next_results(1_000)), ["c", "a"]);
        assert!(!table.has_unsent());
        table.acknowledge("c");
        table.send_again();
        table.finish(result("b"));
        assert_eq!(table.command_ids(), ["a", "b"]);
        assert_eq!(ids(&table.next_results(1_000)), ["a", "b"]);
    }

    #[test]
    fn a_revoked_commands_result_is_dropped_whether_it_runs_or_is_held() {
        let token = CancellationToken::new();
        let mut table = Table::new(8);
        table.admit("running", &token);
        table.admit("held", &CancellationToken::new());
        table.finish(result("held"));
        assert!(table.revoke("running"));
        assert!(!table.revoke("held"));
        assert!(token.is_cancelled());
        table.finish(result("running"));
        assert!(table.next_results(1_000).is_empty());
        assert!(table.is_empty());
    }

    #[test]
    fn a_command_that_ended_where_it_arrived_is_held_like_any_other_and_says_that_it_began() {
        let mut table = Table::new(8);
        table.admit("slow", &CancellationToken::new());
        let began = true;
        table.hold(CommandResult {
            began,
            ..result("quick")
        });
        assert_eq!((table.held_count(), table.running_count()), (1, 1));
        assert_eq!(table.admission("quick"), Admission::Known);
        table.finish(result("slow"));
        for _session in 0..2 {
            let results = table.next_results(1_000);
            assert_eq!(ids(&results), ["quick", "slow"]);
            assert_eq!((results[0].began, results[1].began), (true, false));
            table.send_again();
        }
        table.acknowledge("quick");
        assert_eq!(table.admission("quick"), Admission::New);
    }

    #[test]
    fn a_place_that_was_left_unsent_is_another_commands_and_sends_only_that_ones_result() {
        let mut table = Table::new(8);
        table.hold(result("gone"));
        table.acknowledge("gone");
        table.admit("next", &CancellationToken::new());
        assert!(table.next_results(1_000).is_empty());
        table.hold(result("gone"));
        table.acknowledge("gone");
        table.hold(result("other"));
        assert_eq!(ids(&table.next_results(1_000)), ["other"]);
    }

    #[test]
    fn a_large_result_goes_alone_and_commands_are_bounded() {
        let token = CancellationToken::new();
        let mut table = Table::new(2);
        table.admit("a", &token);
        table.admit("b", &token);
        assert_eq!(table.admit("c", &token), Admission::Full);
        table.finish(result("a"));
        table.finish(result("b"));
        assert_eq!(ids(&table.next_results(1)), ["a"]);
        assert_eq!(ids(&table.next_results(1)), ["b"]);
    }

    #[test]
    fn a_beginning_is_told_alone_or_by_its_result_and_never_twice() {
        let token = CancellationToken::new();
        let mut table = Table::new(8);
        for id in ["quick", "slow", "waiting"] {
            table.admit(id, &token);
        }
        table.begin("quick");
        table.begin("slow");
        table.finish(result("quick"));
        table.finish(result("waiting"));
        let told = table.next_progress();
        assert_eq!(told.len(), 1);
        assert_eq!(
            (&*told[0].command_id, told[0].stage()),
            ("slow", Stage::Processing)
        );
        table.finish(result("slow"));
        assert!(table.next_progress().is_empty());
        let began: Vec<_> = (table.next_results(1_000).iter())
            .map(|result| (result.command_id.clone(), result.began))
            .collect();
        let expected = [("quick", true), ("waiting", false), ("slow", false)];
        assert_eq!(began, expected.map(|(id, began)| (id.to_owned(), began)));
    }

    proptest! {
        /// Whatever comes in whatever order: a result leaves each session at most once, none is
        /// sent after its acknowledgement, and a held one is never forgotten.
        #[test]
        fn every_result_is_sent_once_a_session_until_it_is_acknowledged(
            steps in prop::collection::vec((0_u8..7, 0_u8..5), 0..200)
        ) {
            let token = CancellationToken::new();
            let mut table = Table::new(64);
            let mut running = std::collections::BTreeSet::new();
            let mut held = std::collections::BTreeSet::new();
            let mut sent = std::collections::BTreeSet::new();
            for (step, id) in steps {
                let id = format!("c{id}");
                match step {
                    0 => if table.admit(&id, &token) == Admission::New {
                        prop_assert!(!held.contains(&id));
                        running.insert(id);
                    },
                    1 => {
                        table.finish(result(&id));
                        if running.remove(&id) { held.insert(id); }
                    }
                    2 => {
                        table.acknowledge(&id);
                        held.remove(&id);
                        sent.remove(&id);
                    }
                    3 => {
                        table.send_again();
                        sent.clear();
                    }
                    4 => {
                        let new = table.admission(&id) == Admission::New;
                        prop_assert_eq!(new, !running.contains(&id) && !held.contains(&id));
                        table.hold(result(&id));
                        if new { held.insert(id); }
                    }
                    _ => for result in table.next_results(10) {
                        prop_assert!(held.contains(&result.command_id));
                        prop_assert!(sent.insert(result.command_id));
                    },
                }
                prop_assert_eq!(table.held_count(), held.len());
                prop_assert_eq!(table.running_count(), running.len());
            }
            while table.has_unsent() {
                for result in table.next_results(10) { sent.insert(result.command_id); }
            }
            prop_assert_eq!(sent, held);
        }
    }
}
