//! A worker host that does what a test says.

use std::collections::VecDeque;
use std::time::Duration;

use proto::wire;
use proto::wire::command_result::Outcome;
use proto::wire::worker_service_client::WorkerServiceClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::harness::{PATIENCE, Suite, reason};

pub(crate) struct FakeHost {
    pub welcome: wire::Welcome,
    requests: mpsc::Sender<wire::ConnectRequest>,
    responses: Streaming<wire::ConnectResponse>,
    commands: VecDeque<wire::Command>,
    cancels: VecDeque<String>,
    acknowledgements: VecDeque<wire::ResultAcknowledgement>,
    /// Below which id it was told to forget pieces.
    pub forget_below: u64,
    heartbeats: Option<tokio::task::JoinHandle<()>>,
}

impl Drop for FakeHost {
    fn drop(&mut self) {
        if let Some(heartbeats) = &self.heartbeats {
            heartbeats.abort();
        }
    }
}

/// What a host says of itself.
pub(crate) fn announce(id: &str, workers: &[(&str, u32)], held: &[String]) -> wire::Announce {
    wire::Announce {
        host_id: id.to_owned(),
        workers: workers
            .iter()
            .map(|(worker, slots)| wire::OfferedWorker {
                worker: (*worker).to_owned(),
                slots: *slots,
            })
            .collect(),
        held_command_ids: held.to_vec(),
        ..Default::default()
    }
}

/// Opens a stream with this first message.
pub(crate) async fn open(
    suite: &Suite,
    first: wire::ConnectRequest,
) -> (
    mpsc::Sender<wire::ConnectRequest>,
    Streaming<wire::ConnectResponse>,
) {
    let (requests, stream) = mpsc::channel(64);
    requests.send(first).await.unwrap();
    let responses = WorkerServiceClient::new(suite.channel.clone())
        .max_decoding_message_size(8 << 20)
        .connect(ReceiverStream::new(stream))
        .await
        .unwrap()
        .into_inner();
    (requests, responses)
}

impl FakeHost {
    /// Connects, and sends heartbeats.
    pub(crate) async fn connect(suite: &Suite, id: &str, workers: &[(&str, u32)]) -> Self {
        Self::reconnect(suite, id, workers, &[]).await
    }

    /// Connects with commands that it still has.
    pub(crate) async fn reconnect(
        suite: &Suite,
        id: &str,
        workers: &[(&str, u32)],
        held: &[String],
    ) -> Self {
        Self::announced(suite, announce(id, workers, held)).await
    }

    /// Connects with this announcement, and sends heartbeats.
    pub(crate) async fn announced(suite: &Suite, announce: wire::Announce) -> Self {
        let host_id = announce.host_id.clone();
        let mut host = Self::silent(suite, announce).await;
        let session_id = host.welcome.session_id.clone();
        let channel: Channel = suite.channel.clone();
        host.heartbeats = Some(tokio::spawn(async move {
            let (beats, stream) = mpsc::channel(4);
            let mut client = WorkerServiceClient::new(channel);
            let _answers = client.heartbeat(ReceiverStream::new(stream)).await;
            for sequence in 0.. {
                let beat = wire::HeartbeatRequest {
                    host_id: host_id.clone(),
                    session_id: session_id.clone(),
                    sequence,
                };
                if beats.send(beat).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }));
        host
    }

    /// Connects, and is silent from then on.
    pub(crate) async fn without_heartbeats(
        suite: &Suite,
        id: &str,
        workers: &[(&str, u32)],
        held: &[String],
    ) -> Self {
        Self::silent(suite, announce(id, workers, held)).await
    }

    async fn silent(suite: &Suite, announce: wire::Announce) -> Self {
        let first = wire::ConnectRequest {
            announce: Some(announce),
            ..Default::default()
        };
        loop {
            let (requests, responses) = open(suite, first.clone()).await;
            let mut host = Self {
                welcome: wire::Welcome::default(),
                requests,
                responses,
                commands: VecDeque::new(),
                cancels: VecDeque::new(),
                acknowledgements: VecDeque::new(),
                forget_below: 0,
                heartbeats: None,
            };
            match host.welcomed().await {
                Ok(()) => return host,
                // A full inbox sheds a host as it sheds a call; both come again.
                Err(status) => assert_eq!(reason(&status), "OVERLOADED", "{status:?}"),
            }
        }
    }

    async fn welcomed(&mut self) -> Result<(), Status> {
        while self.welcome.session_id.is_empty() {
            self.receive().await?;
        }
        Ok(())
    }

    /// Takes one message apart; an error is the stream's end.
    async fn receive(&mut self) -> Result<(), Status> {
        let message = tokio::time::timeout(PATIENCE, self.responses.message())
            .await
            .expect("the orchestrator should have said something")?
            .ok_or_else(|| Status::ok("the end"))?;
        if let Some(welcome) = message.welcome {
            self.welcome = welcome;
        }
        self.commands.extend(message.commands);
        let cancels = message.cancels.into_iter();
        self.cancels.extend(cancels.map(|cancel| cancel.command_id));
        self.acknowledgements.extend(message.acknowledgements);
        self.forget_below = self.forget_below.max(message.forget_below);
        Ok(())
    }

    /// The next command.
    pub(crate) async fn command(&mut self) -> wire::Command {
        loop {
            if let Some(command) = self.commands.pop_front() {
                return command;
            }
            self.receive().await.unwrap();
        }
    }

    /// The next command to stop.
    pub(crate) async fn cancel(&mut self) -> String {
        loop {
            if let Some(cancel) = self.cancels.pop_front() {
                return cancel;
            }
            self.receive().await.unwrap();
        }
    }

    /// The next acknowledgement: the reason of its refusal, empty where it counted.
    pub(crate) async fn acknowledgement(&mut self) -> String {
        self.acknowledged().await.refused_reason
    }

    /// The next acknowledgement.
    pub(crate) async fn acknowledged(&mut self) -> wire::ResultAcknowledgement {
        loop {
            if let Some(acknowledgement) = self.acknowledgements.pop_front() {
                return acknowledgement;
            }
            self.receive().await.unwrap();
        }
    }

    /// How the stream ends, whatever comes before.
    pub(crate) async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.receive().await {
                return status;
            }
        }
    }

    pub(crate) async fn say(&self, request: wire::ConnectRequest) {
        self.requests.send(request).await.unwrap();
    }

    /// Reports how a command ended, without waiting for an answer.
    pub(crate) async fn report(&self, command_id: &str, outcome: Outcome) {
        self.say(wire::ConnectRequest {
            results: vec![wire::CommandResult {
                command_id: command_id.to_owned(),
                wait: Some(millis(1)),
                run: Some(millis(2)),
                outcome: Some(outcome),
                began: false,
            }],
            ..Default::default()
        })
        .await;
    }

    /// Says that a command is at work, and waits until that is known.
    pub(crate) async fn begin(&mut self, suite: &Suite, command_id: &str) {
        let before = suite.count(wire::EventType::CommandProcessing).await;
        self.say(wire::ConnectRequest {
            progress: vec![wire::CommandProgress {
                command_id: command_id.to_owned(),
                stage: wire::Stage::Processing.into(),
            }],
            ..Default::default()
        })
        .await;
        while suite.count(wire::EventType::CommandProcessing).await == before {
            tokio::task::yield_now().await;
        }
    }

    /// Completes a command, and waits until that is durable.
    pub(crate) async fn complete(&mut self, command_id: &str, result: &str) {
        self.report(command_id, completed(result)).await;
        assert_eq!(self.acknowledgement().await, "");
    }

    /// Takes the next command and completes it.
    pub(crate) async fn do_next(&mut self, result: &str) -> wire::Command {
        let command = self.command().await;
        self.complete(&command.command_id, result).await;
        command
    }
}

pub(crate) fn completed(result: &str) -> Outcome {
    Outcome::CompletedJson(result.to_owned().into())
}

pub(crate) fn failed(kind: &str) -> Outcome {
    Outcome::Failed(wire::CommandError {
        failure: Some(wire::Failure {
            kind: kind.to_owned(),
            message: "it broke".to_owned(),
            detail: String::new(),
        }),
        not_retryable: false,
    })
}

fn millis(millis: i32) -> prost_types::Duration {
    prost_types::Duration {
        seconds: 0,
        nanos: millis * 1_000_000,
    }
}
