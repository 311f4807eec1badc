//! Runs one command to its outcome, under its deadline and its cancellation.
//!
//! A handler that panics fails its command and nothing else. Durations come from the monotonic
//! clock. Nothing here speaks to the orchestrator.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::wire::{self, command_result};
use crate::worker::context::{Context, Told};
use crate::worker::failure::Failure;
use crate::worker::handler::{AsyncHandler, Handled, Handler, Running};

/// How long a blocking handler that was told to stop is awaited before its command is answered
/// without it. Its slot stays taken until it does stop.
const BLOCKING_GRACE: Duration = Duration::from_secs(1);

/// How a command ended, as a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The handler succeeded.
    Completed,
    /// The handler failed.
    Failed,
    /// Its deadline passed.
    Timeout,
    /// It was told to stop.
    Cancelled,
}

/// What a command came to.
#[derive(Clone, Debug)]
pub(crate) enum Ending {
    Completed(Bytes),
    Failed(Failure),
    TimedOut,
    Cancelled,
}

impl Ending {
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Completed(_) => Outcome::Completed,
            Self::Failed(_) => Outcome::Failed,
            Self::TimedOut => Outcome::Timeout,
            Self::Cancelled => Outcome::Cancelled,
        }
    }

    pub(crate) fn into_wire(self) -> command_result::Outcome {
        match self {
            Self::Completed(result) => command_result::Outcome::CompletedJson(result),
            Self::Failed(failure) => command_result::Outcome::Failed(failure.into_wire()),
            Self::TimedOut => command_result::Outcome::TimedOut(wire::DeadlineExceeded {}),
            Self::Cancelled => command_result::Outcome::Cancelled(wire::Cancelled {}),
        }
    }
}

/// A command that came to its outcome.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) command_id: String,
    pub(crate) ending: Ending,
    pub(crate) wait: Duration,
    pub(crate) run: Duration,
}

/// A command about to run in a task of its own. Most handlers are done at once or soon, and what only
/// the others need stands in boxes, so that the task is small.
pub(crate) struct Job {
    pub(crate) command: wire::Command,
    pub(crate) handler: Handler,
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) arrived: Instant,
    pub(crate) deadline: Instant,
    pub(crate) cancelled: CancellationToken,
    pub(crate) result_bytes_max: usize,
}

impl Job {
    /// Runs to an outcome, always. `started` is called when a slot is free and the handler begins.
    pub(crate) async fn run(
        self: Box<Self>,
        permit: Option<OwnedSemaphorePermit>,
        started: impl FnOnce(&str),
    ) -> Ended {
        let command_id = self.command.command_id.clone();
        let arrived = self.arrived;
        let (ending, began) = self.handle(permit, started).await;
        let ended = Instant::now();
        let began = began.unwrap_or(ended);
        Ended {
            command_id,
            ending,
            wait: began.duration_since(arrived),
            run: ended.duration_since(began),
        }
    }

    async fn handle(
        mut self: Box<Self>,
        permit: Option<OwnedSemaphorePermit>,
        started: impl FnOnce(&str),
    ) -> (Ending, Option<Instant>) {
        let permit = match permit {
            Some(permit) => permit,
            None => match Box::pin(self.slot()).await {
                Ok(permit) => permit,
                Err(ending) => return (ending, None),
            },
        };
        started(&self.command.command_id);
        let began = Instant::now();
        let command = std::mem::take(&mut self.command);
        let ending = match &self.handler {
            Handler::Async(handler) => {
                let mut begun = Begun::new(&**handler, command, self.deadline);
                let ending = match poll_fn(|context| Poll::Ready(begun.poll(context))).await {
                    Some(ending) => ending,
                    None => Box::pin(begun.ended(&self.cancelled)).await,
                };
                drop(permit);
                ending
            }
            Handler::Blocking(handler) => {
                let told = Told::default();
                let context = Context::new(command, self.deadline, told.clone());
                let handler = handler.clone();
                let task = tokio::task::spawn_blocking(move || {
                    let handled = catch_unwind(AssertUnwindSafe(|| handler(context)));
                    drop(permit);
                    handled.unwrap_or_else(|panic| Err(panicked(&*panic)))
                });
                Box::pin(awaited_thread(task, self.deadline, &self.cancelled, &told)).await
            }
        };
        (checked(ending, self.result_bytes_max), Some(began))
    }

    /// A slot, or the first reason not to wait for one any more.
    async fn slot(&self) -> Result<OwnedSemaphorePermit, Ending> {
        tokio::select! {
            biased;
            () = self.cancelled.cancelled() => Err(Ending::Cancelled),
            () = tokio::time::sleep_until(self.deadline.into()) => Err(Ending::TimedOut),
            // The semaphore is never closed.
            permit = self.slots.clone().acquire_owned() => permit.map_err(|_| Ending::Cancelled),
        }
    }
}

/// An async handler that has begun.
pub(crate) struct Begun {
    running: Guarded,
    deadline: Instant,
    /// The handler's own: it is told at the deadline too.
    told: Told,
}

impl Begun {
    pub(crate) fn new(handler: &AsyncHandler, command: wire::Command, deadline: Instant) -> Self {
        let told = Told::default();
        let context = Context::new(command, deadline, told.clone());
        Self {
            running: Guarded::new(|| handler(context)),
            deadline,
            told,
        }
    }

    /// Its end, if it comes at once; most do.
    pub(crate) fn poll(&mut self, context: &mut task::Context<'_>) -> Option<Ending> {
        match Pin::new(&mut self.running).poll(context) {
            Poll::Ready(handled) => Some(ending_of(handled)),
            Poll::Pending => None,
        }
    }

    /// To its end, or to the first reason to stop it: it is then dropped.
    pub(crate) async fn ended(mut self, cancelled: &CancellationToken) -> Ending {
        let stopped = tokio::select! {
            biased;
            handled = &mut self.running => return ending_of(handled),
            () = cancelled.cancelled() => Ending::Cancelled,
            () = tokio::time::sleep_until(self.deadline.into()) => Ending::TimedOut,
        };
        self.told.tell();
        stopped
    }
}

/// A blocking handler to its end, or a little past the first reason to stop it.
async fn awaited_thread(
    mut task: tokio::task::JoinHandle<Handled>,
    deadline: Instant,
    cancelled: &CancellationToken,
    told: &Told,
) -> Ending {
    let joined = |handled: Result<Handled, tokio::task::JoinError>| {
        // A panic was caught inside; what is left is a runtime that goes away.
        ending_of(handled.unwrap_or_else(|_| Err(Failure::new("HostStopped", "the host stopped"))))
    };
    let stopped = tokio::select! {
        biased;
        handled = &mut task => return joined(handled),
        () = cancelled.cancelled() => Ending::Cancelled,
        () = tokio::time::sleep_until(deadline.into()) => Ending::TimedOut,
    };
    told.tell();
    match tokio::time::timeout(BLOCKING_GRACE, task).await {
        // It finished its work before it saw the token: that is what the command came to.
        Ok(Ok(Ok(result))) if matches!(stopped, Ending::Cancelled) => Ending::Completed(result),
        _ => stopped,
    }
}

fn ending_of(handled: Handled) -> Ending {
    match handled {
        Ok(result) => Ending::Completed(result),
        Err(failure) => Ending::Failed(failure),
    }
}

/// A result that the orchestrator would refuse is a failure that says so, at once.
pub(crate) fn checked(ending: Ending, result_bytes_max: usize) -> Ending {
    let Ending::Completed(result) = &ending else {
        return ending;
    };
    if &result[..] == b"{}" {
        return ending;
    }
    match proto::payload::check("the result", result, result_bytes_max) {
        Ok(()) => ending,
        Err(problem) => {
            Ending::Failed(Failure::new("ResultInvalid", problem.message).not_retryable())
        }
    }
}

/// A handler whose panics, when it is made, polled or dropped, stay inside.
struct Guarded(Option<Running>, Option<Failure>);

impl Guarded {
    fn new(make: impl FnOnce() -> Running) -> Self {
        match catch_unwind(AssertUnwindSafe(make)) {
            Ok(running) => Self(Some(running), None),
            Err(panic) => Self(None, Some(panicked(&*panic))),
        }
    }

    fn discard(&mut self) {
        let running = self.0.take();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(running))) {
            tracing::warn!(failure = %panicked(&*panic), "a handler panicked while it was dropped");
        }
    }
}

impl Future for Guarded {
    type Output = Handled;

    fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<Handled> {
        let Some(running) = &mut self.0 else {
            let failure = self.1.take();
            return Poll::Ready(Err(
                failure.unwrap_or_else(|| Failure::new("Panic", "polled after its end"))
            ));
        };
        let polled = catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(context)));
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(handled)) => {
                self.discard();
                Poll::Ready(handled)
            }
            Err(panic) => {
                self.discard();
                Poll::Ready(Err(panicked(&*panic)))
            }
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.discard();
    }
}

/// A panic as a failure.
fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let message = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "the handler panicked".to_owned());
    Failure::new("Panic", message)
}
