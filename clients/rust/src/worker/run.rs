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
use crate::worker::context::Context;
use crate::worker::failure::Failure;
use crate::worker::handler::{Handled, Handler, Running};

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
    pub(crate) worker: Arc<str>,
    pub(crate) ending: Ending,
    pub(crate) wait: Duration,
    pub(crate) run: Duration,
}

/// A command about to run. Most handlers are done at once or soon, and what only the others need
/// stands in boxes, so that a command's task is small.
pub(crate) struct Job {
    pub(crate) command: wire::Command,
    pub(crate) worker: Arc<str>,
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
        let worker = self.worker.clone();
        let arrived = self.arrived;
        let (ending, began) = self.handle(permit, started).await;
        let ended = Instant::now();
        let began = began.unwrap_or(ended);
        Ended {
            command_id,
            worker,
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
        // The handler's own token: it is cancelled at the deadline too.
        let told = CancellationToken::new();
        let command = std::mem::take(&mut self.command);
        let context = Context::new(command, self.deadline, told.clone());
        let ending = match &self.handler {
            Handler::Async(handler) => {
                let mut running = Guarded::new(|| handler(context));
                let at_once =
                    poll_fn(|context| Poll::Ready(Pin::new(&mut running).poll(context))).await;
                let ending = match at_once {
                    Poll::Ready(handled) => ending_of(handled),
                    Poll::Pending => {
                        Box::pin(awaited(running, self.deadline, &self.cancelled, &told)).await
                    }
                };
                drop(permit);
                ending
            }
            Handler::Blocking(handler) => {
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

/// An async handler to its end, or to the first reason to stop it: it is then dropped.
async fn awaited(
    mut running: Guarded,
    deadline: Instant,
    cancelled: &CancellationToken,
    told: &CancellationToken,
) -> Ending {
    let stopped = tokio::select! {
        biased;
        handled = &mut running => return ending_of(handled),
        () = cancelled.cancelled() => Ending::Cancelled,
        () = tokio::time::sleep_until(deadline.into()) => Ending::TimedOut,
    };
    told.cancel();
    stopped
}

/// A blocking handler to its end, or a little past the first reason to stop it.
async fn awaited_thread(
    mut task: tokio::task::JoinHandle<Handled>,
    deadline: Instant,
    cancelled: &CancellationToken,
    told: &CancellationToken,
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
    told.cancel();
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
fn checked(ending: Ending, result_bytes_max: usize) -> Ending {
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
