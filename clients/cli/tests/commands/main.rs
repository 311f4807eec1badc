//! The command line as scripts meet it: the binary itself against a suite that answers by rote.
#![expect(clippy::unwrap_used, reason = "tests")]

mod fake;

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use fake::{Fake, ID};
use serde_json::Value;

fn command(address: &str, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_multiagents"));
    command
        .args(words)
        .env("MULTIAGENTS_ORCHESTRATOR", address)
        .env("MULTIAGENTS_MONITOR", address)
        .stdin(Stdio::null());
    command
}

async fn run(address: &str, words: &[&str]) -> Output {
    let mut command = command(address, words);
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_an_end_exits_by_how_it_ended() {
    let fake = Fake::default();
    let address = fake.serve().await;
    for (workflow, wait, code, state) in [
        ("completes", "10s", 0, "completed"),
        ("fails", "10s", 1, "failed"),
        ("hangs", "200ms", 1, "running"),
    ] {
        let words = ["run", workflow, "--wait", wait, "--json"];
        let ended = run(&address, &words).await;
        assert_eq!(ended.status.code(), Some(code), "{workflow}: {ended:?}");
        let json: Value = serde_json::from_slice(&ended.stdout).unwrap();
        assert_eq!(json["transaction"]["state"], state);
        assert_eq!(json["transaction_id"], ID);
        assert_eq!(
            json["transaction"]["input"].to_string(),
            r#"{"big":12345678901234567890}"#
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_is_passed_on_as_it_was_typed() {
    let fake = Fake::default();
    let address = fake.serve().await;
    let words = [
        "run",
        "completes",
        "--input",
        "{\"a\": 1.0}",
        "--key",
        "k1",
        "--label",
        "team=shop",
        "--version",
        "3",
    ];
    let ended = run(&address, &words).await;
    assert_eq!(text(&ended.stdout), format!("{ID}\n"));
    let start = fake.starts.lock().unwrap().pop().unwrap();
    assert_eq!(start.idempotency_key, "k1");
    assert_eq!(start.version, 3);
    assert_eq!(start.labels["team"], "shop");
    assert_eq!(
        start.payload,
        Some(proto::wire::execute_workflow_request::Payload::InputJson(
            "{\"a\": 1.0}".into()
        ))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_a_sentence_with_reason_and_remedy_and_exits_with_1() {
    let address = Fake::default().serve().await;
    let refused = run(&address, &["run", "ordr"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(text(&refused.stdout), "");
    assert_eq!(
        text(&refused.stderr),
        "multiagents: no workflow is called \"ordr\"; did you mean \"order\"? \
         (WORKFLOW_NOT_FOUND)\n  Remedy: register it, or take the name that is suggested.\n"
    );
    let refused = run(&address, &["trace", ID, "--json"]).await;
    assert_eq!(refused.status.code(), Some(1));
    let json: Value = serde_json::from_slice(&refused.stderr).unwrap();
    assert_eq!(json["error"]["reason"], "TRANSACTION_NOT_FOUND");
    assert_eq!(json["error"]["code"], "NOT_FOUND");
    // A call without a wrapper in the client says its reason all the same.
    let refused = run(&address, &["errors", "--window", "0"]).await;
    assert!(text(&refused.stderr).contains("WINDOW_INVALID"));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_listens_it_says_so_at_once_and_exits_with_69() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    for words in [
        &["list"][..],
        &["alerts"],
        &["events", "--follow"],
        &["demo"],
    ] {
        let refused = run(&address, words).await;
        assert_eq!(refused.status.code(), Some(69), "{words:?}");
        let said = text(&refused.stderr);
        assert!(
            said.contains(&address) && said.contains("multiagents up"),
            "{said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_and_invalid_files_exit_with_2() {
    let address = Fake::default().serve().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("orders.yaml");
    std::fs::write(&file, "name: orders\nsteps:\n  - retrys: 3\n").unwrap();
    let file = file.to_str().unwrap();
    for (words, says) in [
        (&["frobnicate"][..], "unrecognized subcommand"),
        (&["list", "--state", "done"], "completed"),
        (&["list", "--limit", "0"], "0 is not in 1.."),
        (&["register", file], "line 3, column 5"),
        (&["register", "/nowhere.yaml"], "No such file"),
        (&["run", "w", "--input", "@/nowhere.json"], "/nowhere.json"),
        (&["run", "picky", "--input", "[1"], "PAYLOAD_NOT_OBJECT"),
        (&["--orchestrator", "localhost", "list"], "host:port"),
    ] {
        let refused = run(&address, words).await;
        let said = text(&refused.stderr);
        assert!(said.contains(says), "{words:?}: {said}");
        assert_eq!(refused.status.code(), Some(2), "{words:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_cut_at_its_limit_and_pages_are_joined() {
    let address = Fake::default().serve().await;
    let listed = run(&address, &["list", "--limit", "7", "--json"]).await;
    assert_eq!(text(&listed.stdout).lines().count(), 7);
    for line in text(&listed.stdout).lines() {
        let json: Value = serde_json::from_str(line).unwrap();
        assert_eq!(json["transaction_id"], ID);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_differs_exits_with_1() {
    let address = Fake::default().serve().await;
    let verified = run(&address, &["verify"]).await;
    assert_eq!(verified.status.code(), Some(1));
    let said = text(&verified.stdout);
    assert!(said.contains("traces  differs"), "{said}");
    assert!(said.contains("rates   equal"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_ends_it_quietly() {
    let address = Fake::default().serve().await;
    let mut command = command(&address, &["events"]);
    let (status, line, said) = tokio::task::spawn_blocking(move || {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let mut said = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        (child.wait().unwrap(), line, said)
    })
    .await
    .unwrap();
    assert!(line.contains("fast\\u{1b}[2J"), "{line}");
    assert_eq!(status.code(), Some(0));
    assert_eq!(said, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_feed_goes_on_at_its_cursor_and_an_interrupt_prints_where_to_resume() {
    let fake = Fake::default();
    let address = fake.serve().await;
    let mut command = command(&address, &["events", "--follow"]);
    let (status, lines, said) = tokio::task::spawn_blocking(move || {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let reader = BufReader::new(child.stdout.take().unwrap());
        let lines: Vec<String> = reader.lines().take(4).map(Result::unwrap).collect();
        let pid = i32::try_from(child.id()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        let interrupted = Instant::now();
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let mut said = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        let status = child.wait().unwrap();
        assert!(interrupted.elapsed() < Duration::from_secs(5));
        (status, lines, said)
    })
    .await
    .unwrap();
    assert_eq!(lines.len(), 4);
    assert_eq!(status.code(), Some(0));
    assert!(said.contains("going away"), "{said}");
    assert!(
        said.contains("Go on with: multiagents events --from c4"),
        "{said}"
    );
    let feeds = fake.feeds.lock().unwrap();
    let cursors: Vec<&str> = feeds.iter().map(|feed| feed.cursor.as_str()).collect();
    assert_eq!(cursors, ["", "c2"]);
    assert_eq!(
        feeds[0].start(),
        proto::wire::FeedStart::Oldest,
        "it begins where it was told"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_is_refused_is_not_told_as_the_place_to_go_on_from() {
    let address = Fake::default().serve().await;
    let refused = run(&address, &["events", "--from", "forged"]).await;
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("CURSOR_INVALID"), "{said}");
    assert!(!said.contains("Go on with"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_says_how_the_transaction_stands() {
    let address = Fake::default().serve().await;
    let words = ["cancel", ID, "--reason", "twice", "--skip-compensation"];
    let cancelled = run(&address, &words).await;
    assert_eq!(
        text(&cancelled.stdout),
        format!("The cancellation of {ID} is durable; the transaction is running.\n")
    );
}
