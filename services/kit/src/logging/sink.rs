//! The one thread that writes log lines, and the bounded queue in front of it.
//!
//! Rotation is logroller's: `NAME.1` is the newest rotated file. It must never make whoever
//! logs wait, nor fail a service because a line could not be written.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use anyhow::Context as _;
use logroller::{LogRoller, LogRollerBuilder, Rotation, RotationSize};

/// Lines that wait to be written; when it is full, lines are dropped, counted and told.
const LINES_MAX: usize = 8_192;

/// One thing logged, as it is to stand in each destination.
pub(super) struct Line {
    pub(super) console: Option<String>,
    pub(super) file: Option<String>,
}

enum Order {
    Write(Line),
    Stop,
}

/// The way in.
#[derive(Clone)]
pub(super) struct Queue {
    sender: SyncSender<Order>,
    dropped: Arc<AtomicU64>,
}

impl Queue {
    pub(super) fn put(&self, line: Line) {
        if self.sender.try_send(Order::Write(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Puts the line that tells how many were dropped since the last such line, if any were.
    pub(super) fn tell_dropped(&self, line: impl FnOnce(u64) -> Line) {
        let dropped = self.dropped.load(Ordering::Relaxed);
        if dropped > 0 && self.sender.try_send(Order::Write(line(dropped))).is_ok() {
            self.dropped.fetch_sub(dropped, Ordering::Relaxed);
        }
    }
}

/// Writes out what is queued when it is dropped.
pub struct Guard {
    sender: SyncSender<Order>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Fails only when the thread is gone, and then there is nothing to wait for either.
        let _ = self.sender.send(Order::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Opens the log file and readies its rotation.
pub(super) fn open(path: &Path, size_mb_max: u64, backups: u64) -> anyhow::Result<LogRoller> {
    anyhow::ensure!(
        size_mb_max > 0,
        "logging.max_file_size_mb is 0; it must be at least 1"
    );
    let name = path
        .file_name()
        .with_context(|| format!("logging.file_path {} names no file", path.display()))?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    LogRollerBuilder::new(directory, Path::new(name))
        .rotation(Rotation::SizeBased(RotationSize::MB(size_mb_max)))
        .max_keep_files(backups)
        .file_mode(0o600)
        .graceful_shutdown(true)
        .build()
        .with_context(|| format!("cannot open the log file {}", path.display()))
}

/// Starts the thread.
pub(super) fn start(file: Option<LogRoller>) -> anyhow::Result<(Queue, Guard)> {
    let (sender, receiver) = sync_channel(LINES_MAX);
    let queue = Queue {
        sender: sender.clone(),
        dropped: Arc::new(AtomicU64::new(0)),
    };
    let thread = std::thread::Builder::new()
        .name("log".into())
        .spawn(move || write_lines(&receiver, file))
        .context("cannot start the log thread")?;
    Ok((
        queue,
        Guard {
            sender,
            thread: Some(thread),
        },
    ))
}

fn write_lines(receiver: &Receiver<Order>, mut file: Option<LogRoller>) {
    let mut file_failed = false;
    while let Ok(Order::Write(line)) = receiver.recv() {
        if let Some(text) = line.console {
            // Nobody may be reading standard error any more; that is no reason to stop.
            let _ = std::io::stderr().lock().write_all(text.as_bytes());
        }
        if let (Some(text), Some(roller)) = (line.file, &mut file) {
            let failed = roller.write_all(text.as_bytes()).is_err();
            if failed && !file_failed {
                eprintln!("the log file cannot be written; its lines are lost until it can");
            }
            file_failed = failed;
        }
    }
    if let Some(roller) = &mut file {
        let _ = roller.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        Line {
            console: None,
            file: Some(text.to_owned()),
        }
    }

    /// Nobody takes lines here, as when the disk stands still: logging never waits for it.
    #[test]
    fn lines_past_the_bound_are_dropped_counted_and_told() {
        let (sender, receiver) = sync_channel(LINES_MAX);
        let queue = Queue {
            sender,
            dropped: Arc::default(),
        };
        for _ in 0..LINES_MAX + 7 {
            queue.put(line("a line"));
        }
        let told = |count: u64| line(&format!("{count} lines were dropped"));
        // There is no room to tell it either; it stays to be told.
        queue.tell_dropped(told);
        let kept = receiver.try_iter().count();
        assert_eq!(kept, LINES_MAX);
        queue.tell_dropped(told);
        queue.tell_dropped(told);
        let last: Vec<_> = receiver.try_iter().collect();
        let [Order::Write(last)] = last.as_slice() else {
            panic!("one line tells it");
        };
        assert_eq!(last.file.as_deref(), Some("7 lines were dropped"));
    }
}
