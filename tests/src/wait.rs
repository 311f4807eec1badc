//! Waiting for a condition. The only place of the tests that lets time pass.

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(20);

/// How long a story waits for what should come soon, on a slow and busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Looks until `look` finds something; fails with `what` and with what was seen last.
pub async fn until<T>(
    what: &str,
    patience: Duration,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        let seen = match look().await {
            Ok(found) => return found,
            Err(seen) => seen,
        };
        assert!(
            Instant::now() < deadline,
            "waited {patience:?} for {what}; last seen: {seen}"
        );
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Lets a moment pass between two tries of something that is away just now.
pub async fn a_moment() {
    tokio::time::sleep(INTERVAL).await;
}

/// Whether stories of a certain length go on for as long as is promised: `TEST_LONG` is set. Otherwise
/// they are cut short, to be run often.
pub fn is_long() -> bool {
    std::env::var_os("TEST_LONG").is_some_and(|value| value != "0")
}

/// How long an answer that comes at once is given.
pub const SHORT: Duration = Duration::from_secs(3);
