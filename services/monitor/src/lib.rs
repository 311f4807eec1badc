//! The monitor: shows everything that happens, from folds of what the orchestrators wrote.
//!
//! ```text
//!   orchestrators ──ReadEvents──▶ ingest ─┐
//!   a tick a second, own samples ─────────┼──▶ recorder ──▶ own log ──▶ folds ──▶ views ──▶ answers
//!                                         ┘      (one thread)   └─────▶ feed ──▶ subscribers
//! ```
//!
//! - One position, one order, one clock: answers, feeds and verification read the monitor's own log
//!   and nothing else. The same position gives the same answers.
//! - It can neither slow nor stop a transaction: it reads, over one stream per orchestrator.
//! - What it can't have or can't read is counted, written down and said; nothing is passed over
//!   silently.
//! - Payloads never come here, only their sizes.

// How it is set up.
pub mod config;
// The flow, in its order.
pub mod ingest;
pub mod entry;
pub mod recorder;
pub mod fold;
pub mod folds;
pub mod views;
pub mod feed;
pub mod alerts;
pub mod checks;
pub mod store;
// What others see.
pub mod grpc;
pub mod http;

use std::sync::Arc;
use std::time::Duration;

use eventlog::OpenError;
use kit::{Clock, Readiness, Service, exit, exit_with};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use config::Config;
use entry::Note;
use feed::Feed;
use fold::What;
use grpc::Answers;
use grpc::machine::Machine;
use recorder::{Input, RecordError, Recorder};
use store::{Opened, StoreError};
use views::{Fresh, Views};

/// How often it is looked whether a view is due.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);

/// Runs the monitor until `shutdown`: the caller owns the listener, the time and the signals.
///
/// # Errors
/// With exit codes: 75 when the data directory is in use, 74 when its log is damaged or a write's
/// fate is unknown, 78 when it was written by a newer program.
pub async fn run(
    config: Config,
    listener: TcpListener,
    clock: Clock,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let (directory, options) = (config.data_dir.clone(), config.log_options());
    let opened = tokio::task::spawn_blocking(move || store::open(&directory, options)).await?;
    let Opened {
        log,
        folds,
        snapshots,
    } = opened.map_err(|error| exit_code(&config.data_dir, error))?;
    clock.raise_to(folds.time_us);

    // A recorder that fails stops the service; a service that stops leaves its caller alone.
    let stop = shutdown.child_token();
    let reader = eventlog::EventLog::reader(&log);
    let limits = config.limits.clone();
    let feed = Feed::new(reader, limits.feed_events_max, limits.max_subscribers);
    let feed = Arc::new(feed);
    let sources = folds.sources.sources.clone();
    let views = Arc::new(Views::new(folds.clone()));
    let mut recorder = Recorder::new(
        log,
        folds,
        snapshots.clone(),
        views.clone(),
        feed.clone(),
        clock,
        config.upkeep(),
        stop.clone(),
    );
    recorder
        .start(config.settings())
        .map_err(record_exit_code)?;
    let (inbox, inputs) = mpsc::channel(config.limits.inbox_messages_max);
    let recording = spawn_recorder(recorder, inputs, stop.clone())?;

    let (ready, readiness) = Readiness::channel("starting");
    let mut service = Service::new("monitor", proto::error::DOMAIN, readiness);
    let machine = Arc::new(Machine::new(&config.data_dir, service.connections.clone()));
    for address in &config.orchestrators {
        let address: Arc<str> = address.as_str().into();
        let from = sources.get(&address).cloned().unwrap_or_default();
        tokio::spawn(ingest::tail(address, from, inbox.clone(), stop.clone()));
    }
    tokio::spawn(keep_time(
        config.clone(),
        views.clone(),
        inbox.clone(),
        stop.clone(),
    ));
    if config.settings().system {
        let interval = config.metrics_collection.collection_interval_seconds;
        let interval = Duration::from_secs_f64(interval);
        tokio::spawn(sample(
            machine.clone(),
            interval,
            inbox.clone(),
            stop.clone(),
        ));
    }
    let interval = config.worker_monitoring.health_check_interval_seconds;
    tokio::spawn(checks::run(
        views.clone(),
        Duration::from_secs_f64(interval),
        config.worker_monitoring.alert_on_high_error_rate,
        stop.clone(),
    ));

    let answers = Answers {
        fresh: Fresh::new(views.clone(), inbox.clone()),
        feed: feed.clone(),
        snapshots,
        machine,
        limits,
        per_worker_alerts: config.worker_monitoring.alert_on_high_error_rate,
        shutdown: stop.clone(),
    };
    http::register(&mut service.metrics, views, feed);
    service.routes = grpc::routes(&answers);
    service.descriptor_sets = vec![proto::DESCRIPTORS];
    service.health_names = grpc::SERVICE_NAMES.to_vec();
    service.exempt_methods = grpc::streaming_methods();
    service.limits = config.server.clone();
    service.exposure = config.exposure.clone();
    ready.send_replace(Readiness::Ready);
    let served = kit::serve(service, listener, stop.clone()).await;

    // The recorder ends once it has written down what it was given.
    stop.cancel();
    let _ = inbox.send(Input::Stop).await;
    let recorded = tokio::task::spawn_blocking(move || recording.join()).await?;
    recorded
        .map_err(|_| anyhow::anyhow!("the recorder ended by a panic"))?
        .map_err(record_exit_code)?;
    served?;
    Ok(())
}

fn spawn_recorder(
    recorder: Recorder,
    inputs: mpsc::Receiver<Input>,
    stop: CancellationToken,
) -> std::io::Result<std::thread::JoinHandle<Result<(), RecordError>>> {
    std::thread::Builder::new()
        .name("recorder".to_owned())
        .spawn(move || {
            // Whatever ends it, by a panic too, ends the service.
            let _stop = stop.drop_guard();
            recorder
                .run(inputs)
                .inspect_err(|error| tracing::error!(%error, "the recorder stopped"))
        })
}

/// A tick each second, a view where one is due, and the clean-up at its interval.
async fn keep_time(
    config: Config,
    views: Arc<Views>,
    inbox: mpsc::Sender<Input>,
    stop: CancellationToken,
) {
    let minutes = config.event_monitoring.cleanup_interval_minutes;
    let interval = |period: Duration| {
        let mut interval = tokio::time::interval(period);
        interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
        interval
    };
    let mut second = interval(Duration::from_secs(1));
    let mut publish = interval(PUBLISH_INTERVAL);
    let mut clean_up = interval(Duration::from_secs_f64(minutes * 60.0));
    loop {
        let sent = tokio::select! {
            () = stop.cancelled() => return,
            _ = second.tick() => inbox.send(Input::Note(Note::one(What::Tick))).await,
            _ = publish.tick(), if !views.is_current() => inbox.send(Input::Publish(None)).await,
            _ = clean_up.tick() => inbox.send(Input::CleanUp).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

/// The own machine's samples.
async fn sample(
    machine: Arc<Machine>,
    interval: Duration,
    inbox: mpsc::Sender<Input>,
    stop: CancellationToken,
) {
    let mut due = tokio::time::interval(interval);
    due.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = due.tick() => {}
        }
        let Some(sample) = machine.sample().await else {
            continue;
        };
        let note = Note::one(What::Sampled(Box::new(sample)));
        if inbox.send(Input::Note(note)).await.is_err() {
            return;
        }
    }
}

fn exit_code(data_dir: &std::path::Path, error: StoreError) -> anyhow::Error {
    let unusable = |error: std::io::Error| {
        let place = data_dir.display();
        let problem = anyhow::anyhow!("data_dir {place} cannot be used: {error}");
        exit_with(exit::STORE, problem)
    };
    let error = match error {
        StoreError::Io(error) | StoreError::Open(OpenError::Io(error)) => return unusable(error),
        error => error,
    };
    let code = match &error {
        StoreError::Open(OpenError::Locked { .. }) => exit::LOCKED,
        StoreError::Open(OpenError::NewerFormat { .. }) => exit::CONFIG,
        StoreError::Open(_)
        | StoreError::Read(_)
        | StoreError::Unreadable(_)
        | StoreError::Io(_) => exit::STORE,
    };
    exit_with(code, error)
}

fn record_exit_code(error: RecordError) -> anyhow::Error {
    exit_with(exit::STORE, error)
}
