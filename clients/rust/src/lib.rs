//! Clients and workers of the suite, for Rust.
//!
//! [`Client`] registers workflows, starts transactions and follows them to their end; [`Monitor`]
//! asks what happened, how fast and how well, and follows the feed; [`Worker`] and [`Host`] do the
//! work. Contracts are the proto files; this crate adds connections that come back, errors with a
//! reason, and the worker's side of sessions. It never folds a log and keeps nothing on disk.
//!
//! ```no_run
//! use multiagents_client::{Client, Host, Worker, Workflow};
//! use serde_json::json;
//!
//! # async fn example() -> Result<(), multiagents_client::Error> {
//! let greet = Worker::new("greet", |context| async move {
//!     let name: String = context.require("name")?;
//!     Ok(json!({ "greeting": format!("Hello, {name}") }))
//! });
//! let stop = tokio_util::sync::CancellationToken::new();
//! tokio::spawn(Host::builder("127.0.0.1:7001").worker(greet, 4).run(stop));
//!
//! let client = Client::connect("127.0.0.1:7001").await?;
//! client.register(Workflow::new("greeting").step(("greet", "greet"))).await?;
//! let ended = client
//!     .execute_and_wait("greeting", &json!({ "name": "Ada" }), std::time::Duration::from_secs(10))
//!     .await?;
//! println!("{:?}", ended.state());
//! # Ok(())
//! # }
//! ```

// What goes wrong, and how connections are made.
mod error;
mod back_off;
mod connection;
pub mod time;
// Talking to the orchestrator.
mod workflow;
mod client;
pub mod payload;
// Talking to the monitor.
mod monitor;
mod feed;
// Doing the work.
pub mod worker;

pub use back_off::BackOff;
pub use client::{Client, Start, Started, Watch};
pub use connection::{LOG_MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX};
pub use error::{Error, Refusal};
pub use feed::{Feed, FeedItem, FeedMessage};
pub use monitor::{Monitor, Verification};
pub use worker::{Context, Departure, Failure, Host, HostBuilder, Observed, Outcome, Worker};
pub use workflow::{Retry, Step, Workflow};

/// The contracts' own messages, which the clients answer with.
pub use proto::wire;
