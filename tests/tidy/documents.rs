//! What the documents name is there.

use crate::tree::{assert_none, files, root};

/// What stands between backticks, outside fenced blocks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines()
        .filter(move |line| {
            let fence = line.trim_start().starts_with("```");
            fenced ^= fence;
            !fenced && !fence
        })
        .flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// Whether it can only be meant as a path of this repository.
fn is_path(word: &str) -> bool {
    let tops = [
        "proto/",
        "services/",
        "clients/",
        "config/",
        "tests/",
        ".ci/",
        ".config/",
    ];
    let ends = [".rs", ".proto", ".md", ".yaml", ".toml", ".binpb"];
    let plain = word
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "/._-*{},".contains(c));
    plain
        && (tops.iter().any(|top| word.starts_with(top))
            || (word.contains('/') && ends.iter().any(|end| word.ends_with(end))))
}

/// `a/{b,c}.rs` is two paths.
fn expand(word: &str) -> Vec<String> {
    match (word.find('{'), word.find('}')) {
        (Some(from), Some(to)) if from < to => word[from + 1..to]
            .split(',')
            .flat_map(|part| expand(&format!("{}{}{}", &word[..from], part, &word[to + 1..])))
            .collect(),
        _ => vec![word.to_owned()],
    }
}

fn exists(path: &str) -> bool {
    let Some((before, after)) = path.split_once('*') else {
        return root().join(path).exists();
    };
    files()
        .iter()
        .any(|file| file.path.starts_with(before) && file.path.ends_with(after.trim_matches('*')))
}

/// The folder that a paragraph is about: it begins with its name, bold and quoted.
fn subject(paragraph: &str) -> Option<&str> {
    paragraph.strip_prefix("**`")?.split('`').next()
}

#[test]
fn every_path_in_the_documents_exists() {
    let mut found = Vec::new();
    for document in ["ARCHITECTURE.md", "README.md", "CONTRIBUTING.md"] {
        let text = std::fs::read_to_string(root().join(document)).unwrap_or_default();
        assert!(!text.is_empty(), "{document} is missing");
        for paragraph in text.split("\n\n") {
            let folder = subject(paragraph).map(|name| format!("{name}/"));
            for word in quoted(paragraph) {
                // Within a paragraph about a folder, paths may begin there.
                let inside = word.starts_with("src/") && folder.is_some();
                if !inside && !is_path(word) {
                    continue;
                }
                let folder = folder.as_deref().filter(|_| inside).unwrap_or_default();
                for path in expand(word).iter().map(|path| format!("{folder}{path}")) {
                    if !exists(&path) {
                        found.push(format!("{document}: {path}"));
                    }
                }
            }
        }
    }
    assert_none("paths that don't exist", &found);
}

/// What a reader is told to type must be there.
#[test]
fn every_verb_in_the_documents_is_in_the_makefile() {
    let makefile = std::fs::read_to_string(root().join("Makefile")).expect("a Makefile");
    let mut found = Vec::new();
    for document in ["ARCHITECTURE.md", "README.md", "CONTRIBUTING.md"] {
        let text = std::fs::read_to_string(root().join(document)).unwrap_or_default();
        for word in quoted(&text).filter_map(|word| word.strip_prefix("make ")) {
            for verb in word.split(' ').filter(|verb| !verb.contains('=')) {
                if !makefile
                    .lines()
                    .any(|line| line.starts_with(&format!("{verb}:")))
                {
                    found.push(format!("{document}: make {verb}"));
                }
            }
        }
    }
    assert_none("verbs that don't exist", &found);
}
