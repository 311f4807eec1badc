//! One segment file: its header, and reading records from it.
//!
//! Everything that reads records (readers, verification, recovery) does it through [`Cursor`], so
//! that a checksum or an offset that does not fit is noticed in one place and nowhere ignored.
//! A cursor repairs nothing and never skips a record that it cannot read.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use crate::disk::{Disk, DiskFile, write_whole};
use crate::head::{FORMAT_VERSION, seal, sealed_version};
use crate::record::{HEADER_BYTES, Header, hash_at, u32_at, u64_at};
use crate::{Hash, Offset, OpenError, ReadError, Record};

/// Where the first record lies; the header has the first sector for itself, so that no later
/// write touches it.
pub(crate) const FIRST_RECORD: u64 = 512;
pub(crate) const HEADER_LEN: usize = 128;
const MAGIC: [u8; 8] = *b"MASEGMNT";
const SUFFIX: &str = ".seg";
/// In `previous_first`: there is no segment before this one.
const NONE_BEFORE: u64 = u64::MAX;
/// How far apart the places are that memory keeps of a segment.
const INDEX_SPACING: u64 = 32 * 1024;

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opening {
    pub(crate) log_id: [u8; 16],
    /// The offset of the first record.
    pub(crate) first: Offset,
    /// The epoch of the writer that created the file.
    pub(crate) epoch: u64,
    /// The time of the batch it was created for; 0 in the first segment of a log.
    pub(crate) time_us: i64,
    /// Where every checksum of this file begins: records of another file, or ones that somebody
    /// put into a payload, do not pass for records of this one.
    pub(crate) salt: u32,
    /// The first offset of the segment before this one.
    pub(crate) previous_first: Option<Offset>,
    /// The chain before the first record.
    pub(crate) previous_hash: Hash,
}

impl Opening {
    pub(crate) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut block = [0; HEADER_LEN];
        block[..8].copy_from_slice(&MAGIC);
        block[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        block[16..32].copy_from_slice(&self.log_id);
        block[32..40].copy_from_slice(&self.first.to_le_bytes());
        block[40..48].copy_from_slice(&self.epoch.to_le_bytes());
        block[48..56].copy_from_slice(&self.time_us.to_le_bytes());
        block[56..60].copy_from_slice(&self.salt.to_le_bytes());
        let previous = self.previous_first.unwrap_or(NONE_BEFORE);
        block[64..72].copy_from_slice(&previous.to_le_bytes());
        block[72..104].copy_from_slice(&self.previous_hash);
        seal(&mut block);
        block
    }

    fn parse(block: &[u8; HEADER_LEN]) -> Opening {
        let mut log_id = [0; 16];
        log_id.copy_from_slice(&block[16..32]);
        let previous = u64_at(block, 64);
        Opening {
            log_id,
            first: u64_at(block, 32),
            epoch: u64_at(block, 40),
            time_us: u64_at(block, 48).cast_signed(),
            salt: u32_at(block, 56),
            previous_first: (previous != NONE_BEFORE).then_some(previous),
            previous_hash: hash_at(block, 72),
        }
    }

    /// Writes the header to the start of a segment file.
    pub(crate) fn write(&self, file: &dyn DiskFile) -> Result<(), io::Error> {
        write_whole(file, &self.encode(), 0).map_err(|(_, error)| error)
    }
}

/// The name of the segment that begins at `first`.
pub(crate) fn file_name(first: Offset) -> String {
    format!("{first:020}{SUFFIX}")
}

/// The offset at which the segment of that name begins; `None` for other files.
pub(crate) fn first_of(name: &str) -> Option<Offset> {
    let digits = name.strip_suffix(SUFFIX)?;
    let plain = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain { digits.parse().ok() } else { None }
}

/// A segment file, open for reading. Shared by the writer and all readers.
pub(crate) struct Segment {
    pub(crate) name: String,
    pub(crate) opening: Opening,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Readers read no further: the end of the last record in the segment being written, the end
    /// of the file in an older one.
    end: AtomicU64,
    /// Some records' places, ascending. It grows where the segment is read.
    index: RwLock<Vec<(Offset, u64)>>,
}

impl Segment {
    /// A segment that holds nothing known yet; readers see it up to `end`.
    pub(crate) fn new(opening: Opening, file: Arc<dyn DiskFile>, end: u64) -> Segment {
        Segment {
            name: file_name(opening.first),
            opening,
            file,
            end: AtomicU64::new(end),
            index: RwLock::new(vec![(opening.first, FIRST_RECORD)]),
        }
    }

    /// Opens the segment file of that name and checks its header.
    pub(crate) fn open(disk: &dyn Disk, first: Offset) -> Result<Segment, OpenError> {
        let name = file_name(first);
        Segment::from_file(disk.open(&name)?, first, format!("{}/{name}", disk.place()))
    }

    /// The same for a file that is open, or a part of one; `path` is for messages.
    pub(crate) fn from_file(
        file: Arc<dyn DiskFile>,
        first: Offset,
        path: String,
    ) -> Result<Segment, OpenError> {
        let mut block = [0; HEADER_LEN];
        file.read_at(&mut block, 0)?;
        let Some(found) = sealed_version(&block, &MAGIC) else {
            return Err(OpenError::Damaged(format!(
                "{path} is damaged at byte 0: its header is not readable; restore it from a backup"
            )));
        };
        if found > FORMAT_VERSION {
            return Err(OpenError::NewerFormat {
                path,
                found,
                known: FORMAT_VERSION,
            });
        }
        let opening = Opening::parse(&block);
        if opening.first != first {
            return Err(OpenError::Damaged(format!(
                "{path} holds offset {} on and so is not the file its name says; give it its name \
                 back",
                opening.first
            )));
        }
        let length = file.length()?;
        Ok(Segment::new(opening, file, length))
    }

    /// How far readers read.
    pub(crate) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// Lets readers read up to `end`.
    pub(crate) fn set_end(&self, end: u64) {
        self.end.store(end, Ordering::Release);
    }

    /// Remembers that the record at `position` begins with `offset`, if nothing near it is known.
    pub(crate) fn note(&self, offset: Offset, position: u64) {
        let known = |index: &[(Offset, u64)]| {
            index
                .last()
                .is_some_and(|(_, last)| position < last + INDEX_SPACING)
        };
        if known(&self.index.read().unwrap_or_else(PoisonError::into_inner)) {
            return;
        }
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        if !known(&index) {
            index.push((offset, position));
        }
    }

    /// The last known record that begins at `offset` or before.
    fn near(&self, offset: Offset) -> (Offset, u64) {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let after = index.partition_point(|(known, _)| *known <= offset);
        index[after.saturating_sub(1)]
    }

    /// A cursor before the record that holds `offset`, or some way before it.
    pub(crate) fn cursor_near(&self, offset: Offset, payloads: bool, chunk: usize) -> Cursor<'_> {
        let (known, position) = self.near(offset);
        Cursor {
            segment: self,
            offset: known,
            position,
            limit: self.end(),
            payloads,
            chunk_bytes: chunk,
            chunk: Bytes::new(),
            chunk_position: 0,
        }
    }

    /// A cursor before the first record, reading payloads too.
    pub(crate) fn cursor(&self) -> Cursor<'_> {
        self.cursor_near(self.opening.first, true, 1024 * 1024)
    }
}

/// What a cursor found wrong.
#[derive(Debug)]
pub(crate) enum ScanError {
    /// What stands at `position` is not the record that belongs there.
    Flaw {
        /// Where in the file.
        position: u64,
        /// As a sentence fragment.
        what: String,
    },
    /// The disk failed; what stands there is not known.
    Io(io::Error),
}

impl ScanError {
    /// The same for who reads the log.
    pub(crate) fn for_readers(self, segment: &Segment) -> ReadError {
        match self {
            ScanError::Flaw { position, what } => ReadError::Damaged {
                file: segment.name.clone(),
                position,
                what,
            },
            ScanError::Io(error) => ReadError::Io(format!("{}: {error}", segment.name)),
        }
    }
}

/// A record as a cursor found it.
pub(crate) struct Found {
    pub(crate) header: Header,
    pub(crate) position: u64,
    /// The record's bytes, up to the end of its events, or of its payloads where those were
    /// asked for.
    pub(crate) bytes: Bytes,
}

impl Found {
    /// The offset after its last event.
    pub(crate) fn end(&self) -> Offset {
        self.header.first + Offset::from(self.header.count)
    }

    /// The record for a reader.
    pub(crate) fn record(&self, payloads: bool) -> Record {
        let header = &self.header;
        Record {
            first: header.first,
            count: header.count,
            epoch: header.epoch,
            time_us: header.time_us,
            events: self.bytes.slice(header.events()),
            payloads: if payloads && !header.erased() {
                self.bytes.slice(header.payloads())
            } else {
                Bytes::new()
            },
            hash: header.hash,
        }
    }
}

/// Goes through a segment record by record and checks each.
pub(crate) struct Cursor<'a> {
    segment: &'a Segment,
    /// The offset of the next record.
    pub(crate) offset: Offset,
    /// The place of the next record.
    pub(crate) position: u64,
    limit: u64,
    payloads: bool,
    chunk_bytes: usize,
    chunk: Bytes,
    chunk_position: u64,
}

impl Cursor<'_> {
    /// The next record. Whoever knows that the segment ends here does not ask.
    pub(crate) fn next(&mut self) -> Result<Found, ScanError> {
        let position = self.position;
        let flaw = |what: String| Err(ScanError::Flaw { position, what });
        let left = self.limit.saturating_sub(position);
        if left < HEADER_BYTES as u64 {
            return flaw(format!("the file ends before offset {}", self.offset));
        }
        let start = self.window(HEADER_BYTES)?;
        let Some(header) = Header::parse(&start) else {
            return flaw(format!(
                "there is no record where offset {} belongs",
                self.offset
            ));
        };
        let stored = header.stored_len() as u64;
        if stored > left {
            return flaw("the record is longer than the file".into());
        }
        let wanted = if self.payloads {
            header.payloads()
        } else {
            header.events()
        };
        let bytes = self.window(wanted.end)?;
        let salt = self.segment.opening.salt;
        if !header.events_hold(salt, &bytes) {
            return flaw("the checksum of the events is wrong".into());
        }
        if self.payloads && !header.payloads_hold(salt, &bytes) {
            return flaw("the checksum of the payloads is wrong".into());
        }
        if header.first != self.offset {
            return flaw(format!(
                "offset {} stands where {} belongs",
                header.first, self.offset
            ));
        }
        self.segment.note(self.offset, position);
        self.position += stored;
        self.offset += u64::from(header.count);
        Ok(Found {
            header,
            position,
            bytes,
        })
    }

    /// The `length` bytes at the cursor, from the chunk in memory or the next one from the disk.
    fn window(&mut self, length: usize) -> Result<Bytes, ScanError> {
        let chunk_end = self.chunk_position + self.chunk.len() as u64;
        let inside =
            self.chunk_position <= self.position && self.position + length as u64 <= chunk_end;
        if !inside {
            let left = usize::try_from(self.limit - self.position).unwrap_or(usize::MAX);
            let mut chunk = vec![0; self.chunk_bytes.max(length).min(left)];
            let read = self
                .segment
                .file
                .read_at(&mut chunk, self.position)
                .map_err(ScanError::Io)?;
            if read < length {
                return Err(ScanError::Flaw {
                    position: self.position,
                    what: "the file is shorter than it was".into(),
                });
            }
            chunk.truncate(read);
            self.chunk = chunk.into();
            self.chunk_position = self.position;
        }
        // The difference is less than the chunk's length.
        let start = (self.position - self.chunk_position) as usize;
        Ok(self.chunk.slice(start..start + length))
    }
}
