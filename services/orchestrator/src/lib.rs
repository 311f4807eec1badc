//! The orchestrator: runs workflows durably on fleets of workers.
//!
//! ```text
//!  grpc/  ──Input──▶ driver ──▶ engine: decide, evolve ──▶ journal: one append, one sync ──┐
//!  sessions/ ───────▶  (one thread)                                                         │
//!  grpc/, sessions/ ◀── letting_out: one message a batch ◀──────────────────────────────────┘
//!                         │ rows, behind the log
//!                         ▼
//!                       store: state.db
//! ```
//!
//! - Only the driver, through the journal, writes the log of record.
//! - Whatever has seen an event leaves after that event's sync.
//! - Live and replay are the same code; replay lets no effect out.
//! - `engine/`, `dispatch.rs` and `sessions/table.rs` hold no clock, channel, randomness or I/O.
//! - Every queue is bounded by `config/orchestrator.yaml`.

// What comes in and goes out.
pub mod config;
mod inbox;
mod grpc;
pub mod sessions;
pub mod definitions;
mod busy_poll;
mod letting_out;
// What decides.
mod driver;
pub mod engine;
pub mod dispatch;
pub mod stepped;
// What is kept.
mod journal;
mod store;
mod catalogue;
mod ids;
mod restore;
// What is told of it.
mod metrics;
mod samples;

use std::pin::pin;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::Receiver;
use eventlog::{EventLog, OpenError, Reader};
use kit::{Clock, Readiness, Service, exit, exit_with};
use proto::error::DOMAIN;
use proto::wire::event_log_service_server::EventLogServiceServer;
use proto::wire::orchestrator_service_server::OrchestratorServiceServer;
use proto::wire::worker_service_server::WorkerServiceServer;
use proto::workflow::Workflow;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use busy_poll::Awake;
use config::{Config, Flags, Task};
use driver::{Driver, Fatal, Shared};
use grpc::service::Orchestrator;
use grpc::written::Beside;
use inbox::{Inbox, Input, Queued};
use letting_out::LettingOut;
use sessions::service::Workers;

/// The largest message of a host, and the least that any message may have.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// What a message may have besides its payload.
const MESSAGE_BYTES_BESIDES: usize = 64 << 10;
/// How long what was answered last may take to leave when the driver could not go on.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// Everything from the command line to the end: what `main` runs.
///
/// # Errors
/// Each with its exit code: wrong configuration, data directory in use, damaged log.
pub async fn from_flags(mut flags: Flags) -> anyhow::Result<()> {
    if let Some(Task::Restore(task)) = flags.task.take() {
        let config = flags.load(std::env::vars().collect())?.value;
        return restore::run(&task, &config.data_dir, &Clock::system(0));
    }
    let loaded = flags.load(std::env::vars().collect())?;
    let _logging = kit::logging::init("orchestrator", &loaded.value.logging)?;
    loaded.warn();
    let config = loaded.value;
    let listener = kit::listen(&config.listen, &config.exposure).await?;
    let log = open_log(&config)?;
    let shutdown = kit::shutdown::on_signals()?;
    run(config, listener, log, Clock::system(0), shutdown).await
}

/// Opens the log in the configured directory.
///
/// # Errors
/// In use (75), damaged (74), of a newer format (78).
pub fn open_log(config: &Config) -> anyhow::Result<Box<dyn EventLog>> {
    match eventlog::open(&config.data_dir.join("log"), config.log_options()) {
        Ok(log) => Ok(Box::new(log)),
        Err(OpenError::Io(error)) => {
            let place = config.data_dir.display();
            let problem = anyhow::anyhow!("data_dir {place} cannot be used: {error}");
            Err(exit_with(exit::STORE, problem))
        }
        Err(error) => {
            let code = match &error {
                OpenError::Locked { .. } => exit::LOCKED,
                OpenError::NewerFormat { .. } => exit::CONFIG,
                OpenError::Damaged(_) | OpenError::Io(_) => exit::STORE,
            };
            Err(exit_with(code, error))
        }
    }
}

/// Runs the orchestrator on `listener` over `log` until `shutdown`. The caller owns socket, log,
/// time and signals; state.db is in the configuration's `data_dir`, which must be there.
///
/// # Errors
/// When the log can't be folded or written any more; with the exit code that says so.
pub async fn run(
    config: Config,
    listener: TcpListener,
    log: Box<dyn EventLog>,
    clock: Clock,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let config = Arc::new(config);
    let workflows = config.workflows()?;
    let (ready, readiness) = Readiness::channel("replaying the log");
    let mut service = Service::new("orchestrator", DOMAIN, readiness);
    let metrics = metrics::Metrics::register(&mut service.metrics);
    let (shared, inputs, letting_out) = share(&config, clock, metrics, store::Pace::Thread);
    let inbox = shared.inbox.clone();
    let stop = shutdown.child_token();
    dress(&mut service, &shared, log.reader(), &stop)?;
    let connections = service.connections.clone();
    let letting_out = tokio::spawn(letting_out.run());
    let (opened, open) = oneshot::channel();
    let (ended, mut driver_ended) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("driver".to_owned())
        .spawn(move || {
            let end = Driver::open(shared, log, inputs).and_then(|driver| {
                // Fails only when nobody runs the service any more; then Stop comes next.
                let _ = opened.send(());
                driver.run()
            });
            let _ = ended.send(end);
        })?;
    let samples = samples::run(
        inbox.clone(),
        config.data_dir.clone(),
        *config.sample_interval,
        connections,
        stop.clone(),
    );
    let samples = tokio::spawn(samples);
    // Whoever drops this future wants the driver to end as well.
    let stop_driver = StopOnDrop(inbox.clone());
    let mut served = pin!(kit::serve(service, listener, stop.clone()));
    let end = {
        let serving = async {
            if open.await.is_ok() {
                inbox.open();
                register(&inbox, workflows).await?;
                let _ = ready.send(Readiness::Ready);
            }
            std::future::pending::<anyhow::Result<()>>().await
        };
        tokio::select! {
            served = &mut served => served.map_err(anyhow::Error::from),
            failed = serving => failed,
            end = &mut driver_ended => {
                let _ = ready.send(Readiness::NotReady("the log failed".to_owned()));
                stop.cancel();
                // What was answered last leaves, and then nothing is waited for.
                let _ = tokio::time::timeout(LAST_WORDS, &mut served).await;
                return driver_end(end);
            }
        }
    };
    stop.cancel();
    drop(stop_driver);
    let driver_end = driver_end(driver_ended.await);
    samples.abort();
    let _ = letting_out.await;
    if thread.join().is_err() {
        anyhow::bail!("the driver panicked");
    }
    end.and(driver_end)
}

/// What the parts of the service have in common, and the driver's ends of it.
fn share(
    config: &Arc<Config>,
    clock: Clock,
    metrics: metrics::Metrics,
    pace: store::Pace,
) -> (Shared, Receiver<Queued>, LettingOut) {
    let (inbox, inputs) = Inbox::new(config.driver.inbox_inputs_max);
    let lookup = Arc::new(OnceLock::new());
    let catalogue = catalogue::Catalogue::default();
    let desk = sessions::late::Desk {
        lookup: lookup.clone(),
        catalogue: catalogue.clone(),
        inbox: inbox.clone(),
        places: Arc::new(Semaphore::new(config.sessions.late_messages_max)),
    };
    let awake = Awake::default();
    let (gate, letting_out) =
        letting_out::gate(desk, config.driver.outgoing_batches_max, awake.clone());
    let shared = Shared {
        config: config.clone(),
        clock,
        inbox,
        gate,
        awake,
        leases: sessions::line::Leases::default(),
        lookup,
        keys: store::Keys::default(),
        handovers: Arc::default(),
        head_time_us: Arc::new(AtomicI64::new(0)),
        catalogue,
        metrics,
        pace,
    };
    (shared, inputs, letting_out)
}

/// Asks the driver to end.
struct StopOnDrop(Inbox);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// How the driver's thread ended, with the exit code that says so.
fn driver_end(end: Result<Result<(), Fatal>, oneshot::error::RecvError>) -> anyhow::Result<()> {
    match end {
        Ok(Ok(())) => Ok(()),
        Ok(Err(fatal)) => Err(exit_with(exit::STORE, fatal)),
        Err(_) => Err(exit_with(
            exit::STORE,
            anyhow::anyhow!("the driver panicked; starting again folds the log anew"),
        )),
    }
}

/// Routes, descriptors and limits.
fn dress(
    service: &mut Service,
    shared: &Shared,
    log: Reader,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let config = &shared.config;
    let payload_bytes_max = usize::try_from(config.engine.max_payload_bytes.0)?;
    let ids = ids::Ids::new(shared.clock.clone());
    let orchestrator = orchestrator(shared, log.clone(), ids, stop);
    let workers = workers(shared, payload_bytes_max, stop);
    let event_log = grpc::event_log::EventLog {
        reader: log,
        head_time_us: shared.head_time_us.clone(),
        limits: config.event_log.clone(),
        places: Arc::new(Semaphore::new(config.event_log.max_readers)),
        shutdown: stop.clone(),
    };
    // A workflow file may have 1 MiB, whatever payloads may have.
    let request_bytes_max =
        payload_bytes_max.max(definitions::FILE_BYTES_MAX) + MESSAGE_BYTES_BESIDES;
    let orchestrator = Arc::new(orchestrator);
    let generated = OrchestratorServiceServer::from_arc(orchestrator.clone())
        .max_decoding_message_size(request_bytes_max);
    let workers = Arc::new(workers);
    let generated_workers =
        WorkerServiceServer::from_arc(workers.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let event_log =
        EventLogServiceServer::new(event_log).max_decoding_message_size(MESSAGE_BYTES_BESIDES);
    service.routes = kit::Routes::default()
        .add_service(Beside::new(orchestrator, generated, request_bytes_max))
        .add_service(Beside::new(workers, generated_workers, MESSAGE_BYTES_MAX))
        .add_service(event_log);
    service.descriptor_sets = vec![proto::DESCRIPTORS];
    service.health_names = vec![
        "multiagents.v1.OrchestratorService",
        "multiagents.v1.WorkerService",
        "multiagents.v1.EventLogService",
    ];
    service.exempt_methods = vec!["/multiagents.v1.OrchestratorService/ExecuteWorkflow".to_owned()];
    service.limits = config.server.clone();
    service.exposure = config.exposure.clone();
    Ok(())
}

fn orchestrator(
    shared: &Shared,
    log: Reader,
    ids: ids::Ids,
    stop: &CancellationToken,
) -> Orchestrator {
    Orchestrator {
        config: shared.config.clone(),
        inbox: shared.inbox.clone(),
        lookup: shared.lookup.clone(),
        handovers: shared.handovers.clone(),
        catalogue: shared.catalogue.clone(),
        log,
        ids,
        waiters: Arc::new(Semaphore::new(shared.config.waiting.max_waiters)),
        shutdown: stop.clone(),
    }
}

fn workers(shared: &Shared, payload_bytes_max: usize, stop: &CancellationToken) -> Workers {
    Workers {
        inbox: shared.inbox.clone(),
        leases: shared.leases.clone(),
        clock: shared.clock.clone(),
        limits: shared.config.sessions.clone(),
        payload_bytes_max,
        shutdown: stop.clone(),
    }
}

/// Registers the workflows of the configured directory; what is there already stays as it is.
async fn register(inbox: &Inbox, workflows: Vec<Workflow>) -> anyhow::Result<()> {
    if workflows.is_empty() {
        return Ok(());
    }
    let registered = inbox
        .ask(|reply| Input::Register {
            workflows,
            validate_only: false,
            reply,
        })
        .await?;
    for registered in registered {
        let workflow = &registered.workflow;
        let (name, version) = (&workflow.name, workflow.version);
        tracing::info!(%name, version, new = registered.created, "registered a workflow");
    }
    Ok(())
}
