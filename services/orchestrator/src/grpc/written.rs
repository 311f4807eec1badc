//! Calls whose answers write themselves, beside those that the generated code serves: the few that
//! every transaction needs.

use std::convert::Infallible;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tonic::Status;
use tonic::body::Body;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic::codegen::{Service, http};
use tonic::server::{Grpc, NamedService};
use tonic_prost::{ProstCodec, ProstDecoder};

/// An answer that knows its bytes.
pub(crate) trait Written: Send + 'static {
    /// Puts them out; `scratch` is empty, and used again.
    fn put(&self, scratch: &mut Vec<u8>, out: &mut EncodeBuf<'_>);
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
        match self.calls.serve(request, self.request_bytes_max) {
            Ok(served) => Box::pin(async move { Ok(served.await) }),
            Err(request) => self.generated.call(*request),
        }
    }
}

/// What calls with such answers are served by.
pub(crate) fn grpc<T, U>(request_bytes_max: usize) -> Grpc<impl Codec<Encode = T, Decode = U>>
where
    T: Written,
    U: prost::Message + Default + Send + 'static,
{
    let codec = WrittenCodec::<T, U>(PhantomData);
    Grpc::new(codec).max_decoding_message_size(request_bytes_max)
}

/// Most messages have a few hundred bytes, for which the default of 8 KiB costs each call two large
/// allocations; more is grown into, and sent on at 32 KiB.
fn buffers() -> BufferSettings {
    BufferSettings::new(1 << 10, 32 << 10)
}

struct WrittenCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Codec for WrittenCodec<T, U>
where
    T: Written,
    U: prost::Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Writer<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Writer<T> {
        // Most answers fit.
        Writer(Vec::with_capacity(2 << 10), PhantomData)
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstCodec::<(), U>::raw_decoder(buffers())
    }
}

struct Writer<T>(Vec<u8>, PhantomData<T>);

impl<T: Written> Encoder for Writer<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, answer: T, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        self.0.clear();
        answer.put(&mut self.0, out);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}
