//! House rules that no other tool checks.

use crate::tree::{assert_none, files, rust_files};

const LINES_MAX: usize = 500;

#[test]
fn files_stay_short() {
    let long: Vec<_> = rust_files(&["proto", "services", "clients", "tests"])
        .into_iter()
        .map(|file| (file.text.lines().count(), file.path))
        .filter(|(lines, _)| *lines > LINES_MAX)
        .map(|(lines, path)| format!("{path}: {lines} lines; split it by meaning"))
        .collect();
    assert_none("files over 500 lines", &long);
}

#[test]
fn every_file_says_first_what_it_is_for() {
    let silent: Vec<_> = rust_files(&["proto", "services", "clients", "tests"])
        .into_iter()
        .filter(|file| !file.text.starts_with("//!"))
        .map(|file| file.path)
        .collect();
    assert_none("files whose first line is no `//!`", &silent);
}

#[test]
fn lints_are_expected_with_a_reason_never_allowed() {
    let mut found = Vec::new();
    for file in rust_files(&["proto", "services", "clients", "tests"]) {
        for (at, line) in file.text.lines().enumerate() {
            let line = line.trim_start();
            if line.starts_with("#[allow(") || line.starts_with("#![allow(") {
                found.push(format!("{}:{}", file.path, at + 1));
            }
        }
    }
    assert_none("`allow` attributes", &found);
}

/// A repository that others clone must not speak of the place where it was written.
#[test]
fn no_file_names_a_place_outside_the_repository() {
    // Put together here, so that this file passes.
    let places = [
        ["/wo", "rk/"],
        ["/tmp/", "briefs"],
        ["../", "shared/"],
        ["/ro", "ot/"],
    ];
    let mut found = Vec::new();
    for file in files() {
        for (at, line) in file.text.lines().enumerate() {
            for place in places.map(|parts| parts.concat()) {
                if line.contains(&place) {
                    found.push(format!("{}:{}: {place}", file.path, at + 1));
                }
            }
        }
    }
    assert_none("places outside", &found);
}

#[test]
fn todos_name_their_issue() {
    let mut found = Vec::new();
    for file in rust_files(&["proto", "services", "clients", "tests"]) {
        for (at, line) in file.text.lines().enumerate() {
            // Written apart, so that this line is none.
            let bare = line.contains(concat!("TO", "DO")) && !line.contains(concat!("TO", "DO(#"));
            if bare || line.contains(concat!("FIX", "ME")) {
                found.push(format!("{}:{}", file.path, at + 1));
            }
        }
    }
    assert_none("to-dos without an issue", &found);
}
