//! ReadEvents: the log's stored bytes as they are, from a cursor on. Reads past the driver, who
//! never waits for a reader.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use eventlog::{Bounds, Offset, ReadError, Reader, Record};
use proto::convert::to_timestamp;
use proto::cursor::Cursor;
use proto::error::{Problem, Reason};
use proto::frame::ReadEventsResponse;
use proto::id::Time;
use proto::wire;
use proto::wire::event_log_service_server::EventLogService;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::backup;
use crate::config;

/// Batches gather for so long once a reader is busy: messages are what costs.
const GATHERING: Duration = Duration::from_millis(2);
/// Messages that may wait for a reader; then reading waits for it.
const MESSAGES_AHEAD: usize = 8;

/// Serves the log to those who fold it.
pub(crate) struct EventLog {
    pub(crate) reader: Reader,
    /// The time of the newest durable event.
    pub(crate) head_time_us: Arc<AtomicI64>,
    pub(crate) limits: config::EventLog,
    pub(crate) places: Arc<Semaphore>,
    pub(crate) shutdown: CancellationToken,
}

#[tonic::async_trait]
impl EventLogService for EventLog {
    type ReadEventsStream = ReceiverStream<Result<ReadEventsResponse, Status>>;

    async fn read_events(
        &self,
        request: Request<wire::ReadEventsRequest>,
    ) -> Result<Response<Self::ReadEventsStream>, Status> {
        let request = request.into_inner();
        let from = begin(&self.reader, &request.cursor)?;
        let place = self.place()?;
        let (messages, stream) = mpsc::channel(MESSAGES_AHEAD);
        let reading = Reading {
            reader: self.reader.clone(),
            head_time_us: self.head_time_us.clone(),
            bytes_max: usize::try_from(self.limits.read_bytes_max.0).unwrap_or(1 << 20),
            sign_of_life: *self.limits.sign_of_life,
            messages,
        };
        let end = (!request.follow).then(|| self.reader.bounds().next);
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            let last = tokio::select! {
                done = reading.run(from, end) => done,
                () = shutdown.cancelled() => Err(Problem::new(
                    Reason::ShuttingDown,
                    "the orchestrator is stopping; resume at the last cursor",
                )
                .into()),
            };
            if let Err(status) = last {
                // A reader that went away needs no last word.
                let _ = reading.messages.send(Err(status)).await;
            }
            drop(place);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    type BackupStream = ReceiverStream<Result<wire::BackupResponse, Status>>;

    async fn backup(
        &self,
        _request: Request<wire::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let place = self.place()?;
        let bounds = self.reader.bounds();
        let backup = self.reader.backup();
        let backup = backup.map_err(|error| unreadable(&error, &bounds))?;
        let stream = backup::send(backup, place, self.shutdown.clone());
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl EventLog {
    /// A reader's place, for as long as it is held.
    fn place(&self) -> Result<OwnedSemaphorePermit, Problem> {
        self.places.clone().try_acquire_owned().map_err(|_| {
            Problem::new(
                Reason::SubscribersLimit,
                format!(
                    "{} readers follow the log already; raise event_log.max_readers",
                    self.limits.max_readers
                ),
            )
            .retry_after(Duration::from_secs(5))
        })
    }
}

/// Where to begin.
fn begin(reader: &Reader, text: &str) -> Result<Offset, Problem> {
    let bounds = reader.bounds();
    if text.is_empty() {
        return Ok(bounds.oldest);
    }
    let cursor = Cursor::parse(text)?;
    if cursor.log_id != bounds.log_id || cursor.partition != 0 {
        return Err(Problem::field(
            Reason::CursorForeign,
            "cursor",
            "cursor belongs to another log; begin anew without a cursor",
        ));
    }
    if cursor.offset < bounds.oldest {
        return Err(expired(&bounds));
    }
    if cursor.epoch > bounds.epoch || cursor.offset > bounds.next || rewritten(reader, &cursor)? {
        return Err(Problem::field(
            Reason::CursorAhead,
            "cursor",
            format!(
                "cursor is at offset {}, which this log lost or never had (it ends at {}); begin anew \
                 without a cursor",
                cursor.offset, bounds.next
            ),
        ));
    }
    Ok(cursor.offset)
}

/// Whether what the cursor's owner read last was lost and written anew: it stands there from a later
/// epoch than the cursor.
fn rewritten(reader: &Reader, cursor: &Cursor) -> Result<bool, Problem> {
    let bounds = reader.bounds();
    if cursor.epoch == bounds.epoch || cursor.offset <= bounds.oldest {
        return Ok(false);
    }
    let records = reader
        .read(cursor.offset - 1, 1, false)
        .map_err(|error| unreadable(&error, &bounds))?;
    Ok(records
        .first()
        .is_some_and(|record| record.epoch > cursor.epoch))
}

fn cursor(bounds: &Bounds, offset: Offset) -> String {
    Cursor {
        log_id: bounds.log_id,
        epoch: bounds.epoch,
        partition: 0,
        offset,
    }
    .to_string()
}

fn expired(bounds: &Bounds) -> Problem {
    Problem::field(
        Reason::CursorExpired,
        "cursor",
        format!(
            "cursor points to what was trimmed; the oldest retained event has offset {}, and the metadata \
             oldest_cursor goes on there",
            bounds.oldest
        ),
    )
    .with("oldest_cursor", cursor(bounds, bounds.oldest))
}

pub(super) fn unreadable(error: &ReadError, bounds: &Bounds) -> Problem {
    match error {
        ReadError::Trimmed { .. } => expired(bounds),
        ReadError::Damaged { .. } => Problem::new(
            Reason::LogDamaged,
            format!("the log can't be read on: {error}; restore a backup"),
        ),
        ReadError::PastEnd { .. } | ReadError::Io(_) => Problem::new(
            Reason::Internal,
            format!("the log can't be read: {error}; see the service's log"),
        ),
    }
}

struct Reading {
    reader: Reader,
    head_time_us: Arc<AtomicI64>,
    bytes_max: usize,
    sign_of_life: Duration,
    messages: mpsc::Sender<Result<ReadEventsResponse, Status>>,
}

impl Reading {
    /// Sends from `from` on, to `end` or for as long as there is a reader and a writer.
    async fn run(&self, mut from: Offset, end: Option<Offset>) -> Result<(), Status> {
        let mut sent_at = Instant::now();
        loop {
            let behind = self.reader.bounds().next.saturating_sub(from);
            if behind > 0 && end.is_none_or(|end| from < end) {
                for record in self.read(from, behind).await? {
                    from = record.end();
                    if self.send(Some(record), from).await.is_err() {
                        return Ok(());
                    }
                    if end.is_some_and(|end| from >= end) {
                        break;
                    }
                }
                let early = GATHERING.saturating_sub(sent_at.elapsed());
                sent_at = Instant::now();
                if end.is_none() && !early.is_zero() {
                    tokio::time::sleep(early).await;
                }
                continue;
            }
            if end.is_some() {
                return Ok(());
            }
            tokio::select! {
                more = self.reader.follow(from) => if !more {
                    return Err(Problem::new(
                        Reason::ShuttingDown,
                        "the orchestrator is stopping; resume at the last cursor",
                    )
                    .into());
                },
                () = tokio::time::sleep(self.sign_of_life) => {
                    if self.send(None, from).await.is_err() {
                        return Ok(());
                    }
                }
                () = self.messages.closed() => return Ok(()),
            }
        }
    }

    /// What has just been written is in the page cache and read on the spot; what is older may
    /// need the disk, and is read off the runtime's threads.
    async fn read(&self, from: Offset, behind: Offset) -> Result<Vec<Record>, Status> {
        const JUST_WRITTEN: Offset = 4096;
        let read = if behind <= JUST_WRITTEN {
            self.reader.read(from, self.bytes_max, false)
        } else {
            let (reader, bytes_max) = (self.reader.clone(), self.bytes_max);
            tokio::task::spawn_blocking(move || reader.read(from, bytes_max, false))
                .await
                .unwrap_or_else(|error| Err(ReadError::Io(error.to_string())))
        };
        read.map_err(|error| unreadable(&error, &self.reader.bounds()).into())
    }

    /// Fails when the reader has gone.
    async fn send(&self, record: Option<Record>, next: Offset) -> Result<(), ()> {
        let bounds = self.reader.bounds();
        let head_time_us = self.head_time_us.load(Ordering::Relaxed);
        let response = ReadEventsResponse {
            batch: record.map(|record| record.events),
            cursor: cursor(&bounds, next),
            head_offset: bounds.next,
            head_time: Some(to_timestamp(Time(head_time_us))),
            log_id: log_id_text(&bounds.log_id),
        };
        self.messages.send(Ok(response)).await.map_err(|_| ())
    }
}

/// The log's identity as text.
pub(crate) fn log_id_text(log_id: &[u8; 16]) -> String {
    uuid::Uuid::from_bytes(*log_id).to_string()
}
