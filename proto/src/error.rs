//! A refusal: a stable reason, a sentence with a remedy, and one mapping to the wire.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

pub use crate::wire::ErrorReason as Reason;

/// The domain of every ErrorInfo of this suite.
pub const DOMAIN: &str = "multiagents.v1";

/// Why something was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// The stable reason.
    pub reason: Reason,
    /// What is wrong and what to do: field, value, remedy.
    pub message: String,
    /// The request's field, where one is to blame.
    pub field: Option<String>,
    /// More for programs.
    pub metadata: Vec<(String, String)>,
    /// After which time a repeat may succeed.
    pub retry_after: Option<Duration>,
}

impl Problem {
    /// A refusal for a reason that no field is to blame for.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            field: None,
            metadata: Vec::new(),
            retry_after: None,
        }
    }

    /// A refusal of one field.
    pub fn field(reason: Reason, field: &str, message: impl Into<String>) -> Self {
        Self {
            field: Some(field.to_owned()),
            ..Self::new(reason, message)
        }
    }

    /// A field that must be there is not.
    pub fn missing(field: &str) -> Self {
        Self::field(
            Reason::FieldMissing,
            field,
            format!("{field} is empty; it must be set"),
        )
    }

    /// With one more pair for programs.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.metadata.push((key.to_owned(), value.into()));
        self
    }

    /// With the time after which a repeat may succeed.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// The same problem, its field named from further out: `steps[2].` before `name`.
    #[must_use]
    pub fn within(mut self, outer: &str) -> Self {
        if let Some(field) = &mut self.field {
            let full = format!("{outer}{field}");
            if self.message.starts_with(field.as_str()) {
                self.message.insert_str(0, outer);
            }
            *field = full;
        }
        self
    }

    /// The reason as ErrorInfo has it, without the enum's prefix.
    pub fn reason_word(&self) -> &'static str {
        word(self.reason)
    }

    /// Whether the same call may succeed later.
    pub fn retryable(&self) -> bool {
        matches!(
            code(self.reason),
            Code::ResourceExhausted | Code::Unavailable
        )
    }
}

/// A reason without the enum's prefix.
pub fn word(reason: Reason) -> &'static str {
    reason.as_str_name().trim_start_matches("ERROR_REASON_")
}

/// The gRPC code of a reason.
pub fn code(reason: Reason) -> Code {
    match reason {
        Reason::FieldMissing
        | Reason::FieldInvalid
        | Reason::FieldOutOfRange
        | Reason::NameInvalid
        | Reason::WorkflowCycle
        | Reason::WorkflowUnknownStep
        | Reason::WorkflowDuplicateStep
        | Reason::WorkflowTooLarge
        | Reason::WorkflowMalformed
        | Reason::PayloadNotObject
        | Reason::PayloadDuplicateKey
        | Reason::PayloadTooDeep
        | Reason::PayloadNotUtf8
        | Reason::PayloadTooLarge
        | Reason::CursorInvalid
        | Reason::PageTokenInvalid
        | Reason::WindowInvalid => Code::InvalidArgument,
        Reason::WorkflowNotFound
        | Reason::TransactionNotFound
        | Reason::WorkerNotFound
        | Reason::CommandUnknown => Code::NotFound,
        Reason::IdempotencyKeyReused | Reason::ResultConflict => Code::AlreadyExists,
        Reason::TransactionEnded
        | Reason::TransactionCompensating
        | Reason::AnnounceFirst
        | Reason::SessionUnknown
        | Reason::LeaseLapsed
        | Reason::NotLeaseHolder
        | Reason::SwitchedOff
        | Reason::CursorForeign => Code::FailedPrecondition,
        Reason::MessageTooLarge | Reason::CursorExpired => Code::OutOfRange,
        Reason::EncodingUnsupported | Reason::MethodUnknown | Reason::NotYetImplemented => {
            Code::Unimplemented
        }
        Reason::DeadlinePassed => Code::DeadlineExceeded,
        Reason::Overloaded | Reason::StoreFull | Reason::HostsLimit | Reason::SubscribersLimit => {
            Code::ResourceExhausted
        }
        Reason::StoreFailed | Reason::ShuttingDown | Reason::NotReady => Code::Unavailable,
        Reason::LogDamaged | Reason::CursorAhead => Code::DataLoss,
        Reason::SessionReplaced => Code::Aborted,
        Reason::CallCancelled => Code::Cancelled,
        Reason::HostNotAllowed | Reason::OriginNotAllowed => Code::PermissionDenied,
        Reason::MessageMalformed | Reason::Internal | Reason::Panic | Reason::Unspecified => {
            Code::Internal
        }
    }
}

impl From<Problem> for Status {
    fn from(problem: Problem) -> Self {
        let code = code(problem.reason);
        let mut details = ErrorDetails::new();
        details.set_error_info(
            word(problem.reason),
            DOMAIN,
            problem
                .metadata
                .into_iter()
                .collect::<std::collections::HashMap<_, _>>(),
        );
        if let (Some(field), Code::InvalidArgument) = (problem.field, code) {
            details.add_bad_request_violation(field, problem.message.clone());
        }
        if let Some(delay) = problem.retry_after {
            details.set_retry_info(Some(delay));
        }
        Status::with_error_details(code, problem.message, details)
    }
}
