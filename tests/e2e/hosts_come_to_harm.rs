//! Hosts, and the ways to them, fail in every way there is: what was accepted comes to its end, nothing
//! counts twice, and what is refused for it is seen.

mod pauses;
mod network;
mod crashes;
mod restarts;
mod busy;
mod overload;

use tests::{Suite, SuiteBuilder};

/// Without the built-in workers and without a monitor.
fn bare() -> SuiteBuilder {
    Suite::builder().without_host().without_monitor()
}

/// With a lease so short that stories need not wait for it.
fn short_lease(builder: SuiteBuilder) -> SuiteBuilder {
    builder
        .setting("orchestrator", "sessions.lease", "1s")
        .setting("orchestrator", "sessions.heartbeat_interval", "200ms")
}
