//! The workers that this host offers, by name. What a slot, a deadline or a cancellation is stands in
//! the client; here is only what is done with a context.

pub mod builtin;
pub mod chance;
pub mod text;

use kit::config::{ConfigError, Origin};
use multiagents_client::Worker;

use crate::config::Config;

/// The workers with their slots, as far as they have any, by name.
///
/// # Errors
/// A configuration that offers none at all.
pub fn workers(config: &Config) -> Result<Vec<(Worker, u32)>, ConfigError> {
    let offered = config.workers.slots().into_iter();
    let workers: Vec<_> = offered
        .filter(|(_, slots)| *slots > 0)
        .filter_map(|(name, slots)| Some((builtin::worker(name, &config.builtin)?, slots)))
        .collect();
    if workers.is_empty() {
        return Err(ConfigError::Invalid {
            origin: Origin::Flag("workers".into()),
            key: "workers".into(),
            message: "no worker has a slot; give one at least 1".into(),
        });
    }
    Ok(workers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Flags;

    fn offered(set: &[&str]) -> Result<Vec<String>, String> {
        let pair = |key: &&str| ((*key).to_owned(), "0".to_owned());
        let flags = Flags {
            set: set.iter().map(pair).collect(),
            ..Flags::default()
        };
        let config = flags.load(Vec::new()).map_err(|error| error.to_string())?;
        let workers = workers(&config.value).map_err(|error| error.to_string())?;
        let name = |(worker, _): &(Worker, u32)| worker.name().to_owned();
        Ok(workers.iter().map(name).collect())
    }

    #[test]
    fn every_worker_with_a_slot_is_offered_and_one_without_is_not() {
        let all = [
            "cpu_intensive",
            "echo",
            "fast_processor",
            "flaky_processor",
            "noop",
            "slow_processor",
        ];
        assert_eq!(offered(&[]).expect("all"), all);
        assert_eq!(
            offered(&["workers.cpu_intensive"]).expect("all but one"),
            all[1..]
        );
        let none = all.map(|name| format!("workers.{name}"));
        let none: Vec<&str> = none.iter().map(String::as_str).collect();
        assert!(
            offered(&none)
                .expect_err("nothing to do")
                .contains("workers")
        );
    }
}
