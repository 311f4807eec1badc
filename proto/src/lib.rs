//! The shared language of clients, orchestrator, worker hosts and monitor.
//!
//! `multiagents/v1/*.proto` are the contracts; [`wire`] is what is generated from them. What comes
//! off the wire is parsed once, here, into strict types: [`id`], [`event`], [`workflow`]. This crate
//! holds words and their encodings; it decides nothing and does no I/O.

pub mod id;
pub mod cursor;
pub mod payload;
pub mod workflow;
pub mod event;
pub mod lifecycle;
pub mod batch;
pub mod write;
mod read;
pub mod frame;
pub mod convert;
pub mod error;

/// The generated messages, clients and servers.
#[expect(
    clippy::all,
    clippy::allow_attributes,
    reason = "generated code; its comments are the contracts' own"
)]
pub mod wire {
    tonic::include_proto!("multiagents.v1");
}

/// The contracts' descriptors, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
