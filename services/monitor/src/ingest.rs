//! Tails one orchestrator's log from the place that the monitor's own log says, and hands each
//! batch to the recorder as it came.
//!
//! A stream that ends is opened again, with back-off, from the place that was reached. Whatever
//! can't be had or can't be read is said loudly and written down; nothing is passed over silently.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kit::status::reason_of;
use proto::batch;
use proto::convert::from_timestamp;
use proto::error::{Reason, word};
use proto::event::Kind;
use proto::frame::ReadEventsResponse;
use proto::id::Time;
use proto::wire;
use proto::wire::event_log_service_client::EventLogServiceClient;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use crate::entry::{self, Note};
use crate::fold::{Events, What};
use crate::folds::sources::Source;
use crate::recorder::Input;

/// The first pause after a stream ended, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A source gives a sign of life each 10 s; after this long without any it is gone.
const SILENCE_MAX: Duration = Duration::from_secs(25);
/// Larger than any batch that an orchestrator writes.
const MESSAGE_BYTES_MAX: usize = 72 * 1024 * 1024;

/// Where to go on.
#[derive(Clone, Debug, Default)]
struct Place {
    cursor: String,
    /// The offset of the next event that isn't taken in.
    next: u64,
    log_id: String,
    /// The highest epoch that was heard of.
    epoch: u64,
    /// True while the log is read anew after it lost its tail: what was taken in is passed over
    /// up to the first start of a later epoch.
    resyncing: bool,
}

/// Why a stream ended.
enum Ended {
    /// The recorder is gone, or the monitor stops.
    Stopping,
    /// The source or the way to it failed.
    Failed(Status),
}

/// Tails one source until the shutdown.
pub async fn tail(
    address: Arc<str>,
    from: Source,
    inbox: mpsc::Sender<Input>,
    shutdown: CancellationToken,
) {
    let tail = Tail {
        place: Place {
            cursor: from.cursor,
            next: from.next,
            log_id: from.log_id,
            epoch: from.epoch,
            resyncing: false,
        },
        source: address,
        inbox,
        connected: None,
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = tail.run() => {}
    }
}

struct Tail {
    source: Arc<str>,
    place: Place,
    inbox: mpsc::Sender<Input>,
    /// What was written down last; none before the first try.
    connected: Option<bool>,
}

impl Tail {
    async fn run(mut self) {
        let mut pause = PAUSE_MIN;
        loop {
            let before = self.place.next;
            let status = match self.stream().await {
                Ended::Stopping => return,
                Ended::Failed(status) => status,
            };
            if self.place.next > before {
                pause = PAUSE_MIN;
            }
            let reason = format!("{:?}: {}", status.code(), status.message());
            if self.connected == Some(false) {
                tracing::debug!(source = %self.source, reason, "the source can't be reached yet");
            } else {
                tracing::warn!(source = %self.source, reason, "the source's events don't come");
                self.connected = Some(false);
                let what = What::Disconnected {
                    source: self.source.clone(),
                    reason,
                };
                if self.note(Note::one(what)).await.is_err() {
                    return;
                }
            }
            if self.recover(&status).await.is_err() {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Puts the place right when the source says that it is wrong.
    async fn recover(&mut self, status: &Status) -> Result<(), Ended> {
        let reason = reason_of(status).unwrap_or_default();
        let is = |wanted: Reason| reason == word(wanted);
        if is(Reason::CursorForeign) {
            self.replaced("foreign", 0).await?;
        } else if is(Reason::CursorAhead) {
            tracing::error!(
                source = %self.source, next = self.place.next,
                "the source lost the tail of its log; it is read anew up to its next start"
            );
            self.place.cursor.clear();
            self.place.resyncing = true;
        } else if is(Reason::CursorExpired) || is(Reason::CursorInvalid) {
            // The first batch from its oldest event shows what is missing.
            self.place.cursor.clear();
        }
        Ok(())
    }

    /// Reads until something fails.
    async fn stream(&mut self) -> Ended {
        let mut stream = match self.open().await {
            Ok(stream) => stream,
            Err(status) => return Ended::Failed(status),
        };
        // A source without events says nothing for a while, and is there all the same.
        if let Err(ended) = self.said_hello(&self.place.log_id.clone()).await {
            return ended;
        }
        loop {
            let message = match tokio::time::timeout(SILENCE_MAX, stream.message()).await {
                Ok(Ok(Some(message))) => message,
                Ok(Ok(None)) => return Ended::Failed(Status::unavailable("the source ended it")),
                Ok(Err(status)) => return Ended::Failed(status),
                Err(_) => {
                    let silence = format!("no sign of life for {} s", SILENCE_MAX.as_secs());
                    return Ended::Failed(Status::unavailable(silence));
                }
            };
            if let Err(ended) = self.take(message).await {
                return ended;
            }
        }
    }

    async fn open(&mut self) -> Result<Streaming<ReadEventsResponse>, Status> {
        let channel = connect(&self.source).await?;
        let request = wire::ReadEventsRequest {
            cursor: self.place.cursor.clone(),
            follow: true,
        };
        let mut client =
            EventLogServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        Ok(client.read_events(request).await?.into_inner())
    }

    async fn take(&mut self, message: ReadEventsResponse) -> Result<(), Ended> {
        if self.place.log_id != message.log_id {
            self.said_hello(&message.log_id).await?;
        }
        let Some(bytes) = message.batch else {
            self.place.cursor = message.cursor;
            return Ok(());
        };
        // Kept for as long as the record that it joins; the frame it came in is much larger.
        let bytes = Bytes::copy_from_slice(&bytes);
        let head = (
            message.head_offset,
            message.head_time.as_ref().map_or(Time(0), from_timestamp),
        );
        let (first, count) = match batch::extent(&bytes) {
            Ok(extent) => extent,
            Err(malformed) => return self.unreadable(&malformed.what, message.cursor).await,
        };
        let decoded = batch::decode(&bytes, None);
        if self.place.resyncing {
            let Some(from) = decoded.as_ref().ok().and_then(|decoded| {
                decoded
                    .events
                    .iter()
                    .find_map(|stored| match stored.event.kind {
                        Kind::OrchestratorStarted { epoch, .. } if epoch > self.place.epoch => {
                            Some(stored.offset)
                        }
                        _ => None,
                    })
            }) else {
                return Ok(());
            };
            self.replaced("ahead", from).await?;
        }
        let end = first + count;
        if end <= self.place.next {
            self.place.cursor = message.cursor;
            return Ok(());
        }
        if first > self.place.next {
            let reason = if self.place.cursor.is_empty() {
                "trimmed"
            } else {
                "missing"
            };
            self.gap(first, reason).await?;
        }
        let first = self.place.next;
        let count = u32::try_from(end - first).unwrap_or(u32::MAX);
        let cursor = message.cursor;
        let events = entry::events_of(
            self.source.clone(),
            decoded,
            first,
            count,
            head,
            cursor.clone(),
        );
        self.complain(&events);
        for stored in &events.events {
            if let Kind::OrchestratorStarted { epoch, .. } = stored.event.kind {
                self.place.epoch = self.place.epoch.max(epoch);
            }
        }
        self.place.next = end;
        self.place.cursor = cursor;
        tracing::debug!(source = %self.source, from = first, to = end, head = head.0, "took events in");
        self.note(Note {
            what: What::Events(events),
            count,
            batch: bytes,
        })
        .await
    }

    /// The stream is open, or its first message says whose it is.
    async fn said_hello(&mut self, log_id: &str) -> Result<(), Ended> {
        let other = !self.place.log_id.is_empty() && self.place.log_id != log_id;
        if other && self.place.next > 0 && self.place.cursor.is_empty() {
            self.replaced("foreign", 0).await?;
        }
        log_id.clone_into(&mut self.place.log_id);
        if self.connected != Some(true) {
            self.connected = Some(true);
            tracing::info!(source = %self.source, from = self.place.next, "following the source's events");
        }
        let what = What::Connected {
            source: self.source.clone(),
            log_id: log_id.to_owned(),
        };
        self.note(Note::one(what)).await
    }

    async fn replaced(&mut self, reason: &str, next: u64) -> Result<(), Ended> {
        tracing::error!(
            source = %self.source, reason, next,
            "the source has another log than before; what was taken in stays"
        );
        self.place.cursor.clear();
        self.place.next = next;
        self.place.resyncing = false;
        if reason == "foreign" {
            self.place.log_id.clear();
            self.place.epoch = 0;
        }
        self.note(Note::one(What::Replaced {
            source: self.source.clone(),
            reason: reason.to_owned(),
            next,
        }))
        .await
    }

    async fn gap(&mut self, to: u64, reason: &str) -> Result<(), Ended> {
        let from = self.place.next;
        tracing::error!(
            source = %self.source, from, to, reason,
            "{} events of the source can't be had any more", to - from
        );
        self.place.next = to;
        self.note(Note::one(What::Gap {
            source: self.source.clone(),
            from,
            to,
            reason: reason.to_owned(),
        }))
        .await
    }

    /// A batch that isn't one: only its cursor tells where to go on.
    async fn unreadable(&mut self, what: &str, cursor: String) -> Result<(), Ended> {
        tracing::error!(source = %self.source, what, "a batch of the source can't be read");
        let after = proto::cursor::Cursor::parse(&cursor)
            .map_err(|problem| Ended::Failed(Status::data_loss(problem.message)))?
            .offset;
        if after > self.place.next {
            self.gap(after, "unreadable").await?;
        }
        self.place.cursor = cursor;
        Ok(())
    }

    fn complain(&self, events: &Events) {
        if events.unknown > 0 {
            tracing::warn!(
                source = %self.source, count = events.unknown,
                "events of types that this program doesn't know; they are counted and kept as they came"
            );
        }
        if let Some(why) = &events.malformed {
            tracing::error!(
                source = %self.source, why,
                "a batch holds what no orchestrator writes; it is kept as it came and not counted"
            );
        }
    }

    async fn note(&self, note: Note) -> Result<(), Ended> {
        let sent = self.inbox.send(Input::Note(note)).await;
        sent.map_err(|_| Ended::Stopping)
    }
}

async fn connect(address: &str) -> Result<Channel, Status> {
    let unavailable = |error: tonic::transport::Error| Status::unavailable(error.to_string());
    Endpoint::from_shared(format!("http://{address}"))
        .map_err(unavailable)?
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(2 * 1024 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024)
        .connect()
        .await
        .map_err(unavailable)
}
