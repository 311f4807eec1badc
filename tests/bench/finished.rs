//! Ten million finished transactions: what they cost the living, and a restart over them.
//!
//! Their log is written offline, by the orchestrator's own engine, encoder and log; its state.db is
//! built by the orchestrator itself, which replays that log at its first start.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use eventlog::{Batch, EventLog as _, Options, SegmentLog, Sync};
use orchestrator::engine::{self, Decided, Effect, Input, Limits, ResultOutcome, State};
use proto::batch::Encoder;
use proto::event::Start;
use proto::id::{HostId, Time, TransactionId, WorkflowName};
use proto::payload::Payload;
use proto::wire;
use proto::workflow::Workflow;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tests::{Suite, http, wait, workflows};

use crate::core::{IN_FLIGHT, INPUT_BYTES, LOAD_WARM_UP, three_noops, unmonitored};
use crate::load::{Done, Load, object};
use crate::report::Report;
use crate::{turns, waiting};

const FINISHED: usize = 10_000_000;
const IN_FLIGHT_AT_RESTART: usize = 100_000;
const WORKFLOWS_A_BATCH: usize = 200;
/// The last of them ended so long ago, and each began so long after the one before.
const AGO_US: i64 = 600_000_000;
const APART_US: i64 = 100;
/// A replay of so many takes minutes.
const REPLAY_PATIENCE: Duration = Duration::from_secs(900);

pub(crate) async fn measure(report: &mut Report) -> Result<()> {
    let mut suite = unmonitored().start().await;
    ensure!(suite.orchestrator.stop().await.success(), "it did not stop");
    let data = suite.directory().join("orchestrator");
    std::fs::remove_dir_all(&data)?;
    let began = Instant::now();
    write_log(&data.join("log")).context("the log of what has finished")?;
    eprintln!("{FINISHED} transactions written in {:.0?}", began.elapsed());
    let began = Instant::now();
    suite.orchestrator.start();
    let address = suite.orchestrator.address().to_owned();
    ready(&address, REPLAY_PATIENCE).await;
    let replayed = began.elapsed().as_secs_f64();
    report.add("rebuild_10m_finished_s", replayed, "s");
    workflows::register(&suite.client()).await;

    compare_with_none(&suite, report).await?;

    waiting::start(&suite, IN_FLIGHT_AT_RESTART).await?;
    suite.orchestrator.kill();
    rustix::fs::sync();
    forget_cached(&data)?;
    let began = Instant::now();
    suite.orchestrator.start();
    ready(&address, wait::PATIENCE).await;
    report.add("restart_s", began.elapsed().as_secs_f64(), "s");
    Ok(())
}

/// What a load comes to with so many finished, beside one with none.
async fn compare_with_none(suite: &Suite, report: &mut Report) -> Result<()> {
    let none = unmonitored().start().await;
    let suites = [&none, suite];
    for suite in suites {
        keyed(suite, LOAD_WARM_UP).await?;
    }
    rustix::fs::sync();
    let [without, with] = turns::alternate(async |at| keyed(suites[at], turns::TURN).await).await?;
    let ratio = turns::ratio(&with, &without, Done::per_second);
    report.add("rate_ratio_10m_finished", ratio, "");
    let ratio = turns::ratio(&with, &without, |done| done.percentile(99));
    report.add("p99_ratio_10m_finished", ratio, "");
    Ok(())
}

/// The usual load for so long, every second start with a random key.
async fn keyed(suite: &Suite, time: Duration) -> Result<Done> {
    let load = Load {
        keys: true,
        ..three_noops(suite)
    };
    let done = load.calls(IN_FLIGHT, time).await?;
    ensure!(!done.ids.is_empty(), "nothing was done");
    Ok(done)
}

/// Asks as often as it can, since a restart takes less than the usual pause.
async fn ready(address: &str, patience: Duration) {
    let began = Instant::now();
    loop {
        let answer = http::get(address, "/readyz").await;
        if answer.is_ok_and(|answer| answer.status == 200) {
            return;
        }
        assert!(began.elapsed() < patience, "{address} never became ready");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Takes the files below a directory out of the system's memory.
fn forget_cached(directory: &Path) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            forget_cached(&path)?;
        } else {
            let file = std::fs::File::open(&path)?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        }
    }
    Ok(())
}

/// An engine and a log, without anything in between that a crash could matter to.
struct Writer {
    log: SegmentLog,
    next: u64,
    state: State,
    encoder: Encoder,
    now: Time,
    ids: StdRng,
    host: HostId,
}

fn write_log(directory: &Path) -> Result<()> {
    let options = Options {
        sync: Sync::Lazily,
        ..Options::default()
    };
    let log = eventlog::open(directory, options)?;
    let limits = Limits {
        observing_events: false,
        ..Limits::default()
    };
    let since = i64::try_from(FINISHED)? * APART_US + AGO_US;
    let now = jiff::Timestamp::now().as_microsecond() - since;
    let mut writer = Writer {
        log,
        next: 0,
        state: State::new(limits),
        encoder: Encoder::default(),
        now: Time(now),
        ids: StdRng::seed_from_u64(7),
        host: named(HostId::parse("offline"))?,
    };
    let described = wire::Workflow::from(workflows::three_noops());
    let workflow = named(Workflow::check(&described))?;
    let name = workflow.name.clone();
    let workflow = Box::new(workflow);
    writer.decide(Input::Register { workflow })?;
    let input = object(INPUT_BYTES);
    for number in 0..FINISHED {
        writer.now = writer.now.after_us(APART_US.unsigned_abs());
        writer.run(&name, number, input.clone())?;
        if number % WORKFLOWS_A_BATCH == 0 {
            writer.append()?;
        }
    }
    writer.append()?;
    writer.log.close()?;
    Ok(())
}

impl Writer {
    /// One transaction from its start to its end.
    fn run(&mut self, workflow: &WorkflowName, number: usize, input: Bytes) -> Result<()> {
        let millis = u64::try_from(self.now.0 / 1_000)?;
        let id = uuid::Builder::from_unix_timestamp_millis(millis, &self.ids.random());
        let id = TransactionId(id.into_uuid().into_bytes());
        let idempotency_key = match number.is_multiple_of(2) {
            true => format!("{:032x}", self.ids.random::<u128>()),
            false => String::new(),
        };
        let mut effects = self.decide(Input::Start {
            id,
            workflow: workflow.clone(),
            version: 0,
            start: Box::new(Start {
                version: 0,
                input: Payload::Held(input),
                input_hash: match idempotency_key.is_empty() {
                    true => Bytes::new(),
                    false => Bytes::from_static(&[7; 32]),
                },
                idempotency_key,
                labels: Default::default(),
                trace_parent: String::new(),
            }),
            ended: None,
        })?;
        while let Some(command) = effects.iter().find_map(|effect| match effect {
            Effect::Enqueue { command, .. } => Some(*command),
            _ => None,
        }) {
            let host = self.host.clone();
            self.decide(Input::Dispatched { command, host })?;
            let name = self.state.command_id(&command).context("no command")?;
            effects = self.decide(Input::Result {
                host: self.host.clone(),
                command: name,
                outcome: ResultOutcome::Completed(Bytes::from_static(b"{}")),
                wait_us: 50,
                run_us: 20,
            })?;
        }
        self.state.remove(&id);
        ensure!(self.state.transaction_state(&id).is_none(), "{id} lives on");
        Ok(())
    }

    fn decide(&mut self, input: Input) -> Result<Vec<Effect>> {
        let mut decided = Decided::default();
        let next = self.next + u64::from(self.encoder.count());
        let reply = engine::handle(&mut self.state, input, self.now, next, &mut decided);
        reply.map_err(|problem| anyhow::anyhow!(problem.message))?;
        for event in &decided.events {
            self.encoder.push(event);
        }
        Ok(decided.effects)
    }

    fn append(&mut self) -> Result<()> {
        let (count, time_us) = (self.encoder.count(), self.encoder.time().0);
        let (events, payloads) = self.encoder.finish(self.next);
        let batch = Batch {
            count,
            time_us,
            events,
            payloads,
        };
        self.next = self.log.append(self.next, &batch)?;
        self.encoder.clear();
        Ok(())
    }
}

fn named<T>(parsed: Result<T, proto::error::Problem>) -> Result<T> {
    parsed.map_err(|problem| anyhow::anyhow!(problem.message))
}
