//! What is due: the end of a retry's delay for a queued command, the deadline for one that is out. An
//! open command has at most one timer, so the command's state tells what it means when it fires.
//! Timers are derived from the transactions, never stored.

use std::collections::BTreeSet;

use proto::id::{Time, TransactionId};

/// The timer of a step's open command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Timer {
    pub(super) due: Time,
    pub(super) transaction: TransactionId,
    pub(super) step: u16,
}

/// All timers, the next one first.
#[derive(Debug, Default)]
pub(super) struct Timers {
    all: BTreeSet<Timer>,
}

impl Timers {
    pub(super) fn set(&mut self, timer: Timer) {
        self.all.insert(timer);
    }

    /// Takes a timer back; one that has fired is no longer there, and that is fine.
    pub(super) fn clear(&mut self, timer: &Timer) {
        self.all.remove(timer);
    }

    pub(super) fn is_set(&self, timer: &Timer) -> bool {
        self.all.contains(timer)
    }

    pub(super) fn next_due(&self) -> Option<Time> {
        self.all.first().map(|timer| timer.due)
    }

    /// The next timer that is due by `now`, taken out.
    pub(super) fn fire(&mut self, now: Time) -> Option<Timer> {
        if self.next_due()? > now {
            return None;
        }
        self.all.pop_first()
    }
}
