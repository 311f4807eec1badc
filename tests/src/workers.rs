//! Workers that do what a story needs, on hosts that live in the test's own process and speak to the
//! orchestrator over a real socket, as any Rust user's would.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use multiagents_client::{Context, Failure, Host, Worker};
use serde_json::{Value, json};
use tokio::sync::Barrier;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A host in this process; it drains when it is dropped.
#[derive(Debug)]
pub struct OwnHost {
    _stop: DropGuard,
    task: JoinHandle<()>,
}

impl OwnHost {
    /// Connects `workers`, each with so many slots.
    pub fn start(orchestrator: &str, workers: impl IntoIterator<Item = (Worker, u32)>) -> Self {
        let stop = CancellationToken::new();
        let mut builder = Host::builder(orchestrator);
        for (worker, slots) in workers {
            builder = builder.worker(worker, slots);
        }
        let run = builder.run(stop.clone());
        Self {
            _stop: stop.drop_guard(),
            task: tokio::spawn(async move {
                run.await.expect("the host runs to its end");
            }),
        }
    }

    /// Tears it down without a word to the orchestrator, as a crash does.
    pub fn crash(self) {
        self.task.abort();
    }
}

/// What workers wrote down, in order.
#[derive(Clone, Debug, Default)]
pub struct Notes(Arc<Mutex<Vec<Value>>>);

impl Notes {
    /// Adds a note.
    pub fn add(&self, note: Value) {
        self.0.lock().expect("no panic").push(note);
    }

    /// All of them.
    pub fn all(&self) -> Vec<Value> {
        self.0.lock().expect("no panic").clone()
    }
}

/// Always fails in the same way.
pub fn broken() -> Worker {
    Worker::new("broken", |_| async {
        Err::<Value, _>(Failure::new("Broken", "it never works"))
    })
}

/// Fails for good at the first attempt.
pub fn hopeless() -> Worker {
    Worker::new("hopeless", |_| async {
        Err::<Value, _>(Failure::new("Hopeless", "no use in trying again").not_retryable())
    })
}

/// Fails at the first `failures` attempts.
pub fn reluctant() -> Worker {
    Worker::new("reluctant", |context: Context| async move {
        let failures: u32 = context.require("failures")?;
        if context.attempt() <= failures {
            return Err(Failure::new("Reluctant", "not yet"));
        }
        Ok(json!({ "attempt": context.attempt() }))
    })
}

/// Never ends by itself.
pub fn stuck() -> Worker {
    Worker::new("stuck", |_| async {
        std::future::pending::<()>().await;
        Ok(json!({}))
    })
}

/// Panics.
pub fn panicking() -> Worker {
    Worker::new("panicking", |_| async {
        panic!("as it was written to");
        #[expect(unreachable_code, reason = "it says what the worker would give")]
        Ok(json!({}))
    })
}

/// Succeeds once `together` commands run at the same time, and never otherwise.
pub fn meeting(together: usize) -> Worker {
    let barrier = Arc::new(Barrier::new(together));
    Worker::new("meeting", move |_| {
        let barrier = barrier.clone();
        async move {
            barrier.wait().await;
            Ok(json!({}))
        }
    })
}

/// Writes down which step it is, and gives it as its result.
pub fn scribe(notes: &Notes) -> Worker {
    let notes = notes.clone();
    Worker::new("scribe", move |context: Context| {
        let notes = notes.clone();
        async move {
            let step = context.step().to_owned();
            notes.add(json!({ "did": step, "context": context.object()? }));
            Ok(json!({ "by": step, (step): true }))
        }
    })
}

/// Undoes: writes down what it was told about what it undoes.
pub fn eraser(notes: &Notes) -> Worker {
    let notes = notes.clone();
    Worker::new("eraser", move |context: Context| {
        let notes = notes.clone();
        async move {
            let undo = context
                .undo()
                .ok_or_else(|| Failure::new("NotAnUndo", "no undo"))?;
            let (kind, message) = undo.failure();
            notes.add(json!({
                "undid": context.step(),
                "result": undo.result::<Value>()?,
                "failure": format!("{kind}: {message}"),
                "key": context.idempotency_key(),
            }));
            Ok(json!({}))
        }
    })
}

/// Takes as long as the context's `millis` says.
pub fn timed() -> Worker {
    Worker::new("timed", |context: Context| async move {
        let millis: u64 = context.get("millis")?.unwrap_or(50);
        tokio::time::sleep(Duration::from_millis(millis)).await;
        Ok(json!({ "took": millis }))
    })
}
