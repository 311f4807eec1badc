//! What `/metrics` tells of the orchestrator: how much goes through the loop, and what becomes of it.
//!
//! Counters begin at zero with the process; those that survive a restart are the monitor's, which
//! folds the log. Nothing here costs an event more than an atomic addition.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use proto::event::{CommandEvent, Event, HostEvent, Kind, TransactionEvent};

/// The orchestrator's metrics; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Inputs that one turn of the loop took.
    pub inputs: Histogram,
    /// Events of one batch.
    pub batch_events: Histogram,
    /// How long an append with its sync took.
    pub append_seconds: Histogram,
    /// Transactions in memory.
    pub live: Gauge,
    /// Commands that wait for a slot or a retry.
    pub queued: Gauge,
    /// Hosts with an open session.
    pub hosts: Gauge,
    /// Transactions that somebody waits for.
    pub waiters: Gauge,
    started: Counter,
    ends: [Counter; 4],
    outcomes: [Counter; 5],
    dispatched: Counter,
    refused: Family<ReasonLabel, Counter>,
    hosts_lost: Counter,
    hosts_quarantined: Counter,
    events: Arc<Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: String,
}

/// In the order of `Metrics::ends`.
const ENDS: [&str; 4] = ["completed", "failed", "compensated", "cancelled"];
/// In the order of `Metrics::outcomes`.
const OUTCOMES: [&str; 5] = ["completed", "failed", "timeout", "lost", "cancelled"];

impl Metrics {
    /// Registers everything.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("multiagents_orchestrator");
        let ends = Family::<StateLabel, Counter>::default();
        let outcomes = Family::<OutcomeLabel, Counter>::default();
        let metrics = Self {
            inputs: Histogram::new(exponential_buckets(1.0, 2.0, 14)),
            batch_events: Histogram::new(exponential_buckets(1.0, 2.0, 14)),
            append_seconds: Histogram::new(exponential_buckets(0.000_05, 2.0, 16)),
            live: Gauge::default(),
            queued: Gauge::default(),
            hosts: Gauge::default(),
            waiters: Gauge::default(),
            started: Counter::default(),
            // Made at once, so that a scrape shows a zero rather than nothing.
            ends: ENDS.map(|state| ends.get_or_create_owned(&StateLabel { state })),
            outcomes: OUTCOMES
                .map(|outcome| outcomes.get_or_create_owned(&OutcomeLabel { outcome })),
            dispatched: Counter::default(),
            refused: Family::default(),
            hosts_lost: Counter::default(),
            hosts_quarantined: Counter::default(),
            events: Arc::default(),
        };
        let this = &metrics;
        registry.register(
            "transactions_started",
            "Transactions started since this process began",
            this.started.clone(),
        );
        registry.register("transactions_ended", "Transactions ended, by state", ends);
        registry.register("commands", "Commands ended, by outcome", outcomes);
        registry.register(
            "commands_dispatched",
            "Commands given to hosts",
            this.dispatched.clone(),
        );
        registry.register(
            "results_refused",
            "Results that counted for nothing, by reason",
            this.refused.clone(),
        );
        registry.register(
            "hosts_lost",
            "Worker hosts whose lease lapsed",
            this.hosts_lost.clone(),
        );
        registry.register(
            "hosts_quarantined",
            "Times that a worker host was held back, since hosts like it crash in a loop",
            this.hosts_quarantined.clone(),
        );
        registry.register(
            "events",
            "Events appended to the log",
            (*this.events).clone(),
        );
        registry.register(
            "loop_inputs",
            "Inputs that one turn of the loop took",
            this.inputs.clone(),
        );
        registry.register(
            "batch_events",
            "Events of one batch of the log",
            this.batch_events.clone(),
        );
        registry.register_with_unit(
            "append",
            "Time of an append to the log with its sync",
            Unit::Seconds,
            this.append_seconds.clone(),
        );
        for (name, help, gauge) in [
            (
                "transactions_in_memory",
                "Live transactions, and ended ones not yet written",
                &this.live,
            ),
            (
                "commands_queued",
                "Commands that wait for a slot or for their retry",
                &this.queued,
            ),
            (
                "hosts_connected",
                "Worker hosts with an open session",
                &this.hosts,
            ),
            (
                "transactions_awaited",
                "Transactions that a call waits for or watches",
                &this.waiters,
            ),
        ] {
            registry.register(name, help, gauge.clone());
        }
        metrics
    }

    /// Counts an event.
    pub(crate) fn count(&self, event: &Event) {
        self.events.inc();
        match &event.kind {
            Kind::Transaction { what, .. } => match what {
                TransactionEvent::Started(_) => drop(self.started.inc()),
                TransactionEvent::Completed { .. } => drop(self.ends[0].inc()),
                TransactionEvent::Failed { .. } => drop(self.ends[1].inc()),
                TransactionEvent::Compensated => drop(self.ends[2].inc()),
                TransactionEvent::Cancelled => drop(self.ends[3].inc()),
                TransactionEvent::CancelRequested(_)
                | TransactionEvent::CompensationStarted { .. }
                | TransactionEvent::Carried(_) => {}
            },
            Kind::Command { what, .. } => match what {
                CommandEvent::Dispatched => drop(self.dispatched.inc()),
                CommandEvent::Completed { .. } => drop(self.outcomes[0].inc()),
                CommandEvent::Failed { .. } => drop(self.outcomes[1].inc()),
                CommandEvent::TimedOut { .. } => drop(self.outcomes[2].inc()),
                CommandEvent::Lost { .. } => drop(self.outcomes[3].inc()),
                CommandEvent::Cancelled { .. } => drop(self.outcomes[4].inc()),
                CommandEvent::Queued { .. } | CommandEvent::PickedUp | CommandEvent::Processing => {
                }
            },
            Kind::Host { what, .. } => match what {
                HostEvent::Lost => drop(self.hosts_lost.inc()),
                HostEvent::Quarantined { .. } => drop(self.hosts_quarantined.inc()),
                HostEvent::Connected { .. }
                | HostEvent::Disconnected { .. }
                | HostEvent::Draining => {}
            },
            Kind::ResultRefused { reason, .. } => self.result_refused(reason),
            Kind::OrchestratorStarted { .. }
            | Kind::WorkflowRegistered(_)
            | Kind::SystemSampled { .. } => {}
        }
    }

    /// Counts a result that was refused: those that are events are counted with them.
    pub(crate) fn result_refused(&self, reason: &str) {
        let reason = reason.to_owned();
        self.refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Shows a figure.
    pub(crate) fn set(&self, gauge: &Gauge, value: usize) {
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    }
}
