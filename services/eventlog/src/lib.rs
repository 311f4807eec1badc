//! Bytes in order, durably.
//!
//! An event log takes batches of events and gives each event an offset. It knows offsets and
//! bytes, never what they mean. One process writes ([`EventLog`]), any number of threads read
//! ([`Reader`]). Every store keeps the same promises, and [`suite`] tests them all:
//!
//! - **Append has three outcomes.** Durable: the batch survives a crash. Refused: nothing was
//!   written. Unknown: the fate can only be learned by opening the log again; the writer is dead
//!   from then on and answers [`AppendError::Unknown`] for ever.
//! - **Compare and append.** An append names the offset it expects to get.
//! - **Readers see durable batches only**, whole, in order, without a hole between the oldest
//!   retained offset and the end.
//! - **Rot is never read as history.** A damaged record is refused by name.
//!
//! `FORMAT.md` beside this crate has the bytes on disk.

pub mod suite;
mod record;
mod disk;
mod segment;
mod head;
mod segments;
mod ahead;
mod upkeep;
mod recovery;
mod creation;
mod read;
mod backup;
mod restore;
mod simulated;
mod memory;

use std::fmt;

use bytes::Bytes;

pub use backup::Backup;
pub use disk::{Disk, DiskFile, RealDisk, Space, read_only};
pub use memory::{MemoryLog, MemoryStore};
pub use record::{MAX_RECORD_BYTES, erase_payloads};
pub use restore::{BackupReader, Extent, RestoreError};
pub use segments::{Options, SEGMENT_BYTES_MIN, SegmentLog, Sync, open};
pub use simulated::SimulatedDisk;

/// The place of an event in its log; the first event ever has offset 0.
pub type Offset = u64;

/// A BLAKE3 hash: of a batch, chained over the one before it.
pub type Hash = [u8; 32];

/// Batches to append. The events' bytes and the payloads' bytes stay apart, so that a reader who
/// wants no payloads neither copies nor parses them.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// How many offsets the batch takes; at least 1.
    pub count: u32,
    /// When it was made, in microseconds since the Unix epoch; for retention by age.
    pub time_us: i64,
    /// The events, in the owner's own encoding.
    pub events: &'a [u8],
    /// What the events refer to; may be empty.
    pub payloads: &'a [u8],
}

/// A batch as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The offset of its first event.
    pub first: Offset,
    /// How many offsets it takes.
    pub count: u32,
    /// The epoch of the writer that appended it.
    pub epoch: u64,
    /// As in [`Batch::time_us`].
    pub time_us: i64,
    /// The events' bytes.
    pub events: Bytes,
    /// The payloads' bytes; empty where the read did not ask for them.
    pub payloads: Bytes,
    /// The chain up to and including this batch.
    pub hash: Hash,
}

impl Record {
    /// The offset after its last event.
    pub fn end(&self) -> Offset {
        self.first + Offset::from(self.count)
    }
}

/// Which log this is, and what it holds now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The log's identity, drawn when it was created (a UUID's 16 bytes).
    pub log_id: [u8; 16],
    /// Rises at each open for writing and at each restore.
    pub epoch: u64,
    /// The oldest retained offset.
    pub oldest: Offset,
    /// The offset that the next append gets; everything below is durable.
    pub next: Offset,
    /// How many bytes the retained batches take in the store.
    pub size_bytes: u64,
}

/// Why an append was refused; nothing was written and the writer goes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The expected offset is not the next one.
    #[error("the batch was expected at offset {expected}, but the next offset is {next}")]
    WrongOffset {
        /// What the caller expected.
        expected: Offset,
        /// What it would have been.
        next: Offset,
    },
    /// The store has no room left for it.
    #[error("the store is full: {0}")]
    Full(String),
    /// The batch is empty or larger than a record may be.
    #[error("the batch does not fit a record: {0}")]
    Unfit(String),
}

/// How an append can fail.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// Nothing was written.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Nobody knows whether it was written: acknowledge nothing, stop, open the log again.
    #[error("nobody knows whether the batch was written: {0}")]
    Unknown(String),
}

/// Why a read could not be answered.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The offset was trimmed away.
    #[error("offset {from} was trimmed; the oldest retained is {oldest}")]
    Trimmed {
        /// What was asked for.
        from: Offset,
        /// What is there.
        oldest: Offset,
    },
    /// The offset lies past the end.
    #[error("offset {from} is past the end of the log at {next}")]
    PastEnd {
        /// What was asked for.
        from: Offset,
        /// The end.
        next: Offset,
    },
    /// What is stored there is damaged.
    #[error("{file} is damaged at byte {position}: {what}")]
    Damaged {
        /// The file's name.
        file: String,
        /// Where in it.
        position: u64,
        /// What is wrong, as a sentence fragment.
        what: String,
    },
    /// The store failed.
    #[error("reading the log failed: {0}")]
    Io(String),
}

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{path} is in use by another process{holder}; stop that one or name another directory")]
    Locked {
        /// The data directory.
        path: String,
        /// " (pid N)" where it is known, else empty.
        holder: String,
    },
    /// The log is damaged, or is older than what its HEAD says was there.
    #[error("{0}")]
    Damaged(String),
    /// It was written by a newer version.
    #[error(
        "{path} has format version {found}, and this program knows up to {known}; use a newer program"
    )]
    NewerFormat {
        /// The file.
        path: String,
        /// The version found.
        found: u32,
        /// The newest known here.
        known: u32,
    },
    /// The store failed.
    #[error("opening the log failed: {0}")]
    Io(#[from] std::io::Error),
}

/// How much room the store has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Room {
    /// Enough.
    Ample,
    /// Less than a tenth of the disk is free: time to warn somebody.
    Low,
    /// Only the reserve is left: what begins new work should be refused, so that what ends work
    /// (results, cancels, trims) still fits.
    Reserved,
}

/// The writing side; one per log, owned by one thread.
pub trait EventLog: Send {
    /// Appends one batch at `expected` and returns the offset after it, once it is durable.
    fn append(&mut self, expected: Offset, batch: &Batch<'_>) -> Result<Offset, AppendError>;

    /// Makes room: drops the oldest whole files (or batches) that lie wholly before `before`, and
    /// returns the oldest offset retained now. Never drops the batch that holds `before` or a
    /// later one.
    fn trim(&mut self, before: Offset) -> Result<Offset, AppendError>;

    /// The place before which retention (age, size) asks to trim now, if any: the owner carries
    /// what is still live there and then calls [`EventLog::trim`].
    fn overdue(&self, now_us: i64) -> Option<Offset>;

    /// How much room is left, as of about a second ago: cheap enough to ask before each input.
    fn room(&self) -> Room;

    /// Writes what makes a clean stop cheap to verify (the HEAD); called at shutdown.
    fn close(&mut self) -> Result<(), AppendError>;

    /// A handle that reads and follows.
    fn reader(&self) -> Reader;
}

/// What a store does for its readers.
pub trait ReadStore: Send + std::marker::Sync {
    /// What the log holds now.
    fn bounds(&self) -> Bounds;

    /// The batches from the one that holds `from` on, at least one if there is any, and otherwise
    /// as many as fit in `max_bytes`; empty when `from` is the end. The first record may begin
    /// before `from`. Payloads are left out unless asked for.
    fn read(
        &self,
        from: Offset,
        max_bytes: usize,
        payloads: bool,
    ) -> Result<Vec<Record>, ReadError>;

    /// Reads and checks the whole retained log, record by record, chain included.
    fn verify(&self, progress: &mut dyn FnMut(Offset)) -> Result<Bounds, ReadError>;

    /// All that is durable now, to be written into a backup while the log goes on. What is trimmed
    /// meanwhile stays readable until then.
    fn backup(&self) -> Result<Backup, ReadError>;

    /// The durable end as it moves; the writer updates it after each sync.
    fn durable(&self) -> tokio::sync::watch::Receiver<Offset>;
}

/// A cheap handle to read a log; clones share the store.
#[derive(Clone)]
pub struct Reader(pub std::sync::Arc<dyn ReadStore>);

impl Reader {
    /// See [`ReadStore::bounds`].
    pub fn bounds(&self) -> Bounds {
        self.0.bounds()
    }

    /// See [`ReadStore::read`].
    pub fn read(
        &self,
        from: Offset,
        max_bytes: usize,
        payloads: bool,
    ) -> Result<Vec<Record>, ReadError> {
        self.0.read(from, max_bytes, payloads)
    }

    /// See [`ReadStore::verify`].
    pub fn verify(&self, progress: &mut dyn FnMut(Offset)) -> Result<Bounds, ReadError> {
        self.0.verify(progress)
    }

    /// See [`ReadStore::backup`].
    pub fn backup(&self) -> Result<Backup, ReadError> {
        self.0.backup()
    }

    /// Waits until the log holds something at `from` or later. Answers `false` when the writer is
    /// gone and nothing more will come.
    pub async fn follow(&self, from: Offset) -> bool {
        let mut durable = self.0.durable();
        durable.wait_for(|next| *next > from).await.is_ok()
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reader").field(&self.bounds()).finish()
    }
}
