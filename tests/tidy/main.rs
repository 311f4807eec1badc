//! The invariants that ARCHITECTURE.md prints, as far as they can be read off the files.
//!
//! Nothing here runs the suite; what only a run can show stands in `e2e`.

mod tree;
mod manifests;
mod purity;
mod writers;
mod documents;
mod contracts;
mod configuration;
mod style;
