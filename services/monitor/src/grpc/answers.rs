//! Requests' windows and names in, positions and figures out: what the services have in common.

use proto::convert::{duration_to_us, to_timestamp, us_to_duration};
use proto::error::{Problem, Reason};
use proto::id::{Time, check_name};
use proto::wire;

use crate::fold::Folds;
use crate::folds::histogram::Summary;
use crate::folds::settings::seconds_to_us;

/// The window of queries that name none, in seconds.
pub const WINDOW_SECONDS: u64 = 300;

/// The position at which an answer is true.
pub fn as_of(view: &Folds) -> wire::AsOf {
    let lag =
        |(source, state): (&std::sync::Arc<str>, &crate::folds::sources::Source)| wire::SourceLag {
            source: source.to_string(),
            offset: state.next,
            head_offset: state.head_offset,
            lag_events: state.lag_events(),
            lag: Some(us_to_duration(state.lag_us())),
            connected: state.connected,
        };
    wire::AsOf {
        position: view.position,
        time: Some(to_timestamp(view.time())),
        sources: view.sources.sources.iter().map(lag).collect(),
    }
}

/// Where a requested window begins, in microseconds: it ends at the view's time.
pub fn window_start(
    view: &Folds,
    window: Option<&prost_types::Duration>,
    default_seconds: u64,
    retention_seconds: u64,
) -> Result<i64, Problem> {
    let Some(window) = window else {
        return Ok(view.time_us.saturating_sub(seconds_to_us(default_seconds)));
    };
    let most_us = retention_seconds.saturating_mul(1_000_000);
    let us = duration_to_us("window", window, 1_000_000, most_us).map_err(|problem| Problem {
        reason: Reason::WindowInvalid,
        ..problem
    })?;
    let us = i64::try_from(us).unwrap_or(i64::MAX);
    Ok(view.time_us.saturating_sub(us))
}

/// What an answer covers.
pub fn window(start_us: i64, view: &Folds) -> wire::Window {
    wire::Window {
        start_time: Some(to_timestamp(Time(start_us.min(view.time_us)))),
        end_time: Some(to_timestamp(view.time())),
    }
}

/// How long a window is, in minutes; never less than a second, so that a rate is no nonsense.
pub fn minutes(start_us: i64, view: &Folds) -> f64 {
    let us = view.time_us.saturating_sub(start_us).max(1_000_000);
    us as f64 / 60e6
}

/// A name that may be left out.
pub fn optional_name<'a>(field: &str, name: &'a str) -> Result<Option<&'a str>, Problem> {
    if name.is_empty() {
        return Ok(None);
    }
    check_name(field, name)?;
    Ok(Some(name))
}

/// A summary on the wire.
pub fn latency(summary: Summary) -> wire::LatencySummary {
    wire::LatencySummary {
        count: summary.count,
        average: Some(us_to_duration(summary.average_us)),
        minimum: Some(us_to_duration(summary.least_us)),
        maximum: Some(us_to_duration(summary.most_us)),
        p50: Some(us_to_duration(summary.p50_us)),
        p95: Some(us_to_duration(summary.p95_us)),
        p99: Some(us_to_duration(summary.p99_us)),
    }
}
