//! What readers see of the segment store.
//!
//! A reader takes the lock only to learn which file holds an offset and how far it may read; the
//! reading itself needs no lock and never waits for the writer. Nothing here writes.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::watch;

use crate::backup::Backup;
use crate::segment::{FIRST_RECORD, Found, Segment};
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

    /// All that is durable now, as parts, with the chain at its end.
    fn extent(&self) -> (Bounds, Vec<Part>, Hash) {
        let state = self.state();
        let part = |(index, segment): (usize, &Arc<Segment>)| Part {
            segment: Arc::clone(segment),
            end: state.end_of(index),
            size_bytes: segment.end(),
        };
        let parts = state.segments.iter().enumerate().map(part).collect();
        (self.bounds_of(&state), parts, state.hash)
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

/// What was durable of one segment at some instant.
pub(crate) struct Part {
    pub(crate) segment: Arc<Segment>,
    /// The offset after its last record.
    pub(crate) end: Offset,
    /// How much of the file that is, header included.
    pub(crate) size_bytes: u64,
}

impl Part {
    /// Goes through it record by record and checks each, with the chain, which stands at `chain`
    /// before it and after it. `visit` is given what has been found right.
    pub(crate) fn walk(
        &self,
        chain: &mut Hash,
        visit: &mut dyn FnMut(&Found) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        let segment = &self.segment;
        if segment.opening.previous_hash != *chain {
            let what = "the chain of hashes breaks between this file and the last";
            return Err(self.damaged(0, what));
        }
        let mut cursor = segment.cursor();
        while cursor.offset < self.end {
            let found = cursor.next().map_err(|error| error.for_readers(segment))?;
            *chain = found.header.chained(chain, &found.bytes);
            if *chain != found.header.hash {
                return Err(self.damaged(found.position, "the chain of hashes breaks here"));
            }
            visit(&found)?;
        }
        Ok(())
    }

    fn damaged(&self, position: u64, what: &str) -> ReadError {
        ReadError::Damaged {
            file: self.segment.name.clone(),
            position,
            what: what.into(),
        }
    }
}

/// The chain before the first of the parts.
pub(crate) fn chain_before(parts: &[Part], hash: Hash) -> Hash {
    let first = parts.first();
    first.map_or(hash, |first| first.segment.opening.previous_hash)
}

/// Whether the chain came out as the writer left it.
pub(crate) fn came_out(parts: &[Part], chain: Hash, hash: Hash) -> Result<(), ReadError> {
    match parts.last() {
        Some(last) if chain != hash => {
            let what = "the chain of hashes ends otherwise than the writer left it";
            Err(last.damaged(0, what))
        }
        _ => Ok(()),
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
        let (bounds, parts, hash) = self.extent();
        let mut chain = chain_before(&parts, hash);
        for part in &parts {
            part.walk(&mut chain, &mut |found| {
                progress(found.end());
                Ok(())
            })?;
        }
        came_out(&parts, chain, hash)?;
        Ok(bounds)
    }

    fn backup(&self) -> Result<Backup, ReadError> {
        let (bounds, parts, hash) = self.extent();
        Ok(Backup::new(&bounds, hash, parts))
    }

    fn durable(&self) -> watch::Receiver<Offset> {
        self.durable.clone()
    }
}
