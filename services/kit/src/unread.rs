//! Answers that their callers have not read yet: bounded in all, since whoever asks and reads nothing
//! would otherwise fill the memory.
//!
//! HTTP/2 asks a body for nothing until the caller takes something. So each body is asked at once for
//! its first frame, and for how much comes behind it. A frame that was handed over counts until
//! HTTP/2 lets go of it. Over the bound the connection that holds most is cut off.

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use tokio::task::AbortHandle;

use crate::answer_body::Outgoing;

/// Smaller parts don't count: what surrounds them takes as much, and is bounded by their number.
const COUNTED_BYTES_MIN: u64 = 1 << 10;

/// All connections of a server.
pub(crate) struct Unread {
    bytes_max: u64,
    bytes: AtomicU64,
    connections: Mutex<HashMap<u64, Arc<Held>>>,
    next: AtomicU64,
}

/// What one connection holds.
struct Held {
    all: Arc<Unread>,
    peer: SocketAddr,
    bytes: AtomicU64,
    is_cut: AtomicBool,
    /// Of the connection's task.
    task: OnceLock<AbortHandle>,
}

/// A connection, for as long as it is open.
pub(crate) struct Connection {
    number: u64,
    held: Arc<Held>,
}

impl Unread {
    pub(crate) fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self {
            bytes_max,
            bytes: AtomicU64::new(0),
            connections: Mutex::default(),
            next: AtomicU64::new(0),
        })
    }

    /// One more connection.
    pub(crate) fn connection(self: &Arc<Self>, peer: SocketAddr) -> Connection {
        let held = Arc::new(Held {
            all: self.clone(),
            peer,
            bytes: AtomicU64::new(0),
            is_cut: AtomicBool::new(false),
            task: OnceLock::new(),
        });
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.connections().insert(number, held.clone());
        Connection { number, held }
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<u64, Arc<Held>>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts off whoever holds most, until the others are within the bound.
    fn make_room(&self) {
        let connections = self.connections();
        loop {
            let others = connections.values().filter(|held| !held.is_cut());
            let bytes: u64 = others.clone().map(|held| held.bytes()).sum();
            let Some(most) = others.max_by_key(|held| held.bytes()) else {
                return;
            };
            if bytes <= self.bytes_max {
                return;
            }
            tracing::warn!(
                peer = %most.peer, bytes = most.bytes(), bytes_max = self.bytes_max,
                "a connection was cut off: answers that callers have not read take more than \
                 server.unread_bytes_max, and most of them are its own"
            );
            most.cut_off();
        }
    }
}

impl Held {
    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Relaxed)
    }

    fn cut_off(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

impl Connection {
    /// What counts the answers that go over it.
    pub(crate) fn counter(&self) -> UnreadCounter {
        UnreadCounter(self.held.clone())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.held.all.connections().remove(&self.number);
    }
}

/// Counts what a connection's caller has not read. Each request of a stream, or for one, has it among
/// its extensions, to count what waits for the stream to be read on.
#[derive(Clone)]
pub struct UnreadCounter(Arc<Held>);

impl UnreadCounter {
    /// Says which task the connection is, to be ended when it is cut off.
    pub(crate) fn is_of(&self, task: AbortHandle) {
        // Said once.
        let _ = self.0.task.set(task);
        if self.0.is_cut() {
            self.0.cut_off();
        }
    }

    /// So many bytes count until this is dropped; few ones don't.
    pub fn count(&self, bytes: u64) -> UnreadBytes {
        let mut count = UnreadBytes {
            held: self.0.clone(),
            bytes: 0,
        };
        count.set(bytes);
        count
    }

    /// An answer that counts until it is read.
    pub(crate) async fn answer(self, response: Response<Outgoing>) -> Response<Counted> {
        let (parts, mut inner) = response.into_parts();
        if self.0.is_cut() {
            // It goes nowhere.
            inner = Outgoing::Bare(tonic::body::Body::empty());
        }
        let mut first = None;
        if !inner.is_end_stream() {
            let polled = poll_fn(|context| Poll::Ready(Pin::new(&mut inner).poll_frame(context)));
            if let Poll::Ready(frame) = polled.await {
                first = Some(frame);
            }
        }
        let mut counted = Counted {
            inner,
            first,
            ahead: self.count(0),
        };
        counted.look_ahead();
        Response::from_parts(parts, counted)
    }
}

/// Bytes that are not read yet.
pub struct UnreadBytes {
    held: Arc<Held>,
    bytes: u64,
}

impl UnreadBytes {
    fn set(&mut self, bytes: u64) {
        let bytes = match bytes < COUNTED_BYTES_MIN {
            true => 0,
            false => bytes,
        };
        let before = std::mem::replace(&mut self.bytes, bytes);
        let (held, all) = (&self.held.bytes, &self.held.all.bytes);
        if bytes > before {
            let more = bytes - before;
            held.fetch_add(more, Ordering::Relaxed);
            let sum = all.fetch_add(more, Ordering::Relaxed) + more;
            if sum > self.held.all.bytes_max {
                self.held.all.make_room();
            }
        } else if bytes < before {
            held.fetch_sub(before - bytes, Ordering::Relaxed);
            all.fetch_sub(before - bytes, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for UnreadCounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unread of {}", self.0.peer)
    }
}

impl fmt::Debug for UnreadBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes unread of {}", self.bytes, self.held.peer)
    }
}

impl Drop for UnreadBytes {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// A part of an answer that counts until it is dropped.
struct Part {
    bytes: Bytes,
    _count: UnreadBytes,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

type Polled = Option<Result<Frame<Bytes>, <Outgoing as Body>::Error>>;

/// An answer of which each part counts.
pub(crate) struct Counted {
    inner: Outgoing,
    /// What the body said at once.
    first: Option<Polled>,
    /// What is yet to be handed over.
    ahead: UnreadBytes,
}

impl Counted {
    /// Bytes of the first frame, while it is here.
    fn first_bytes(&self) -> u64 {
        match &self.first {
            Some(Some(Ok(frame))) => frame.data_ref().map_or(0, |data| data.len() as u64),
            _ => 0,
        }
    }

    fn look_ahead(&mut self) {
        let bytes = self.first_bytes() + self.inner.size_hint().lower();
        self.ahead.set(bytes);
    }

    fn part(&self, bytes: Bytes) -> Bytes {
        if (bytes.len() as u64) < COUNTED_BYTES_MIN {
            return bytes;
        }
        let counter = UnreadCounter(self.ahead.held.clone());
        Bytes::from_owner(Part {
            _count: counter.count(bytes.len() as u64),
            bytes,
        })
    }
}

impl Body for Counted {
    type Data = Bytes;
    type Error = <Outgoing as Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let polled = match self.first.take() {
            Some(first) => Poll::Ready(first),
            None => Pin::new(&mut self.inner).poll_frame(context),
        };
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && (frame.is_data() || self.ahead.bytes > 0)
        {
            self.look_ahead();
        }
        polled.map_ok(|frame| frame.map_data(|data| self.part(data)))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.inner.size_hint();
        let first = self.first_bytes();
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + first);
        }
        hint.set_lower(hint.lower() + first);
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = 5_000;

    async fn answer(connection: &Connection) -> Counted {
        let page = Outgoing::Page(axum::body::Body::from(vec![b'x'; BYTES]));
        let counted = connection.counter().answer(Response::new(page)).await;
        counted.into_body()
    }

    fn peer() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 1))
    }

    #[tokio::test]
    async fn an_answer_counts_until_its_last_part_is_dropped_and_says_how_long_it_is() {
        let unread = Unread::new(1 << 20);
        let connection = unread.connection(peer());
        let counted = || connection.held.bytes() as usize;
        let mut body = answer(&connection).await;
        assert_eq!(body.size_hint().exact(), Some(BYTES as u64));
        assert_eq!(counted(), BYTES, "before anything was asked for");
        let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
        assert_eq!(body.size_hint().exact(), Some(0));
        drop(body);
        let mut bytes = frame
            .and_then(Result::ok)
            .and_then(|frame| frame.into_data().ok());
        let rest = bytes.as_mut().map(|bytes| bytes.split_off(BYTES / 2));
        drop(bytes);
        assert_eq!(counted(), BYTES, "while a part of it is to be sent");
        drop(rest);
        assert_eq!(counted(), 0);
        drop(answer(&connection).await);
        assert_eq!(unread.bytes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn over_the_bound_those_go_that_hold_most() {
        let unread = Unread::new(5 * BYTES as u64);
        let [modest, worse, worst] = [1, 2, 3].map(|_| unread.connection(peer()));
        let is_cut = |connection: &Connection| connection.held.is_cut();
        let mut answers = Vec::new();
        for connection in [&modest, &worse, &worse, &worst, &worst] {
            answers.push(answer(connection).await);
        }
        answers.push(answer(&worst).await);
        assert_eq!([&modest, &worse, &worst].map(is_cut), [false, false, true]);
        // What the worst still holds is about to go.
        for _ in 0..2 {
            answers.push(answer(&worse).await);
        }
        assert!(!is_cut(&worse));
        answers.push(answer(&worse).await);
        assert_eq!([&modest, &worse].map(is_cut), [false, true]);
        drop((worse, worst));
        assert_eq!(unread.connections().len(), 1);
    }
}
