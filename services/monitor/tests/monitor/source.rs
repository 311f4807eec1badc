//! An EventLogService whose log the test writes, trims, replaces and cuts off.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use proto::batch::Encoder;
use proto::convert::to_timestamp;
use proto::cursor::Cursor;
use proto::error::{Problem, Reason};
use proto::event::Event;
use proto::frame::ReadEventsResponse;
use proto::id::Time;
use proto::wire::event_log_service_server::{EventLogService, EventLogServiceServer};
use proto::wire::{self, ReadEventsRequest};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

#[derive(Clone, Debug)]
struct Batch {
    first: u64,
    count: u64,
    bytes: Bytes,
}

#[derive(Debug)]
struct Log {
    id: [u8; 16],
    batches: Vec<Batch>,
    next: u64,
    time: Time,
    /// Streams that were opened.
    reads: usize,
}

/// The source; clones share its log.
#[derive(Clone, Debug)]
pub(crate) struct FakeSource {
    log: Arc<Mutex<Log>>,
    changed: watch::Sender<u64>,
    cut: watch::Sender<CancellationToken>,
    pub(crate) address: SocketAddr,
}

impl FakeSource {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let log = Log {
            id: [7; 16],
            batches: Vec::new(),
            next: 0,
            time: Time(0),
            reads: 0,
        };
        let source = Self {
            log: Arc::new(Mutex::new(log)),
            changed: watch::channel(0).0,
            cut: watch::channel(CancellationToken::new()).0,
            address: listener.local_addr().unwrap(),
        };
        let service =
            EventLogServiceServer::new(source.clone()).max_encoding_message_size(64 * 1024 * 1024);
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        source
    }

    /// Appends the events as one batch; the offset after it.
    pub(crate) fn append(&self, events: &[Event]) -> u64 {
        let mut encoder = Encoder::default();
        events.iter().for_each(|event| encoder.push(event));
        let first = self.log.lock().unwrap().next;
        let (bytes, _) = encoder.finish(first);
        let bytes = Bytes::copy_from_slice(bytes);
        let time = events
            .iter()
            .map(|event| event.time)
            .max()
            .unwrap_or_default();
        self.append_bytes(bytes, events.len() as u64, time)
    }

    /// Appends a batch's bytes as they are.
    pub(crate) fn append_bytes(&self, bytes: Bytes, count: u64, time: Time) -> u64 {
        let next = {
            let mut log = self.log.lock().unwrap();
            let first = log.next;
            log.batches.push(Batch {
                first,
                count,
                bytes,
            });
            log.next += count;
            log.time = time;
            log.next
        };
        self.changed.send_replace(next);
        next
    }

    pub(crate) fn next(&self) -> u64 {
        self.log.lock().unwrap().next
    }

    pub(crate) fn reads(&self) -> usize {
        self.log.lock().unwrap().reads
    }

    /// Ends every stream that is open.
    pub(crate) fn cut(&self) {
        self.cut.send_replace(CancellationToken::new()).cancel();
    }

    /// Forgets all batches that lie before an offset.
    pub(crate) fn trim(&self, before: u64) {
        let mut log = self.log.lock().unwrap();
        log.batches
            .retain(|batch| batch.first + batch.count > before);
    }

    /// Loses all that lies from an offset on.
    pub(crate) fn lose_tail(&self, from: u64) {
        let mut log = self.log.lock().unwrap();
        log.batches.retain(|batch| batch.first < from);
        log.next = log
            .batches
            .last()
            .map_or(0, |batch| batch.first + batch.count);
    }

    /// Becomes another, empty log.
    pub(crate) fn replace(&self) {
        let mut log = self.log.lock().unwrap();
        log.id = [9; 16];
        log.batches.clear();
        log.next = 0;
    }

    fn start_at(&self, cursor: &str) -> Result<u64, Problem> {
        let mut log = self.log.lock().unwrap();
        log.reads += 1;
        let oldest = log.batches.first().map_or(log.next, |batch| batch.first);
        if cursor.is_empty() {
            return Ok(oldest);
        }
        let cursor = Cursor::parse(cursor)?;
        let refused = |reason| Err(Problem::new(reason, "refused"));
        if cursor.log_id != log.id {
            return refused(Reason::CursorForeign);
        }
        if cursor.offset > log.next {
            return refused(Reason::CursorAhead);
        }
        if cursor.offset < oldest {
            return refused(Reason::CursorExpired);
        }
        Ok(cursor.offset)
    }

    fn frame_at(&self, offset: u64) -> Option<(u64, ReadEventsResponse)> {
        let log = self.log.lock().unwrap();
        let batch = log
            .batches
            .iter()
            .find(|batch| batch.first + batch.count > offset)?;
        let end = batch.first + batch.count;
        let cursor = Cursor {
            log_id: log.id,
            epoch: 1,
            partition: 0,
            offset: end,
        };
        let frame = ReadEventsResponse {
            batch: Some(batch.bytes.clone()),
            cursor: cursor.to_string(),
            head_offset: log.next,
            head_time: Some(to_timestamp(log.time)),
            log_id: uuid::Uuid::from_bytes(log.id).to_string(),
        };
        Some((end, frame))
    }
}

#[tonic::async_trait]
impl EventLogService for FakeSource {
    type ReadEventsStream = ReceiverStream<Result<ReadEventsResponse, Status>>;
    type BackupStream = ReceiverStream<Result<wire::BackupResponse, Status>>;

    async fn backup(
        &self,
        _request: Request<wire::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        Err(Status::unimplemented("a monitor takes no backup"))
    }

    async fn read_events(
        &self,
        request: Request<ReadEventsRequest>,
    ) -> Result<Response<Self::ReadEventsStream>, Status> {
        // Before it counts as opened, so that whoever has seen it opened cuts it.
        let cut = self.cut.borrow().clone();
        let mut offset = self.start_at(&request.into_inner().cursor)?;
        let (sender, receiver) = mpsc::channel(1);
        let source = self.clone();
        let mut changed = self.changed.subscribe();
        tokio::spawn(async move {
            let serving = async {
                loop {
                    changed.borrow_and_update();
                    while let Some((end, frame)) = source.frame_at(offset) {
                        if sender.send(Ok(frame)).await.is_err() {
                            return;
                        }
                        offset = end;
                    }
                    if changed.changed().await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = serving => {}
                () = cut.cancelled() => {
                    let _ = sender.send(Err(Status::unavailable("cut off"))).await;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
