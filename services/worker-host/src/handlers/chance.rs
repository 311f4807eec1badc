//! Randomness that a seed makes repeatable: the n-th command of a worker draws the same numbers in
//! every run, in whatever order commands end.

use std::sync::atomic::{AtomicU64, Ordering};

use rand::SeedableRng as _;
use rand::rngs::StdRng;

/// Where one worker's randomness comes from.
#[derive(Debug)]
pub struct Chance {
    /// None: the system's.
    seed: Option<u64>,
    drawn: AtomicU64,
}

impl Chance {
    /// The chance of the worker `name`.
    pub fn new(seed: Option<u64>, name: &str) -> Self {
        Self {
            seed: seed.map(|seed| seed ^ stable_hash(name.as_bytes())),
            drawn: AtomicU64::new(0),
        }
    }

    /// The numbers of the next command.
    pub fn next(&self) -> StdRng {
        let nth = self.drawn.fetch_add(1, Ordering::Relaxed);
        match self.seed {
            Some(seed) => StdRng::seed_from_u64(seed.wrapping_add(spread(nth))),
            None => StdRng::from_os_rng(),
        }
    }
}

/// FNV-1a with a last mixing: the same on every machine and in every version.
pub fn stable_hash(bytes: &[u8]) -> u64 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    spread(hash)
}

/// Spreads what differs in a few bits over all of them.
fn spread(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng as _;

    fn draws(chance: &Chance) -> Vec<u64> {
        (0..100).map(|_| chance.next().random()).collect()
    }

    #[test]
    fn a_seed_gives_the_same_numbers_in_every_run_and_others_to_each_worker_and_command() {
        let first = draws(&Chance::new(Some(7), "a"));
        assert_eq!(first, draws(&Chance::new(Some(7), "a")));
        assert_ne!(first, draws(&Chance::new(Some(8), "a")));
        assert_ne!(first, draws(&Chance::new(Some(7), "b")));
        let distinct: std::collections::BTreeSet<_> = first.iter().collect();
        assert_eq!(distinct.len(), 100);
    }

    #[test]
    fn without_a_seed_every_run_differs() {
        assert_ne!(
            draws(&Chance::new(None, "a")),
            draws(&Chance::new(None, "a"))
        );
    }

    #[test]
    fn the_hash_is_the_same_for_ever() {
        assert_eq!(stable_hash(b"cpu_test_0-0"), 16_919_817_141_930_885_989);
    }
}
