//! The time that decisions are made by: microseconds since the Unix epoch that never go back.
//!
//! A system clock starts at the later of the wall clock and the last time already used, goes
//! on by the monotonic clock and is slewed towards the wall clock, so that a wall clock that
//! steps fires and delays nothing. A simulated clock moves only when told. It must never be
//! used for calendar times: `wall_micros` is for those.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How far the system clock is moved towards the wall clock: 5 ms in each second.
const SLEW_NANOS_PER_SECOND_MAX: i128 = 5_000_000;

/// A shared clock. Clones show the same time.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System(Arc<Mutex<Slewed>>),
    Simulated(Arc<Mutex<Simulated>>),
}

/// Where a slewed clock stood when it was last read.
#[derive(Debug)]
struct Slewed {
    nanos: i128,
    read_at: Instant,
}

#[derive(Debug)]
struct Simulated {
    micros: i64,
    wall_micros: i64,
}

impl Clock {
    /// The machine's clock, starting no earlier than `last_micros`, the latest time that an
    /// earlier run has used (0 for none).
    pub fn system(last_micros: i64) -> Self {
        let nanos = (i128::from(last_micros) * 1_000).max(wall_nanos());
        Self(Source::System(Arc::new(Mutex::new(Slewed {
            nanos,
            read_at: Instant::now(),
        }))))
    }

    /// A clock that stands at `micros` until told otherwise; its wall clock shows the same.
    pub fn simulated(micros: i64) -> Self {
        let start = Simulated {
            micros,
            wall_micros: micros,
        };
        Self(Source::Simulated(Arc::new(Mutex::new(start))))
    }

    /// Microseconds since the epoch; never less than an earlier answer.
    pub fn now_micros(&self) -> i64 {
        match &self.0 {
            Source::System(slewed) => {
                let mut slewed = lock(slewed);
                let read_at = Instant::now();
                let elapsed = read_at.saturating_duration_since(slewed.read_at);
                slewed.nanos = advance(slewed.nanos, elapsed, wall_nanos());
                slewed.read_at = read_at;
                micros(slewed.nanos)
            }
            Source::Simulated(simulated) => lock(simulated).micros,
        }
    }

    /// Raises the clock to at least `micros`: for a last used time that is known only later.
    pub fn raise_to(&self, at_least_micros: i64) {
        match &self.0 {
            Source::System(slewed) => {
                let mut slewed = lock(slewed);
                slewed.nanos = slewed.nanos.max(i128::from(at_least_micros) * 1_000);
            }
            Source::Simulated(simulated) => {
                let mut simulated = lock(simulated);
                simulated.micros = simulated.micros.max(at_least_micros);
            }
        }
    }

    /// The wall clock, which may step either way: only for calendar times.
    pub fn wall_micros(&self) -> i64 {
        match &self.0 {
            Source::System(_) => micros(wall_nanos()),
            Source::Simulated(simulated) => lock(simulated).wall_micros,
        }
    }

    /// Moves a simulated clock and its wall clock forward. A system clock takes no orders.
    pub fn advance(&self, by: Duration) {
        if let Source::Simulated(simulated) = &self.0 {
            let by = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
            let mut simulated = lock(simulated);
            simulated.micros = simulated.micros.saturating_add(by);
            simulated.wall_micros = simulated.wall_micros.saturating_add(by);
        }
    }

    /// Sets a simulated clock; an earlier time than it shows is ignored, since no clock here
    /// goes back. A system clock takes no orders.
    pub fn set(&self, to_micros: i64) {
        if let Source::Simulated(simulated) = &self.0 {
            let mut simulated = lock(simulated);
            simulated.micros = simulated.micros.max(to_micros);
            simulated.wall_micros = simulated.wall_micros.max(to_micros);
        }
    }

    /// Steps a simulated wall clock, either way, as an operator or a time server might.
    pub fn set_wall(&self, to_micros: i64) {
        if let Source::Simulated(simulated) = &self.0 {
            lock(simulated).wall_micros = to_micros;
        }
    }
}

/// The next reading: `elapsed` on, and nearer to the wall clock by at most the slew rate.
fn advance(nanos: i128, elapsed: Duration, wall: i128) -> i128 {
    let elapsed = i128::try_from(elapsed.as_nanos()).unwrap_or(i128::MAX / 2);
    let unslewed = nanos.saturating_add(elapsed);
    let slew_max = elapsed.saturating_mul(SLEW_NANOS_PER_SECOND_MAX) / 1_000_000_000;
    unslewed + (wall - unslewed).clamp(-slew_max, slew_max)
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that everybody else's time comes from"
)]
fn wall_nanos() -> i128 {
    let nanos = |span: Duration| i128::try_from(span.as_nanos()).unwrap_or(i128::MAX / 4);
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => nanos(since),
        Err(before) => -nanos(before.duration()),
    }
}

fn micros(nanos: i128) -> i64 {
    i64::try_from(nanos.div_euclid(1_000)).unwrap_or(i64::MAX)
}

/// The clock's state is whole at every instant, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: i128 = 1_000_000_000;

    #[test]
    fn a_system_clock_starts_at_the_later_of_last_time_and_wall() {
        let ahead = wall_nanos() / 1_000 + 3_600_000_000;
        let ahead = i64::try_from(ahead).expect("the year is sane");
        assert!(Clock::system(ahead).now_micros() >= ahead);
        let clock = Clock::system(5);
        assert!((clock.now_micros() - clock.wall_micros()).abs() < 1_000_000);
    }

    #[test]
    fn a_wall_clock_that_steps_is_followed_at_five_milliseconds_a_second() {
        let forwards = advance(0, Duration::from_secs(1), 3_600 * SECOND);
        assert_eq!(forwards, SECOND + 5_000_000);
        let back = advance(0, Duration::from_secs(1), -3_600 * SECOND);
        assert_eq!(back, SECOND - 5_000_000);
    }

    #[test]
    fn a_small_difference_is_closed_exactly() {
        assert_eq!(
            advance(0, Duration::from_secs(1), SECOND + 1_000),
            SECOND + 1_000
        );
    }

    #[test]
    fn a_simulated_clock_moves_only_when_told_and_never_back() {
        let clock = Clock::simulated(1_000);
        let same = clock.clone();
        clock.advance(Duration::from_millis(2));
        assert_eq!((clock.now_micros(), same.now_micros()), (3_000, 3_000));
        clock.set(2_000);
        assert_eq!(clock.now_micros(), 3_000);
        clock.set_wall(-5);
        assert_eq!((clock.now_micros(), clock.wall_micros()), (3_000, -5));
    }

    proptest! {
        #[test]
        fn no_reading_goes_back_whatever_the_wall_clock_does(
            readings in prop::collection::vec((0_u64..10_000_000_000, any::<i64>()), 1..200),
        ) {
            let mut now = 1_700_000_000 * SECOND;
            for (elapsed, wall) in readings {
                let next = advance(now, Duration::from_nanos(elapsed), i128::from(wall));
                prop_assert!(next >= now);
                now = next;
            }
        }

        #[test]
        fn frequent_readings_slew_as_far_as_rare_ones(parts in 1_u32..10_000) {
            let whole = Duration::from_secs(1);
            let part = whole / parts;
            let mut now = 0;
            for _ in 0..parts {
                now = advance(now, part, 3_600 * SECOND);
            }
            let drift = now - i128::try_from((part * parts).as_nanos()).unwrap_or(0);
            prop_assert!((4_900_000..=5_000_000).contains(&drift), "{drift}");
        }
    }
}
