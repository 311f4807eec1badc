//! The contracts: reasons that help, and what is not there yet.

use crate::tree::{assert_none, files};

#[test]
fn every_reason_has_a_cause_and_a_remedy() {
    let files = files();
    let reasons = files
        .iter()
        .find(|file| file.path.ends_with("/error_reason.proto"))
        .expect("the reasons' file");
    let mut comment = String::new();
    let mut found = Vec::new();
    let mut count = 0;
    for line in reasons.text.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("//") {
            comment.push_str(text);
        } else if line.starts_with("ERROR_REASON_") {
            count += 1;
            let (cause, remedy) = comment.split_once("Remedy:").unwrap_or((&comment, ""));
            if cause.trim().len() < 5 || remedy.trim().len() < 3 {
                found.push(format!("{line} //{comment}"));
            }
            comment.clear();
        } else {
            comment.clear();
        }
    }
    assert!(count > 20, "the reasons were not found");
    assert_none("reasons without cause or remedy", &found);
}

/// A reason that nothing sends would promise a check that isn't there.
#[test]
fn every_reason_is_sent_by_somebody() {
    let files = files();
    let reasons = files
        .iter()
        .find(|file| file.path.ends_with("/error_reason.proto"))
        .expect("the reasons' file");
    let code: Vec<_> = files
        .iter()
        .filter(|file| {
            file.path.ends_with(".rs") && !file.is_test() && file.path != "proto/src/error.rs"
        })
        .collect();
    let mut found = Vec::new();
    for line in reasons.text.lines().map(str::trim) {
        let Some(word) = line.strip_prefix("ERROR_REASON_") else {
            continue;
        };
        let word = word.split(' ').next().unwrap_or_default();
        let camel: String = word
            .split('_')
            .map(|part| part[..1].to_owned() + &part[1..].to_lowercase())
            .collect();
        let variant = format!("Reason::{camel}");
        let text = format!("\"{word}\"");
        let sent = code
            .iter()
            .any(|file| file.text.contains(&variant) || file.text.contains(&text));
        if !sent && word != "UNSPECIFIED" {
            found.push(word.to_owned());
        }
    }
    assert_none("reasons that nothing sends", &found);
}
