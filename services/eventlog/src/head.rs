//! HEAD: how far the log reached, kept apart from the log.
//!
//! A log that lost its end looks like a shorter healthy one; HEAD tells. It is written after a
//! batch was synced, so it never claims more than is there; it is synced once a second and at
//! shutdown, so it costs an append no second sync. It has two slots, written by turns, so that a
//! torn or rotten one leaves the other. It must never be the only place of anything: all it says
//! of the batches can be found by reading them.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::disk::{Disk, DiskFile, write_whole};
use crate::record::{hash_at, u32_at, u64_at};
use crate::{Bounds, Hash, Offset, OpenError};

/// The file's name.
pub(crate) const NAME: &str = "HEAD";
/// Written whole under this name first, so that HEAD is there wholly or not at all.
pub(crate) const DRAFT_NAME: &str = "HEAD.new";
/// The format of HEAD and of segments that this program writes, and the newest it knows.
pub(crate) const FORMAT_VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"MAHEAD\0\0";
pub(crate) const SLOT_BYTES: usize = 128;
/// Slots lie on pages of their own.
const SLOT_DISTANCE: usize = 4096;
const LAZILY: u64 = 1;

/// What HEAD says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) log_id: [u8; 16],
    pub(crate) epoch: u64,
    /// The offset after the last batch that was synced when this was written.
    pub(crate) next: Offset,
    /// The chain at `next`.
    pub(crate) hash: Hash,
    /// What lies before it was trimmed, even if its files are still there.
    pub(crate) oldest: Offset,
    /// Whether the writer synced lazily: then what lies behind `next` may have holes.
    pub(crate) lazily: bool,
    /// Rises at each write; the valid slot with the higher one counts.
    sequence: u64,
}

impl Mark {
    /// The mark of a log that holds nothing yet.
    pub(crate) fn new(log_id: [u8; 16], hash: Hash) -> Mark {
        Mark {
            log_id,
            epoch: 0,
            next: 0,
            hash,
            oldest: 0,
            lazily: false,
            sequence: 0,
        }
    }

    /// The mark of a copy that was taken of a log in use.
    pub(crate) fn of_copy(bounds: &Bounds, hash: Hash) -> Mark {
        Mark {
            epoch: bounds.epoch,
            next: bounds.next,
            oldest: bounds.oldest,
            ..Mark::new(bounds.log_id, hash)
        }
    }

    /// What a slot says; `None` where it is torn or rotten. Its version is the caller's to look at.
    pub(crate) fn decode(slot: &[u8; SLOT_BYTES]) -> Option<Mark> {
        sealed_version(slot, &MAGIC)?;
        let mut log_id = [0; 16];
        log_id.copy_from_slice(&slot[16..32]);
        Some(Mark {
            log_id,
            epoch: u64_at(slot, 32),
            next: u64_at(slot, 40),
            oldest: u64_at(slot, 48),
            lazily: u64_at(slot, 56) & LAZILY != 0,
            sequence: u64_at(slot, 64),
            hash: hash_at(slot, 72),
        })
    }

    pub(crate) fn encode(&self) -> [u8; SLOT_BYTES] {
        let mut slot = [0; SLOT_BYTES];
        slot[..8].copy_from_slice(&MAGIC);
        slot[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        slot[16..32].copy_from_slice(&self.log_id);
        slot[32..40].copy_from_slice(&self.epoch.to_le_bytes());
        slot[40..48].copy_from_slice(&self.next.to_le_bytes());
        slot[48..56].copy_from_slice(&self.oldest.to_le_bytes());
        slot[56..64].copy_from_slice(&(if self.lazily { LAZILY } else { 0 }).to_le_bytes());
        slot[64..72].copy_from_slice(&self.sequence.to_le_bytes());
        slot[72..104].copy_from_slice(&self.hash);
        seal(&mut slot);
        slot
    }
}

/// Writes the checksum of a block that has it at byte 12: HEAD slots and segment headers alike.
pub(crate) fn seal(block: &mut [u8]) {
    let crc = checksum(block);
    block[12..16].copy_from_slice(&crc.to_le_bytes());
}

/// The format version of a sealed block, where its magic and its checksum are right.
pub(crate) fn sealed_version(block: &[u8], magic: &[u8; 8]) -> Option<u32> {
    let right = block.len() >= 16 && block[..8] == *magic && u32_at(block, 12) == checksum(block);
    right.then(|| u32_at(block, 8))
}

fn checksum(block: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&block[..12]), &block[16..])
}

/// Reads HEAD; `None` where there is none.
pub(crate) fn read(disk: &dyn Disk, names: &[String]) -> Result<Option<Mark>, OpenError> {
    if !names.iter().any(|name| name == NAME) {
        return Ok(None);
    }
    let file = disk.open(NAME)?;
    let mut best: Option<Mark> = None;
    for place in [0, SLOT_DISTANCE as u64] {
        let mut slot = [0; SLOT_BYTES];
        if file.read_at(&mut slot, place)? < SLOT_BYTES {
            continue;
        }
        if let Some(found) = sealed_version(&slot, &MAGIC)
            && found > FORMAT_VERSION
        {
            let path = format!("{}/{NAME}", disk.place());
            return Err(OpenError::NewerFormat {
                path,
                found,
                known: FORMAT_VERSION,
            });
        }
        let Some(mark) = Mark::decode(&slot) else {
            continue;
        };
        if best.is_none_or(|other| other.sequence < mark.sequence) {
            best = Some(mark);
        }
    }
    match best {
        Some(mark) => Ok(Some(mark)),
        None => Err(OpenError::Damaged(format!(
            "{}/{NAME} is damaged: neither of its two slots is readable; restore it, with the \
             segments, from a backup",
            disk.place()
        ))),
    }
}

/// HEAD, open for writing.
pub(crate) struct Head {
    file: Arc<dyn DiskFile>,
    mark: Mutex<Mark>,
    dirty: AtomicBool,
}

impl Head {
    /// Puts a new HEAD in place, durably.
    pub(crate) fn create(disk: &dyn Disk, mark: Mark) -> io::Result<Head> {
        let file = disk.create(DRAFT_NAME)?;
        let mut bytes = vec![0; SLOT_DISTANCE + SLOT_BYTES];
        bytes[..SLOT_BYTES].copy_from_slice(&mark.encode());
        write_whole(&*file, &bytes, 0).map_err(|(_, error)| error)?;
        file.sync_data()?;
        disk.rename(DRAFT_NAME, NAME)?;
        disk.sync_directory()?;
        Ok(Head {
            file,
            mark: Mutex::new(mark),
            dirty: AtomicBool::new(false),
        })
    }

    /// Opens the HEAD that said `mark`.
    pub(crate) fn open(disk: &dyn Disk, mark: Mark) -> io::Result<Head> {
        let file = disk.open(NAME)?;
        Ok(Head {
            file,
            mark: Mutex::new(mark),
            dirty: AtomicBool::new(false),
        })
    }

    /// Writes what `change` makes of the last mark into the slot whose turn it is. It is synced
    /// later.
    pub(crate) fn write(&self, change: impl FnOnce(&mut Mark)) -> io::Result<()> {
        let mut mark = self.mark.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut mark);
        mark.sequence += 1;
        let place = (mark.sequence % 2) * SLOT_DISTANCE as u64;
        write_whole(&*self.file, &mark.encode(), place).map_err(|(_, error)| error)?;
        self.dirty.store(true, Ordering::Release);
        Ok(())
    }

    /// Makes the last mark durable, if it is not yet.
    pub(crate) fn sync(&self) -> io::Result<()> {
        if self.dirty.swap(false, Ordering::AcqRel) {
            self.file.sync_data()?;
        }
        Ok(())
    }
}
