//! What the store does beside appending: blocks written ahead of the writer, the next file, the
//! second's sync.
//!
//! A sync is fast when it has nothing to say about the file itself, so the blocks of a segment are
//! written (with zeros) before they are needed. This happens here, on a thread of its own, or
//! within append where the options say so. Large records do without: beside them a word about the
//! file is cheap, and writing everything twice is not. Upkeep must never touch a record, and never
//! swallow a failed sync: that ends the writer as a failed append does.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::ahead::{Ahead, CHUNK_BYTES};
use crate::disk::{Disk, is_full};
use crate::head::Head;
use crate::read::Shared;
use crate::segments::Sync;
use crate::{Options, Room};

/// The file that becomes the next segment has this name until then.
pub(crate) const NEXT_NAME: &str = "NEXT";
/// How often HEAD, and a lazily synced log, is synced.
pub(crate) const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// How far ahead of the writer its own segment's blocks are written.
pub(crate) const WINDOW_BYTES: u64 = 8 * CHUNK_BYTES;

/// Whether something failed after which the writer may acknowledge nothing.
#[derive(Default)]
pub(crate) struct Failure {
    failed: AtomicBool,
    what: Mutex<String>,
}

impl Failure {
    /// Ends the writer. The first failure is the one that is told.
    pub(crate) fn set(&self, what: String) {
        let mut told = self.what.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_empty() {
            *told = what;
        }
        self.failed.store(true, Ordering::Release);
    }

    /// What ended the writer, if it has ended.
    pub(crate) fn get(&self) -> Option<String> {
        let told = || {
            self.what
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone()
        };
        self.failed.load(Ordering::Acquire).then(told)
    }
}

/// What upkeep and writer share.
pub(crate) struct Work {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) options: Options,
    pub(crate) head: Head,
    pub(crate) shared: Arc<Shared>,
    pub(crate) failure: Failure,
    /// The segment being written.
    pub(crate) current: Mutex<Arc<Ahead>>,
    /// The file that will be the next segment, while there is one.
    next: Mutex<Option<Arc<Ahead>>>,
    room: AtomicU8,
    /// Whether the last record was a large one: nothing is written ahead then.
    large: AtomicBool,
    stopping: AtomicBool,
}

impl Work {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        options: Options,
        head: Head,
        shared: Arc<Shared>,
        current: Arc<Ahead>,
    ) -> Work {
        Work {
            disk,
            options,
            head,
            shared,
            failure: Failure::default(),
            current: Mutex::new(current),
            next: Mutex::new(None),
            room: AtomicU8::new(Room::Ample as u8),
            large: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        }
    }

    pub(crate) fn current(&self) -> Arc<Ahead> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The room as of the last look.
    pub(crate) fn room(&self) -> Room {
        match self.room.load(Ordering::Relaxed) {
            0 => Room::Ample,
            1 => Room::Low,
            _ => Room::Reserved,
        }
    }

    /// An append was refused: there is no room, whatever the disk says of itself.
    pub(crate) fn found_full(&self) {
        self.room.store(Room::Reserved as u8, Ordering::Relaxed);
    }

    /// Looks how much room there is, and says so when it gets less.
    pub(crate) fn look_at_room(&self) {
        let Ok(space) = self.disk.space() else {
            return;
        };
        let next = self.next();
        let allocated = self
            .current()
            .zeroed()
            .saturating_sub(self.shared.end_of_last())
            + next.as_ref().map_or(0, |next| next.zeroed());
        drop(next);
        let room = if space.free_bytes.saturating_add(allocated) < self.options.reserve_bytes {
            Room::Reserved
        } else if space.free_bytes < space.total_bytes / 10 {
            Room::Low
        } else {
            Room::Ample
        };
        let before = self.room.swap(room as u8, Ordering::Relaxed);
        if before < room as u8 {
            tracing::warn!(
                path = self.disk.place(),
                free_bytes = space.free_bytes,
                reserve_bytes = self.options.reserve_bytes,
                "the disk of the event log is running full"
            );
        }
    }

    /// Writes the current segment's blocks some way ahead, and begins the next file when this one
    /// is half full. A full disk stops it silently: the append that needs the room is refused.
    fn write_ahead(&self) {
        let result = self.write_ahead_or_fail();
        if let Err(error) = result
            && !is_full(&error)
        {
            self.failure
                .set(format!("writing blocks ahead failed: {error}"));
        }
    }

    fn write_ahead_or_fail(&self) -> io::Result<()> {
        let whole = self.options.segment_bytes;
        loop {
            if self.stopping.load(Ordering::Acquire) || self.large.load(Ordering::Relaxed) {
                return Ok(());
            }
            let end = self.shared.end_of_last();
            if self
                .current()
                .advance(end.saturating_add(WINDOW_BYTES).min(whole))?
            {
                continue;
            }
            if end < whole / 2 {
                return Ok(());
            }
            let next = self.next().clone();
            match next {
                Some(next) => {
                    if !next.advance(whole)? {
                        return Ok(());
                    }
                }
                None => self.begin_next()?,
            }
        }
    }

    fn begin_next(&self) -> io::Result<()> {
        let mut next = self.next();
        // The writer holds this lock while it makes the file a segment: whether one is wanted is
        // to be asked again.
        if next.is_none() && self.shared.end_of_last() >= self.options.segment_bytes / 2 {
            *next = Some(Arc::new(Ahead::new(self.disk.create(NEXT_NAME)?, 0)));
        }
        Ok(())
    }

    /// The file for the next segment, if it was begun. Whoever holds this lock is the only one
    /// who creates, names or removes that file.
    pub(crate) fn next(&self) -> MutexGuard<'_, Option<Arc<Ahead>>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to it that there is a file for the next segment, with at least its first blocks.
    pub(crate) fn ready_next(&self, next: &mut Option<Arc<Ahead>>) -> io::Result<Arc<Ahead>> {
        let ahead = match next {
            Some(ahead) => Arc::clone(ahead),
            None => {
                let ahead = Arc::new(Ahead::new(self.disk.create(NEXT_NAME)?, 0));
                Arc::clone(next.insert(ahead))
            }
        };
        ahead.ensure(crate::segment::FIRST_RECORD, self.options.segment_bytes)?;
        Ok(ahead)
    }

    /// The second's sync.
    pub(crate) fn sync_behind(&self) {
        let result = match self.options.sync {
            Sync::EachBatch => self.head.sync(),
            Sync::Lazily => self.sync_lazily(),
        };
        if let Err(error) = result {
            self.failure
                .set(format!("the sync behind the writer failed: {error}"));
        }
    }

    fn sync_lazily(&self) -> io::Result<()> {
        // What was appended before the sync begins is durable after it; a new segment in between
        // is no harm, as the writer syncs the old one before it begins another.
        let (next, hash) = self.shared.end();
        let ahead = self.current();
        ahead.file.sync_data()?;
        self.head.write(|mark| {
            if mark.next < next {
                mark.next = next;
                mark.hash = hash;
            }
        })?;
        self.head.sync()
    }
}

enum Job {
    WriteAhead,
    Stop,
}

/// The thread that does the work, where there is one.
pub(crate) struct Upkeep {
    work: Arc<Work>,
    thread: Option<(SyncSender<Job>, JoinHandle<()>)>,
    asked_at: u64,
}

impl Upkeep {
    pub(crate) fn start(work: Arc<Work>, background: bool) -> io::Result<Upkeep> {
        let thread = if background {
            // One ask that waits is enough: who takes it looks at how things stand then.
            let (sender, receiver) = sync_channel(1);
            let worker = Arc::clone(&work);
            let handle = std::thread::Builder::new()
                .name("eventlog-upkeep".into())
                .spawn(move || run(&worker, &receiver))?;
            Some((sender, handle))
        } else {
            None
        };
        Ok(Upkeep {
            work,
            thread,
            asked_at: 0,
        })
    }

    pub(crate) fn in_background(&self) -> bool {
        self.thread.is_some()
    }

    /// Says that the writer has come to `position`; asks for more blocks when it has gone a good
    /// part of the window since the last time, or since the last large record, which needs none.
    pub(crate) fn wrote(&mut self, position: u64, large: bool) {
        let Some((sender, _)) = &self.thread else {
            return;
        };
        self.work.large.store(large, Ordering::Relaxed);
        if large {
            self.asked_at = position;
            return;
        }
        let far = WINDOW_BYTES.min(self.work.options.segment_bytes) / 4;
        if position < self.asked_at || position - self.asked_at >= far {
            self.asked_at = position;
            // The thread ends only when it is told to; a full queue has this very ask in it.
            let _ = sender.try_send(Job::WriteAhead);
        }
    }

    /// A new segment was begun, and not for a large record: asks for its blocks.
    pub(crate) fn rolled(&mut self) {
        self.asked_at = 0;
        self.work.large.store(false, Ordering::Relaxed);
        if let Some((sender, _)) = &self.thread {
            let _ = sender.try_send(Job::WriteAhead);
        }
    }

    /// Ends the thread and waits for it.
    pub(crate) fn stop(&mut self) {
        if let Some((sender, handle)) = self.thread.take() {
            self.work.stopping.store(true, Ordering::Release);
            let _ = sender.send(Job::Stop);
            if handle.join().is_err() {
                self.work.failure.set("the upkeep thread panicked".into());
            }
        }
    }
}

fn run(work: &Work, jobs: &Receiver<Job>) {
    let mut due = Instant::now() + SYNC_INTERVAL;
    loop {
        match jobs.recv_timeout(due.saturating_duration_since(Instant::now())) {
            Ok(Job::WriteAhead) => work.write_ahead(),
            Ok(Job::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if Instant::now() >= due {
            work.sync_behind();
            work.look_at_room();
            due = Instant::now() + SYNC_INTERVAL;
        }
    }
}
