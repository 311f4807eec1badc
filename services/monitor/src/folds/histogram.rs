//! How long things took: histograms of fixed relative precision that merge exactly.
//!
//! Cells are log-linear, 64 an octave: a cell's midpoint is within 0.8 % of all that is in it.
//! Count, sum, least and most are exact.

use serde::{Deserialize, Serialize};

/// Cells below this hold one value each.
const EXACT: u64 = 128;
/// Cells an octave.
const PER_OCTAVE: u64 = 64;
/// One more than the highest cell.
const CELLS: usize = 58 * 64 + 64;

/// Durations in microseconds; only cells that are not empty take room.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    cells: Vec<(u16, u32)>,
    count: u64,
    sum_us: u64,
    least_us: u64,
    most_us: u64,
}

impl Histogram {
    /// Adds one duration.
    pub fn record(&mut self, us: u64) {
        let cell = cell_of(us);
        match self.cells.binary_search_by_key(&cell, |(cell, _)| *cell) {
            Ok(at) => self.cells[at].1 = self.cells[at].1.saturating_add(1),
            Err(at) => self.cells.insert(at, (cell, 1)),
        }
        self.least_us = if self.count == 0 {
            us
        } else {
            self.least_us.min(us)
        };
        self.most_us = self.most_us.max(us);
        self.count += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// Adds all that `other` has.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            *self = other.clone();
            return;
        }
        let mut merged = Vec::with_capacity(self.cells.len() + other.cells.len());
        let (mut left, mut right) = (self.cells.iter().peekable(), other.cells.iter().peekable());
        while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
            match a.0.cmp(&b.0) {
                std::cmp::Ordering::Less => merged.extend(left.next().copied()),
                std::cmp::Ordering::Greater => merged.extend(right.next().copied()),
                std::cmp::Ordering::Equal => {
                    merged.push((a.0, a.1.saturating_add(b.1)));
                    left.next();
                    right.next();
                }
            }
        }
        merged.extend(left.copied());
        merged.extend(right.copied());
        self.cells = merged;
        self.count += other.count;
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
        self.least_us = self.least_us.min(other.least_us);
        self.most_us = self.most_us.max(other.most_us);
    }

    /// How many durations it has.
    pub fn count(&self) -> u64 {
        self.count
    }
}

/// The sum of many histograms, for one answer.
#[derive(Clone, Debug)]
pub struct Merged {
    cells: Vec<u64>,
    count: u64,
    sum_us: u64,
    least_us: u64,
    most_us: u64,
}

impl Default for Merged {
    fn default() -> Self {
        Self {
            cells: vec![0; CELLS],
            count: 0,
            sum_us: 0,
            least_us: u64::MAX,
            most_us: 0,
        }
    }
}

/// What people ask of many durations, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many.
    pub count: u64,
    /// The mean.
    pub average_us: u64,
    /// The shortest.
    pub least_us: u64,
    /// The longest.
    pub most_us: u64,
    /// Half took at most this.
    pub p50_us: u64,
    /// 95 of 100 took at most this.
    pub p95_us: u64,
    /// 99 of 100 took at most this.
    pub p99_us: u64,
}

impl Merged {
    /// Adds all that `histogram` has.
    pub fn add(&mut self, histogram: &Histogram) {
        if histogram.count == 0 {
            return;
        }
        for (cell, count) in &histogram.cells {
            self.cells[usize::from(*cell)] += u64::from(*count);
        }
        self.count += histogram.count;
        self.sum_us = self.sum_us.saturating_add(histogram.sum_us);
        self.least_us = self.least_us.min(histogram.least_us);
        self.most_us = self.most_us.max(histogram.most_us);
    }

    /// How many durations there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The summary; none without durations.
    pub fn summary(&self) -> Option<Summary> {
        let average_us = self.sum_us.checked_div(self.count)?;
        Some(Summary {
            count: self.count,
            average_us,
            least_us: self.least_us,
            most_us: self.most_us,
            p50_us: self.percentile(50),
            p95_us: self.percentile(95),
            p99_us: self.percentile(99),
        })
    }

    /// The least duration that `percent` of 100 do not exceed.
    fn percentile(&self, percent: u64) -> u64 {
        let rank = (self.count * percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (cell, count) in self.cells.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return midpoint(cell as u64).clamp(self.least_us, self.most_us);
            }
        }
        self.most_us
    }
}

fn cell_of(us: u64) -> u16 {
    let cell = if us < EXACT {
        us
    } else {
        let shift = u64::from(57 - us.leading_zeros());
        shift * PER_OCTAVE + (us >> shift)
    };
    // The highest is 57 * 64 + 127.
    u16::try_from(cell).unwrap_or(u16::MAX)
}

fn midpoint(cell: u64) -> u64 {
    if cell < EXACT {
        return cell;
    }
    let shift = cell / PER_OCTAVE - 1;
    let low = (cell - shift * PER_OCTAVE) << shift;
    low + ((1 << shift) >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn exact(sorted: &[u64], percent: usize) -> u64 {
        sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1]
    }

    fn near(found: u64, exact: u64) -> bool {
        found.abs_diff(exact) as f64 <= exact as f64 * 0.01
    }

    #[test]
    fn the_longest_duration_has_a_cell() {
        let mut histogram = Histogram::default();
        histogram.record(u64::MAX);
        let mut merged = Merged::default();
        merged.add(&histogram);
        assert_eq!(
            merged.summary().map(|summary| summary.p99_us),
            Some(u64::MAX)
        );
    }

    proptest! {
        #[test]
        fn percentiles_are_within_one_percent_and_the_rest_is_exact(
            mut values in prop::collection::vec(
                prop_oneof![0_u64..300, 0_u64..100_000, 0_u64..100_000_000_000], 1..400),
            parts in 1_usize..5,
        ) {
            let mut merged = Merged::default();
            for part in values.chunks(values.len().div_ceil(parts)) {
                let mut histogram = Histogram::default();
                part.iter().for_each(|us| histogram.record(*us));
                merged.add(&histogram);
            }
            values.sort_unstable();
            let summary = merged.summary().unwrap_or_default();
            prop_assert_eq!(summary.count, values.len() as u64);
            prop_assert_eq!(summary.average_us, values.iter().sum::<u64>() / values.len() as u64);
            prop_assert_eq!(summary.least_us, values[0]);
            prop_assert_eq!(summary.most_us, values[values.len() - 1]);
            for (found, percent) in
                [(summary.p50_us, 50), (summary.p95_us, 95), (summary.p99_us, 99)]
            {
                let exact = exact(&values, percent);
                prop_assert!(near(found, exact), "p{percent}: {found} for {exact}");
            }
        }

        #[test]
        fn merging_is_recording_everything_in_one(
            left in prop::collection::vec(0_u64..1_000_000, 0..100),
            right in prop::collection::vec(0_u64..1_000_000, 0..100),
        ) {
            let of = |values: &[u64]| {
                let mut histogram = Histogram::default();
                values.iter().for_each(|us| histogram.record(*us));
                histogram
            };
            let mut merged = of(&left);
            merged.merge(&of(&right));
            prop_assert_eq!(merged, of(&[left, right].concat()));
        }
    }
}
