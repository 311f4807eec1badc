//! Repeatable chance: a seed from the environment, or a new one that is printed.

use std::time::Instant;

/// A generator of numbers that only tests draw (SplitMix64).
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// From `TEST_SEED`, else from the moment; a failing test shows which it was.
    pub fn new() -> Self {
        let given = std::env::var("TEST_SEED")
            .ok()
            .and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let place = std::ptr::from_ref(&given).addr() as u64;
            let moment = format!("{:?}", Instant::now());
            let digits: String = moment.chars().filter(char::is_ascii_digit).collect();
            digits.parse::<u64>().unwrap_or(1) ^ place ^ u64::from(std::process::id())
        });
        println!("TEST_SEED={seed}");
        Self(seed)
    }

    /// From a seed that is known already.
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next_u64() % limit.max(1)
    }

    /// A number from `low` to below `high`.
    pub fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low))
    }

    /// True once in `times`, on average.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of these; there must be one.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

impl Default for Chance {
    fn default() -> Self {
        Self::new()
    }
}
