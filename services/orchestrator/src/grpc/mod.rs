//! The edge: parse, hand over, answer. No decisions.

pub(crate) mod render;
pub(crate) mod workflows;
pub(crate) mod transactions;
pub(crate) mod starts;
pub(crate) mod start_stream;
pub(crate) mod written;
pub(crate) mod service;
pub(crate) mod event_log;
mod backup;
