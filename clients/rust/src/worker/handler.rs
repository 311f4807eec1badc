//! A worker: a name and the function that does it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use crate::worker::context::Context;
use crate::worker::failure::Failure;

/// What a handler comes to: the result's JSON text, or why there is none.
pub(crate) type Handled = Result<Bytes, Failure>;
/// A handler at work.
pub(crate) type Running = Pin<Box<dyn Future<Output = Handled> + Send>>;
pub(crate) type AsyncHandler = dyn Fn(Context) -> Running + Send + Sync;
type BlockingHandler = dyn Fn(Context) -> Handled + Send + Sync;

/// A named handler.
#[derive(Clone)]
pub struct Worker {
    name: String,
    handler: Handler,
}

/// How a handler is run.
#[derive(Clone)]
pub(crate) enum Handler {
    /// On the runtime; dropped when it is cancelled.
    Async(Arc<AsyncHandler>),
    /// On a thread of its own; told when it is cancelled.
    Blocking(Arc<BlockingHandler>),
}

impl Worker {
    /// A worker whose handler awaits. It is dropped, wherever it stands, when its command is
    /// cancelled or its deadline passes.
    ///
    /// ```
    /// use multiagents_client::{Failure, Worker};
    /// use serde_json::json;
    ///
    /// let worker = Worker::new("divide", |context| async move {
    ///     let (a, b): (f64, f64) = (context.require("a")?, context.require("b")?);
    ///     if b == 0.0 {
    ///         return Err(Failure::new("DivisionByZero", "b is 0").not_retryable());
    ///     }
    ///     Ok(json!({ "quotient": a / b }))
    /// });
    /// assert_eq!(worker.name(), "divide");
    /// ```
    pub fn new<F, R, T>(name: impl Into<String>, handler: F) -> Self
    where
        F: Fn(Context) -> R + Send + Sync + 'static,
        R: Future<Output = Result<T, Failure>> + Send + 'static,
        T: Serialize + 'static,
    {
        let handler = move |context: Context| -> Running {
            let running = handler(context);
            Box::pin(async move { written(&running.await?) })
        };
        Self {
            name: name.into(),
            handler: Handler::Async(Arc::new(handler)),
        }
    }

    /// A worker whose handler computes or blocks; it runs off the async threads. It must look at
    /// [`Context::is_cancelled`] to stop early.
    pub fn blocking<F, T>(name: impl Into<String>, handler: F) -> Self
    where
        F: Fn(Context) -> Result<T, Failure> + Send + Sync + 'static,
        T: Serialize,
    {
        let handler = move |context: Context| -> Handled { written(&handler(context)?) };
        Self {
            name: name.into(),
            handler: Handler::Blocking(Arc::new(handler)),
        }
    }

    /// What steps call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn handler(&self) -> &Handler {
        &self.handler
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Worker({})", self.name)
    }
}

/// A result as JSON text; the empty object, which says that there is nothing to say, is always the
/// same one.
fn written(result: &impl Serialize) -> Handled {
    serde_json::to_vec(result)
        .map(|text| match &text[..] {
            b"{}" => Bytes::from_static(b"{}"),
            _ => Bytes::from(text),
        })
        .map_err(|error| {
            Failure::new(
                "ResultInvalid",
                format!("the result can't be written as JSON: {error}"),
            )
            .not_retryable()
        })
}
