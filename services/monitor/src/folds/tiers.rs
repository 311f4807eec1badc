//! Buckets of time: fine for what is recent, coarse for what is old.
//!
//! A bucket is a second long for ten minutes, then ten seconds for two hours, then a minute for a
//! day, then an hour until it is forgotten. An event goes where its own time lies, however late it
//! comes. Buckets without events take no room, and clones share buckets until one of them changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::settings::seconds_to_us;

/// How long a bucket of each tier is, in seconds; each divides the next.
pub const WIDTHS: [i64; 4] = [1, 10, 60, 3_600];
/// How long something stays in each of the first three tiers, in seconds.
const SPANS: [i64; 3] = [600, 7_200, 86_400];

/// What a bucket holds.
pub trait Bucket: Clone + Default {
    /// Takes in all of `other`, the bucket that begins at this second in the tier below this one's.
    fn absorb(&mut self, other: &Self, start: i64, tier: usize);
}

/// Buckets over time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tiers<B> {
    tiers: [Arc<BTreeMap<i64, Arc<B>>>; 4],
    /// The second before which each of the first three tiers has nothing.
    rolled: [i64; 3],
    /// From when on nothing is missing, in microseconds: since when they are followed, whether or not
    /// there was anything to keep, or what was last forgotten.
    first_us: Option<i64>,
}

impl<B> Default for Tiers<B> {
    fn default() -> Self {
        Self {
            tiers: Default::default(),
            rolled: [i64::MIN; 3],
            first_us: None,
        }
    }
}

/// A stretch of buckets.
pub struct Covered<'a, B> {
    /// Where it begins, in microseconds: what was asked for, moved back to a bucket's edge, or where
    /// what is known begins if that is later.
    pub start_us: i64,
    /// The buckets in it: tier, first second, contents.
    pub buckets: Vec<(usize, i64, &'a B)>,
}

impl<B: Bucket> Tiers<B> {
    /// The bucket for an event of this time, and its tier.
    pub fn at(&mut self, time_us: i64) -> (usize, &mut B) {
        let second = time_us.div_euclid(1_000_000);
        let tier = self.tier_of(second);
        self.follow(time_us);
        let start = floor(second, WIDTHS[tier]);
        let buckets = Arc::make_mut(&mut self.tiers[tier]);
        (tier, Arc::make_mut(buckets.entry(start).or_default()))
    }

    /// Says that all from this instant on is told to these buckets. A stretch in which nothing happened
    /// is covered too.
    pub fn follow(&mut self, since_us: i64) {
        self.first_us = Some(self.first_us.map_or(since_us, |first| first.min(since_us)));
    }

    /// Moves what has grown old into coarser buckets.
    pub fn roll(&mut self, now_us: i64) {
        let now = now_us.div_euclid(1_000_000);
        for tier in 0..3 {
            let edge = floor(now.saturating_sub(SPANS[tier]), WIDTHS[tier + 1]);
            if edge <= self.rolled[tier] {
                continue;
            }
            self.rolled[tier] = edge;
            if self.tiers[tier].range(..edge).next().is_none() {
                continue;
            }
            let finer = Arc::make_mut(&mut self.tiers[tier]);
            let kept = finer.split_off(&edge);
            let old = std::mem::replace(finer, kept);
            let coarser = Arc::make_mut(&mut self.tiers[tier + 1]);
            for (start, bucket) in old {
                let target = coarser.entry(floor(start, WIDTHS[tier + 1])).or_default();
                Arc::make_mut(target).absorb(&bucket, start, tier + 1);
            }
        }
    }

    /// Forgets what lies wholly before this instant.
    pub fn forget(&mut self, before_us: i64) {
        let before = before_us.div_euclid(1_000_000);
        for (tier, width) in WIDTHS.iter().enumerate() {
            // A bucket goes when all of it is old.
            let edge = floor(before, *width);
            if self.tiers[tier].range(..edge).next().is_some() {
                let buckets = Arc::make_mut(&mut self.tiers[tier]);
                *buckets = buckets.split_off(&edge);
            }
        }
        // What the tier of that second still has of it is whole from its bucket's edge on.
        let edge = floor(before, WIDTHS[self.tier_of(before)]).saturating_mul(1_000_000);
        self.first_us = self.first_us.map(|first| first.max(edge));
    }

    /// The tier that a second belongs to.
    fn tier_of(&self, second: i64) -> usize {
        (0..3)
            .find(|tier| second >= self.rolled[*tier])
            .unwrap_or(3)
    }

    /// All that happened from `start_us` on. It may begin a little before that, at a bucket's
    /// edge: a window covers at least what was asked for, and says what it covers.
    pub fn since(&self, start_us: i64) -> Covered<'_, B> {
        let second = start_us.div_euclid(1_000_000);
        let tier = self.tier_of(second);
        let edge = floor(second, WIDTHS[tier]);
        let buckets = self
            .tiers
            .iter()
            .enumerate()
            .flat_map(|(tier, buckets)| {
                buckets
                    .range(edge..)
                    .map(move |(start, bucket)| (tier, *start, &**bucket))
            })
            .collect();
        let start_us = edge.saturating_mul(1_000_000);
        Covered {
            start_us: self.first_us.map_or(start_us, |first| first.max(start_us)),
            buckets,
        }
    }

    /// Before which instant events are kept in buckets of a minute and more, in microseconds.
    pub fn coarse_before_us(&self) -> i64 {
        self.rolled[1].saturating_mul(1_000_000)
    }
}

/// The instant before which figures are past their retention.
pub fn cutoff_us(now_us: i64, retention_seconds: u64) -> i64 {
    now_us.saturating_sub(seconds_to_us(retention_seconds))
}

fn floor(second: i64, width: i64) -> i64 {
    second.div_euclid(width).saturating_mul(width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Remembers each time that it was given.
    #[derive(Clone, Debug, Default)]
    struct Times(Vec<i64>);

    impl Bucket for Times {
        fn absorb(&mut self, other: &Self, _: i64, _: usize) {
            self.0.extend(&other.0);
        }
    }

    proptest! {
        #[test]
        fn a_window_has_each_event_that_it_says_it_covers_and_no_other(
            steps in prop::collection::vec((0_i64..4_000_000_000, 0_i64..90_000_000_000), 1..200),
            window in 1_000_000_i64..200_000_000_000,
        ) {
            let mut tiers = Tiers::<Times>::default();
            let mut now = 1_700_000_000_000_000;
            let mut all = Vec::new();
            for (passed, late) in steps {
                now += passed;
                tiers.roll(now);
                let time = now - late;
                tiers.at(time).1.0.push(time);
                all.push(time);
            }
            let covered = tiers.since(now - window);
            prop_assert!(covered.start_us <= now - window || all.iter().min() == Some(&covered.start_us));
            let mut found: Vec<i64> =
                covered.buckets.iter().flat_map(|(_, _, times)| times.0.clone()).collect();
            let mut wanted: Vec<i64> =
                all.into_iter().filter(|time| *time >= covered.start_us).collect();
            found.sort_unstable();
            wanted.sort_unstable();
            prop_assert_eq!(found, wanted);
        }

        #[test]
        fn what_is_forgotten_is_old_and_what_is_kept_is_complete(
            ages in prop::collection::vec(0_i64..400_000, 1..100),
            retention in 3_600_u64..300_000,
        ) {
            let now = 1_700_000_000_000_000;
            let mut tiers = Tiers::<Times>::default();
            for age in ages.iter().rev() {
                tiers.at(now - age * 1_000_000).1.0.push(*age);
            }
            tiers.roll(now);
            tiers.forget(cutoff_us(now, retention));
            let kept: usize = tiers.since(i64::MIN / 2).buckets.iter().map(|(_, _, times)| times.0.len()).sum();
            let young = ages.iter().filter(|age| **age < retention as i64).count();
            let not_much_older =
                ages.iter().filter(|age| **age < retention as i64 + 3_600).count();
            prop_assert!((young..=not_much_older).contains(&kept), "{young} {kept} {not_much_older}");
        }

        #[test]
        fn a_stretch_without_anything_is_covered_up_to_what_was_forgotten(
            followed in 1_i64..400_000,
            window in 1_i64..400_000,
            retention in 3_600_u64..300_000,
            happened in any::<bool>(),
        ) {
            let now = 1_700_000_000_000_000;
            let mut tiers = Tiers::<Times>::default();
            tiers.follow(now - followed * 1_000_000);
            if happened {
                tiers.at(now).1.0.push(0);
            }
            tiers.roll(now);
            tiers.forget(cutoff_us(now, retention));
            let covered = (now - tiers.since(now - window * 1_000_000).start_us) / 1_000_000;
            let known = followed.min(retention as i64 + 3_600);
            prop_assert!(covered >= window.min(followed).min(retention as i64), "{covered}");
            prop_assert!(covered <= known, "{covered}");
        }
    }
}
