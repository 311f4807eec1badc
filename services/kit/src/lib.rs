//! Starting and stopping any service: one port for gRPC and HTTP, with limits, health,
//! reflection, metrics, an orderly end; and what surrounds that: configuration, logging, time,
//! signals and exit codes.
//!
//! No word of what the services are about may appear in this crate.

pub mod clock;
pub mod config;
pub mod connections;
pub mod logging;
pub mod metrics;
mod run;
pub mod service;
pub mod shutdown;
pub mod status;
pub mod trace_context;

pub use clock::Clock;
pub use run::{ExitError, Threads, exit, exit_code_of, exit_with, run_main};
pub use service::{Exposure, Limits, Readiness, Service};
