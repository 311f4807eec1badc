//! What readers see of the segment store.
//!
//! A reader takes the lock only to learn which file holds an offset and how far it may read; the
//! reading itself needs no lock and never waits for the writer. Nothing here writes.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::watch;

use crate::segment::{FIRST_RECORD, Segment};
use crate::{Bounds, Hash, Offset, ReadError, ReadStore, Record};

/// The log as of the last acknowledged batch.
pub(crate) struct State {
    /// Ascending, never empty; the last is being written.
    pub(crate) segments: VecDeque<Arc<Segment>>,
    pub(crate) next: Offset,
    pub(crate) hash: Hash,
}

impl State {
    pub(crate) fn oldest(&self) -> Offset {
        self.segments
            .front()
            .map_or(self.next, |segment| segment.opening.first)
    }

    /// The offset after the last one of the segment at `index`.
    pub(crate) fn end_of(&self, index: usize) -> Offset {
        self.segments
            .get(index + 1)
            .map_or(self.next, |after| after.opening.first)
    }
}

/// What the writer lets its readers see.
pub(crate) struct Shared {
    log_id: [u8; 16],
    epoch: u64,
    state: RwLock<State>,
    durable: watch::Receiver<Offset>,
}

impl Shared {
    pub(crate) fn new(
        log_id: [u8; 16],
        epoch: u64,
        state: State,
        durable: watch::Receiver<Offset>,
    ) -> Shared {
        Shared {
            log_id,
            epoch,
            state: RwLock::new(state),
            durable,
        }
    }

    pub(crate) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn change(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next offset and the chain there.
    pub(crate) fn end(&self) -> (Offset, Hash) {
        let state = self.state();
        (state.next, state.hash)
    }

    /// How far the segment being written is filled.
    pub(crate) fn end_of_last(&self) -> u64 {
        self.state()
            .segments
            .back()
            .map_or(FIRST_RECORD, |segment| segment.end())
    }

    fn bounds_of(&self, state: &State) -> Bounds {
        Bounds {
            log_id: self.log_id,
            epoch: self.epoch,
            oldest: state.oldest(),
            next: state.next,
            size_bytes: state.segments.iter().map(|segment| segment.end()).sum(),
        }
    }

    /// The segment that holds `offset`, and the offset after its last; `None` at the end.
    fn holder(&self, offset: Offset) -> Result<Option<(Arc<Segment>, Offset)>, ReadError> {
        let state = self.state();
        let (oldest, next) = (state.oldest(), state.next);
        if offset < oldest {
            return Err(ReadError::Trimmed {
                from: offset,
                oldest,
            });
        }
        if offset > next {
            return Err(ReadError::PastEnd { from: offset, next });
        }
        if offset == next {
            return Ok(None);
        }
        let after = state
            .segments
            .partition_point(|segment| segment.opening.first <= offset);
        let index = after.saturating_sub(1);
        Ok(state
            .segments
            .get(index)
            .map(|segment| (Arc::clone(segment), state.end_of(index))))
    }
}

impl ReadStore for Shared {
    fn bounds(&self) -> Bounds {
        self.bounds_of(&self.state())
    }

    fn read(
        &self,
        from: Offset,
        max_bytes: usize,
        payloads: bool,
    ) -> Result<Vec<Record>, ReadError> {
        let mut records = Vec::new();
        let mut left = max_bytes;
        let mut at = from;
        let mut holder = self.holder(at)?;
        while let Some((segment, end)) = holder {
            let chunk = left.clamp(4 * 1024, 256 * 1024);
            let mut cursor = segment.cursor_near(at, payloads, chunk);
            while cursor.offset < end {
                let found = cursor.next().map_err(|error| error.for_readers(&segment))?;
                if cursor.offset <= at {
                    continue;
                }
                let record = found.record(payloads);
                let size = record.events.len() + record.payloads.len();
                if size > left && !records.is_empty() {
                    return Ok(records);
                }
                left = left.saturating_sub(size);
                records.push(record);
            }
            at = end;
            // A trim that comes in between must not turn what was read into an error.
            holder = if left == 0 {
                None
            } else {
                self.holder(at).unwrap_or(None)
            };
        }
        Ok(records)
    }

    fn verify(&self, progress: &mut dyn FnMut(Offset)) -> Result<Bounds, ReadError> {
        let (bounds, segments, last_hash) = {
            let state = self.state();
            let ends = (0..state.segments.len()).map(|index| state.end_of(index));
            let segments: Vec<_> = state.segments.iter().cloned().zip(ends).collect();
            (self.bounds_of(&state), segments, state.hash)
        };
        let mut chain = segments
            .first()
            .map_or(last_hash, |(first, _)| first.opening.previous_hash);
        for (segment, end) in &segments {
            let damaged = |position: u64, what: &str| ReadError::Damaged {
                file: segment.name.clone(),
                position,
                what: what.into(),
            };
            if segment.opening.previous_hash != chain {
                return Err(damaged(
                    0,
                    "the chain of hashes breaks between this file and the last",
                ));
            }
            let mut cursor = segment.cursor();
            while cursor.offset < *end {
                let found = cursor.next().map_err(|error| error.for_readers(segment))?;
                chain = found.header.chained(&chain, &found.bytes);
                if chain != found.header.hash {
                    return Err(damaged(found.position, "the chain of hashes breaks here"));
                }
                progress(cursor.offset);
            }
        }
        if chain != last_hash {
            return Err(ReadError::Damaged {
                file: segments
                    .last()
                    .map(|(last, _)| last.name.clone())
                    .unwrap_or_default(),
                position: 0,
                what: "the chain of hashes ends otherwise than the writer left it".into(),
            });
        }
        Ok(bounds)
    }

    fn durable(&self) -> watch::Receiver<Offset> {
        self.durable.clone()
    }
}
