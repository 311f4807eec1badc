//! Worker hosts: one stream per host, and the leases that their heartbeats renew.
//!
//! `table.rs` knows who is there, `quarantine.rs` who crashes in a loop, `remembered.rs` what need not be sent
//! to a host again: these are pure. `stream.rs` is the thin shell around the streams that `service.rs` serves;
//! `line.rs` is what the two sides of a session share, `message.rs` what goes out there; `late.rs` answers
//! results for what has left memory.

pub mod table;
pub(crate) mod remembered;
pub(crate) mod message;
pub mod quarantine;
pub(crate) mod line;
pub(crate) mod service;
pub(crate) mod stream;
pub(crate) mod late;
