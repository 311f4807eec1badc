//! This program as another process, and what processes use, from /proc.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

/// This program again, as what its first argument says; ended with this.
pub(crate) struct Another(Child);

impl Another {
    pub(crate) fn start(arguments: &[&str]) -> Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::null())
            .spawn();
        Ok(Self(child.context("this program as another process")?))
    }
}

impl Drop for Another {
    fn drop(&mut self) {
        // Either way it is gone after the wait.
        let _gone_already = self.0.kill();
        let _status = self.0.wait();
    }
}

/// The processor time that these processes have used so far, in user and kernel mode, all threads
/// together.
pub(crate) fn time_of(ids: &[u32]) -> Result<Duration> {
    let ticks_per_second = rustix::param::clock_ticks_per_second();
    let mut ticks = 0;
    for id in ids {
        let path = format!("/proc/{id}/stat");
        let stat = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        // The name, between parentheses, may hold anything; what counts comes after it.
        let (_, fields) = stat.rsplit_once(") ").with_context(|| path.clone())?;
        let mut fields = fields.split(' ').skip(11);
        for _ in 0..2 {
            ticks += fields.next().context("too few fields")?.parse::<u64>()?;
        }
    }
    Ok(Duration::from_secs_f64(
        ticks as f64 / ticks_per_second as f64,
    ))
}

/// The memory that a process has in use, in bytes: its resident set.
pub(crate) fn memory_of(id: u32) -> Result<u64> {
    let path = format!("/proc/{id}/statm");
    let statm = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let pages = statm.split(' ').nth(1).context("too few fields")?;
    Ok(pages.parse::<u64>()? * rustix::param::page_size() as u64)
}
