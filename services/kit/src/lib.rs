//! Starting and stopping any service: one port for gRPC and HTTP, with limits, health,
//! reflection, metrics, an orderly end; and what surrounds that: configuration, logging, time,
//! signals and exit codes.
//!
//! Inside `run_main`, a `main` reads its configuration (`config::load`), sets up logging
//! (`logging::init`), binds its address (`listen`) and gives that, a `Service` and the token of
//! `shutdown::on_signals` to `serve`.
//!
//! No word of what the services are about may appear in this crate.

// What a service hands over, and how it is served.
pub mod service;
mod serve;
mod callers;
mod calls;
mod answer_body;
mod unread;
mod refusals;
mod methods;
mod routes;
mod pages;
mod handshake;
mod gathering;
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
pub mod machine;

pub use answer_body::headers_of;
pub use clock::Clock;
pub use routes::Routes;
pub use run::{ExitError, Threads, exit, exit_code_of, exit_with, run_main};
pub use serve::{ServeError, listen, serve};
pub use service::{Exposure, Limits, Readiness, Service};
pub use unread::{UnreadBytes, UnreadCounter};
