//! The worker host's configuration; its defaults stand in `config/worker-host.yaml`, which also says
//! why each is what it is.
//!
//! Reading and checking only; nothing here opens or starts anything.

use std::path::PathBuf;

use clap::Parser;
use kit::config::{ByteCount, ConfigError, HumaneDuration, Loaded, Sources, above_zero};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// The commented default file, which is the defaults themselves.
pub const DEFAULTS: &str = include_str!("../../../config/worker-host.yaml");
/// Variables that begin so go over the file.
pub const VARIABLE_PREFIX: &str = "MULTIAGENTS_WORKER_HOST_";

/// Runs commands for an orchestrator: the worker host of the multiagents suite.
#[derive(Debug, Default, Parser)]
#[command(name = "multiagents-worker-host", version)]
pub struct Flags {
    /// A YAML file laid over the built-in defaults.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The address for health and metrics, such as 127.0.0.1:7002; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Where the orchestrator is, such as 127.0.0.1:7001.
    #[arg(long, value_name = "ADDRESS")]
    pub orchestrator: Option<String>,
    /// What this host calls itself; another for each process.
    #[arg(long, value_name = "NAME")]
    pub host_id: Option<String>,
    /// Any other key, such as workers.noop=8; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_and_value)]
    pub set: Vec<(String, String)>,
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(key, value)| (key.trim().to_owned(), value.to_owned()))
        .ok_or_else(|| format!("{text:?} has no '='; write KEY=VALUE, such as workers.noop=8"))
}

/// The process' environment, as far as it is text.
pub fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
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
            ("orchestrator", self.orchestrator),
            ("host_id", self.host_id),
        ] {
            overrides.extend(value.map(|value| (key.to_owned(), value)));
        }
        kit::config::load(&Sources {
            defaults: DEFAULTS,
            files: self.config.into_iter().collect(),
            variable_prefix: VARIABLE_PREFIX,
            variables,
            overrides,
            ..Sources::default()
        })
    }
}

/// Everything that can be configured.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The address for health and metrics.
    pub listen: String,
    /// Where the orchestrator is.
    pub orchestrator: String,
    /// What this host calls itself; empty: the machine's name and a random part.
    #[serde(deserialize_with = "host_id")]
    pub host_id: String,
    /// Slots by worker.
    pub workers: Workers,
    /// How the built-in workers behave.
    pub builtin: Builtin,
    /// How long the end may take.
    pub drain_grace: HumaneDuration,
    /// The largest result.
    #[serde(deserialize_with = "result_bytes")]
    pub result_bytes_max: ByteCount,
    /// Bytes of contexts that are remembered.
    pub remembers_bytes_max: ByteCount,
    /// Delays between attempts to connect.
    pub reconnect: Reconnect,
    /// How often the machine is sampled.
    #[serde(deserialize_with = "above_zero")]
    pub sample_interval: HumaneDuration,
    /// Who may be listened to and called by.
    pub exposure: kit::Exposure,
    /// Bounds of the server.
    pub server: kit::Limits,
    /// Log lines.
    pub logging: kit::logging::Logging,
}

/// The built-in workers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workers {
    /// Its slots; 0 doesn't offer it.
    #[serde(deserialize_with = "slots")]
    pub fast_processor: u32,
    /// Its slots; 0 doesn't offer it.
    #[serde(deserialize_with = "slots")]
    pub slow_processor: u32,
    /// Its slots; 0 doesn't offer it.
    #[serde(deserialize_with = "slots")]
    pub flaky_processor: u32,
    /// Its slots; 0 doesn't offer it.
    #[serde(deserialize_with = "slots")]
    pub cpu_intensive: u32,
    /// Its slots; 0 doesn't offer it.
    #[serde(deserialize_with = "slots")]
    pub noop: u32,
    /// Its slots; 0 doesn't offer it.
    #[serde(deserialize_with = "slots")]
    pub echo: u32,
}

/// See the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Builtin {
    /// Makes randomness repeatable.
    pub seed: Option<u64>,
    /// The part of flaky_processor's commands that fails.
    #[serde(deserialize_with = "ratio")]
    pub flaky_failure_ratio: f64,
    /// The most rounds of cpu_intensive.
    pub complexity_max: u64,
}

/// See the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reconnect {
    /// Before the second attempt.
    #[serde(deserialize_with = "above_zero")]
    pub delay: HumaneDuration,
    /// However often it failed.
    #[serde(deserialize_with = "above_zero")]
    pub delay_max: HumaneDuration,
}

impl Workers {
    /// Each worker with its slots, by name.
    pub fn slots(&self) -> [(&'static str, u32); 6] {
        [
            ("cpu_intensive", self.cpu_intensive),
            ("echo", self.echo),
            ("fast_processor", self.fast_processor),
            ("flaky_processor", self.flaky_processor),
            ("noop", self.noop),
            ("slow_processor", self.slow_processor),
        ]
    }
}

// What a type doesn't say is checked where the value is read, so that the message has its place.

fn slots<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    let slots = u32::deserialize(from)?;
    match slots {
        0..=100_000 => Ok(slots),
        _ => Err(D::Error::custom(format!(
            "{slots} slots; at most 100000 are allowed"
        ))),
    }
}

fn ratio<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    let ratio = f64::deserialize(from)?;
    if (0.0..=1.0).contains(&ratio) {
        return Ok(ratio);
    }
    Err(D::Error::custom(format!("{ratio} must be 0 to 1")))
}

fn result_bytes<'de, D: Deserializer<'de>>(from: D) -> Result<ByteCount, D::Error> {
    let bytes = ByteCount::deserialize(from)?;
    if bytes.0 > 3 * 1024 * 1024 {
        return Err(D::Error::custom(
            "at most 3MiB: the orchestrator takes messages up to 4 MiB",
        ));
    }
    Ok(bytes)
}

fn host_id<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let name = String::deserialize(from)?;
    if !name.is_empty() {
        proto::id::check_name("host_id", &name)
            .map_err(|problem| D::Error::custom(problem.message))?;
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(set: &[(&str, &str)]) -> Result<Config, String> {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let flags = Flags {
            set: set.iter().map(own).collect(),
            ..Flags::default()
        };
        let loaded = flags.load(Vec::new());
        loaded
            .map(|loaded| loaded.value)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_compiled_in_file_offers_every_worker_and_has_the_pages_numbers() {
        let config = load(&[]).expect("the defaults are valid");
        assert!(config.workers.slots().iter().all(|(_, slots)| *slots > 0));
        assert_eq!(config.builtin.flaky_failure_ratio, 0.3);
        assert_eq!(config.builtin.seed, None);
        assert_eq!(config.listen, "127.0.0.1:7002");
    }

    #[test]
    fn flags_and_variables_go_over_the_defaults() {
        let flags = Flags {
            orchestrator: Some("127.0.0.1:9".into()),
            set: vec![("builtin.seed".into(), "7".into())],
            ..Flags::default()
        };
        let variables = vec![(
            "MULTIAGENTS_WORKER_HOST_WORKERS__NOOP".to_owned(),
            "8".to_owned(),
        )];
        let config = flags.load(variables).expect("valid").value;
        assert_eq!(config.orchestrator, "127.0.0.1:9");
        assert_eq!(config.builtin.seed, Some(7));
        assert_eq!(config.workers.noop, 8);
    }

    #[test]
    fn a_wrong_value_is_refused_with_its_key_and_what_would_be_right() {
        for (key, value, says) in [
            (
                "workers.fast_procesor",
                "1",
                "did you mean workers.fast_processor",
            ),
            ("workers.noop", "-1", "workers.noop"),
            ("workers.nope", "1", "did you mean workers.noop"),
            ("workers.noop", "200000", "100000"),
            ("builtin.flaky_failure_ratio", "1.5", "0 to 1"),
            ("sample_interval", "0s", "sample_interval"),
            ("reconnect.delay", "0s", "reconnect.delay"),
            ("result_bytes_max", "4MiB", "3MiB"),
            ("host_id", "a b", "host_id"),
            ("drain_grase", "1s", "drain_grace"),
        ] {
            let error = load(&[(key, value)]).expect_err(key);
            assert!(error.contains(says), "{key}: {error}");
        }
    }
}
