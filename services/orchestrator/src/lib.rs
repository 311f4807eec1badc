//! The orchestrator.
pub mod config;
pub mod journal;
pub mod store;
