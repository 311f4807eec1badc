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
    for (offset, mut record) in (first_offset..).zip(batch.events) {
        let time = Time(batch.time_us).after_us(record.after_us);
        match record.kind.take() {
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
            | Record::HostQuarantined(_)
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
