//! The body of a gRPC answer on its way out.
//!
//! Gives a bare refusal in the trailers its reason, turns a panic into an end with a status,
//! ends the stream when the server must go, and counts how the call ended. It never buffers.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::metrics::MethodCounters;
use crate::refusals;
use crate::status::ErrorDomain;

/// What belongs to a call from its first byte to its last.
pub(crate) struct Call {
    pub(crate) path: Arc<str>,
    pub(crate) domain: ErrorDomain,
    pub(crate) counters: Arc<MethodCounters>,
    /// The place that a long call takes for as long as it lasts.
    pub(crate) place: Option<OwnedSemaphorePermit>,
    /// Held while the call is in hand, so that a drain waits for it.
    pub(crate) in_hand: Option<TaskTrackerToken>,
    /// Cancelled when what is still open must end.
    pub(crate) cut: CancellationToken,
}

/// An answer whose status comes after its messages.
pub(crate) struct AnswerBody {
    inner: Body,
    call: Call,
    /// Made when the answer first has to wait, which most never do.
    cut: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    ended: bool,
}

impl AnswerBody {
    pub(crate) fn new(inner: Body, call: Call) -> Self {
        Self {
            inner,
            call,
            cut: None,
            ended: false,
        }
    }

    fn end(&mut self, code: Code) {
        if !std::mem::replace(&mut self.ended, true) {
            self.call.counters.count(code);
            self.call.place = None;
            self.call.in_hand = None;
        }
    }

    fn end_with(&mut self, status: &Status) -> Frame<Bytes> {
        self.end(status.code());
        // What would stop the inner body from being dropped properly is its own panic again.
        self.inner = Body::empty();
        Frame::trailers(headers_of(status))
    }
}

/// Whether a call went well, as most do: nothing else of its trailers matters.
fn is_ok(trailers: &HeaderMap) -> bool {
    trailers
        .get(Status::GRPC_STATUS)
        .is_some_and(|code| code.as_bytes() == b"0")
}

/// What a connection is given to write.
pub(crate) enum Outgoing {
    /// A gRPC answer.
    Answer(AnswerBody),
    /// A gRPC answer that is a status and nothing else.
    Bare(Body),
    /// A page.
    Page(axum::body::Body),
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Answer(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
            Self::Bare(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
            Self::Page(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Answer(body) => body.is_end_stream(),
            Self::Bare(body) => body.is_end_stream(),
            Self::Page(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Answer(body) => body.size_hint(),
            Self::Bare(body) => body.size_hint(),
            Self::Page(body) => body.size_hint(),
        }
    }
}

/// A status as headers or trailers.
pub fn headers_of(status: &Status) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if status.add_header(&mut headers).is_err() {
        // Only metadata that is no header can fail, and ours has none.
        headers.clear();
        headers.insert(
            Status::GRPC_STATUS,
            http::HeaderValue::from(status.code() as i32),
        );
    }
    headers
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let this = &mut *self;
        let polled = catch_unwind(AssertUnwindSafe(|| {
            Pin::new(&mut this.inner).poll_frame(context)
        }));
        match polled {
            Err(_) => {
                let status = refusals::panicked(self.call.domain);
                Poll::Ready(Some(Ok(self.end_with(&status))))
            }
            Ok(Poll::Ready(Some(Ok(frame)))) => match frame.into_trailers() {
                Ok(trailers) if is_ok(&trailers) => {
                    self.end(Code::Ok);
                    Poll::Ready(Some(Ok(Frame::trailers(trailers))))
                }
                Ok(trailers) => {
                    let bare = Status::from_header_map(&trailers);
                    let explained = bare.as_ref().and_then(|bare| {
                        refusals::explain(bare, &self.call.path, self.call.domain)
                    });
                    match explained {
                        Some(status) => Poll::Ready(Some(Ok(self.end_with(&status)))),
                        None => {
                            self.end(bare.map_or(Code::Ok, |bare| bare.code()));
                            Poll::Ready(Some(Ok(Frame::trailers(trailers))))
                        }
                    }
                }
                Err(frame) => Poll::Ready(Some(Ok(frame))),
            },
            Ok(Poll::Ready(Some(Err(error)))) => {
                self.end(Code::Internal);
                Poll::Ready(Some(Err(error)))
            }
            Ok(Poll::Ready(None)) => {
                self.end(Code::Ok);
                Poll::Ready(None)
            }
            Ok(Poll::Pending) => {
                let token = &this.call.cut;
                let cut = this
                    .cut
                    .get_or_insert_with(|| Box::pin(token.clone().cancelled_owned()));
                if cut.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                let status = refusals::shutting_down(self.call.domain);
                Poll::Ready(Some(Ok(self.end_with(&status))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        // The peer went away before the end.
        self.end(Code::Cancelled);
    }
}
