//! The monitor's own machine, for its own samples and for those who ask now.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kit::connections::OpenConnections;
use kit::machine::{MachineSample, MachineSampler};
use proto::wire::SystemSample;

/// The processors' busy part means nothing over less than this: the last sample is given again.
const SPAN_MIN: Duration = Duration::from_millis(200);

/// Samples the machine.
#[derive(Debug)]
pub struct Machine {
    sampler: Arc<Mutex<Last>>,
    connections: OpenConnections,
}

#[derive(Debug)]
struct Last {
    sampler: MachineSampler,
    sample: Option<(Instant, MachineSample)>,
}

impl Machine {
    /// The machine whose disk holds `data_dir`, for a server with these connections.
    pub fn new(data_dir: &Path, connections: OpenConnections) -> Self {
        let last = Last {
            sampler: MachineSampler::new(data_dir),
            sample: None,
        };
        Self {
            sampler: Arc::new(Mutex::new(last)),
            connections,
        }
    }

    /// A sample of now; none where the reading itself broke.
    pub async fn sample(&self) -> Option<SystemSample> {
        let sampler = self.sampler.clone();
        let read = move || {
            let mut last = sampler.lock().unwrap_or_else(PoisonError::into_inner);
            match &last.sample {
                Some((at, sample)) if at.elapsed() < SPAN_MIN => sample.clone(),
                _ => {
                    let sample = last.sampler.sample();
                    last.sample = Some((Instant::now(), sample.clone()));
                    sample
                }
            }
        };
        let read = tokio::task::spawn_blocking(read).await;
        let sample = read
            .inspect_err(|error| tracing::warn!(%error, "the machine can't be sampled"))
            .ok()?;
        Some(SystemSample {
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
            open_connections: self.connections(),
            service: "monitor".to_owned(),
            processors: sample.processors,
            process_memory_bytes: sample.process_memory_bytes,
        })
    }

    /// The monitor's open connections now.
    pub fn connections(&self) -> u32 {
        u32::try_from(self.connections.count()).unwrap_or(u32::MAX)
    }
}
