//! The orchestrator's configuration: every limit, its defaults in `config/orchestrator.yaml`, which
//! also says why each is what it is.
//!
//! Reading and checking only, of the configuration and the workflow files that it names; nothing here
//! starts anything.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use kit::config::{ByteCount, ConfigError, HumaneDuration, Loaded, Sources, above_zero};
use kit::{exit, exit_with};
use proto::workflow::Workflow;
use serde::Deserialize;

use crate::definitions;

/// The commented default file, which is the defaults themselves.
pub const DEFAULTS: &str = include_str!("../../../config/orchestrator.yaml");
/// Variables that begin so go over the file.
pub const VARIABLE_PREFIX: &str = "MULTIAGENTS_ORCHESTRATOR_";

/// Runs workflows durably: the orchestrator of the multiagents suite.
#[derive(Debug, Parser)]
#[command(name = "multiagents-orchestrator", version)]
pub struct Flags {
    /// A YAML file laid over the built-in defaults.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The address to listen on, such as 127.0.0.1:7001; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// The directory of the log and of state.db.
    #[arg(long, value_name = "DIRECTORY")]
    pub data_dir: Option<String>,
    /// A directory whose *.yaml files are registered as workflows at start.
    #[arg(long, value_name = "DIRECTORY")]
    pub workflows_dir: Option<String>,
    /// Any other key, such as sessions.lease=20s; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_and_value)]
    pub set: Vec<(String, String)>,
    /// Something else than to run.
    #[command(subcommand)]
    pub task: Option<Task>,
}

/// What the program does instead of running.
#[derive(Debug, clap::Subcommand)]
pub enum Task {
    /// Fill the empty data directory with a backup's log, so that the next start runs from it.
    Restore(Restore),
}

/// What to restore, and how.
#[derive(Debug, clap::Args)]
pub struct Restore {
    /// The file that `multiagents backup` wrote.
    #[arg(value_name = "FILE")]
    pub backup: PathBuf,
    /// Restore what is whole of a backup that is cut off or damaged; what is lost is said.
    #[arg(long)]
    pub accept_loss: bool,
    /// Only read and check the backup, with its chain of hashes.
    #[arg(long)]
    pub check: bool,
    /// Print how far it is, and what came of it, as lines of JSON.
    #[arg(long)]
    pub progress: bool,
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(key, value)| (key.trim().to_owned(), value.to_owned()))
        .ok_or_else(|| format!("{text:?} has no '='; write KEY=VALUE, such as sessions.lease=20s"))
}

impl Flags {
    /// The configuration that defaults, file, `variables` and flags make together.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn load(self, variables: Vec<(String, String)>) -> Result<Loaded<Config>, ConfigError> {
        let mut overrides = self.set;
        for (key, value) in [
            ("listen", self.listen),
            ("data_dir", self.data_dir),
            ("workflows_dir", self.workflows_dir),
        ] {
            overrides.extend(value.map(|value| (key.to_owned(), value)));
        }
        let loaded: Loaded<Config> = kit::config::load(&Sources {
            defaults: DEFAULTS,
            files: self.config.into_iter().collect(),
            variable_prefix: VARIABLE_PREFIX,
            variables,
            overrides,
            ..Sources::default()
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
    /// The directory of the log and of state.db.
    pub data_dir: PathBuf,
    /// A directory of workflow files; empty: none.
    pub workflows_dir: PathBuf,
    /// How often the own machine is sampled.
    pub sample_interval: HumaneDuration,
    /// Who may be listened to and called by.
    pub exposure: kit::Exposure,
    /// The durable log.
    pub log: Log,
    /// state.db.
    pub store: Store,
    /// What the engine takes on.
    pub engine: Engine,
    /// The one loop.
    pub driver: Driver,
    /// Worker hosts.
    pub sessions: Sessions,
    /// Calls that wait.
    pub waiting: Waiting,
    /// Readers of the log.
    pub event_log: EventLog,
    /// Bounds of the server.
    pub server: kit::Limits,
    /// Log lines.
    pub logging: kit::logging::Logging,
}

/// See the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Size of one file.
    pub segment_bytes: ByteCount,
    /// Retention by age; zero: none.
    pub retention_age: HumaneDuration,
    /// Retention by size; zero: none.
    pub retention_bytes: ByteCount,
    /// Kept free for what ends work.
    pub reserve_bytes: ByteCount,
}

/// See the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    /// How often changed rows are written.
    pub write_interval: HumaneDuration,
    /// Ended transactions that may wait to be written.
    #[serde(deserialize_with = "above_zero")]
    pub unwritten_max: usize,
    /// Payloads up to this size stand in the row.
    pub inline_payload_bytes_max: ByteCount,
    /// How often retention is looked at.
    pub trim_interval: HumaneDuration,
}

/// See the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Engine {
    /// Live transactions.
    #[serde(deserialize_with = "above_zero")]
    pub max_live_transactions: usize,
    /// Bytes of their inputs, results and failures.
    pub max_live_payload_bytes: ByteCount,
    /// Commands waiting for one worker.
    #[serde(deserialize_with = "above_zero")]
    pub max_queued_per_worker: usize,
    /// Attempts of a step that are remembered.
    #[serde(deserialize_with = "above_zero")]
    pub max_attempts_kept: usize,
    /// The largest input or result.
    pub max_payload_bytes: ByteCount,
    /// The largest context.
    pub max_context_bytes: ByteCount,
    /// Whether picked_up and processing are recorded.
    pub observing_events: bool,
}

/// See the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Driver {
    /// Inputs that may wait.
    #[serde(deserialize_with = "above_zero")]
    pub inbox_inputs_max: usize,
    /// Inputs of one batch.
    #[serde(deserialize_with = "above_zero")]
    pub batch_inputs_max: usize,
    /// Bytes of one batch.
    pub batch_bytes_max: ByteCount,
    /// Batches that wait to be let out.
    #[serde(deserialize_with = "above_zero")]
    pub outgoing_batches_max: usize,
    /// How long observing events wait for company.
    pub observing_delay: HumaneDuration,
    /// How long an input is looked for before the loop sleeps.
    pub busy_poll: HumaneDuration,
}

/// See the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sessions {
    /// How long a host counts as alive after a heartbeat.
    pub lease: HumaneDuration,
    /// How often it shall send one.
    pub heartbeat_interval: HumaneDuration,
    /// Hosts at once.
    #[serde(deserialize_with = "above_zero")]
    pub max_hosts: usize,
    /// Hosts that crash in a loop.
    pub quarantine: Quarantine,
    /// Workers of one host.
    #[serde(deserialize_with = "above_zero")]
    pub max_workers_per_host: usize,
    /// Slots of one worker at one host.
    #[serde(deserialize_with = "above_zero")]
    pub max_slots_per_worker: u32,
    /// Messages that wait to be sent to one host.
    #[serde(deserialize_with = "above_zero")]
    pub outbox_messages_max: usize,
    /// Results and stages in one message.
    #[serde(deserialize_with = "above_zero")]
    pub max_items_per_message: usize,
    /// Bytes of contexts that one host is taken to remember; 0: none.
    pub remembers_bytes_max: ByteCount,
    /// Messages with late results that are judged at once.
    #[serde(deserialize_with = "above_zero")]
    pub late_messages_max: usize,
}

/// See the file.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quarantine {
    /// How many losses hold new hosts back; 0: none ever do.
    pub losses: usize,
    /// Within how long.
    pub window: HumaneDuration,
    /// For how long.
    pub hold: HumaneDuration,
}

/// See the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waiting {
    /// Calls that wait at once.
    #[serde(deserialize_with = "above_zero")]
    pub max_waiters: usize,
    /// The longest wait.
    #[serde(deserialize_with = "above_zero")]
    pub max_wait: HumaneDuration,
    /// Starts of one stream at once.
    #[serde(deserialize_with = "above_zero")]
    pub stream_starts_max: usize,
}

/// See the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventLog {
    /// Bytes in one answer.
    #[serde(deserialize_with = "above_zero")]
    pub read_bytes_max: ByteCount,
    /// Readers at once.
    #[serde(deserialize_with = "above_zero")]
    pub max_readers: usize,
    /// Silence before a sign of life.
    pub sign_of_life: HumaneDuration,
}

impl Default for Config {
    /// The defaults of the file, for tests and embedders.
    fn default() -> Self {
        match kit::config::parse("config/orchestrator.yaml", DEFAULTS) {
            Ok(config) => config,
            Err(error) => unreachable!("the compiled-in defaults are tested: {error}"),
        }
    }
}

/// What the single keys can't say: how they must stand to each other. The refusal has the place where
/// the value was written.
fn check(loaded: &Loaded<Config>) -> Result<(), ConfigError> {
    let config = &loaded.value;
    let wrong = |key: &str, message: &str| Err(loaded.wrong(key, message));
    let lease = *config.sessions.lease;
    if lease < Duration::from_millis(100) {
        return wrong("sessions.lease", "is too short; at least 100ms");
    }
    if *config.sessions.heartbeat_interval * 2 > lease {
        return wrong(
            "sessions.heartbeat_interval",
            &format!(
                "is more than half of sessions.lease ({lease:?}); one late heartbeat would end a lease"
            ),
        );
    }
    let payload_bytes = config.engine.max_payload_bytes.0;
    if !(1024..=3 << 20).contains(&payload_bytes) {
        return wrong(
            "engine.max_payload_bytes",
            "must be 1KiB to 3MiB, since a message has at most 4MiB",
        );
    }
    if config.engine.max_live_payload_bytes.0 < payload_bytes {
        return wrong(
            "engine.max_live_payload_bytes",
            "must be at least engine.max_payload_bytes",
        );
    }
    if !(payload_bytes..=3 << 20).contains(&config.engine.max_context_bytes.0) {
        return wrong(
            "engine.max_context_bytes",
            "must be at least engine.max_payload_bytes, and at most 3MiB, since a message has at most 4MiB",
        );
    }
    if !(1 << 16..=32 << 20).contains(&config.driver.batch_bytes_max.0) {
        return wrong("driver.batch_bytes_max", "must be 64KiB to 32MiB");
    }
    if config.log.segment_bytes.0 < eventlog::SEGMENT_BYTES_MIN {
        return wrong("log.segment_bytes", "must be at least 4KiB");
    }
    for (key, value) in [
        ("sample_interval", *config.sample_interval),
        ("store.write_interval", *config.store.write_interval),
        ("store.trim_interval", *config.store.trim_interval),
        ("event_log.sign_of_life", *config.event_log.sign_of_life),
        (
            "sessions.heartbeat_interval",
            *config.sessions.heartbeat_interval,
        ),
    ] {
        if value < Duration::from_millis(10) {
            return wrong(key, "is too short; at least 10ms");
        }
    }
    Ok(())
}

impl Config {
    /// The workflows of the configured directory, in the order of the files' names.
    ///
    /// # Errors
    /// The first file that can't be read (78) or is no workflow file (2).
    pub fn workflows(&self) -> anyhow::Result<Vec<Workflow>> {
        let directory = &self.workflows_dir;
        let mut workflows = Vec::new();
        if directory.as_os_str().is_empty() {
            return Ok(workflows);
        }
        let entries = std::fs::read_dir(directory).map_err(|error| {
            let place = directory.display();
            exit_with(
                exit::CONFIG,
                anyhow::anyhow!("workflows_dir {place} cannot be read: {error}"),
            )
        })?;
        let mut paths: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let extension = path.extension().and_then(|extension| extension.to_str());
                matches!(extension, Some("yaml" | "yml"))
            })
            .collect();
        paths.sort();
        for path in paths {
            let text = kit::config::read_file(&path)?;
            let parsed = definitions::parse(&path.display().to_string(), &text)
                .map_err(|problem| exit_with(exit::USAGE, problem))?;
            workflows.extend(parsed);
        }
        Ok(workflows)
    }

    /// How the log is kept.
    pub fn log_options(&self) -> eventlog::Options {
        let age = *self.log.retention_age;
        let bytes = self.log.retention_bytes.0;
        eventlog::Options {
            segment_bytes: self.log.segment_bytes.0,
            retention_age: (!age.is_zero()).then_some(age),
            retention_bytes: (bytes > 0).then_some(bytes),
            reserve_bytes: self.log.reserve_bytes.0,
            ..eventlog::Options::default()
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn load(flags: &[&str]) -> Result<Config, String> {
        let flags = Flags::try_parse_from([&["multiagents-orchestrator"], flags].concat()).unwrap();
        flags
            .load(Vec::new())
            .map(|loaded| loaded.value)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_a_configuration_and_listen_on_loopback() {
        let config = load(&[]).unwrap();
        assert_eq!(config.listen, "127.0.0.1:7001");
        assert_eq!(*config.sessions.lease, Duration::from_secs(10));
        assert_eq!(Config::default().listen, config.listen);
    }

    #[test]
    fn flags_go_over_the_file() {
        let config = load(&["--listen", "127.0.0.1:0", "--set", "sessions.lease=20s"]).unwrap();
        assert_eq!(config.listen, "127.0.0.1:0");
        assert_eq!(*config.sessions.lease, Duration::from_secs(20));
    }

    #[test]
    fn keys_that_contradict_each_other_are_refused_by_name() {
        for (setting, key) in [
            (
                "sessions.heartbeat_interval=9s",
                "sessions.heartbeat_interval",
            ),
            ("sessions.lease=1ms", "sessions.lease"),
            ("engine.max_payload_bytes=64MiB", "engine.max_payload_bytes"),
            ("engine.max_context_bytes=1KiB", "engine.max_context_bytes"),
            ("driver.batch_inputs_max=0", "driver.batch_inputs_max"),
            ("waiting.max_waiters=0", "waiting.max_waiters"),
            ("sessions.heartbeat_interval=0", "at least 10ms"),
            ("log.segment_bytes=0", "at least 4KiB"),
            ("sessions.leese=1s", "did you mean sessions.lease?"),
        ] {
            let error = load(&["--set", setting]).unwrap_err();
            assert!(error.contains(key), "{setting}: {error}");
        }
    }
}
