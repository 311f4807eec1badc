//! Data files with their tail cut off or bits flipped: refused by name, or whole all the same.

use std::path::Path;

use multiagents_client::Client;
use proto::batch::Stored;
use serde_json::json;
use tests::chance::Chance;
use tests::process::{Process, free_port};
use tests::rounds::{progress, rounds};
use tests::wait::{PATIENCE, until};
use tests::{Suite, http, record};

#[tokio::test]
async fn a_spoilt_log_is_refused_by_name_and_never_read_wrongly() {
    let mut chance = Chance::new();
    let mut suite = Suite::builder()
        .without_monitor()
        .setting("orchestrator", "log.segment_bytes", "64KiB")
        .start()
        .await;
    let client = suite.client();
    for number in 0..60 {
        let input = json!({ "number": number, "data": "x".repeat(700) });
        let ended = client
            .execute_and_wait("three_noops", &input, PATIENCE)
            .await;
        ended.expect("it runs");
    }
    let events = suite.events().await;
    suite.orchestrator.kill();
    let log = suite.directory().join("orchestrator/log");
    let spoilings = rounds(8, 200);
    let mut refused = 0;
    for spoiling in 0..spoilings {
        progress("spoilt logs", spoiling, spoilings);
        let data = suite.directory().join(format!("spoilt-{spoiling}"));
        let told = spoil(&log, &data.join("log"), &mut chance);
        if let Some(printed) = refusal(&suite, &data, &events).await {
            let named = printed.contains(".seg") || printed.contains("HEAD");
            assert!(named, "{told}: it doesn't say what is wrong: {printed}");
            refused += 1;
        }
        std::fs::remove_dir_all(&data).expect("it was made");
    }
    assert!(refused > 0, "nothing was spoilt in earnest");
}

/// Copies the log and spoils one file of the copy; says how.
fn spoil(log: &Path, to: &Path, chance: &mut Chance) -> String {
    std::fs::create_dir_all(to).expect("a directory");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(log).expect("the log").flatten() {
        let name = entry.file_name().into_string().expect("UTF-8");
        std::fs::copy(entry.path(), to.join(&name)).expect("room");
        if name.ends_with(".seg") || name == "HEAD" {
            names.push(name);
        }
    }
    names.sort();
    let name = &names[chance.below(names.len() as u64) as usize];
    let path = to.join(name);
    let mut bytes = std::fs::read(&path).expect("it was copied");
    // Behind the last record there are zeros, where nothing can be spoilt.
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
    let at = chance.below(used as u64) as usize;
    let told = if chance.below(3) == 0 {
        bytes.truncate(at);
        format!("{name} cut at {at}")
    } else {
        let bit = chance.below(8);
        bytes[at] ^= 1 << bit;
        format!("{name} with bit {bit} of byte {at} flipped")
    };
    println!("{told}");
    std::fs::write(&path, &bytes).expect("room");
    told
}

/// What an orchestrator says that won't start from `data`. One that does start has every event.
async fn refusal(suite: &Suite, data: &Path, events: &[Stored]) -> Option<String> {
    let address = format!("127.0.0.1:{}", free_port());
    let mut process = Process::new("multiagents-orchestrator", suite.directory(), &address)
        .arguments(["--listen", &address])
        .arguments(["--data-dir", &data.display().to_string()]);
    process.start();
    let runs = until("it to start or to refuse", PATIENCE, async || {
        if !process.runs() {
            return Ok(false);
        }
        match http::get(&address, "/readyz").await {
            Ok(answer) if answer.status == 200 => Ok(true),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    if !runs {
        let status = process.ended(PATIENCE).await;
        let printed = process.printed();
        assert!(
            matches!(status.code(), Some(74 | 78)),
            "{status}: {printed}"
        );
        return Some(printed);
    }
    let read = record::read(&Client::lazy(&address).expect("an address")).await;
    assert!(
        read.len() > events.len(),
        "a shorter log was served as a healthy one"
    );
    for (was, is) in events.iter().zip(&read) {
        assert_eq!((was.offset, &was.event), (is.offset, &is.event));
    }
    None
}
