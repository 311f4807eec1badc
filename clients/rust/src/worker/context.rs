//! What a handler receives: the input, overlaid in order with the results of the steps before it.
//!
//! Parsed when it is first looked at, so that a handler which doesn't look pays nothing.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use crate::wire;
use crate::worker::failure::Failure;

/// Whether a handler was told to stop. Its token is made when the handler asks for it or when it is
/// told, whichever comes first: most end without either.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told(Arc<OnceLock<CancellationToken>>);

impl Told {
    pub(crate) fn tell(&self) {
        self.token().cancel();
    }

    fn token(&self) -> &CancellationToken {
        self.0.get_or_init(CancellationToken::new)
    }

    fn is_told(&self) -> bool {
        self.0.get().is_some_and(CancellationToken::is_cancelled)
    }
}

/// One command's context.
#[derive(Debug)]
pub struct Context {
    pieces: Vec<Bytes>,
    object: OnceLock<Result<Map<String, Value>, String>>,
    command_id: String,
    worker: String,
    workflow: String,
    attempt: u32,
    undo: Option<wire::UndoContext>,
    trace_parent: String,
    deadline: Instant,
    told: Told,
}

impl Context {
    pub(crate) fn new(command: wire::Command, deadline: Instant, told: Told) -> Self {
        Self {
            pieces: command.context_json,
            object: OnceLock::new(),
            command_id: command.command_id,
            worker: command.worker,
            workflow: command.workflow,
            attempt: command.attempt,
            undo: command.undo,
            trace_parent: command.trace_parent,
            deadline,
            told,
        }
    }

    /// A context for a handler's own tests: the object, a first attempt, and an hour's time.
    pub fn for_test(object: &Value) -> Self {
        let command = wire::Command {
            command_id: "01890a5d-ac96-774b-bcce-b302099a8057/step/do#1".into(),
            context_json: vec![object.to_string().into()],
            attempt: 1,
            ..Default::default()
        };
        let deadline = Instant::now() + Duration::from_secs(3_600);
        Self::new(command, deadline, Told::default())
    }

    /// The whole context: a later step's result has replaced an earlier one's key.
    pub fn object(&self) -> Result<&Map<String, Value>, Failure> {
        let parsed = self.object.get_or_init(|| overlay(&self.pieces));
        parsed.as_ref().map_err(|what| {
            Failure::new(
                "ContextMalformed",
                format!("the context is not JSON: {what}"),
            )
            .not_retryable()
        })
    }

    /// One key as a type; None where it is absent or null.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Failure> {
        match self.object()?.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match T::deserialize(value) {
                Ok(value) => Ok(Some(value)),
                Err(error) => Err(invalid(format!(
                    "the context's \"{key}\" is wrong: {error}"
                ))),
            },
        }
    }

    /// One key as a type; its absence is a failure.
    pub fn require<T: DeserializeOwned>(&self, key: &str) -> Result<T, Failure> {
        self.get(key)?
            .ok_or_else(|| invalid(format!("the context has no \"{key}\"")))
    }

    /// The whole context as a type.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        let object = self.object()?;
        T::deserialize(object).map_err(|error| invalid(format!("the context is wrong: {error}")))
    }

    /// The context as the pieces that it came in, unparsed.
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// The same for every attempt: what to pass on to a payment provider.
    pub fn idempotency_key(&self) -> &str {
        let (key, _) = self
            .command_id
            .rsplit_once('#')
            .unwrap_or((&self.command_id, ""));
        key
    }

    /// Which command: the idempotency key and the attempt.
    pub fn command_id(&self) -> &str {
        &self.command_id
    }

    /// The transaction.
    pub fn transaction_id(&self) -> &str {
        let (transaction, _) = self.command_id.split_once('/').unwrap_or_default();
        transaction
    }

    /// The step.
    pub fn step(&self) -> &str {
        self.command_id.split('/').nth(1).unwrap_or_default()
    }

    /// The worker that runs.
    pub fn worker(&self) -> &str {
        &self.worker
    }

    /// The workflow.
    pub fn workflow(&self) -> &str {
        &self.workflow
    }

    /// Which attempt at the step, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// What is to be undone, and why; None for a step that is done.
    pub fn undo(&self) -> Option<UndoInfo<'_>> {
        self.undo.as_ref().map(UndoInfo)
    }

    /// The W3C `traceparent` of who started the transaction; empty where there was none.
    pub fn trace_parent(&self) -> &str {
        &self.trace_parent
    }

    /// When the handler is stopped.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// How long until the handler is stopped.
    pub fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Cancelled when the command is, at its deadline as well. An async handler is stopped by
    /// itself; a blocking one must look.
    pub fn cancellation(&self) -> &CancellationToken {
        self.told.token()
    }

    /// Whether a blocking handler should stop.
    pub fn is_cancelled(&self) -> bool {
        self.told.is_told()
    }
}

/// What an undo has besides its step's context.
#[derive(Clone, Copy, Debug)]
pub struct UndoInfo<'a>(&'a wire::UndoContext);

impl UndoInfo<'_> {
    /// The step's result as a type; None where the step never came to one.
    pub fn result<T: DeserializeOwned>(&self) -> Result<Option<T>, Failure> {
        if self.0.result_json.is_empty() {
            return Ok(None);
        }
        serde_json::from_slice(&self.0.result_json)
            .map(Some)
            .map_err(|error| invalid(format!("the step's result is wrong: {error}")))
    }

    /// Why the transaction is being undone: kind and message.
    pub fn failure(&self) -> (&str, &str) {
        let failure = self.0.failure.as_ref();
        failure.map_or(("", ""), |failure| (&failure.kind, &failure.message))
    }
}

/// A context that isn't what the handler needs: another attempt would see the same.
fn invalid(message: String) -> Failure {
    Failure::new("ContextInvalid", message).not_retryable()
}

/// The pieces in order, by top-level key; a later one wins.
fn overlay(pieces: &[Bytes]) -> Result<Map<String, Value>, String> {
    let mut object = Map::new();
    for piece in pieces {
        let piece: Map<String, Value> =
            serde_json::from_slice(piece).map_err(|error| error.to_string())?;
        if object.is_empty() {
            object = piece;
        } else {
            object.extend(piece);
        }
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn context(pieces: &[&str]) -> Context {
        let command = wire::Command {
            command_id: "01890a5d-ac96-774b-bcce-b302099a8057/charge/undo#3".into(),
            worker: "payment".into(),
            context_json: pieces
                .iter()
                .map(|piece| Bytes::from((*piece).to_owned()))
                .collect(),
            attempt: 3,
            undo: Some(wire::UndoContext {
                result_json: Bytes::from_static(b"{\"paid\":5}"),
                failure: Some(wire::Failure {
                    kind: "NetworkError".into(),
                    message: "gone".into(),
                    detail: String::new(),
                }),
            }),
            ..Default::default()
        };
        Context::new(command, Instant::now(), Told::default())
    }

    #[test]
    fn a_later_piece_wins_key_by_key_and_a_large_integer_keeps_its_digits() {
        let context = context(&[
            r#"{"data":"x","n":12345678901234567890123,"deep":{"a":1,"b":2}}"#,
            r#"{"data":"y","deep":{"a":3}}"#,
        ]);
        let text = serde_json::to_string(context.object().unwrap()).unwrap();
        assert_eq!(
            text,
            r#"{"data":"y","n":12345678901234567890123,"deep":{"a":3}}"#
        );
    }

    #[test]
    fn a_key_is_read_as_a_type_and_what_does_not_fit_is_a_failure_that_no_retry_mends() {
        let context = context(&[r#"{"count":3,"nothing":null,"text":"x"}"#]);
        assert_eq!(context.get::<u32>("count").unwrap(), Some(3));
        assert_eq!(context.get::<u32>("nothing").unwrap(), None);
        assert_eq!(context.get::<u32>("absent").unwrap(), None);
        for failure in [
            context.get::<u32>("text").unwrap_err(),
            context.require::<u32>("absent").unwrap_err(),
            context.parse::<Vec<u8>>().unwrap_err(),
        ] {
            assert_eq!(failure.kind(), "ContextInvalid");
            assert!(!failure.is_retryable());
        }
        #[derive(serde::Deserialize)]
        struct Typed {
            count: u8,
        }
        assert_eq!(context.parse::<Typed>().unwrap().count, 3);
    }

    #[test]
    fn the_idempotency_key_is_the_same_for_every_attempt() {
        let context = context(&["{}"]);
        assert_eq!(
            context.idempotency_key(),
            "01890a5d-ac96-774b-bcce-b302099a8057/charge/undo"
        );
        assert_eq!(context.step(), "charge");
        assert_eq!(context.attempt(), 3);
    }

    #[test]
    fn a_handler_learns_that_it_was_told_to_stop_whether_it_asked_before_or_not() {
        for asks_before in [false, true] {
            let told = Told::default();
            let context = Context::new(wire::Command::default(), Instant::now(), told.clone());
            let asked = asks_before.then(|| context.cancellation().clone());
            assert!(!context.is_cancelled());
            told.tell();
            assert!(context.is_cancelled());
            assert!(context.cancellation().is_cancelled());
            assert!(asked.is_none_or(|token| token.is_cancelled()));
        }
    }

    #[test]
    fn an_undo_has_the_steps_result_and_the_reason() {
        let context = context(&["{}"]);
        let undo = context.undo().unwrap();
        assert_eq!(undo.result::<Value>().unwrap(), Some(json!({"paid": 5})));
        assert_eq!(undo.failure(), ("NetworkError", "gone"));
    }
}
