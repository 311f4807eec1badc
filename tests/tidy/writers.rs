//! Who writes: one hand on the log of record, and few that open data files.

use crate::tree::{assert_none, rust_files};

/// Whether a line appends to a log. A Vec's own `append` takes another Vec, and the journal's takes
/// nothing.
fn appends(line: &str) -> bool {
    line.contains(".append(") && !line.contains(".append(&mut ") && !line.contains(".append()")
}

#[test]
fn only_the_journal_appends_to_the_log_of_record() {
    let mut found = Vec::new();
    for file in rust_files(&["services/orchestrator/src"]) {
        if file.is_test() || file.path.ends_with("/journal.rs") {
            continue;
        }
        for (number, line) in file.code() {
            if appends(line) {
                found.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    assert_none("appends outside the journal", &found);
}

#[test]
fn one_hand_appends_to_the_monitors_log() {
    let mut writers = Vec::new();
    for file in rust_files(&["services/monitor/src"]) {
        if file.code().any(|(_, line)| appends(line)) && !file.is_test() {
            writers.push(file.path.clone());
        }
    }
    assert_eq!(writers, ["services/monitor/src/recorder.rs"]);
}

#[test]
fn only_the_log_and_the_stores_open_data_files() {
    let words = [
        "std::fs",
        "tokio::fs",
        "rusqlite::",
        "File::",
        "OpenOptions",
        "SegmentLog::open",
    ];
    let may = |path: &str, word: &str, line: &str| {
        let name = path.rsplit('/').next().unwrap_or(path);
        // The stores; `lib.rs` opens the log once and hands it over.
        path.contains("/store/")
            || name == "store.rs"
            || (word == "SegmentLog::open" && name == "lib.rs")
            // Finding what a person wrote: configuration and workflow files.
            || name == "config.rs"
            || (word == "std::fs" && name == "lib.rs" && line.contains("read_dir"))
    };
    let mut found = Vec::new();
    for file in rust_files(&["services/orchestrator/src", "services/monitor/src"]) {
        if file.is_test() {
            continue;
        }
        for (number, line) in file.code() {
            for word in words.iter().filter(|word| line.contains(**word)) {
                if !may(&file.path, word, line) {
                    found.push(format!("{}:{number}: {}", file.path, line.trim()));
                }
            }
        }
    }
    assert_none("files opened elsewhere", &found);
}
