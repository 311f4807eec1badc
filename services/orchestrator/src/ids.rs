//! Transaction ids: UUIDv7s by the engine's time, each later than the one before.

use std::sync::{Arc, Mutex, PoisonError};

use proto::id::TransactionId;
use uuid::{ContextV7, Timestamp, Uuid};

/// Draws ids; clones share the sequence.
#[derive(Clone)]
pub(crate) struct Ids {
    clock: kit::Clock,
    context: Arc<Mutex<ContextV7>>,
}

impl Ids {
    /// Ids by this clock.
    pub(crate) fn new(clock: kit::Clock) -> Self {
        Self {
            clock,
            context: Arc::new(Mutex::new(ContextV7::new())),
        }
    }

    /// The next id.
    pub(crate) fn draw(&self) -> TransactionId {
        let micros = u64::try_from(self.clock.now_micros()).unwrap_or_default();
        let nanos = u32::try_from(micros % 1_000_000 * 1_000).unwrap_or_default();
        let context = self.context.lock().unwrap_or_else(PoisonError::into_inner);
        let timestamp = Timestamp::from_unix(&*context, micros / 1_000_000, nanos);
        TransactionId(Uuid::new_v7(timestamp).into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_id_is_later_than_the_one_before_even_when_time_stands() {
        let ids = Ids::new(kit::Clock::simulated(1_700_000_000_000_000));
        let drawn: Vec<_> = (0..10_000).map(|_| ids.draw()).collect();
        assert!(drawn.is_sorted_by(|earlier, later| earlier < later));
    }
}
