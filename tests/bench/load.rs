//! Callers: they start transactions, wait for their ends, and remember each.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use multiagents_client::{Client, Start};
use prost::Message as _;
use proto::batch;
use proto::event::{CommandEvent, Kind, TransactionEvent};
use proto::id::TransactionId;
use proto::wire;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinSet;

use crate::caller::Caller;

/// Calls share connections, as a busy service's do.
const CONNECTIONS: usize = 4;
/// Streams of starts, each on a connection of its own.
const STREAMS: usize = 2;
const WAIT: Duration = Duration::from_secs(60);

const EXECUTE: &str = "/multiagents.v1.OrchestratorService/ExecuteWorkflow";
const EXECUTE_MANY: &str = "/multiagents.v1.OrchestratorService/ExecuteWorkflows";

/// What is read of an `ExecuteWorkflowsResponse`; all of it is looked at in the log.
#[derive(prost::Message)]
struct Heard {
    #[prost(message, optional, tag = "2")]
    started: Option<Executed>,
    #[prost(message, optional, tag = "3")]
    ended: Option<Executed>,
}

/// What is read of an `ExecuteWorkflowResponse`.
#[derive(prost::Message)]
struct Executed {
    #[prost(string, tag = "1")]
    transaction_id: String,
    #[prost(message, optional, tag = "2")]
    transaction: Option<Standing>,
}

/// What is read of a `Transaction`.
#[derive(prost::Message)]
struct Standing {
    #[prost(enumeration = "wire::TransactionState", tag = "4")]
    state: i32,
}

/// What is started again and again.
#[derive(Clone)]
pub(crate) struct Load {
    pub(crate) address: String,
    pub(crate) workflow: &'static str,
    pub(crate) input: Bytes,
    /// Whether every second start has a random idempotency key.
    pub(crate) keys: bool,
}

/// What became of it.
#[derive(Default)]
pub(crate) struct Done {
    pub(crate) ids: Vec<String>,
    /// How long each took.
    pub(crate) micros: Vec<u64>,
    pub(crate) elapsed: Duration,
}

impl Done {
    pub(crate) fn per_second(&self) -> f64 {
        self.ids.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// In milliseconds.
    pub(crate) fn percentile(&self, percent: u64) -> f64 {
        tests::count::percentile(&self.micros, percent) as f64 / 1e3
    }

    fn add(&mut self, more: Self) {
        self.ids.extend(more.ids);
        self.micros.extend(more.micros);
    }
}

/// A JSON object of so many bytes.
pub(crate) fn object(bytes: usize) -> Bytes {
    let frame = br#"{"data":""}"#.len();
    format!(r#"{{"data":"{}"}}"#, "x".repeat(bytes - frame)).into()
}

impl Load {
    fn start(&self, number: usize) -> wire::ExecuteWorkflowRequest {
        let start = Start::new(self.workflow).input_json(self.input.clone());
        let start = match self.keys && number.is_multiple_of(2) {
            true => start.key(format!("{:032x}", StdRng::from_os_rng().random::<u128>())),
            false => start,
        };
        start.wait(WAIT).into_wire()
    }

    /// One after the other.
    pub(crate) async fn one_at_a_time(&self, count: usize) -> Result<Done> {
        let caller = Caller::connect(&self.address, EXECUTE).await?;
        let mut done = Done::default();
        let began = Instant::now();
        for number in 0..count {
            self.run(&caller, number, &mut done).await?;
        }
        done.elapsed = began.elapsed();
        Ok(done)
    }

    /// So many calls at once for so long; each caller starts its next when its last has ended.
    pub(crate) async fn calls(&self, callers: usize, time: Duration) -> Result<Done> {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            connections.push(Caller::connect(&self.address, EXECUTE).await?);
        }
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        for number in 0..callers {
            let caller = connections[number % CONNECTIONS].clone();
            let load = self.clone();
            tasks.spawn(async move {
                let mut done = Done::default();
                let mut number = number;
                while began.elapsed() < time {
                    load.run(&caller, number, &mut done).await?;
                    number += 1;
                }
                anyhow::Ok(done)
            });
        }
        joined(tasks, began).await
    }

    async fn run(&self, caller: &Caller, number: usize, done: &mut Done) -> Result<()> {
        let began = Instant::now();
        let answer = caller.call(self.start(number)).await?;
        done.micros.push(began.elapsed().as_micros() as u64);
        done.ids.push(completed(answer)?);
        Ok(())
    }

    /// So many in flight for so long, starts and ends over a few streams.
    pub(crate) async fn streams(&self, in_flight: usize, time: Duration) -> Result<Done> {
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        for _ in 0..STREAMS {
            let load = self.clone();
            tasks.spawn(async move { load.stream(in_flight / STREAMS, began, time).await });
        }
        joined(tasks, began).await
    }

    async fn stream(&self, in_flight: usize, began: Instant, time: Duration) -> Result<Done> {
        let caller = Caller::connect(&self.address, EXECUTE_MANY).await?;
        let request = |number: usize| wire::ExecuteWorkflowsRequest {
            request_id: number as u64,
            start: Some(self.start(number)),
        };
        let mut stream = caller.open((0..in_flight).map(request), false).await?;
        let (mut next, mut open) = (in_flight, in_flight);
        let mut done = Done::default();
        while open > 0 {
            let before = done.ids.len();
            for message in stream.hear().await?.context("the stream ended")? {
                match Heard::decode(message)? {
                    Heard {
                        ended: Some(ended), ..
                    } => done.ids.push(completed(ended)?),
                    Heard {
                        started: Some(_), ..
                    } => {}
                    _ => anyhow::bail!("a start was refused"),
                }
            }
            let ended = done.ids.len() - before;
            if ended > 0 && began.elapsed() < time {
                stream.say((next..next + ended).map(request))?;
                next += ended;
            } else {
                open -= ended;
            }
        }
        Ok(done)
    }
}

async fn joined(mut tasks: JoinSet<Result<Done>>, began: Instant) -> Result<Done> {
    let mut all = Done::default();
    while let Some(done) = tasks.join_next().await {
        all.add(done??);
    }
    all.elapsed = began.elapsed();
    Ok(all)
}

fn completed(answer: Executed) -> Result<String> {
    let state = answer.transaction.context("no transaction")?.state();
    ensure!(
        state == wire::TransactionState::Completed,
        "{} is {state:?}",
        answer.transaction_id
    );
    Ok(answer.transaction_id)
}

/// The log holds every transaction, ended, with all its steps, each once.
pub(crate) async fn check(client: &Client, done: &[&Done], steps: u32) -> Result<()> {
    let mut wanted = HashSet::new();
    for id in done.iter().flat_map(|done| &done.ids) {
        let id = TransactionId::parse(id).map_err(|problem| anyhow::anyhow!(problem.message))?;
        ensure!(wanted.insert(id), "{id} was answered twice");
    }
    let mut left: std::collections::HashMap<_, _> =
        wanted.iter().map(|id| (*id, (0, 0, 0))).collect();
    let mut stream = client.read_log("", false).await?;
    while let Some(message) = stream.message().await? {
        let Some(bytes) = message.batch else { continue };
        for stored in batch::decode(&bytes, None)?.events {
            let Some(id) = stored.event.transaction() else {
                continue;
            };
            let Some((starts, completions, ends)) = left.get_mut(&id) else {
                continue;
            };
            match stored.event.kind {
                Kind::Transaction { what, .. } => match what {
                    TransactionEvent::Started(_) => *starts += 1,
                    TransactionEvent::Completed { .. } => *ends += 1,
                    other => anyhow::bail!("{id}: {other:?}"),
                },
                Kind::Command {
                    what: CommandEvent::Completed { .. },
                    ..
                } => *completions += 1,
                _ => {}
            }
        }
    }
    let wrong = left.iter().find(|(_, seen)| **seen != (1, steps, 1));
    ensure!(
        wrong.is_none(),
        "starts, completions, ends of {wrong:?} in the log"
    );
    eprintln!(
        "{} transactions are in the log, each step of each once",
        left.len()
    );
    Ok(())
}
