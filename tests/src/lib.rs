//! The harness: a whole suite of real processes on free ports.
