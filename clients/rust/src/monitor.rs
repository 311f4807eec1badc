//! The monitor's client: what happened, how fast, how well, and the feed of events.
//!
//! Every answer says at which position of the log it is true (`as_of`). A window that is None is
//! the monitor's own default.

use std::time::Duration;

use tonic::Streaming;
use tonic::transport::Channel;

use crate::client::timed;
use crate::connection::{Connection, MESSAGE_BYTES_MAX};
use crate::error::Error;
use crate::feed::Feed;
use crate::time::to_wire;
use crate::wire::{
    self, alert_service_client::AlertServiceClient,
    event_monitor_service_client::EventMonitorServiceClient,
    metrics_service_client::MetricsServiceClient,
    worker_monitor_service_client::WorkerMonitorServiceClient,
};

/// How long `connect` tries.
const PATIENCE: Duration = Duration::from_secs(2);

/// A client of the monitor. Clones share one connection, which comes back when it breaks.
#[derive(Clone, Debug)]
pub struct Monitor {
    connection: Connection,
}

impl Monitor {
    /// Connects to `host:port`, trying for two seconds.
    pub async fn connect(address: &str) -> Result<Self, Error> {
        Self::connect_within(address, PATIENCE).await
    }

    /// Connects, trying with back-off for as long as `patience`.
    pub async fn connect_within(address: &str, patience: Duration) -> Result<Self, Error> {
        let connection = Connection::open("monitor", address, patience).await?;
        Ok(Self { connection })
    }

    /// A client that connects when it is first used.
    pub fn lazy(address: &str) -> Result<Self, Error> {
        let connection = Connection::lazy("monitor", address)?;
        Ok(Self { connection })
    }

    /// Where the monitor is.
    pub fn address(&self) -> &str {
        &self.connection.address
    }

    /// The generated client of the events, for what has no wrapper here.
    pub fn raw_events(&self) -> EventMonitorServiceClient<Channel> {
        EventMonitorServiceClient::new(self.connection.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The generated client of the workers, for what has no wrapper here.
    pub fn raw_workers(&self) -> WorkerMonitorServiceClient<Channel> {
        WorkerMonitorServiceClient::new(self.connection.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The generated client of the metrics, for what has no wrapper here.
    pub fn raw_metrics(&self) -> MetricsServiceClient<Channel> {
        MetricsServiceClient::new(self.connection.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The generated client of the alerts, for what has no wrapper here.
    pub fn raw_alerts(&self) -> AlertServiceClient<Channel> {
        AlertServiceClient::new(self.connection.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// How many events, how fast, how well.
    pub async fn event_metrics(
        &self,
        window: Option<Duration>,
    ) -> Result<wire::GetEventMetricsResponse, Error> {
        self.event_metrics_of(wire::GetEventMetricsRequest {
            window: window.map(to_wire),
            ..Default::default()
        })
        .await
    }

    /// The same for one workflow or one worker.
    pub async fn event_metrics_of(
        &self,
        request: wire::GetEventMetricsRequest,
    ) -> Result<wire::GetEventMetricsResponse, Error> {
        let answer = self.raw_events().get_event_metrics(timed(request)).await;
        self.answer(answer)
    }

    /// Everything that happened in one transaction.
    pub async fn trace(
        &self,
        transaction_id: &str,
    ) -> Result<wire::GetTransactionTraceResponse, Error> {
        let request = wire::GetTransactionTraceRequest {
            transaction_id: transaction_id.to_owned(),
        };
        let answer = self
            .raw_events()
            .get_transaction_trace(timed(request))
            .await;
        self.answer(answer)
    }

    /// Failures grouped by what is constant in their messages, the most frequent first.
    pub async fn error_patterns(
        &self,
        window: Option<Duration>,
    ) -> Result<wire::GetErrorPatternsResponse, Error> {
        let request = wire::GetErrorPatternsRequest {
            window: window.map(to_wire),
            ..Default::default()
        };
        let answer = self.raw_events().get_error_patterns(timed(request)).await;
        self.answer(answer)
    }

    /// How one worker did.
    pub async fn worker_performance(
        &self,
        worker: &str,
        window: Option<Duration>,
    ) -> Result<wire::GetWorkerPerformanceResponse, Error> {
        let request = wire::GetWorkerPerformanceRequest {
            worker: worker.to_owned(),
            window: window.map(to_wire),
        };
        let answer = self
            .raw_workers()
            .get_worker_performance(timed(request))
            .await;
        self.answer(answer)
    }

    /// How every worker did, and all together.
    pub async fn worker_performance_summary(
        &self,
        window: Option<Duration>,
    ) -> Result<wire::GetWorkerPerformanceSummaryResponse, Error> {
        let request = wire::GetWorkerPerformanceSummaryRequest {
            window: window.map(to_wire),
        };
        let answer = self
            .raw_workers()
            .get_worker_performance_summary(timed(request))
            .await;
        self.answer(answer)
    }

    /// How one worker is, and why.
    pub async fn worker_health(
        &self,
        worker: &str,
    ) -> Result<wire::CheckWorkerHealthResponse, Error> {
        let request = wire::CheckWorkerHealthRequest {
            worker: worker.to_owned(),
        };
        let answer = self.raw_workers().check_worker_health(timed(request)).await;
        self.answer(answer)
    }

    /// How every worker is, and why.
    pub async fn workers_health(&self) -> Result<wire::GetAllWorkersHealthResponse, Error> {
        let request = timed(wire::GetAllWorkersHealthRequest {});
        let answer = self.raw_workers().get_all_workers_health(request).await;
        self.answer(answer)
    }

    /// Which workers are known, by name.
    pub async fn tracked_workers(&self) -> Result<Vec<String>, Error> {
        let request = timed(wire::ListTrackedWorkersRequest {});
        let answer = self.raw_workers().list_tracked_workers(request).await;
        Ok(self.answer(answer)?.workers)
    }

    /// A sample of the monitor's machine now, and the newest one of each other machine.
    pub async fn collect_system_metrics(
        &self,
    ) -> Result<wire::CollectSystemMetricsResponse, Error> {
        let request = timed(wire::CollectSystemMetricsRequest {});
        let answer = self.raw_metrics().collect_system_metrics(request).await;
        self.answer(answer)
    }

    /// Averages and peaks of the machines.
    pub async fn system_metrics(
        &self,
        window: Option<Duration>,
    ) -> Result<wire::GetSystemMetricsResponse, Error> {
        let request = wire::GetSystemMetricsRequest {
            window: window.map(to_wire),
            ..Default::default()
        };
        let answer = self.raw_metrics().get_system_metrics(timed(request)).await;
        self.answer(answer)
    }

    /// Evaluates the alert rules now.
    pub async fn check_alerts(&self) -> Result<wire::CheckAlertsResponse, Error> {
        let request = timed(wire::CheckAlertsRequest {});
        let answer = self.raw_alerts().check_alerts(request).await;
        self.answer(answer)
    }

    /// The feed of events: replays from a cursor or the oldest event if asked to, then follows. It
    /// connects when first read, and resumes by itself.
    pub fn events(&self, request: wire::StreamEventsRequest) -> Feed {
        Feed::new(self.clone(), request)
    }

    /// Refolds the monitor's log and compares every view.
    pub async fn verify(&self) -> Result<Verification, Error> {
        let answer = self
            .raw_events()
            .verify_views(wire::VerifyViewsRequest {})
            .await;
        Ok(Verification {
            stream: self.answer(answer)?,
            connection: self.connection.clone(),
        })
    }

    pub(crate) fn refused(&self, status: &tonic::Status) -> Error {
        self.connection.refused(status)
    }

    fn answer<T>(&self, answer: Result<tonic::Response<T>, tonic::Status>) -> Result<T, Error> {
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.refused(&status))
    }
}

/// A check of the views as it goes on.
#[derive(Debug)]
pub struct Verification {
    stream: Streaming<wire::VerifyViewsResponse>,
    connection: Connection,
}

impl Verification {
    /// The next verdict or sign of progress; None when every view was compared.
    pub async fn next(&mut self) -> Result<Option<wire::VerifyViewsResponse>, Error> {
        let message = self.stream.message().await;
        message.map_err(|status| self.connection.refused(&status))
    }
}
