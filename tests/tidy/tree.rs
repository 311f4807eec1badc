//! The repository's own files, as git knows them.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("tests/ has a parent").to_owned()
}

/// A file of the repository with its text.
pub(crate) struct File {
    /// Its path from the root, with forward slashes.
    pub(crate) path: String,
    /// What is in it.
    pub(crate) text: String,
}

impl File {
    /// The lines that are compiled into the program, with their numbers: what follows the file's
    /// `#[cfg(test)]` is not, nor are comments.
    pub(crate) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let end = self
            .text
            .lines()
            .position(|line| line.trim() == "#[cfg(test)]");
        self.text
            .lines()
            .take(end.unwrap_or(usize::MAX))
            .enumerate()
            .map(|(at, line)| (at + 1, line.split("//").next().unwrap_or_default()))
    }

    /// Whether the file is only compiled for tests.
    pub(crate) fn is_test(&self) -> bool {
        self.path.starts_with("tests/")
            || self.path.contains("/tests/")
            || self.path.ends_with("/tests.rs")
            || self.path.ends_with("_tests.rs")
    }
}

/// Every file that git tracks or would track, and that is text.
pub(crate) fn files() -> Vec<File> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git lists the files");
    assert!(listed.status.success(), "git ls-files failed");
    let listed = String::from_utf8(listed.stdout).expect("paths are UTF-8");
    let mut files: Vec<_> = listed
        .lines()
        .filter_map(|path| {
            // Deleted ones are still listed, and binary ones have no text.
            let text = std::fs::read_to_string(root().join(path)).ok()?;
            Some(File {
                path: path.to_owned(),
                text,
            })
        })
        .collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files.dedup_by(|a, b| a.path == b.path);
    assert!(files.len() > 50, "the repository's files were not found");
    files
}

/// The Rust files below one of `folders`, or that are one of them.
pub(crate) fn rust_files(folders: &[&str]) -> Vec<File> {
    let mut files = files();
    files.retain(|file| {
        file.path.ends_with(".rs")
            && folders
                .iter()
                .any(|folder| file.path == *folder || file.path.starts_with(&format!("{folder}/")))
    });
    files
}

/// Fails with one line for each thing found.
pub(crate) fn assert_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}
