//! The monitor's folds against naive counts, and the whole service against a source that the test
//! writes to.
#![expect(clippy::unwrap_used, reason = "tests")]

mod history;
mod source;
mod running;

mod folds;
mod health;
mod patterns;
mod service;
mod restarts;
mod feed;
mod sources;
mod settings;
