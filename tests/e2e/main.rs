//! What no single crate can promise: stories on real processes and real sockets, one module each.

mod finishes;
mod parallel_overlaps;
mod retries;
mod compensates;
mod worker_host_dies;
mod hosts_come_to_harm;
mod orchestrator_killed;
mod trimmed;
mod backup;
mod chaos;
mod monitor_down_nobody_notices;
mod cursor_resumes;
mod health;
mod figures;
mod page_arithmetic;
mod contracts;
mod bad_inputs;
mod config;
mod up_and_demo;
mod readme;
