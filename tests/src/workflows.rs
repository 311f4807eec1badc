//! The workflows of the stories.

use std::path::Path;
use std::time::Duration;

use multiagents_client::{Client, Retry, Step, Workflow};

/// Registers the ones that the repository ships, and the stories' own.
pub async fn register(client: &Client) {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/workflows");
    let mut count = 0;
    for entry in std::fs::read_dir(&shipped).expect("the shipped workflows") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("a workflow file");
        let registered = client.register_yaml(text).await;
        registered.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        count += 1;
    }
    assert!(count > 0, "no workflow is shipped");
    for workflow in [three_noops(), two_fast(), one_slow()] {
        client.register(workflow).await.expect("a story's workflow");
    }
}

/// Three steps that do nothing, one after the other.
pub fn three_noops() -> Workflow {
    Workflow::new("three_noops")
        .step(("first", "noop"))
        .step(("second", "noop"))
        .step(("third", "noop"))
}

/// Two steps that share a worker.
fn two_fast() -> Workflow {
    Workflow::new("two_fast")
        .step(("one", "fast_processor"))
        .step(("two", "fast_processor"))
}

/// One step that takes a while, and is given to another host when its own dies.
fn one_slow() -> Workflow {
    let step = Step::new("slow", "slow_processor").retry(Retry::attempts(1).max_deliveries(10));
    Workflow::new("one_slow").step(step.timeout(Duration::from_secs(60)))
}
