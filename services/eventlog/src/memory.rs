//! The log's promises without a disk, with faults on request.
//!
//! For tests of what builds on a log. It keeps every promise but durability; a fault is asked for
//! at the [`MemoryStore`], which is also what outlives a log that is dropped and opened again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;
use tokio::sync::watch;

use crate::backup::Backup;
use crate::disk::{Disk as _, write_whole};
use crate::read::Part;
use crate::record::{chain_of, encode, genesis};
use crate::segment::{FIRST_RECORD, Opening, Segment};
use crate::segments::{fitting, micros};
use crate::simulated::SimulatedDisk;
use crate::{
    AppendError, Batch, Bounds, EventLog, Hash, Offset, OpenError, Options, ReadError, ReadStore,
    Reader, Record, Refused, Room,
};

/// Where a log in memory lives; clones are the same store.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

struct Shared {
    state: RwLock<State>,
    faults: Mutex<Faults>,
}

struct State {
    log_id: [u8; 16],
    epoch: u64,
    open: bool,
    records: VecDeque<Record>,
    oldest: Offset,
    next: Offset,
    hash: Hash,
    /// The chain before the oldest record.
    start_hash: Hash,
    /// A batch of unknown fate that the next open finds.
    unacknowledged: Option<Record>,
}

impl State {
    fn push(&mut self, record: Record) {
        self.next = record.end();
        self.hash = record.hash;
        self.records.push_back(record);
    }
}

#[derive(Default)]
struct Faults {
    refuse_next: Option<Refused>,
    unknown_next: Option<bool>,
    fail_read: Option<ReadError>,
    room: Option<Room>,
}

impl Default for MemoryStore {
    fn default() -> MemoryStore {
        MemoryStore::new()
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> MemoryStore {
        let log_id = uuid::Uuid::now_v7().into_bytes();
        let hash = genesis(&log_id);
        let state = State {
            log_id,
            epoch: 0,
            open: false,
            records: VecDeque::new(),
            oldest: 0,
            next: 0,
            hash,
            start_hash: hash,
            unacknowledged: None,
        };
        let shared = Shared {
            state: RwLock::new(state),
            faults: Mutex::default(),
        };
        MemoryStore {
            shared: Arc::new(shared),
        }
    }

    /// Opens the log; the epoch rises. It is locked until what this returns is dropped.
    pub fn open(&self, options: Options) -> Result<MemoryLog, OpenError> {
        let mut state = self.shared.change();
        if state.open {
            return Err(OpenError::Locked {
                path: "memory".into(),
                holder: String::new(),
            });
        }
        state.open = true;
        if let Some(record) = state.unacknowledged.take() {
            state.push(record);
        }
        state.epoch += 1;
        let (sender, receiver) = watch::channel(state.next);
        let view = View {
            shared: Arc::clone(&self.shared),
            epoch: state.epoch,
            durable: receiver,
        };
        Ok(MemoryLog {
            shared: Arc::clone(&self.shared),
            view: Arc::new(view),
            options,
            durable: Some(sender),
            failure: None,
        })
    }

    /// The next append is refused so.
    pub fn refuse_next(&self, refused: Refused) {
        self.shared.faults().refuse_next = Some(refused);
    }

    /// The fate of the next append is unknown; whether it is found there at the next open.
    pub fn unknown_next(&self, written: bool) {
        self.shared.faults().unknown_next = Some(written);
    }

    /// The next read fails so.
    pub fn fail_next_read(&self, error: ReadError) {
        self.shared.faults().fail_read = Some(error);
    }

    /// The log says from now on that it has so much room.
    pub fn set_room(&self, room: Room) {
        self.shared.faults().room = Some(room);
    }
}

impl Shared {
    fn state(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A log in memory, open for writing.
pub struct MemoryLog {
    shared: Arc<Shared>,
    view: Arc<View>,
    options: Options,
    /// `None` once it was closed.
    durable: Option<watch::Sender<Offset>>,
    failure: Option<String>,
}

impl MemoryLog {
    /// A new log in a store of its own.
    pub fn new() -> MemoryLog {
        match MemoryStore::new().open(Options::default()) {
            Ok(log) => log,
            Err(error) => unreachable!("nobody else has a new store: {error}"),
        }
    }

    fn alive(&self) -> Result<(), AppendError> {
        match &self.failure {
            Some(what) => Err(AppendError::Unknown(what.clone())),
            None if self.durable.is_none() => {
                Err(AppendError::Unknown("the log was closed".into()))
            }
            None => Ok(()),
        }
    }
}

impl Default for MemoryLog {
    fn default() -> MemoryLog {
        MemoryLog::new()
    }
}

impl EventLog for MemoryLog {
    fn append(&mut self, expected: Offset, batch: &Batch<'_>) -> Result<Offset, AppendError> {
        self.alive()?;
        if let Some(refused) = self.shared.faults().refuse_next.take() {
            return Err(refused.into());
        }
        let mut state = self.shared.change();
        if expected != state.next {
            return Err(Refused::WrongOffset {
                expected,
                next: state.next,
            }
            .into());
        }
        fitting(batch)?;
        let unknown = self.shared.faults().unknown_next.take();
        if unknown != Some(false) {
            let hash = chain_of(&state.hash, state.next, state.epoch, batch);
            let record = Record {
                first: state.next,
                count: batch.count,
                epoch: state.epoch,
                time_us: batch.time_us,
                events: Bytes::copy_from_slice(batch.events),
                payloads: Bytes::copy_from_slice(batch.payloads),
                hash,
            };
            if unknown.is_some() {
                state.unacknowledged = Some(record);
            } else {
                state.push(record);
            }
        }
        if unknown.is_some() {
            let what = "a fault was asked for".to_owned();
            self.failure = Some(what.clone());
            return Err(AppendError::Unknown(what));
        }
        let next = state.next;
        drop(state);
        if let Some(durable) = &self.durable {
            durable.send_replace(next);
        }
        Ok(next)
    }

    fn trim(&mut self, before: Offset) -> Result<Offset, AppendError> {
        self.alive()?;
        let mut state = self.shared.change();
        // The last batch stays, as a segment that is being written does.
        while state.records.len() > 1
            && let Some(record) = state.records.pop_front_if(|record| record.end() <= before)
        {
            state.oldest = record.end();
            state.start_hash = record.hash;
        }
        Ok(state.oldest)
    }

    fn overdue(&self, now_us: i64) -> Option<Offset> {
        let state = self.shared.state();
        let mut left: u64 = state.records.iter().map(size).sum();
        let mut before = None;
        for record in state
            .records
            .iter()
            .take(state.records.len().saturating_sub(1))
        {
            let too_many = self
                .options
                .retention_bytes
                .is_some_and(|limit| left > limit);
            let too_old = self
                .options
                .retention_age
                .is_some_and(|limit| now_us.saturating_sub(record.time_us) > micros(limit));
            if !too_many && !too_old {
                break;
            }
            left -= size(record);
            before = Some(record.end());
        }
        before
    }

    fn room(&self) -> Room {
        self.shared.faults().room.unwrap_or(Room::Ample)
    }

    fn close(&mut self) -> Result<(), AppendError> {
        if self.durable.is_some() {
            self.alive()?;
            self.durable = None;
        }
        Ok(())
    }

    fn reader(&self) -> Reader {
        Reader(Arc::clone(&self.view) as Arc<_>)
    }
}

impl Drop for MemoryLog {
    fn drop(&mut self) {
        self.shared.change().open = false;
    }
}

impl std::fmt::Debug for MemoryLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryLog")
            .field("bounds", &self.view.bounds())
            .finish_non_exhaustive()
    }
}

/// What the readers of one opening see.
struct View {
    shared: Arc<Shared>,
    epoch: u64,
    durable: watch::Receiver<Offset>,
}

impl ReadStore for View {
    fn bounds(&self) -> Bounds {
        let state = self.shared.state();
        Bounds {
            log_id: state.log_id,
            epoch: self.epoch,
            oldest: state.oldest,
            next: state.next,
            size_bytes: state.records.iter().map(size).sum(),
        }
    }

    fn read(
        &self,
        from: Offset,
        max_bytes: usize,
        payloads: bool,
    ) -> Result<Vec<Record>, ReadError> {
        if let Some(error) = self.shared.faults().fail_read.take() {
            return Err(error);
        }
        let state = self.shared.state();
        if from < state.oldest {
            return Err(ReadError::Trimmed {
                from,
                oldest: state.oldest,
            });
        }
        if from > state.next {
            return Err(ReadError::PastEnd {
                from,
                next: state.next,
            });
        }
        let start = state.records.partition_point(|record| record.end() <= from);
        let mut records = Vec::new();
        let mut left = max_bytes;
        for record in state.records.iter().skip(start) {
            let mut record = record.clone();
            if !payloads {
                record.payloads = Bytes::new();
            }
            let size = record.events.len() + record.payloads.len();
            if size > left && !records.is_empty() {
                break;
            }
            left = left.saturating_sub(size);
            records.push(record);
        }
        Ok(records)
    }

    fn verify(&self, progress: &mut dyn FnMut(Offset)) -> Result<Bounds, ReadError> {
        let (mut chain, records) = {
            let state = self.shared.state();
            (state.start_hash, state.records.clone())
        };
        for record in &records {
            let batch = Batch {
                count: record.count,
                time_us: record.time_us,
                events: &record.events,
                payloads: &record.payloads,
            };
            chain = chain_of(&chain, record.first, record.epoch, &batch);
            if chain != record.hash {
                return Err(ReadError::Damaged {
                    file: "memory".into(),
                    position: record.first,
                    what: "the chain of hashes breaks here".into(),
                });
            }
            progress(record.end());
        }
        Ok(self.bounds())
    }

    fn backup(&self) -> Result<Backup, ReadError> {
        let bounds = self.bounds();
        let (start_hash, hash, records) = {
            let state = self.shared.state();
            (state.start_hash, state.hash, state.records.clone())
        };
        let part = one_segment(&bounds, start_hash, &records)
            .map_err(|error| ReadError::Io(error.to_string()))?;
        Ok(Backup::new(&bounds, hash, vec![part]))
    }

    fn durable(&self) -> watch::Receiver<Offset> {
        self.durable.clone()
    }
}

fn size(record: &Record) -> u64 {
    (record.events.len() + record.payloads.len()) as u64
}

/// The records as the embedded store would keep them.
fn one_segment(
    bounds: &Bounds,
    start_hash: Hash,
    records: &VecDeque<Record>,
) -> Result<Part, OpenError> {
    let opening = Opening {
        log_id: bounds.log_id,
        first: bounds.oldest,
        epoch: bounds.epoch,
        time_us: 0,
        salt: 0,
        previous_first: None,
        previous_hash: start_hash,
    };
    let disk = SimulatedDisk::new();
    let file = disk.create("segment")?;
    opening.write(&*file)?;
    let mut chain = start_hash;
    let mut size_bytes = FIRST_RECORD;
    let mut buffer = Vec::new();
    for record in records {
        let batch = Batch {
            count: record.count,
            time_us: record.time_us,
            events: &record.events,
            payloads: &record.payloads,
        };
        buffer.clear();
        chain = encode(
            &mut buffer,
            opening.salt,
            &chain,
            record.first,
            record.epoch,
            &batch,
        );
        write_whole(&*file, &buffer, size_bytes).map_err(|(_, error)| error)?;
        size_bytes += buffer.len() as u64;
    }
    Ok(Part {
        segment: Arc::new(Segment::new(opening, file, size_bytes)),
        end: bounds.next,
        size_bytes,
    })
}
