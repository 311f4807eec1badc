//! The orchestrator's client: define, start, follow and stop work.
//!
//! Answers are the contracts' own messages, their payloads as JSON text. A call is made once: what
//! may be repeated, and when, is for the caller to say, except where following simply goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tonic::transport::Channel;
use tonic::{Request, Streaming};

use crate::back_off::BackOff;
use crate::connection::{CALL_TIMEOUT, Connection, LOG_MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX};
use crate::error::Error;
use crate::payload;
use crate::time::to_wire;
use crate::wire::{
    self, PayloadForm, Transaction, TransactionState,
    event_log_service_client::EventLogServiceClient,
    orchestrator_service_client::OrchestratorServiceClient,
};

/// The longest `wait` that the contract knows.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// How much longer than its `wait` a call may take.
const WAIT_MARGIN: Duration = Duration::from_secs(10);
/// How long `connect` tries.
const PATIENCE: Duration = Duration::from_secs(2);

/// A client of the orchestrator. Clones share one connection, which comes back when it breaks.
#[derive(Clone, Debug)]
pub struct Client {
    connection: Connection,
}

impl Client {
    /// Connects to `host:port`, trying for two seconds.
    pub async fn connect(address: &str) -> Result<Self, Error> {
        Self::connect_within(address, PATIENCE).await
    }

    /// Connects, trying with back-off for as long as `patience`.
    pub async fn connect_within(address: &str, patience: Duration) -> Result<Self, Error> {
        let connection = Connection::open("orchestrator", address, patience).await?;
        Ok(Self { connection })
    }

    /// A client that connects when it is first used.
    pub fn lazy(address: &str) -> Result<Self, Error> {
        let connection = Connection::lazy("orchestrator", address)?;
        Ok(Self { connection })
    }

    /// Where the orchestrator is.
    pub fn address(&self) -> &str {
        &self.connection.address
    }

    /// The generated client, for what has no wrapper here.
    pub fn raw(&self) -> OrchestratorServiceClient<Channel> {
        OrchestratorServiceClient::new(self.connection.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Registers a workflow; the same content again is the same version.
    pub async fn register(
        &self,
        workflow: impl Into<wire::Workflow>,
    ) -> Result<wire::RegisterWorkflowResponse, Error> {
        let source = wire::register_workflow_request::Source::Workflow(workflow.into());
        self.register_source(source, false).await
    }

    /// Registers every workflow of a workflow file's text.
    pub async fn register_yaml(
        &self,
        text: impl Into<String>,
    ) -> Result<wire::RegisterWorkflowResponse, Error> {
        let source = wire::register_workflow_request::Source::WorkflowYaml(text.into());
        self.register_source(source, false).await
    }

    /// Registers, or with `validate_only` checks alone.
    pub async fn register_source(
        &self,
        source: wire::register_workflow_request::Source,
        validate_only: bool,
    ) -> Result<wire::RegisterWorkflowResponse, Error> {
        let request = wire::RegisterWorkflowRequest {
            source: Some(source),
            validate_only,
        };
        let answer = self.raw().register_workflow(timed(request)).await;
        self.answer(answer)
    }

    /// One version of a workflow; 0 is the newest.
    pub async fn workflow(&self, name: &str, version: u32) -> Result<wire::Workflow, Error> {
        let request = wire::GetWorkflowRequest {
            name: name.to_owned(),
            version,
        };
        let answer = self.raw().get_workflow(timed(request)).await;
        Ok(self.answer(answer)?.workflow.unwrap_or_default())
    }

    /// The newest version of every workflow, by name.
    pub async fn workflows(&self) -> Result<Vec<wire::Workflow>, Error> {
        let mut all = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = wire::ListWorkflowsRequest {
                page_size: 1_000,
                page_token,
            };
            let answer = self.raw().list_workflows(timed(request)).await;
            let page = self.answer(answer)?;
            all.extend(page.workflows);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    /// Starts a transaction; answers when that is durable. A call that failed half-way may have
    /// started it all the same: [`start_with_key`] can be repeated safely.
    ///
    /// [`start_with_key`]: Self::start_with_key
    pub async fn start(&self, workflow: &str, input: &impl Serialize) -> Result<Started, Error> {
        self.begin(Start::new(workflow).input(input)?).await
    }

    /// Starts a transaction once, however often it is called with this key and this input.
    pub async fn start_with_key(
        &self,
        workflow: &str,
        input: &impl Serialize,
        key: impl Into<String>,
    ) -> Result<Started, Error> {
        self.begin(Start::new(workflow).input(input)?.key(key))
            .await
    }

    /// Starts a transaction as described.
    pub async fn begin(&self, start: Start) -> Result<Started, Error> {
        let patience = start.0.wait.as_ref().map(crate::time::from_wire);
        let mut request = Request::new(start.0);
        request.set_timeout(patience.map_or(CALL_TIMEOUT, |wait| wait + WAIT_MARGIN));
        let answer = self.raw().execute_workflow(request).await;
        let answer = self.answer(answer)?;
        Ok(Started {
            transaction_id: answer.transaction_id,
            transaction: answer.transaction.unwrap_or_default(),
            existing: answer.existing,
        })
    }

    /// Starts a transaction and gives it at its end, or as it stands after `wait` (at most ten
    /// minutes; to wait longer, use [`wait_for_end`]).
    ///
    /// [`wait_for_end`]: Self::wait_for_end
    pub async fn execute_and_wait(
        &self,
        workflow: &str,
        input: &impl Serialize,
        wait: Duration,
    ) -> Result<Transaction, Error> {
        let start = Start::new(workflow).input(input)?.wait(wait);
        Ok(self.begin(start).await?.transaction)
    }

    /// A transaction with its steps.
    pub async fn status(&self, transaction_id: &str) -> Result<Transaction, Error> {
        let request = wire::GetStatusRequest {
            transaction_id: transaction_id.to_owned(),
            payload_form: PayloadForm::Json.into(),
        };
        let answer = self.raw().get_status(timed(request)).await;
        Ok(self.answer(answer)?.transaction.unwrap_or_default())
    }

    /// Follows a transaction: how it stands now, then after each change, up to its end.
    pub async fn watch(&self, transaction_id: &str) -> Result<Watch, Error> {
        let request = wire::WatchTransactionRequest {
            transaction_id: transaction_id.to_owned(),
            payload_form: PayloadForm::Json.into(),
        };
        let answer = self.raw().watch_transaction(request).await;
        Ok(Watch {
            stream: self.answer(answer)?,
            connection: self.connection.clone(),
        })
    }

    /// The transaction at its end, or as it stands after `patience`. Goes on through restarts of
    /// the orchestrator.
    pub async fn wait_for_end(
        &self,
        transaction_id: &str,
        patience: Duration,
    ) -> Result<Transaction, Error> {
        let mut last = None;
        let followed = tokio::time::timeout(patience, self.follow(transaction_id, &mut last)).await;
        match (followed, last) {
            (Ok(ended), _) => ended,
            (Err(_), Some(transaction)) => Ok(transaction),
            // Nothing was heard at all; the question itself says why.
            (Err(_), None) => self.status(transaction_id).await,
        }
    }

    async fn follow(
        &self,
        transaction_id: &str,
        last: &mut Option<Transaction>,
    ) -> Result<Transaction, Error> {
        let mut back_off = BackOff::default();
        loop {
            let failed = match self.watch(transaction_id).await {
                Err(error) => error,
                Ok(mut watch) => loop {
                    match watch.next().await {
                        Ok(Some(transaction)) if has_ended(&transaction) => return Ok(transaction),
                        Ok(Some(transaction)) => {
                            back_off.reset();
                            *last = Some(transaction);
                        }
                        Ok(None) => {
                            break Error::Invalid("the watch ended before its end".into());
                        }
                        Err(error) => break error,
                    }
                },
            };
            // An end without an end is what a server that stops in order looks like.
            if !failed.is_retryable() && !matches!(failed, Error::Invalid(_)) {
                return Err(failed);
            }
            tokio::time::sleep(failed.retry_after().unwrap_or_else(|| back_off.delay())).await;
        }
    }

    /// A page of transactions, newest first, without payloads and steps.
    pub async fn list(
        &self,
        request: wire::ListTransactionsRequest,
    ) -> Result<wire::ListTransactionsResponse, Error> {
        let answer = self.raw().list_transactions(timed(request)).await;
        self.answer(answer)
    }

    /// Asks a live transaction to end as cancelled, undoing what has completed.
    pub async fn cancel(&self, transaction_id: &str, reason: &str) -> Result<Transaction, Error> {
        self.cancel_as(wire::CancelTransactionRequest {
            transaction_id: transaction_id.to_owned(),
            reason: reason.to_owned(),
            skip_compensation: false,
        })
        .await
    }

    /// Asks a live transaction to end as cancelled, as described.
    pub async fn cancel_as(
        &self,
        request: wire::CancelTransactionRequest,
    ) -> Result<Transaction, Error> {
        let answer = self.raw().cancel_transaction(timed(request)).await;
        Ok(self.answer(answer)?.transaction.unwrap_or_default())
    }

    /// Reads the log of record from a cursor (empty: the oldest retained event), for those who fold
    /// it by themselves.
    pub async fn read_log(
        &self,
        cursor: &str,
        follow: bool,
    ) -> Result<Streaming<proto::frame::ReadEventsResponse>, Error> {
        let request = wire::ReadEventsRequest {
            cursor: cursor.to_owned(),
            follow,
        };
        let mut log = EventLogServiceClient::new(self.connection.channel.clone())
            .max_decoding_message_size(LOG_MESSAGE_BYTES_MAX);
        let answer = log.read_events(request).await;
        self.answer(answer)
    }

    /// Takes a backup while everything goes on: the pieces of one file. It is whole when the message
    /// came that has a hash.
    pub async fn backup(&self) -> Result<Streaming<wire::BackupResponse>, Error> {
        let mut log = EventLogServiceClient::new(self.connection.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let answer = log.backup(wire::BackupRequest {}).await;
        self.answer(answer)
    }

    fn answer<T>(&self, answer: Result<tonic::Response<T>, tonic::Status>) -> Result<T, Error> {
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.connection.refused(&status))
    }
}

/// A request that is answered at once or not at all.
pub(crate) fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// Whether a transaction is at its end, whichever that is.
fn has_ended(transaction: &Transaction) -> bool {
    match transaction.state() {
        TransactionState::Completed
        | TransactionState::Failed
        | TransactionState::Compensated
        | TransactionState::Cancelled => true,
        TransactionState::Unspecified
        | TransactionState::Pending
        | TransactionState::Running
        | TransactionState::Compensating => false,
    }
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Start(wire::ExecuteWorkflowRequest);

impl Start {
    /// The newest version of a workflow, with an empty input.
    pub fn new(workflow: impl Into<String>) -> Self {
        Self(wire::ExecuteWorkflowRequest {
            workflow: workflow.into(),
            payload_form: PayloadForm::Json.into(),
            ..Default::default()
        })
    }

    /// With an input, which must be a JSON object.
    pub fn input(self, input: &impl Serialize) -> Result<Self, Error> {
        Ok(self.input_json(payload::to_json(input)?))
    }

    /// With an input that is JSON text already; it is kept byte for byte.
    #[must_use]
    pub fn input_json(mut self, text: impl Into<Bytes>) -> Self {
        let text = wire::execute_workflow_request::Payload::InputJson(text.into());
        self.0.payload = Some(text);
        self
    }

    /// One version, instead of the newest.
    #[must_use]
    pub fn version(mut self, version: u32) -> Self {
        self.0.version = version;
        self
    }

    /// Started once, however often it is asked for with this key and this input.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.0.idempotency_key = key.into();
        self
    }

    /// Tagged, to be found by it in lists.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.labels.insert(key.into(), value.into());
        self
    }

    /// Tagged with all of these.
    #[must_use]
    pub fn labels(mut self, labels: BTreeMap<String, String>) -> Self {
        self.0.labels.extend(labels);
        self
    }

    /// Answered at the transaction's end, or with how it stands after this long; at most ten
    /// minutes.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.0.wait = Some(to_wire(wait.min(WAIT_MAX)));
        self
    }

    /// The message that is sent.
    pub fn into_wire(self) -> wire::ExecuteWorkflowRequest {
        self.0
    }
}

/// A transaction that was started.
#[derive(Clone, Debug)]
pub struct Started {
    /// Its id.
    pub transaction_id: String,
    /// How it stands: complete after a `wait`, otherwise as in lists.
    pub transaction: Transaction,
    /// True when the key named a transaction that was there already.
    pub existing: bool,
}

/// A transaction as it changes.
#[derive(Debug)]
pub struct Watch {
    stream: Streaming<wire::WatchTransactionResponse>,
    connection: Connection,
}

impl Watch {
    /// How it stands after its next change; None after its end.
    pub async fn next(&mut self) -> Result<Option<Transaction>, Error> {
        match self.stream.message().await {
            Ok(message) => Ok(message.map(|message| message.transaction.unwrap_or_default())),
            Err(status) => Err(self.connection.refused(&status)),
        }
    }
}
