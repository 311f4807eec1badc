//! Calls whose answers write themselves, beside those that the generated code serves: the few that
//! every transaction needs. gRPC's framing is done here for them, so that nobody copies a payload on its
//! way out.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use proto::write::{Output as _, Rope};
use tokio_stream::Stream;
use tonic::body::Body;
use tonic::codec::BufferSettings;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;
use tonic::{Status, Streaming};
use tonic_prost::ProstCodec;

/// An answer that knows its bytes.
pub(crate) trait Written: Send + 'static {
    /// Writes them.
    fn put(self, out: &mut Rope);
}

/// What a service's future is.
pub(crate) type Served<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A request that is served, or given back.
pub(crate) type Taken = Result<Served<http::Response<Body>>, Box<http::Request<Body>>>;

/// A service with calls of its own.
pub(crate) trait Calls: Send + Sync + Sized + 'static {
    /// Serves a request; gives it back where the generated code shall serve it.
    fn serve(self: &Arc<Self>, request: http::Request<Body>, request_bytes_max: usize) -> Taken;
}

/// The calls of a service, wherever they are served.
pub(crate) struct Beside<T, G> {
    calls: Arc<T>,
    generated: G,
    request_bytes_max: usize,
}

impl<T, G> Beside<T, G> {
    /// Own calls take requests of up to so many bytes, as the generated code must be told by itself.
    pub(crate) fn new(calls: Arc<T>, generated: G, request_bytes_max: usize) -> Self {
        Self {
            calls,
            generated,
            request_bytes_max,
        }
    }
}

impl<T, G: Clone> Clone for Beside<T, G> {
    fn clone(&self) -> Self {
        Self::new(
            self.calls.clone(),
            self.generated.clone(),
            self.request_bytes_max,
        )
    }
}

impl<T, G: NamedService> NamedService for Beside<T, G> {
    const NAME: &'static str = G::NAME;
}

type Answered = Result<http::Response<Body>, Infallible>;

impl<T: Calls, G> Service<http::Request<Body>> for Beside<T, G>
where
    G: Service<
            http::Request<Body>,
            Response = http::Response<Body>,
            Error = Infallible,
            Future = Served<Answered>,
        >,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Served<Answered>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // What is compressed is the generated code's, to refuse or to read.
        let taken = match request.headers().contains_key("grpc-encoding") {
            true => Err(Box::new(request)),
            false => self.calls.serve(request, self.request_bytes_max),
        };
        match taken {
            Ok(served) => Box::pin(async move { Ok(served.await) }),
            Err(request) => self.generated.call(*request),
        }
    }
}

/// Before each message of a stream stands whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;
/// Messages that are ready at once share a frame of about so many bytes.
const FRAME_BYTES: usize = 32 << 10;
/// Most answers fit.
const ANSWER_BYTES: usize = 1 << 10;

/// The requests of a stream.
pub(crate) fn requests<U>(body: Body, bytes_max: usize) -> Streaming<U>
where
    U: prost::Message + Default + Send + 'static,
{
    // Most messages have a few hundred bytes, for which the default of 8 KiB is much.
    let settings = BufferSettings::new(1 << 10, FRAME_BYTES);
    let decoder = ProstCodec::<(), U>::raw_decoder(settings);
    Streaming::new_request(decoder, body, None, Some(bytes_max))
}

/// The request of a call that has one. Refusals are in the words of the generated code, of which kit
/// makes sense.
pub(crate) async fn only_request<U>(mut body: Body, bytes_max: usize) -> Result<U, Status>
where
    U: prost::Message + Default,
{
    let first = next_part(&mut body).await?;
    let first = first.ok_or_else(|| Status::internal("Missing request message."))?;
    let message = match end_of_message(&first, bytes_max)? {
        Some(end) if first.len() >= end => first.slice(PREFIX_BYTES..end),
        end => {
            let mut whole = BytesMut::with_capacity(end.unwrap_or_default());
            whole.extend_from_slice(&first);
            loop {
                let more = next_part(&mut body).await?;
                let more =
                    more.ok_or_else(|| Status::internal("Unexpected EOF decoding stream."))?;
                whole.extend_from_slice(&more);
                match end_of_message(&whole, bytes_max)? {
                    Some(end) if whole.len() >= end => {
                        break whole.split_to(end).freeze().slice(PREFIX_BYTES..);
                    }
                    Some(end) => whole.reserve(end - whole.len()),
                    None => {}
                }
            }
        }
    };
    // The peer says that there is no more, mostly with the last part.
    while !body.is_end_stream() && next_part(&mut body).await?.is_some() {}
    U::decode(message).map_err(|error| Status::internal(error.to_string()))
}

async fn next_part(body: &mut Body) -> Result<Option<Bytes>, Status> {
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(part) if part.is_empty() => {}
            Ok(part) => return Ok(Some(part)),
            Err(_trailers) => return Ok(None),
        }
    }
    Ok(None)
}

/// Where the message ends that begins here, once that is known.
fn end_of_message(bytes: &[u8], bytes_max: usize) -> Result<Option<usize>, Status> {
    let Some((prefix, _)) = bytes.split_first_chunk::<PREFIX_BYTES>() else {
        return Ok(None);
    };
    let [compressed, length @ ..] = *prefix;
    let length = u32::from_be_bytes(length) as usize;
    match compressed {
        0 if length <= bytes_max => Ok(Some(PREFIX_BYTES + length)),
        0 => Err(Status::out_of_range(format!(
            "Error, decoded message length too large: found {length} bytes, the limit is: \
             {bytes_max} bytes"
        ))),
        1 => Err(Status::internal(
            "protocol error: received message with compressed-flag but no grpc-encoding was specified",
        )),
        other => Err(Status::internal(format!(
            "protocol error: received message with invalid compression flag: {other} (valid flags \
             are 0 and 1), while sending request"
        ))),
    }
}

/// The answer to a call that has one.
pub(crate) fn answer<T: Written>(answer: Result<T, Status>) -> http::Response<Body> {
    match answer {
        Ok(message) => answers(tokio_stream::once(Ok(message))),
        Err(status) => status.into_http(),
    }
}

/// Answers, as they come.
pub(crate) fn answers<T, S>(messages: S) -> http::Response<Body>
where
    T: Written,
    S: Stream<Item = Result<T, Status>> + Send + Unpin + 'static,
{
    let mut response = http::Response::new(Body::new(Answers {
        messages: Some(messages),
        parts: VecDeque::new(),
        trailers: None,
    }));
    *response.version_mut() = http::Version::HTTP_2;
    let kind = http::HeaderValue::from_static("application/grpc");
    (response.headers_mut()).insert(http::header::CONTENT_TYPE, kind);
    response
}

/// Messages on their way out; what is large goes as it is.
struct Answers<S> {
    /// None once there are no more.
    messages: Option<S>,
    parts: VecDeque<Bytes>,
    trailers: Option<http::HeaderMap>,
}

impl<T, S> http_body::Body for Answers<S>
where
    T: Written,
    S: Stream<Item = Result<T, Status>> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(part) = self.parts.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(part))));
            }
            if let Some(trailers) = self.trailers.take() {
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
            let Some(messages) = &mut self.messages else {
                return Poll::Ready(None);
            };
            let mut rope = Rope::default();
            let ended = loop {
                match Pin::new(&mut *messages).poll_next(context) {
                    Poll::Pending if rope.written() == 0 => return Poll::Pending,
                    Poll::Pending => break None,
                    Poll::Ready(Some(Ok(message))) => {
                        put_framed(message, &mut rope);
                        if rope.written() >= FRAME_BYTES {
                            break None;
                        }
                    }
                    Poll::Ready(Some(Err(status))) => break Some(status),
                    Poll::Ready(None) => break Some(Status::ok("")),
                }
            };
            self.parts.extend(rope.into_parts());
            if let Some(status) = ended {
                self.messages = None;
                self.trailers = Some(kit::headers_of(&status));
            }
        }
    }

    /// At least what is ready.
    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::new();
        hint.set_lower(self.parts.iter().map(|part| part.len() as u64).sum());
        hint
    }
}

fn put_framed(message: impl Written, rope: &mut Rope) {
    let bytes = rope.bytes();
    bytes.reserve(ANSWER_BYTES);
    let start = bytes.len();
    bytes.extend_from_slice(&[0; PREFIX_BYTES]);
    let before = rope.written();
    message.put(rope);
    // No message has 4 GiB: its payloads were sent here.
    let length = u32::try_from(rope.written() - before).unwrap_or(u32::MAX);
    rope.bytes()[start + 1..start + PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use http_body_util::StreamBody;
    use prost::Message as _;
    use proto::wire::GetStatusRequest;
    use proto::write::{LARGE_BYTES, payload};
    use tonic::Code;

    use super::*;

    fn framed(id: &str) -> Vec<u8> {
        let request = GetStatusRequest {
            transaction_id: id.to_owned(),
            ..Default::default()
        };
        let message = request.encode_to_vec();
        let length = (message.len() as u32).to_be_bytes();
        [&[0][..], &length, &message].concat()
    }

    async fn heard(parts: Vec<&[u8]>, bytes_max: usize) -> Result<String, Status> {
        let parts: Vec<_> = parts.into_iter().map(Bytes::copy_from_slice).collect();
        let frames = parts
            .into_iter()
            .map(|part| Ok::<_, Status>(Frame::data(part)));
        let body = Body::new(StreamBody::new(tokio_stream::iter(frames)));
        let request: GetStatusRequest = only_request(body, bytes_max).await?;
        Ok(request.transaction_id)
    }

    #[tokio::test]
    async fn a_request_is_the_same_in_however_many_parts_it_comes() {
        let id = "x".repeat(300);
        let bytes = framed(&id);
        for size in [1, 2, 4, 5, 6, 7, 100, 305, bytes.len()] {
            let parts = bytes.chunks(size).collect();
            assert_eq!(heard(parts, 1 << 10).await.unwrap(), id, "parts of {size}");
        }
        let with_empty_parts = vec![&b""[..], &bytes[..3], b"", &bytes[3..], b""];
        assert_eq!(heard(with_empty_parts, 1 << 10).await.unwrap(), id);
    }

    #[tokio::test]
    async fn what_is_no_request_is_refused_by_the_codes_of_the_generated_code() {
        let bytes = framed("abc");
        let compressed = [&[1], &bytes[1..]].concat();
        let flagged = [&[7], &bytes[1..]].concat();
        let no_message = [0, 0, 0, 0, 2, 0x0a, 0x09];
        for (parts, bytes_max, code, what) in [
            (vec![], 99, Code::Internal, "Missing request message"),
            (vec![&bytes[..7]], 99, Code::Internal, "Unexpected EOF"),
            (vec![&bytes[..3]], 99, Code::Internal, "Unexpected EOF"),
            (
                vec![&bytes[..]],
                4,
                Code::OutOfRange,
                "found 5 bytes, the limit is: 4 bytes",
            ),
            (
                vec![&bytes[..5]],
                4,
                Code::OutOfRange,
                "message length too large",
            ),
            (vec![&compressed[..]], 99, Code::Internal, "compressed-flag"),
            (
                vec![&flagged[..]],
                99,
                Code::Internal,
                "compression flag: 7",
            ),
            (vec![&no_message[..]], 99, Code::Internal, ""),
        ] {
            let refused = heard(parts, bytes_max).await.unwrap_err();
            assert_eq!(refused.code(), code, "{refused:?}");
            assert!(refused.message().contains(what), "{refused:?}");
        }
    }

    struct Bulk(Bytes);

    impl Written for Bulk {
        fn put(self, out: &mut Rope) {
            payload(out, 1, &self.0);
        }
    }

    #[tokio::test]
    async fn answers_share_a_part_and_large_payloads_are_not_copied() {
        let sizes = [3, LARGE_BYTES, 5, 6];
        let payloads = sizes.map(|size| Bytes::from(vec![b'x'; size]));
        let messages = payloads.clone().map(|payload| Ok(Bulk(payload)));
        let refused = [Err(Status::aborted("enough"))];
        let stream = tokio_stream::iter(messages.into_iter().chain(refused));
        let mut body = answers(stream).into_body();
        let (mut parts, mut trailers) = (Vec::new(), None);
        while let Some(frame) = body.frame().await {
            match frame.unwrap().into_data() {
                Ok(part) => parts.push(part),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        assert_eq!(
            parts.len(),
            3,
            "what is small, the large one, and what is small"
        );
        assert_eq!(parts[1].as_ptr(), payloads[1].as_ptr());
        let mut bytes = &parts.concat()[..];
        for payload in payloads {
            let (prefix, rest) = bytes.split_at(PREFIX_BYTES);
            let length = u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize;
            let mut expected = Vec::new();
            prost::encoding::bytes::encode(1, &payload, &mut expected);
            assert_eq!((prefix[0], &rest[..length]), (0, &expected[..]));
            bytes = &rest[length..];
        }
        assert!(bytes.is_empty());
        assert_eq!(trailers.unwrap()["grpc-status"], "10");
    }
}
