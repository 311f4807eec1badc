//! What the gRPC library's own refusals mean, as statuses with a reason.
//!
//! The library says why in free text only. Each text is recognised here and nowhere else; a
//! test against the real library guards each, since an update may change a text. A status
//! that already has details is somebody's own and is never touched.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::ErrorDetails;

use crate::callers::TurnedAway;
use crate::logging::escape_control;
use crate::status::{self, ErrorDomain};

/// The longest piece of a caller's own text that is said back to him.
const ECHO_CHARS_MAX: usize = 200;

/// Its library answers for it; that a service is unknown is all it refuses.
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

/// The same refusal with a reason, or None when the status needs none.
pub(crate) fn explain(bare: &Status, path: &str, domain: ErrorDomain) -> Option<Status> {
    if bare.code() == Code::Ok || !bare.details().is_empty() {
        return None;
    }
    let said = bare.message();
    let (code, reason, sentence) = match bare.code() {
        Code::OutOfRange if said.contains("decoded message length too large") => (
            Code::OutOfRange,
            status::MESSAGE_TOO_LARGE,
            format!(
                "the message is too large for {path}: {}; send less at once",
                sizes(said)
            ),
        ),
        Code::OutOfRange if said.contains("encoded message length too large") => (
            Code::OutOfRange,
            status::MESSAGE_TOO_LARGE,
            format!(
                "the answer of {path} is too large: {}; ask for less at once",
                sizes(said)
            ),
        ),
        Code::ResourceExhausted if said.contains("Error decompressing") => (
            Code::ResourceExhausted,
            status::MESSAGE_TOO_LARGE,
            format!("the message for {path} is too large once decompressed; send less at once"),
        ),
        Code::Unimplemented if said.contains("Content is compressed with") => (
            Code::Unimplemented,
            status::ENCODING_UNSUPPORTED,
            format!("{said}; send it uncompressed, or as grpc-accept-encoding says"),
        ),
        Code::Unimplemented if said.is_empty() => return None,
        Code::Internal if is_malformed(said) => (
            Code::Internal,
            status::MESSAGE_MALFORMED,
            format!("the message is not what {path} takes ({said}); check it against the contract"),
        ),
        Code::DeadlineExceeded => (
            Code::DeadlineExceeded,
            status::DEADLINE_PASSED,
            said.to_owned(),
        ),
        Code::NotFound if path == HEALTH_CHECK => (
            Code::NotFound,
            status::FIELD_INVALID,
            "service names none that this server has; leave it empty to ask for the server, or see \
             reflection for what there is"
                .to_owned(),
        ),
        Code::Cancelled => (Code::Cancelled, status::CALL_CANCELLED, said.to_owned()),
        Code::Internal | Code::Unknown => (Code::Internal, status::INTERNAL, said.to_owned()),
        _ => return None,
    };
    let mut explained = status::status(
        code,
        domain,
        reason,
        escape_control(&sentence),
        ErrorDetails::new(),
    );
    *explained.metadata_mut() = bare.metadata().clone();
    Some(explained)
}

/// "found N bytes, the limit is: M bytes", as the library says it.
fn sizes(said: &str) -> &str {
    said.split_once("too large: ")
        .map_or(said, |(_, sizes)| sizes)
}

fn is_malformed(said: &str) -> bool {
    [
        "protocol error: received message with",
        "Unexpected EOF decoding stream",
        "Error decompressing",
        "Missing request message",
        "failed to decode Protobuf message",
    ]
    .iter()
    .any(|text| said.contains(text))
}

/// No such method. `known` are the paths that are served; the nearest is named.
pub(crate) fn method_unknown<'a>(
    path: &str,
    known: impl Iterator<Item = &'a str>,
    domain: ErrorDomain,
) -> Status {
    let shown = echo(path);
    let nearest = known
        .map(|candidate| (strsim::osa_distance(&shown, candidate), candidate))
        .filter(|(distance, _)| *distance <= shown.len() / 4)
        .min();
    let hint = match nearest {
        Some((_, candidate)) => format!("did you mean {candidate}?"),
        None => "reflection lists what there is".into(),
    };
    let sentence = format!("there is no method {shown} here; {hint}");
    status::status(
        Code::Unimplemented,
        domain,
        status::METHOD_UNKNOWN,
        sentence,
        ErrorDetails::new(),
    )
}

/// The server takes no more calls at once.
pub(crate) fn overloaded(calls_max: usize, domain: ErrorDomain) -> Status {
    status::retry_later(
        Code::ResourceExhausted,
        domain,
        status::OVERLOADED,
        format!("{calls_max} calls are in hand, which is the most; come back in a second"),
        Duration::from_secs(1),
    )
}

/// A deadline has passed, the caller's own or the server's.
pub(crate) fn deadline_passed(limit: Duration, callers_own: bool, domain: ErrorDomain) -> Status {
    let whose = if callers_own {
        "the call's own deadline"
    } else {
        "the server's limit"
    };
    status::status(
        Code::DeadlineExceeded,
        domain,
        status::DEADLINE_PASSED,
        format!(
            "{whose} of {limit:?} passed before the answer; ask how things stand before repeating"
        ),
        ErrorDetails::new(),
    )
}

/// The server is stopping and the call did not end in time.
pub(crate) fn shutting_down(domain: ErrorDomain) -> Status {
    status::retry_later(
        Code::Unavailable,
        domain,
        status::SHUTTING_DOWN,
        "the server is stopping; call again when it is back",
        Duration::from_secs(1),
    )
}

/// A bug stopped the call. What it said stands in the log, not in the answer.
pub(crate) fn panicked(domain: ErrorDomain) -> Status {
    status::status(
        Code::Internal,
        domain,
        status::PANIC,
        "a bug in the server stopped this call, and nothing else; the log has the place",
        ErrorDetails::new(),
    )
}

/// The caller came under a wrong name or from a wrong page.
pub(crate) fn turned_away(why: &TurnedAway, domain: ErrorDomain) -> Status {
    let (reason, named, sentence) = match why {
        TurnedAway::Host(host) => (
            status::HOST_NOT_ALLOWED,
            host,
            format!(
                "host {} is no name of this server; add it to allowed_hosts",
                echo(host)
            ),
        ),
        TurnedAway::Origin(origin) => (
            status::ORIGIN_NOT_ALLOWED,
            origin,
            format!(
                "pages of {} may not call here; add it to allowed_origins",
                echo(origin)
            ),
        ),
    };
    let metadata = HashMap::from([("value".to_owned(), echo(named))]);
    status::with_metadata(Code::PermissionDenied, domain, reason, sentence, metadata)
}

/// A caller's own text, short enough and harmless to print.
fn echo(text: &str) -> String {
    let short: String = text.chars().take(ECHO_CHARS_MAX).collect();
    escape_control(&short).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_with_details_is_left_alone() {
        let own = status::status(Code::Internal, "a.v1", "MINE", "mine", ErrorDetails::new());
        assert!(explain(&own, "/a.B/C", "a.v1").is_none());
        assert!(explain(&Status::not_found("nothing"), "/a.B/C", "a.v1").is_none());
    }

    #[test]
    fn unknown_is_never_an_answer() {
        let explained = explain(&Status::unknown("odd"), "/a.B/C", "a.v1").expect("explained");
        assert_eq!(explained.code(), Code::Internal);
        assert_eq!(
            status::reason_of(&explained).as_deref(),
            Some(status::INTERNAL)
        );
    }

    #[test]
    fn a_slip_in_a_method_name_is_answered_with_the_nearest() {
        let known = ["/a.Things/GetThing", "/a.Things/ListThings"];
        let refused = method_unknown("/a.Things/GetThng", known.into_iter(), "a.v1");
        assert!(
            refused
                .message()
                .ends_with("did you mean /a.Things/GetThing?")
        );
        let long = "/x".repeat(100_000);
        let refused = method_unknown(&long, known.into_iter(), "a.v1");
        assert!(refused.message().len() < 400);
    }
}
