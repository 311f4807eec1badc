//! Unary calls straight over HTTP/2. A load generator shares the machine with what it measures: a
//! generated client would take half as much of it again for itself.

use anyhow::{Context as _, Result, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{Method, Request, Uri, Version};
use prost::Message;
use tokio::net::TcpStream;

/// What stands before each message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;
const WINDOW_BYTES: u32 = 8 << 20;

/// One method over one connection, which others may use as well.
#[derive(Clone)]
pub(crate) struct Caller {
    connection: SendRequest<Bytes>,
    method: Uri,
}

impl Caller {
    /// Connects, to call `/package.Service/Method`.
    pub(crate) async fn connect(address: &str, method: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (connection, driving) = h2::client::Builder::new()
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .handshake(stream)
            .await?;
        // What breaks it, every call hears.
        tokio::spawn(driving);
        Ok(Self {
            connection,
            method: format!("http://{address}{method}").parse()?,
        })
    }

    /// Calls, and gives the answer.
    pub(crate) async fn call<T: Message + Default>(&self, message: &impl Message) -> Result<T> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.method.clone())
            .version(Version::HTTP_2)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let mut connection = self.connection.clone().ready().await?;
        let (answer, mut said) = connection.send_request(request, false)?;
        said.send_data(framed(message)?, true)?;
        let (head, mut body) = answer.await?.into_parts();
        let mut bytes = BytesMut::new();
        while let Some(more) = body.data().await {
            let more = more?;
            body.flow_control().release_capacity(more.len())?;
            bytes.extend_from_slice(&more);
        }
        // A refusal has its status in the head.
        let trailers = body.trailers().await?.unwrap_or(head.headers);
        let status = trailers.get("grpc-status").context("no status")?;
        ensure!(
            status == "0",
            "refused with {status:?}: {:?}",
            trailers.get("grpc-message")
        );
        ensure!(bytes.len() >= PREFIX_BYTES, "an answer without a message");
        Ok(T::decode(bytes.split_off(PREFIX_BYTES))?)
    }
}

fn framed(message: &impl Message) -> Result<Bytes> {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length)?);
    message.encode(&mut bytes)?;
    Ok(bytes.freeze())
}
