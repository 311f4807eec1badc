//! The folds: pure and synchronous, one file per question.
//!
//! Each digests the entries of the monitor's own log and answers its own queries. The same entries
//! give the same bytes. Nothing here may know a clock, chance, a channel or the wire, and nothing
//! iterates a hash map.

pub mod settings;
pub mod names;
pub mod histogram;
pub mod tiers;
pub mod shards;
pub mod sources;
pub mod rates;
pub mod traces;
pub mod performance;
pub mod patterns;
pub mod template;
pub mod health;
pub mod judgement;
pub mod metrics;
