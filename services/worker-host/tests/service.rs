//! The worker host as a service: its health follows its session, and it leaves in order. Against an
//! orchestrator that the test plays.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;
use std::time::Duration;

use multiagents_client::wire::worker_service_server::{WorkerService, WorkerServiceServer};
use multiagents_client::wire::{
    Command, ConnectRequest, ConnectResponse, HeartbeatRequest, HeartbeatResponse,
    ResultAcknowledgement, Welcome, command_result,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use worker_host::config::{Config, Flags};

const PATIENCE: Duration = Duration::from_secs(20);

type Answers = mpsc::Sender<Result<ConnectResponse, Status>>;

/// Hands each session over to the test.
struct Orchestrator(mpsc::Sender<(Streaming<ConnectRequest>, Answers)>);

#[tonic::async_trait]
impl WorkerService for Orchestrator {
    type ConnectStream = ReceiverStream<Result<ConnectResponse, Status>>;
    type HeartbeatStream = ReceiverStream<Result<HeartbeatResponse, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<ConnectRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let (answers, stream) = mpsc::channel(64);
        let _ = self.0.send((request.into_inner(), answers)).await;
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn heartbeat(
        &self,
        _: Request<Streaming<HeartbeatRequest>>,
    ) -> Result<Response<Self::HeartbeatStream>, Status> {
        Err(Status::unavailable("not now"))
    }
}

fn config(orchestrator: SocketAddr, set: &[(&str, &str)]) -> Config {
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let flags = Flags {
        orchestrator: Some(orchestrator.to_string()),
        host_id: Some("h1".into()),
        set: set.iter().map(own).collect(),
        ..Flags::default()
    };
    flags.load(Vec::new()).unwrap().value
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Asks until the answer has `wanted` in it.
async fn get_until(address: SocketAddr, path: &str, wanted: &str) -> String {
    let asked = async {
        loop {
            let answer = get(address, path).await;
            if answer.contains(wanted) {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.expect(wanted)
}

fn command(id: &str, worker: &str, context: &'static str) -> ConnectResponse {
    ConnectResponse {
        commands: vec![Command {
            command_id: id.to_owned(),
            worker: worker.to_owned(),
            context_json: vec![context.into()],
            attempt: 1,
            ..Default::default()
        }],
        ..Default::default()
    }
}

#[tokio::test]
async fn health_follows_the_session_metrics_count_and_a_stop_drains() {
    let orchestrator = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let orchestrator_address = orchestrator.local_addr().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let set = [
        ("sample_interval", "10ms"),
        ("builtin.flaky_failure_ratio", "1"),
    ];
    let host = tokio::spawn(worker_host::run(
        config(orchestrator_address, &set),
        listener,
        shutdown.clone(),
    ));

    // Nobody has accepted the session yet.
    let answer = get_until(address, "/readyz", "503").await;
    assert!(answer.contains("not connected"), "{answer}");
    let (sender, mut sessions) = mpsc::channel(4);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(WorkerServiceServer::new(Orchestrator(sender)))
            .serve_with_incoming(TcpListenerStream::new(orchestrator)),
    );
    let (mut requests, answers) = sessions.recv().await.unwrap();
    let announce = requests.message().await.unwrap().unwrap().announce.unwrap();
    let offered: Vec<(&str, u32)> = announce
        .workers
        .iter()
        .map(|offer| (offer.worker.as_str(), offer.slots))
        .collect();
    assert_eq!(
        offered,
        [
            ("cpu_intensive", 2),
            ("echo", 16),
            ("fast_processor", 32),
            ("flaky_processor", 32),
            ("noop", 256),
            ("slow_processor", 32),
        ]
    );
    let welcome = ConnectResponse {
        welcome: Some(Welcome {
            session_id: "s".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    answers.send(Ok(welcome)).await.unwrap();
    get_until(address, "/readyz", "200 OK").await;

    for (id, worker, context) in [
        ("t/a/do#1", "echo", r#"{"n":12345678901234567890}"#),
        ("t/b/do#1", "flaky_processor", "{}"),
        ("t/c/do#1", "cpu_intensive", r#"{"complexity":10}"#),
    ] {
        answers
            .send(Ok(command(id, worker, context)))
            .await
            .unwrap();
    }
    let (mut results, mut samples, mut draining) = (Vec::new(), 0, false);
    while results.len() < 3 || samples == 0 || !draining {
        if results.len() == 3 && samples > 0 {
            shutdown.cancel();
        }
        let message = requests.message().await.unwrap().unwrap();
        samples += message.samples.len();
        draining |= message.draining;
        results.extend(message.results);
    }
    results.sort_by(|a, b| a.command_id.cmp(&b.command_id));
    match results[0].outcome.as_ref().unwrap() {
        command_result::Outcome::CompletedJson(json) => {
            assert_eq!(&json[..], br#"{"n":12345678901234567890}"#);
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        results[1].outcome,
        Some(command_result::Outcome::Failed(_))
    ));

    // It can still be looked at while it waits for the acknowledgements.
    get_until(address, "/readyz", "draining").await;
    let metrics = get(address, "/metrics").await;
    for line in [
        r#"multiagents_worker_host_commands_total{worker="echo",outcome="completed"} 1"#,
        r#"multiagents_worker_host_commands_total{worker="flaky_processor",outcome="failed"} 1"#,
        r#"multiagents_worker_host_commands_total{worker="noop",outcome="completed"} 0"#,
        r#"multiagents_worker_host_slots{worker="fast_processor"} 32"#,
        r#"multiagents_worker_host_slots_busy{worker="echo"} 0"#,
        r#"multiagents_worker_host_run_seconds_count{worker="cpu_intensive"} 1"#,
        "multiagents_worker_host_connected 1",
        "multiagents_worker_host_reconnects_total 0",
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
    assert!(!host.is_finished());
    let acknowledgements = results.into_iter().map(|result| ResultAcknowledgement {
        command_id: result.command_id,
        ..Default::default()
    });
    let acknowledged = ConnectResponse {
        acknowledgements: acknowledgements.collect(),
        ..Default::default()
    };
    answers.send(Ok(acknowledged)).await.unwrap();
    while requests.message().await.unwrap().is_some() {}
    drop(answers);
    let left = tokio::time::timeout(PATIENCE, host).await.unwrap();
    left.unwrap().unwrap();
}

#[tokio::test]
async fn a_host_that_nobody_answers_stops_at_once_and_one_with_a_wrong_address_says_so() {
    let nobody = "127.0.0.1:1".parse().unwrap();
    let run = |config: Config| async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        let ended = worker_host::run(config, listener, shutdown);
        tokio::time::timeout(PATIENCE, ended).await.unwrap()
    };
    run(config(nobody, &[])).await.unwrap();
    let mut wrong = config(nobody, &[]);
    wrong.orchestrator = "nowhere".into();
    let error = run(wrong).await;
    // Asked to stop before it dialled, it may leave without having looked at the address.
    if let Err(error) = error {
        assert_eq!(kit::exit_code_of(&error), kit::exit::CONFIG);
    }
}
