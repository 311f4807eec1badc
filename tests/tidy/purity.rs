//! Where time, chance, I/O and the wire may not come: what replay and refold run through.

use crate::tree::{assert_none, rust_files};

const PURE: [&str; 6] = [
    "services/orchestrator/src/engine",
    "services/orchestrator/src/dispatch.rs",
    "services/orchestrator/src/sessions/table.rs",
    "services/orchestrator/src/sessions/quarantine.rs",
    "services/orchestrator/src/sessions/remembered.rs",
    "services/monitor/src/folds",
];

/// What must not occur, and why.
const FORBIDDEN: [(&str, &str); 15] = [
    ("async ", "state changes without waiting"),
    (".await", "state changes without waiting"),
    ("Instant::now", "time is an argument"),
    ("SystemTime", "time is an argument"),
    ("Clock", "time is an argument"),
    ("rand::", "chance is drawn outside and stands in the event"),
    ("RandomState", "order must be the same at each replay"),
    ("channel(", "effects are data"),
    ("mpsc", "effects are data"),
    ("tokio", "no runtime is needed to decide"),
    ("tonic", "the wire ends in proto/src/convert.rs"),
    ("wire::", "the wire ends in proto/src/convert.rs"),
    ("std::fs", "only the log and the stores touch files"),
    ("std::thread", "one thread decides"),
    ("Mutex", "one thread decides"),
];

#[test]
fn what_decides_and_folds_is_pure() {
    let files = rust_files(&PURE);
    assert!(files.len() >= PURE.len(), "the pure modules were not found");
    let mut found = Vec::new();
    for file in files.iter().filter(|file| !file.is_test()) {
        for (number, line) in file.code() {
            for (word, why) in FORBIDDEN {
                if line.contains(word) {
                    found.push(format!("{}:{number}: {word:?}: {why}", file.path));
                }
            }
        }
    }
    assert_none("impure lines in pure modules", &found);
}

#[test]
fn kit_and_eventlog_know_nothing_of_the_domain() {
    let words = ["workflow", "transaction", "compensat"];
    let mut found = Vec::new();
    for file in rust_files(&["services/kit/src", "services/eventlog/src"]) {
        if file.is_test() {
            continue;
        }
        for (number, line) in file.code() {
            let line = line.to_lowercase();
            for word in words.iter().filter(|word| line.contains(**word)) {
                found.push(format!("{}:{number}: {word}", file.path));
            }
        }
    }
    assert_none("words of the domain", &found);
}
