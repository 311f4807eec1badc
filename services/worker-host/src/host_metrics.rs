//! What the machine is doing, sampled for the monitor and sent along on the session.
//!
//! A sample that nobody takes is dropped: the next one comes.

use std::path::Path;
use std::time::Duration;

use kit::connections::OpenConnections;
use kit::machine::{MachineSample, MachineSampler};
use proto::wire::SystemSample;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Samples each `interval` until `shutdown`.
pub(crate) fn start(
    interval: Duration,
    connections: OpenConnections,
    shutdown: &CancellationToken,
) -> mpsc::Receiver<SystemSample> {
    let (sender, samples) = mpsc::channel(1);
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        let mut sampler = MachineSampler::new(Path::new("."));
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => {}
            }
            // Reading takes about half a millisecond, which no handler should wait for.
            let read = tokio::task::spawn_blocking(move || {
                let sample = sampler.sample();
                (sampler, sample)
            });
            let Ok((again, sample)) = read.await else {
                return;
            };
            sampler = again;
            match sender.try_send(to_wire(sample, &connections)) {
                Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => {}
                Err(mpsc::error::TrySendError::Closed(_)) => return,
            }
        }
    });
    samples
}

fn to_wire(sample: MachineSample, connections: &OpenConnections) -> SystemSample {
    SystemSample {
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
        open_connections: u32::try_from(connections.count()).unwrap_or(u32::MAX),
        service: "worker-host".to_owned(),
        processors: sample.processors,
        process_memory_bytes: sample.process_memory_bytes,
    }
}
