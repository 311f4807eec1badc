//! ExecuteWorkflow and ExecuteWorkflows: a start in its strict form, and waiting for its end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use proto::convert::{duration_to_us, input_of};
use proto::error::{Problem, Reason, code};
use proto::event::Start;
use proto::id::{TransactionId, WorkflowName, check_name, shown};
use proto::payload::{self, Payload};
use proto::wire;
use proto::wire::execute_workflows_response::Answer;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::service::{Orchestrator, payload_form, store_problem};
use super::workflows::workflow_name;
use crate::inbox::{Input, LookedUp, StartRequest, Started, View, stopping};

/// The contract's limits.
const KEY_BYTES_MAX: usize = 200;
const LABELS_MAX: usize = 32;
const LABEL_BYTES_MAX: usize = 256;
/// Answers that may wait for one stream's client.
const ANSWERS_AHEAD: usize = 256;

/// A start, checked.
struct Checked {
    id: TransactionId,
    workflow: WorkflowName,
    version: u32,
    start: Box<Start>,
    wait: Option<Duration>,
    form: wire::PayloadForm,
}

impl Orchestrator {
    pub(super) async fn execute(
        &self,
        request: wire::ExecuteWorkflowRequest,
        trace_parent: String,
    ) -> Result<wire::ExecuteWorkflowResponse, Problem> {
        let checked = self.check(request, trace_parent)?;
        let (wait, form) = (checked.wait, checked.form);
        let Some(wait) = wait else {
            let started = self.start(checked, false).await?;
            return self.started(started, form, false).await;
        };
        let deadline = Instant::now() + wait;
        let _place = self.place_to_wait()?;
        let id = checked.id;
        let ending = self.start(checked, true);
        let started = tokio::select! {
            biased;
            ended = ending => ended?,
            // The place in the inbox is behind the start's, so the start is durable by then.
            () = tokio::time::sleep_until(deadline) => self.as_it_stands(id).await?,
            () = self.shutdown.cancelled() => return Err(stopping()),
        };
        if !started.existing {
            return self.started(started, form, true).await;
        }
        let started = self.end_of(started, deadline).await?;
        self.started(started, form, true).await
    }

    /// The answer to a start.
    async fn started(
        &self,
        started: Started,
        form: wire::PayloadForm,
        complete: bool,
    ) -> Result<wire::ExecuteWorkflowResponse, Problem> {
        let transaction = match &started.view {
            Some(view) if complete => self.complete(view, form),
            Some(view) => self.listed(view),
            None => {
                let whole = self.complete_stored(started.id, form).await?;
                match complete {
                    true => whole,
                    false => wire::Transaction {
                        input: None,
                        steps: Vec::new(),
                        ..whole
                    },
                }
            }
        };
        Ok(wire::ExecuteWorkflowResponse {
            transaction_id: started.id.to_string(),
            transaction: Some(transaction),
            existing: started.existing,
        })
    }

    async fn as_it_stands(&self, id: TransactionId) -> Result<Started, Problem> {
        let view = self.inbox.ask(|reply| Input::Get { id, reply }).await?;
        Ok(Started {
            id,
            existing: false,
            view,
        })
    }

    /// A transaction that was there already, at its end or as it stands at the deadline.
    async fn end_of(&self, started: Started, deadline: Instant) -> Result<Started, Problem> {
        let has_ended = |view: &View| view.row.ended();
        let Some(view) = &started.view else {
            return Ok(started);
        };
        if has_ended(view) {
            return Ok(started);
        }
        let id = started.id;
        let watched = self.inbox.ask(|reply| Input::Watch { id, reply }).await?;
        let Some(mut changes) = watched else {
            // It has ended meanwhile, and left for state.db.
            return Ok(Started {
                view: None,
                ..started
            });
        };
        tokio::select! {
            biased;
            _ = changes.wait_for(has_ended) => {}
            () = tokio::time::sleep_until(deadline) => {}
            () = self.shutdown.cancelled() => return Err(stopping()),
        }
        let view = changes.borrow().clone();
        Ok(Started {
            view: Some(view),
            ..started
        })
    }

    async fn start(&self, checked: Checked, until_end: bool) -> Result<Started, Problem> {
        let Checked {
            id,
            workflow,
            version,
            start,
            ..
        } = checked;
        let looked_up = self.look_up(&workflow, &start.idempotency_key).await?;
        let (reply, answer) = oneshot::channel();
        self.inbox.request(Input::Start(Box::new(StartRequest {
            id,
            workflow,
            version,
            start,
            looked_up,
            until_end,
            reply,
        })))?;
        answer.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// What state.db knows of a key.
    async fn look_up(&self, workflow: &WorkflowName, key: &str) -> Result<LookedUp, Problem> {
        // Read first: what state.db takes from here on, the driver still knows.
        let handovers = self.handovers.load(Ordering::Acquire);
        let Some(lookup) = self.lookup.get().filter(|_| !key.is_empty()) else {
            return Ok(LookedUp {
                known: None,
                handovers,
            });
        };
        let known = lookup
            .by_key(workflow.clone(), key.to_owned())
            .await
            .map_err(|error| store_problem(&error))?;
        Ok(LookedUp { known, handovers })
    }

    fn check(
        &self,
        request: wire::ExecuteWorkflowRequest,
        trace_parent: String,
    ) -> Result<Checked, Problem> {
        let workflow = workflow_name("workflow", &request.workflow)?;
        let form = payload_form(request.payload_form)?;
        let wait_max = u64::try_from(self.config.waiting.max_wait.as_micros()).unwrap_or(u64::MAX);
        let wait = request
            .wait
            .as_ref()
            .map(|wait| duration_to_us("wait", wait, 0, wait_max).map(Duration::from_micros))
            .transpose()?;
        if request.idempotency_key.len() > KEY_BYTES_MAX {
            return Err(Problem::field(
                Reason::FieldInvalid,
                "idempotency_key",
                format!(
                    "idempotency_key has {} bytes; at most {KEY_BYTES_MAX} are allowed",
                    request.idempotency_key.len()
                ),
            ));
        }
        check_labels(&request)?;
        let bytes_max = usize::try_from(self.config.engine.max_payload_bytes.0).unwrap_or(1 << 20);
        let input = input_of(request.payload, bytes_max)?;
        let input_hash = match request.idempotency_key.is_empty() {
            true => Bytes::new(),
            false => hash(&input, request.version, &request.labels),
        };
        Ok(Checked {
            id: self.ids.draw(),
            workflow,
            version: request.version,
            start: Box::new(Start {
                version: request.version,
                input: Payload::Held(input),
                idempotency_key: request.idempotency_key,
                input_hash,
                labels: request.labels,
                trace_parent,
            }),
            wait,
            form,
        })
    }

    /// Starts of a stream, each answered for itself, in the order in which things happen.
    pub(super) fn execute_many(
        &self,
        mut requests: Streaming<wire::ExecuteWorkflowsRequest>,
        trace_parent: String,
    ) -> ReceiverStream<Result<wire::ExecuteWorkflowsResponse, Status>> {
        let (answers, stream) = mpsc::channel(ANSWERS_AHEAD);
        let this = self.clone();
        tokio::spawn(async move {
            let places = Arc::new(Semaphore::new(this.config.waiting.stream_starts_max));
            loop {
                let message = tokio::select! {
                    message = requests.message() => message,
                    () = this.shutdown.cancelled() => Err(stopping().into()),
                };
                let request = match message {
                    Ok(Some(request)) => request,
                    Ok(None) => return,
                    Err(status) => {
                        // Who went away needs no last word.
                        let _ = answers.send(Err(status)).await;
                        return;
                    }
                };
                let Ok(place) = places.clone().acquire_owned().await else {
                    return;
                };
                let (this, answers) = (this.clone(), answers.clone());
                let trace_parent = trace_parent.clone();
                tokio::spawn(async move {
                    this.execute_one(request, trace_parent, &answers).await;
                    drop(place);
                });
            }
        });
        ReceiverStream::new(stream)
    }

    async fn execute_one(
        &self,
        request: wire::ExecuteWorkflowsRequest,
        trace_parent: String,
        answers: &mpsc::Sender<Result<wire::ExecuteWorkflowsResponse, Status>>,
    ) {
        let request_id = request.request_id;
        let say = |answer| {
            let message = wire::ExecuteWorkflowsResponse {
                request_id,
                answer: Some(answer),
            };
            answers.send(Ok(message))
        };
        let done = async {
            let start = request.start.ok_or_else(|| Problem::missing("start"))?;
            let checked = self.check(start, trace_parent)?;
            let (wait, form) = (checked.wait, checked.form);
            let _place = wait.map(|_| self.place_to_wait()).transpose()?;
            let started = self.start(checked, false).await?;
            let first = self.started(started.clone(), form, false).await?;
            if say(Answer::Started(first)).await.is_err() || wait.is_none() {
                return Ok(());
            }
            // A wait of any length asks for the end.
            let for_ever = Instant::now() + Duration::from_secs(86_400 * 365);
            let ended = self.end_of(started, for_ever).await?;
            let last = self.started(ended, form, true).await?;
            // Who went away doesn't mind.
            let _ = say(Answer::Ended(last)).await;
            Ok(())
        };
        let done: Result<(), Problem> = done.await;
        if let Err(problem) = done {
            let refused = wire::ExecuteRefused {
                code: code(problem.reason).into(),
                reason: problem.reason_word().to_owned(),
                message: problem.message,
            };
            let _ = say(Answer::Refused(refused)).await;
        }
    }
}

fn check_labels(request: &wire::ExecuteWorkflowRequest) -> Result<(), Problem> {
    if request.labels.len() > LABELS_MAX {
        return Err(Problem::field(
            Reason::FieldInvalid,
            "labels",
            format!(
                "labels has {} entries; at most {LABELS_MAX} are allowed",
                request.labels.len()
            ),
        ));
    }
    for (key, value) in &request.labels {
        check_name("labels", key)?;
        if value.len() > LABEL_BYTES_MAX {
            return Err(Problem::field(
                Reason::FieldInvalid,
                "labels",
                format!(
                    "labels[\"{}\"] has {} bytes; at most {LABEL_BYTES_MAX} are allowed",
                    shown(key, 64),
                    value.len()
                ),
            ));
        }
    }
    Ok(())
}

/// What tells one start from another under the same key: the input in canonical form, so that Struct
/// and bytes of one object agree, the version as asked for, and the labels.
fn hash(input: &[u8], version: u32, labels: &std::collections::BTreeMap<String, String>) -> Bytes {
    let mut hasher = blake3::Hasher::new();
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    part(&payload::canonical(input));
    part(&version.to_le_bytes());
    for (key, value) in labels {
        part(key.as_bytes());
        part(value.as_bytes());
    }
    Bytes::copy_from_slice(hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_hash_sees_through_the_order_of_keys_and_nothing_else() {
        let none = BTreeMap::new();
        let one = hash(br#"{"a":1,"b":{"x":2,"y":3}}"#, 0, &none);
        assert_eq!(one, hash(br#" {"b":{"y":3,"x":2}, "a":1}"#, 0, &none));
        assert_ne!(one, hash(br#"{"a":1.0,"b":{"x":2,"y":3}}"#, 0, &none));
        assert_ne!(one, hash(br#"{"a":1,"b":{"x":2,"y":3}}"#, 1, &none));
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        assert_ne!(one, hash(br#"{"a":1,"b":{"x":2,"y":3}}"#, 0, &labels));
    }
}
