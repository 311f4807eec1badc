//! Where each transaction stands in the slab: four bytes for each, since the slab has the ids.

use std::cell::Cell;
use std::hash::BuildHasher as _;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use slab::Slab;

use proto::id::TransactionId;

use super::transaction::Transaction;

/// Finds places by ids; only looked into, never listed.
#[derive(Debug, Default)]
pub(super) struct Index {
    places: HashTable<u32>,
    // Ids are drawn by the orchestrator, so their bits need mixing but no secret.
    hashing: FixedState,
    // An input asks for its transaction many times, and each look into the table would miss the cache.
    last: Cell<usize>,
}

impl Index {
    pub(super) fn find(&self, slab: &Slab<Transaction>, id: &TransactionId) -> Option<usize> {
        let last = self.last.get();
        if slab.get(last).is_some_and(|found| found.id == *id) {
            return Some(last);
        }
        let found = self
            .places
            .find(self.hashing.hash_one(id), |&at| slab[at as usize].id == *id);
        found.map(|&at| {
            self.last.set(at as usize);
            at as usize
        })
    }

    /// Adds the transaction at a place; its id is not there yet.
    pub(super) fn insert(&mut self, slab: &Slab<Transaction>, at: usize) {
        self.last.set(at);
        let hash = |&at: &u32| self.hashing.hash_one(slab[at as usize].id);
        // Memory ends long before so many transactions.
        let at = u32::try_from(at).unwrap_or(u32::MAX);
        self.places.insert_unique(hash(&at), at, hash);
    }

    /// Takes a transaction out and says where it stood; it is still there.
    pub(super) fn remove(&mut self, slab: &Slab<Transaction>, id: &TransactionId) -> Option<usize> {
        let found = self
            .places
            .find_entry(self.hashing.hash_one(id), |&at| slab[at as usize].id == *id);
        found.ok().map(|entry| entry.remove().0 as usize)
    }
}
