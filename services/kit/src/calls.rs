//! One gRPC call: taken or shed, under its deadline, and answered whatever happens.
//!
//! Every answer leaves with a status that has a reason. What a call asks for is none of this
//! module's business.

use std::convert::Infallible;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use foldhash::HashMap;
use http::{HeaderMap, Request, Response};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::answer_body::{AnswerBody, Call, Outgoing, headers_of};
use crate::methods::Methods;
use crate::metrics::MethodCounters;
use crate::refusals;
use crate::routes::Routes;
use crate::service::Limits;
use crate::status::ErrorDomain;
use crate::unread::UnreadCounter;

/// Everything that calls share.
pub(crate) struct Calls {
    pub(crate) routes: Routes,
    pub(crate) methods: HashMap<Arc<str>, Method>,
    /// Counts calls to all others.
    pub(crate) unknown: Arc<MethodCounters>,
    pub(crate) domain: ErrorDomain,
    pub(crate) limits: Limits,
    /// Places for calls that end soon.
    pub(crate) places: Arc<Semaphore>,
    /// Places for calls that last.
    pub(crate) exempt_places: Arc<Semaphore>,
    /// Calls that a drain waits for.
    pub(crate) in_hand: TaskTracker,
    /// Cancelled when what is still open must end.
    pub(crate) cut: CancellationToken,
}

/// What is known of a method that is there.
pub(crate) struct Method {
    pub(crate) path: Arc<str>,
    /// Whether its calls are under no server timeout. Health's are not either: it must be heard when
    /// all places for calls are taken.
    pub(crate) lasting: bool,
    /// Whether it takes or gives a stream.
    pub(crate) streaming: bool,
    pub(crate) counters: Arc<MethodCounters>,
}

impl Calls {
    pub(crate) async fn answer(
        &self,
        mut request: Request<Body>,
        unread: &UnreadCounter,
    ) -> Response<Outgoing> {
        let arrived_at = Instant::now();
        let path = request.uri().path();
        let own = Methods::is_own(path);
        let method = self.methods.get(path);
        let streaming = method.is_some_and(|method| method.streaming);
        let (path, lasting, counters) = match method {
            Some(method) => (method.path.clone(), method.lasting, &method.counters),
            None => (path.into(), own, &self.unknown),
        };
        let mut call = Call {
            domain: self.domain,
            counters: counters.clone(),
            place: None,
            // Health watches and reflection last until the very end: nobody waits for them.
            in_hand: (!own).then(|| self.in_hand.token()),
            cut: self.cut.clone(),
            path,
        };
        let (places, places_max) = match lasting {
            true => (&self.exempt_places, self.limits.exempt_calls_max),
            false => (&self.places, self.limits.calls_max),
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            return refuse(&call, &refusals::overloaded(places_max, self.domain));
        };
        let own_limit = timeout_of(request.headers());
        let server_limit = (!lasting).then_some(*self.limits.call_timeout);
        let limit = own_limit.into_iter().chain(server_limit).min();
        if own_limit.is_some_and(|limit| arrived_at.elapsed() >= limit) {
            return refuse(&call, &self.deadline_passed(limit, own_limit));
        }
        if streaming {
            request.extensions_mut().insert(unread.clone());
        }
        let called = CatchPanic(self.routes.call(request));
        let answered = tokio::select! {
            biased;
            answered = called => answered,
            () = pass(arrived_at, limit) => {
                return refuse(&call, &self.deadline_passed(limit, own_limit));
            }
            () = self.cut.cancelled() => return refuse(&call, &refusals::shutting_down(self.domain)),
        };
        // A call that lasts keeps its place until its last byte, others until their first.
        call.place = lasting.then_some(place);
        match answered {
            Ok(response) => self.dress(response, call),
            Err(Panicked) => refuse(&call, &refusals::panicked(self.domain)),
        }
    }

    fn deadline_passed(&self, limit: Option<Duration>, own_limit: Option<Duration>) -> Status {
        let callers_own = own_limit.is_some() && limit == own_limit;
        refusals::deadline_passed(limit.unwrap_or_default(), callers_own, self.domain)
    }

    /// Gives the answer a reason where it lacks one, now or when its trailers come.
    fn dress(&self, response: Response<Body>, call: Call) -> Response<Outgoing> {
        let (mut parts, body) = response.into_parts();
        let Some(bare) = Status::from_header_map(&parts.headers) else {
            return Response::from_parts(parts, Outgoing::Answer(AnswerBody::new(body, call)));
        };
        let unknown_method = bare.code() == Code::Unimplemented
            && bare.message().is_empty()
            && bare.details().is_empty();
        let explained = if unknown_method {
            Some(refusals::method_unknown(
                &call.path,
                self.methods.keys().map(|path| &**path),
                self.domain,
            ))
        } else {
            refusals::explain(&bare, &call.path, self.domain)
        };
        call.counters
            .count(explained.as_ref().unwrap_or(&bare).code());
        if let Some(explained) = explained {
            parts.headers.extend(headers_of(&explained));
        }
        Response::from_parts(parts, Outgoing::Bare(body))
    }
}

/// An answer that is a status and nothing else.
fn refuse(call: &Call, status: &Status) -> Response<Outgoing> {
    call.counters.count(status.code());
    status.clone().into_http().map(Outgoing::Bare)
}

/// Waits until `limit` after `since`; forever without one.
async fn pass(since: Instant, limit: Option<Duration>) {
    match limit.and_then(|limit| since.checked_add(limit)) {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// The caller's deadline: at most eight digits and a unit. What is malformed is no deadline.
fn timeout_of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3_600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// A future that panicked.
pub(crate) struct Panicked;

/// Turns a panic of the future inside into an answer. The panic hook has logged it by then.
pub(crate) struct CatchPanic<F: ?Sized>(pub(crate) Pin<Box<F>>);

impl<F, T> Future for CatchPanic<F>
where
    F: Future<Output = Result<T, Infallible>> + ?Sized,
{
    type Output = Result<T, Panicked>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(context))) {
            Ok(Poll::Ready(Ok(value))) => Poll::Ready(Ok(value)),
            Ok(Poll::Ready(Err(never))) => match never {},
            Ok(Poll::Pending) => Poll::Pending,
            Err(_) => Poll::Ready(Err(Panicked)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read_as_the_protocol_writes_them() {
        for (text, expected) in [
            ("1n", Some(Duration::from_nanos(1))),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3_600))),
            ("123456789S", None),
            ("S", None),
            ("", None),
            ("-1S", None),
            ("1x", None),
        ] {
            let headers = HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-timeout"),
                text.parse().expect("a header"),
            )]);
            assert_eq!(timeout_of(&headers), expected, "{text}");
        }
    }
}
