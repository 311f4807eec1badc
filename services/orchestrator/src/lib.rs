//! The orchestrator.
pub mod config;
pub mod journal;
pub mod store;
pub mod engine;
pub mod dispatch;
pub mod sessions;
pub mod definitions;
