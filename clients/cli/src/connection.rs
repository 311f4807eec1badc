//! The way to the services: where they are, and clients that are connected once per command.

use multiagents_client::{Client, Monitor};
use std::time::Duration;

use crate::failure::Failure;

/// Where the services listen.
#[derive(Clone, Debug)]
pub(crate) struct Suite {
    /// The orchestrator, as host:port.
    pub(crate) orchestrator: String,
    /// The monitor, as host:port.
    pub(crate) monitor: String,
}

impl Suite {
    /// Connects to the orchestrator, or says at once that nobody answers.
    pub(crate) async fn orchestrator(&self) -> Result<Client, Failure> {
        Ok(Client::connect_within(&self.orchestrator, Duration::ZERO).await?)
    }

    /// Connects to the monitor, or says at once that nobody answers.
    pub(crate) async fn monitor(&self) -> Result<Monitor, Failure> {
        Ok(Monitor::connect_within(&self.monitor, Duration::ZERO).await?)
    }
}
