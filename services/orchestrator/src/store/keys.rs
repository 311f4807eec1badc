//! Which idempotency keys state.db may have: a filter in memory, so that a new key needs no look-up.
//!
//! It may say yes for a key that was never there, never no for one that is. Keys that were trimmed
//! stay in it until the next start: they cost a look-up, nothing else. It learns the keys of earlier
//! lives behind the start, and says yes to everything until it knows them all.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use proto::id::WorkflowName;

/// Keys that the first part of the filter is made for; each further part takes twice as many.
const FIRST_KEYS: u64 = 1 << 16;
/// Bits for each key: about one false yes in two hundred.
const BITS_PER_KEY: u64 = 16;
/// Bits set for each key.
const PROBES: u64 = 4;

/// Stands for a workflow and an idempotency key; as state.db has it, so it must stay what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyHash(pub(super) i64);

impl KeyHash {
    /// Of a key of a workflow. No name of a workflow is empty or has a control character, so the two
    /// can't run into each other.
    pub(super) fn of(workflow: &WorkflowName, key: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(workflow.as_str().as_bytes());
        hasher.update(&[0]);
        hasher.update(key.as_bytes());
        let mut first = [0; 8];
        hasher.finalize_xof().fill(&mut first);
        Self(i64::from_le_bytes(first))
    }
}

/// The filter; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Keys(Arc<Filter>);

#[derive(Debug)]
struct Filter {
    parts: RwLock<Vec<Part>>,
    /// Whether every key of state.db is in it.
    complete: AtomicBool,
}

/// One Bloom filter.
#[derive(Debug)]
struct Part {
    bits: Vec<AtomicU64>,
    keys: AtomicU64,
    keys_max: u64,
}

impl Default for Keys {
    fn default() -> Self {
        Self(Arc::new(Filter {
            parts: RwLock::new(vec![Part::new(FIRST_KEYS)]),
            complete: AtomicBool::new(false),
        }))
    }
}

impl Keys {
    /// Remembers a key; before its row is committed.
    pub(super) fn insert(&self, key: KeyHash) {
        let hash = key.0.cast_unsigned();
        {
            let parts = self.0.parts.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(part) = parts.last()
                && part.keys.fetch_add(1, Ordering::Relaxed) < part.keys_max
            {
                part.insert(hash);
                return;
            }
        }
        let mut parts = self.0.parts.write().unwrap_or_else(PoisonError::into_inner);
        let larger = parts.last().map_or(FIRST_KEYS, |part| part.keys_max * 2);
        let part = Part::new(larger);
        part.keys.fetch_add(1, Ordering::Relaxed);
        part.insert(hash);
        parts.push(part);
    }

    /// Every key that state.db had at the start is in it.
    pub(super) fn completed(&self) {
        self.0.complete.store(true, Ordering::Release);
    }

    /// Whether the key may be there.
    pub(super) fn may_have(&self, key: KeyHash) -> bool {
        if !self.0.complete.load(Ordering::Acquire) {
            return true;
        }
        let hash = key.0.cast_unsigned();
        let parts = self.0.parts.read().unwrap_or_else(PoisonError::into_inner);
        parts.iter().any(|part| part.may_have(hash))
    }
}

impl Part {
    fn new(keys_max: u64) -> Self {
        let words = keys_max * BITS_PER_KEY / 64;
        Self {
            bits: (0..words).map(|_| AtomicU64::new(0)).collect(),
            keys: AtomicU64::new(0),
            keys_max,
        }
    }

    fn insert(&self, hash: u64) {
        for (word, bit) in self.places(hash) {
            self.bits[word].fetch_or(bit, Ordering::Release);
        }
    }

    fn may_have(&self, hash: u64) -> bool {
        self.places(hash)
            .all(|(word, bit)| self.bits[word].load(Ordering::Acquire) & bit != 0)
    }

    /// The words and bits of a hash: its halves, one stepping from the other.
    fn places(&self, hash: u64) -> impl Iterator<Item = (usize, u64)> {
        let bits = self.bits.len() as u64 * 64;
        let step = (hash >> 32) | 1;
        (0..PROBES).map(move |probe| {
            let place = hash.wrapping_add(probe.wrapping_mul(step)) % bits;
            ((place / 64) as usize, 1 << (place % 64))
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn it_never_denies_a_key_and_seldom_claims_one() {
        let keys = Keys::default();
        let workflow = WorkflowName::parse("orders").unwrap();
        let other = WorkflowName::parse("others").unwrap();
        let key = |workflow, number| KeyHash::of(workflow, &format!("key-{number}"));
        assert!(
            keys.may_have(key(&workflow, 0)),
            "not all keys are known yet"
        );
        keys.completed();
        assert!(!keys.may_have(key(&workflow, 0)));
        let count = 200_000;
        (0..count).for_each(|number| keys.insert(key(&workflow, number)));
        assert!((0..count).all(|number| keys.may_have(key(&workflow, number))));
        let claimed = (0..count)
            .filter(|number| keys.may_have(key(&other, *number)))
            .count();
        assert!(claimed < count / 50, "{claimed} of {count}");
    }

    #[test]
    fn a_key_hashes_as_it_did_when_its_row_was_written() {
        let workflow = WorkflowName::parse("orders").unwrap();
        assert_eq!(
            KeyHash::of(&workflow, "key-1"),
            KeyHash(5_347_874_423_049_648_339)
        );
    }
}
