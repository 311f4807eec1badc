//! Which crate may depend on which, and that versions stand once.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use crate::tree::{assert_none, files, root};

/// The table of crates in ARCHITECTURE.md: which may depend on which of ours. `any` is no limit.
fn table() -> BTreeMap<String, Vec<String>> {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let from = text
        .find("| Crate | Depends on")
        .expect("the table of crates");
    let rows = text[from..]
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let row = |line: &str| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let on = cells[2].split(',').map(|name| name.trim().to_owned());
        (cells[1].trim_matches('`').to_owned(), on.collect())
    };
    rows.map(row).collect()
}

fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(root())
        .output()
        .expect("cargo describes the workspace");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("metadata is JSON");
    metadata["packages"]
        .as_array()
        .expect("it has packages")
        .clone()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[test]
fn crates_depend_on_what_the_table_allows() {
    let table = table();
    let packages = packages();
    let ours: BTreeSet<_> = packages
        .iter()
        .map(|package| text(&package["name"]))
        .collect();
    assert_eq!(
        ours,
        table.keys().map(String::as_str).collect(),
        "a crate came or went: give it its row in ARCHITECTURE.md"
    );
    let mut found = Vec::new();
    for package in &packages {
        let name = text(&package["name"]);
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let on = text(&dependency["name"]);
            let may = |may: &String| may == on || may == "any";
            if ours.contains(on) && !table[name].iter().any(may) {
                found.push(format!("{name} depends on {on}"));
            }
        }
    }
    assert_none("dependencies that the table of crates forbids", &found);
}

#[test]
fn versions_and_lints_stand_once() {
    let mut found = Vec::new();
    for file in files() {
        if !file.path.ends_with("/Cargo.toml") {
            continue;
        }
        if !file.text.contains("[lints]\nworkspace = true") {
            found.push(format!("{}: no `[lints] workspace = true`", file.path));
        }
        let mut section = "";
        for line in file.text.lines().map(str::trim) {
            if line.starts_with('[') {
                section = line;
            } else if section.ends_with("dependencies]")
                && !line.is_empty()
                && !line.starts_with('#')
                && !line.contains("workspace = true")
                && !line.contains("workspace=true")
            {
                found.push(format!("{}: {line}", file.path));
            }
        }
    }
    assert_none("what belongs into the workspace's manifest", &found);
}
