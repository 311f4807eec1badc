//! A service served on a real socket: what its callers see, good and bad.

mod bench;
mod calls;
mod callers;
mod connections;
mod drain;
mod pages;
mod reflection;
