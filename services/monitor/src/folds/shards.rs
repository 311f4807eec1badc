//! A map in parts that clones share until one of them changes: a published view costs a handful of
//! reference counts, and a change after it copies one part.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

const SHARDS: usize = 64;

/// What tells in which part a key lies.
pub trait Sharded: Ord + Clone {
    /// Any byte that differs between keys.
    fn shard(&self) -> u8;
}

impl Sharded for [u8; 16] {
    fn shard(&self) -> u8 {
        // The last byte of a UUIDv7 is random, its first ones are the time.
        self[15]
    }
}

/// The map.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound(
    serialize = "K: Serialize + Ord, V: Serialize",
    deserialize = "K: Deserialize<'de> + Ord, V: Deserialize<'de>"
))]
pub struct Shards<K, V> {
    parts: Vec<Arc<BTreeMap<K, V>>>,
}

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        Self {
            parts: (0..SHARDS).map(|_| Arc::default()).collect(),
        }
    }
}

impl<K: Sharded, V: Clone> Shards<K, V> {
    fn place(key: &K) -> usize {
        usize::from(key.shard()) % SHARDS
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.parts.get(Self::place(key))?.get(key)
    }

    /// The part of a key, to change it.
    pub fn part(&mut self, key: &K) -> &mut BTreeMap<K, V> {
        Arc::make_mut(&mut self.parts[Self::place(key)])
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every key and value, part by part.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.parts.iter().flat_map(|part| part.iter())
    }
}
