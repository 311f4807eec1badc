//! What the machine is doing: processor, memory, load, disk and network, one sample at a time.
//!
//! A plain reading of what the operating system tells; who sends it where, and how often, is for
//! the services to know. What the system does not tell is zero, never a guess.

use std::path::{Path, PathBuf};

use procfs::{Current as _, CurrentSI as _, KernelStats, LoadAverage, Meminfo};

use crate::metrics::ProcessUsage;

/// A sector of `/proc/diskstats`, whatever the disk's own is.
const SECTOR_BYTES: u64 = 512;

/// How the machine did at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MachineSample {
    /// The machine's name.
    pub machine: String,
    /// The part of all its processors that was busy since the sample before, 0..1; in the first
    /// sample since the machine started.
    pub cpu_ratio: f64,
    /// Memory in use, without what the system can drop at once.
    pub memory_used_bytes: u64,
    /// Memory there is.
    pub memory_total_bytes: u64,
    /// The load average over one minute.
    pub load_1m: f64,
    /// Space in use on the disk that holds the data.
    pub disk_used_bytes: u64,
    /// The size of that disk.
    pub disk_total_bytes: u64,
    /// Bytes read from disks since the machine started.
    pub disk_read_bytes: u64,
    /// Bytes written to disks since the machine started.
    pub disk_written_bytes: u64,
    /// Bytes received on all interfaces since the machine started.
    pub network_received_bytes: u64,
    /// Bytes sent on all interfaces since the machine started.
    pub network_sent_bytes: u64,
    /// How many processors there are.
    pub processors: u32,
    /// Memory that this process takes.
    pub process_memory_bytes: u64,
}

/// Takes samples; keeps the processors' counters of the last one, which the next is the
/// difference to.
#[derive(Debug)]
pub struct MachineSampler {
    machine: String,
    data_path: PathBuf,
    busy_and_all: (u64, u64),
}

impl MachineSampler {
    /// A sampler that tells of the disk which holds `data_path`.
    pub fn new(data_path: &Path) -> Self {
        Self {
            machine: machine_name(),
            data_path: data_path.to_owned(),
            busy_and_all: busy_and_all().unwrap_or_default(),
        }
    }

    /// Reads how the machine does now: about half a millisecond of file reading, so off the
    /// threads that must answer promptly.
    pub fn sample(&mut self) -> MachineSample {
        let counters = busy_and_all().unwrap_or_default();
        let (busy, all) = (
            counters.0.saturating_sub(self.busy_and_all.0),
            counters.1.saturating_sub(self.busy_and_all.1),
        );
        self.busy_and_all = counters;
        let (memory_used_bytes, memory_total_bytes) = memory().unwrap_or_default();
        let (disk_used_bytes, disk_total_bytes) = disk_space(&self.data_path).unwrap_or_default();
        let (disk_read_bytes, disk_written_bytes) = disk_traffic().unwrap_or_default();
        let (network_received_bytes, network_sent_bytes) = network_traffic().unwrap_or_default();
        MachineSample {
            machine: self.machine.clone(),
            cpu_ratio: ratio(busy, all),
            memory_used_bytes,
            memory_total_bytes,
            load_1m: LoadAverage::current().map_or(0.0, |load| f64::from(load.one)),
            disk_used_bytes,
            disk_total_bytes,
            disk_read_bytes,
            disk_written_bytes,
            network_received_bytes,
            network_sent_bytes,
            processors: processors(),
            process_memory_bytes: ProcessUsage::read().map_or(0, |usage| usage.resident_bytes),
        }
    }
}

/// The machine's name as the kernel has it; "unknown" where it has none.
pub fn machine_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown".to_owned())
}

fn processors() -> u32 {
    std::thread::available_parallelism()
        .map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX))
}

fn ratio(busy: u64, all: u64) -> f64 {
    if all == 0 {
        return 0.0;
    }
    (busy as f64 / all as f64).clamp(0.0, 1.0)
}

/// Ticks that the processors were busy, and all their ticks.
fn busy_and_all() -> Option<(u64, u64)> {
    let cpu = KernelStats::current().ok()?.total;
    let idle = cpu.idle + cpu.iowait.unwrap_or(0);
    let busy = cpu.user
        + cpu.nice
        + cpu.system
        + cpu.irq.unwrap_or(0)
        + cpu.softirq.unwrap_or(0)
        + cpu.steal.unwrap_or(0);
    Some((busy, busy + idle))
}

fn memory() -> Option<(u64, u64)> {
    let memory = Meminfo::current().ok()?;
    let available = memory.mem_available.unwrap_or(memory.mem_free);
    Some((memory.mem_total.saturating_sub(available), memory.mem_total))
}

fn disk_space(path: &Path) -> Option<(u64, u64)> {
    let disk = rustix::fs::statvfs(path).ok()?;
    let total = disk.f_blocks.saturating_mul(disk.f_frsize);
    let free = disk.f_bfree.saturating_mul(disk.f_frsize);
    Some((total.saturating_sub(free), total))
}

/// Bytes read and written by whole disks: partitions and stacked devices would count twice.
fn disk_traffic() -> Option<(u64, u64)> {
    let whole = |name: &str| {
        let stacked = ["loop", "ram", "zram", "dm-", "md"];
        !stacked.iter().any(|prefix| name.starts_with(prefix))
            && Path::new("/sys/block").join(name).exists()
    };
    let disks = procfs::diskstats().ok()?;
    let whole = disks.iter().filter(|disk| whole(&disk.name));
    Some(whole.fold((0, 0), |(read, written), disk| {
        (
            read + disk.sectors_read * SECTOR_BYTES,
            written + disk.sectors_written * SECTOR_BYTES,
        )
    }))
}

fn network_traffic() -> Option<(u64, u64)> {
    let interfaces = procfs::net::dev_status().ok()?;
    Some(
        interfaces
            .values()
            .fold((0, 0), |(received, sent), interface| {
                (received + interface.recv_bytes, sent + interface.sent_bytes)
            }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_of_this_machine_is_within_its_own_bounds() {
        let mut sampler = MachineSampler::new(Path::new("/"));
        let sample = sampler.sample();
        assert!((0.0..=1.0).contains(&sample.cpu_ratio));
        assert!(sample.memory_used_bytes > 0);
        assert!(sample.memory_used_bytes <= sample.memory_total_bytes);
        assert!(sample.disk_used_bytes <= sample.disk_total_bytes);
        assert!(sample.disk_total_bytes > 0 && sample.processors > 0);
        assert!(sample.process_memory_bytes > 100_000);
        assert!(!sample.machine.is_empty());
    }

    #[test]
    fn a_path_that_is_not_there_has_no_disk_rather_than_a_failure() {
        let mut sampler = MachineSampler::new(Path::new("/no/such/path"));
        assert_eq!(sampler.sample().disk_total_bytes, 0);
    }

    #[test]
    fn a_spinning_processor_is_seen() {
        let mut sampler = MachineSampler::new(Path::new("/"));
        let started_at = std::time::Instant::now();
        let mut sum = 0_u64;
        while started_at.elapsed() < std::time::Duration::from_millis(100) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(sampler.sample().cpu_ratio > 0.0);
    }
}
