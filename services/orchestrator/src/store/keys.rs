//! Which idempotency keys state.db may have, and where: a filter in memory, so that a new key needs no
//! look-up.
//!
//! It may say yes for a key that was never there, never no for one that is. Keys that were trimmed
//! stay in it until the next start: they cost a look-up, nothing else. It learns the keys of earlier
//! lives behind the start, the newest first, and says yes to all that is older than those.

use std::cmp::Reverse;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use proto::id::WorkflowName;

/// Keys that the first part of the filter is made for; each further part takes twice as many.
const FIRST_KEYS: u64 = 1 << 16;
/// A block takes so many: 24 bits for each. A false yes costs a look-up in each stretch of the log that the
/// part has keys of, dozens among millions of transactions, so it has to be rare.
const KEYS_PER_BLOCK: u64 = 21;
/// Odd numbers, one for each word of a block, each of which makes another bit of the same hash.
const SALTS: [u64; 8] = [
    0x9e37_79b9_7f4a_7c15,
    0xbf58_476d_1ce4_e5b9,
    0x94d0_49bb_1331_11eb,
    0xd6e8_feb8_6659_fd93,
    0xa076_1d64_78bd_642f,
    0xe703_7ed1_a0b4_28db,
    0x8ebc_6af0_9c88_c6e3,
    0x5899_65cc_7537_4cc3,
];

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
    /// Every key of this stretch of the log, and of those after it, is in it.
    known_from: AtomicI64,
}

/// One Bloom filter, of blocks that a key sets one bit in each word of: what a key needs stands in one
/// line of the processor's cache (Putze, Sanders, Singler: Cache-, Hash- and Space-Efficient Bloom
/// Filters, 2007).
#[derive(Debug)]
struct Part {
    blocks: Vec<Block>,
    keys: AtomicU64,
    keys_max: u64,
    /// The first and the last stretch of the log that it has keys of.
    first: AtomicI64,
    last: AtomicI64,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Block([AtomicU64; SALTS.len()]);

impl Default for Keys {
    fn default() -> Self {
        Self(Arc::new(Filter {
            parts: RwLock::new(vec![Part::new(FIRST_KEYS)]),
            known_from: AtomicI64::new(i64::MAX),
        }))
    }
}

impl Keys {
    /// Remembers a key of a stretch of the log; before its row is committed.
    pub(super) fn insert(&self, key: KeyHash, stretch: i64) {
        {
            let parts = self.0.parts.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(part) = parts.last()
                && part.keys.fetch_add(1, Ordering::Relaxed) < part.keys_max
            {
                part.insert(key, stretch);
                return;
            }
        }
        let mut parts = self.0.parts.write().unwrap_or_else(PoisonError::into_inner);
        let larger = parts.last().map_or(FIRST_KEYS, |part| part.keys_max * 2);
        let part = Part::new(larger);
        part.keys.fetch_add(1, Ordering::Relaxed);
        part.insert(key, stretch);
        parts.push(part);
    }

    /// Every key that state.db had at the start, of this stretch or later, is in it.
    pub(super) fn known_from(&self, stretch: i64) {
        self.0.known_from.store(stretch, Ordering::Release);
    }

    /// The stretches of the log that may have the key, the newest first.
    pub(super) fn may_have(&self, key: KeyHash) -> Vec<RangeInclusive<i64>> {
        let known_from = self.0.known_from.load(Ordering::Acquire);
        let parts = self.0.parts.read().unwrap_or_else(PoisonError::into_inner);
        let parts = parts.iter().filter(|part| part.may_have(key));
        let mut places: Vec<_> = parts.map(Part::stretches).collect();
        places.sort_by_key(|stretches| Reverse(*stretches.end()));
        if known_from > i64::MIN {
            places.push(i64::MIN..=known_from - 1);
        }
        places
    }
}

impl Part {
    fn new(keys_max: u64) -> Self {
        let blocks = keys_max.div_ceil(KEYS_PER_BLOCK);
        Self {
            blocks: (0..blocks).map(|_| Block::default()).collect(),
            keys: AtomicU64::new(0),
            keys_max,
            first: AtomicI64::new(i64::MAX),
            last: AtomicI64::new(i64::MIN),
        }
    }

    fn insert(&self, key: KeyHash, stretch: i64) {
        self.first.fetch_min(stretch, Ordering::Release);
        self.last.fetch_max(stretch, Ordering::Release);
        for (word, bit) in self.bits(key) {
            word.fetch_or(bit, Ordering::Release);
        }
    }

    fn may_have(&self, key: KeyHash) -> bool {
        self.bits(key)
            .all(|(word, bit)| word.load(Ordering::Acquire) & bit != 0)
    }

    fn stretches(&self) -> RangeInclusive<i64> {
        self.first.load(Ordering::Acquire)..=self.last.load(Ordering::Acquire)
    }

    /// The words of a key's block, each with the key's bit.
    fn bits(&self, key: KeyHash) -> impl Iterator<Item = (&AtomicU64, u64)> {
        let hash = key.0.cast_unsigned();
        // The upper half says which block, evenly; the lower half which bits.
        let block = ((hash >> 32) * self.blocks.len() as u64) >> 32;
        let words = self.blocks[block as usize].0.iter().zip(SALTS);
        words.map(move |(word, salt)| (word, 1 << ((hash << 32).wrapping_mul(salt) >> 58)))
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
        let before = |stretch| [i64::MIN..=stretch - 1];
        assert_eq!(
            keys.may_have(key(&workflow, 0)),
            before(i64::MAX),
            "none is known yet"
        );
        keys.known_from(7);
        assert_eq!(
            keys.may_have(key(&workflow, 0)),
            before(7),
            "older ones are not known yet"
        );
        keys.known_from(i64::MIN);
        assert_eq!(keys.may_have(key(&workflow, 0)), []);
        let count = 200_000;
        let stretch = |number: i64| number / 10_000;
        for number in 0..count {
            keys.insert(key(&workflow, number), stretch(number));
        }
        let at = |number| keys.may_have(key(&workflow, number));
        let there = |number| at(number).iter().any(|at| at.contains(&stretch(number)));
        assert!((0..count).all(there));
        assert_eq!(
            at(count - 1)[0],
            stretch(FIRST_KEYS as i64 * 3)..=stretch(count - 1)
        );
        let claimed = (0..count)
            .filter(|number| !keys.may_have(key(&other, *number)).is_empty())
            .count() as i64;
        assert!(claimed < count / 2_000, "{claimed} of {count}");
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
