//! What a host promises an orchestrator, and what it does to one that misbehaves: against a fake
//! orchestrator whose every move the test makes.
#![expect(clippy::unwrap_used, reason = "tests")]

mod fake;
mod commands;
mod sessions;
