//! `multiagents backup` and `restore`: taken under load, killed in between, and started from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use multiagents_client::{Client, Start};
use proto::batch::Stored;
use proto::wire::TransactionState;
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::chance::Chance;
use tests::load::Load;
use tests::process::{Process, binary, free_port};
use tests::rounds::{progress, rounds};
use tests::wait::{PATIENCE, until};
use tests::{Suite, record};
use tokio::process::{Child, Command};

/// Enough of a log for a kill to find its backup unfinished.
const FILLERS: usize = 40;
const FILLER_BYTES: usize = 400_000;

fn multiagents(suite: &Suite, words: &[&str]) -> Command {
    let mut command = Command::new(binary("multiagents"));
    command
        .args(words)
        .env("MULTIAGENTS_ORCHESTRATOR", suite.orchestrator.address())
        .current_dir(suite.directory())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn run(suite: &Suite, words: &[&str]) -> Output {
    let output = multiagents(suite, words).output();
    let output = tokio::time::timeout(PATIENCE, output).await;
    output.expect("it ends in time").expect("it runs")
}

async fn told(suite: &Suite, words: &[&str]) -> Value {
    let output = run(suite, words).await;
    assert!(output.status.success(), "{words:?}: {output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

async fn fill(client: &Client) {
    let filler = json!({ "data": "x".repeat(FILLER_BYTES) });
    for _ in 0..FILLERS {
        let start = Start::new("three_noops").input(&filler).expect("an object");
        client.begin(start).await.expect("it starts");
    }
}

fn size(path: &Path) -> u64 {
    path.metadata().map_or(0, |metadata| metadata.len())
}

/// kill -9 once `reached` says so, or its own end.
async fn kill_when(mut child: Child, what: &str, reached: impl Fn() -> bool) -> bool {
    let killed = until(what, PATIENCE, async || {
        let ended = child.try_wait().expect("its state can be asked");
        match ended {
            Some(_) => Ok(false),
            None if reached() => Ok(true),
            None => Err("not yet".to_owned()),
        }
    })
    .await;
    child.start_kill().ok();
    child.wait().await.expect("it is gone");
    killed
}

/// A backup under load, with others killed while they were written.
async fn backup_with_kills(suite: &Suite, chance: &mut Chance) -> (PathBuf, Value) {
    let whole = told(suite, &["backup", "first.backup", "--json"]).await;
    let bytes = whole["size_bytes"].as_u64().expect("a size");
    let path = suite.directory().join("killed.backup");
    let partial = suite.directory().join("killed.backup.partial");
    let kills = rounds(5, 60);
    for kill in 0..kills {
        progress("backups killed", kill, kills);
        let child = multiagents(suite, &["backup", "killed.backup"]).spawn();
        let goal = chance.below(bytes);
        kill_when(child.expect("it starts"), "the backup to go on", || {
            size(&partial) >= goal || path.exists()
        })
        .await;
        if path.exists() {
            // It was whole before it was killed; then it is a backup.
            let checked = run(suite, &["restore", "--check", "killed.backup"]).await;
            assert!(checked.status.success(), "{checked:?}");
            std::fs::remove_file(&path).expect("it was there");
        } else if size(&partial) > 0 {
            let name = "killed.backup.partial";
            let refused = run(suite, &["restore", "--check", name]).await;
            let said = String::from_utf8_lossy(&refused.stderr);
            // Every byte may have been there, and the name not yet.
            let whole = size(&partial) >= bytes && refused.status.success();
            assert!(whole || refused.status.code() == Some(2), "{said}");
            assert!(whole || said.contains(name), "{said}");
        }
    }
    let told = told(suite, &["backup", "killed.backup", "--json"]).await;
    assert!(!partial.exists(), "what a killed one left is overwritten");
    let again = run(suite, &["backup", "killed.backup"]).await;
    assert_eq!(again.status.code(), Some(1), "no backup is overwritten");
    (path, told)
}

/// The orchestrator's own restore, killed again and again; what it leaves is never started from.
async fn restore_with_kills(suite: &Suite, backup: &Path, data: &Path, chance: &mut Chance) {
    let log = data.join("log");
    let marked = || log.join("RESTORING").exists();
    let copied = || {
        let entries = std::fs::read_dir(&log).into_iter().flatten().flatten();
        entries.map(|entry| size(&entry.path())).sum::<u64>()
    };
    let kills = rounds(5, 60);
    for kill in 0..kills {
        progress("restores killed", kill, kills);
        let child = Command::new(binary("multiagents-orchestrator"))
            .arg("--data-dir")
            .arg(data)
            .arg("restore")
            .arg(backup)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let goal = chance.below(size(backup));
        let killed = kill_when(child.expect("it starts"), "the restore to go on", || {
            marked() && copied() >= goal
        })
        .await;
        if !marked() {
            assert!(!killed || log.join("HEAD").exists());
            std::fs::remove_dir_all(data).expect("it can begin again");
            continue;
        }
        let address = format!("127.0.0.1:{}", free_port());
        let mut half = Process::new("multiagents-orchestrator", suite.directory(), &address)
            .arguments(["--listen", &address])
            .arguments(["--data-dir", &data.display().to_string()]);
        half.start();
        let ended = half.ended(PATIENCE).await;
        assert_eq!(ended.code(), Some(74), "{}", half.printed());
        let why = "holds a restore that did not come to its end";
        assert!(half.printed().contains(why), "{}", half.printed());
    }
}

/// Everything that was acknowledged before, and not one that wasn't there.
async fn assert_is_prefix(suite: &Suite, before: &[Stored], next: u64) {
    let after = suite.events().await;
    let kept = usize::try_from(next).expect("few events");
    for (old, new) in before[..kept].iter().zip(&after) {
        assert_eq!((old.offset, &old.event), (new.offset, &new.event));
    }
    record::assert_sound(&after);
}

#[tokio::test]
async fn a_backup_taken_under_load_restores_all_that_it_holds_and_nothing_else() {
    let mut chance = Chance::new();
    let mut suite = Suite::start().await;
    let client = suite.client();
    let load = Load::start(&client, 4, "three_noops");
    fill(&client).await;
    let before = load.acknowledged();
    let (backup, answer) = backup_with_kills(&suite, &mut chance).await;
    let count = load.count();
    until("work to go on behind it", PATIENCE, async || {
        (load.count() > count)
            .then_some(())
            .ok_or("nothing more")
            .map_err(str::to_owned)
    })
    .await;
    load.stop().await;
    let next = answer["next_offset"].as_u64().expect("an offset");
    let events = suite.events().await;
    assert!(events.len() as u64 > next, "the future that will be lost");
    suite.monitor_caught_up().await;
    let cursor = last_cursor(&client).await;

    // Everything burns down but the backup.
    suite.orchestrator.kill();
    let data = suite.directory().join("orchestrator");
    std::fs::remove_dir_all(&data).expect("it was there");
    restore_with_kills(&suite, &backup, &data, &mut chance).await;
    let words = ["restore", "killed.backup", "--data-dir", ".", "--json"];
    let restored = told(&suite, &words).await;
    assert_eq!(restored["next_offset"], next);
    assert_eq!(restored["lost_events"], 0);
    let refused = run(&suite, &words[..4]).await;
    assert_eq!(refused.status.code(), Some(1), "no data is overwritten");

    suite.orchestrator.start_ready().await;
    assert_is_prefix(&suite, &events, next).await;
    all_end_well(&client, &before).await;
    let lost = client
        .read_log(&cursor, false)
        .await
        .expect_err("it is of another future");
    assert_eq!(lost.reason(), "CURSOR_AHEAD");
    assert_eq!(lost.code(), tonic::Code::DataLoss);

    // The monitor had seen that future; it says so, and then follows this one.
    let ended = client
        .execute_and_wait("three_noops", &json!({}), PATIENCE)
        .await;
    assert_eq!(
        ended.expect("it starts").state(),
        TransactionState::Completed
    );
    suite.monitor_caught_up().await;
}

async fn all_end_well(client: &Client, acknowledged: &BTreeMap<String, String>) {
    assert!(!acknowledged.is_empty());
    for id in acknowledged.values() {
        let ended = client
            .wait_for_end(id, PATIENCE)
            .await
            .expect("it is known");
        assert_eq!(ended.state(), TransactionState::Completed, "{id}");
    }
}

async fn last_cursor(client: &Client) -> String {
    let mut stream = client.read_log("", false).await.expect("the log opens");
    let mut cursor = String::new();
    while let Some(message) = stream.message().await.expect("the log reads on") {
        cursor = message.cursor;
    }
    cursor
}

#[tokio::test]
async fn a_damaged_backup_is_refused_by_name_or_restored_with_the_loss_stated() {
    let suite = Suite::builder().without_monitor().start().await;
    let client = suite.client();
    for number in 0..20 {
        let input = json!({ "number": number });
        let ended = client
            .execute_and_wait("three_noops", &input, PATIENCE)
            .await;
        ended.expect("it runs");
    }
    told(&suite, &["backup", "good", "--json"]).await;
    let good = std::fs::read(suite.directory().join("good")).expect("it is there");
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(suite.directory().join(name), bytes).expect("room");
    };
    let mut rotten = good.clone();
    let middle = good.len() / 2;
    rotten[middle] ^= 4;
    write("cut", &good[..middle]);
    write("rotten", &rotten);
    write("none", b"no backup at all");
    for (name, why) in [
        ("cut", "is not a whole backup"),
        ("rotten", "is damaged at byte"),
        ("none", "is no backup"),
        ("missing", "can't be read"),
    ] {
        let data = format!("data-{name}");
        let refused = run(&suite, &["restore", name, "--data-dir", &data]).await;
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{name}: {said}");
        assert!(said.contains(name) && said.contains(why), "{name}: {said}");
        let data = suite.directory().join(data);
        assert!(!data.exists(), "{name}: nothing was begun");
    }
    for name in ["cut", "rotten"] {
        let data = format!("restored-{name}");
        let words = ["restore", name, "--data-dir", &data, "--accept-loss"];
        let output = run(&suite, &words).await;
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("events are lost"), "{said}");
        let address = format!("127.0.0.1:{}", free_port());
        let mut shorter = Process::new("multiagents-orchestrator", suite.directory(), &address)
            .arguments(["--listen", &address])
            .arguments(["--data-dir", &format!("{data}/orchestrator")]);
        shorter.start_ready().await;
        let kept = record::read(&Client::lazy(&address).expect("an address")).await;
        let all = suite.events().await;
        let same = kept
            .iter()
            .zip(&all)
            .take_while(|(a, b)| a.event == b.event);
        let same = same.count();
        assert!(same > 10 && same < all.len(), "{same} of {}", all.len());
    }
}

/// Who stops the orchestrator in the middle gets no file, and is told.
#[tokio::test]
async fn a_backup_that_the_orchestrator_does_not_finish_is_none() {
    let mut suite = Suite::builder().without_monitor().start().await;
    fill(&suite.client()).await;
    let partial = suite.directory().join("none.partial");
    let child = multiagents(&suite, &["backup", "none"])
        .spawn()
        .expect("it starts");
    let (cli, pid) = (child.id().expect("it runs"), suite.orchestrator.id());
    // Stopped, it takes no more; so the orchestrator's pieces have to wait.
    until("it to have begun", PATIENCE, async || {
        (size(&partial) > 0)
            .then_some(())
            .ok_or_else(|| "nothing yet".to_owned())
    })
    .await;
    signal(cli, Signal::STOP);
    suite.orchestrator.kill();
    assert_ne!(pid, cli);
    signal(cli, Signal::CONT);
    let output = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output()).await;
    let output = output.expect("it ends").expect("it ran");
    if output.status.success() {
        // It was faster.
        suite.orchestrator.start_ready().await;
        let checked = run(&suite, &["restore", "--check", "none"]).await;
        assert!(checked.status.success(), "{checked:?}");
    } else {
        assert!(!suite.directory().join("none").exists());
        assert!(!partial.exists(), "what is no backup is removed");
    }
}

fn signal(id: u32, signal: Signal) {
    let id = i32::try_from(id)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(id.expect("an id"), signal).expect("it runs");
}
