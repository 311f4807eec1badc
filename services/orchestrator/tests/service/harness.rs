//! An orchestrator to talk to, and short words for talking to it.

use std::path::Path;
use std::time::Duration;

use eventlog::EventLog;
use kit::Clock;
use orchestrator::config::Config;
use proto::wire;
use proto::wire::event_log_service_client::EventLogServiceClient;
use proto::wire::orchestrator_service_client::OrchestratorServiceClient;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A running orchestrator.
pub(crate) struct Suite {
    pub channel: Channel,
    pub client: OrchestratorServiceClient<Channel>,
    stop: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

/// The defaults, with what tests need shorter.
pub(crate) fn config(directory: &Path) -> Config {
    let mut config = Config {
        data_dir: directory.to_owned(),
        ..Config::default()
    };
    config.store.write_interval.0 = Duration::from_millis(20);
    config.server.drain_grace.0 = Duration::from_millis(200);
    config
}

impl Suite {
    /// On the directory's own log.
    pub(crate) async fn start(directory: &Path) -> Self {
        Self::start_with(config(directory)).await
    }

    pub(crate) async fn start_with(config: Config) -> Self {
        let log = orchestrator::open_log(&config).unwrap();
        Self::start_on(config, log).await
    }

    /// On a log of the test's own.
    pub(crate) async fn start_on(config: Config, log: Box<dyn EventLog>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stop = CancellationToken::new();
        let running = tokio::spawn(orchestrator::run(
            config,
            listener,
            log,
            Clock::system(0),
            stop.clone(),
        ));
        let channel = Endpoint::from_shared(format!("http://{address}"))
            .unwrap()
            .connect_lazy();
        let mut suite = Self {
            client: OrchestratorServiceClient::new(channel.clone())
                .max_decoding_message_size(64 << 20)
                .max_encoding_message_size(64 << 20),
            channel,
            stop,
            running,
        };
        suite.until_ready().await;
        suite
    }

    /// NOT_READY is answered until the replay is done; and where the inbox has one place, the
    /// orchestrator's own first sample may have it.
    async fn until_ready(&mut self) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while let Err(status) = self
            .client
            .list_workflows(wire::ListWorkflowsRequest::default())
            .await
        {
            if self.running.is_finished() {
                panic!("it ended at once: {:?}", (&mut self.running).await.unwrap());
            }
            assert!(
                ["NOT_READY", "OVERLOADED"].contains(&reason(&status).as_str())
                    && tokio::time::Instant::now() < deadline,
                "{status:?}"
            );
            tokio::task::yield_now().await;
        }
    }

    /// Ends in order.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.ended().await.unwrap();
    }

    /// Waits for its end.
    pub(crate) async fn ended(self) -> anyhow::Result<()> {
        tokio::time::timeout(PATIENCE, self.running)
            .await
            .unwrap()
            .unwrap()
    }

    pub(crate) fn event_log(&self) -> EventLogServiceClient<Channel> {
        EventLogServiceClient::new(self.channel.clone())
    }

    pub(crate) async fn register(&mut self, workflow: wire::Workflow) {
        let request = wire::RegisterWorkflowRequest {
            source: Some(wire::register_workflow_request::Source::Workflow(workflow)),
            validate_only: false,
        };
        // As in `until_ready`.
        while let Err(status) = self.client.register_workflow(request.clone()).await {
            assert_eq!(reason(&status), "OVERLOADED", "{status:?}");
            tokio::task::yield_now().await;
        }
    }

    /// Starts and returns the id.
    pub(crate) async fn execute(&mut self, workflow: &str, input: &str) -> String {
        let started = self.client.execute_workflow(start(workflow, input)).await;
        started.unwrap().into_inner().transaction_id
    }

    /// Starts these over a stream, numbered from 1.
    pub(crate) async fn stream(
        &mut self,
        starts: Vec<wire::ExecuteWorkflowRequest>,
    ) -> tonic::Streaming<wire::ExecuteWorkflowsResponse> {
        let requests = (1..).zip(starts).map(|(request_id, start)| {
            let start = Some(start);
            wire::ExecuteWorkflowsRequest { request_id, start }
        });
        let requests: Vec<_> = requests.collect();
        let answers = self.client.execute_workflows(tokio_stream::iter(requests));
        answers.await.unwrap().into_inner()
    }

    /// As it stands, payloads as JSON.
    pub(crate) async fn status(&mut self, id: &str) -> wire::Transaction {
        self.try_status(id).await.unwrap()
    }

    pub(crate) async fn try_status(
        &mut self,
        id: &str,
    ) -> Result<wire::Transaction, tonic::Status> {
        let request = wire::GetStatusRequest {
            transaction_id: id.to_owned(),
            payload_form: wire::PayloadForm::Json.into(),
        };
        let answer = self.client.get_status(request).await?;
        Ok(answer.into_inner().transaction.unwrap())
    }

    /// Waits until it is in this state.
    pub(crate) async fn until(
        &mut self,
        id: &str,
        state: wire::TransactionState,
    ) -> wire::Transaction {
        let request = wire::WatchTransactionRequest {
            transaction_id: id.to_owned(),
            payload_form: wire::PayloadForm::Json.into(),
        };
        let mut changes = self
            .client
            .watch_transaction(request)
            .await
            .unwrap()
            .into_inner();
        let waiting = async {
            let mut last = None;
            while let Some(change) = changes.message().await.unwrap() {
                let transaction = change.transaction.unwrap();
                if transaction.state() == state {
                    return transaction;
                }
                last = Some(transaction);
            }
            panic!("it ended otherwise: {last:?}")
        };
        tokio::time::timeout(PATIENCE, waiting)
            .await
            .expect("it should have come to that state")
    }

    /// Every event of the log so far.
    pub(crate) async fn events(&self) -> Vec<proto::batch::Stored> {
        let request = wire::ReadEventsRequest::default();
        let mut stream = self
            .event_log()
            .read_events(request)
            .await
            .unwrap()
            .into_inner();
        let mut events = Vec::new();
        while let Some(message) = stream.message().await.unwrap() {
            let batch = message.batch.unwrap();
            events.extend(proto::batch::decode(&batch, None).unwrap().events);
        }
        events
    }

    /// How often an event of this type stands in the log.
    pub(crate) async fn count(&self, kind: wire::EventType) -> usize {
        let events = self.events().await;
        events
            .iter()
            .filter(|stored| stored.event.event_type() == kind)
            .count()
    }
}

/// A start with JSON for input.
pub(crate) fn start(workflow: &str, input: &str) -> wire::ExecuteWorkflowRequest {
    wire::ExecuteWorkflowRequest {
        workflow: workflow.to_owned(),
        payload: Some(wire::execute_workflow_request::Payload::InputJson(
            input.to_owned().into(),
        )),
        payload_form: wire::PayloadForm::Json.into(),
        ..Default::default()
    }
}

/// The same, answered at its end.
pub(crate) fn start_and_wait(workflow: &str, input: &str) -> wire::ExecuteWorkflowRequest {
    wire::ExecuteWorkflowRequest {
        wait: Some(prost_types::Duration {
            seconds: 60,
            nanos: 0,
        }),
        ..start(workflow, input)
    }
}

/// A workflow of steps that follow one another, each by the worker of its name.
pub(crate) fn sequence(name: &str, steps: &[&str]) -> wire::Workflow {
    wire::Workflow {
        name: name.to_owned(),
        steps: steps.iter().map(|step| self::step(step)).collect(),
        ..Default::default()
    }
}

pub(crate) fn step(name: &str) -> wire::Step {
    wire::Step {
        name: name.to_owned(),
        worker: name.to_owned(),
        ..Default::default()
    }
}

/// The reason of a refusal.
pub(crate) fn reason(status: &tonic::Status) -> String {
    kit::status::reason_of(status).unwrap_or_default()
}

/// The JSON text of a payload.
pub(crate) fn json(payload: Option<&wire::Payload>) -> String {
    match payload.and_then(|payload| payload.form.as_ref()) {
        Some(wire::payload::Form::Json(json)) => String::from_utf8(json.to_vec()).unwrap(),
        other => panic!("no JSON: {other:?}"),
    }
}
