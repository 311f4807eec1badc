//! MetricsService: system metrics; custom ones come later.

use proto::convert::to_timestamp;
use proto::error::{Problem, Reason};
use proto::id::Time;
use proto::wire;
use proto::wire::metrics_service_server::MetricsService;
use tonic::{Request, Response, Status};

use super::answers::{WINDOW_SECONDS, as_of, window, window_start};
use super::{Answers, Stream, not_yet};
use crate::folds::metrics::Sample;

/// The service's own name among those that count connections.
const OWN_SERVICE: &str = "monitor";

#[tonic::async_trait]
impl MetricsService for Answers {
    type StreamSystemMetricsStream = Stream<wire::StreamSystemMetricsResponse>;

    async fn collect_system_metrics(
        &self,
        _: Request<wire::CollectSystemMetricsRequest>,
    ) -> Result<Response<wire::CollectSystemMetricsResponse>, Status> {
        let view = self.system_view().await?;
        let sample = self.machine.sample().await.ok_or_else(|| {
            Problem::new(
                Reason::Internal,
                "the machine can't be sampled; the log says why",
            )
        })?;
        let mut connections = view.metrics.connections(view.time_us);
        connections.insert(OWN_SERVICE.to_owned(), sample.open_connections);
        Ok(Response::new(wire::CollectSystemMetricsResponse {
            as_of: Some(as_of(&view)),
            sample: Some(sample),
            machines: view
                .metrics
                .newest()
                .into_iter()
                .map(timed_sample)
                .collect(),
            active_connections: connections.values().sum(),
            connections: connections
                .into_iter()
                .map(|(service, connections)| wire::ServiceConnections {
                    service,
                    connections,
                })
                .collect(),
        }))
    }

    async fn get_system_metrics(
        &self,
        request: Request<wire::GetSystemMetricsRequest>,
    ) -> Result<Response<wire::GetSystemMetricsResponse>, Status> {
        let request = request.into_inner();
        let view = self.system_view().await?;
        let start_us = window_start(
            &view,
            request.window.as_ref(),
            WINDOW_SECONDS,
            view.settings.figures_retention_seconds,
        )?;
        let machine = (!request.machine.is_empty()).then_some(request.machine.as_str());
        let figures = view.metrics.figures(start_us, machine);
        let per_second = |at: usize| figures.per_second.map(|sums| sums[at]);
        let connections = (figures.samples > 0 && machine.is_none())
            .then(|| view.metrics.connections(view.time_us).values().sum());
        Ok(Response::new(wire::GetSystemMetricsResponse {
            as_of: Some(as_of(&view)),
            window: Some(window(figures.start_us, &view)),
            samples: figures.samples,
            average_cpu_ratio: figures.cpu.map(|(average, _)| average),
            peak_cpu_ratio: figures.cpu.map(|(_, peak)| peak),
            average_memory_ratio: figures.memory.map(|(average, _)| average),
            peak_memory_ratio: figures.memory.map(|(_, peak)| peak),
            average_load: figures.load.map(|(average, _)| average),
            peak_load: figures.load.map(|(_, peak)| peak),
            disk_used_ratio: figures.disk,
            disk_read_bytes_per_second: per_second(0),
            disk_written_bytes_per_second: per_second(1),
            network_received_bytes_per_second: per_second(2),
            network_sent_bytes_per_second: per_second(3),
            active_connections: connections,
            peak_active_connections: figures.peak_connections,
            machines: figures.machines.into_iter().collect(),
        }))
    }

    async fn stream_system_metrics(
        &self,
        _: Request<wire::StreamSystemMetricsRequest>,
    ) -> Result<Response<Self::StreamSystemMetricsStream>, Status> {
        Err(not_yet("StreamSystemMetrics", "ask GetSystemMetrics"))
    }

    async fn report_system_metrics(
        &self,
        _: Request<wire::ReportSystemMetricsRequest>,
    ) -> Result<Response<wire::ReportSystemMetricsResponse>, Status> {
        Err(not_yet(
            "ReportSystemMetrics",
            "machines with a worker host are sampled by it",
        ))
    }

    async fn record_metric(
        &self,
        _: Request<wire::RecordMetricRequest>,
    ) -> Result<Response<wire::RecordMetricResponse>, Status> {
        Err(not_yet("RecordMetric", "nothing was recorded"))
    }

    async fn get_metric(
        &self,
        _: Request<wire::GetMetricRequest>,
    ) -> Result<Response<wire::GetMetricResponse>, Status> {
        Err(not_yet("GetMetric", "there are no custom metrics yet"))
    }

    async fn list_metrics(
        &self,
        _: Request<wire::ListMetricsRequest>,
    ) -> Result<Response<wire::ListMetricsResponse>, Status> {
        Err(not_yet("ListMetrics", "there are no custom metrics yet"))
    }
}

fn timed_sample(sample: &Sample) -> wire::TimedSample {
    wire::TimedSample {
        time: Some(to_timestamp(Time(sample.time_us))),
        sample: Some(wire::SystemSample {
            machine: sample.machine.clone(),
            cpu_ratio: sample.cpu,
            memory_used_bytes: sample.memory.0,
            memory_total_bytes: sample.memory.1,
            load_1m: sample.load,
            disk_used_bytes: sample.disk.0,
            disk_total_bytes: sample.disk.1,
            disk_read_bytes: sample.bytes.disk_read,
            disk_written_bytes: sample.bytes.disk_written,
            network_received_bytes: sample.bytes.received,
            network_sent_bytes: sample.bytes.sent,
            open_connections: sample.connections,
            service: sample.service.clone(),
            processors: sample.processors,
            process_memory_bytes: sample.process_memory,
        }),
    }
}
