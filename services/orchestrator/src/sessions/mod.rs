//! One stream per worker host.
pub mod table;
