//! EventMonitorService: feeds, metrics, traces, patterns, and the proof that views are true.

use proto::convert::to_timestamp;
use proto::error::{Problem, Reason};
use proto::id::{Time, TransactionId};
use proto::wire;
use proto::wire::event_monitor_service_server::EventMonitorService;
use tonic::{Request, Response, Status};

use super::answers::{
    WINDOW_SECONDS, as_of, latency, minutes, optional_name, window, window_start,
};
use super::{Answers, Stream, not_yet, stream_events, trace, verify};
use crate::fold::Folds;
use crate::folds::rates::{self, Figures, Filter};

const PATTERNS_DEFAULT: usize = 100;
const PATTERNS_MAX: usize = 1_000;

#[tonic::async_trait]
impl EventMonitorService for Answers {
    type StreamEventsStream = Stream<wire::StreamEventsResponse>;
    type StreamUpdatesStream = Stream<wire::StreamUpdatesResponse>;
    type VerifyViewsStream = Stream<wire::VerifyViewsResponse>;

    async fn stream_events(
        &self,
        request: Request<wire::StreamEventsRequest>,
    ) -> Result<Response<Self::StreamEventsStream>, Status> {
        let stream = stream_events::open(self, request.into_inner())?;
        Ok(Response::new(Box::pin(stream)))
    }

    async fn stream_updates(
        &self,
        _: Request<wire::StreamUpdatesRequest>,
    ) -> Result<Response<Self::StreamUpdatesStream>, Status> {
        Err(not_yet(
            "StreamUpdates",
            "use StreamEvents for events, and ask for the rest",
        ))
    }

    async fn get_event_metrics(
        &self,
        request: Request<wire::GetEventMetricsRequest>,
    ) -> Result<Response<wire::GetEventMetricsResponse>, Status> {
        let request = request.into_inner();
        let filter = Filter {
            workflow: optional_name("workflow", &request.workflow)?,
            worker: optional_name("worker", &request.worker)?,
        };
        let view = self.events_view().await?;
        let start_us = window_start(
            &view,
            request.window.as_ref(),
            WINDOW_SECONDS,
            view.settings.retention_seconds(),
        )?;
        let figures = view.rates.figures(start_us, filter);
        Ok(Response::new(event_metrics(&view, &figures)))
    }

    async fn get_transaction_trace(
        &self,
        request: Request<wire::GetTransactionTraceRequest>,
    ) -> Result<Response<wire::GetTransactionTraceResponse>, Status> {
        let id = TransactionId::parse(&request.into_inner().transaction_id)?;
        let view = self.events_view().await?;
        let reader = self.feed.reader().clone();
        let events_max = self.limits.trace_events_max;
        let read = move || trace::read(&reader, &view, id, events_max);
        let answer = tokio::task::spawn_blocking(read)
            .await
            .map_err(|error| Problem::new(Reason::Internal, error.to_string()))??;
        Ok(Response::new(answer))
    }

    async fn get_error_patterns(
        &self,
        request: Request<wire::GetErrorPatternsRequest>,
    ) -> Result<Response<wire::GetErrorPatternsResponse>, Status> {
        let request = request.into_inner();
        let worker = optional_name("worker", &request.worker)?;
        let limit = match usize::try_from(request.limit) {
            Ok(0) => PATTERNS_DEFAULT,
            Ok(limit) => limit.min(PATTERNS_MAX),
            Err(_) => {
                let message = format!("limit is {}; it must not be negative", request.limit);
                return Err(Problem::field(Reason::FieldOutOfRange, "limit", message).into());
            }
        };
        let view = self.events_view().await?;
        let start_us = window_start(
            &view,
            request.window.as_ref(),
            WINDOW_SECONDS,
            view.settings.retention_seconds(),
        )?;
        let (covered_us, found) = view.patterns.since(start_us, worker);
        let patterns = found
            .into_iter()
            .take(limit)
            .map(|found| wire::ErrorPattern {
                pattern_id: found.pattern.id.clone(),
                error_type: found.pattern.kind.clone(),
                template: found.pattern.template(),
                count: found.count,
                total_count: found.pattern.total,
                first_time: Some(to_timestamp(Time(found.pattern.first_us))),
                last_time: Some(to_timestamp(Time(found.pattern.last_us))),
                workers: found.workers,
                workflows: found.workflows,
                sample_transaction_ids: found
                    .pattern
                    .samples
                    .iter()
                    .rev()
                    .map(|id| TransactionId(*id).to_string())
                    .collect(),
            })
            .collect();
        Ok(Response::new(wire::GetErrorPatternsResponse {
            as_of: Some(as_of(&view)),
            window: Some(window(covered_us, &view)),
            patterns,
        }))
    }

    async fn verify_views(
        &self,
        _: Request<wire::VerifyViewsRequest>,
    ) -> Result<Response<Self::VerifyViewsStream>, Status> {
        let view = self.fresh.view().await;
        let stream = verify::start(self, view);
        Ok(Response::new(Box::pin(stream)))
    }
}

fn event_metrics(view: &Folds, figures: &Figures) -> wire::GetEventMetricsResponse {
    use wire::EventType as Type;
    let outcomes = rates::outcomes(figures);
    let by_type = figures.types.iter().map(|(number, count)| wire::TypeCount {
        r#type: i32::from(*number),
        count: *count,
    });
    let throughput = figures.events() as f64 / minutes(figures.start_us, view);
    wire::GetEventMetricsResponse {
        as_of: Some(as_of(view)),
        window: Some(window(figures.start_us, view)),
        total_events: figures.events(),
        total_commands: outcomes.completed + outcomes.errors + outcomes.cancelled,
        transactions_started: figures.of(&[Type::TransactionStarted as i32]),
        transactions_ended: figures.of(&[
            Type::TransactionCompleted as i32,
            Type::TransactionFailed as i32,
            Type::TransactionCancelled as i32,
            Type::TransactionCompensated as i32,
        ]),
        by_type: by_type.collect(),
        by_stage: by_stage(figures),
        success_ratio: outcomes.success_ratio(),
        error_ratio: outcomes.error_ratio(),
        latency: figures.latency.map(latency),
        throughput_per_minute: throughput,
        // A window of less than ten seconds is its own busiest stretch.
        peak_throughput_per_minute: (figures.peak_in_ten_seconds as f64 * 6.0).max(throughput),
    }
}

/// Each stage is the stage after one type of event.
fn by_stage(figures: &Figures) -> Vec<wire::StageCount> {
    use wire::{EventType as Type, Stage};
    [
        (Stage::Queued, Type::CommandQueued),
        (Stage::Dispatched, Type::CommandDispatched),
        (Stage::PickedUp, Type::CommandPickedUp),
        (Stage::Processing, Type::CommandProcessing),
        (Stage::Completed, Type::CommandCompleted),
        (Stage::Failed, Type::CommandFailed),
        (Stage::Timeout, Type::CommandTimedOut),
        (Stage::Lost, Type::CommandLost),
        (Stage::Cancelled, Type::CommandCancelled),
    ]
    .into_iter()
    .map(|(stage, of)| wire::StageCount {
        stage: stage.into(),
        count: figures.of(&[of as i32]),
    })
    .filter(|stage| stage.count > 0)
    .collect()
}
