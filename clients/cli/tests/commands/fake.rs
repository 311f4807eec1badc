//! A suite that answers by rote, in this process: what the command line makes of each answer is what
//! the tests look at.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use proto::error::{Problem, Reason};
use proto::wire;
use proto::wire::event_monitor_service_server::{EventMonitorService, EventMonitorServiceServer};
use proto::wire::orchestrator_service_server::{OrchestratorService, OrchestratorServiceServer};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

/// The one transaction that the fake knows.
pub(crate) const ID: &str = "0198c5a2-6c1e-7c43-a4a3-0f2f6f0e7c11";

type Answer<T> = Result<Response<T>, Status>;
type Feed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What the fake was asked, and how its transaction ends.
#[derive(Clone, Default)]
pub(crate) struct Fake {
    /// Every request for events, in order.
    pub(crate) feeds: Arc<Mutex<Vec<wire::StreamEventsRequest>>>,
    /// Every start, in order.
    pub(crate) starts: Arc<Mutex<Vec<wire::ExecuteWorkflowRequest>>>,
}

impl Fake {
    /// Serves on a free port; gives the address.
    pub(crate) async fn serve(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tonic::transport::Server::builder()
            .add_service(OrchestratorServiceServer::new(self.clone()))
            .add_service(EventMonitorServiceServer::new(self.clone()))
            .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
        tokio::spawn(server);
        address
    }
}

/// How the workflow "completes", "fails" or "hangs" stands, by its name.
fn transaction(workflow: &str) -> wire::Transaction {
    let state = match workflow {
        "completes" => wire::TransactionState::Completed,
        "fails" => wire::TransactionState::Failed,
        _ => wire::TransactionState::Running,
    };
    wire::Transaction {
        transaction_id: ID.into(),
        workflow: workflow.into(),
        version: 1,
        state: state.into(),
        input: Some(wire::Payload {
            form: Some(wire::payload::Form::Json(
                r#"{"big":12345678901234567890}"#.into(),
            )),
        }),
        ..Default::default()
    }
}

fn later<T>() -> Answer<T> {
    Err(Problem::new(Reason::NotYetImplemented, "the fake has no answer to that").into())
}

fn event(offset: u64) -> wire::Event {
    wire::Event {
        offset,
        r#type: wire::EventType::CommandQueued.into(),
        stage: wire::Stage::Queued.into(),
        worker: "fast\u{1b}[2J".into(),
        ..Default::default()
    }
}

fn events(offsets: std::ops::Range<u64>) -> wire::StreamEventsResponse {
    let cursor = format!("c{}", offsets.end);
    wire::StreamEventsResponse {
        message: Some(wire::stream_events_response::Message::Events(
            wire::EventList {
                events: offsets.map(event).collect(),
            },
        )),
        cursor,
        lag_events: 0,
    }
}

fn feed<T: Send + 'static>(messages: Vec<Result<T, Status>>) -> Answer<Feed<T>> {
    Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
}

#[tonic::async_trait]
impl OrchestratorService for Fake {
    type ExecuteWorkflowsStream = Feed<wire::ExecuteWorkflowsResponse>;
    type WatchTransactionStream = Feed<wire::WatchTransactionResponse>;

    async fn register_workflow(
        &self,
        request: Request<wire::RegisterWorkflowRequest>,
    ) -> Answer<wire::RegisterWorkflowResponse> {
        use wire::register_workflow_request::Source;
        match request.into_inner().source {
            Some(Source::WorkflowYaml(text)) if text.contains("retrys") => Err(Problem::new(
                Reason::WorkflowMalformed,
                "line 3, column 5: unknown key \"retrys\"; the nearest is \"retry\"",
            )
            .into()),
            _ => Ok(Response::new(wire::RegisterWorkflowResponse {
                workflows: vec![wire::Workflow {
                    name: "orders".into(),
                    version: 1,
                    ..Default::default()
                }],
                created: true,
                ..Default::default()
            })),
        }
    }

    async fn get_workflow(
        &self,
        _request: Request<wire::GetWorkflowRequest>,
    ) -> Answer<wire::GetWorkflowResponse> {
        later()
    }

    async fn list_workflows(
        &self,
        _request: Request<wire::ListWorkflowsRequest>,
    ) -> Answer<wire::ListWorkflowsResponse> {
        later()
    }

    async fn execute_workflow(
        &self,
        request: Request<wire::ExecuteWorkflowRequest>,
    ) -> Answer<wire::ExecuteWorkflowResponse> {
        let request = request.into_inner();
        let workflow = request.workflow.clone();
        self.starts.lock().unwrap().push(request);
        if workflow == "ordr" {
            let problem = Problem::new(
                Reason::WorkflowNotFound,
                "no workflow is called \"ordr\"; did you mean \"order\"?",
            );
            return Err(problem.into());
        }
        if workflow == "picky" {
            return Err(Problem::new(Reason::PayloadNotObject, "input is no object").into());
        }
        Ok(Response::new(wire::ExecuteWorkflowResponse {
            transaction_id: ID.into(),
            transaction: Some(transaction(&workflow)),
            existing: false,
        }))
    }

    async fn execute_workflows(
        &self,
        _request: Request<Streaming<wire::ExecuteWorkflowsRequest>>,
    ) -> Answer<Self::ExecuteWorkflowsStream> {
        later()
    }

    async fn get_status(
        &self,
        _request: Request<wire::GetStatusRequest>,
    ) -> Answer<wire::GetStatusResponse> {
        Ok(Response::new(wire::GetStatusResponse {
            transaction: Some(transaction("completes")),
        }))
    }

    async fn watch_transaction(
        &self,
        _request: Request<wire::WatchTransactionRequest>,
    ) -> Answer<Self::WatchTransactionStream> {
        use tokio_stream::StreamExt as _;
        let workflow = self.starts.lock().unwrap().last().unwrap().workflow.clone();
        let now = wire::WatchTransactionResponse {
            transaction: Some(transaction(&workflow)),
        };
        let first = tokio_stream::iter([Ok(now)]);
        if workflow == "hangs" {
            return Ok(Response::new(Box::pin(
                first.chain(tokio_stream::pending()),
            )));
        }
        Ok(Response::new(Box::pin(first)))
    }

    async fn list_transactions(
        &self,
        request: Request<wire::ListTransactionsRequest>,
    ) -> Answer<wire::ListTransactionsResponse> {
        let request = request.into_inner();
        let size = request.page_size.min(3);
        Ok(Response::new(wire::ListTransactionsResponse {
            transactions: (0..size).map(|_| transaction("completes")).collect(),
            next_page_token: format!("{}x", request.page_token),
        }))
    }

    async fn cancel_transaction(
        &self,
        request: Request<wire::CancelTransactionRequest>,
    ) -> Answer<wire::CancelTransactionResponse> {
        assert!(request.into_inner().skip_compensation);
        Ok(Response::new(wire::CancelTransactionResponse {
            transaction: Some(transaction("hangs")),
        }))
    }

    async fn retry_transaction(
        &self,
        _request: Request<wire::RetryTransactionRequest>,
    ) -> Answer<wire::RetryTransactionResponse> {
        later()
    }

    async fn signal_transaction(
        &self,
        _request: Request<wire::SignalTransactionRequest>,
    ) -> Answer<wire::SignalTransactionResponse> {
        later()
    }
}

#[tonic::async_trait]
impl EventMonitorService for Fake {
    type StreamEventsStream = Feed<wire::StreamEventsResponse>;
    type StreamUpdatesStream = Feed<wire::StreamUpdatesResponse>;
    type VerifyViewsStream = Feed<wire::VerifyViewsResponse>;

    /// Not following: 100,000 events. Following: two, a cut, two more after the cursor, and silence.
    async fn stream_events(
        &self,
        request: Request<wire::StreamEventsRequest>,
    ) -> Answer<Self::StreamEventsStream> {
        use tokio_stream::StreamExt as _;
        let request = request.into_inner();
        let follow = !request.until_head;
        let cursor = request.cursor.clone();
        self.feeds.lock().unwrap().push(request);
        match (follow, cursor.as_str()) {
            (_, "forged") => {
                Err(Problem::new(Reason::CursorInvalid, "cursor is none of ours").into())
            }
            (false, _) => feed(
                (0..1_000)
                    .map(|at| Ok(events(at * 100..at * 100 + 100)))
                    .collect(),
            ),
            (true, "") => feed(vec![
                Ok(events(0..2)),
                Err(Problem::new(Reason::ShuttingDown, "going away").into()),
            ]),
            (true, _) => Ok(Response::new(Box::pin(
                tokio_stream::iter([Ok(events(2..4))]).chain(tokio_stream::pending()),
            ))),
        }
    }

    async fn stream_updates(
        &self,
        _request: Request<wire::StreamUpdatesRequest>,
    ) -> Answer<Self::StreamUpdatesStream> {
        later()
    }

    async fn get_event_metrics(
        &self,
        _request: Request<wire::GetEventMetricsRequest>,
    ) -> Answer<wire::GetEventMetricsResponse> {
        later()
    }

    async fn get_transaction_trace(
        &self,
        _request: Request<wire::GetTransactionTraceRequest>,
    ) -> Answer<wire::GetTransactionTraceResponse> {
        Err(Problem::new(Reason::TransactionNotFound, "no transaction has this id").into())
    }

    async fn get_error_patterns(
        &self,
        request: Request<wire::GetErrorPatternsRequest>,
    ) -> Answer<wire::GetErrorPatternsResponse> {
        let window = request.into_inner().window.unwrap_or_default();
        if window.seconds == 0 {
            return Err(Problem::new(Reason::WindowInvalid, "window is 0 s").into());
        }
        Ok(Response::new(wire::GetErrorPatternsResponse::default()))
    }

    async fn verify_views(
        &self,
        _request: Request<wire::VerifyViewsRequest>,
    ) -> Answer<Self::VerifyViewsStream> {
        let verdict = |view: &str, equal| {
            Ok(wire::VerifyViewsResponse {
                entries_done: 7,
                entries_total: 7,
                verdict: Some(wire::ViewVerdict {
                    view: view.into(),
                    equal,
                    ..Default::default()
                }),
                ..Default::default()
            })
        };
        feed(vec![verdict("rates", true), verdict("traces", false)])
    }
}
