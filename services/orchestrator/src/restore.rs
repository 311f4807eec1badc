//! `multiagents-orchestrator restore`: an empty data directory is given the log of a backup.
//!
//! The log is all of it: state.db is a fold, which the next start makes anew. Nothing here overwrites
//! what somebody has, and nothing is left out of a backup unless that was asked for and is said.

use std::path::Path;

use anyhow::Context as _;
use eventlog::{BackupReader, Bounds, Disk as _, Extent, OpenError, RealDisk, RestoreError};
use kit::{Clock, exit, exit_with};
use serde_json::json;

use crate::config::Restore;
use crate::grpc::event_log::log_id_text;

/// Progress is printed each time that so many more bytes are done.
const PROGRESS_BYTES: u64 = 1 << 20;

/// Checks the backup and, unless that is all that is wanted, restores it into `data_dir`.
///
/// # Errors
/// With the exit code of the matter: 2 for the backup, 1 for the directory, 74 for the disk, 75 for a
/// directory in use, 78 for a newer format.
pub(crate) fn run(task: &Restore, data_dir: &Path, clock: &Clock) -> anyhow::Result<()> {
    let backup = BackupReader::open(&task.backup).map_err(|error| match error {
        RestoreError::Io(error) => exit_with(
            exit::USAGE,
            anyhow::anyhow!("{} can't be read: {error}", task.backup.display()),
        ),
        other => coded(other),
    })?;
    if !task.check {
        only_log(data_dir)?;
    }
    let total = backup.bounds().size_bytes;
    let mut said = 0;
    let mut tell = |what: &str, done: u64| {
        if task.progress && (done >= said + PROGRESS_BYTES || done == 0) {
            said = done;
            println!(
                "{}",
                json!({"doing": what, "done_bytes": done, "total_bytes": total})
            );
        }
    };
    tell("checking", 0);
    let extent = backup
        .check(&mut |done| tell("checking", done))
        .map_err(coded)?;
    if let Some(flaw) = &extent.flaw
        && (task.check || !task.accept_loss)
    {
        return Err(flawed(&backup, &extent, flaw));
    }
    let mut restored = backup.bounds();
    if !task.check {
        let disk = RealDisk::new(&data_dir.join("log")).map_err(|error| coded(error.into()))?;
        // Milliseconds since 1970 are more than any number of starts comes to, so that no cursor from
        // the future that is lost can pass for one of this log.
        let epoch = u64::try_from(clock.wall_micros() / 1_000).unwrap_or_default();
        said = 0;
        let mut tell = |done: u64| {
            if task.progress && done >= said + PROGRESS_BYTES {
                said = done;
                let line = json!({"doing": "restoring", "done_bytes": done, "total_bytes": total});
                println!("{line}");
            }
        };
        restored = backup
            .restore(&disk, &extent, epoch, &mut tell)
            .map_err(coded)?;
    }
    report(task, data_dir, &backup.bounds(), &restored, extent.flaw);
    Ok(())
}

/// Whether the directory holds nothing, or no more than a log that the restore itself looks at.
fn only_log(data_dir: &Path) -> anyhow::Result<()> {
    if !data_dir.exists() {
        return Ok(());
    }
    let place = data_dir.display();
    let names = RealDisk::new(data_dir)
        .and_then(|disk| disk.list())
        .with_context(|| format!("{place} can't be read"))
        .map_err(|error| exit_with(exit::STORE, error))?;
    match names.iter().find(|name| *name != "log") {
        None => Ok(()),
        Some(other) => Err(exit_with(
            exit::REFUSED,
            anyhow::anyhow!(
                "{place} is not empty: it has {other}; restore into an empty directory"
            ),
        )),
    }
}

fn flawed(backup: &BackupReader, extent: &Extent, flaw: &str) -> anyhow::Error {
    let bounds = backup.bounds();
    let (whole, lost) = (extent.next - bounds.oldest, bounds.next - extent.next);
    exit_with(
        exit::USAGE,
        anyhow::anyhow!(
            "{flaw}; {whole} of its events (offsets {} to {}) are whole, {lost} are lost: take \
             another backup, or restore what is whole with --accept-loss",
            bounds.oldest,
            extent.next
        ),
    )
}

fn report(task: &Restore, data_dir: &Path, had: &Bounds, is: &Bounds, flaw: Option<String>) {
    let lost = had.next - is.next;
    if task.progress {
        let outcome = json!({
            "checked_only": task.check,
            "log_id": log_id_text(&is.log_id),
            "oldest_offset": is.oldest,
            "next_offset": is.next,
            "size_bytes": is.size_bytes,
            "lost_events": lost,
            "flaw": flaw,
        });
        println!("{}", json!({"outcome": outcome}));
        return;
    }
    let events = format!(
        "{} events (offsets {} to {})",
        is.next - is.oldest,
        is.oldest,
        is.next
    );
    if task.check {
        println!("{} is whole: {events}.", task.backup.display());
    } else {
        println!("Restored {events} into {}.", data_dir.display());
    }
    if let Some(flaw) = flaw {
        println!("{lost} events are lost: {flaw}.");
    }
}

fn coded(error: RestoreError) -> anyhow::Error {
    let code = match &error {
        RestoreError::NoBackup(_) => exit::USAGE,
        RestoreError::NotEmpty(_) => exit::REFUSED,
        RestoreError::Open(OpenError::Locked { .. }) => exit::LOCKED,
        RestoreError::Open(OpenError::NewerFormat { .. }) => exit::CONFIG,
        RestoreError::Open(OpenError::Damaged(_) | OpenError::Io(_)) | RestoreError::Io(_) => {
            exit::STORE
        }
    };
    exit_with(code, error)
}
