//! An orchestrator that does only what the test tells it to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use multiagents_client::wire::worker_service_server::{WorkerService, WorkerServiceServer};
use multiagents_client::wire::{
    Announce, Command, CommandCancel, CommandResult, ConnectRequest, ConnectResponse,
    HeartbeatRequest, HeartbeatResponse, ResultAcknowledgement, Welcome, command_result,
};
use multiagents_client::{BackOff, Departure, Error, Host, HostBuilder, Worker};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// Longer than anything here takes, so that a hang fails instead of hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The fake.
pub(crate) struct Orchestrator {
    pub(crate) address: SocketAddr,
    sessions: mpsc::Receiver<FakeSession>,
    pub(crate) heartbeats: Arc<AtomicU64>,
    pub(crate) forgets_sessions: Arc<AtomicBool>,
}

/// One stream of a host.
pub(crate) struct FakeSession {
    pub(crate) announce: Announce,
    requests: Streaming<ConnectRequest>,
    responses: mpsc::Sender<Result<ConnectResponse, Status>>,
    results: std::collections::VecDeque<CommandResult>,
    pub(crate) draining: bool,
    pub(crate) samples: usize,
}

struct Service {
    sessions: mpsc::Sender<FakeSession>,
    heartbeats: Arc<AtomicU64>,
    forgets_sessions: Arc<AtomicBool>,
}

#[tonic::async_trait]
impl WorkerService for Service {
    type ConnectStream = ReceiverStream<Result<ConnectResponse, Status>>;
    type HeartbeatStream = ReceiverStream<Result<HeartbeatResponse, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<ConnectRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.unwrap_or_default();
        let announce = first.announce.expect("the first message announces");
        let (responses, stream) = mpsc::channel(256);
        let session = FakeSession {
            announce,
            requests,
            responses,
            results: std::collections::VecDeque::new(),
            draining: false,
            samples: 0,
        };
        let _ = self.sessions.send(session).await;
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn heartbeat(
        &self,
        request: Request<Streaming<HeartbeatRequest>>,
    ) -> Result<Response<Self::HeartbeatStream>, Status> {
        if self.forgets_sessions.swap(false, Ordering::SeqCst) {
            let problem = proto::error::Problem::new(
                proto::error::Reason::SessionUnknown,
                "no such session; connect first",
            );
            return Err(problem.into());
        }
        let mut requests = request.into_inner();
        let (sender, stream) = mpsc::channel(4);
        let heartbeats = self.heartbeats.clone();
        tokio::spawn(async move {
            while let Ok(Some(beat)) = requests.message().await {
                heartbeats.fetch_add(1, Ordering::SeqCst);
                let answer = HeartbeatResponse {
                    sequence: beat.sequence,
                    lease: None,
                };
                if sender.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl Orchestrator {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, sessions) = mpsc::channel(256);
        let heartbeats = Arc::new(AtomicU64::new(0));
        let forgets_sessions = Arc::new(AtomicBool::new(false));
        let service = Service {
            sessions: sender,
            heartbeats: heartbeats.clone(),
            forgets_sessions: forgets_sessions.clone(),
        };
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(WorkerServiceServer::new(service))
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Self {
            address,
            sessions,
            heartbeats,
            forgets_sessions,
        }
    }

    /// The next session, before its welcome.
    pub(crate) async fn unwelcomed(&mut self) -> FakeSession {
        soon(self.sessions.recv()).await.unwrap()
    }

    /// The next session, welcomed.
    pub(crate) async fn session(&mut self) -> FakeSession {
        let session = self.unwelcomed().await;
        session.welcome(&[]);
        session
    }
}

impl FakeSession {
    pub(crate) fn welcome(&self, revoked: &[&str]) {
        self.send(ConnectResponse {
            welcome: Some(Welcome {
                session_id: "s".into(),
                lease: Some(duration(Duration::from_secs(2))),
                heartbeat_interval: Some(duration(Duration::from_millis(20))),
                revoked_command_ids: revoked.iter().map(|id| (*id).to_owned()).collect(),
            }),
            ..Default::default()
        });
    }

    pub(crate) fn send(&self, response: ConnectResponse) {
        let _ = self.responses.try_send(Ok(response));
    }

    /// Ends the stream with a status.
    pub(crate) fn refuse(self, status: Status) {
        let _ = self.responses.try_send(Err(status));
    }

    pub(crate) fn command(&self, id: &str, worker: &str, timeout: Duration) {
        self.send(ConnectResponse {
            commands: vec![Command {
                command_id: id.to_owned(),
                worker: worker.to_owned(),
                context_json: vec!["{\"data\":\"x\"}".into()],
                timeout: Some(duration(timeout)),
                attempt: 1,
                ..Default::default()
            }],
            ..Default::default()
        });
    }

    pub(crate) fn cancel(&self, id: &str) {
        self.send(ConnectResponse {
            cancels: vec![CommandCancel {
                command_id: id.to_owned(),
            }],
            ..Default::default()
        });
    }

    pub(crate) fn acknowledge(&self, id: &str) {
        self.send(ConnectResponse {
            acknowledgements: vec![ResultAcknowledgement {
                command_id: id.to_owned(),
                ..Default::default()
            }],
            ..Default::default()
        });
    }

    /// The next message; None when the host has closed its side.
    pub(crate) async fn message(&mut self) -> Option<ConnectRequest> {
        let message = soon(self.requests.message()).await.ok().flatten()?;
        self.draining |= message.draining;
        self.samples += message.samples.len();
        Some(message)
    }

    /// The next result, whatever else comes.
    pub(crate) async fn result(&mut self) -> CommandResult {
        loop {
            if let Some(result) = self.results.pop_front() {
                return result;
            }
            let message = self.message().await.expect("the session is open");
            self.results.extend(message.results);
        }
    }

    /// The next result of this id, as a word.
    pub(crate) async fn outcome(&mut self, id: &str) -> String {
        let result = self.result().await;
        assert_eq!(result.command_id, id);
        word(&result)
    }
}

/// A result as a word.
pub(crate) fn word(result: &CommandResult) -> String {
    match result.outcome.as_ref().expect("an outcome") {
        command_result::Outcome::CompletedJson(json) => {
            format!("completed {}", String::from_utf8_lossy(json))
        }
        command_result::Outcome::Failed(error) => {
            let failure = error.failure.clone().unwrap_or_default();
            let again = if error.not_retryable {
                ", for good"
            } else {
                ""
            };
            format!("failed {}: {}{again}", failure.kind, failure.message)
        }
        command_result::Outcome::TimedOut(_) => "timeout".into(),
        command_result::Outcome::Cancelled(_) => "cancelled".into(),
    }
}

/// A host under test.
pub(crate) struct Running {
    pub(crate) shutdown: CancellationToken,
    task: JoinHandle<Result<Departure, Error>>,
}

impl Running {
    pub(crate) fn start(host: HostBuilder) -> Self {
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(host.run(shutdown.clone()));
        Self { shutdown, task }
    }

    /// How it ended.
    pub(crate) async fn ended(self) -> Result<Departure, Error> {
        soon(self.task).await.unwrap()
    }
}

/// A host that reconnects at once.
pub(crate) fn host(orchestrator: &Orchestrator, worker: Worker, slots: u32) -> HostBuilder {
    let at_once = Duration::from_millis(1);
    Host::builder(orchestrator.address.to_string())
        .worker(worker, slots)
        .host_id("h1")
        .reconnect(BackOff::new(at_once, at_once))
}

/// Awaits with patience.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it takes too long")
}

pub(crate) fn duration(duration: Duration) -> prost_types::Duration {
    multiagents_client::time::to_wire(duration)
}
