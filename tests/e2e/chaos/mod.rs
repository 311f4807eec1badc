//! What breaks, breaks under load, and at the end three things are compared: what clients were
//! acknowledged, what the log says, and what the workers wrote down themselves.
//!
//! A few rounds here, hundreds in `make chaos`: `CHAOS_ROUNDS` says how many.

mod kills;
mod pauses;
mod disk;
mod files;
mod clock;
mod floods;

use std::collections::{BTreeMap, BTreeSet};

use multiagents_client::{Client, Retry, Step, Workflow, payload};
use proto::batch::Stored;
use proto::event::CommandEvent;
use proto::id::TransactionId;
use proto::wire::TransactionState;
use tests::load::Load;
use tests::process::Process;
use tests::suite::SuiteBuilder;
use tests::wait::{PATIENCE, until};
use tests::{Suite, record};

const STEPS: [&str; 3] = ["first", "second", "third"];
/// Enough for batches to have company, few enough for a busy machine.
const CLIENTS: usize = 16;

/// A suite under load, with two hosts that write down what they do.
struct Chaos {
    suite: Suite,
    hosts: Vec<Process>,
    load: Load,
}

impl Chaos {
    /// Starts it; leases are short, so that what a killed host had comes back soon.
    async fn start(builder: SuiteBuilder) -> Self {
        Self::padded(builder, 0).await
    }

    /// The same, with so many bytes in every other input.
    async fn padded(builder: SuiteBuilder, padding: usize) -> Self {
        let suite = builder
            .without_host()
            .setting("orchestrator", "sessions.lease", "2s")
            .setting("orchestrator", "sessions.heartbeat_interval", "500ms")
            .setting("orchestrator", "sessions.quarantine.losses", "0")
            .start()
            .await;
        let address = suite.orchestrator.address().to_owned();
        Self::on(suite, &address, padding).await
    }

    /// The same on a suite that is there, whose hosts reach the orchestrator at `address`.
    async fn on(suite: Suite, address: &str, padding: usize) -> Self {
        let client = suite.client();
        let step =
            |name: &str| Step::new(name, "recorder").retry(Retry::attempts(1).max_deliveries(100));
        let workflow = Workflow::new("recorded");
        let workflow = STEPS
            .iter()
            .fold(workflow, |all, name| all.step(step(name)));
        client.register(workflow).await.expect("a workflow");
        let mut hosts = Vec::new();
        for name in ["scribe-1", "scribe-2"] {
            let record = suite.directory().join(format!("{name}.record"));
            let record = record.display().to_string();
            let mut host = Process::new("test-host", suite.directory(), name)
                .arguments([address, "", name, "64", &record]);
            host.start();
            hosts.push(host);
        }
        let load = Load::padded(&client, CLIENTS, "recorded", padding);
        Self { suite, hosts, load }
    }

    /// Waits until so many more starts are acknowledged.
    async fn acknowledged(&self, more: usize) {
        let goal = self.load.count() + more;
        until("more acknowledgements", PATIENCE, async || {
            let count = self.load.count();
            (count >= goal)
                .then_some(())
                .ok_or(format!("{count} of {goal}"))
        })
        .await;
    }

    /// Ends the load and compares. Gives the events for what else the story asks of them.
    async fn compare(self) -> (Suite, Vec<Stored>) {
        let Self { suite, hosts, load } = self;
        let client = suite.client();
        let acknowledged = load.stop().await;
        assert!(!acknowledged.is_empty());
        all_completed(&client, &acknowledged).await;
        let mut written = Vec::new();
        for host in &hosts {
            let path = suite.directory().join(format!("{}.record", host.address()));
            let text = std::fs::read_to_string(path).unwrap_or_default();
            written.extend(text.lines().map(done));
        }
        let events = suite.events().await;
        record::assert_sound(&events);
        agree(&events, &acknowledged, &written);
        (suite, events)
    }
}

/// Each acknowledged start has a transaction of its own, which completed and has its input still.
async fn all_completed(client: &Client, acknowledged: &BTreeMap<String, String>) {
    let mut keys = BTreeMap::new();
    for (key, id) in acknowledged {
        let other = keys.insert(id, key);
        assert_eq!(other, None, "{id} was given to two keys");
        let ended = client.wait_for_end(id, PATIENCE).await;
        let ended = ended.unwrap_or_else(|error| panic!("{id} was acknowledged: {error}"));
        let state = ended.state();
        assert_eq!(state, TransactionState::Completed, "{id}: {ended:?}");
        let input = payload::value(&ended.input.expect("an input")).expect("JSON");
        let padding = input["padding"].as_str().expect("a text");
        assert_eq!(input["data"], **key, "the input of {id}");
        assert!(
            padding == key.repeat(padding.len() / key.len()),
            "the input of {id} has changed"
        );
    }
}

/// A command as a host wrote it down: transaction, step, attempt.
type Done = (String, String, u32);

/// Reads `transaction/step/do#attempt`.
fn done(line: &str) -> Done {
    let (place, attempt) = line.rsplit_once('#').expect("an attempt");
    let mut parts = place.split('/');
    let transaction = parts.next().expect("a transaction").to_owned();
    let step = parts.next().expect("a step");
    let step = step.split('[').next().unwrap_or(step).to_owned();
    (transaction, step, attempt.parse().expect("a number"))
}

/// The log, the acknowledgements and the hosts' own record say the same.
fn agree(events: &[Stored], acknowledged: &BTreeMap<String, String>, written: &[Done]) {
    let stories = record::stories(events);
    for id in acknowledged.values() {
        let story = &stories[&TransactionId::parse(id).expect("an id")];
        assert_eq!(story.ends.len(), 1, "{id}");
        assert_eq!(story.completions.len(), STEPS.len(), "{id}");
    }
    let unique: BTreeSet<_> = written.iter().collect();
    assert_eq!(
        unique.len(),
        written.len(),
        "an attempt was given out more than once"
    );
    let mut dispatched = BTreeSet::new();
    let mut completed = 0;
    for (id, story) in &stories {
        for (step, _, attempt, what) in &story.commands {
            let command = (id.to_string(), step.clone(), *attempt);
            if matches!(what, CommandEvent::Completed { .. }) {
                assert!(unique.contains(&command), "nobody did {command:?}");
                completed += 1;
            }
            if matches!(what, CommandEvent::Dispatched) {
                dispatched.insert(command);
            }
        }
    }
    assert!(completed >= acknowledged.len() * STEPS.len());
    for command in unique {
        assert!(
            dispatched.contains(command),
            "{command:?} was done, and the log knows nothing of it"
        );
    }
}
