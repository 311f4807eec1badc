//! The worker host: dials the orchestrator, offers the built-in workers, runs the commands that come.
//!
//! ```text
//!   orchestrator ◀──dials── multiagents-client: session, slots, heartbeats
//!                                 │ commands, results
//!                              handlers/ ── builtin
//!   scrapes, probes ──▶ kit: /metrics, /healthz, /readyz, grpc.health.v1
//! ```
//!
//! It decides nothing: what to run, how often and when to give up is the orchestrator's. It keeps
//! nothing on disk. It is ready while it has a session, and on SIGTERM it finishes what it has.

pub mod config;
pub mod handlers;
mod host_metrics;
mod metrics;

use std::sync::Arc;

use anyhow::Context as _;
use kit::connections::OpenConnections;
use kit::{Readiness, Service};
use multiagents_client::{BackOff, Error, Host, Observed};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::config::Config;
use crate::metrics::Metrics;

/// Runs the host until `shutdown` is cancelled and what it had is done.
///
/// # Errors
/// An offer or an address that is wrong, a port that must not be listened on, or an orchestrator
/// that refuses this host for good.
pub async fn run(
    config: Config,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let workers = handlers::workers(&config)?;
    let (ready, readiness) = Readiness::channel(format!(
        "not connected to the orchestrator at {} yet",
        config.orchestrator
    ));
    let connections = OpenConnections::default();
    let mut service = Service::new("worker-host", proto::error::DOMAIN, readiness);
    service.connections = connections.clone();
    service.limits = config.server.clone();
    service.exposure = config.exposure.clone();
    let metrics = Arc::new(Metrics::register(&mut service.metrics, &workers));

    let samples = host_metrics::start(*config.sample_interval, connections, &shutdown);
    let mut host = Host::builder(&config.orchestrator)
        .version(env!("CARGO_PKG_VERSION"))
        .drain_grace(*config.drain_grace)
        .result_bytes_max(usize::try_from(config.result_bytes_max.0)?)
        .remembers_bytes_max(usize::try_from(config.remembers_bytes_max.0)?)
        .reconnect(BackOff::new(
            *config.reconnect.delay,
            *config.reconnect.delay_max,
        ))
        .samples(samples)
        .observe(observer(metrics, ready.clone()));
    if !config.host_id.is_empty() {
        host = host.host_id(&config.host_id);
    }
    for (worker, slots) in workers {
        host = host.worker(worker, slots);
    }

    // A task of its own, so that handlers which are begun in it have one.
    let host = AbortOnDropHandle::new(tokio::spawn(host.run(shutdown.clone())));
    // The server outlives the drain, so that it can be watched.
    let stop_server = CancellationToken::new();
    let server = kit::serve(service, listener, stop_server.clone());
    let work = async {
        let _stop_server = stop_server.drop_guard();
        let draining = async {
            shutdown.cancelled().await;
            ready.send_replace(Readiness::NotReady("draining".into()));
            std::future::pending::<()>().await;
        };
        tokio::select! {
            left = host => left,
            () = draining => unreachable!("it only waits"),
        }
    };
    let mut server = std::pin::pin!(server);
    let mut work = std::pin::pin!(work);
    let left = tokio::select! {
        // Before its shutdown a server ends only because it can't begin.
        served = &mut server => return served.context("the server could not start"),
        left = &mut work => left,
    };
    server.await?;
    match left.context("the host broke down")? {
        Ok(_) => Ok(()),
        Err(error @ Error::Invalid(_)) => Err(kit::exit_with(kit::exit::CONFIG, error)),
        Err(error) => Err(error.into()),
    }
}

/// What the host does, as metrics and readiness.
fn observer(
    metrics: Arc<Metrics>,
    ready: watch::Sender<Readiness>,
) -> impl Fn(&Observed<'_>) + Send + Sync + 'static {
    move |observed| {
        metrics.observe(observed);
        match observed {
            Observed::Connected { .. } => {
                ready.send_replace(Readiness::Ready);
            }
            Observed::Disconnected { cause } => {
                ready.send_replace(Readiness::NotReady((*cause).to_owned()));
            }
            _ => {}
        }
    }
}
