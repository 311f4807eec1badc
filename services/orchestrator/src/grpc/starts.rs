//! ExecuteWorkflow: a start in its strict form, and waiting for its end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use proto::convert::{duration_to_us, input_of};
use proto::cursor::Cursor;
use proto::error::{Problem, Reason};
use proto::event::Start;
use proto::id::{TransactionId, WorkflowName, check_name, shown};
use proto::payload::{self, Payload};
use proto::wire;
use proto::workflow::Workflow;
use proto::write::{Output, Rope, message, number};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::render::Shown;
use super::service::{Orchestrator, payload_form, store_problem};
use super::workflows::workflow_name;
use super::written::Written;
use crate::inbox::{Input, LookedUp, StartReply, StartRequest, Started, View, stopping};
use crate::store::{InHand, Row};

/// The contract's limits.
const KEY_BYTES_MAX: usize = 200;
const LABELS_MAX: usize = 32;
const LABEL_BYTES_MAX: usize = 256;

/// A start, checked.
pub(super) struct Checked {
    id: TransactionId,
    workflow: WorkflowName,
    version: u32,
    start: Box<Start>,
    pub(super) wait: Option<Duration>,
    pub(super) form: wire::PayloadForm,
}

impl Checked {
    /// Whether it has an idempotency key.
    pub(super) fn has_key(&self) -> bool {
        !self.start.idempotency_key.is_empty()
    }
}

/// The answer to a start: how its transaction stands.
#[derive(Debug)]
pub(super) struct Executed {
    pub(super) row: Arc<Row>,
    workflow: Option<Arc<Workflow>>,
    cursor: Cursor,
    existing: bool,
    /// None: as in lists.
    form: Option<wire::PayloadForm>,
    /// Where its payloads were read from state.db.
    pub(super) in_hand: Option<InHand>,
}

impl Executed {
    /// Writes an `ExecuteWorkflowResponse`.
    pub(super) fn write(&self, out: &mut impl Output) {
        let shown = Shown {
            row: &self.row,
            workflow: self.workflow.as_deref(),
            cursor: self.cursor,
            form: self.form,
        };
        message(out, 1, |out| self.row.id.write(out));
        message(out, 2, |out| shown.write(out));
        number(out, 3, self.existing.into());
    }
}

impl Written for Executed {
    fn put(self, out: &mut Rope) {
        self.write(out);
    }
}

/// A deadline; none never comes.
async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

impl Orchestrator {
    pub(super) async fn execute(
        &self,
        request: wire::ExecuteWorkflowRequest,
        trace_parent: String,
    ) -> Result<Executed, Problem> {
        let checked = self.check(request, trace_parent)?;
        let (wait, form) = (checked.wait, checked.form);
        let Some(wait) = wait else {
            let started = self.start(checked, false).await?;
            return self.executed(started, None).await;
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
        let started = match started.existing {
            true => self.end_of(started, Some(deadline)).await?,
            false => started,
        };
        self.executed(started, Some(form)).await
    }

    /// The answer to a start, with payloads and steps in a form, or as in lists.
    pub(super) async fn executed(
        &self,
        started: Started,
        form: Option<wire::PayloadForm>,
    ) -> Result<Executed, Problem> {
        if let Some(view) = started.view {
            return Ok(self.shown(view, started.existing, form));
        }
        let (row, in_hand) = match form {
            Some(_) => {
                let (row, in_hand) = self.stored_whole(started.id).await?;
                (row, Some(in_hand))
            }
            None => (self.stored(started.id).await?, None),
        };
        let workflow = self.catalogue.get(&row.workflow, row.carried.start.version);
        Ok(Executed {
            row: Arc::new(row),
            workflow,
            cursor: self.cursor(self.log.bounds().next),
            existing: started.existing,
            form,
            in_hand,
        })
    }

    /// The same, of what the driver has.
    pub(super) fn shown(
        &self,
        view: View,
        existing: bool,
        form: Option<wire::PayloadForm>,
    ) -> Executed {
        Executed {
            row: view.row,
            workflow: Some(view.workflow),
            cursor: self.cursor(view.offset),
            existing,
            form,
            in_hand: None,
        }
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
    pub(super) async fn end_of(
        &self,
        started: Started,
        deadline: Option<Instant>,
    ) -> Result<Started, Problem> {
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
            // Nobody tells of changes any more.
            ended = changes.wait_for(has_ended) => drop(ended.map_err(|_| stopping())?),
            () = passed(deadline) => {}
            () = self.shutdown.cancelled() => return Err(stopping()),
        }
        let view = changes.borrow().clone();
        Ok(Started {
            view: Some(view),
            ..started
        })
    }

    async fn start(&self, checked: Checked, until_end: bool) -> Result<Started, Problem> {
        let looked_up = self.look_up(&checked).await?;
        let (reply, answer) = oneshot::channel();
        self.begin(checked, looked_up, until_end, StartReply::Call(reply))?;
        answer.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Hands a start over.
    pub(super) fn begin(
        &self,
        checked: Checked,
        looked_up: LookedUp,
        until_end: bool,
        reply: StartReply,
    ) -> Result<(), Problem> {
        let Checked {
            id,
            workflow,
            version,
            start,
            ..
        } = checked;
        self.inbox.request(Input::Start(Box::new(StartRequest {
            id,
            workflow,
            version,
            start,
            looked_up,
            until_end,
            reply,
        })))
    }

    /// What state.db knows of a start's key.
    pub(super) async fn look_up(&self, checked: &Checked) -> Result<LookedUp, Problem> {
        // Read first: what state.db takes from here on, the driver still knows.
        let handovers = self.handovers.load(Ordering::Acquire);
        let Some(lookup) = self.lookup.get().filter(|_| checked.has_key()) else {
            return Ok(LookedUp {
                known: None,
                handovers,
            });
        };
        let key = checked.start.idempotency_key.clone();
        let known = lookup
            .by_key(checked.workflow.clone(), key)
            .await
            .map_err(|error| store_problem(&error))?;
        Ok(LookedUp { known, handovers })
    }

    pub(super) fn check(
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
