//! How a command fails: one sentence, the reason word, the remedy, and the exit code.
//!
//! Every refusal that reaches a person or a script passes through here; nothing else in this crate
//! chooses an exit code for an error or prints one.

use std::fmt;

use multiagents_client::Error;
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::contracts;

/// What scripts can tell ends apart by; printed in `multiagents --help`.
pub(crate) mod exit {
    /// Everything went well.
    pub(crate) const OK: u8 = 0;
    /// The request was refused, or what it asked for ended badly.
    pub(crate) const REFUSED: u8 = 1;
    /// Wrong usage, or a file given as input is not valid.
    pub(crate) const USAGE: u8 = 2;
    /// The service that was asked could not be reached.
    pub(crate) const UNREACHABLE: u8 = 69;
}

/// Why a command failed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) exit: u8,
    /// What is wrong, for people.
    pub(crate) message: String,
    /// The gRPC code, where a service refused.
    pub(crate) code: Option<Code>,
    /// The stable reason, where a service gave one.
    pub(crate) reason: Option<String>,
    /// True when whoever reads our output went away: nothing is wrong, and nothing is to be said.
    pub(crate) reader_gone: bool,
}

impl Failure {
    fn new(exit: u8, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            code: None,
            reason: None,
            reader_gone: false,
        }
    }

    /// The request was refused, or what it asked for ended badly.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(exit::REFUSED, message)
    }

    /// Wrong usage, or an invalid file.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(exit::USAGE, message)
    }

    /// A service that ended with an exit code of its own.
    pub(crate) fn service_ended(exit: u8, message: impl Into<String>) -> Self {
        Self::new(exit, message)
    }

    /// What to do about the reason, as the contracts say it.
    pub(crate) fn remedy(&self) -> Option<String> {
        contracts::remedy(self.reason.as_deref()?)
    }

    /// The failure for programs.
    pub(crate) fn to_json(&self) -> Value {
        json!({"error": {
            "code": self.code.map(code_word),
            "reason": self.reason,
            "message": self.message,
            "remedy": self.remedy(),
            "exit_code": self.exit,
        }})
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&proto::id::shown(&self.message, 4_096))?;
        if let Some(reason) = &self.reason {
            write!(out, " ({})", proto::id::shown(reason, 128))?;
        }
        if let Some(remedy) = self.remedy() {
            write!(out, "\n  Remedy: {remedy}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = match &error {
            Error::Unreachable { .. } => exit::UNREACHABLE,
            Error::Invalid(_) => exit::USAGE,
            Error::Refused(_) | Error::HostReplaced { .. } => exit::REFUSED,
        };
        let reason = error.reason();
        Self {
            code: Some(error.code()),
            reason: (!reason.is_empty()).then(|| reason.to_owned()),
            ..Self::new(exit, error.message())
        }
    }
}

/// For the few calls that the client has no wrapper for.
impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let reason = status.get_details_error_info().map(|found| found.reason);
        // Without an ErrorInfo nobody of the suite answered: the connection broke on the way.
        let exit = if status.code() == Code::Unavailable && reason.is_none() {
            exit::UNREACHABLE
        } else {
            exit::REFUSED
        };
        Self {
            code: Some(status.code()),
            reason,
            ..Self::new(exit, status.message())
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self {
            exit: if error.kind() == std::io::ErrorKind::BrokenPipe {
                exit::OK
            } else {
                exit::REFUSED
            },
            reader_gone: error.kind() == std::io::ErrorKind::BrokenPipe,
            ..Self::new(exit::REFUSED, format!("can't write: {error}"))
        }
    }
}

/// A code as the gRPC texts write it, such as `NOT_FOUND`.
fn code_word(code: Code) -> String {
    let mut word = String::new();
    for (at, character) in format!("{code:?}").chars().enumerate() {
        if character.is_uppercase() && at > 0 {
            word.push('_');
        }
        word.extend(character.to_uppercase());
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::error::{Problem, Reason};

    #[test]
    fn a_refusal_is_printed_with_its_reason_and_the_contracts_remedy() {
        let problem = Problem::new(Reason::WorkflowNotFound, "no workflow is called \"ordr\"");
        let failure = Failure::from(Status::from(problem));
        assert_eq!(failure.exit, exit::REFUSED);
        assert_eq!(
            failure.to_string(),
            "no workflow is called \"ordr\" (WORKFLOW_NOT_FOUND)\n  \
             Remedy: register it, or take the name that is suggested."
        );
        assert_eq!(failure.to_json()["error"]["code"], "NOT_FOUND");
    }

    #[test]
    fn a_broken_connection_is_unreachable_and_a_full_queue_is_a_refusal() {
        let broken = Failure::from(Status::unavailable("tcp connect error"));
        assert_eq!(broken.exit, exit::UNREACHABLE);
        let full = Failure::from(Status::from(Problem::new(Reason::Overloaded, "full")));
        assert_eq!(full.exit, exit::REFUSED);
    }

    #[test]
    fn a_message_cannot_move_the_cursor() {
        let failure = Failure::refused("\u{1b}[2Jgone");
        assert_eq!(failure.to_string(), "\\u{1b}[2Jgone");
    }

    #[test]
    fn a_reader_that_went_away_is_no_error() {
        let gone = Failure::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert!(gone.reader_gone);
        assert_eq!(gone.exit, exit::OK);
    }
}
