//! How machines do over time: processors, memory, load, disks, network, connections.
//!
//! Several processes on one machine send samples. What is the machine's own is averaged over all
//! of them; connections belong to the process that counted them, and are summed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::event::{Kind, SystemSample};
use serde::{Deserialize, Serialize};

use super::settings::Settings;
use super::tiers::{Bucket, Tiers, cutoff_us};
use crate::fold::{Entry, Fold, What};

/// A sender that was silent for so long has no connections any more.
const SILENT_US: i64 = 120_000_000;
/// More senders than this are not followed.
const SENDERS_MAX: usize = 10_000;

/// The fold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    tiers: Tiers<Machines>,
    newest: Arc<BTreeMap<Sender, Sample>>,
    last_us: i64,
}

/// The process that a sample came from: machine, service, and host id where it has one.
type Sender = (Arc<str>, Arc<str>, Arc<str>);

/// A sample as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// When it was recorded, in microseconds.
    pub time_us: i64,
    /// Which service sent it.
    pub service: String,
    /// The machine.
    pub machine: String,
    /// Busy part of the processors.
    pub cpu: f64,
    /// Memory in use, and all there is.
    pub memory: (u64, u64),
    /// Load average over one minute.
    pub load: f64,
    /// Disk in use, and all there is.
    pub disk: (u64, u64),
    /// Bytes since the machine started.
    pub bytes: Bytes,
    /// Open connections of the sender.
    pub connections: u32,
    /// Processors of the machine.
    pub processors: u32,
    /// Memory of the sender.
    pub process_memory: u64,
}

/// Bytes that only grow, as long as the machine runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// Read from disks.
    pub disk_read: u64,
    /// Written to disks.
    pub disk_written: u64,
    /// Received.
    pub received: u64,
    /// Sent.
    pub sent: u64,
}

impl Sample {
    fn new(sample: &SystemSample, time_us: i64) -> Self {
        // A ratio that is no number would spoil every average that it enters.
        let ratio = |value: f64| {
            if value.is_finite() {
                value.clamp(0.0, 1.0)
            } else {
                0.0
            }
        };
        Self {
            time_us,
            service: sample.service.clone(),
            machine: sample.machine.clone(),
            cpu: ratio(sample.cpu_ratio),
            memory: (sample.memory_used_bytes, sample.memory_total_bytes),
            load: if sample.load_1m.is_finite() {
                sample.load_1m.max(0.0)
            } else {
                0.0
            },
            disk: (sample.disk_used_bytes, sample.disk_total_bytes),
            bytes: Bytes {
                disk_read: sample.disk_read_bytes,
                disk_written: sample.disk_written_bytes,
                received: sample.network_received_bytes,
                sent: sample.network_sent_bytes,
            },
            connections: sample.open_connections,
            processors: sample.processors,
            process_memory: sample.process_memory_bytes,
        }
    }

    fn memory_ratio(&self) -> f64 {
        part(self.memory)
    }
}

/// The used part; zero of nothing.
pub fn part((used, total): (u64, u64)) -> f64 {
    if total == 0 {
        return 0.0;
    }
    (used as f64 / total as f64).clamp(0.0, 1.0)
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Machines {
    machines: BTreeMap<Arc<str>, Cell>,
    peak_connections: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Cell {
    samples: u64,
    cpu: Measure,
    memory: Measure,
    load: Measure,
    disk: (u64, u64),
    first: (i64, Bytes),
    last: (i64, Bytes),
}

/// A sum and a peak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Measure {
    sum: f64,
    peak: f64,
}

impl Measure {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.peak = self.peak.max(value);
    }

    fn merge(&mut self, other: Self) {
        self.sum += other.sum;
        self.peak = self.peak.max(other.peak);
    }
}

impl Cell {
    fn merge(&mut self, other: &Self) {
        if other.samples == 0 {
            return;
        }
        if self.samples == 0 || other.first.0 < self.first.0 {
            self.first = other.first;
        }
        if self.samples == 0 || other.last.0 >= self.last.0 {
            self.last = other.last;
            self.disk = other.disk;
        }
        self.samples += other.samples;
        self.cpu.merge(other.cpu);
        self.memory.merge(other.memory);
        self.load.merge(other.load);
    }
}

impl Bucket for Machines {
    fn absorb(&mut self, other: &Self, _: i64, _: usize) {
        for (machine, cell) in &other.machines {
            self.machines
                .entry(machine.clone())
                .or_default()
                .merge(cell);
        }
        self.peak_connections = self.peak_connections.max(other.peak_connections);
    }
}

/// Averages and peaks over a window; none without samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Where the window that is covered begins, in microseconds.
    pub start_us: i64,
    /// How many samples.
    pub samples: u64,
    /// Average and peak of the processors' busy part.
    pub cpu: Option<(f64, f64)>,
    /// Average and peak of the memory's used part.
    pub memory: Option<(f64, f64)>,
    /// Average and peak load.
    pub load: Option<(f64, f64)>,
    /// Used part of the disks, as of the newest samples.
    pub disk: Option<f64>,
    /// Bytes a second, all machines together; none before a second sample.
    pub per_second: Option<[f64; 4]>,
    /// The most connections at once; none where a machine is picked.
    pub peak_connections: Option<u32>,
    /// Which machines.
    pub machines: BTreeSet<String>,
}

impl Fold for Metrics {
    const NAME: &'static str = "metrics";

    fn apply(&mut self, entry: &Entry, settings: &Settings) {
        if !settings.system {
            return;
        }
        let now = entry.time.0;
        self.tiers.roll(now);
        self.tiers.follow(entry.since_us());
        if settings.sweep_is_due(self.last_us, now) {
            let cutoff = cutoff_us(now, settings.figures_retention_seconds);
            self.tiers.forget(cutoff);
            if self.newest.values().any(|sample| sample.time_us < cutoff) {
                Arc::make_mut(&mut self.newest).retain(|_, sample| sample.time_us >= cutoff);
            }
        }
        self.last_us = now;
        match &entry.what {
            What::Sampled(sample) => self.sample("", sample, now),
            What::Events(events) => {
                for stored in &events.events {
                    if let Kind::SystemSampled { host, sample } = &stored.event.kind {
                        // Those without a host id are told apart by where they came from.
                        let host = host.as_ref().map_or(&*events.source, |host| host.as_str());
                        self.sample(host, sample, stored.event.time.0);
                    }
                }
            }
            What::Tick
            | What::Started { .. }
            | What::Connected { .. }
            | What::Disconnected { .. }
            | What::Gap { .. }
            | What::Replaced { .. }
            | What::Unknown => {}
        }
    }
}

impl Metrics {
    fn sample(&mut self, host: &str, sample: &SystemSample, time_us: i64) {
        let sender: Sender = (
            sample.machine.as_str().into(),
            sample.service.as_str().into(),
            host.into(),
        );
        let sample = Sample::new(sample, time_us);
        let newest = Arc::make_mut(&mut self.newest);
        if newest.len() >= SENDERS_MAX && !newest.contains_key(&sender) {
            return;
        }
        let machine = sender.0.clone();
        newest.insert(sender, sample.clone());
        let connections = self.connections(time_us).values().sum();
        let (_, machines) = self.tiers.at(time_us);
        machines.peak_connections = machines.peak_connections.max(connections);
        let at = (time_us, sample.bytes);
        let mut one = Cell {
            samples: 1,
            disk: sample.disk,
            first: at,
            last: at,
            ..Cell::default()
        };
        one.cpu.add(sample.cpu);
        one.memory.add(sample.memory_ratio());
        one.load.add(sample.load);
        machines.machines.entry(machine).or_default().merge(&one);
    }

    /// Open connections by service, of those who sent a sample lately.
    pub fn connections(&self, now_us: i64) -> BTreeMap<String, u32> {
        let mut connections = BTreeMap::new();
        for ((_, service, _), sample) in self.newest.iter() {
            if sample.time_us >= now_us.saturating_sub(SILENT_US) {
                *connections.entry(service.to_string()).or_default() += sample.connections;
            }
        }
        connections
    }

    /// The newest sample of each machine, by machine.
    pub fn newest(&self) -> Vec<&Sample> {
        let mut by_machine: BTreeMap<&str, &Sample> = BTreeMap::new();
        for ((machine, ..), sample) in self.newest.iter() {
            let newest = by_machine.entry(machine).or_insert(sample);
            if sample.time_us > newest.time_us {
                *newest = sample;
            }
        }
        by_machine.into_values().collect()
    }

    /// The figures from an instant on, of one machine or of all.
    pub fn figures(&self, start_us: i64, machine: Option<&str>) -> Figures {
        let covered = self.tiers.since(start_us);
        let mut cells: BTreeMap<&str, Cell> = BTreeMap::new();
        let mut peak_connections = 0;
        for (_, _, bucket) in &covered.buckets {
            peak_connections = peak_connections.max(bucket.peak_connections);
            for (name, cell) in &bucket.machines {
                if machine.is_none_or(|machine| machine == &**name) {
                    cells.entry(name).or_default().merge(cell);
                }
            }
        }
        let mut all = Cell::default();
        let mut disk = (0_u64, 0_u64);
        let mut per_second: Option<[f64; 4]> = None;
        for cell in cells.values() {
            disk = (
                disk.0.saturating_add(cell.disk.0),
                disk.1.saturating_add(cell.disk.1),
            );
            let seconds = (cell.last.0 - cell.first.0) as f64 / 1e6;
            if seconds > 0.0 {
                let sums = per_second.get_or_insert_with(Default::default);
                for (sum, (first, last)) in sums.iter_mut().zip(
                    counters(cell.first.1)
                        .into_iter()
                        .zip(counters(cell.last.1)),
                ) {
                    // A machine that restarted counts from zero again.
                    *sum += last.saturating_sub(first) as f64 / seconds;
                }
            }
            all.merge(cell);
        }
        let of = |measure: Measure| {
            (all.samples > 0).then(|| (measure.sum / all.samples as f64, measure.peak))
        };
        Figures {
            start_us: covered.start_us,
            samples: all.samples,
            cpu: of(all.cpu),
            memory: of(all.memory),
            load: of(all.load),
            disk: (all.samples > 0).then(|| part(disk)),
            per_second,
            peak_connections: (all.samples > 0 && machine.is_none()).then_some(peak_connections),
            machines: cells.into_keys().map(str::to_owned).collect(),
        }
    }
}

fn counters(bytes: Bytes) -> [u64; 4] {
    [
        bytes.disk_read,
        bytes.disk_written,
        bytes.received,
        bytes.sent,
    ]
}
