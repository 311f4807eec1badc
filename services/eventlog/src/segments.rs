//! The embedded store: segment files in one directory, one sync a batch.
//!
//! The writer owns the last segment and is the only one who writes records. An append is one
//! write and one sync, and is acknowledged after it; a batch that was refused leaves no trace, and
//! after a failure whose outcome is unknown nothing is acknowledged any more. What lies behind
//! the writer (HEAD, blocks ahead) is [`crate::upkeep`]'s, what was there before is
//! [`crate::recovery`]'s.

mod writing;

use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::ahead::Ahead;
use crate::creation::{Placing, create, holder, place_segment, random_salt, reopen};
use crate::disk::{Disk, RealDisk, address_padding, is_full};
use crate::read::{Shared, State};
use crate::record::{MAX_RECORD_BYTES, encode, stored_len};
use crate::recovery::survey;
use crate::segment::{FIRST_RECORD, Opening, Segment};
use crate::upkeep::{NEXT_NAME, SYNC_INTERVAL, Upkeep, Work};
use crate::{AppendError, Batch, EventLog, Hash, Offset, OpenError, Reader, Refused, Room};
use writing::is_large;

pub(crate) const LOCK_NAME: &str = "LOCK";
/// A buffer that one huge batch made larger than this is given back.
const BUFFER_BYTES_KEPT: usize = 4 * 1024 * 1024;
/// Segments are at least this long, however little is to be retained.
pub const SEGMENT_BYTES_MIN: u64 = 4 * 1024;

/// When a batch is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// When its append returns: a power cut takes nothing that was acknowledged.
    EachBatch,
    /// About a second later: a killed process loses nothing, a power cut may take the last
    /// second. For logs whose content can be fetched again.
    Lazily,
}

/// How a log is kept.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long a segment file gets before the next is begun; whole files are trimmed.
    pub segment_bytes: u64,
    /// Batches older than this are overdue for trimming; `None` keeps them.
    pub retention_age: Option<Duration>,
    /// Beyond so many bytes the oldest files are overdue for trimming; `None` keeps them.
    pub retention_bytes: Option<u64>,
    /// Below so many free bytes [`EventLog::room`] says that only what must be written should be.
    pub reserve_bytes: u64,
    /// When a batch is durable.
    pub sync: Sync,
    /// Whether a thread does the upkeep. Without one append does it, by the batches' own times,
    /// so that a simulation repeats itself.
    pub background: bool,
    /// The identity of a log that is created; drawn where it is `None`.
    pub log_id: Option<[u8; 16]>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            segment_bytes: 64 * 1024 * 1024,
            retention_age: None,
            retention_bytes: None,
            reserve_bytes: 64 * 1024 * 1024,
            sync: Sync::EachBatch,
            background: true,
            log_id: None,
        }
    }
}

/// A log in segment files, open for writing. Dropping it without [`EventLog::close`] is what a
/// crash is.
pub struct SegmentLog {
    work: Arc<Work>,
    upkeep: Upkeep,
    durable: Option<watch::Sender<Offset>>,
    active: Arc<Segment>,
    ahead: Arc<Ahead>,
    epoch: u64,
    next: Offset,
    hash: Hash,
    /// Where the next record goes.
    position: u64,
    /// The time of the first record in the active segment.
    first_time_us: Option<i64>,
    synced_behind_us: i64,
    buffer: Vec<u8>,
    closed: bool,
    /// Last, so that nobody else gets in before everything above has ended.
    _lock: Box<dyn Send>,
}

/// Opens the log in the directory at `path`, or creates it there. See [`SegmentLog::open`].
pub fn open(path: &Path, options: Options) -> Result<SegmentLog, OpenError> {
    SegmentLog::open(path, options)
}

impl SegmentLog {
    /// Opens the log in the directory at `path`, or creates it there; the epoch rises. A log that
    /// is in use, damaged, older than its HEAD, or of a newer format is refused and left as it is.
    pub fn open(path: &Path, options: Options) -> Result<SegmentLog, OpenError> {
        SegmentLog::open_on(Arc::new(RealDisk::new(path)?), options)
    }

    /// The same on any disk.
    pub fn open_on(disk: Arc<dyn Disk>, mut options: Options) -> Result<SegmentLog, OpenError> {
        // Whole files are trimmed: a few of them must fit what is to be retained.
        if let Some(bytes) = options.retention_bytes {
            options.segment_bytes = options.segment_bytes.min(bytes / 4);
        }
        options.segment_bytes = options.segment_bytes.max(SEGMENT_BYTES_MIN);

        let Some(lock) = disk.lock(LOCK_NAME)? else {
            return Err(OpenError::Locked {
                path: disk.place(),
                holder: holder(&*disk),
            });
        };
        let (survey, head, ahead) = match survey(&*disk)? {
            Some(found) => reopen(&*disk, found, &options)?,
            None => create(&*disk, &options)?,
        };
        let Some(active) = survey.segments.back().map(Arc::clone) else {
            return Err(OpenError::Damaged(format!(
                "{} has no segment",
                disk.place()
            )));
        };
        let (sender, receiver) = watch::channel(survey.next);
        let state = State {
            segments: survey.segments,
            next: survey.next,
            hash: survey.hash,
        };
        let shared = Shared::new(survey.mark.log_id, survey.epoch, state, receiver);
        let ahead = Arc::new(ahead);
        let work = Work::new(disk, options, head, Arc::new(shared), Arc::clone(&ahead));
        let work = Arc::new(work);
        work.look_at_room();
        let mut upkeep = Upkeep::start(Arc::clone(&work), options.background)?;
        upkeep.rolled();
        Ok(SegmentLog {
            work,
            upkeep,
            durable: Some(sender),
            active,
            ahead,
            epoch: survey.epoch,
            next: survey.next,
            hash: survey.hash,
            position: survey.position,
            first_time_us: survey.first_time_us,
            synced_behind_us: i64::MIN,
            buffer: Vec::new(),
            closed: false,
            _lock: lock,
        })
    }

    /// Whether the writer may go on.
    fn alive(&self) -> Result<(), AppendError> {
        match self.work.failure.get() {
            Some(what) => Err(AppendError::Unknown(what)),
            None if self.closed => Err(AppendError::Unknown("the log was closed".into())),
            None => Ok(()),
        }
    }

    /// Ends the writer.
    fn fail(&self, what: &str, error: &io::Error) -> AppendError {
        let what = format!(
            "{what} {}/{}: {error}",
            self.work.disk.place(),
            self.active.name
        );
        self.work.failure.set(what.clone());
        AppendError::Unknown(what)
    }

    /// Refuses a batch for want of room, or ends the writer if it was another error.
    fn full_or_fail(&self, what: &str, error: &io::Error) -> AppendError {
        if !is_full(error) {
            return self.fail(what, error);
        }
        self.work.found_full();
        Refused::Full(format!(
            "{what} {}: {error}; free some room or trim the log",
            self.work.disk.place()
        ))
        .into()
    }

    /// Whether the active segment should be left so that its age can be trimmed away.
    fn aged(&self, time_us: i64) -> bool {
        match (self.work.options.retention_age, self.first_time_us) {
            (Some(age), Some(first)) => time_us.saturating_sub(first) > micros(age / 4),
            _ => false,
        }
    }

    /// Begins the next segment. If there is no room for it, everything is as before.
    fn roll(&mut self, time_us: i64) -> Result<(), AppendError> {
        if self.work.options.sync == Sync::Lazily {
            // Only the last segment may have anything that is not durable.
            self.active
                .file
                .sync_data()
                .map_err(|error| self.fail("syncing", &error))?;
            self.write_head()?;
        }
        let work = Arc::clone(&self.work);
        let mut next = work.next();
        let ahead = work
            .ready_next(&mut next)
            .map_err(|error| self.full_or_fail("making a new segment in", &error))?;
        let opening = Opening {
            log_id: self.active.opening.log_id,
            first: self.next,
            epoch: self.epoch,
            time_us,
            salt: random_salt(),
            previous_first: Some(self.active.opening.first),
            previous_hash: self.hash,
        };
        match place_segment(&*work.disk, opening) {
            Ok(segment) => self.active = Arc::new(segment),
            Err(Placing::Refused(error)) if is_full(&error) => {
                return Err(self.full_or_fail("making a new segment in", &error));
            }
            Err(Placing::Refused(error) | Placing::Unknown(error)) => {
                return Err(self.fail("making the segment after", &error));
            }
        }
        let old = std::mem::replace(&mut self.ahead, ahead);
        old.stop();
        *self
            .work
            .current
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Arc::clone(&self.ahead);
        let mut state = self.work.shared.change();
        if let Some(last) = state.segments.back() {
            // The zeros that are left give their room back. If they cannot, they stay: no harm.
            let _ = last.file.truncate(last.end());
        }
        state.segments.push_back(Arc::clone(&self.active));
        drop(state);
        *next = None;
        drop(next);
        self.position = FIRST_RECORD;
        self.first_time_us = None;
        Ok(())
    }

    fn write_head(&self) -> Result<(), AppendError> {
        let (next, hash) = (self.next, self.hash);
        self.work
            .head
            .write(|mark| {
                mark.next = next;
                mark.hash = hash;
            })
            .map_err(|error| self.fail("writing HEAD beside", &error))
    }

    /// Without a thread, the second's sync is due by the batches' own times.
    fn upkeep_inline(&mut self, time_us: i64) {
        let interval = micros(SYNC_INTERVAL);
        if !self.upkeep.in_background() && time_us.saturating_sub(self.synced_behind_us) >= interval
        {
            self.synced_behind_us = time_us;
            self.work.sync_behind();
            self.work.look_at_room();
        }
    }
}

impl EventLog for SegmentLog {
    fn append(&mut self, expected: Offset, batch: &Batch<'_>) -> Result<Offset, AppendError> {
        self.alive()?;
        if expected != self.next {
            return Err(Refused::WrongOffset {
                expected,
                next: self.next,
            }
            .into());
        }
        let length = fitting(batch)?;
        let full = self.position + length as u64 > self.work.options.segment_bytes;
        if self.position > FIRST_RECORD && (full || self.aged(batch.time_us)) {
            self.roll(batch.time_us)?;
            if !is_large(length) {
                self.upkeep.rolled();
            }
        }
        self.buffer.clear();
        if is_large(length) {
            address_padding(&mut self.buffer, length, self.position);
        }
        let start = self.buffer.len();
        let salt = self.active.opening.salt;
        let hash = encode(
            &mut self.buffer,
            salt,
            &self.hash,
            self.next,
            self.epoch,
            batch,
        );
        self.write_record(&self.buffer[start..])?;
        if self.work.options.sync == Sync::EachBatch {
            self.active
                .file
                .sync_data()
                .map_err(|error| self.fail("syncing", &error))?;
        }

        self.active.note(self.next, self.position);
        self.position += length as u64;
        self.next += Offset::from(batch.count);
        self.hash = hash;
        self.first_time_us.get_or_insert(batch.time_us);
        if self.work.options.sync == Sync::EachBatch {
            self.write_head()?;
        }
        let mut state = self.work.shared.change();
        self.active.set_end(self.position);
        state.next = self.next;
        state.hash = hash;
        drop(state);
        if let Some(durable) = &self.durable {
            durable.send_replace(self.next);
        }
        self.upkeep.wrote(self.position, is_large(length));
        self.upkeep_inline(batch.time_us);
        if self.buffer.capacity() > BUFFER_BYTES_KEPT {
            self.buffer = Vec::new();
        }
        Ok(self.next)
    }

    fn trim(&mut self, before: Offset) -> Result<Offset, AppendError> {
        self.alive()?;
        let state = self.work.shared.state();
        let last = state.segments.len() - 1;
        let dropped = (0..last)
            .take_while(|index| state.end_of(*index) <= before)
            .count();
        let oldest = state.segments[dropped].opening.first;
        drop(state);
        if dropped == 0 {
            return Ok(oldest);
        }
        // HEAD first: files that go without a word are missing files.
        self.work
            .head
            .write(|mark| mark.oldest = oldest)
            .and_then(|()| self.work.head.sync())
            .map_err(|error| self.fail("writing HEAD beside", &error))?;
        let gone: Vec<_> = self
            .work
            .shared
            .change()
            .segments
            .drain(..dropped)
            .collect();
        for segment in gone {
            if let Err(error) = self.work.disk.remove(&segment.name) {
                tracing::warn!(file = segment.name, %error, "a trimmed segment stays until the next open");
            }
        }
        if let Err(error) = self.work.disk.sync_directory() {
            tracing::warn!(%error, "trimmed segments may come back until the next open");
        }
        self.work.look_at_room();
        Ok(oldest)
    }

    fn overdue(&self, now_us: i64) -> Option<Offset> {
        let state = self.work.shared.state();
        let mut left: u64 = state.segments.iter().map(|segment| segment.end()).sum();
        let too_many = |left| {
            self.work
                .options
                .retention_bytes
                .is_some_and(|limit| left > limit)
        };
        let too_old = |time_us: i64| {
            let age = self.work.options.retention_age;
            age.is_some_and(|limit| now_us.saturating_sub(time_us) > micros(limit))
        };
        let mut before = None;
        for (segment, after) in state.segments.iter().zip(state.segments.iter().skip(1)) {
            // The batch that a segment was begun for is no older than any of the one before.
            if !too_many(left) && !too_old(after.opening.time_us) {
                break;
            }
            left -= segment.end();
            before = Some(after.opening.first);
        }
        before
    }

    fn room(&self) -> Room {
        self.work.room()
    }

    fn close(&mut self) -> Result<(), AppendError> {
        if self.closed {
            return Ok(());
        }
        self.upkeep.stop();
        self.alive()?;
        if self.work.options.sync == Sync::Lazily {
            self.active
                .file
                .sync_data()
                .map_err(|error| self.fail("syncing", &error))?;
        }
        self.write_head()?;
        self.work
            .head
            .sync()
            .map_err(|error| self.fail("syncing HEAD beside", &error))?;
        if self.work.next().take().is_some() {
            // It holds nothing; the next open removes it otherwise.
            let _ = self.work.disk.remove(NEXT_NAME);
        }
        self.closed = true;
        self.durable = None;
        Ok(())
    }

    fn reader(&self) -> Reader {
        Reader(Arc::clone(&self.work.shared) as Arc<_>)
    }
}

impl Drop for SegmentLog {
    fn drop(&mut self) {
        self.upkeep.stop();
    }
}

impl std::fmt::Debug for SegmentLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentLog")
            .field("place", &self.work.disk.place())
            .field("epoch", &self.epoch)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

/// The length of a batch as a record, if it may be one.
pub(crate) fn fitting(batch: &Batch<'_>) -> Result<usize, Refused> {
    if batch.count == 0 {
        return Err(Refused::Unfit("it holds no event".into()));
    }
    let length = stored_len(batch);
    if length > MAX_RECORD_BYTES {
        return Err(Refused::Unfit(format!(
            "it takes {length} bytes, and a record has at most {MAX_RECORD_BYTES}"
        )));
    }
    Ok(length)
}

pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
