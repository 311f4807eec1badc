//! The configuration that the folds depend on. It stands in the log, so that a refold uses the
//! settings of then.

use serde::{Deserialize, Serialize};

/// What the folds keep, and by which figures they judge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Whether events are counted, traced and grouped.
    pub events: bool,
    /// Whether workers' performance and health are followed.
    pub workers: bool,
    /// Whether machines' samples are kept.
    pub system: bool,
    /// How long traces and patterns are kept.
    pub trace_retention_seconds: u64,
    /// How long figures are kept.
    pub figures_retention_seconds: u64,
    /// How often what is past its retention is dropped.
    pub cleanup_interval_seconds: u64,
    /// Whether sizes of payloads are summed.
    pub payload_sizes: bool,
    /// Whether waiting and running are told apart.
    pub detailed_timing: bool,
    /// The window that health is judged by.
    pub performance_window_seconds: u64,
    /// From which error ratio on a worker is degraded.
    pub error_rate_threshold: f64,
    /// From which average run on a worker is slow, in microseconds.
    pub slow_execution_us: u64,
    /// How many series one bucket of time may have.
    pub series_max: u64,
    /// How many ended transactions are kept at hand.
    pub ended_traces_max: u64,
    /// How many patterns there may be.
    pub patterns_max: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            events: true,
            workers: true,
            system: true,
            trace_retention_seconds: 24 * 3_600,
            figures_retention_seconds: 168 * 3_600,
            cleanup_interval_seconds: 60 * 60,
            payload_sizes: true,
            detailed_timing: true,
            performance_window_seconds: 30 * 60,
            error_rate_threshold: 0.2,
            slow_execution_us: 5_000_000,
            series_max: 1_000,
            ended_traces_max: 16_384,
            patterns_max: 1_000,
        }
    }
}

impl Settings {
    /// How far back figures of events and workers reach.
    pub fn retention_seconds(&self) -> u64 {
        self.figures_retention_seconds
            .max(self.trace_retention_seconds)
    }

    /// Whether a sweep is due between two instants (microseconds): when the clock passes a multiple
    /// of the interval, so that a refold sweeps at the same entries.
    pub fn sweep_is_due(&self, before_us: i64, now_us: i64) -> bool {
        let interval = seconds_to_us(self.cleanup_interval_seconds.max(1));
        before_us.div_euclid(interval) != now_us.div_euclid(interval)
    }
}

/// Seconds in microseconds, as instants count.
pub fn seconds_to_us(seconds: u64) -> i64 {
    i64::try_from(seconds)
        .unwrap_or(i64::MAX)
        .saturating_mul(1_000_000)
}
