//! What reaches the driver: one closed enum, through one bounded queue.
//!
//! Places in the queue are taken before anything is put there, more of them for large payloads. Requests
//! that find none are refused at once; hosts wait, since their results must not be lost. Nothing here
//! decides.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use eventlog::Offset;
use proto::error::{Problem, Reason};
use proto::event::{Cancel, Start, SystemSample};
use proto::id::{CommandId, HostId, TransactionId, WorkerName, WorkflowName};
use proto::lifecycle::Stage;
use proto::workflow::Workflow;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use crate::engine::ResultOutcome;
use crate::grpc::start_stream::{Moment, StreamedStart};
use crate::sessions::line::{Lease, Line};
use crate::sessions::table::Session;
use crate::store::{Known, Row};

/// So many bytes of payloads take a place more.
const PLACE_BYTES: u64 = 32 << 10;

/// Everything that can change the system, or ask how it stands.
pub(crate) enum Input {
    /// Keep these definitions, all or none of them.
    Register {
        /// Checked.
        workflows: Vec<Workflow>,
        /// Check only, and answer as if they had been kept.
        validate_only: bool,
        /// What became of each.
        reply: Reply<Vec<Registered>>,
    },
    /// Start a transaction.
    Start(Box<StartRequest>),
    /// Cancel a transaction.
    Cancel {
        /// Which.
        id: TransactionId,
        /// How.
        cancel: Cancel,
        /// How it stands then; none where the driver doesn't have it.
        reply: Reply<Option<View>>,
    },
    /// How a transaction stands; none where the driver doesn't have it.
    Get {
        /// Which.
        id: TransactionId,
        /// How it stands.
        reply: Reply<Option<View>>,
    },
    /// How a transaction stands, now and after each change; none where the driver doesn't have it.
    Watch {
        /// Which.
        id: TransactionId,
        /// How it stands now, and where to look for more.
        reply: Reply<Option<watch::Receiver<View>>>,
    },
    /// One version of a workflow.
    GetWorkflow {
        /// Its name.
        name: WorkflowName,
        /// 0: the newest.
        version: u32,
        /// The definition, or why there is none.
        reply: Reply<Arc<Workflow>>,
    },
    /// The newest version of each workflow after a name, by name.
    ListWorkflows {
        /// The last name of the page before; none: the first page.
        after: Option<WorkflowName>,
        /// How many, at most.
        limit: usize,
        /// They.
        reply: Reply<Vec<Arc<Workflow>>>,
    },
    /// Bring state.db up to now; the answer comes when it is there.
    Checkpoint {
        /// The offset that state.db is true at.
        reply: Reply<Offset>,
    },
    /// A host announced itself.
    Announced(Box<Announced>),
    /// A host said something.
    Said {
        /// Which host.
        host: HostId,
        /// In which session.
        session: Session,
        /// What.
        said: Said,
    },
    /// A session's stream ended.
    Closed {
        /// Which host's.
        host: HostId,
        /// Which session.
        session: Session,
    },
    /// The own machine's sample.
    Sampled(Box<SystemSample>),
    /// End in order.
    Stop,
}

impl Input {
    /// How many places it takes.
    fn places(&self) -> u64 {
        let bytes = match self {
            Self::Start(request) => request.start.input.size(),
            Self::Said { said, .. } => said.results.iter().map(HostResult::bytes).sum(),
            _ => 0,
        };
        1 + bytes / PLACE_BYTES
    }
}

/// Where an answer goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Problem>>;

/// A transaction to start.
pub(crate) struct StartRequest {
    /// Its id, drawn at the edge.
    pub id: TransactionId,
    /// Its workflow.
    pub workflow: WorkflowName,
    /// 0: the newest.
    pub version: u32,
    /// What it starts with; its version is set by the engine.
    pub start: Box<Start>,
    /// What state.db said about its key.
    pub looked_up: LookedUp,
    /// True: a call is answered at its end, a stream then as well. One that was there already is
    /// answered at once.
    pub until_end: bool,
    /// It is durable, or has ended.
    pub reply: StartReply,
}

/// Where the answers to a start go.
#[derive(Debug)]
pub(crate) enum StartReply {
    /// To a call: how it stands at its start or at its end.
    Call(Reply<Started>),
    /// To a stream of starts: both.
    Streamed(Arc<StreamedStart>),
}

impl StartReply {
    /// Answers it. Whoever went away doesn't mind.
    pub(crate) fn answer(self, moment: Moment, answer: Result<Started, Problem>) {
        match self {
            Self::Call(reply) => drop(reply.send(answer)),
            Self::Streamed(start) => start.answer(moment, answer),
        }
    }

    /// Whether nobody waits for it any more.
    pub(crate) fn is_deserted(&self) -> bool {
        match self {
            Self::Call(reply) => reply.is_closed(),
            Self::Streamed(start) => start.is_deserted(),
        }
    }
}

/// What became of a definition.
#[derive(Clone, Debug)]
pub(crate) struct Registered {
    /// With its version.
    pub workflow: Arc<Workflow>,
    /// False when this content was there already.
    pub created: bool,
}

/// A transaction with its definition, as of an offset.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// The transaction.
    pub row: Arc<Row>,
    /// The version of the workflow that it runs.
    pub workflow: Arc<Workflow>,
    /// Where in the log this is true.
    pub offset: Offset,
}

/// A durable start.
#[derive(Clone, Debug)]
pub(crate) struct Started {
    /// Which transaction.
    pub id: TransactionId,
    /// True when the key named one that was there already.
    pub existing: bool,
    /// How it stands; none where only state.db has it.
    pub view: Option<View>,
}

/// What state.db said about an idempotency key.
#[derive(Clone, Debug, Default)]
pub(crate) struct LookedUp {
    /// The transaction that it has.
    pub known: Option<Known>,
    /// How many handovers state.db had taken when it was asked: what it took since, it may not have
    /// said.
    pub handovers: u64,
}

/// A host's announcement, checked.
pub(crate) struct Announced {
    /// What it calls itself.
    pub host: HostId,
    /// What it offers.
    pub workers: Vec<(WorkerName, u32)>,
    /// The name of its machine.
    pub machine: String,
    /// The program's version.
    pub version: String,
    /// What it still has from an earlier session.
    pub held: Vec<CommandId>,
    /// What it has that can't be a command's name.
    pub held_nameless: Vec<String>,
    /// How many bytes of contexts it is taken to remember.
    pub remembers_bytes_max: u64,
    /// The way to the host: its welcome and everything else goes out here.
    pub line: Arc<Line>,
    /// What its heartbeats renew.
    pub lease: Arc<Lease>,
    /// The session is open.
    pub reply: Reply<Session>,
}

/// One message of a host, checked item by item.
#[derive(Default)]
pub(crate) struct Said {
    /// Stages that commands have reached.
    pub progress: Vec<(CommandId, Stage)>,
    /// How commands ended.
    pub results: Vec<HostResult>,
    /// Results for what can't be a command's name.
    pub nameless: Vec<String>,
    /// How its machine does.
    pub samples: Vec<SystemSample>,
    /// It wants no more commands.
    pub draining: bool,
    /// state.db was asked about the results already.
    pub looked_up: bool,
}

/// How a command ended, by its host.
#[derive(Clone, Debug)]
pub(crate) struct HostResult {
    /// Which command.
    pub command: CommandId,
    /// Its name as the host wrote it.
    pub command_id: String,
    /// Whether its handler began since the host's last message.
    pub began: bool,
    /// How it ended.
    pub outcome: ResultOutcome,
    /// Why its payload was not taken, where it was not.
    pub problem: Option<Problem>,
    /// From its arrival at the host to its handler's start.
    pub wait_us: u64,
    /// From its handler's start to its end.
    pub run_us: u64,
}

impl HostResult {
    /// What may be large of it.
    fn bytes(&self) -> u64 {
        let bytes = match &self.outcome {
            ResultOutcome::Completed(result) => result.len(),
            ResultOutcome::Failed { failure, .. } => failure.message.len() + failure.detail.len(),
            ResultOutcome::TimedOut | ResultOutcome::Cancelled => 0,
        };
        bytes as u64
    }
}

/// An input with its place in the queue.
pub(crate) struct Queued {
    /// The input.
    pub input: Input,
    _place: Option<OwnedSemaphorePermit>,
}

/// Puts inputs in the queue.
#[derive(Clone)]
pub(crate) struct Inbox {
    places: Arc<Semaphore>,
    places_max: usize,
    queue: Sender<Queued>,
    open: Arc<AtomicBool>,
}

impl Inbox {
    /// A queue with so many places, closed for requests until [`Inbox::open`].
    pub(crate) fn new(places_max: usize) -> (Self, Receiver<Queued>) {
        #[expect(
            clippy::disallowed_methods,
            reason = "the places bound it; a bounded channel would hold memory for all of them at rest"
        )]
        let (queue, take) = crossbeam_channel::unbounded();
        let inbox = Self {
            places: Arc::new(Semaphore::new(places_max)),
            places_max,
            queue,
            open: Arc::default(),
        };
        (inbox, take)
    }

    /// The replay is done: requests are welcome.
    pub(crate) fn open(&self) {
        self.open.store(true, Ordering::Release);
    }

    /// Puts a request in the queue and waits for its answer.
    pub(crate) async fn ask<T>(&self, make: impl FnOnce(Reply<T>) -> Input) -> Result<T, Problem> {
        let (reply, answer) = oneshot::channel();
        self.request(make(reply))?;
        answer.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Puts a request in the queue, or refuses it when that is full.
    pub(crate) fn request(&self, input: Input) -> Result<(), Problem> {
        if !self.open.load(Ordering::Acquire) {
            return Err(Problem::new(
                Reason::NotReady,
                "the orchestrator is still replaying its log; repeat in a moment",
            )
            .retry_after(Duration::from_secs(1)));
        }
        let places = self.places.clone();
        let place = places.try_acquire_many_owned(self.places_for(&input));
        let place = place.map_err(|_| {
            Problem::new(
                Reason::Overloaded,
                format!(
                    "inputs wait for the orchestrator already in all {} places, or payloads in theirs; \
                     repeat in a moment",
                    self.places_max
                ),
            )
            .retry_after(Duration::from_millis(100))
        })?;
        self.put(input, Some(place))
    }

    /// Puts a host's word in the queue, waiting for its places.
    pub(crate) async fn tell(&self, input: Input) -> Result<(), Problem> {
        let places = self.places.clone();
        let place = places.acquire_many_owned(self.places_for(&input)).await;
        self.put(input, place.ok())
    }

    /// One that is larger than the queue finds room once that is empty.
    fn places_for(&self, input: &Input) -> u32 {
        let places = input.places().min(self.places_max as u64);
        u32::try_from(places).unwrap_or(u32::MAX)
    }

    /// Asks the driver to end, whatever waits before.
    pub(crate) fn stop(&self) {
        // Fails only when the driver has ended already.
        let _ = self.put(Input::Stop, None);
    }

    fn put(&self, input: Input, place: Option<OwnedSemaphorePermit>) -> Result<(), Problem> {
        let queued = Queued {
            input,
            _place: place,
        };
        self.queue.send(queued).map_err(|_| stopping())
    }
}

/// The driver is gone, or going.
pub(crate) fn stopping() -> Problem {
    Problem::new(
        Reason::ShuttingDown,
        "the orchestrator is stopping; what it acknowledged goes on with its next start; repeat in a \
         moment",
    )
    .retry_after(Duration::from_secs(1))
}
