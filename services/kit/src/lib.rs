//! Starting and stopping any service: one port for gRPC and HTTP, with limits, health,
//! reflection, metrics, an orderly end; and what surrounds that: configuration, logging, time,
//! signals and exit codes.
//!
//! `main` reads its configuration (`config::load`), sets up logging (`logging::init`), binds a
//! listener, and gives both with a token of `shutdown::on_signals` to `serve`, all inside
//! `run_main`. No word of what the services are about may appear in this crate.

// What a service hands over, and how it is served.
pub mod service;
mod serve;
mod callers;
mod calls;
mod answer_body;
mod refusals;
mod methods;
mod pages;
mod handshake;
pub mod connections;
pub mod metrics;
pub mod status;
// What surrounds the server.
mod run;
pub mod config;
pub mod logging;
pub mod clock;
pub mod shutdown;
pub mod trace_context;

pub use clock::Clock;
pub use run::{ExitError, Threads, exit, exit_code_of, exit_with, run_main};
pub use serve::{ServeError, serve};
pub use service::{Exposure, Limits, Readiness, Service};
