//! The builder of a rich gRPC status: a code, a stable reason, a sentence, and further details.
//!
//! Owns the reasons of the transport itself, the ones that a call can meet before it reaches
//! any service. It must never know the reasons of the services above it: they pass their own
//! as strings.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Names the set of reasons that a service's errors are taken from, as `google.rpc.ErrorInfo.domain`.
pub type ErrorDomain = &'static str;

/// A message is larger than this method accepts.
pub const MESSAGE_TOO_LARGE: &str = "MESSAGE_TOO_LARGE";
/// A message is no valid protobuf of the method's request type.
pub const MESSAGE_MALFORMED: &str = "MESSAGE_MALFORMED";
/// A message is compressed in a way that this server does not read.
pub const ENCODING_UNSUPPORTED: &str = "ENCODING_UNSUPPORTED";
/// No such service or method is served here.
pub const METHOD_UNKNOWN: &str = "METHOD_UNKNOWN";
/// The call's deadline, or the server's own limit for a call, has passed.
pub const DEADLINE_PASSED: &str = "DEADLINE_PASSED";
/// The server has as many calls in hand as it takes at once.
pub const OVERLOADED: &str = "OVERLOADED";
/// The server is stopping.
pub const SHUTTING_DOWN: &str = "SHUTTING_DOWN";
/// The client ended the call.
pub const CALL_CANCELLED: &str = "CALL_CANCELLED";
/// A bug in the server stopped this one call.
pub const PANIC: &str = "PANIC";
/// The server failed in a way that it has no better word for.
pub const INTERNAL: &str = "INTERNAL";
/// A field names what is not there.
pub const FIELD_INVALID: &str = "FIELD_INVALID";
/// The Host header or `:authority` is not one of this server's names.
pub const HOST_NOT_ALLOWED: &str = "HOST_NOT_ALLOWED";
/// The Origin header is not one that may call this server.
pub const ORIGIN_NOT_ALLOWED: &str = "ORIGIN_NOT_ALLOWED";

/// Every reason that this crate itself gives.
pub const REASONS: &[&str] = &[
    MESSAGE_TOO_LARGE,
    MESSAGE_MALFORMED,
    ENCODING_UNSUPPORTED,
    METHOD_UNKNOWN,
    DEADLINE_PASSED,
    OVERLOADED,
    SHUTTING_DOWN,
    CALL_CANCELLED,
    PANIC,
    INTERNAL,
    FIELD_INVALID,
    HOST_NOT_ALLOWED,
    ORIGIN_NOT_ALLOWED,
];

/// Builds a status with one `ErrorInfo` of `reason` and `domain`.
///
/// `details` may carry what helps besides (`RetryInfo`, `BadRequest`, metadata in an `ErrorInfo`
/// of its own); its reason and domain are overwritten, so that each status has exactly one.
pub fn status(
    code: Code,
    domain: &str,
    reason: &str,
    message: impl Into<String>,
    mut details: ErrorDetails,
) -> Status {
    let metadata = details
        .error_info()
        .map(|info| info.metadata.clone())
        .unwrap_or_default();
    details.set_error_info(reason, domain, metadata);
    Status::with_error_details(code, message, details)
}

/// A status that asks the caller to come back after `delay`.
pub fn retry_later(
    code: Code,
    domain: &str,
    reason: &str,
    message: impl Into<String>,
    delay: Duration,
) -> Status {
    status(
        code,
        domain,
        reason,
        message,
        ErrorDetails::with_retry_info(Some(delay)),
    )
}

/// A status whose `ErrorInfo` carries `metadata`, for programs.
pub fn with_metadata(
    code: Code,
    domain: &str,
    reason: &str,
    message: impl Into<String>,
    metadata: HashMap<String, String>,
) -> Status {
    let details = ErrorDetails::with_error_info(reason, domain, metadata);
    status(code, domain, reason, message, details)
}

/// The reason that a status carries, if any.
pub fn reason_of(status: &Status) -> Option<String> {
    status.get_details_error_info().map(|info| info.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_one_error_info_and_keeps_the_other_details() {
        let status = retry_later(
            Code::ResourceExhausted,
            "example.v1",
            OVERLOADED,
            "too much at once",
            Duration::from_secs(1),
        );
        assert_eq!(reason_of(&status).as_deref(), Some(OVERLOADED));
        let details = status.get_error_details();
        assert_eq!(
            details.error_info().map(|info| info.domain.as_str()),
            Some("example.v1")
        );
        assert_eq!(
            details.retry_info().and_then(|retry| retry.retry_delay),
            Some(Duration::from_secs(1))
        );
    }
}
