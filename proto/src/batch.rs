//! A batch of events as bytes: the form of disk and of EventLogService.
//!
//! The encoder writes what `event.proto` says, by hand where events are frequent, since generated
//! structs own a String for every field; the tests hold it against the generated code. Payloads go
//! to a section of their own, in the order of their events.

mod kinds;
mod carried;
mod encode;
mod decode;

#[cfg(test)]
mod tests;

use crate::event::Event;

pub use decode::{Decoded, Malformed, decode, extent};
pub use encode::Encoder;
pub use kinds::record_kind;

/// An event at its place in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Its offset.
    pub offset: u64,
    /// The event.
    pub event: Event,
}
