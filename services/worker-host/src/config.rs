//! The worker host's configuration; its defaults stand in `config/worker-host.yaml`, which also says
//! why each is what it is.
//!
//! Reading and checking only; nothing here opens or starts anything.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Parser;
use kit::config::{ByteCount, ConfigError, HumaneDuration, Loaded, Origin, Sources};
use serde::Deserialize;

use crate::handlers;

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
        let loaded: Loaded<Config> = kit::config::load(&Sources {
            defaults: DEFAULTS,
            files: self.config.into_iter().collect(),
            variable_prefix: VARIABLE_PREFIX,
            variables,
            overrides,
            ..Sources::default()
        })?;
        loaded.value.check()?;
        Ok(loaded)
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
    pub host_id: String,
    /// Slots by worker.
    pub workers: BTreeMap<String, u32>,
    /// How the built-in workers behave.
    pub builtin: Builtin,
    /// How long the end may take.
    pub drain_grace: HumaneDuration,
    /// The largest result.
    pub result_bytes_max: ByteCount,
    /// Delays between attempts to connect.
    pub reconnect: Reconnect,
    /// How often the machine is sampled.
    pub sample_interval: HumaneDuration,
    /// Who may be listened to and called by.
    pub exposure: kit::Exposure,
    /// Bounds of the server.
    pub server: kit::Limits,
    /// Log lines.
    pub logging: kit::logging::Logging,
}

/// See the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Builtin {
    /// Makes randomness repeatable.
    pub seed: Option<u64>,
    /// The part of flaky_processor's commands that fails.
    pub flaky_failure_ratio: f64,
    /// The most rounds of cpu_intensive.
    pub complexity_max: u64,
}

/// See the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reconnect {
    /// Before the second attempt.
    pub delay: HumaneDuration,
    /// However often it failed.
    pub delay_max: HumaneDuration,
}

impl Config {
    fn check(&self) -> Result<(), ConfigError> {
        let invalid = |key: &str, message: String| {
            Err(ConfigError::Invalid {
                origin: Origin::Flag(key.into()),
                key: key.to_owned(),
                message,
            })
        };
        for (name, slots) in &self.workers {
            let key = format!("workers.{name}");
            if !handlers::NAMES.contains(&name.as_str()) {
                let known = handlers::NAMES.join(", ");
                return invalid(&key, format!("there is no such worker; there are {known}"));
            }
            if *slots > 100_000 {
                return invalid(&key, format!("{slots} slots; at most 100000 are allowed"));
            }
        }
        if self.workers.values().all(|slots| *slots == 0) {
            return invalid(
                "workers",
                "no worker has a slot; give one at least 1".into(),
            );
        }
        if !(0.0..=1.0).contains(&self.builtin.flaky_failure_ratio) {
            let ratio = self.builtin.flaky_failure_ratio;
            let message = format!("{ratio} is no ratio; it must be 0 to 1");
            return invalid("builtin.flaky_failure_ratio", message);
        }
        if self.sample_interval.is_zero() {
            return invalid("sample_interval", "0 would sample without a pause".into());
        }
        if self.reconnect.delay.is_zero() {
            return invalid("reconnect.delay", "0 would dial without a pause".into());
        }
        if self.result_bytes_max.0 > 3 * 1024 * 1024 {
            let message = "at most 3MiB: the orchestrator takes messages up to 4 MiB".into();
            return invalid("result_bytes_max", message);
        }
        if !self.host_id.is_empty()
            && let Err(problem) = proto::id::check_name("host_id", &self.host_id)
        {
            return invalid("host_id", problem.message);
        }
        Ok(())
    }
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
        let offered: Vec<&str> = config.workers.keys().map(String::as_str).collect();
        let mut names = handlers::NAMES.to_vec();
        names.sort_unstable();
        assert_eq!(offered, names);
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
        assert_eq!(config.workers["noop"], 8);
    }

    #[test]
    fn a_wrong_value_is_refused_with_its_key_and_what_would_be_right() {
        for (key, value, says) in [
            ("workers.fast_procesor", "1", "fast_processor"),
            ("workers.noop", "-1", "workers.noop"),
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
        let none: Vec<String> = handlers::NAMES
            .iter()
            .map(|name| format!("workers.{name}"))
            .collect();
        let none: Vec<(&str, &str)> = none.iter().map(|key| (key.as_str(), "0")).collect();
        assert!(load(&none).expect_err("nothing to do").contains("workers"));
    }
}
