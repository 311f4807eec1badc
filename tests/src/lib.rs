//! The harness: a whole suite of real processes on free ports, and what its stories ask of it.
//!
//! [`Suite`] starts orchestrator, worker host and monitor as a user would, each on a directory and a
//! port that it keeps through kills and restarts. [`record`] reads the log of record as a stranger
//! may, and counts for itself: nothing here takes a figure from the monitor. Waiting is always for a
//! condition, with a deadline that says what was waited for.

pub mod wait;
pub mod chance;
pub mod rounds;
pub mod faults;
pub mod http;
pub mod raw;
pub mod process;
pub mod proxy;
pub mod harm;
pub mod suite;
pub mod record;
pub mod count;
pub mod load;
pub mod workflows;
pub mod workers;

pub use process::Process;
pub use suite::{Suite, SuiteBuilder};
