//! What a connection writes in one turn, gathered into one write.
//!
//! HTTP/2 asks for a write and a flush with each answer's body; two hundred answers that are ready at
//! once would be two hundred system calls. Here a small write is kept until the connection's turn is
//! over, and a large one goes through as it is. Nothing waits for a later turn.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is kept at the most; more is written before the turn is over.
const KEPT_BYTES_MAX: usize = 64 << 10;
/// A write of so many bytes is worth a system call of its own.
const LARGE_BYTES: usize = 8 << 10;

/// A connection's stream, as HTTP has it.
pub(crate) struct Gathering<S>(Arc<Mutex<Kept<S>>>);

/// The same stream, as the connection's task has it.
pub(crate) struct Turns<S>(Arc<Mutex<Kept<S>>>);

struct Kept<S> {
    stream: S,
    bytes: Vec<u8>,
    /// How many of them are written.
    written: usize,
}

/// Gathers what is written to `stream` while [`Turns::of`] polls its connection.
pub(crate) fn gathering<S>(stream: S) -> (Gathering<S>, Turns<S>) {
    let kept = Arc::new(Mutex::new(Kept {
        stream,
        bytes: Vec::new(),
        written: 0,
    }));
    (Gathering(kept.clone()), Turns(kept))
}

// Only one task ever has the stream, so nobody waits for a lock.
fn locked<S>(kept: &Mutex<Kept<S>>) -> MutexGuard<'_, Kept<S>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: AsyncWrite + Unpin> Turns<S> {
    /// The connection, with each of its turns written at its end.
    pub(crate) fn of<F: Future>(
        &self,
        mut connection: Pin<&mut F>,
    ) -> impl Future<Output = F::Output> {
        poll_fn(move |context| {
            let polled = connection.as_mut().poll(context);
            // A stream that broke says so at the connection's next read or write.
            let _ = locked(&self.0).poll_written(context);
            polled
        })
    }
}

impl<S: AsyncWrite + Unpin> Kept<S> {
    fn poll_written(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.bytes.len() {
            let stream = Pin::new(&mut self.stream);
            let more = ready!(stream.poll_write(context, &self.bytes[self.written..]))?;
            if more == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += more;
        }
        self.bytes.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Whether so many more bytes are kept; what was kept is written first where they are not.
    fn poll_keeps(&mut self, context: &mut Context<'_>, more: usize) -> Poll<io::Result<bool>> {
        let keeps = more < LARGE_BYTES;
        if !keeps || self.bytes.len() + more > KEPT_BYTES_MAX {
            ready!(self.poll_written(context))?;
        }
        Poll::Ready(Ok(keeps))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathering<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut locked(&self.0).stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathering<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut kept = locked(&self.0);
        if ready!(kept.poll_keeps(context, bytes.len()))? {
            kept.bytes.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut kept.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut kept = locked(&self.0);
        let length = parts.iter().map(|part| part.len()).sum();
        if ready!(kept.poll_keeps(context, length))? {
            parts
                .iter()
                .for_each(|part| kept.bytes.extend_from_slice(part));
            return Poll::Ready(Ok(length));
        }
        Pin::new(&mut kept.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        locked(&self.0).stream.is_write_vectored()
    }

    /// The end of the turn does it.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut kept = locked(&self.0);
        ready!(kept.poll_written(context))?;
        Pin::new(&mut kept.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_turn_is_written_at_its_end_and_in_order() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let (mut stream, turns) = gathering(near);
        let large = vec![b'l'; LARGE_BYTES];
        let connection = pin!(async {
            stream.write_all(b"small ").await?;
            stream.flush().await?;
            assert_eq!(locked(&stream.0).bytes, b"small ");
            stream.write_all(&large).await?;
            assert!(
                locked(&stream.0).bytes.is_empty(),
                "what came before goes before"
            );
            stream.write_all(b" end").await
        });
        turns.of(connection).await.expect("written");
        let mut read = vec![0; 6 + LARGE_BYTES + 4];
        far.read_exact(&mut read).await.expect("all of it");
        assert_eq!(read, [b"small ".as_slice(), &large, b" end"].concat());
    }

    #[tokio::test]
    async fn a_peer_that_reads_nothing_stops_the_writer_within_the_bound() {
        let (near, far) = tokio::io::duplex(1 << 10);
        let (mut stream, turns) = gathering(near);
        let mut written = 0;
        {
            let mut connection = pin!(async {
                loop {
                    written += stream.write(&[7; 1 << 10]).await.expect("a stream");
                }
            });
            let mut turns = pin!(turns.of(connection.as_mut()));
            let turned: Poll<()> =
                poll_fn(|context| Poll::Ready(turns.as_mut().poll(context))).await;
            assert!(turned.is_pending());
        }
        assert!(
            written <= KEPT_BYTES_MAX + (2 << 10),
            "{written} bytes were taken"
        );
        assert!(written >= KEPT_BYTES_MAX, "{written} bytes were taken");
        drop(far);
        let broken =
            locked(&turns.0).poll_written(&mut Context::from_waker(std::task::Waker::noop()));
        assert!(matches!(broken, Poll::Ready(Err(_))));
    }

    #[tokio::test]
    async fn the_end_of_a_stream_comes_after_what_was_written() {
        let (near, mut far) = tokio::io::duplex(1 << 10);
        let (mut stream, _) = gathering(near);
        stream.write_all(b"last words").await.expect("kept");
        stream.shutdown().await.expect("shut down");
        drop(stream);
        let mut read = Vec::new();
        far.read_to_end(&mut read).await.expect("the end");
        assert_eq!(read, b"last words");
    }
}
