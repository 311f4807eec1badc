//! `multiagents backup`: all that the orchestrator's log holds, as one file, while everything goes on.
//!
//! The file gets its name when it is whole and synced; until then it is called FILE.partial, so a
//! backup that was killed is never taken for one.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use multiagents_client::wire::BackupResponse;
use rustix::fs::{FlockOperation, flock};
use serde_json::json;

use crate::Context;
use crate::failure::{Failure, exit};
use crate::progress;
use crate::words;

/// What `backup` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  multiagents backup nightly.backup
  multiagents backup --orchestrator orders.internal:7001 /backups/$(date +%F).backup
  multiagents restore --check nightly.backup

Nothing stops meanwhile: the file holds what was durable when the backup began, payloads included,
and is for its owner alone. Every record is checked, with the chain of hashes, as it is read. Until
the file is whole it is called FILE.partial.")]
pub(crate) struct Arguments {
    /// The file to write; there must be none of that name
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Takes it.
pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<u8, Failure> {
    let file = &arguments.file;
    if file.symlink_metadata().is_ok() {
        return Err(Failure::refused(format!(
            "{} is there already; name another file",
            file.display()
        )));
    }
    let client = context.suite.orchestrator().await?;
    let partial = with_suffix(file, ".partial");
    let mut out = open_partial(&partial)?;
    let written = fetch(&client, &mut out, &partial).await;
    let last = match written {
        Ok(last) => last,
        Err(failure) => {
            // It is no backup and says so by its name; nobody needs it.
            let _may_stay = std::fs::remove_file(&partial);
            return Err(failure);
        }
    };
    std::fs::rename(&partial, file).map_err(|error| unwritten(file, &error))?;
    sync_folder(file).map_err(|error| unwritten(file, &error))?;
    let (oldest, next) = (last.oldest_offset, last.next_offset);
    if context.output.json {
        context.output.json(&json!({
            "file": file.display().to_string(),
            "size_bytes": last.size_bytes,
            "log_id": last.log_id,
            "oldest_offset": oldest,
            "next_offset": next,
            "blake3": hex(&last.hash),
        }))?;
    } else {
        context.output.line(format!(
            "Backed up {} (offsets {oldest} to {next}) into {}, {}.",
            words::counted(next - oldest, "event", "events"),
            file.display(),
            words::bytes(last.size_bytes as f64)
        ))?;
    }
    Ok(exit::OK)
}

/// Writes the pieces into `out` until the one that proves the whole; gives that one.
async fn fetch(
    client: &multiagents_client::Client,
    out: &mut File,
    path: &Path,
) -> Result<BackupResponse, Failure> {
    let mut pieces = client.backup().await?;
    let bar = progress::byte_bar(0, "Backing up");
    let mut hasher = blake3::Hasher::new();
    let mut done = 0;
    while let Some(piece) = pieces.message().await? {
        out.write_all(&piece.data)
            .map_err(|error| unwritten(path, &error))?;
        hasher.update(&piece.data);
        done += piece.data.len() as u64;
        bar.set_length(piece.size_bytes);
        bar.set_position(done);
        if piece.hash.is_empty() {
            continue;
        }
        if piece.hash[..] != hasher.finalize().as_bytes()[..] || done != piece.size_bytes {
            return Err(Failure::refused(
                "what arrived is not what the orchestrator sent; take the backup again",
            ));
        }
        bar.set_message("Syncing");
        out.sync_all().map_err(|error| unwritten(path, &error))?;
        bar.finish_and_clear();
        return Ok(piece);
    }
    Err(Failure::refused(
        "the orchestrator ended the backup before it was whole; take it again",
    ))
}

/// For this process alone; what a killed one left there is overwritten.
fn open_partial(path: &Path) -> Result<File, Failure> {
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| unwritten(path, &error))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Err(Failure::refused(format!(
            "another backup is being written to {}",
            path.display()
        )));
    }
    file.set_len(0).map_err(|error| unwritten(path, &error))?;
    Ok(file)
}

fn sync_folder(file: &Path) -> std::io::Result<()> {
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn unwritten(path: &Path, error: &std::io::Error) -> Failure {
    Failure::refused(format!("{} can't be written: {error}", path.display()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
