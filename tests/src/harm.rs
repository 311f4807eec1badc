//! What stories need in which hosts come to harm: real hosts that can be stopped and killed, what they
//! wrote down, and processors that are busy with something else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use multiagents_client::{Client, Retry, Step, Workflow};
use proto::batch::Stored;
use proto::event::{CommandEvent, Event, HostEvent, Kind};
use proto::wire::Transaction;

use crate::wait::{PATIENCE, until};
use crate::{Process, Suite, http};

/// A process of `test-host`, whose handlers write down what they do.
#[derive(Debug)]
pub struct TestHost {
    /// The process.
    pub process: Process,
    record: PathBuf,
}

impl TestHost {
    /// Not yet started. `name` is its host_id and its machine; hosts of one record share a file.
    pub fn new(directory: &Path, orchestrator: &str, name: &str, slots: u32) -> Self {
        Self::on_machine(directory, orchestrator, name, name, slots)
    }

    /// As [`TestHost::new`] on a machine of that name; an empty name draws another in each life.
    pub fn on_machine(
        directory: &Path,
        orchestrator: &str,
        name: &str,
        machine: &str,
        slots: u32,
    ) -> Self {
        let record = directory.join("record");
        let arguments = [orchestrator, name, machine, &slots.to_string()];
        let process = Process::new("test-host", directory, &format!("host-{machine}-{name}"))
            .arguments(arguments)
            .arguments([record.display().to_string()]);
        Self { process, record }
    }

    /// Starts it, and waits until it has connected to `suite`.
    pub async fn start(mut self, suite: &Suite) -> Self {
        self.start_again(suite).await;
        self
    }

    /// As [`TestHost::start`].
    pub async fn start_again(&mut self, suite: &Suite) {
        // By the log: how many are connected may still count its life before.
        let before = count(&suite.events().await, is_connected);
        self.process.start();
        until("the host to connect", PATIENCE, async || {
            let now = count(&suite.events().await, is_connected);
            (now > before).then_some(()).ok_or(format!("{now} came"))
        })
        .await;
    }

    /// What all hosts of the directory wrote down, by line, with how often.
    pub fn record(&self) -> BTreeMap<String, u32> {
        let mut lines = BTreeMap::new();
        for line in std::fs::read_to_string(&self.record)
            .unwrap_or_default()
            .lines()
        {
            *lines.entry(line.to_owned()).or_default() += 1;
        }
        lines
    }

    /// Waits until a line that begins so stands in the record.
    pub async fn wrote(&self, beginning: &str) {
        let what = format!("a host to write \"{beginning}\"");
        until(&what, PATIENCE, async || {
            let record = self.record();
            let found = record.keys().any(|line| line.starts_with(beginning));
            found.then_some(()).ok_or(format!("{record:?}"))
        })
        .await;
    }
}

/// A figure of the orchestrator's `/metrics`; 0 where it is not told.
pub async fn metric(suite: &Suite, name: &str) -> f64 {
    let page = http::get(suite.orchestrator.address(), "/metrics").await;
    let page = page.expect("the orchestrator's metrics");
    http::sample(&page.body, name).unwrap_or_default()
}

/// Registers a workflow of one step by `worker`, of the same name, that is delivered often.
pub async fn register(client: &Client, worker: &str, max_deliveries: u32) {
    let step = Step::new("it", worker).retry(Retry::attempts(1).max_deliveries(max_deliveries));
    let workflow = Workflow::new(worker).step(step.timeout(Duration::from_secs(60)));
    client.register(workflow).await.expect("a workflow");
}

/// The stages of the first step's attempts.
pub fn stages(ended: &Transaction) -> Vec<proto::wire::Stage> {
    let attempts = ended.steps[0].attempts.iter();
    attempts.map(proto::wire::CommandStatus::stage).collect()
}

/// How many events are so.
pub fn count(events: &[Stored], is_so: impl Fn(&Event) -> bool) -> usize {
    events.iter().filter(|stored| is_so(&stored.event)).count()
}

/// Whether a command was lost.
pub fn is_lost(event: &Event) -> bool {
    let Kind::Command { what, .. } = &event.kind else {
        return false;
    };
    matches!(what, CommandEvent::Lost { .. })
}

/// Whether a host came.
fn is_connected(event: &Event) -> bool {
    let Kind::Host { what, .. } = &event.kind else {
        return false;
    };
    matches!(what, HostEvent::Connected { .. })
}

/// Whether a host was lost.
pub fn is_lost_host(event: &Event) -> bool {
    let Kind::Host { what, .. } = &event.kind else {
        return false;
    };
    matches!(what, HostEvent::Lost)
}

/// Whether a host was held back.
pub fn is_quarantine(event: &Event) -> bool {
    let Kind::Host { what, .. } = &event.kind else {
        return false;
    };
    matches!(what, HostEvent::Quarantined { .. })
}

/// Processes that do nothing as fast as they can, until they are dropped.
#[derive(Debug)]
pub struct Spinning(Vec<Child>);

impl Spinning {
    /// So many.
    pub fn start(count: usize) -> Self {
        let spin = |_| {
            Command::new("sh")
                .args(["-c", "while :; do :; done"])
                .stdin(Stdio::null())
                .spawn()
                .expect("a shell")
        };
        Self((0..count).map(spin).collect())
    }
}

impl Drop for Spinning {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It is gone after the wait, however it ended.
            let _gone_already = child.kill();
            let _status = child.wait();
        }
    }
}
