//! A batch of events as bytes: the form of disk and of EventLogService.
//!
//! The encoder writes what `event.proto` says, by hand where events are frequent, since generated
//! structs own a String for every field; the tests hold it against the generated code. Payloads go
//! to a section of their own, in the order of their events.

mod carried;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use crate::convert;
use crate::event::{
    Cancel, Command, CommandEvent, Event, HostEvent, Kind, Start, Timing, TransactionEvent,
};
use crate::id::{HostId, StepName, Time, TransactionId, WorkerName, WorkflowName, check_name};
use crate::payload::Payload;
use crate::wire;
use crate::wire::event_record::Kind as Record;
use crate::workflow::Workflow;

/// An event at its place in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Its offset.
    pub offset: u64,
    /// The event.
    pub event: Event,
}

/// Fills one batch after the other; its buffers are used again.
#[derive(Debug, Default)]
pub struct Encoder {
    count: u32,
    base: Time,
    names: Vec<Arc<str>>,
    name_places: HashMap<Arc<str>, u32>,
    transactions: Vec<(TransactionId, u32)>,
    transaction_places: HashMap<TransactionId, u32>,
    records: Vec<u8>,
    payloads: Vec<u8>,
    record: Vec<u8>,
    out: Vec<u8>,
}

impl Encoder {
    /// How many events the batch has so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// How large it is so far, about.
    pub fn size(&self) -> usize {
        self.records.len() + self.payloads.len() + 24 * self.transactions.len()
    }

    /// The time of its first event.
    pub fn time(&self) -> Time {
        self.base
    }

    /// Adds an event. Times must not fall within a batch; an earlier one is taken as the first's.
    pub fn push(&mut self, event: &Event) {
        if self.count == 0 {
            self.base = event.time;
        }
        self.count += 1;
        self.record.clear();
        varint_field(&mut self.record, 1, event.time.since_us(self.base));
        match &event.kind {
            Kind::Transaction { id, workflow, what } => {
                let transaction = self.transaction(*id, workflow);
                varint_field(&mut self.record, 2, transaction);
                match what {
                    TransactionEvent::Started(start) => {
                        let started = started_to_wire(start);
                        let length = started.encoded_len();
                        length_field(&mut self.record, 14, length);
                        // Encoding into a Vec can't run out of room.
                        started.encode_raw(&mut self.record);
                    }
                    TransactionEvent::Completed { failed_steps } if failed_steps.is_empty() => {
                        length_field(&mut self.record, 15, 0);
                    }
                    _ => record_kind(event).encode(&mut self.record),
                }
            }
            Kind::Command {
                id,
                workflow,
                command,
                what,
            } => {
                self.push_command(*id, workflow, command, what, event);
            }
            Kind::Host { host, .. } | Kind::ResultRefused { host, .. } => {
                let host = self.name(host.arc());
                varint_field(&mut self.record, 5, host);
                record_kind(event).encode(&mut self.record);
            }
            Kind::SystemSampled { host, .. } => {
                if let Some(host) = host {
                    let host = self.name(host.arc());
                    varint_field(&mut self.record, 5, host);
                }
                record_kind(event).encode(&mut self.record);
            }
            Kind::OrchestratorStarted { .. } | Kind::WorkflowRegistered(_) => {
                record_kind(event).encode(&mut self.record);
            }
        }
        length_field(&mut self.records, 5, self.record.len());
        self.records.extend_from_slice(&self.record);
        event.for_each_payload(|payload| {
            if let Payload::Held(bytes) = payload {
                self.payloads.extend_from_slice(bytes);
            }
        });
    }

    fn push_command(
        &mut self,
        id: TransactionId,
        workflow: &WorkflowName,
        command: &Command,
        what: &CommandEvent,
        event: &Event,
    ) {
        let transaction = self.transaction(id, workflow);
        let step = self.name(command.step.arc());
        let worker = self.name(command.worker.arc());
        let host = command.host.as_ref().map(|host| self.name(host.arc()));
        let record = &mut self.record;
        varint_field(record, 2, transaction);
        varint_field(record, 3, step);
        varint_field(record, 4, worker);
        varint_field(record, 5, host.unwrap_or_default());
        varint_field(record, 6, command.attempt.into());
        if let Some(timing) = convert::timing(what) {
            varint_field(record, 7, timing.wait_us);
            varint_field(record, 8, timing.run_us);
        }
        varint_field(record, 16, command.undo.into());
        match what {
            CommandEvent::Queued { delay_us } => only_varint(record, 9, *delay_us),
            CommandEvent::Dispatched => length_field(record, 10, 0),
            CommandEvent::PickedUp => length_field(record, 11, 0),
            CommandEvent::Processing => length_field(record, 12, 0),
            CommandEvent::Completed { result, .. } => only_varint(record, 13, result.size()),
            CommandEvent::Failed { .. }
            | CommandEvent::TimedOut { .. }
            | CommandEvent::Lost { .. }
            | CommandEvent::Cancelled { .. } => record_kind(event).encode(record),
        }
    }

    /// Ends the batch: the events' bytes and the payloads' bytes. The next push begins another.
    pub fn finish(&mut self, first_offset: u64) -> (&[u8], &[u8]) {
        let out = &mut self.out;
        out.clear();
        varint_field(out, 1, first_offset);
        varint_field(out, 2, self.base.0 as u64);
        for name in &self.names {
            length_field(out, 3, name.len());
            out.extend_from_slice(name.as_bytes());
        }
        for (id, workflow) in &self.transactions {
            let length = 18 + key_len(2) + encoded_len_varint((*workflow).into());
            length_field(out, 4, length);
            length_field(out, 1, 16);
            out.extend_from_slice(&id.0);
            varint_field(out, 2, (*workflow).into());
        }
        out.extend_from_slice(&self.records);
        (&self.out, &self.payloads)
    }

    /// Forgets the batch; its buffers stay.
    pub fn clear(&mut self) {
        self.count = 0;
        self.names.clear();
        self.name_places.clear();
        self.transactions.clear();
        self.transaction_places.clear();
        self.records.clear();
        self.payloads.clear();
        // One huge batch must not hold its room for ever.
        for buffer in [&mut self.records, &mut self.payloads, &mut self.out] {
            if buffer.capacity() > 8 << 20 {
                *buffer = Vec::new();
            }
        }
    }

    fn name(&mut self, name: &Arc<str>) -> u64 {
        if let Some(place) = self.name_places.get(name) {
            return u64::from(*place);
        }
        self.names.push(name.clone());
        let place = self.names.len() as u32;
        self.name_places.insert(name.clone(), place);
        place.into()
    }

    fn transaction(&mut self, id: TransactionId, workflow: &WorkflowName) -> u64 {
        if let Some(place) = self.transaction_places.get(&id) {
            return u64::from(*place);
        }
        let workflow = self.name(workflow.arc()) as u32;
        self.transactions.push((id, workflow));
        let place = self.transactions.len() as u32;
        self.transaction_places.insert(id, place);
        place.into()
    }
}

fn varint_field(out: &mut Vec<u8>, tag: u32, value: u64) {
    if value != 0 {
        encode_key(tag, WireType::Varint, out);
        encode_varint(value, out);
    }
}

fn length_field(out: &mut Vec<u8>, tag: u32, length: usize) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(length as u64, out);
}

/// A message whose only field is number 1, a varint.
fn only_varint(out: &mut Vec<u8>, tag: u32, value: u64) {
    let length = if value == 0 {
        0
    } else {
        1 + encoded_len_varint(value)
    };
    length_field(out, tag, length);
    varint_field(out, 1, value);
}

fn started_to_wire(start: &Start) -> wire::TransactionStarted {
    wire::TransactionStarted {
        version: start.version,
        input_bytes: start.input.size(),
        idempotency_key: start.idempotency_key.clone(),
        input_hash: start.input_hash.clone(),
        labels: start.labels.clone(),
        trace_parent: start.trace_parent.clone(),
    }
}

fn cancel_to_wire(cancel: &Cancel) -> wire::CancelRequested {
    wire::CancelRequested {
        reason: cancel.reason.clone(),
        skip_compensation: cancel.skip_compensation,
    }
}

/// What is particular to an event's type, as the generated code has it.
pub fn record_kind(event: &Event) -> Record {
    match &event.kind {
        Kind::OrchestratorStarted { version, epoch } => {
            Record::OrchestratorStarted(wire::OrchestratorStarted {
                version: version.clone(),
                epoch: *epoch,
            })
        }
        Kind::WorkflowRegistered(workflow) => {
            Record::WorkflowRegistered(wire::WorkflowRegistered {
                workflow: Some(workflow.to_wire()),
            })
        }
        Kind::Transaction { what, .. } => transaction_kind(what),
        Kind::Command { what, .. } => command_kind(what),
        Kind::Host { what, .. } => convert::host_kind(what),
        Kind::ResultRefused {
            reason, command_id, ..
        } => Record::ResultRefused(wire::ResultRefused {
            reason: reason.clone(),
            command_id: command_id.clone(),
        }),
        Kind::SystemSampled { sample, .. } => Record::SystemSampled(wire::SystemSampled {
            sample: Some((**sample).clone()),
        }),
    }
}

fn transaction_kind(what: &TransactionEvent) -> Record {
    let text = |step: &Option<StepName>| step.as_ref().map(ToString::to_string).unwrap_or_default();
    match what {
        TransactionEvent::Started(start) => Record::TransactionStarted(started_to_wire(start)),
        TransactionEvent::Completed { failed_steps } => {
            Record::TransactionCompleted(wire::TransactionCompleted {
                failed_steps: failed_steps.iter().map(ToString::to_string).collect(),
            })
        }
        TransactionEvent::Failed {
            failure,
            failed_step,
            compensation_failed,
        } => Record::TransactionFailed(wire::TransactionFailed {
            failure: Some(failure.clone().into()),
            failed_step: text(failed_step),
            compensation_failed: *compensation_failed,
        }),
        TransactionEvent::CancelRequested(cancel) => {
            Record::CancelRequested(cancel_to_wire(cancel))
        }
        TransactionEvent::Cancelled => Record::TransactionCancelled(wire::TransactionCancelled {}),
        TransactionEvent::CompensationStarted {
            failure,
            failed_step,
        } => Record::CompensationStarted(wire::CompensationStarted {
            failure: Some(failure.clone().into()),
            failed_step: text(failed_step),
        }),
        TransactionEvent::Compensated => {
            Record::TransactionCompensated(wire::TransactionCompensated {})
        }
        TransactionEvent::Carried(carried) => Record::TransactionCarried(carried::to_wire(carried)),
    }
}

fn command_kind(what: &CommandEvent) -> Record {
    match what {
        CommandEvent::Queued { delay_us } => Record::CommandQueued(wire::CommandQueued {
            delay_us: *delay_us,
        }),
        CommandEvent::Dispatched => Record::CommandDispatched(wire::CommandDispatched {}),
        CommandEvent::PickedUp => Record::CommandPickedUp(wire::CommandPickedUp {}),
        CommandEvent::Processing => Record::CommandProcessing(wire::CommandProcessing {}),
        CommandEvent::Completed { result, .. } => {
            Record::CommandCompleted(wire::CommandCompleted {
                result_bytes: result.size(),
            })
        }
        CommandEvent::Failed {
            failure, retried, ..
        } => Record::CommandFailed(wire::CommandFailed {
            failure: Some(failure.clone().into()),
            retried: *retried,
        }),
        CommandEvent::TimedOut { retried, .. } => {
            Record::CommandTimedOut(wire::CommandTimedOut { retried: *retried })
        }
        CommandEvent::Lost { failure, .. } => Record::CommandLost(wire::CommandLost {
            retried: failure.is_none(),
            failure: failure.clone().map(Into::into),
        }),
        CommandEvent::Cancelled { .. } => Record::CommandCancelled(wire::CommandCancelled {}),
    }
}

/// Why a batch's bytes are not events.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the batch at offset {offset} can't be read as events: {what}")]
pub struct Malformed {
    /// The offset of the batch, or of the event in it.
    pub offset: u64,
    /// What is wrong.
    pub what: String,
}

/// A batch, read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decoded {
    /// The events of known types, in order.
    pub events: Vec<Stored>,
    /// The offsets of events of a type that this program doesn't know.
    pub unknown: Vec<u64>,
}

/// Reads a batch. `payloads` is the batch's payload section; without it payloads are absent.
pub fn decode(events: &[u8], payloads: Option<&Bytes>) -> Result<Decoded, Malformed> {
    let batch = wire::EventBatch::decode(events).map_err(|error| Malformed {
        offset: 0,
        what: error.to_string(),
    })?;
    decode_batch(batch, payloads)
}

/// Reads a batch that was parsed already.
pub fn decode_batch(
    batch: wire::EventBatch,
    payloads: Option<&Bytes>,
) -> Result<Decoded, Malformed> {
    let first_offset = batch.first_offset;
    let malformed = |what: &str| Malformed {
        offset: first_offset,
        what: what.to_owned(),
    };
    let mut names = Vec::with_capacity(batch.names.len());
    for name in batch.names {
        check_name("name", &name).map_err(|problem| malformed(&problem.message))?;
        names.push(Arc::<str>::from(name));
    }
    let mut reader = Reader {
        names,
        transactions: Vec::new(),
        payloads,
        position: 0,
    };
    for transaction in &batch.transactions {
        let id = TransactionId::from_bytes(&transaction.transaction_id)
            .ok_or_else(|| malformed("a transaction's id has not 16 bytes"))?;
        let workflow = reader
            .name(transaction.workflow)
            .ok_or_else(|| malformed("a transaction's workflow is missing"))?;
        reader
            .transactions
            .push((id, WorkflowName::trusted(workflow)));
    }
    let mut decoded = Decoded {
        events: Vec::with_capacity(batch.events.len()),
        unknown: Vec::new(),
    };
    for (offset, record) in (first_offset..).zip(batch.events) {
        let time = Time(batch.time_us).after_us(record.after_us);
        match record.kind.clone() {
            None => decoded.unknown.push(offset),
            Some(kind) => {
                let kind = reader
                    .kind(&record, kind)
                    .map_err(|what| Malformed { offset, what })?;
                decoded.events.push(Stored {
                    offset,
                    event: Event { time, kind },
                });
            }
        }
    }
    Ok(decoded)
}

struct Reader<'a> {
    names: Vec<Arc<str>>,
    transactions: Vec<(TransactionId, WorkflowName)>,
    payloads: Option<&'a Bytes>,
    position: u64,
}

impl Reader<'_> {
    fn name(&self, index: u32) -> Option<Arc<str>> {
        self.names.get((index as usize).checked_sub(1)?).cloned()
    }

    fn kind(&mut self, record: &wire::EventRecord, kind: Record) -> Result<Kind, String> {
        let host = self.name(record.host).map(HostId::trusted);
        let named_host = host.clone().ok_or_else(|| "its host is missing".to_owned());
        let step = |text: &str| {
            if text.is_empty() {
                None
            } else {
                StepName::parse(text).ok()
            }
        };
        let failure = |failure: Option<wire::Failure>| failure.unwrap_or_default().into();
        Ok(match kind {
            Record::OrchestratorStarted(what) => Kind::OrchestratorStarted {
                version: what.version,
                epoch: what.epoch,
            },
            Record::WorkflowRegistered(what) => {
                let workflow = Workflow::check(&what.workflow.unwrap_or_default())
                    .map_err(|problem| problem.message)?;
                Kind::WorkflowRegistered(Arc::new(workflow))
            }
            Record::TransactionStarted(what) => {
                let input = self.payload(what.input_bytes)?;
                let start = started_from_wire(what, input);
                self.transaction_of(record, TransactionEvent::Started(Box::new(start)))?
            }
            Record::TransactionCompleted(what) => self.transaction_of(
                record,
                TransactionEvent::Completed {
                    failed_steps: what
                        .failed_steps
                        .iter()
                        .filter_map(|text| step(text))
                        .collect(),
                },
            )?,
            Record::TransactionFailed(what) => self.transaction_of(
                record,
                TransactionEvent::Failed {
                    failure: failure(what.failure),
                    failed_step: step(&what.failed_step),
                    compensation_failed: what.compensation_failed,
                },
            )?,
            Record::CancelRequested(what) => self.transaction_of(
                record,
                TransactionEvent::CancelRequested(Cancel {
                    reason: what.reason,
                    skip_compensation: what.skip_compensation,
                }),
            )?,
            Record::TransactionCancelled(_) => {
                self.transaction_of(record, TransactionEvent::Cancelled)?
            }
            Record::CompensationStarted(what) => self.transaction_of(
                record,
                TransactionEvent::CompensationStarted {
                    failure: failure(what.failure),
                    failed_step: step(&what.failed_step),
                },
            )?,
            Record::TransactionCompensated(_) => {
                self.transaction_of(record, TransactionEvent::Compensated)?
            }
            Record::TransactionCarried(what) => {
                let carried = carried::from_wire(what, &mut |size| self.payload(size))?;
                self.transaction_of(record, TransactionEvent::Carried(Box::new(carried)))?
            }
            Record::HostConnected(what) => Kind::Host {
                host: named_host?,
                what: HostEvent::Connected {
                    workers: what
                        .workers
                        .iter()
                        .filter_map(|offer| {
                            Some((WorkerName::parse(&offer.worker).ok()?, offer.slots))
                        })
                        .collect(),
                    machine: what.machine,
                    version: what.version,
                    lease_us: what.lease_us,
                },
            },
            Record::HostDisconnected(what) => Kind::Host {
                host: named_host?,
                what: HostEvent::Disconnected {
                    drained: what.drained,
                },
            },
            Record::HostLost(_) => Kind::Host {
                host: named_host?,
                what: HostEvent::Lost,
            },
            Record::HostDraining(_) => Kind::Host {
                host: named_host?,
                what: HostEvent::Draining,
            },
            Record::ResultRefused(what) => Kind::ResultRefused {
                host: named_host?,
                reason: what.reason,
                command_id: what.command_id,
            },
            Record::SystemSampled(what) => Kind::SystemSampled {
                host,
                sample: Box::new(what.sample.unwrap_or_default()),
            },
            command => {
                let what = self.command_event(record, command)?;
                self.command_of(record, what)?
            }
        })
    }

    fn command_event(
        &mut self,
        record: &wire::EventRecord,
        kind: Record,
    ) -> Result<CommandEvent, String> {
        let timing = Timing {
            wait_us: record.wait_us,
            run_us: record.run_us,
        };
        Ok(match kind {
            Record::CommandQueued(what) => CommandEvent::Queued {
                delay_us: what.delay_us,
            },
            Record::CommandDispatched(_) => CommandEvent::Dispatched,
            Record::CommandPickedUp(_) => CommandEvent::PickedUp,
            Record::CommandProcessing(_) => CommandEvent::Processing,
            Record::CommandCompleted(what) => CommandEvent::Completed {
                result: self.payload(what.result_bytes)?,
                timing,
            },
            Record::CommandFailed(what) => CommandEvent::Failed {
                failure: what.failure.unwrap_or_default().into(),
                retried: what.retried,
                timing,
            },
            Record::CommandTimedOut(what) => CommandEvent::TimedOut {
                retried: what.retried,
                timing,
            },
            Record::CommandLost(what) => CommandEvent::Lost {
                failure: (!what.retried).then(|| what.failure.unwrap_or_default().into()),
                timing,
            },
            Record::CommandCancelled(_) => CommandEvent::Cancelled { timing },
            Record::OrchestratorStarted(_)
            | Record::WorkflowRegistered(_)
            | Record::TransactionStarted(_)
            | Record::TransactionCompleted(_)
            | Record::TransactionFailed(_)
            | Record::CancelRequested(_)
            | Record::TransactionCancelled(_)
            | Record::CompensationStarted(_)
            | Record::TransactionCompensated(_)
            | Record::TransactionCarried(_)
            | Record::ResultRefused(_)
            | Record::HostConnected(_)
            | Record::HostDisconnected(_)
            | Record::HostLost(_)
            | Record::HostDraining(_)
            | Record::SystemSampled(_) => return Err("it is no event of a command".to_owned()),
        })
    }

    fn transaction_of(
        &self,
        record: &wire::EventRecord,
        what: TransactionEvent,
    ) -> Result<Kind, String> {
        let (id, workflow) = self.subject(record)?;
        Ok(Kind::Transaction { id, workflow, what })
    }

    fn command_of(&self, record: &wire::EventRecord, what: CommandEvent) -> Result<Kind, String> {
        let (id, workflow) = self.subject(record)?;
        let command = Command {
            step: self
                .name(record.step)
                .map(StepName::trusted)
                .ok_or("its step is missing")?,
            worker: self
                .name(record.worker)
                .map(WorkerName::trusted)
                .ok_or("its worker is missing")?,
            attempt: record.attempt,
            undo: record.undo,
            host: self.name(record.host).map(HostId::trusted),
        };
        Ok(Kind::Command {
            id,
            workflow,
            command,
            what,
        })
    }

    fn subject(&self, record: &wire::EventRecord) -> Result<(TransactionId, WorkflowName), String> {
        (record.transaction as usize)
            .checked_sub(1)
            .and_then(|index| self.transactions.get(index))
            .cloned()
            .ok_or_else(|| "its transaction is missing".to_owned())
    }

    /// The next payload of the section.
    fn payload(&mut self, size: u64) -> Result<Payload, String> {
        let Some(section) = self.payloads else {
            return Ok(Payload::Absent(size));
        };
        let end = self
            .position
            .checked_add(size)
            .filter(|end| *end <= section.len() as u64)
            .ok_or("its payload is missing")?;
        let bytes = section.slice(self.position as usize..end as usize);
        self.position = end;
        Ok(Payload::Held(bytes))
    }
}

fn started_from_wire(what: wire::TransactionStarted, input: Payload) -> Start {
    Start {
        version: what.version,
        input,
        idempotency_key: what.idempotency_key,
        input_hash: what.input_hash,
        labels: what.labels,
        trace_parent: what.trace_parent,
    }
}

#[cfg(test)]
mod tests;
