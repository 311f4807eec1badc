//! The workers that this host offers, by name. What a slot, a deadline or a cancellation is stands in
//! the client; here is only what is done with a context.

pub mod builtin;
pub mod chance;
pub mod text;

use multiagents_client::Worker;

use crate::config::Config;

/// Every worker there is.
pub const NAMES: [&str; 6] = [
    "fast_processor",
    "slow_processor",
    "flaky_processor",
    "cpu_intensive",
    "noop",
    "echo",
];

/// The workers with their slots, as far as they have any.
///
/// # Errors
/// A name that is none of [`NAMES`].
pub fn workers(config: &Config) -> anyhow::Result<Vec<(Worker, u32)>> {
    let offered = config.workers.iter().filter(|(_, slots)| **slots > 0);
    offered
        .map(|(name, slots)| {
            let worker = builtin::worker(name, &config.builtin)
                .ok_or_else(|| anyhow::anyhow!("there is no worker {name}"))?;
            Ok((worker, *slots))
        })
        .collect()
}
