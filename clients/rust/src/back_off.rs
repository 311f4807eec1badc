//! How long to wait before the next attempt: twice as long each time, up to a limit, and a random
//! part less, so that many clients don't come back at once.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// A growing delay.
#[derive(Clone, Debug)]
pub struct BackOff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl BackOff {
    /// Delays from `first`, doubling, to `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self {
            first,
            most,
            next: first.min(most),
        }
    }

    /// The next delay: between half and the whole of what it has grown to.
    pub fn delay(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.most);
        whole.mul_f64(StdRng::from_os_rng().random_range(0.5..=1.0))
    }

    /// Begins anew, after a success.
    pub fn reset(&mut self) {
        self.next = self.first.min(self.most);
    }
}

impl Default for BackOff {
    fn default() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_limit_and_vary() {
        let mut back_off = BackOff::new(Duration::from_millis(100), Duration::from_millis(450));
        for whole in [100, 200, 400, 450, 450] {
            let delay = back_off.delay();
            assert!(delay >= Duration::from_millis(whole) / 2, "{delay:?}");
            assert!(delay <= Duration::from_millis(whole), "{delay:?}");
        }
        back_off.reset();
        assert!(back_off.delay() <= Duration::from_millis(100));
    }
}
