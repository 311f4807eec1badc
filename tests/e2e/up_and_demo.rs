//! The command line, as people and scripts use it: `up`, the demonstrations, and each question.

use std::process::Output;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tests::process::{Process, binary, free_port};
use tests::wait::{PATIENCE, until};
use tests::{Suite, http};
use tokio::process::Command;

/// Runs `multiagents` with these words, pointed at the suite.
async fn cli(suite: &Suite, words: &[&str]) -> Output {
    let run = Command::new(binary("multiagents"))
        .args(words)
        .env("MULTIAGENTS_ORCHESTRATOR", suite.orchestrator.address())
        .env("MULTIAGENTS_MONITOR", suite.monitor.address())
        .current_dir(suite.directory())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, run).await;
    output.expect("it ends in time").expect("it runs")
}

/// What it printed, having succeeded.
async fn told(suite: &Suite, words: &[&str]) -> String {
    let output = cli(suite, words).await;
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{words:?}: {printed}{errors}"
    );
    printed
}

fn lines(printed: &str) -> Vec<Value> {
    let parse = |line| serde_json::from_str(line).expect("a JSON object a line");
    printed.lines().map(parse).collect()
}

/// `multiagents up` in a directory of its own.
struct Up {
    process: Process,
    directory: tempfile::TempDir,
    ports: [u16; 3],
}

impl Up {
    async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let ports = [free_port(), free_port(), free_port()];
        let mut process = Self::process(&directory, ports);
        process.start();
        let up = Self {
            process,
            directory,
            ports,
        };
        until("the suite to be up", PATIENCE, async || {
            let printed = up.process.printed();
            printed
                .contains("multiagents is up")
                .then_some(())
                .ok_or(printed)
        })
        .await;
        up
    }

    fn process(directory: &tempfile::TempDir, ports: [u16; 3]) -> Process {
        let address = format!("127.0.0.1:{}", ports[0]);
        Process::new("multiagents", directory.path(), &address)
            .arguments(["up", "--data-dir", "data"])
            .arguments(["--orchestrator-port".to_owned(), ports[0].to_string()])
            .arguments(["--worker-host-port".to_owned(), ports[1].to_string()])
            .arguments(["--monitor-port".to_owned(), ports[2].to_string()])
    }

    /// The services that answer.
    async fn answering(&self) -> usize {
        let mut count = 0;
        for port in self.ports {
            let answer = http::get(&format!("127.0.0.1:{port}"), "/healthz").await;
            count += usize::from(answer.is_ok());
        }
        count
    }

    /// The process ids of the services.
    fn children(&self) -> Vec<u32> {
        let id = self.process.id();
        let mut children = Vec::new();
        for task in std::fs::read_dir(format!("/proc/{id}/task"))
            .expect("its threads")
            .flatten()
        {
            let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            children.extend(
                text.split_whitespace()
                    .filter_map(|id| id.parse::<u32>().ok()),
            );
        }
        children
    }
}

#[tokio::test]
async fn up_starts_all_three_and_one_interrupt_stops_them_in_order() {
    let mut up = Up::start().await;
    assert_eq!(up.answering().await, 3);
    assert_eq!(up.children().len(), 3, "three processes of their own");

    let mut second = Up::process(&up.directory, [free_port(), free_port(), free_port()]);
    second.start();
    let refused = second.ended(PATIENCE).await;
    assert_eq!(refused.code(), Some(75), "{}", second.printed());
    assert!(second.printed().contains("in use"), "{}", second.printed());
    assert_eq!(up.answering().await, 3, "the first one isn't disturbed");

    up.process.signal(Signal::INT);
    let status = up.process.ended(PATIENCE).await;
    assert_eq!(status.code(), Some(0), "{}", up.process.printed());
    assert_eq!(up.answering().await, 0);

    // What it left can be started again.
    up.process.start_ready().await;
    up.process.signal(Signal::TERM);
    let status = up.process.ended(PATIENCE).await;
    assert_eq!(status.code(), Some(0), "{}", up.process.printed());
}

#[tokio::test]
async fn a_service_that_dies_takes_the_rest_down_with_a_sentence() {
    let mut up = Up::start().await;
    let victim = i32::try_from(up.children()[0]).expect("an id");
    let victim = rustix::process::Pid::from_raw(victim).expect("an id");
    rustix::process::kill_process(victim, Signal::KILL).expect("it can be killed");
    let status = up.process.ended(PATIENCE).await;
    assert_eq!(status.code(), Some(1), "{}", up.process.printed());
    let printed = up.process.printed();
    let last = printed.lines().last().unwrap_or_default();
    assert!(last.len() > 20, "a sentence: {printed}");
    assert_eq!(up.answering().await, 0);
}

/// What `make run` runs, but for the long look at the machine.
#[tokio::test]
async fn the_demonstrations_print_what_the_page_prints() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut demo = Process::new("multiagents", directory.path(), "127.0.0.1:1")
        .arguments(["demo", "--up", "--quick"]);
    let started = Instant::now();
    demo.start();
    until(
        "the first workflow to finish",
        Duration::from_secs(20),
        async || {
            let printed = demo.printed();
            printed
                .contains("State: completed")
                .then_some(())
                .or(
                    // Its third step fails three times out of ten.
                    printed.contains("State: failed").then_some(()),
                )
                .ok_or(printed)
        },
    )
    .await;
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
    let status = demo.ended(Duration::from_secs(120)).await;
    let printed = demo.printed();
    assert_eq!(status.code(), Some(0), "{printed}");

    let mut rest = printed.as_str();
    for part in [
        "EVENT LIFECYCLE TRACKING DEMO",
        "==================================================",
        "State: ",
        " | Events: ",
        " | Latency: ",
        "Event Trace:",
        "-> queued",
        "-> dispatched",
        "-> completed",
        "WORKER PERFORMANCE DEMO",
        "Worker Performance Analysis:",
        "fast_processor:",
        "  Executions: ",
        "  Success Rate: 100.0%",
        "  Avg Duration: ",
        "  P95 Duration: ",
        "  Error Rate: 0.0%",
        "  Health: ",
        "slow_processor:",
        "flaky_processor:",
        "ERROR MONITORING DEMO",
        "Error Analysis:",
        "Total Events: ",
        "Error Rate: ",
        "Success Rate: ",
        "Flaky Processor:",
        "  Error Rate: ",
        "  Failed Executions: ",
    ] {
        let at = rest
            .find(part)
            .unwrap_or_else(|| panic!("{part:?} is missing after:\n{printed}"));
        rest = &rest[at + part.len()..];
    }
    for part in ["CPU", "Memory", "Active Connections", "Peak"] {
        assert!(rest.contains(part), "{part:?} is missing in:\n{rest}");
    }
    assert_begins_as_the_readme_says(&printed);
    assert!(!printed.contains('\u{1b}'), "no colours off a terminal");
    assert!(
        !printed.contains("NaN") && !printed.contains("inf"),
        "{printed}"
    );
}

/// The README's transcript is true: each of its lines comes, in its order, whatever the figures are.
fn assert_begins_as_the_readme_says(printed: &str) {
    let readme = include_str!("../../README.md");
    let (_, after) = readme
        .split_once("## What you then see")
        .expect("the section");
    let transcript = after.split("```").nth(1).expect("the transcript");
    let mut lines = printed.lines().map(shape);
    for told in transcript
        .lines()
        .skip(1)
        .filter(|line| !line.trim().is_empty())
    {
        let told = shape(told);
        // What stands for any text: the pieces around it come in their order.
        let matches = |line: &String| {
            let mut rest = line.as_str();
            told.split('…').all(|piece| match rest.find(piece) {
                Some(at) => {
                    rest = &rest[at + piece.len()..];
                    true
                }
                None => false,
            })
        };
        assert!(
            lines.any(|line| matches(&line)),
            "{told:?} doesn't come:\n{printed}"
        );
    }
}

/// A line without what differs from run to run: figures, and how the flaky step came out.
fn shape(line: &str) -> String {
    let mut shape = String::new();
    for character in line.chars() {
        match character {
            digit if digit.is_ascii_digit() || (digit == '.' && shape.ends_with('#')) => {
                if !shape.ends_with('#') {
                    shape.push('#');
                }
            }
            other => shape.push(other),
        }
    }
    let state = shape
        .strip_prefix("State: ")
        .and_then(|rest| rest.split_once(' '));
    match state {
        Some((_, rest)) => format!("State: {rest}"),
        None => shape,
    }
}

#[tokio::test]
async fn every_question_has_an_answer_for_people_and_one_for_programs() {
    let suite = Suite::start().await;
    let words = [
        "run",
        "two_fast",
        "--input",
        r#"{"data":"x"}"#,
        "--wait",
        "--json",
    ];
    let run = &lines(&told(&suite, &words).await)[0];
    let id = run["transaction_id"].as_str().expect("an id").to_owned();
    suite.monitor_caught_up().await;
    for (words, expected) in [
        (vec!["status", &id], "two_fast"),
        (vec!["list"], &id),
        (vec!["trace", &id], "one"),
        (vec!["events"], "transaction_completed"),
        (vec!["workers"], "fast_processor"),
        (vec!["workers", "fast_processor"], "fast_processor"),
        (vec!["errors"], ""),
        (vec!["alerts"], ""),
        (vec!["metrics"], "100.0"),
        (vec!["workflows"], "simple_monitoring"),
        (vec!["verify"], ""),
    ] {
        let printed = told(&suite, &words).await;
        assert!(
            printed.contains(expected),
            "{words:?}: {expected:?} isn't in:\n{printed}"
        );
        assert!(
            !printed.contains('\u{1b}'),
            "{words:?}: no colours off a terminal"
        );
        let mut json = words.clone();
        json.push("--json");
        for line in lines(&told(&suite, &json).await) {
            assert!(line.is_object(), "{words:?}: {line}");
        }
    }
}

#[tokio::test]
async fn exit_codes_tell_scripts_what_happened() {
    let suite = Suite::start().await;
    let code = async |words: &[&str]| {
        let output = cli(&suite, words).await;
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), printed)
    };
    let (refused, sentence) = code(&["run", "three_nops"]).await;
    assert_eq!(refused, Some(1), "{sentence}");
    assert!(sentence.contains("WORKFLOW_NOT_FOUND") && sentence.contains("three_noops"));
    assert_eq!(code(&["run", "three_noops", "--wait"]).await.0, Some(0));
    assert_eq!(
        code(&["run", "three_noops", "--input", "[1"]).await.0,
        Some(2)
    );
    assert_eq!(code(&["nonsense"]).await.0, Some(2));
    std::fs::write(suite.directory().join("bad.yaml"), "name: w\nstepz: []\n").expect("a file");
    let (invalid, sentence) = code(&["register", "bad.yaml"]).await;
    assert_eq!(invalid, Some(2), "{sentence}");
    assert!(sentence.contains("steps"), "the nearest key: {sentence}");
    let nobody = format!("127.0.0.1:{}", free_port());
    let (unreachable, sentence) = code(&["list", "--orchestrator", &nobody]).await;
    assert_eq!(unreachable, Some(69), "{sentence}");
    assert!(
        sentence.contains(&nobody) && sentence.contains("multiagents up"),
        "{sentence}"
    );
}

/// `| head` ends the pipe; that is no error worth a word.
#[tokio::test]
async fn a_reader_that_goes_away_is_no_panic() {
    let suite = Suite::start().await;
    let client = suite.client();
    for _ in 0..50 {
        client
            .start("three_noops", &serde_json::json!({}))
            .await
            .expect("it starts");
    }
    suite.monitor_caught_up().await;
    let line = format!(
        "'{}' events --follow | head -n 3",
        binary("multiagents").display()
    );
    let run = Command::new("bash")
        .args(["-c", &line])
        .env("MULTIAGENTS_MONITOR", suite.monitor.address())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, run)
        .await
        .expect("it ends")
        .expect("it runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 3);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

/// What a client chose is shown, and moves no cursor.
#[tokio::test]
async fn control_characters_are_made_visible() {
    let suite = Suite::start().await;
    let words = [
        "run",
        "three_noops",
        "--label",
        "note=a\u{1b}[2Jb\u{202e}",
        "--wait",
    ];
    told(&suite, &words).await;
    for words in [
        vec!["list"],
        vec!["list", "--label", "note=a\u{1b}[2Jb\u{202e}"],
    ] {
        let printed = told(&suite, &words).await;
        assert!(
            !printed.contains('\u{1b}') && !printed.contains('\u{202e}'),
            "{printed:?}"
        );
    }
}
