//! Transaction ids: UUIDv7s by the engine's time, each later than the one before.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use proto::id::TransactionId;
use uuid::{ContextV7, Timestamp, Uuid};

/// Draws ids; clones share the sequence.
#[derive(Clone)]
pub(crate) struct Ids {
    clock: kit::Clock,
    source: Source,
}

#[derive(Clone)]
enum Source {
    Random(Arc<Mutex<ContextV7>>),
    /// The log's epoch, and how many were drawn.
    Counted(u64, Arc<AtomicU32>),
}

impl Ids {
    /// Ids by this clock.
    pub(crate) fn new(clock: kit::Clock) -> Self {
        Self {
            clock,
            source: Source::Random(Arc::new(Mutex::new(ContextV7::new()))),
        }
    }

    /// Ids without chance, so that a run can be repeated: each by its number in an epoch of the log.
    pub(crate) fn counted(clock: kit::Clock, epoch: u64) -> Self {
        Self {
            clock,
            source: Source::Counted(epoch, Arc::default()),
        }
    }

    /// The next id.
    pub(crate) fn draw(&self) -> TransactionId {
        let micros = u64::try_from(self.clock.now_micros()).unwrap_or_default();
        let uuid = match &self.source {
            Source::Random(context) => {
                let nanos = u32::try_from(micros % 1_000_000 * 1_000).unwrap_or_default();
                let context = context.lock().unwrap_or_else(PoisonError::into_inner);
                Uuid::new_v7(Timestamp::from_unix(&*context, micros / 1_000_000, nanos))
            }
            Source::Counted(epoch, drawn) => {
                let mut rest = [0; 10];
                // The first three bytes have version and variant in them.
                rest[3..6].copy_from_slice(&epoch.to_be_bytes()[5..]);
                let number = drawn.fetch_add(1, Ordering::Relaxed);
                rest[6..].copy_from_slice(&number.to_be_bytes());
                uuid::Builder::from_unix_timestamp_millis(micros / 1_000, &rest).into_uuid()
            }
        };
        TransactionId(uuid.into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_id_is_later_than_the_one_before_even_when_time_stands() {
        let clock = kit::Clock::simulated(1_700_000_000_000_000);
        for ids in [Ids::new(clock.clone()), Ids::counted(clock, 3)] {
            let drawn: Vec<_> = (0..10_000).map(|_| ids.draw()).collect();
            assert!(drawn.is_sorted_by(|earlier, later| earlier < later));
        }
    }
}
