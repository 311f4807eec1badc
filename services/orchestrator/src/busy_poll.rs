//! Looking for the next input for a moment before sleeping.
//!
//! A thread that sleeps on a core that halts wakes late, by 50 to 100 us on many a virtual machine, and
//! a workflow that runs alone would sleep and wake a dozen times. While few run and inputs come soon,
//! the driver and the runtime stay awake between them. Both give way to whoever else has work, and once
//! an input doesn't come soon both sleep.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// With more transactions under way the loop sleeps: what piles up meanwhile shares one sync.
const FEW: usize = 4;
/// An input that comes to sleeping threads comes late because they sleep: within so many times what is
/// looked for, it might have been found.
const LATER_WHEN_ASLEEP: u32 = 3;

/// Whether the driver stays awake, for the runtime to do likewise.
#[derive(Clone, Debug, Default)]
pub(crate) struct Awake(Arc<AtomicBool>);

impl Awake {
    /// Whether to stay awake.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, awake: bool) {
        self.0.store(awake, Ordering::Relaxed);
    }
}

/// The driver's side.
#[derive(Debug)]
pub(crate) struct BusyPoll {
    longest: Duration,
    awake: Awake,
    /// Whether the last input came soon after the loop had nothing to do.
    came_soon: bool,
}

impl BusyPoll {
    /// Looks for at most so long; zero: never.
    pub(crate) fn new(longest: Duration, awake: Awake) -> Self {
        Self {
            longest,
            awake,
            came_soon: false,
        }
    }

    /// So many transactions are under way.
    pub(crate) fn under_way(&self, transactions: usize) {
        self.awake.set(self.came_soon && transactions <= FEW);
    }

    /// What `look` finds soon; none at once where the last input didn't come soon.
    pub(crate) fn look<T>(&mut self, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        if !self.awake.is_set() {
            return None;
        }
        let since = Instant::now();
        while since.elapsed() < self.longest {
            if let Some(found) = look() {
                return Some(found);
            }
            std::thread::yield_now();
        }
        self.came_soon = false;
        self.awake.set(false);
        None
    }

    /// An input came so long after the loop had nothing to do.
    pub(crate) fn came_after(&mut self, waited: Duration) {
        self.came_soon = waited < self.longest * LATER_WHEN_ASLEEP;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_millis(1);

    fn looks(busy_poll: &mut BusyPoll) -> bool {
        let mut looked = false;
        let _ = busy_poll.look(|| {
            looked = true;
            None::<()>
        });
        looked
    }

    #[test]
    fn it_stays_awake_while_few_transactions_run_and_inputs_come_soon() {
        let awake = Awake::default();
        let mut busy_poll = BusyPoll::new(LONGEST, awake.clone());
        busy_poll.under_way(1);
        assert!(!awake.is_set(), "nothing is known of when inputs come");

        busy_poll.came_after(LONGEST);
        busy_poll.under_way(1);
        assert!(awake.is_set());
        assert_eq!(busy_poll.look(|| Some(7)), Some(7));

        busy_poll.under_way(FEW + 1);
        assert!(!awake.is_set(), "batches are worth more");
        assert!(!looks(&mut busy_poll));

        busy_poll.under_way(1);
        assert!(looks(&mut busy_poll), "and now they are not");
        assert!(!awake.is_set(), "nothing came");
        busy_poll.under_way(1);
        assert!(!awake.is_set(), "until an input comes soon again");
    }

    #[test]
    fn it_sleeps_at_once_where_inputs_come_late_or_nobody_wants_it() {
        for longest in [LONGEST, Duration::ZERO] {
            let mut busy_poll = BusyPoll::new(longest, Awake::default());
            busy_poll.came_after(longest * LATER_WHEN_ASLEEP);
            busy_poll.under_way(1);
            assert!(!looks(&mut busy_poll));
        }
    }
}
