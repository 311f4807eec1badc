//! WorkerMonitorService: how workers do, and how they are.

use std::collections::BTreeMap;

use proto::convert::to_timestamp;
use proto::error::{Problem, Reason};
use proto::id::{Time, check_name};
use proto::wire;
use proto::wire::worker_monitor_service_server::WorkerMonitorService;
use tonic::{Request, Response, Status};

use super::answers::{as_of, latency, minutes, window, window_start};
use super::{Answers, Stream, not_yet};
use crate::fold::Folds;
use crate::folds::judgement::{HostHealth, Word, WorkerHealth, judge, judge_all};
use crate::folds::performance::Figures;

#[tonic::async_trait]
impl WorkerMonitorService for Answers {
    type StreamWorkerHealthStream = Stream<wire::StreamWorkerHealthResponse>;

    async fn get_worker_performance(
        &self,
        request: Request<wire::GetWorkerPerformanceRequest>,
    ) -> Result<Response<wire::GetWorkerPerformanceResponse>, Status> {
        let request = request.into_inner();
        check_name("worker", &request.worker)?;
        let view = self.workers_view().await?;
        let start_us = performance_window(&view, request.window.as_ref())?;
        if view.health.find(&request.worker).is_none() {
            return Err(not_found(&view, &request.worker).into());
        }
        let mut report = view.performance.report_of(start_us, &request.worker);
        let (figures, hosts) = report.workers.remove(&request.worker).unwrap_or_default();
        let minutes = minutes(report.start_us, &view);
        Ok(Response::new(wire::GetWorkerPerformanceResponse {
            as_of: Some(as_of(&view)),
            window: Some(window(report.start_us, &view)),
            performance: Some(performance(&request.worker, &figures, &hosts, minutes)),
        }))
    }

    async fn get_worker_performance_summary(
        &self,
        request: Request<wire::GetWorkerPerformanceSummaryRequest>,
    ) -> Result<Response<wire::GetWorkerPerformanceSummaryResponse>, Status> {
        let request = request.into_inner();
        let view = self.workers_view().await?;
        let start_us = performance_window(&view, request.window.as_ref())?;
        let mut report = view.performance.report(start_us);
        // A worker that did nothing in the window is there all the same, with zeros.
        for worker in view.health.workers().into_keys() {
            report.workers.entry(worker.to_owned()).or_default();
        }
        let minutes = minutes(report.start_us, &view);
        let workers = report
            .workers
            .iter()
            .map(|(worker, (figures, hosts))| performance(worker, figures, hosts, minutes))
            .collect();
        Ok(Response::new(wire::GetWorkerPerformanceSummaryResponse {
            as_of: Some(as_of(&view)),
            window: Some(window(report.start_us, &view)),
            workers,
            aggregated: Some(performance("", &report.all, &BTreeMap::new(), minutes)),
        }))
    }

    async fn check_worker_health(
        &self,
        request: Request<wire::CheckWorkerHealthRequest>,
    ) -> Result<Response<wire::CheckWorkerHealthResponse>, Status> {
        let worker = request.into_inner().worker;
        check_name("worker", &worker)?;
        let view = self.workers_view().await?;
        let (health, performance) = (&view.health, &view.performance);
        let found = judge(&worker, health, performance, &view.settings, view.time_us)
            .ok_or_else(|| not_found(&view, &worker))?;
        Ok(Response::new(wire::CheckWorkerHealthResponse {
            as_of: Some(as_of(&view)),
            health: Some(worker_health(found)),
        }))
    }

    async fn get_all_workers_health(
        &self,
        _: Request<wire::GetAllWorkersHealthRequest>,
    ) -> Result<Response<wire::GetAllWorkersHealthResponse>, Status> {
        let view = self.workers_view().await?;
        let (health, performance) = (&view.health, &view.performance);
        let all = judge_all(health, performance, &view.settings, view.time_us);
        Ok(Response::new(wire::GetAllWorkersHealthResponse {
            as_of: Some(as_of(&view)),
            workers: all.into_iter().map(worker_health).collect(),
        }))
    }

    async fn list_tracked_workers(
        &self,
        _: Request<wire::ListTrackedWorkersRequest>,
    ) -> Result<Response<wire::ListTrackedWorkersResponse>, Status> {
        let view = self.workers_view().await?;
        let workers = view.health.workers();
        Ok(Response::new(wire::ListTrackedWorkersResponse {
            as_of: Some(as_of(&view)),
            workers: workers.into_keys().map(str::to_owned).collect(),
        }))
    }

    async fn stream_worker_health(
        &self,
        _: Request<wire::StreamWorkerHealthRequest>,
    ) -> Result<Response<Self::StreamWorkerHealthStream>, Status> {
        Err(not_yet("StreamWorkerHealth", "ask GetAllWorkersHealth"))
    }
}

fn performance_window(
    view: &Folds,
    window: Option<&prost_types::Duration>,
) -> Result<i64, Problem> {
    let settings = &view.settings;
    window_start(
        view,
        window,
        settings.performance_window_seconds,
        settings.retention_seconds(),
    )
}

fn not_found(view: &Folds, worker: &str) -> Problem {
    let known: Vec<&str> = view.health.workers().into_keys().take(10).collect();
    let message = match known.as_slice() {
        [] => format!("no event named a worker \"{worker}\", nor any other; connect a host"),
        known => format!(
            "no event named a worker \"{worker}\"; known are {}",
            known.join(", ")
        ),
    };
    Problem::field(Reason::WorkerNotFound, "worker", message)
}

fn performance(
    worker: &str,
    figures: &Figures,
    hosts: &BTreeMap<String, Figures>,
    minutes: f64,
) -> wire::WorkerPerformance {
    let [completed, _, timed_out, lost] = figures.outcomes;
    wire::WorkerPerformance {
        worker: worker.to_owned(),
        total_executions: figures.executions(),
        successful_executions: completed,
        failed_executions: figures.errors(),
        timed_out_executions: timed_out,
        lost_executions: lost,
        success_ratio: figures.success_ratio(),
        error_ratio: figures.error_ratio(),
        duration: figures.run.map(latency),
        wait: figures.wait.map(latency),
        throughput_per_minute: figures.executions() as f64 / minutes,
        hosts: hosts
            .iter()
            .map(|(host, figures)| wire::HostPerformance {
                host_id: host.clone(),
                performance: Some(performance(worker, figures, &BTreeMap::new(), minutes)),
            })
            .collect(),
    }
}

fn status(word: Word) -> wire::HealthStatus {
    match word {
        Word::Healthy => wire::HealthStatus::Healthy,
        Word::Degraded => wire::HealthStatus::Degraded,
        Word::Failed => wire::HealthStatus::Failed,
        Word::Inactive => wire::HealthStatus::Inactive,
    }
}

fn worker_health(health: WorkerHealth) -> wire::WorkerHealth {
    wire::WorkerHealth {
        worker: health.worker,
        status: status(health.word).into(),
        issues: health.issues,
        hosts: health.hosts.into_iter().map(host_health).collect(),
        slots: health.slots,
        busy_slots: health.busy,
        queued_commands: health.queued,
        last_outcome_time: health.last_outcome_us.map(|us| to_timestamp(Time(us))),
    }
}

fn host_health(health: HostHealth) -> wire::HostHealth {
    wire::HostHealth {
        host_id: health.host,
        machine: health.machine,
        status: status(health.word).into(),
        issues: health.issues,
        slots: health.slots.slots,
        busy_slots: health.slots.busy,
        live: health.live,
        draining: health.draining,
        last_seen_time: Some(to_timestamp(Time(health.last_us))),
        quarantined_until_time: health
            .quarantine
            .map(|held| to_timestamp(Time(held.until_us))),
    }
}
