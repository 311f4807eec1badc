//! Specifications of the log: its forms, its rotation, and what it lets nobody do.

use super::*;
use std::path::Path;

use proptest::prelude::*;
use serde_json::Value;

/// Logs to a file in `directory` while `log` runs, and gives what the file then holds.
fn logged(directory: &Path, logging: &Logging, log: impl FnOnce()) -> String {
    let logging = Logging {
        default_logger: Destination::File,
        file_path: directory.join("service.log"),
        ..logging.clone()
    };
    let (subscriber, guard) = subscriber("example", &logging).expect("logging starts");
    tracing::subscriber::with_default(subscriber, log);
    drop(guard);
    std::fs::read_to_string(directory.join("service.log")).expect("a log file")
}

#[test]
fn a_text_line_has_time_level_component_message_and_fields() {
    let directory = tempfile::tempdir().expect("a directory");
    let text = logged(directory.path(), &Logging::default(), || {
        tracing::warn!(port = 7, name = "a b", "listening");
        tracing::debug!("not at this level");
    });
    let (time, rest) = text.split_once(' ').expect("a time first");
    assert!(time.ends_with('Z') && time.len() == 27, "{time}");
    assert_eq!(rest, " WARN example listening port=7 name=a b\n");
}

#[test]
fn a_json_line_has_the_same_and_what_its_spans_carry() {
    let directory = tempfile::tempdir().expect("a directory");
    let logging = Logging {
        json_format: true,
        level: "debug".into(),
        ..Logging::default()
    };
    let text = logged(directory.path(), &logging, || {
        let span = tracing::info_span!("call", trace = "t1", port = 1);
        span.in_scope(|| tracing::debug!(port = 7, level = "mine", "listening"));
    });
    let line: Value = serde_json::from_str(&text).expect("one JSON object");
    assert_eq!(line["level"], "DEBUG");
    assert_eq!(line["component"], "example");
    assert_eq!(line["message"], "listening");
    assert_eq!(line["port"].as_u64(), Some(7), "the inner value wins");
    assert_eq!(line["trace"], "t1");
    assert_eq!(
        line["field.level"], "mine",
        "a field cannot pass for the line's level"
    );
}

#[test]
fn nothing_logged_can_move_a_cursor_or_forge_a_line() {
    let evil = "a\x1b[2J\n2026 INFO forged\u{202e}\u{9b}2J";
    for json_format in [false, true] {
        let directory = tempfile::tempdir().expect("a directory");
        let logging = Logging {
            json_format,
            ..Logging::default()
        };
        let text = logged(directory.path(), &logging, || {
            tracing::info!(name = evil, "{evil}");
        });
        assert_eq!(text.lines().count(), 1);
        assert!(!text.trim_end().contains(is_control), "{text:?}");
        if json_format {
            let line: Value = serde_json::from_str(&text).expect("one JSON object");
            assert_eq!(line["name"], evil, "a program still reads what it was");
        }
    }
}

#[test]
fn the_file_is_rotated_by_size_and_exactly_the_newest_backups_are_kept() {
    let directory = tempfile::tempdir().expect("a directory");
    let logging = Logging {
        max_file_size_mb: 1,
        backup_count: 2,
        ..Logging::default()
    };
    let filler = "x".repeat(64 * 1024);
    // A megabyte and more each time; the guard's end is the end of all rotation.
    for round in 0..5 {
        logged(directory.path(), &logging, || {
            for _ in 0..18 {
                tracing::info!(round, filler);
            }
        });
    }
    let mut names: Vec<_> = std::fs::read_dir(directory.path())
        .expect("a directory")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("a name")
        })
        .collect();
    names.sort();
    assert_eq!(names, ["service.log", "service.log.1", "service.log.2"]);
    for name in &names {
        let length = std::fs::metadata(directory.path().join(name))
            .expect("a file")
            .len();
        assert!(length <= 1024 * 1024, "{name} has {length} bytes");
    }
    let newest = std::fs::read_to_string(directory.path().join("service.log")).expect("a log");
    assert!(newest.contains("round=4"));
}

#[test]
fn levels_are_accepted_as_people_write_them_and_else_named() {
    for level in [
        "DEBUG",
        "info",
        "Warning",
        "ERROR",
        "CRITICAL",
        "info,kit=debug",
    ] {
        filter(level).expect(level);
    }
    let error = filter("LOUD").expect_err("no level").to_string();
    assert!(
        error.contains("\"LOUD\"") && error.contains("CRITICAL"),
        "{error}"
    );
}

proptest! {
    #[test]
    fn escaped_text_has_no_control_character_and_plain_text_stays(text in ".*") {
        prop_assert!(!escape_control(&text).contains(is_control));
        if !text.contains(is_control) {
            prop_assert_eq!(&escape_control(&text), &text);
        }
    }
}
