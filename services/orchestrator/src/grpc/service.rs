//! OrchestratorService: which call goes where, and what several of them share.

use std::future::ready;
use std::pin::Pin;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use eventlog::{Offset, Reader};
use proto::cursor::Cursor;
use proto::error::{Problem, Reason};
use proto::id::TransactionId;
use proto::wire;
use proto::wire::orchestrator_service_server::OrchestratorService;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::{Request, Response, Status, Streaming};

use crate::catalogue::Catalogue;
use crate::config::Config;
use crate::ids::Ids;
use crate::inbox::Inbox;
use crate::store::{InHand, Lookup, Row, StoreError};

use super::render::Shown;
use super::written::{Calls, Taken, answer, answers, only_request, requests};
use crate::inbox::View;

/// What clients call.
#[derive(Clone)]
pub(crate) struct Orchestrator {
    pub(crate) config: Arc<Config>,
    pub(crate) inbox: Inbox,
    pub(crate) lookup: Arc<OnceLock<Lookup>>,
    pub(crate) handovers: Arc<AtomicU64>,
    pub(crate) catalogue: Catalogue,
    pub(crate) log: Reader,
    pub(crate) ids: Ids,
    /// Places for calls that wait.
    pub(crate) waiters: Arc<Semaphore>,
    pub(crate) shutdown: CancellationToken,
}

#[tonic::async_trait]
impl OrchestratorService for Orchestrator {
    async fn register_workflow(
        &self,
        request: Request<wire::RegisterWorkflowRequest>,
    ) -> Result<Response<wire::RegisterWorkflowResponse>, Status> {
        answered(self.register(request.into_inner()).await)
    }

    async fn get_workflow(
        &self,
        request: Request<wire::GetWorkflowRequest>,
    ) -> Result<Response<wire::GetWorkflowResponse>, Status> {
        answered(Self::get_workflow(self, request.into_inner()).await)
    }

    async fn list_workflows(
        &self,
        request: Request<wire::ListWorkflowsRequest>,
    ) -> Result<Response<wire::ListWorkflowsResponse>, Status> {
        answered(Self::list_workflows(self, request.into_inner()).await)
    }

    async fn execute_workflow(
        &self,
        request: Request<wire::ExecuteWorkflowRequest>,
    ) -> Result<Response<wire::ExecuteWorkflowResponse>, Status> {
        let trace_parent = trace_parent(&request);
        let executed = self.execute(request.into_inner(), trace_parent).await?;
        Ok(Response::new(to_wire(|out| executed.write(out))?))
    }

    type ExecuteWorkflowsStream =
        Pin<Box<dyn Stream<Item = Result<wire::ExecuteWorkflowsResponse, Status>> + Send>>;

    async fn execute_workflows(
        &self,
        request: Request<Streaming<wire::ExecuteWorkflowsRequest>>,
    ) -> Result<Response<Self::ExecuteWorkflowsStream>, Status> {
        let trace_parent = trace_parent(&request);
        let unread = request.extensions().get().cloned();
        let this = Arc::new(self.clone());
        let answers = Self::execute_many(&this, request.into_inner(), trace_parent, unread);
        let answers = answers.map(|answer| {
            let answer = answer?;
            to_wire(|out| answer.write(out))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn get_status(
        &self,
        request: Request<wire::GetStatusRequest>,
    ) -> Result<Response<wire::GetStatusResponse>, Status> {
        answered(self.status(request.into_inner()).await)
    }

    type WatchTransactionStream =
        Pin<Box<dyn Stream<Item = Result<wire::WatchTransactionResponse, Status>> + Send>>;

    async fn watch_transaction(
        &self,
        request: Request<wire::WatchTransactionRequest>,
    ) -> Result<Response<Self::WatchTransactionStream>, Status> {
        let unread = request.extensions().get().cloned();
        let watched = self.watch(request.into_inner(), unread).await?;
        Ok(Response::new(Box::pin(watched)))
    }

    async fn list_transactions(
        &self,
        request: Request<wire::ListTransactionsRequest>,
    ) -> Result<Response<wire::ListTransactionsResponse>, Status> {
        answered(self.list(request.into_inner()).await)
    }

    async fn cancel_transaction(
        &self,
        request: Request<wire::CancelTransactionRequest>,
    ) -> Result<Response<wire::CancelTransactionResponse>, Status> {
        answered(self.cancel(request.into_inner()).await)
    }

    async fn retry_transaction(
        &self,
        _: Request<wire::RetryTransactionRequest>,
    ) -> Result<Response<wire::RetryTransactionResponse>, Status> {
        Err(not_yet(
            "RetryTransaction",
            "start a new transaction instead",
        ))
    }

    async fn signal_transaction(
        &self,
        _: Request<wire::SignalTransactionRequest>,
    ) -> Result<Response<wire::SignalTransactionResponse>, Status> {
        Err(not_yet(
            "SignalTransaction",
            "no step can wait for a signal yet",
        ))
    }
}

/// What was written, as the generated type.
fn to_wire<T: prost::Message + Default>(write: impl FnOnce(&mut Vec<u8>)) -> Result<T, Status> {
    let mut bytes = Vec::new();
    write(&mut bytes);
    T::decode(bytes::Bytes::from(bytes)).map_err(|error| Status::internal(error.to_string()))
}

impl Calls for Orchestrator {
    fn serve(self: &Arc<Self>, request: http::Request<Body>, request_bytes_max: usize) -> Taken {
        let this = self.clone();
        match request.uri().path() {
            "/multiagents.v1.OrchestratorService/ExecuteWorkflow" => Ok(Box::pin(async move {
                let (head, body) = request.into_parts();
                let trace_parent = trace_parent_of(&head.headers);
                let executed = async {
                    let request = only_request(body, request_bytes_max).await?;
                    Ok(this.execute(request, trace_parent).await?)
                };
                answer(executed.await)
            })),
            "/multiagents.v1.OrchestratorService/ExecuteWorkflows" => {
                let (head, body) = request.into_parts();
                let trace_parent = trace_parent_of(&head.headers);
                let unread = head.extensions.get().cloned();
                let requests = requests(body, request_bytes_max);
                let executed = Self::execute_many(&this, requests, trace_parent, unread);
                Ok(Box::pin(ready(answers(executed))))
            }
            _ => Err(Box::new(request)),
        }
    }
}

fn answered<T>(answer: Result<T, Problem>) -> Result<Response<T>, Status> {
    answer.map(Response::new).map_err(Status::from)
}

fn not_yet(rpc: &str, instead: &str) -> Status {
    Problem::new(
        Reason::NotYetImplemented,
        format!("{rpc} comes with a later release; {instead}"),
    )
    .into()
}

/// The caller's trace, where it sends a valid one.
fn trace_parent_of(headers: &http::HeaderMap) -> String {
    headers
        .get("traceparent")
        .and_then(|header| header.to_str().ok())
        .filter(|header| kit::trace_context::TraceContext::parse(header).is_some())
        .map(|header| header.trim().to_owned())
        .unwrap_or_default()
}

/// The same of a request of the generated code.
fn trace_parent<T>(request: &Request<T>) -> String {
    trace_parent_of(request.metadata().as_ref())
}

impl Orchestrator {
    /// A place to wait at, for as long as the permit is held.
    pub(super) fn place_to_wait(&self) -> Result<OwnedSemaphorePermit, Problem> {
        self.waiters.clone().try_acquire_owned().map_err(|_| {
            Problem::new(
                Reason::Overloaded,
                format!(
                    "{} calls wait already; call without `wait` and ask GetStatus, or repeat in a moment",
                    self.config.waiting.max_waiters
                ),
            )
            .retry_after(Duration::from_secs(1))
        })
    }

    pub(super) fn cursor(&self, offset: Offset) -> Cursor {
        let bounds = self.log.bounds();
        Cursor {
            log_id: bounds.log_id,
            epoch: bounds.epoch,
            partition: 0,
            offset,
        }
    }

    /// A transaction complete, as the driver has it.
    pub(super) fn complete(&self, view: &View, form: wire::PayloadForm) -> wire::Transaction {
        self.in_form(view, Some(form))
    }

    /// A transaction as in lists, as the driver has it.
    pub(super) fn listed(&self, view: &View) -> wire::Transaction {
        self.in_form(view, None)
    }

    fn in_form(&self, view: &View, form: Option<wire::PayloadForm>) -> wire::Transaction {
        Shown {
            row: &view.row,
            workflow: Some(&view.workflow),
            cursor: self.cursor(view.offset),
            form,
        }
        .to_wire()
    }

    /// A transaction that only state.db has, without its payloads. It has ended, so it is true at the
    /// log's end.
    pub(super) async fn stored(&self, id: TransactionId) -> Result<Row, Problem> {
        let found = match self.lookup.get() {
            Some(lookup) => lookup.find(id).await,
            None => Ok(None),
        };
        if_there(id, found)
    }

    /// The same with its payloads.
    pub(super) async fn stored_whole(&self, id: TransactionId) -> Result<(Row, InHand), Problem> {
        let found = match self.lookup.get() {
            Some(lookup) => lookup.get(id).await,
            None => Ok(None),
        };
        if_there(id, found)
    }

    /// The same, complete.
    pub(super) async fn complete_stored(
        &self,
        id: TransactionId,
        form: wire::PayloadForm,
    ) -> Result<wire::Transaction, Problem> {
        let (row, _in_hand) = self.stored_whole(id).await?;
        let workflow = self.catalogue.get(&row.workflow, row.carried.start.version);
        let shown = Shown {
            row: &row,
            workflow: workflow.as_deref(),
            cursor: self.cursor(self.log.bounds().next),
            form: Some(form),
        };
        Ok(shown.to_wire())
    }
}

/// What state.db has of a transaction, or why nothing.
fn if_there<T>(id: TransactionId, found: Result<Option<T>, StoreError>) -> Result<T, Problem> {
    match found {
        Ok(Some(found)) => Ok(found),
        // Its payloads were trimmed just now, and its row is about to go.
        Ok(None) | Err(StoreError::Log(eventlog::ReadError::Trimmed { .. })) => Err(not_found(id)),
        Err(error) => Err(store_problem(&error)),
    }
}

pub(super) fn not_found(id: TransactionId) -> Problem {
    Problem::field(
        Reason::TransactionNotFound,
        "transaction_id",
        format!("no transaction {id}; check the id, or it was trimmed with its retention"),
    )
}

pub(super) fn store_problem(error: &StoreError) -> Problem {
    tracing::error!(%error, "a look-up in state.db failed");
    Problem::new(
        Reason::Internal,
        format!("a look-up failed: {error}; repeat, and see the service's log"),
    )
}

/// The entries of a page: 100 where the request doesn't say, 1,000 at most.
pub(super) fn page_size(asked: i32) -> Result<usize, Problem> {
    const DEFAULT: usize = 100;
    const MOST: usize = 1_000;
    match usize::try_from(asked) {
        Ok(0) => Ok(DEFAULT),
        Ok(size) => Ok(size.min(MOST)),
        Err(_) => Err(Problem::field(
            Reason::FieldOutOfRange,
            "page_size",
            format!("page_size is {asked}; it must be 0 to {MOST}"),
        )),
    }
}

pub(super) fn bad_page_token() -> Problem {
    Problem::field(
        Reason::PageTokenInvalid,
        "page_token",
        "page_token is not one that this service made for this request; begin at the first page",
    )
}

/// In which form payloads are wanted.
pub(super) fn payload_form(asked: i32) -> Result<wire::PayloadForm, Problem> {
    wire::PayloadForm::try_from(asked).map_err(|_| {
        Problem::field(
            Reason::FieldInvalid,
            "payload_form",
            format!("payload_form is {asked}; it must be STRUCT or JSON"),
        )
    })
}
