//! From a backup to a log that can be opened.
//!
//! A backup is checked as a whole, chain included, before anything is written. Then a mark is set in
//! the empty directory, the segments are copied and synced, HEAD follows, and only then the mark goes:
//! a directory with the mark is refused by every open, so a restore that was killed is never started
//! from. The restored log gets an epoch that no log before it had, so that cursors from the future
//! that was lost are told from its own. Nothing here repairs: what is wrong is named, and left out
//! only by whoever says so.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::backup::{ENTRY_BYTES, HEAD_AT, MAGIC, TABLE_AT, block_bytes};
use crate::creation::holder;
use crate::disk::{Disk, DiskFile, read_only, write_whole};
use crate::head::{self, DRAFT_NAME, FORMAT_VERSION, Head, Mark, SLOT_BYTES, sealed_version};
use crate::read::Part;
use crate::record::{u32_at, u64_at};
use crate::segment::{FIRST_RECORD, Segment, file_name, first_of};
use crate::segments::LOCK_NAME;
use crate::upkeep::NEXT_NAME;
use crate::{Bounds, Hash, Offset, OpenError, ReadError};

/// Stands in a directory for as long as what is restored into it is not whole.
pub(crate) const RESTORING_NAME: &str = "RESTORING";
const COPY_BYTES: usize = 1024 * 1024;
/// More segments than a log can have.
const SEGMENTS_MAX: usize = 1 << 24;

/// Why a backup was not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The file is no backup, or what says what is in it is damaged.
    #[error("{0}")]
    NoBackup(String),
    /// There is something in the directory already.
    #[error("{0}")]
    NotEmpty(String),
    /// The directory is in use, or a version is newer than this program.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The disk failed.
    #[error("restoring failed: {0}")]
    Io(#[from] io::Error),
}

/// A backup, open for reading; its first block is right.
pub struct BackupReader {
    name: String,
    file: Arc<dyn DiskFile>,
    mark: Mark,
    size_bytes: u64,
    /// First offset, place and length.
    segments: Vec<(Offset, u64, u64)>,
}

/// How far a backup is whole.
pub struct Extent {
    /// The offset after the last event that can be restored.
    pub next: Offset,
    /// What is wrong behind that, as a sentence; `None` where the whole backup is right.
    pub flaw: Option<String>,
    hash: Hash,
    /// How much of each segment is taken.
    lengths: Vec<u64>,
}

impl BackupReader {
    /// Opens the backup at `path`.
    pub fn open(path: &Path) -> Result<BackupReader, RestoreError> {
        BackupReader::on(read_only(path)?, path.display().to_string())
    }

    /// The same for a file that is open; `name` is for messages.
    pub fn on(file: Arc<dyn DiskFile>, name: String) -> Result<BackupReader, RestoreError> {
        let mut start = [0; TABLE_AT];
        let read = file.read_at(&mut start, 0)?;
        if read < 8 || start[..8] != MAGIC {
            return Err(RestoreError::NoBackup(format!(
                "{name} is no backup of a log: it doesn't begin as one"
            )));
        }
        let damaged = || {
            RestoreError::NoBackup(format!(
                "{name} is damaged where it says what is in it; take another backup"
            ))
        };
        let count = u32_at(&start, 16) as usize;
        let length = block_bytes(count);
        if read < TABLE_AT || count > SEGMENTS_MAX || length as u64 > file.length()? {
            return Err(damaged());
        }
        let mut block = vec![0; length];
        file.read_at(&mut block, 0)?;
        let found = sealed_version(&block, &MAGIC).ok_or_else(damaged)?;
        if found > FORMAT_VERSION {
            return Err(RestoreError::Open(OpenError::NewerFormat {
                path: name,
                found,
                known: FORMAT_VERSION,
            }));
        }
        let mut slot = [0; SLOT_BYTES];
        slot.copy_from_slice(&block[HEAD_AT..TABLE_AT]);
        let mark = Mark::decode(&slot).ok_or_else(damaged)?;
        let mut place = length as u64;
        let table = block[TABLE_AT..].chunks_exact(ENTRY_BYTES).take(count);
        let segments = table.map(|entry| {
            let (first, length) = (u64_at(entry, 0), u64_at(entry, 8));
            let at = place;
            place = at.saturating_add(length);
            (first, at, length)
        });
        Ok(BackupReader {
            segments: segments.collect(),
            name,
            file,
            mark,
            size_bytes: u64_at(&start, 24),
        })
    }

    /// What it says that it holds.
    pub fn bounds(&self) -> Bounds {
        Bounds {
            log_id: self.mark.log_id,
            epoch: self.mark.epoch,
            oldest: self.mark.oldest,
            next: self.mark.next,
            size_bytes: self.size_bytes,
        }
    }

    /// Reads and checks all of it, chain included, and says how far it is whole. `progress` is told
    /// how many bytes have been read.
    pub fn check(&self, progress: &mut dyn FnMut(u64)) -> Result<Extent, RestoreError> {
        let mut extent = Extent {
            next: self.mark.oldest,
            flaw: self.flaw_of_length()?,
            hash: self.mark.hash,
            lengths: Vec::new(),
        };
        for index in 0..self.segments.len() {
            match self.check_segment(index, &mut extent, progress) {
                Ok(()) => {}
                Err(RestoreError::NoBackup(what)) => {
                    extent.flaw.get_or_insert(what);
                    return Ok(extent);
                }
                Err(error) => return Err(error),
            }
        }
        if extent.flaw.is_none() && (extent.next, extent.hash) != (self.mark.next, self.mark.hash) {
            extent.flaw = Some(format!("{} holds another log than it says", self.name));
        }
        Ok(extent)
    }

    fn flaw_of_length(&self) -> io::Result<Option<String>> {
        let (is, says) = (self.file.length()?, self.size_bytes);
        Ok((is != says).then(|| {
            format!(
                "{} has {is} bytes and says that it has {says}: it is not a whole backup",
                self.name
            )
        }))
    }

    /// Checks one segment; what of it is right is added to `extent`.
    fn check_segment(
        &self,
        index: usize,
        extent: &mut Extent,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), RestoreError> {
        let (first, at, length) = self.segments[index];
        let piece = Piece {
            file: Arc::clone(&self.file),
            start: at,
            length,
        };
        let path = format!("{} in {}", file_name(first), self.name);
        if piece.length()? < FIRST_RECORD {
            return Err(RestoreError::NoBackup(format!("{path} is cut off")));
        }
        let segment = match Segment::from_file(Arc::new(piece), first, path) {
            Err(OpenError::Damaged(what)) => return Err(RestoreError::NoBackup(what)),
            other => other?,
        };
        let opening = segment.opening;
        let before = index.checked_sub(1).map(|before| self.segments[before].0);
        if opening.log_id != self.mark.log_id
            || before.is_some_and(|before| opening.previous_first != Some(before))
        {
            let what = format!("{} in {} is of another log", segment.name, self.name);
            return Err(RestoreError::NoBackup(what));
        }
        if index == 0 {
            extent.hash = opening.previous_hash;
        }
        let end = self.segments.get(index + 1);
        let part = Part {
            segment: Arc::new(segment),
            end: end.map_or(self.mark.next, |(first, ..)| *first),
            size_bytes: length,
        };
        extent.lengths.push(FIRST_RECORD);
        let mut chain = extent.hash;
        let walked = part.walk(&mut chain, &mut |found| {
            let position = found.position + found.header.stored_len() as u64;
            extent.next = found.end();
            extent.hash = found.header.hash;
            extent.lengths[index] = position;
            progress(at + position);
            Ok(())
        });
        match walked {
            Ok(()) => Ok(()),
            Err(ReadError::Io(what)) => Err(io::Error::other(what).into()),
            Err(error) => Err(RestoreError::NoBackup(format!("{}: {error}", self.name))),
        }
    }

    /// Writes what `extent` says into the directory of `disk`, which holds no log or a restore that
    /// did not come to its end, and gives what the log is then. Its epoch is at least
    /// `epoch_at_least`: let that be more than any log before has had, such as the milliseconds since
    /// 1970. `progress` is told how many bytes were written.
    pub fn restore(
        &self,
        disk: &dyn Disk,
        extent: &Extent,
        epoch_at_least: u64,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Bounds, RestoreError> {
        if extent.lengths.is_empty() {
            return Err(RestoreError::NoBackup(format!(
                "{} has nothing that could be restored",
                self.name
            )));
        }
        let Some(_lock) = disk.lock(LOCK_NAME)? else {
            return Err(RestoreError::Open(OpenError::Locked {
                path: disk.place(),
                holder: holder(disk),
            }));
        };
        make_empty(disk)?;
        disk.create(RESTORING_NAME)?;
        disk.sync_directory()?;
        let mut written = 0;
        for ((first, at, _), length) in self.segments.iter().zip(&extent.lengths) {
            let file = disk.create(&file_name(*first))?;
            self.copy(*at, *length, &*file, &mut |bytes| {
                written += bytes;
                progress(written);
            })?;
            file.sync_data()?;
        }
        let mut mark = self.mark;
        mark.epoch = (mark.epoch + 1).max(epoch_at_least);
        mark.next = extent.next;
        mark.hash = extent.hash;
        Head::create(disk, mark)?;
        // All that HEAD speaks of is there; now it may be opened.
        disk.remove(RESTORING_NAME)?;
        disk.sync_directory()?;
        Ok(Bounds {
            epoch: mark.epoch,
            next: mark.next,
            size_bytes: written,
            ..self.bounds()
        })
    }

    fn copy(
        &self,
        from: u64,
        length: u64,
        to: &dyn DiskFile,
        copied: &mut dyn FnMut(u64),
    ) -> io::Result<()> {
        let mut buffer = vec![0; COPY_BYTES];
        let mut done = 0;
        while done < length {
            let wanted = usize::try_from(length - done)
                .unwrap_or(COPY_BYTES)
                .min(COPY_BYTES);
            if self.file.read_at(&mut buffer[..wanted], from + done)? < wanted {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            write_whole(to, &buffer[..wanted], done).map_err(|(_, error)| error)?;
            done += wanted as u64;
            copied(wanted as u64);
        }
        Ok(())
    }
}

/// Clears away what a restore left that did not come to its end; anything else stays, and is told.
fn make_empty(disk: &dyn Disk) -> Result<(), RestoreError> {
    let mut names = disk.list()?;
    names.retain(|name| name != LOCK_NAME && name != RESTORING_NAME);
    let begun = disk.list()?.iter().any(|name| name == RESTORING_NAME);
    let ours = |name: &str| {
        first_of(name).is_some() || [head::NAME, DRAFT_NAME, NEXT_NAME].contains(&name)
    };
    if let Some(other) = names.iter().find(|name| !begun || !ours(name)) {
        return Err(RestoreError::NotEmpty(format!(
            "{} is not empty: it has {other}; restore into an empty directory",
            disk.place()
        )));
    }
    for name in names {
        disk.remove(&name)?;
    }
    Ok(())
}

/// A segment within the backup's file; nobody writes it.
struct Piece {
    file: Arc<dyn DiskFile>,
    start: u64,
    length: u64,
}

impl DiskFile for Piece {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let left = self.length.saturating_sub(position);
        let wanted = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        self.file
            .read_at(&mut buffer[..wanted], self.start.saturating_add(position))
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self
            .file
            .length()?
            .saturating_sub(self.start)
            .min(self.length))
    }
}
