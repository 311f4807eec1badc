//! How the orchestrator's own machine does, as an observing event each interval.

use std::path::PathBuf;
use std::time::Duration;

use kit::connections::OpenConnections;
use kit::machine::{MachineSample, MachineSampler};
use proto::wire;
use tokio_util::sync::CancellationToken;

use crate::inbox::{Inbox, Input};

/// The service's name in its samples.
const SERVICE: &str = "orchestrator";

/// Samples until `stop`. A sample that finds the inbox full is left out.
pub(crate) async fn run(
    inbox: Inbox,
    data_dir: PathBuf,
    interval: Duration,
    connections: OpenConnections,
    stop: CancellationToken,
) {
    let mut sampler = MachineSampler::new(&data_dir);
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        let sampled = tokio::task::spawn_blocking(move || {
            let sample = sampler.sample();
            (sampler, sample)
        });
        let Ok((again, sample)) = sampled.await else {
            tracing::error!("sampling this machine panicked and is given up");
            return;
        };
        sampler = again;
        let open = u32::try_from(connections.count()).unwrap_or(u32::MAX);
        // Refused while the log is replayed, and when the inbox is full: the next one comes soon.
        let _ = inbox.request(Input::Sampled(Box::new(to_wire(sample, open))));
    }
}

fn to_wire(sample: MachineSample, open_connections: u32) -> wire::SystemSample {
    wire::SystemSample {
        machine: sample.machine,
        cpu_ratio: sample.cpu_ratio,
        memory_used_bytes: sample.memory_used_bytes,
        memory_total_bytes: sample.memory_total_bytes,
        load_1m: sample.load_1m,
        disk_used_bytes: sample.disk_used_bytes,
        disk_total_bytes: sample.disk_total_bytes,
        disk_read_bytes: sample.disk_read_bytes,
        disk_written_bytes: sample.disk_written_bytes,
        network_received_bytes: sample.network_received_bytes,
        network_sent_bytes: sample.network_sent_bytes,
        open_connections,
        service: SERVICE.to_owned(),
        processors: sample.processors,
        process_memory_bytes: sample.process_memory_bytes,
    }
}
