//! The orchestrator without threads, a runtime or a clock of its own: whoever holds it says when the
//! loop turns, when state.db is written and when what was let out arrives.
//!
//! For the simulation in `tests/sim`. It is the production driver with its calls, sessions and stores,
//! wired as `run` wires them, and nothing else: no logic may stand here that a running service
//! doesn't have. Dropping it is what a kill is.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use eventlog::{EventLog, Offset, ReadError};
use kit::Clock;
use prometheus_client::registry::Registry;
use proto::error::Problem;
use proto::event::Carried;
use proto::id::{Time, TransactionId, WorkflowName};
use proto::wire;
use proto::wire::orchestrator_service_server::OrchestratorService;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::config::Config;
use crate::driver::{Driver, Fatal};
use crate::engine::State;
use crate::grpc::service::Orchestrator;
use crate::ids::Ids;
use crate::letting_out::LettingOut;
use crate::metrics::Metrics;
use crate::sessions::line::FarEnd;
use crate::sessions::service::Workers;
use crate::store::{Filter, Lookup, Pace, StoreError};

/// Why it could not be opened, or could not go on; the process would have ended.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Ended(String);

impl From<Fatal> for Ended {
    fn from(fatal: Fatal) -> Self {
        Self(fatal.to_string())
    }
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A transaction as state.db has it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredRow {
    /// Its id.
    pub id: TransactionId,
    /// Its workflow.
    pub workflow: WorkflowName,
    /// Its whole state.
    pub carried: Carried,
    /// When it last changed.
    pub update_time: Time,
    /// Where its retained story begins.
    pub first_offset: Offset,
}

/// An orchestrator that moves only when told.
pub struct Stepped {
    driver: Driver,
    letting_out: LettingOut,
    orchestrator: Orchestrator,
    workers: Workers,
    tasks: Vec<Task>,
    /// How long the last turn left nothing due.
    wait: Duration,
}

/// What a host is told.
#[derive(Debug)]
pub struct Told(FarEnd);

impl Told {
    /// The next message or the stream's end, where there is one already.
    ///
    /// # Errors
    /// As the receiver of a channel.
    pub fn try_recv(
        &mut self,
    ) -> Result<Result<wire::ConnectResponse, Status>, mpsc::error::TryRecvError> {
        let message = self.0.try_recv()?;
        Ok(message.and_then(crate::sessions::message::HostMessage::into_wire))
    }
}

impl Stepped {
    /// Opens state.db, folds the log and takes requests.
    ///
    /// # Errors
    /// As a start of the service.
    pub fn open(config: Config, log: Box<dyn EventLog>, clock: Clock) -> Result<Self, Ended> {
        let config = Arc::new(config);
        let metrics = Metrics::register(&mut Registry::default());
        let (shared, inputs, letting_out) =
            crate::share(&config, clock.clone(), metrics, Pace::Stepped);
        let reader = log.reader();
        let stop = CancellationToken::new();
        let ids = Ids::counted(clock, reader.bounds().epoch);
        let orchestrator = crate::orchestrator(&shared, reader, ids, &stop);
        let payload_bytes_max = usize::try_from(config.engine.max_payload_bytes.0);
        let workers = crate::workers(&shared, payload_bytes_max.unwrap_or(usize::MAX), &stop);
        let inbox = shared.inbox.clone();
        let driver = Driver::open(shared, log, inputs)?;
        inbox.open();
        Ok(Self {
            wait: driver.wait(),
            driver,
            letting_out,
            orchestrator,
            workers,
            tasks: Vec::new(),
        })
    }

    /// What clients call. A call goes on when it is polled, and is answered after a turn.
    pub fn calls(&self) -> impl OrchestratorService + Clone + use<> {
        self.orchestrator.clone()
    }

    /// A host's stream: what it says, from its first message on, and what it is told.
    pub fn connect(
        &mut self,
        first: wire::ConnectRequest,
        mut stream: impl Stream<Item = Result<wire::ConnectRequest, Status>> + Send + Unpin + 'static,
    ) -> Told {
        let (connection, far_end) = self.workers.connection();
        self.tasks.push(Box::pin(async move {
            if let Err(problem) = connection.session(first, &mut stream).await {
                connection.line.end(problem);
            }
        }));
        Told(far_end)
    }

    /// A heartbeat: it goes past the driver.
    ///
    /// # Errors
    /// SESSION_UNKNOWN.
    pub fn heartbeat(&self, host_id: &str, session_id: &str) -> Result<(), Problem> {
        let now = Time(self.workers.clock.now_micros());
        self.workers.leases.renew(host_id, session_id, now)
    }

    /// Lets everything go on that can: sessions hear what came, inputs reach the inbox.
    pub fn run_tasks(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        self.tasks
            .retain_mut(|task| task.as_mut().poll(&mut context).is_pending());
    }

    /// One turn of the loop with all inputs that have piled up, and then what it let out.
    ///
    /// # Errors
    /// When the process would end; its last words are let out all the same.
    pub fn turn(&mut self) -> Result<(), Ended> {
        let first = self.driver.next_input(Duration::ZERO);
        let turned = self.driver.turn(first, self.wait);
        for judgement in self.letting_out.step() {
            self.tasks.push(Box::pin(judgement));
        }
        self.run_tasks();
        self.wait = self.driver.wait();
        Ok(turned?)
    }

    /// Whether something lies in the inbox.
    pub fn has_inputs(&self) -> bool {
        self.driver.has_inputs()
    }

    /// How long nothing is due.
    pub fn wait(&self) -> Duration {
        self.driver.wait()
    }

    /// Writes what was handed over to state.db, if anything was; the next turn hears of it.
    pub fn write_rows(&mut self) -> bool {
        self.driver.write_rows()
    }

    /// Ends in order.
    ///
    /// # Errors
    /// When the last batch could not be written.
    pub fn stop(mut self) -> Result<(), Ended> {
        let ended = self.driver.end();
        // Nobody is left to judge anything.
        drop(self.letting_out.step());
        Ok(ended?)
    }

    /// What the engine knows.
    pub fn state(&self) -> &State {
        self.driver.state()
    }

    /// Every row of state.db, with its payloads, newest first.
    ///
    /// # Errors
    /// When one can't be read.
    pub fn rows(&self) -> Result<Vec<StoredRow>, Ended> {
        let Some(lookup) = self.orchestrator.lookup.get() else {
            return Err(Ended("state.db is not open".to_owned()));
        };
        finished(all_rows(lookup))
    }
}

async fn all_rows(lookup: &Lookup) -> Result<Vec<StoredRow>, Ended> {
    let ended = |error: StoreError| Ended(error.to_string());
    let mut rows = Vec::new();
    let mut before = None;
    loop {
        let page = lookup.list(Filter::default(), before, 1_000).await;
        let page = page.map_err(ended)?;
        for listed in page.rows {
            let row = match lookup.get(listed.id).await {
                Ok(Some((row, _))) => row,
                // Its payloads were trimmed, and its row is about to go: nobody is shown it.
                Ok(None) | Err(StoreError::Log(ReadError::Trimmed { .. })) => continue,
                Err(error) => return Err(ended(error)),
            };
            rows.push(StoredRow {
                id: row.id,
                workflow: row.workflow,
                carried: row.carried,
                update_time: row.update_time,
                first_offset: row.first_offset,
            });
        }
        before = page.next;
        if before.is_none() {
            return Ok(rows);
        }
    }
}

/// The answer of a future that waits for nobody: look-ups, without a runtime, are done when asked.
fn finished<T>(future: impl Future<Output = Result<T, Ended>>) -> Result<T, Ended> {
    let polled = std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop()));
    match polled {
        Poll::Ready(answer) => answer,
        Poll::Pending => Err(Ended("a look-up did not finish".to_owned())),
    }
}
