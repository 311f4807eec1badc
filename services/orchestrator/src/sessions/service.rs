//! WorkerService: which stream goes where.

use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;

use proto::convert::us_to_duration;
use proto::id::Time;
use proto::wire;
use proto::wire::worker_service_server::WorkerService;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::{Request, Response, Status, Streaming};

use super::line::{FarEnd, Lease, Leases, Line};
use super::message::HostMessage;
use super::stream::Connection;
use crate::config;
use crate::grpc::written::{Calls, Taken, answers, requests};
use crate::inbox::{Inbox, stopping};

/// Where worker hosts connect.
pub(crate) struct Workers {
    pub(crate) inbox: Inbox,
    pub(crate) leases: Leases,
    pub(crate) clock: kit::Clock,
    pub(crate) limits: config::Sessions,
    pub(crate) payload_bytes_max: usize,
    pub(crate) shutdown: CancellationToken,
}

#[tonic::async_trait]
impl WorkerService for Workers {
    type ConnectStream = Pin<Box<dyn Stream<Item = Result<wire::ConnectResponse, Status>> + Send>>;

    async fn connect(
        &self,
        request: Request<Streaming<wire::ConnectRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let messages = self.session(request.into_inner());
        let messages = messages.map(|message| message?.into_wire());
        Ok(Response::new(Box::pin(messages)))
    }

    type HeartbeatStream = ReceiverStream<Result<wire::HeartbeatResponse, Status>>;

    async fn heartbeat(
        &self,
        request: Request<Streaming<wire::HeartbeatRequest>>,
    ) -> Result<Response<Self::HeartbeatStream>, Status> {
        let mut stream = request.into_inner();
        let (answers, far_end) = mpsc::channel(4);
        let (leases, clock) = (self.leases.clone(), self.clock.clone());
        let lease_us = u64::try_from(self.limits.lease.as_micros()).unwrap_or(u64::MAX);
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            loop {
                let message = tokio::select! {
                    message = stream.message() => message,
                    () = shutdown.cancelled() => Err(stopping().into()),
                };
                let answer = match message {
                    Ok(None) => return,
                    Ok(Some(beat)) => leases
                        .renew(&beat.host_id, &beat.session_id, Time(clock.now_micros()))
                        .map(|()| wire::HeartbeatResponse {
                            sequence: beat.sequence,
                            lease: Some(us_to_duration(lease_us)),
                        })
                        .map_err(Status::from),
                    Err(status) => Err(status),
                };
                let ended = answer.is_err();
                // A host that doesn't read its answers may renew its lease all the same.
                if matches!(
                    answers.try_send(answer),
                    Err(mpsc::error::TrySendError::Closed(_))
                ) || ended
                {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(far_end)))
    }
}

type Messages = ReceiverStream<Result<HostMessage, Status>>;

impl Calls for Workers {
    fn serve(self: &Arc<Self>, request: http::Request<Body>, request_bytes_max: usize) -> Taken {
        if request.uri().path() != "/multiagents.v1.WorkerService/Connect" {
            return Err(Box::new(request));
        }
        let messages = self.session(requests(request.into_body(), request_bytes_max));
        Ok(Box::pin(ready(answers(messages))))
    }
}

impl Workers {
    /// Listens to a host's stream; gives what goes to the host.
    fn session(&self, mut stream: Streaming<wire::ConnectRequest>) -> Messages {
        let (connection, far_end) = self.connection();
        let shutdown = self.shutdown.clone();
        // The answer's headers must not wait for the first message, or a client that waits for them
        // before it speaks would wait for ever.
        tokio::spawn(async move {
            let line = connection.line.clone();
            let ended = tokio::select! {
                ended = connection.run(&mut stream) => ended,
                () = shutdown.cancelled() => {
                    line.send(HostMessage::goodbye());
                    Err(stopping())
                }
            };
            if let Err(problem) = ended {
                line.end(problem);
            }
        });
        ReceiverStream::new(far_end)
    }

    /// A connection for a new stream, and what goes to its host.
    pub(crate) fn connection(&self) -> (Connection, FarEnd) {
        let (line, far_end) = Line::new(self.limits.outbox_messages_max);
        let connection = Connection {
            inbox: self.inbox.clone(),
            lease: Arc::new(Lease::new(Time(self.clock.now_micros()))),
            line: Arc::new(line),
            limits: self.limits.clone(),
            payload_bytes_max: self.payload_bytes_max,
        };
        (connection, far_end)
    }
}
