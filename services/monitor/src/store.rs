//! The monitor's data directory: its own log, and snapshots of the folds beside it.
//!
//! A snapshot bounds a restart and lets the log be trimmed: what the folds know of trimmed events
//! stands in it. It is a fold's state at one position and can be made again from an older one.
//! Nothing here knows what the folds mean.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use eventlog::{EventLog as _, Options, Reader, SegmentLog};

use crate::entry;
use crate::fold::Folds;

const MAGIC: &[u8; 8] = b"MAMONSNP";
/// Raised whenever a fold's state changes its form; others are refolded from an older snapshot or
/// from the log.
const FORMAT_VERSION: u32 = 3;
const HEADER_BYTES: usize = 8 + 4 + 4 + 16 + 8;
const EXTENSION: &str = "snapshot";
/// How many snapshots are kept: the oldest for verifying, the newest for restarting.
const KEPT: usize = 8;
/// How many bytes of the log are read at once.
const READ_BYTES: usize = 4 * 1024 * 1024;

/// The log and the folds as they were when the monitor stopped.
pub struct Opened {
    /// The log, open for writing.
    pub log: SegmentLog,
    /// The folds at its end.
    pub folds: Folds,
    /// Where snapshots are.
    pub snapshots: Snapshots,
}

/// Why the data directory can't be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The log can't be opened.
    #[error(transparent)]
    Open(#[from] eventlog::OpenError),
    /// The log can't be read.
    #[error(transparent)]
    Read(#[from] eventlog::ReadError),
    /// A record of the log means nothing.
    #[error(transparent)]
    Unreadable(#[from] entry::Unreadable),
    /// The directory can't be used.
    #[error("the data directory can't be used: {0}")]
    Io(#[from] io::Error),
}

/// Opens the directory and brings the folds to the log's end.
///
/// # Errors
/// As the log's, or when it holds what can't be read.
pub fn open(directory: &Path, options: Options) -> Result<Opened, StoreError> {
    let log = SegmentLog::open(&directory.join("log"), options)?;
    let reader = log.reader();
    let snapshots = Snapshots::open(&directory.join("snapshots"), reader.bounds().log_id)?;
    let bounds = reader.bounds();
    let mut folds = match snapshots.newest(bounds.oldest, bounds.next) {
        Some(folds) => folds,
        None if bounds.oldest == 0 => Folds::default(),
        None => {
            tracing::error!(
                oldest = bounds.oldest,
                "no snapshot of the folds can be used, and the log's beginning was trimmed: counters \
                 begin anew with the oldest retained entry"
            );
            Folds {
                position: bounds.oldest,
                ..Folds::default()
            }
        }
    };
    let from = folds.position;
    refold(&reader, &mut folds, bounds.next, &mut |_| true)?;
    if bounds.next > 0 {
        tracing::info!(
            position = bounds.next,
            refolded = bounds.next - from,
            "the monitor's own log is open"
        );
    }
    Ok(Opened {
        log,
        folds,
        snapshots,
    })
}

/// Folds the log from where `folds` stand to `end`, or until `progress` says false.
///
/// # Errors
/// When the log can't be read there.
pub fn refold(
    reader: &Reader,
    folds: &mut Folds,
    end: u64,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<(), StoreError> {
    while folds.position < end {
        let records = reader.read(folds.position, READ_BYTES, false)?;
        if records.is_empty() {
            break;
        }
        for record in records {
            if record.first >= end {
                return Ok(());
            }
            for entry in entry::decode(&record)? {
                folds.apply(&entry);
            }
        }
        if !progress(folds.position) {
            return Ok(());
        }
    }
    Ok(())
}

/// The snapshots of one log's folds.
#[derive(Clone, Debug)]
pub struct Snapshots {
    directory: PathBuf,
    log_id: [u8; 16],
}

impl Snapshots {
    /// The snapshots in a directory, which is made if it isn't there.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn open(directory: &Path, log_id: [u8; 16]) -> io::Result<Self> {
        // Who may read snapshots may read what the log says.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
            log_id,
        })
    }

    /// Writes one, durably, and lets go of those that nobody needs any more.
    ///
    /// # Errors
    /// When it can't be encoded or written; the others stay as they are.
    pub fn write(&self, folds: &Folds, log_oldest: u64) -> io::Result<()> {
        let body = postcard::to_stdvec(folds).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        bytes.extend_from_slice(&self.log_id);
        bytes.extend_from_slice(&folds.position.to_le_bytes());
        bytes.extend_from_slice(&body);
        let draft = self.directory.join("draft");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&draft, self.path(folds.position))?;
        File::open(&self.directory)?.sync_all()?;
        self.thin(log_oldest)
    }

    /// The newest one from which the log can be folded on.
    pub fn newest(&self, oldest: u64, next: u64) -> Option<Folds> {
        self.usable(oldest, next)
            .into_iter()
            .rev()
            .find_map(|position| self.load(position))
    }

    /// The oldest one from which the log can be folded on.
    pub fn oldest(&self, oldest: u64, next: u64) -> Option<Folds> {
        self.usable(oldest, next)
            .into_iter()
            .find_map(|position| self.load(position))
    }

    /// Whether a snapshot has all that lies before a position.
    pub fn reach(&self, position: u64) -> bool {
        let newest = self
            .positions()
            .ok()
            .and_then(|found| found.last().copied());
        newest.is_some_and(|newest| newest >= position)
    }

    /// Positions of snapshots within the log, rising. One past its end is of a future that a crash
    /// took, one before its oldest entry has nothing to go on with.
    fn usable(&self, oldest: u64, next: u64) -> Vec<u64> {
        let mut positions = self.positions().unwrap_or_default();
        positions.retain(|position| (oldest..=next).contains(position));
        positions
    }

    fn load(&self, position: u64) -> Option<Folds> {
        let path = self.path(position);
        match fs::read(&path)
            .map_err(|error| error.to_string())
            .and_then(|bytes| self.decode(&bytes, position))
        {
            Ok(folds) => Some(folds),
            Err(why) => {
                tracing::warn!(path = %path.display(), why, "a snapshot is passed over");
                None
            }
        }
    }

    fn decode(&self, bytes: &[u8], position: u64) -> Result<Folds, String> {
        let (header, body) = bytes
            .split_at_checked(HEADER_BYTES)
            .ok_or("it is cut off")?;
        if &header[..8] != MAGIC || header[8..12] != FORMAT_VERSION.to_le_bytes() {
            return Err("it has another format".to_owned());
        }
        if header[12..16] != crc32c::crc32c(body).to_le_bytes() {
            return Err("its checksum is wrong".to_owned());
        }
        if header[16..32] != self.log_id || header[32..40] != position.to_le_bytes() {
            return Err("it is of another log".to_owned());
        }
        postcard::from_bytes(body).map_err(|error| error.to_string())
    }

    fn path(&self, position: u64) -> PathBuf {
        self.directory.join(format!("{position:020}.{EXTENSION}"))
    }

    fn positions(&self) -> io::Result<Vec<u64>> {
        let mut positions = Vec::new();
        for found in fs::read_dir(&self.directory)? {
            let path = found?.path();
            if path.extension().is_some_and(|found| found == EXTENSION)
                && let Some(stem) = path.file_stem().and_then(|stem| stem.to_str())
                && let Ok(position) = stem.parse()
            {
                positions.push(position);
            }
        }
        positions.sort_unstable();
        Ok(positions)
    }

    /// Lets go of those before the log's oldest entry, then of those that lie closest together.
    fn thin(&self, log_oldest: u64) -> io::Result<()> {
        let mut positions = self.positions()?;
        let mut gone: Vec<u64> = positions
            .iter()
            .copied()
            .filter(|position| *position < log_oldest)
            .collect();
        positions.retain(|position| *position >= log_oldest);
        while positions.len() > KEPT {
            let closest = (1..positions.len() - 1)
                .min_by_key(|at| positions[at + 1] - positions[at - 1])
                .unwrap_or(1);
            gone.push(positions.remove(closest));
        }
        gone.into_iter()
            .try_for_each(|position| fs::remove_file(self.path(position)))
    }
}
