//! The orchestrator over real sockets, in this process, with hosts that do what a test says.
#![expect(clippy::unwrap_used, reason = "tests")]

mod harness;
mod host;
mod runs;
mod keys;
mod restarts;
mod hosts;
mod remembering;
mod bad_inputs;
mod bounds;
mod event_log;
mod store_trouble;
mod stepped;
mod retention;
