//! What this machine can do at best: the disk's synced writes, and gRPC calls that do nothing.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use proto::wire::worker_service_client::WorkerServiceClient;
use proto::wire::worker_service_server::{WorkerService, WorkerServiceServer};
use proto::wire::{ConnectRequest, ConnectResponse, HeartbeatRequest, HeartbeatResponse};
use tests::process::free_port;
use tests::{raw, wait};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status, Streaming};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::caller::Caller;
use crate::processes::Another;
use crate::report::Report;

/// The argument that makes this program the other end of the calls.
pub(crate) const SERVER_WORD: &str = "serve-limits";
/// What a small batch of the log takes.
const BLOCK_BYTES: usize = 4 << 10;
/// What a large batch takes.
const CHUNK_BYTES: usize = 1 << 20;
const CHUNKS: usize = 96;
const SYNCS: usize = 800;
const ROUND_TRIPS: usize = 3_000;
const IN_FLIGHT: usize = 50;
const UNARY_TIME: Duration = Duration::from_secs(4);
/// Messages that one stream carries as fast as it can.
const MESSAGES: u64 = 400_000;
/// How many of them may be on their way.
const MESSAGES_AHEAD: usize = 1_024;

/// Synced writes into blocks that were written before, where the suite's data goes.
pub(crate) fn disk(report: &mut Report) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("limits");
    let file = OpenOptions::new()
        .create_new(true)
        .read(true)
        .write(true)
        .open(path)?;
    let chunk = vec![0_u8; CHUNK_BYTES];
    for at in 0..CHUNKS {
        file.write_all_at(&chunk, (at * CHUNK_BYTES) as u64)?;
    }
    file.sync_all()?;

    let block = vec![7_u8; BLOCK_BYTES];
    let mut micros = Vec::with_capacity(SYNCS);
    for at in 0..SYNCS {
        let began = Instant::now();
        file.write_all_at(&block, (at * BLOCK_BYTES) as u64)?;
        file.sync_data()?;
        micros.push(began.elapsed().as_micros() as u64);
    }
    let median = tests::count::percentile(&micros, 50);
    report.add("limit_sync_us", median as f64, "us");

    let chunk = vec![9_u8; CHUNK_BYTES];
    let began = Instant::now();
    for at in 0..CHUNKS {
        file.write_all_at(&chunk, (at * CHUNK_BYTES) as u64)?;
        file.sync_data()?;
    }
    let megabytes = (CHUNKS * CHUNK_BYTES) as f64 / 1e6;
    let rate = megabytes / began.elapsed().as_secs_f64();
    report.add("limit_synced_write_mb_per_second", rate, "MB/s");
    Ok(())
}

/// A raw stream's round trip and message rate, and unary calls at fifty in flight.
pub(crate) async fn calls(report: &mut Report) -> Result<()> {
    let address = format!("127.0.0.1:{}", free_port());
    let _peer = Another::start(&[SERVER_WORD, &address])?;
    let channel = raw::channel(&address);
    let mut health = HealthClient::new(channel.clone());
    wait::until("the other end", wait::PATIENCE, async || {
        let answer = health.check(HealthCheckRequest::default()).await;
        answer.map(|_| ()).map_err(|status| status.to_string())
    })
    .await;

    let worker = WorkerServiceClient::new(channel.clone());
    let median = round_trip(worker.clone()).await?;
    report.add("limit_round_trip_us", median as f64, "us");
    let rate = message_rate(worker).await?;
    report.add("limit_stream_messages_per_second", rate, "1/s");
    let rate = unary_rate(&address).await?;
    report.add("limit_unary_per_second", rate, "1/s");
    Ok(())
}

/// The median of messages that each wait for the answer to the one before, in microseconds.
async fn round_trip(mut worker: WorkerServiceClient<Channel>) -> Result<u64> {
    let (say, said) = mpsc::channel(1);
    let mut hear = worker
        .heartbeat(ReceiverStream::new(said))
        .await?
        .into_inner();
    let mut micros = Vec::with_capacity(ROUND_TRIPS);
    for sequence in 0..ROUND_TRIPS as u64 {
        let began = Instant::now();
        let request = HeartbeatRequest {
            sequence,
            ..Default::default()
        };
        say.send(request).await.context("the stream ended")?;
        hear.message().await?.context("the stream ended")?;
        micros.push(began.elapsed().as_micros() as u64);
    }
    Ok(tests::count::percentile(&micros, 50))
}

/// Messages a second, there and back, when none waits for another.
async fn message_rate(mut worker: WorkerServiceClient<Channel>) -> Result<f64> {
    let (say, said) = mpsc::channel(MESSAGES_AHEAD);
    let began = Instant::now();
    let talking = tokio::spawn(async move {
        for sequence in 0..MESSAGES {
            let request = HeartbeatRequest {
                sequence,
                ..Default::default()
            };
            say.send(request).await?;
        }
        Ok::<_, mpsc::error::SendError<HeartbeatRequest>>(())
    });
    let mut hear = worker
        .heartbeat(ReceiverStream::new(said))
        .await?
        .into_inner();
    let mut count = 0_u64;
    while hear.message().await?.is_some() {
        count += 1;
    }
    let rate = count as f64 / began.elapsed().as_secs_f64();
    talking.await??;
    anyhow::ensure!(count == MESSAGES, "{count} of {MESSAGES} came back");
    Ok(rate)
}

/// Unary calls a second, with fifty in flight, by the callers that the suite is measured with.
async fn unary_rate(address: &str) -> Result<f64> {
    let until = Instant::now() + UNARY_TIME;
    let began = Instant::now();
    let caller = Caller::connect(address, "/grpc.health.v1.Health/Check").await?;
    let mut tasks = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let caller = caller.clone();
        tasks.spawn(async move {
            let mut count = 0_u64;
            while Instant::now() < until {
                let _: HealthCheckResponse = caller.call(HealthCheckRequest::default()).await?;
                count += 1;
            }
            anyhow::Ok(count)
        });
    }
    let mut count = 0;
    while let Some(done) = tasks.join_next().await {
        count += done??;
    }
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

/// Answers at once, and does nothing else.
struct Echo;

type Answers<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl WorkerService for Echo {
    type ConnectStream = Answers<ConnectResponse>;
    type HeartbeatStream = Answers<HeartbeatResponse>;

    async fn connect(
        &self,
        _: Request<Streaming<ConnectRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        Err(Status::unimplemented(
            "this is a yardstick, no orchestrator",
        ))
    }

    async fn heartbeat(
        &self,
        request: Request<Streaming<HeartbeatRequest>>,
    ) -> Result<Response<Self::HeartbeatStream>, Status> {
        let answers = request.into_inner().map(|heard| {
            heard.map(|heard| HeartbeatResponse {
                sequence: heard.sequence,
                lease: None,
            })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// Serves the other end until it is killed.
pub(crate) async fn serve(address: &str) -> Result<()> {
    let (_, health) = tonic_health::server::health_reporter();
    let mut server = Server::builder().tcp_nodelay(true);
    let server = server
        .add_service(health)
        .add_service(WorkerServiceServer::new(Echo));
    Ok(server.serve(address.parse()?).await?)
}
