//! What a caller can be told: the service was not reached, or it refused, and why.
//!
//! A gRPC status is taken apart here, once: code, stable reason, sentence, and how long to wait.

use std::collections::HashMap;
use std::error::Error as _;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Why a call came to nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers at the address, or the connection broke.
    #[error(
        "the {service} is unreachable at {address}: {cause}; start it with `multiagents up`, or \
         check the address"
    )]
    Unreachable {
        /// The service that should be there.
        service: &'static str,
        /// Where.
        address: String,
        /// What the connection said.
        cause: String,
    },
    /// The service answered with a refusal.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// The caller's own value can't be sent, or an answer can't be read as what the caller wants.
    #[error("{0}")]
    Invalid(String),
    /// Another process connected with this host's `host_id`, and has its session now.
    #[error(
        "another process connected as host \"{host_id}\" and took the session over; give each \
         process a host_id of its own"
    )]
    HostReplaced {
        /// The name both use.
        host_id: String,
    },
}

/// A refusal, taken apart.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The gRPC code.
    pub code: Code,
    /// The stable reason, such as `WORKFLOW_NOT_FOUND`; empty where the answer had none.
    pub reason: String,
    /// What is wrong and what to do.
    pub message: String,
    /// After which time the same call may succeed, where the service said so.
    pub retry_after: Option<Duration>,
    /// More for programs.
    pub metadata: HashMap<String, String>,
    /// The fields to blame, each with what is wrong with it.
    pub fields: Vec<(String, String)>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.message.is_empty(), self.reason.is_empty()) {
            (false, false) => write!(out, "{} ({})", self.message, self.reason),
            (false, true) => out.write_str(&self.message),
            (true, _) => write!(out, "{}", self.code),
        }
    }
}

impl Error {
    /// What a status of `service` at `address` means.
    pub(crate) fn of(status: &Status, service: &'static str, address: &str) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        // Every refusal of ours has a reason; a connection that broke has none, but a source.
        if info.is_none() && (status.code() == Code::Unavailable || is_broken(status)) {
            return Self::Unreachable {
                service,
                address: address.to_owned(),
                cause: innermost(status),
            };
        }
        Self::Refused(Box::new(Refusal {
            code: status.code(),
            reason: info.map(|info| info.reason.clone()).unwrap_or_default(),
            message: status.message().to_owned(),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
            metadata: info.map(|info| info.metadata.clone()).unwrap_or_default(),
            fields: details
                .bad_request()
                .map(|bad| {
                    let fault = |fault: &tonic_types::FieldViolation| {
                        (fault.field.clone(), fault.description.clone())
                    };
                    bad.field_violations.iter().map(fault).collect()
                })
                .unwrap_or_default(),
        }))
    }

    /// The gRPC code; UNAVAILABLE for what was not reached.
    pub fn code(&self) -> Code {
        match self {
            Self::Unreachable { .. } => Code::Unavailable,
            Self::Refused(refusal) => refusal.code,
            Self::Invalid(_) => Code::InvalidArgument,
            Self::HostReplaced { .. } => Code::Aborted,
        }
    }

    /// The stable reason, such as `WORKFLOW_NOT_FOUND`; empty where there is none.
    pub fn reason(&self) -> &str {
        match self {
            Self::Refused(refusal) => &refusal.reason,
            Self::HostReplaced { .. } => "SESSION_REPLACED",
            Self::Unreachable { .. } | Self::Invalid(_) => "",
        }
    }

    /// The sentence alone, without the reason.
    pub fn message(&self) -> String {
        match self {
            Self::Refused(refusal) if !refusal.message.is_empty() => refusal.message.clone(),
            other => other.to_string(),
        }
    }

    /// After which time the same call may succeed, where the service said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            _ => None,
        }
    }

    /// Whether the same call may succeed later. A repeated start needs an idempotency key.
    pub fn is_retryable(&self) -> bool {
        matches!(self.code(), Code::Unavailable | Code::ResourceExhausted)
    }

    /// Whether nobody answered at the address.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// What a connection that broke half-way through a stream looks like.
fn is_broken(status: &Status) -> bool {
    let code = matches!(
        status.code(),
        Code::Internal | Code::Unknown | Code::Cancelled
    );
    code && status.source().is_some()
}

/// The innermost cause: "connection refused" rather than "transport error".
fn innermost(status: &Status) -> String {
    let Some(first) = status.source() else {
        return status.message().to_owned();
    };
    deepest(first)
}

/// The last of a chain of causes.
pub(crate) fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::error::{Problem, Reason};

    #[test]
    fn a_refusal_is_taken_apart_into_code_reason_sentence_and_delay() {
        let problem = Problem::new(Reason::Overloaded, "the queue is full; repeat later")
            .retry_after(Duration::from_secs(2))
            .with("queue", "inbox");
        let error = Error::of(&problem.into(), "orchestrator", "127.0.0.1:1");
        assert_eq!(error.code(), Code::ResourceExhausted);
        assert_eq!(error.reason(), "OVERLOADED");
        assert_eq!(error.message(), "the queue is full; repeat later");
        assert_eq!(error.retry_after(), Some(Duration::from_secs(2)));
        assert!(error.is_retryable() && !error.is_unreachable());
        assert_eq!(
            error.to_string(),
            "the queue is full; repeat later (OVERLOADED)"
        );
    }

    #[test]
    fn a_field_to_blame_is_named() {
        let status: Status = Problem::missing("workflow").into();
        let Error::Refused(refusal) = Error::of(&status, "orchestrator", "x") else {
            panic!("a refusal");
        };
        assert_eq!(refusal.fields[0].0, "workflow");
        assert!(!Error::Refused(refusal).is_retryable());
    }

    #[test]
    fn unavailable_without_a_reason_is_unreachable_and_says_what_to_do() {
        let error = Error::of(
            &Status::unavailable("connection refused"),
            "monitor",
            "127.0.0.1:7003",
        );
        assert!(error.is_unreachable() && error.is_retryable());
        assert_eq!(
            error.to_string(),
            "the monitor is unreachable at 127.0.0.1:7003: connection refused; start it with \
             `multiagents up`, or check the address"
        );
    }

    #[test]
    fn a_service_that_shuts_down_is_a_refusal_and_not_an_unreachable_one() {
        let status: Status = Problem::new(Reason::ShuttingDown, "repeat").into();
        let error = Error::of(&status, "orchestrator", "x");
        assert!(!error.is_unreachable() && error.is_retryable());
    }
}
