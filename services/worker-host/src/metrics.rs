//! What the host does, for `/metrics`. Every series is there from the start, so that a rate has a
//! zero to begin at; a command costs a few atomic additions.

use std::sync::atomic::{AtomicI64, AtomicU64};

use foldhash::HashMap;
use multiagents_client::{Observed, Outcome, Worker};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WorkerLabel {
    worker: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    worker: String,
    outcome: &'static str,
}

/// The host's metrics.
pub(crate) struct Metrics {
    workers: HashMap<String, WorkerMetrics>,
    connected: Gauge<i64, AtomicI64>,
    reconnects: Counter<u64, AtomicU64>,
    refused: Counter<u64, AtomicU64>,
}

/// One worker's series, looked up once.
struct WorkerMetrics {
    completed: Counter,
    failed: Counter,
    timeout: Counter,
    cancelled: Counter,
    run: Histogram,
    wait: Histogram,
    busy: Gauge,
}

impl Metrics {
    /// Registers the series of every worker.
    pub(crate) fn register(registry: &mut Registry, workers: &[(Worker, u32)]) -> Self {
        let registry = registry.sub_registry_with_prefix("multiagents_worker_host");
        let commands = Family::<OutcomeLabels, Counter>::default();
        let slots = Family::<WorkerLabel, Gauge>::default();
        let busy = Family::<WorkerLabel, Gauge>::default();
        // 1 ms to about a minute, doubling; a wait begins at a tenth of that.
        let new_run = || Histogram::new(exponential_buckets(0.001, 2.0, 17));
        let new_wait = || Histogram::new(exponential_buckets(0.000_1, 4.0, 11));
        let run =
            Family::<WorkerLabel, Histogram, fn() -> Histogram>::new_with_constructor(new_run);
        let wait =
            Family::<WorkerLabel, Histogram, fn() -> Histogram>::new_with_constructor(new_wait);
        let metrics = Self {
            workers: workers
                .iter()
                .map(|(worker, offered)| {
                    let label = WorkerLabel {
                        worker: worker.name().to_owned(),
                    };
                    let count = |outcome| {
                        commands.get_or_create_owned(&OutcomeLabels {
                            worker: label.worker.clone(),
                            outcome,
                        })
                    };
                    slots.get_or_create_owned(&label).set(i64::from(*offered));
                    let series = WorkerMetrics {
                        completed: count("completed"),
                        failed: count("failed"),
                        timeout: count("timeout"),
                        cancelled: count("cancelled"),
                        run: run.get_or_create_owned(&label),
                        wait: wait.get_or_create_owned(&label),
                        busy: busy.get_or_create_owned(&label),
                    };
                    (label.worker, series)
                })
                .collect(),
            connected: Gauge::default(),
            reconnects: Counter::default(),
            refused: Counter::default(),
        };
        registry.register("commands", "Commands ended, by outcome", commands);
        registry.register("slots", "Slots offered", slots);
        registry.register("slots_busy", "Slots that have a command", busy);
        registry.register_with_unit("run", "Handler start to end", Unit::Seconds, run);
        registry.register_with_unit("wait", "Arrival to handler start", Unit::Seconds, wait);
        registry.register(
            "connected",
            "1 while a session with the orchestrator is open",
            metrics.connected.clone(),
        );
        registry.register(
            "reconnects",
            "Sessions opened after the first",
            metrics.reconnects.clone(),
        );
        registry.register(
            "results_refused",
            "Results that counted for nothing",
            metrics.refused.clone(),
        );
        metrics
    }

    /// Counts what the host did.
    pub(crate) fn observe(&self, observed: &Observed<'_>) {
        match observed {
            Observed::Connected { again } => {
                self.connected.set(1);
                if *again {
                    self.reconnects.inc();
                }
            }
            Observed::Disconnected { .. } => {
                self.connected.set(0);
            }
            Observed::Refused { .. } => {
                self.refused.inc();
            }
            Observed::Started { worker } => {
                if let Some(series) = self.workers.get(*worker) {
                    series.busy.inc();
                }
            }
            Observed::Ended {
                worker,
                outcome,
                wait,
                run,
                started,
            } => {
                if let Some(series) = self.workers.get(*worker) {
                    if *started {
                        series.busy.dec();
                        series.run.observe(run.as_secs_f64());
                    }
                    series.wait.observe(wait.as_secs_f64());
                    match outcome {
                        Outcome::Completed => series.completed.inc(),
                        Outcome::Failed => series.failed.inc(),
                        Outcome::Timeout => series.timeout.inc(),
                        Outcome::Cancelled => series.cancelled.inc(),
                    };
                }
            }
            // More may be told by a later client.
            _ => {}
        }
    }
}
