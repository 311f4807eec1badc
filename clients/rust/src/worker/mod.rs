//! Doing the work: handlers with a name, and the host that offers them.
//!
//! A [`Worker`] is a name and a function; a [`Host`] dials the orchestrator, announces workers and
//! slots, and runs the commands that come. Execution is at least once: what a handler does outside
//! should be keyed by [`Context::idempotency_key`].

mod failure;
mod context;
mod handler;
mod run;
#[doc(hidden)]
pub mod table;
#[doc(hidden)]
pub mod remembered;
mod commands;
mod heartbeat;
mod opening;
mod session;
mod host;

pub use context::{Context, UndoInfo};
pub use failure::Failure;
pub use handler::Worker;
pub use host::{Departure, Host, HostBuilder, Observed};
pub use run::Outcome;
