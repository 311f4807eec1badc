//! What the clients promise their callers when services stop, break and refuse: against fakes that
//! answer what the test tells them to.
#![expect(clippy::unwrap_used, reason = "tests")]

mod feed;
mod transactions;
