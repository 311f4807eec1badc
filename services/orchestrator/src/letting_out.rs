//! What leaves the driver once it is durable: one message a batch, to one task that fans it out.
//!
//! The driver would otherwise wake the runtime for each answer. Nothing here waits: who doesn't take
//! what he is sent loses it, and has his own way to ask again.

use std::sync::Arc;

use eventlog::Offset;
use proto::error::Problem;
use proto::workflow::Workflow;
use tokio::sync::{mpsc, watch};

use crate::busy_poll::Awake;
use crate::grpc::start_stream::Moment;
use crate::inbox::{Registered, Reply, StartReply, Started, View};
use crate::sessions::late::{Desk, Late};
use crate::sessions::line::Line;
use crate::sessions::message::HostMessage;
use crate::sessions::table::Session;

/// One thing that leaves.
pub(crate) enum Out {
    /// What became of definitions.
    Registered(Reply<Vec<Registered>>, Result<Vec<Registered>, Problem>),
    /// What became of a start.
    Started(StartReply, Result<Started, Problem>),
    /// What became of it at its end.
    Ended(StartReply, Result<Started, Problem>),
    /// How a transaction stands.
    View(Reply<Option<View>>, Result<Option<View>, Problem>),
    /// A transaction to watch.
    Watch(
        Reply<Option<watch::Receiver<View>>>,
        Result<Option<watch::Receiver<View>>, Problem>,
    ),
    /// A watched transaction changed.
    Changed(watch::Sender<View>, View),
    /// A definition.
    Workflow(Reply<Arc<Workflow>>, Result<Arc<Workflow>, Problem>),
    /// Definitions.
    Workflows(
        Reply<Vec<Arc<Workflow>>>,
        Result<Vec<Arc<Workflow>>, Problem>,
    ),
    /// state.db is up to an offset.
    Checkpoint(Reply<Offset>, Result<Offset, Problem>),
    /// A session is open, or refused.
    Session(Reply<Session>, Result<Session, Problem>),
    /// A message to a host.
    Host(Arc<Line>, HostMessage),
    /// The end of a session.
    End(Arc<Line>, Problem),
    /// Results for transactions that have left memory.
    Late(Late),
}

impl Out {
    /// Lets it out, but for what is to be judged first. Whoever went away doesn't mind.
    fn go(self) -> Option<Late> {
        match self {
            Self::Registered(reply, answer) => drop(reply.send(answer)),
            Self::Started(reply, answer) => reply.answer(Moment::Started, answer),
            Self::Ended(reply, answer) => reply.answer(Moment::Ended, answer),
            Self::View(reply, answer) => drop(reply.send(answer)),
            Self::Watch(reply, answer) => drop(reply.send(answer)),
            Self::Changed(watchers, view) => drop(watchers.send(view)),
            Self::Workflow(reply, answer) => drop(reply.send(answer)),
            Self::Workflows(reply, answer) => drop(reply.send(answer)),
            Self::Checkpoint(reply, answer) => drop(reply.send(answer)),
            Self::Session(reply, answer) => drop(reply.send(answer)),
            Self::Host(line, message) => line.send(message),
            Self::End(line, why) => line.end(why),
            Self::Late(late) => return Some(late),
        }
        None
    }

    /// The batch that it belongs to came to nothing: every answer becomes this problem, and what was
    /// for hosts is dropped with their sessions.
    pub(crate) fn refuse(self, problem: &Problem) -> Option<Self> {
        let refused = || problem.clone();
        Some(match self {
            Self::Registered(reply, _) => Self::Registered(reply, Err(refused())),
            Self::Started(reply, _) => Self::Started(reply, Err(refused())),
            Self::Ended(reply, _) => Self::Ended(reply, Err(refused())),
            Self::View(reply, _) => Self::View(reply, Err(refused())),
            Self::Watch(reply, _) => Self::Watch(reply, Err(refused())),
            Self::Workflow(reply, _) => Self::Workflow(reply, Err(refused())),
            Self::Workflows(reply, _) => Self::Workflows(reply, Err(refused())),
            Self::Checkpoint(reply, _) => Self::Checkpoint(reply, Err(refused())),
            Self::Session(reply, _) => Self::Session(reply, Err(refused())),
            Self::End(line, why) => Self::End(line, why),
            Self::Changed(..) | Self::Host(..) | Self::Late(_) => return None,
        })
    }
}

/// The driver's side of the task.
pub(crate) type Gate = mpsc::Sender<Vec<Out>>;

/// The far side of the gate.
pub(crate) struct LettingOut {
    batches: mpsc::Receiver<Vec<Out>>,
    desk: Desk,
    awake: Awake,
}

/// Makes the gate, and what lets out what goes through it. So many batches may wait there; then the
/// driver waits, since the runtime is behind anyway.
pub(crate) fn gate(desk: Desk, batches_max: usize, awake: Awake) -> (Gate, LettingOut) {
    let (gate, batches) = mpsc::channel(batches_max);
    let letting_out = LettingOut {
        batches,
        desk,
        awake,
    };
    (gate, letting_out)
}

impl LettingOut {
    /// The task that does so until the driver is gone.
    pub(crate) async fn run(mut self) {
        while let Some(batch) = self.batches.recv().await {
            for late in batch.into_iter().filter_map(Out::go) {
                if let Some(judgement) = self.desk.take(late) {
                    tokio::spawn(judgement);
                }
            }
            // A long batch must not keep its receivers from running.
            tokio::task::yield_now().await;
            // The runtime looks for what hosts and clients say as long as this is never done.
            while self.awake.is_set() && self.batches.is_empty() && !self.batches.is_closed() {
                std::thread::yield_now();
                tokio::task::yield_now().await;
            }
        }
    }

    /// Lets out all that waits now; what is to be judged first is the caller's to run.
    pub(crate) fn step(&mut self) -> Vec<impl Future<Output = ()> + Send + use<>> {
        let mut judgements = Vec::new();
        while let Ok(batch) = self.batches.try_recv() {
            let late = batch.into_iter().filter_map(Out::go);
            judgements.extend(late.filter_map(|late| self.desk.take(late)));
        }
        judgements
    }
}
