//! What README.md tells a reader to type, typed; what it shows, held against what is there.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use multiagents_client::wire;
use tests::Suite;
use tests::process::binary;
use tests::wait::PATIENCE;
use tokio::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn readme() -> String {
    std::fs::read_to_string(root().join("README.md")).expect("README.md")
}

/// The fenced blocks in one language.
fn blocks<'a>(readme: &'a str, language: &'a str) -> impl Iterator<Item = &'a str> {
    let inside = readme.split("```").skip(1).step_by(2);
    inside.filter_map(move |block| block.strip_prefix(language)?.strip_prefix('\n'))
}

/// Every `multiagents` command line of the section "A suite of your own", comments left out.
fn command_lines(readme: &str) -> Vec<String> {
    blocks(readme, "sh")
        .flat_map(str::lines)
        .filter_map(|line| line.strip_prefix("multiagents "))
        .map(|line| line.split("  #").next().unwrap_or(line).trim().to_owned())
        .filter(|line| !line.starts_with("up"))
        .collect()
}

/// A command line's words, single quotes taken off.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (at, part) in line.split('\'').enumerate() {
        if at % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

#[tokio::test]
async fn every_command_of_the_readme_works() {
    let suite = Suite::start().await;
    let readme = readme();
    let lines = command_lines(&readme);
    assert!(lines.len() >= 7, "the README shows commands: {lines:?}");
    // As if it were the repository, but with nothing left behind there.
    std::os::unix::fs::symlink(root().join("config"), suite.directory().join("config"))
        .expect("the workflows");
    let mut transaction = String::new();
    for line in lines {
        let line = line.replace("TRANSACTION", &transaction);
        // A feed that follows never ends by itself; what it replays is its answer here.
        let line = line.replace("events --follow", "events");
        let run = Command::new(binary("multiagents"))
            .args(words(&line))
            .env("MULTIAGENTS_ORCHESTRATOR", suite.orchestrator.address())
            .env("MULTIAGENTS_MONITOR", suite.monitor.address())
            .current_dir(suite.directory())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(PATIENCE, run).await;
        let output = output.expect("it ends in time").expect("it runs");
        let printed = String::from_utf8_lossy(&output.stdout);
        // The flaky worker may fail the transaction that `run` waits for, which `run` says by 1.
        let fine = match output.status.code() {
            Some(0) => true,
            Some(1) => line.starts_with("run ") && printed.contains("failed"),
            _ => false,
        };
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(fine && !printed.is_empty(), "{line}: {printed}{errors}");
        if line.starts_with("run ") {
            let listed = suite
                .client()
                .list(wire::ListTransactionsRequest::default())
                .await
                .expect("a list");
            transaction = listed.transactions[0].transaction_id.clone();
            suite.monitor_caught_up().await;
        }
    }
    assert!(!transaction.is_empty(), "the README starts a transaction");
}

#[tokio::test]
async fn the_workflow_of_the_readme_is_one() {
    let suite = Suite::builder().without_host().without_monitor();
    let suite = suite.start().await;
    let readme = readme();
    let yaml: Vec<&str> = blocks(&readme, "yaml").collect();
    assert_eq!(yaml.len(), 1, "one workflow in the README");
    let registered = suite.client().register_yaml(yaml[0]).await;
    let workflow = registered.expect("it is a workflow").workflow;
    assert_eq!(workflow.expect("as it is kept").steps.len(), 4);
}

#[test]
fn the_worker_of_the_readme_is_the_example() {
    let example = std::fs::read_to_string(root().join("clients/rust/examples/charge_card.rs"))
        .expect("the example");
    let example: Vec<&str> = example.lines().map(str::trim).collect();
    let readme = readme();
    let shown: Vec<&str> = blocks(&readme, "rust").flat_map(str::lines).collect();
    assert!(shown.len() > 3, "the README shows a worker");
    for line in shown {
        assert!(example.contains(&line.trim()), "not in the example: {line}");
    }
}
