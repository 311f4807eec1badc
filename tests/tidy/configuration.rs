//! Every key of a configuration file says what it is, and is read.

use crate::tree::{assert_none, files, rust_files};

/// The services' own files, and where they are read.
const FILES: [(&str, &[&str]); 3] = [
    (
        "config/orchestrator.yaml",
        &["services/orchestrator/src", "services/kit/src"],
    ),
    (
        "config/worker-host.yaml",
        &["services/worker-host/src", "services/kit/src"],
    ),
    (
        "config/monitor.yaml",
        &["services/monitor/src", "services/kit/src"],
    ),
];

/// A key with its line's number, and whether a comment explains it.
fn keys(text: &str) -> Vec<(usize, String, bool)> {
    let mut keys = Vec::new();
    let mut explained = false;
    for (at, line) in text.lines().enumerate() {
        let trimmed = line.trim();
        if trimmed.starts_with('#') {
            explained = true;
            continue;
        }
        let entry = trimmed.strip_prefix("- ").unwrap_or(trimmed);
        if let Some((key, rest)) = entry.split_once(':')
            && !key.is_empty()
            && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        {
            keys.push((at + 1, key.to_owned(), explained || rest.contains(" #")));
        }
        explained = false;
    }
    keys
}

#[test]
fn every_key_is_documented() {
    let files = files();
    let mut found = Vec::new();
    for (path, _) in FILES {
        let file = files.iter().find(|file| file.path == path);
        let file = file.unwrap_or_else(|| panic!("{path} is missing"));
        let keys = keys(&file.text);
        assert!(keys.len() > 3, "{path} has hardly a key");
        for (line, key, explained) in keys {
            if !explained {
                found.push(format!("{path}:{line}: {key}"));
            }
        }
    }
    assert_none("keys without a comment above or beside them", &found);
}

#[test]
fn every_key_is_read() {
    let files = files();
    let mut found = Vec::new();
    for (path, readers) in FILES {
        let Some(file) = files.iter().find(|file| file.path == path) else {
            panic!("{path} is missing")
        };
        let code = rust_files(readers);
        for (line, key, _) in keys(&file.text) {
            // As a field of what the file is read into.
            let field = format!("{key}:");
            let read = code.iter().any(|file| {
                file.code().any(|(_, line)| {
                    line.trim_start()
                        .trim_start_matches("pub(crate) ")
                        .trim_start_matches("pub ")
                        .starts_with(&field)
                        || line.contains(&format!("\"{key}\""))
                })
            });
            if !read {
                found.push(format!("{path}:{line}: {key}"));
            }
        }
    }
    assert_none("keys that nothing reads", &found);
}
