//! The monitor's configuration: the page's four sections as they stand there, and sections of its
//! own. `config/monitor.yaml` has the defaults and says why each is what it is.
//!
//! Reading and checking only; nothing here opens or starts anything.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use eventlog::{Options, Sync};
use kit::config::{ByteCount, ConfigError, HumaneDuration, Loaded, Sources, above_zero};
use serde::Deserialize;

use crate::folds::settings::Settings;
use crate::recorder::Upkeep;

/// The commented default file, which is the defaults themselves.
pub const DEFAULTS: &str = include_str!("../../../config/monitor.yaml");
/// Variables that begin so go over the file.
pub const VARIABLE_PREFIX: &str = "MULTIAGENTS_MONITOR_";
/// The file that is found by itself in the working directory.
pub const FOUND_FILE: &str = "monitoring.yaml";

/// Other names of keys, and the right ones.
const ALIASES: &[(&str, &str)] = &[
    (
        "event_monitoring.detailed_event_tracking",
        "event_monitoring.detailed_timing",
    ),
    (
        "event_monitoring.track_performance",
        "event_monitoring.detailed_timing",
    ),
    ("logging.max_size_mb", "logging.max_file_size_mb"),
    (
        "worker_monitoring.performance_alerts",
        "worker_monitoring.alert_on_high_error_rate",
    ),
];
/// Keys whose system comes with a later release.
const NOT_YET_EFFECTIVE: &[&str] = &["metrics_collection.custom_metrics"];

/// Shows everything that happens in the suite: the monitor of the multiagents suite.
#[derive(Debug, Default, Parser)]
#[command(name = "multiagents-monitor", version)]
pub struct Flags {
    /// A YAML file laid over the built-in defaults, instead of monitoring.yaml in the working
    /// directory.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The address to listen on, such as 127.0.0.1:7003; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// The directory of the monitor's own log and snapshots.
    #[arg(long, value_name = "DIRECTORY")]
    pub data_dir: Option<String>,
    /// An orchestrator to follow, as host:port; may be repeated.
    #[arg(long = "orchestrator", value_name = "ADDRESS")]
    pub orchestrators: Vec<String>,
    /// Any other key, such as limits.max_subscribers=50; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_and_value)]
    pub set: Vec<(String, String)>,
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(key, value)| (key.trim().to_owned(), value.to_owned()))
        .ok_or_else(|| {
            format!("{text:?} has no '='; write KEY=VALUE, such as limits.max_subscribers=50")
        })
}

impl Flags {
    /// The configuration that defaults, file, `variables` and flags make together. A file that
    /// nobody named is looked for in `working_directory`.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn load(
        self,
        working_directory: &Path,
        variables: Vec<(String, String)>,
    ) -> Result<Loaded<Config>, ConfigError> {
        let mut overrides = self.set;
        for (key, value) in [("listen", self.listen), ("data_dir", self.data_dir)] {
            overrides.extend(value.map(|value| (key.to_owned(), value)));
        }
        if !self.orchestrators.is_empty() {
            let quoted: Vec<String> = self
                .orchestrators
                .iter()
                .map(|address| format!("{address:?}"))
                .collect();
            overrides.push((
                "orchestrators".to_owned(),
                format!("[{}]", quoted.join(", ")),
            ));
        }
        let found = || Some(working_directory.join(FOUND_FILE)).filter(|path| path.exists());
        let loaded: Loaded<Config> = kit::config::load(&Sources {
            defaults: DEFAULTS,
            files: self.config.or_else(found).into_iter().collect(),
            variable_prefix: VARIABLE_PREFIX,
            variables,
            overrides,
            aliases: ALIASES,
            not_yet_effective: NOT_YET_EFFECTIVE,
        })?;
        check(&loaded)?;
        Ok(loaded)
    }
}

/// Everything that can be configured.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The address to listen on.
    pub listen: String,
    /// The directory of the monitor's own log and snapshots.
    pub data_dir: PathBuf,
    /// The orchestrators that are followed.
    pub orchestrators: Vec<String>,
    /// Log lines.
    pub logging: kit::logging::Logging,
    /// What is kept of events.
    pub event_monitoring: EventMonitoring,
    /// What is kept of workers.
    pub worker_monitoring: WorkerMonitoring,
    /// What is kept of machines.
    pub metrics_collection: MetricsCollection,
    /// The monitor's own log.
    pub log: Log,
    /// How much of everything.
    pub limits: Limits,
    /// Who may be listened to and called by.
    pub exposure: kit::Exposure,
    /// Bounds of the server.
    pub server: kit::Limits,
}

/// See the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventMonitoring {
    /// Whether events are counted, traced and grouped.
    pub enabled: bool,
    /// How long traces are kept.
    pub trace_retention_hours: f64,
    /// How often what is old is dropped.
    pub cleanup_interval_minutes: f64,
    /// Whether sizes of payloads are summed.
    pub track_payload_size: bool,
    /// Whether waiting and running are told apart.
    pub detailed_timing: bool,
}

/// See the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerMonitoring {
    /// Whether performance and health are followed.
    pub enabled: bool,
    /// How often they are evaluated for the log.
    pub health_check_interval_seconds: f64,
    /// The window that health is judged by.
    pub performance_window_minutes: f64,
    /// Whether the rule per worker fires.
    pub alert_on_high_error_rate: bool,
    /// From which error ratio on a worker is degraded.
    pub error_rate_threshold: f64,
    /// From which average run on a worker is slow.
    pub slow_execution_threshold_ms: f64,
}

/// See the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsCollection {
    /// Whether machines' samples are kept.
    pub enabled: bool,
    /// How often the own machine is sampled.
    pub collection_interval_seconds: f64,
    /// How long figures are kept.
    pub retention_hours: f64,
    /// Whether machines' samples are kept, apart from custom metrics.
    pub include_system_metrics: bool,
    /// Declared ahead.
    pub custom_metrics: Vec<CustomMetric>,
}

/// A custom metric that is declared ahead.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CustomMetric {
    /// Its name.
    pub name: String,
    /// What kind of values it has.
    pub r#type: MetricType,
}

/// What kind of values a custom metric has.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum MetricType {
    /// It goes up and down.
    Gauge,
    /// It only grows.
    Counter,
    /// Many values, of which the distribution counts.
    Histogram,
}

/// See the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Size of one file.
    pub segment_bytes: ByteCount,
    /// Retention by size; zero: none.
    pub retention_bytes: ByteCount,
    /// Kept free on the disk.
    pub reserve_bytes: ByteCount,
    /// A snapshot after so many events.
    #[serde(deserialize_with = "above_zero")]
    pub snapshot_events: u64,
    /// And after so long.
    pub snapshot_interval: HumaneDuration,
}

/// See the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Subscribers of feeds.
    #[serde(deserialize_with = "above_zero")]
    pub max_subscribers: usize,
    /// Events at hand for them.
    #[serde(deserialize_with = "above_zero")]
    pub feed_events_max: u64,
    /// Messages that wait to be recorded.
    #[serde(deserialize_with = "above_zero")]
    pub inbox_messages_max: usize,
    /// Events in one message.
    pub message_events_max: usize,
    /// Series in one bucket of time.
    #[serde(deserialize_with = "above_zero")]
    pub series_max: u64,
    /// Ended transactions at hand.
    pub ended_traces_max: u64,
    /// Error patterns.
    #[serde(deserialize_with = "above_zero")]
    pub patterns_max: u64,
    /// Events of one trace.
    #[serde(deserialize_with = "above_zero")]
    pub trace_events_max: usize,
}

const HOURS_MAX: f64 = 24.0 * 366.0;
/// A key, its value, its least and its most.
type Range = (&'static str, fn(&Config) -> f64, f64, f64);

const RANGES: &[Range] = &[
    (
        "event_monitoring.trace_retention_hours",
        |config| config.event_monitoring.trace_retention_hours,
        0.01,
        HOURS_MAX,
    ),
    (
        "event_monitoring.cleanup_interval_minutes",
        |config| config.event_monitoring.cleanup_interval_minutes,
        0.05,
        24.0 * 60.0,
    ),
    (
        "worker_monitoring.health_check_interval_seconds",
        |config| config.worker_monitoring.health_check_interval_seconds,
        0.1,
        3_600.0,
    ),
    (
        "worker_monitoring.performance_window_minutes",
        |config| config.worker_monitoring.performance_window_minutes,
        0.1,
        24.0 * 60.0,
    ),
    (
        "worker_monitoring.error_rate_threshold",
        |config| config.worker_monitoring.error_rate_threshold,
        0.0,
        1.0,
    ),
    (
        "worker_monitoring.slow_execution_threshold_ms",
        |config| config.worker_monitoring.slow_execution_threshold_ms,
        0.001,
        86_400_000.0,
    ),
    (
        "metrics_collection.collection_interval_seconds",
        |config| config.metrics_collection.collection_interval_seconds,
        0.1,
        3_600.0,
    ),
    (
        "metrics_collection.retention_hours",
        |config| config.metrics_collection.retention_hours,
        0.01,
        HOURS_MAX,
    ),
    (
        "limits.message_events_max",
        |config| config.limits.message_events_max as f64,
        1.0,
        10_000.0,
    ),
    (
        "log.snapshot_interval",
        |config| config.log.snapshot_interval.as_secs_f64(),
        1.0,
        86_400.0,
    ),
];

/// What the single keys can't say. The refusal has the place where the value was written.
fn check(loaded: &Loaded<Config>) -> Result<(), ConfigError> {
    let config = &loaded.value;
    for (key, value, least, most) in RANGES {
        let value = value(config);
        if !(*least..=*most).contains(&value) {
            let message = format!("{value} is not between {least} and {most}");
            return Err(loaded.wrong(key, message));
        }
    }
    if config.log.segment_bytes.0 < eventlog::SEGMENT_BYTES_MIN {
        return Err(loaded.wrong("log.segment_bytes", "must be at least 4KiB"));
    }
    for address in &config.orchestrators {
        if format!("http://{address}")
            .parse::<tonic::transport::Uri>()
            .is_err()
            || !address.contains(':')
        {
            let message = format!("{address:?} is no host:port, such as 127.0.0.1:7001");
            return Err(loaded.wrong("orchestrators", message));
        }
    }
    for metric in &config.metrics_collection.custom_metrics {
        if let Err(problem) = proto::id::check_name("name", &metric.name) {
            return Err(loaded.wrong("metrics_collection.custom_metrics", problem.message));
        }
    }
    Ok(())
}

impl Config {
    /// What the folds depend on.
    pub fn settings(&self) -> Settings {
        let seconds = |value: f64, unit: f64| (value * unit).round().max(1.0) as u64;
        let (events, workers, metrics) = (
            &self.event_monitoring,
            &self.worker_monitoring,
            &self.metrics_collection,
        );
        Settings {
            events: events.enabled,
            workers: workers.enabled,
            system: metrics.enabled && metrics.include_system_metrics,
            trace_retention_seconds: seconds(events.trace_retention_hours, 3_600.0),
            figures_retention_seconds: seconds(metrics.retention_hours, 3_600.0),
            cleanup_interval_seconds: seconds(events.cleanup_interval_minutes, 60.0),
            payload_sizes: events.track_payload_size,
            detailed_timing: events.detailed_timing,
            performance_window_seconds: seconds(workers.performance_window_minutes, 60.0),
            error_rate_threshold: workers.error_rate_threshold,
            slow_execution_us: seconds(workers.slow_execution_threshold_ms, 1_000.0),
            series_max: self.limits.series_max,
            ended_traces_max: self.limits.ended_traces_max,
            patterns_max: self.limits.patterns_max,
        }
    }

    /// How the monitor's own log is kept. It is synced lazily: what a power cut takes of it is
    /// fetched again from the sources.
    pub fn log_options(&self) -> Options {
        let retention = self.event_monitoring.trace_retention_hours * 3_600.0;
        Options {
            segment_bytes: self.log.segment_bytes.0,
            retention_age: Some(Duration::from_secs_f64(retention)),
            retention_bytes: (self.log.retention_bytes.0 > 0).then_some(self.log.retention_bytes.0),
            reserve_bytes: self.log.reserve_bytes.0,
            sync: Sync::Lazily,
            ..Options::default()
        }
    }

    /// How often snapshots are written.
    pub fn upkeep(&self) -> Upkeep {
        Upkeep {
            snapshot_positions: self.log.snapshot_events.max(1),
            snapshot_interval: *self.log.snapshot_interval,
        }
    }
}
