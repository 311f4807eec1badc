//! What the monitor answers: one file per service, named like its proto. Parse, take a view, ask the
//! folds, answer; no figures are made here.

pub mod answers;
pub mod machine;
mod event_monitor;
mod stream_events;
mod trace;
mod verify;
mod worker_monitor;
mod metrics;
mod alerts;

use std::pin::Pin;
use std::sync::Arc;

use kit::Routes;
use proto::error::{Problem, Reason};
use proto::wire;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::config::Limits;
use crate::feed::Feed;
use crate::fold::Folds;
use crate::store::Snapshots;
use crate::views::Fresh;
use machine::Machine;

/// The full names of the services, for health.
pub const SERVICE_NAMES: [&str; 4] = [
    "multiagents.v1.EventMonitorService",
    "multiagents.v1.WorkerMonitorService",
    "multiagents.v1.MetricsService",
    "multiagents.v1.AlertService",
];

/// A stream of answers.
type Stream<T> = Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

/// What every service answers from.
#[derive(Clone)]
pub struct Answers {
    /// Views of the folds.
    pub fresh: Fresh,
    /// The feed of events, and the log behind it.
    pub feed: Arc<Feed>,
    /// Where a verification begins.
    pub snapshots: Snapshots,
    /// The own machine.
    pub machine: Arc<Machine>,
    /// How much of everything.
    pub limits: Limits,
    /// Whether the rule per worker is on.
    pub per_worker_alerts: bool,
    /// Ends the feeds.
    pub shutdown: CancellationToken,
}

/// All services.
pub fn routes(answers: &Answers) -> Routes {
    use wire::alert_service_server::AlertServiceServer;
    use wire::event_monitor_service_server::EventMonitorServiceServer;
    use wire::metrics_service_server::MetricsServiceServer;
    use wire::worker_monitor_service_server::WorkerMonitorServiceServer;
    Routes::default()
        .add_service(EventMonitorServiceServer::new(answers.clone()))
        .add_service(WorkerMonitorServiceServer::new(answers.clone()))
        .add_service(MetricsServiceServer::new(answers.clone()))
        .add_service(AlertServiceServer::new(answers.clone()))
}

/// Paths of the calls that last as long as the caller likes.
pub fn streaming_methods() -> Vec<String> {
    [
        "EventMonitorService/StreamEvents",
        "EventMonitorService/StreamUpdates",
        "EventMonitorService/VerifyViews",
        "WorkerMonitorService/StreamWorkerHealth",
        "MetricsService/StreamSystemMetrics",
        "AlertService/StreamAlerts",
    ]
    .map(|method| format!("/multiagents.v1.{method}"))
    .to_vec()
}

impl Answers {
    /// The newest view, where its folds of events are on.
    async fn events_view(&self) -> Result<Arc<Folds>, Problem> {
        let view = self.fresh.view().await;
        switched_on(view.settings.events, "event_monitoring.enabled")?;
        Ok(view)
    }

    /// The newest view, where its folds of workers are on.
    async fn workers_view(&self) -> Result<Arc<Folds>, Problem> {
        let view = self.fresh.view().await;
        switched_on(view.settings.workers, "worker_monitoring.enabled")?;
        Ok(view)
    }

    /// The newest view, where its folds of machines are on.
    async fn system_view(&self) -> Result<Arc<Folds>, Problem> {
        let view = self.fresh.view().await;
        let keys = "metrics_collection.enabled and metrics_collection.include_system_metrics";
        switched_on(view.settings.system, keys)?;
        Ok(view)
    }
}

fn switched_on(on: bool, key: &str) -> Result<(), Problem> {
    if on {
        return Ok(());
    }
    let message = format!("this is switched off in the monitor's configuration; set {key} to true");
    Err(Problem::new(Reason::SwitchedOff, message).with("key", key))
}

/// A method that a later release fills.
fn not_yet(method: &str, instead: &str) -> Status {
    let message = format!("{method} comes with a later release; {instead}");
    Problem::new(Reason::NotYetImplemented, message).into()
}
