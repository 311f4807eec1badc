//! Why a handler failed: a kind, a sentence, and whether to try again.
//!
//! Any error becomes one by `?`. A text "Kind: message" splits into kind and message, so that
//! "NetworkError: Connection timeout" has the kind NetworkError.

use std::error::Error;
use std::fmt;

use crate::wire;

/// The most that the contract takes of each part, in bytes.
const KIND_BYTES_MAX: usize = 128;
const MESSAGE_BYTES_MAX: usize = 4 * 1024;
const DETAIL_BYTES_MAX: usize = 16 * 1024;
/// The kind of a failure that named none.
const KIND_UNNAMED: &str = "Error";

/// A handler's failure.
///
/// It isn't a `std::error::Error` itself, so that any such error can become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    kind: String,
    message: String,
    detail: String,
    not_retryable: bool,
}

impl Failure {
    /// A failure of a kind, such as `NetworkError`, with a sentence.
    pub fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            message: message.into(),
            detail: String::new(),
            not_retryable: false,
        }
    }

    /// A failure from a text, which may be "Kind: message".
    pub fn from_text(text: &str) -> Self {
        match text.split_once(": ") {
            Some((kind, message)) if is_kind(kind) => Self::new(kind, message),
            _ => Self::new(KIND_UNNAMED, text),
        }
    }

    /// With more, for debugging.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// Another attempt would fail just so: the step's retries are not used up on it.
    #[must_use]
    pub fn not_retryable(mut self) -> Self {
        self.not_retryable = true;
        self
    }

    /// The kind.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The sentence.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// False when another attempt would fail just so.
    pub fn is_retryable(&self) -> bool {
        !self.not_retryable
    }

    /// As it is reported: a kind that the contract takes, and texts cut to its limits.
    pub(crate) fn into_wire(self) -> wire::CommandError {
        let mut kind: String = self
            .kind
            .chars()
            .map(|character| match character {
                'A'..='Z' | 'a'..='z' | '0'..='9' | '.' | '_' | '-' => character,
                _ => '_',
            })
            .take(KIND_BYTES_MAX)
            .collect();
        if kind.is_empty() {
            KIND_UNNAMED.clone_into(&mut kind);
        }
        wire::CommandError {
            failure: Some(wire::Failure {
                kind,
                message: cut(self.message, MESSAGE_BYTES_MAX),
                detail: cut(self.detail, DETAIL_BYTES_MAX),
            }),
            not_retryable: self.not_retryable,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.kind, self.message)
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Failure {
    /// The error's text, and its causes as the detail.
    fn from(error: E) -> Self {
        let error: Box<dyn Error + Send + Sync> = error.into();
        let mut causes = String::new();
        let mut cause = error.source();
        while let Some(next) = cause {
            causes.push_str(&format!("caused by: {next}\n"));
            cause = next.source();
        }
        Self::from_text(&error.to_string()).detail(causes)
    }
}

/// Whether the text before a colon is a kind: one word, written like a type's name.
fn is_kind(text: &str) -> bool {
    text.len() <= KIND_BYTES_MAX
        && text.starts_with(|first: char| first.is_ascii_uppercase())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// `text`, cut at a character if it is longer than `most` bytes.
fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        let mut end = most - '…'.len_utf8();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_text_splits_into_kind_and_message_only_where_a_kind_stands() {
        for (text, kind, message) in [
            (
                "NetworkError: Connection timeout",
                "NetworkError",
                "Connection timeout",
            ),
            ("it broke", "Error", "it broke"),
            ("not a kind: it broke", "Error", "not a kind: it broke"),
            ("lower: it broke", "Error", "lower: it broke"),
            ("Io: open: no such file", "Io", "open: no such file"),
            ("", "Error", ""),
        ] {
            let failure = Failure::from_text(text);
            assert_eq!((failure.kind(), failure.message()), (kind, message));
        }
    }

    #[test]
    fn any_error_becomes_a_failure_by_the_question_mark() {
        fn parse() -> Result<u8, Failure> {
            Ok("300".parse::<u8>()?)
        }
        fn text() -> Result<u8, Failure> {
            Err("RateLimitError: Too many requests")?
        }
        fn anyhow_chain() -> Result<u8, Failure> {
            Err(anyhow::anyhow!("disk full").context("StoreError: cannot save"))?
        }
        assert_eq!(parse().unwrap_err().kind(), "Error");
        assert_eq!(text().unwrap_err().kind(), "RateLimitError");
        let chained = anyhow_chain().unwrap_err();
        assert_eq!(chained.to_string(), "StoreError: cannot save");
        assert_eq!(chained.detail, "caused by: disk full\n");
    }

    #[test]
    fn what_is_reported_fits_the_contract() {
        let failure = Failure::new("bad kind: é", "ä".repeat(4_000)).detail("x".repeat(20_000));
        let wire = failure.not_retryable().into_wire();
        assert!(wire.not_retryable);
        let failure = wire.failure.unwrap();
        assert_eq!(failure.kind, "bad_kind___");
        assert!(failure.message.len() <= 4 * 1024 && failure.message.ends_with('…'));
        assert_eq!(failure.detail.len(), 16 * 1024);
        let unnamed = Failure::new("", "x").into_wire().failure.unwrap();
        assert_eq!(unnamed.kind, "Error");
    }
}
