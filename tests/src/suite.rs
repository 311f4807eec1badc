//! Orchestrator, worker host and monitor together, as `multiagents up` starts them, but each in the
//! story's hand.

use std::path::{Path, PathBuf};

use multiagents_client::{Client, Monitor};
use proto::batch::Stored;
use tempfile::TempDir;

use crate::process::{Process, binary, free_port};
use crate::{record, wait, workflows};

/// A running suite. Its processes end with it; what they wrote is kept when the story fails.
#[derive(Debug)]
pub struct Suite {
    /// The orchestrator.
    pub orchestrator: Process,
    /// The worker host with the built-in workers.
    pub host: Process,
    /// The monitor.
    pub monitor: Process,
    directory: Option<TempDir>,
}

/// What a suite is to be like.
#[derive(Debug, Default)]
pub struct SuiteBuilder {
    without_host: bool,
    without_monitor: bool,
    settings: Vec<(&'static str, String)>,
    variables: Vec<(String, String)>,
    data: Option<PathBuf>,
    binaries: Option<PathBuf>,
}

impl SuiteBuilder {
    /// No worker host is started; [`Suite::host`] can be, later.
    #[must_use]
    pub fn without_host(mut self) -> Self {
        self.without_host = true;
        self
    }

    /// No monitor is started; [`Suite::monitor`] can be, later.
    #[must_use]
    pub fn without_monitor(mut self) -> Self {
        self.without_monitor = true;
        self
    }

    /// With a key of a service's configuration: `("orchestrator", "limits.x", "7")`.
    #[must_use]
    pub fn setting(mut self, service: &'static str, key: &str, value: &str) -> Self {
        self.settings.push((service, format!("{key}={value}")));
        self
    }

    /// With an environment variable for the orchestrator.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With the orchestrator's data somewhere else than with the rest.
    #[must_use]
    pub fn data(mut self, directory: &Path) -> Self {
        self.data = Some(directory.to_owned());
        self
    }

    /// With the binaries of this folder.
    #[must_use]
    pub fn binaries(mut self, folder: &Path) -> Self {
        self.binaries = Some(folder.to_owned());
        self
    }

    fn arguments(&self, service: &str) -> Vec<String> {
        let of_service = self.settings.iter().filter(|(name, _)| *name == service);
        of_service
            .flat_map(|(_, setting)| ["--set".to_owned(), setting.clone()])
            .collect()
    }

    /// Starts it, waits until all of it is ready, and registers the stories' workflows.
    pub async fn start(self) -> Suite {
        let directory = TempDir::with_prefix("multiagents-test-").expect("a directory");
        let at = directory.path();
        let address = || format!("127.0.0.1:{}", free_port());
        let (orchestrator, host, monitor) = (address(), address(), address());
        let data = |name: &str| at.join(name).display().to_string();
        let own = at.join("orchestrator");
        let process = |name: &str, address: &str| {
            let program = match &self.binaries {
                Some(folder) => folder.join(name),
                None => binary(name),
            };
            Process::of(program, at, address)
        };
        let orchestrator_data = self.data.as_ref().unwrap_or(&own).display().to_string();
        let mut suite = Suite {
            orchestrator: process("multiagents-orchestrator", &orchestrator)
                .arguments(["--listen", &orchestrator])
                .arguments(["--data-dir", &orchestrator_data])
                .arguments(self.arguments("orchestrator"))
                .variables(&self.variables),
            host: process("multiagents-worker-host", &host)
                .arguments(["--listen", &host])
                .arguments(["--orchestrator", &orchestrator])
                .arguments(self.arguments("worker-host")),
            monitor: process("multiagents-monitor", &monitor)
                .arguments(["--listen", &monitor])
                .arguments(["--data-dir", &data("monitor")])
                .arguments(["--orchestrator", &orchestrator])
                .arguments(self.arguments("monitor")),
            directory: Some(directory),
        };
        suite.orchestrator.start_ready().await;
        workflows::register(&suite.client()).await;
        if !self.without_host {
            suite.host.start_ready().await;
        }
        if !self.without_monitor {
            suite.monitor.start_ready().await;
        }
        suite
    }
}

impl Suite {
    /// Describes a suite that is to differ.
    pub fn builder() -> SuiteBuilder {
        SuiteBuilder::default()
    }

    /// Starts all three services.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// Where all its files are.
    pub fn directory(&self) -> &Path {
        self.directory.as_ref().expect("kept until the end").path()
    }

    /// A client of the orchestrator.
    pub fn client(&self) -> Client {
        Client::lazy(self.orchestrator.address()).expect("an address")
    }

    /// A client of the monitor.
    pub fn monitor(&self) -> Monitor {
        Monitor::lazy(self.monitor.address()).expect("an address")
    }

    /// Every event of the log of record.
    pub async fn events(&self) -> Vec<Stored> {
        record::read(&self.client()).await
    }

    /// Waits until the monitor has taken in all that is in the log now.
    pub async fn monitor_caught_up(&self) {
        let head = record::head(&self.client()).await;
        let monitor = self.monitor();
        wait::until("the monitor to catch up", wait::PATIENCE, async || {
            let answer = monitor.workers_health().await;
            let as_of = answer.map_err(|error| error.to_string())?.as_of;
            let sources = as_of.unwrap_or_default().sources;
            match sources.as_slice() {
                [source] if source.offset >= head => Ok(()),
                other => Err(format!("{other:?}, head {head}")),
            }
        })
        .await;
    }
}

impl Drop for Suite {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(directory) = self.directory.take()
        {
            eprintln!(
                "--- the suite's files are kept in {}",
                directory.keep().display()
            );
        }
    }
}
