//! A stored batch, read: bytes to strict events. An event of an unknown type is reported, never
//! dropped silently.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use super::Stored;
use super::carried;
use super::kinds::started_from_wire;
use crate::event::{
    Cancel, Command, CommandEvent, Event, HostEvent, Kind, Timing, TransactionEvent,
};
use crate::id::{HostId, StepName, Time, TransactionId, WorkerName, WorkflowName, check_name};
use crate::payload::Payload;
use crate::read::{self, Fields, Value};
use crate::wire;
use crate::wire::event_record::Kind as Record;
use crate::workflow::Workflow;

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

/// Where a batch's events begin, and how many there are; they themselves are not looked at.
pub fn extent(batch: &[u8]) -> Result<(u64, u64), Malformed> {
    let (mut first_offset, mut count) = (0, 0);
    for field in Fields::of(batch) {
        match field.map_err(|what| Malformed { offset: 0, what })? {
            (1, Value::Number(offset)) => first_offset = offset,
            (5, Value::Bytes(_)) => count += 1,
            _ => {}
        }
    }
    Ok((first_offset, count))
}

/// Reads a batch. `payloads` is the batch's payload section; without it payloads are absent.
pub fn decode(batch: &[u8], payloads: Option<&Bytes>) -> Result<Decoded, Malformed> {
    let (mut first_offset, mut time) = (0, Time::default());
    let (mut names, mut transactions, mut records) = (Vec::new(), Vec::new(), Vec::new());
    for field in Fields::of(batch) {
        let malformed = |what| Malformed {
            offset: first_offset,
            what,
        };
        match field.map_err(malformed)? {
            (1, Value::Number(offset)) => first_offset = offset,
            (2, Value::Number(micros)) => time = Time(micros.cast_signed()),
            (3, Value::Bytes(text)) => names.push(name(text).map_err(malformed)?),
            (4, Value::Bytes(named)) => transactions.push(named),
            (5, Value::Bytes(record)) => records.push(record),
            _ => {}
        }
    }
    let mut reader = Reader {
        time,
        names,
        transactions: Vec::with_capacity(transactions.len()),
        payloads,
        position: 0,
    };
    for named in transactions {
        let read = reader.transaction(named).map_err(|what| Malformed {
            offset: first_offset,
            what,
        })?;
        reader.transactions.push(read);
    }
    let mut decoded = Decoded {
        events: Vec::with_capacity(records.len()),
        unknown: Vec::new(),
    };
    for (offset, record) in (first_offset..).zip(records) {
        let event = reader.event(record);
        match event.map_err(|what| Malformed { offset, what })? {
            None => decoded.unknown.push(offset),
            Some(event) => decoded.events.push(Stored { offset, event }),
        }
    }
    Ok(decoded)
}

fn name(text: &[u8]) -> Result<Arc<str>, String> {
    let text = std::str::from_utf8(text).map_err(|error| error.to_string())?;
    check_name("name", text).map_err(|problem| problem.message)?;
    Ok(text.into())
}

/// An event as it stands in a batch, see `EventRecord` in `event.proto`: what is not particular to its
/// type, and that too where it is one of the frequent ones.
#[derive(Default)]
struct Lean<'a> {
    after_us: u64,
    transaction: u64,
    step: u64,
    worker: u64,
    host: u64,
    attempt: u64,
    wait_us: u64,
    run_us: u64,
    undo: bool,
    /// Its type's tag and message.
    frequent: Option<(u32, &'a [u8])>,
}

impl<'a> Lean<'a> {
    fn read(record: &'a [u8]) -> Result<Self, String> {
        let mut lean = Self::default();
        for field in Fields::of(record) {
            match field? {
                (1, Value::Number(number)) => lean.after_us = number,
                (2, Value::Number(number)) => lean.transaction = number,
                (3, Value::Number(number)) => lean.step = number,
                (4, Value::Number(number)) => lean.worker = number,
                (5, Value::Number(number)) => lean.host = number,
                (6, Value::Number(number)) => lean.attempt = number,
                (7, Value::Number(number)) => lean.wait_us = number,
                (8, Value::Number(number)) => lean.run_us = number,
                (16, Value::Number(number)) => lean.undo = number != 0,
                (tag @ (9..=13 | 15), Value::Bytes(message)) => {
                    lean.frequent = Some((tag, message));
                }
                _ => {}
            }
        }
        Ok(lean)
    }

    fn timing(&self) -> Timing {
        Timing {
            wait_us: self.wait_us,
            run_us: self.run_us,
        }
    }
}

struct Reader<'a> {
    /// The batch's.
    time: Time,
    names: Vec<Arc<str>>,
    transactions: Vec<(TransactionId, WorkflowName)>,
    payloads: Option<&'a Bytes>,
    position: u64,
}

impl Reader<'_> {
    /// What a `TransactionRef` says.
    fn transaction(&self, named: &[u8]) -> Result<(TransactionId, WorkflowName), String> {
        let (mut id, mut workflow) = (None, 0);
        for field in Fields::of(named) {
            match field? {
                (1, Value::Bytes(bytes)) => id = TransactionId::from_bytes(bytes),
                (2, Value::Number(index)) => workflow = index,
                _ => {}
            }
        }
        let id = id.ok_or("a transaction's id has not 16 bytes")?;
        let workflow = self.name(workflow);
        let workflow = workflow.ok_or("a transaction's workflow is missing")?;
        Ok((id, WorkflowName::trusted(workflow)))
    }

    fn name(&self, index: u64) -> Option<Arc<str>> {
        let index = usize::try_from(index).ok()?.checked_sub(1)?;
        self.names.get(index).cloned()
    }

    /// An event; none where this program doesn't know its type.
    fn event(&mut self, record: &[u8]) -> Result<Option<Event>, String> {
        let lean = Lean::read(record)?;
        let kind = match lean.frequent {
            Some((15, [])) => {
                let failed_steps = Vec::new();
                self.transaction_of(&lean, TransactionEvent::Completed { failed_steps })?
            }
            Some((9, message)) => {
                let delay_us = read::number(message, 1)?;
                self.command_of(&lean, CommandEvent::Queued { delay_us })?
            }
            Some((10, _)) => self.command_of(&lean, CommandEvent::Dispatched)?,
            Some((11, _)) => self.command_of(&lean, CommandEvent::PickedUp)?,
            Some((12, _)) => self.command_of(&lean, CommandEvent::Processing)?,
            Some((13, message)) => {
                let result = self.payload(read::number(message, 1)?)?;
                let timing = lean.timing();
                self.command_of(&lean, CommandEvent::Completed { result, timing })?
            }
            _ => {
                let record = wire::EventRecord::decode(record);
                match record.map_err(|error| error.to_string())?.kind {
                    None => return Ok(None),
                    Some(kind) => self.kind(&lean, kind)?,
                }
            }
        };
        let time = self.time.after_us(lean.after_us);
        Ok(Some(Event { time, kind }))
    }

    fn kind(&mut self, record: &Lean<'_>, kind: Record) -> Result<Kind, String> {
        let host = self.name(record.host).map(HostId::trusted);
        let named_host = || host.clone().ok_or_else(|| "its host is missing".to_owned());
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
                host: named_host()?,
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
                    carried: what.carried,
                },
            },
            Record::HostDisconnected(what) => Kind::Host {
                host: named_host()?,
                what: HostEvent::Disconnected {
                    drained: what.drained,
                },
            },
            Record::HostLost(_) => Kind::Host {
                host: named_host()?,
                what: HostEvent::Lost,
            },
            Record::HostDraining(_) => Kind::Host {
                host: named_host()?,
                what: HostEvent::Draining,
            },
            Record::HostQuarantined(what) => Kind::Host {
                host: named_host()?,
                what: HostEvent::Quarantined {
                    hold_us: what.hold_us,
                    losses: what.losses,
                },
            },
            Record::ResultRefused(what) => Kind::ResultRefused {
                host: named_host()?,
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

    fn command_event(&mut self, record: &Lean<'_>, kind: Record) -> Result<CommandEvent, String> {
        let timing = record.timing();
        Ok(match kind {
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
            // The frequent ones were taken before.
            Record::CommandQueued(_)
            | Record::CommandDispatched(_)
            | Record::CommandPickedUp(_)
            | Record::CommandProcessing(_)
            | Record::CommandCompleted(_)
            | Record::OrchestratorStarted(_)
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
            | Record::HostQuarantined(_)
            | Record::SystemSampled(_) => return Err("it has two types".to_owned()),
        })
    }

    fn transaction_of(&self, record: &Lean<'_>, what: TransactionEvent) -> Result<Kind, String> {
        let (id, workflow) = self.subject(record)?;
        Ok(Kind::Transaction { id, workflow, what })
    }

    fn command_of(&self, record: &Lean<'_>, what: CommandEvent) -> Result<Kind, String> {
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
            attempt: u32::try_from(record.attempt).unwrap_or(u32::MAX),
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

    fn subject(&self, record: &Lean<'_>) -> Result<(TransactionId, WorkflowName), String> {
        usize::try_from(record.transaction)
            .ok()
            .and_then(|index| self.transactions.get(index.checked_sub(1)?))
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
