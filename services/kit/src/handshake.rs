//! A connection that must begin to speak in time.
//!
//! HTTP's own time-outs begin once it is known which HTTP it is. A peer that connects and says
//! nothing, or says it byte by byte, would stay outside all of them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// The HTTP/2 preface, or enough of an HTTP/1 request to know that it is one.
const PREFACE_BYTES: usize = 24;
/// The preface and the head of the SETTINGS frame that each HTTP/2 client sends right after it.
const PREFACE_AND_SETTINGS_BYTES: usize = PREFACE_BYTES + 9;

/// A stream whose first bytes must come within a given time.
pub(crate) struct Handshake {
    stream: TcpStream,
    /// None once enough has come.
    deadline: Option<Pin<Box<Sleep>>>,
    received: usize,
    begins_with: [u8; 2],
}

impl Handshake {
    pub(crate) fn new(stream: TcpStream, timeout: Duration) -> Self {
        Self {
            stream,
            deadline: Some(Box::pin(tokio::time::sleep(timeout))),
            received: 0,
            begins_with: [0; 2],
        }
    }

    fn note(&mut self, bytes: &[u8]) {
        for (slot, byte) in self.begins_with.iter_mut().skip(self.received).zip(bytes) {
            *slot = *byte;
        }
        self.received += bytes.len();
        // "PRI": no HTTP/1 method that is in use begins so.
        let needed = match &self.begins_with {
            b"PR" => PREFACE_AND_SETTINGS_BYTES,
            _ => PREFACE_BYTES,
        };
        if self.received >= needed {
            self.deadline = None;
        }
    }
}

impl AsyncRead for Handshake {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if self.deadline.is_some() {
            self.note(&buffer.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Handshake {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
