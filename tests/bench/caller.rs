//! Calls straight over HTTP/2. A load generator shares the machine with what it measures: a generated
//! client would take twice as much of it for itself.

use anyhow::{Context as _, Result, ensure};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Uri, Version};
use prost::Message;
use tokio::net::TcpStream;

/// What stands before each message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;
const WINDOW_BYTES: u32 = 8 << 20;
/// A large answer comes in one piece then, rather than in one for each 16 KiB.
const FRAME_BYTES: u32 = 256 << 10;

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
            .max_frame_size(FRAME_BYTES)
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
    pub(crate) async fn call<T: Message + Default>(&self, message: impl Message) -> Result<T> {
        let mut stream = self.open([message], true).await?;
        let mut answer = None;
        while let Some(messages) = stream.hear().await? {
            answer = messages.into_iter().next().or(answer);
        }
        Ok(T::decode(answer.context("an answer without a message")?)?)
    }

    /// Calls a method with messages, after which there are no more or [`Stream::say`] says them.
    pub(crate) async fn open(
        &self,
        messages: impl IntoIterator<Item = impl Message>,
        whole: bool,
    ) -> Result<Stream> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.method.clone())
            .version(Version::HTTP_2)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let mut connection = self.connection.clone().ready().await?;
        let (answer, mut said) = connection.send_request(request, false)?;
        said.send_data(framed(messages)?, whole)?;
        let (head, heard) = answer.await?.into_parts();
        Ok(Stream {
            said,
            head: head.headers,
            heard,
            begun: BytesMut::new(),
        })
    }
}

/// A call under way.
pub(crate) struct Stream {
    said: SendStream<Bytes>,
    head: HeaderMap,
    heard: RecvStream,
    /// The beginning of a message that came in pieces.
    begun: BytesMut,
}

impl Stream {
    /// Says more.
    pub(crate) fn say(&mut self, messages: impl IntoIterator<Item = impl Message>) -> Result<()> {
        Ok(self.said.send_data(framed(messages)?, false)?)
    }

    /// The messages that came next, or none where it ended well.
    pub(crate) async fn hear(&mut self) -> Result<Option<Vec<Bytes>>> {
        let mut messages = Vec::new();
        while messages.is_empty() {
            let Some(more) = self.heard.data().await else {
                self.check_status().await?;
                return Ok(None);
            };
            let more = more?;
            self.heard.flow_control().release_capacity(more.len())?;
            self.sort(more, &mut messages)?;
        }
        Ok(Some(messages))
    }

    /// Takes the messages out of what came. One that came whole is not copied, and one that came in
    /// pieces only once, into room for all of it.
    fn sort(&mut self, mut more: Bytes, messages: &mut Vec<Bytes>) -> Result<()> {
        while !more.is_empty() {
            let end = message_end(match self.begun.is_empty() {
                true => &more,
                false => &self.begun,
            })?;
            // Without a whole prefix, that comes first.
            let missing = end.unwrap_or(PREFIX_BYTES) - self.begun.len();
            let piece = more.split_to(missing.min(more.len()));
            let mut message = if self.begun.is_empty() && end == Some(piece.len()) {
                piece
            } else {
                self.begun.reserve(missing);
                self.begun.extend_from_slice(&piece);
                if message_end(&self.begun)? != Some(self.begun.len()) {
                    continue;
                }
                self.begun.split().freeze()
            };
            message.advance(PREFIX_BYTES);
            messages.push(message);
        }
        Ok(())
    }

    async fn check_status(&mut self) -> Result<()> {
        // A refusal has its status in the head.
        let trailers = self.heard.trailers().await?;
        let trailers = trailers.as_ref().unwrap_or(&self.head);
        let status = trailers.get("grpc-status").context("no status")?;
        let message = trailers.get("grpc-message");
        ensure!(status == "0", "refused with {status:?}: {message:?}");
        Ok(())
    }
}

/// Where the message ends that begins here, if its prefix is there.
fn message_end(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(length) = bytes.get(1..PREFIX_BYTES) else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(length.try_into()?);
    Ok(Some(PREFIX_BYTES + length as usize))
}

fn framed(messages: impl IntoIterator<Item = impl Message>) -> Result<Bytes> {
    let mut bytes = BytesMut::new();
    for message in messages {
        let length = message.encoded_len();
        bytes.reserve(PREFIX_BYTES + length);
        bytes.put_u8(0);
        bytes.put_u32(u32::try_from(length)?);
        message.encode(&mut bytes)?;
    }
    Ok(bytes.freeze())
}
