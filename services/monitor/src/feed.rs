//! The feed: one ring of what was taken in last, read by any number of subscribers, each with a
//! position of its own.
//!
//! Nobody holds up the recorder: the ring forgets its oldest records whether they were read or not,
//! and who is behind it reads on from the log. A while after the last subscriber left it keeps nothing.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

use eventlog::{ReadError, Reader};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::entry;
use crate::fold::Entry;

/// How many bytes of the log a slow subscriber reads at once.
const READ_BYTES: usize = 1024 * 1024;

/// A record's entries.
#[derive(Debug)]
pub struct Taken {
    /// The position of the first.
    pub first: u64,
    /// The position after the last.
    pub end: u64,
    /// In order.
    pub entries: Vec<Entry>,
}

impl Taken {
    /// The entries of one record; none of no entries.
    pub fn new(entries: Vec<Entry>) -> Option<Self> {
        Some(Self {
            first: entries.first()?.position,
            end: entries.last()?.end(),
            entries,
        })
    }
}

/// The ring and the log behind it.
#[derive(Debug)]
pub struct Feed {
    ring: RwLock<Ring>,
    positions_max: u64,
    head: watch::Sender<u64>,
    reader: Reader,
    places: Arc<Semaphore>,
    places_max: usize,
}

#[derive(Debug, Default)]
struct Ring {
    records: VecDeque<Arc<Taken>>,
    /// Past this position nobody is expected to come back to what was read last.
    kept_until: u64,
}

/// Why a subscriber gets nothing.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The log can't be read there.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A record means nothing.
    #[error(transparent)]
    Unreadable(#[from] entry::Unreadable),
}

impl Feed {
    /// A feed over a log; its ring holds at most `positions_max` positions.
    pub fn new(reader: Reader, positions_max: u64, subscribers_max: usize) -> Self {
        let next = reader.bounds().next;
        Self {
            ring: RwLock::default(),
            positions_max,
            head: watch::channel(next).0,
            reader,
            places: Arc::new(Semaphore::new(subscribers_max.min(Semaphore::MAX_PERMITS))),
            places_max: subscribers_max.min(Semaphore::MAX_PERMITS),
        }
    }

    /// Adds what was just recorded.
    pub fn push(&self, taken: Arc<Taken>) {
        let end = taken.end;
        // Freed outside of the lock.
        let mut forgotten = VecDeque::new();
        {
            let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
            if self.subscribers() > 0 {
                ring.kept_until = end + self.positions_max;
            }
            let records = &mut ring.records;
            records.push_back(taken);
            while records.len() > 1
                && records
                    .front()
                    .is_some_and(|oldest| end - oldest.first > self.positions_max)
            {
                forgotten.extend(records.pop_front());
            }
            if end > ring.kept_until {
                forgotten.append(&mut ring.records);
            }
        }
        self.head.send_replace(end);
    }

    /// The end of the log as it moves.
    pub fn head(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    /// The log behind the ring.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// A place for one more subscriber, while there is one.
    pub fn admit(&self) -> Option<OwnedSemaphorePermit> {
        self.places.clone().try_acquire_owned().ok()
    }

    /// How many subscribers there are.
    pub fn subscribers(&self) -> usize {
        self.places_max - self.places.available_permits()
    }

    /// The oldest position that a full ring would have.
    pub fn ring_begins(&self) -> u64 {
        self.head.borrow().saturating_sub(self.positions_max)
    }

    /// Some records from the one that holds `from` on; none at the head.
    pub async fn read(&self, from: u64) -> Result<Vec<Arc<Taken>>, FeedError> {
        if let Some(records) = self.read_ring(from) {
            return Ok(records);
        }
        let reader = self.reader.clone();
        let read = move || read_log(&reader, from);
        match tokio::task::spawn_blocking(read).await {
            Ok(records) => records,
            Err(error) => Err(ReadError::Io(error.to_string()).into()),
        }
    }

    /// From the ring, if it reaches back so far.
    fn read_ring(&self, from: u64) -> Option<Vec<Arc<Taken>>> {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        if ring.records.front()?.first > from {
            return None;
        }
        let at = ring.records.partition_point(|taken| taken.end <= from);
        let mut positions = 0;
        let records = (ring.records)
            .range(at..)
            .take_while(|taken| {
                let more = positions < 4_096;
                positions += taken.end - taken.first;
                more
            })
            .cloned()
            .collect();
        Some(records)
    }
}

/// Reads and parses records of the log; blocks.
pub fn read_log(reader: &Reader, from: u64) -> Result<Vec<Arc<Taken>>, FeedError> {
    let mut records = Vec::new();
    for record in reader.read(from, READ_BYTES, false)? {
        records.extend(Taken::new(entry::decode(&record)?).map(Arc::new));
    }
    Ok(records)
}
