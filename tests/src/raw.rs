//! Calls with bytes instead of messages: any method, any request, however wrong.

use std::str::FromStr as _;

use bytes::{Buf as _, BufMut as _, Bytes};
use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

/// A connection to `address` that is made when it is first used.
pub fn channel(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    endpoint.connect_lazy()
}

/// Calls `path`, such as `/multiagents.v1.OrchestratorService/GetStatus`, with `request`, and gives
/// the first message of the answer; none where the stream ends without one.
pub async fn call(
    channel: &Channel,
    path: &str,
    request: Request<Bytes>,
) -> Result<Option<Bytes>, Status> {
    let (metadata, extensions, message) = request.into_parts();
    let stream = tokio_stream::once(message);
    let request = Request::from_parts(metadata, extensions, stream);
    let mut grpc = Grpc::new(channel.clone());
    let ready = grpc.ready().await;
    ready.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::from_str(path).expect("a path");
    // What a unary method sees is one message and the end, which is what this stream has.
    let mut answer = grpc.streaming(request, path, RawCodec).await?.into_inner();
    answer.message().await
}

/// The reason of a refusal: its ErrorInfo's.
pub fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.map(|info| info.reason).unwrap_or_default()
}

#[derive(Clone, Copy, Debug, Default)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let size = from.remaining();
        Ok(Some(from.copy_to_bytes(size)))
    }
}
