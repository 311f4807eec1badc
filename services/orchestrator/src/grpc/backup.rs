//! Backup: what the log held at one instant, in pieces, with the hash of the whole at the end.
//!
//! A thread that may block reads and checks; it waits for whoever takes the pieces, and ends with him
//! or with the service. The driver is asked nothing.

use std::io::{self, Write};

use bytes::Bytes;
use eventlog::{Backup, Bounds};
use proto::error::{Problem, Reason};
use proto::wire::BackupResponse;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::event_log::{log_id_text, unreadable};

/// How much one message carries: a few of them are on the way, and none is large.
const PIECE_BYTES: usize = 256 * 1024;
/// Pieces that may wait for who takes them; then reading waits for him.
const PIECES_AHEAD: usize = 4;

/// The stream of the backup's pieces.
pub(super) fn send(
    backup: Backup,
    place: OwnedSemaphorePermit,
    shutdown: CancellationToken,
) -> mpsc::Receiver<Result<BackupResponse, Status>> {
    let (messages, stream) = mpsc::channel(PIECES_AHEAD);
    let (pieces, mut read) = mpsc::channel(1);
    tokio::task::spawn_blocking(move || read_all(&backup, pieces));
    tokio::spawn(async move {
        let forward = async {
            while let Some(piece) = read.recv().await {
                if messages.send(piece).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = forward => {}
            () = shutdown.cancelled() => {
                let stopping = Problem::new(
                    Reason::ShuttingDown,
                    "the orchestrator is stopping, and the backup is not whole; take another one",
                );
                // Who went away needs no last word, and who takes nothing gets none.
                let _ = messages.try_send(Err(stopping.into()));
            }
        }
        drop(place);
    });
    stream
}

fn read_all(backup: &Backup, pieces: mpsc::Sender<Result<BackupResponse, Status>>) {
    let bounds = backup.bounds();
    let blank = BackupResponse {
        size_bytes: backup.size_bytes(),
        oldest_offset: bounds.oldest,
        next_offset: bounds.next,
        log_id: log_id_text(&bounds.log_id),
        ..BackupResponse::default()
    };
    let mut out = Pieces {
        pieces,
        blank,
        piece: Vec::with_capacity(PIECE_BYTES),
        hasher: blake3::Hasher::new(),
    };
    let written = backup.write(&mut out);
    let last = match written {
        Ok(()) => Ok(BackupResponse {
            hash: Bytes::copy_from_slice(out.hasher.finalize().as_bytes()),
            ..out.blank
        }),
        Err(error) => Err(refused(&error, &bounds)),
    };
    // Who went away needs no last word.
    let _ = out.pieces.blocking_send(last);
}

fn refused(error: &eventlog::ReadError, bounds: &Bounds) -> Status {
    unreadable(error, bounds).into()
}

/// Cuts what is written into messages.
struct Pieces {
    pieces: mpsc::Sender<Result<BackupResponse, Status>>,
    /// A message without data.
    blank: BackupResponse,
    piece: Vec<u8>,
    hasher: blake3::Hasher,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE_BYTES - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        self.hasher.update(&full);
        let message = BackupResponse {
            data: full.into(),
            ..self.blank.clone()
        };
        self.pieces
            .blocking_send(Ok(message))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
