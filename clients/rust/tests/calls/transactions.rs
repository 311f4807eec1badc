//! Starting and following transactions, through refusals and restarts.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_core::Stream;
use multiagents_client::wire::orchestrator_service_server::{
    OrchestratorService, OrchestratorServiceServer,
};
use multiagents_client::wire::{
    self, PayloadForm, Transaction, TransactionState, execute_workflow_request,
};
use multiagents_client::{Client, Start};
use proto::error::{Problem, Reason};
use serde_json::json;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// One watch: states, or how it breaks.
type PlannedWatch = Vec<Result<TransactionState, Status>>;

/// Remembers what it is asked, and watches as planned.
#[derive(Clone, Default)]
struct Fake {
    started: Arc<Mutex<Vec<wire::ExecuteWorkflowRequest>>>,
    watches: Arc<Mutex<VecDeque<PlannedWatch>>>,
}

fn transaction(state: TransactionState) -> Transaction {
    Transaction {
        transaction_id: "t".into(),
        state: state.into(),
        ..Default::default()
    }
}

#[tonic::async_trait]
impl OrchestratorService for Fake {
    type ExecuteWorkflowsStream = Answers<wire::ExecuteWorkflowsResponse>;
    type WatchTransactionStream = Answers<wire::WatchTransactionResponse>;

    async fn execute_workflow(
        &self,
        request: Request<wire::ExecuteWorkflowRequest>,
    ) -> Result<Response<wire::ExecuteWorkflowResponse>, Status> {
        let request = request.into_inner();
        if request.workflow == "busy" {
            let problem = Problem::new(Reason::Overloaded, "the inbox is full; repeat later");
            return Err(problem.retry_after(Duration::from_millis(250)).into());
        }
        self.started.lock().unwrap().push(request);
        Ok(Response::new(wire::ExecuteWorkflowResponse {
            transaction_id: "t".into(),
            transaction: Some(transaction(TransactionState::Completed)),
            existing: true,
        }))
    }

    async fn watch_transaction(
        &self,
        _: Request<wire::WatchTransactionRequest>,
    ) -> Result<Response<Self::WatchTransactionStream>, Status> {
        let watch = self.watches.lock().unwrap().pop_front();
        let watch = watch.ok_or_else(|| Status::unavailable("nobody here"))?;
        let answers = watch.into_iter().map(|next| {
            next.map(|state| wire::WatchTransactionResponse {
                transaction: Some(transaction(state)),
            })
        });
        let answers: Vec<_> = answers.collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(answers))))
    }

    async fn list_workflows(
        &self,
        request: Request<wire::ListWorkflowsRequest>,
    ) -> Result<Response<wire::ListWorkflowsResponse>, Status> {
        let (name, next) = match request.into_inner().page_token.as_str() {
            "" => ("a", "2"),
            _ => ("b", ""),
        };
        Ok(Response::new(wire::ListWorkflowsResponse {
            workflows: vec![wire::Workflow {
                name: name.into(),
                ..Default::default()
            }],
            next_page_token: next.into(),
        }))
    }

    async fn register_workflow(
        &self,
        _: Request<wire::RegisterWorkflowRequest>,
    ) -> Result<Response<wire::RegisterWorkflowResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_workflow(
        &self,
        _: Request<wire::GetWorkflowRequest>,
    ) -> Result<Response<wire::GetWorkflowResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn execute_workflows(
        &self,
        _: Request<tonic::Streaming<wire::ExecuteWorkflowsRequest>>,
    ) -> Result<Response<Self::ExecuteWorkflowsStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_status(
        &self,
        _: Request<wire::GetStatusRequest>,
    ) -> Result<Response<wire::GetStatusResponse>, Status> {
        Err(Status::unavailable("nobody here"))
    }

    async fn list_transactions(
        &self,
        _: Request<wire::ListTransactionsRequest>,
    ) -> Result<Response<wire::ListTransactionsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn cancel_transaction(
        &self,
        _: Request<wire::CancelTransactionRequest>,
    ) -> Result<Response<wire::CancelTransactionResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn retry_transaction(
        &self,
        _: Request<wire::RetryTransactionRequest>,
    ) -> Result<Response<wire::RetryTransactionResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn signal_transaction(
        &self,
        _: Request<wire::SignalTransactionRequest>,
    ) -> Result<Response<wire::SignalTransactionResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

impl Fake {
    async fn serve(&self) -> Client {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(OrchestratorServiceServer::new(self.clone()))
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Client::connect(&address).await.unwrap()
    }
}

#[tokio::test]
async fn a_start_sends_its_input_as_json_its_key_its_labels_and_its_wait() {
    let fake = Fake::default();
    let client = fake.serve().await;
    let start = Start::new("order")
        .input(&json!({ "n": 1 }))
        .unwrap()
        .key("k1")
        .label("team", "a")
        .wait(Duration::from_secs(3_600));
    let started = client.begin(start).await.unwrap();
    assert!(started.existing);
    let sent = fake.started.lock().unwrap().pop().unwrap();
    assert_eq!(sent.workflow, "order");
    assert_eq!(sent.idempotency_key, "k1");
    assert_eq!(sent.labels["team"], "a");
    assert_eq!(sent.payload_form(), PayloadForm::Json);
    // Ten minutes is the contract's most.
    assert_eq!(sent.wait.unwrap().seconds, 600);
    let Some(execute_workflow_request::Payload::InputJson(json)) = sent.payload else {
        panic!("JSON text");
    };
    assert_eq!(&json[..], b"{\"n\":1}");
}

#[tokio::test]
async fn an_input_that_is_no_object_is_refused_before_it_is_sent() {
    let fake = Fake::default();
    let client = fake.serve().await;
    let error = client.start("order", &json!([1])).await.unwrap_err();
    assert!(error.to_string().contains("JSON object"), "{error}");
    assert!(fake.started.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_refusal_reaches_the_caller_with_its_reason_and_its_delay() {
    let client = Fake::default().serve().await;
    let error = client.start("busy", &json!({})).await.unwrap_err();
    assert_eq!(error.reason(), "OVERLOADED");
    assert_eq!(error.retry_after(), Some(Duration::from_millis(250)));
    assert!(error.is_retryable());
}

#[tokio::test]
async fn waiting_for_an_end_goes_on_through_broken_watches_and_knows_every_end() {
    use TransactionState::{Cancelled, Compensated, Completed, Failed, Pending, Running};
    for end in [Completed, Failed, Compensated, Cancelled] {
        let fake = Fake::default();
        *fake.watches.lock().unwrap() = VecDeque::from([
            vec![Ok(Pending), Err(Status::unavailable("restarting"))],
            // A server that stops in order ends the stream without a word.
            vec![Ok(Running)],
            vec![Ok(Running), Ok(end)],
        ]);
        let client = fake.serve().await;
        let ended = client.wait_for_end("t", Duration::from_secs(20)).await;
        assert_eq!(ended.unwrap().state(), end);
    }
}

#[tokio::test]
async fn waiting_ends_with_how_things_stand_when_the_time_is_up_and_at_once_when_refused() {
    let fake = Fake::default();
    let not_found = Problem::new(Reason::TransactionNotFound, "no such transaction");
    *fake.watches.lock().unwrap() = VecDeque::from([
        vec![Ok(TransactionState::Running)],
        vec![Err(not_found.into())],
    ]);
    let client = fake.serve().await;
    let refused = client.wait_for_end("t", Duration::from_secs(20)).await;
    assert_eq!(refused.unwrap_err().reason(), "TRANSACTION_NOT_FOUND");
    fake.watches
        .lock()
        .unwrap()
        .push_back(vec![Ok(TransactionState::Running)]);
    let standing = client.wait_for_end("t", Duration::from_millis(100)).await;
    assert_eq!(standing.unwrap().state(), TransactionState::Running);
}

#[tokio::test]
async fn lists_of_workflows_are_read_to_their_last_page() {
    let client = Fake::default().serve().await;
    let all = client.workflows().await.unwrap();
    let names: Vec<_> = all.iter().map(|workflow| workflow.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
}
