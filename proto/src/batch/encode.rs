//! A batch being filled: strict events to bytes. It must write exactly what `event.proto` says; the
//! tests hold it against the generated code.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use prost::encoding::{encoded_len_varint, key_len};

use super::carried;
use super::kinds::record_kind;
use crate::convert;
use crate::event::{Carried, Command, CommandEvent, Event, Kind, TransactionEvent};
use crate::id::{Time, TransactionId, WorkflowName};
use crate::payload::Payload;
use crate::write;

/// So many names of a batch are looked through before a hash is made.
const NAMES_LOOKED_THROUGH: usize = 8;

/// Fills one batch after the other; its buffers are used again.
#[derive(Debug, Default)]
pub struct Encoder {
    count: u32,
    base: Time,
    names: Vec<Arc<str>>,
    name_places: HashMap<Arc<str>, u32, RandomState>,
    transactions: Vec<(TransactionId, u32)>,
    transaction_places: HashMap<TransactionId, u32, RandomState>,
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
        self.begin(event.time);
        match &event.kind {
            Kind::Transaction { id, workflow, what } => {
                let transaction = self.transaction(*id, workflow);
                write::number(&mut self.record, 2, transaction);
                match what {
                    TransactionEvent::Started(start) => {
                        write::message(&mut self.record, 14, |out| {
                            carried::write_start(start, out);
                        });
                    }
                    TransactionEvent::Completed { failed_steps } if failed_steps.is_empty() => {
                        write::length(&mut self.record, 15, 0);
                    }
                    TransactionEvent::Carried(carried) => carried::write(carried, &mut self.record),
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
                write::number(&mut self.record, 5, host);
                record_kind(event).encode(&mut self.record);
            }
            Kind::SystemSampled { host, .. } => {
                if let Some(host) = host {
                    let host = self.name(host.arc());
                    write::number(&mut self.record, 5, host);
                }
                record_kind(event).encode(&mut self.record);
            }
            Kind::OrchestratorStarted { .. } | Kind::WorkflowRegistered(_) => {
                record_kind(event).encode(&mut self.record);
            }
        }
        self.end();
        event.for_each_payload(|payload| {
            if let Payload::Held(bytes) = payload {
                self.payloads.extend_from_slice(bytes);
            }
        });
    }

    /// Adds a carried transaction as an event of it, with those payloads that have at most so many
    /// bytes.
    pub fn push_carried(
        &mut self,
        time: Time,
        id: TransactionId,
        workflow: &WorkflowName,
        carried: &Carried,
        payload_bytes_max: u64,
    ) {
        self.begin(time);
        let transaction = self.transaction(id, workflow);
        write::number(&mut self.record, 2, transaction);
        carried::write(carried, &mut self.record);
        self.end();
        carried.for_each_payload(|payload| {
            if let Payload::Held(bytes) = payload
                && payload.size() <= payload_bytes_max
            {
                self.payloads.extend_from_slice(bytes);
            }
        });
    }

    fn begin(&mut self, time: Time) {
        if self.count == 0 {
            self.base = time;
        }
        self.count += 1;
        self.record.clear();
        write::number(&mut self.record, 1, time.since_us(self.base));
    }

    fn end(&mut self) {
        write::length(&mut self.records, 5, self.record.len());
        self.records.extend_from_slice(&self.record);
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
        write::number(record, 2, transaction);
        write::number(record, 3, step);
        write::number(record, 4, worker);
        write::number(record, 5, host.unwrap_or_default());
        write::number(record, 6, command.attempt.into());
        if let Some(timing) = convert::timing(what) {
            write::number(record, 7, timing.wait_us);
            write::number(record, 8, timing.run_us);
        }
        write::number(record, 16, command.undo.into());
        match what {
            CommandEvent::Queued { delay_us } => only_varint(record, 9, *delay_us),
            CommandEvent::Dispatched => write::length(record, 10, 0),
            CommandEvent::PickedUp => write::length(record, 11, 0),
            CommandEvent::Processing => write::length(record, 12, 0),
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
        write::number(out, 1, first_offset);
        write::number(out, 2, self.base.0 as u64);
        for name in &self.names {
            write::length(out, 3, name.len());
            out.extend_from_slice(name.as_bytes());
        }
        for (id, workflow) in &self.transactions {
            let length = 18 + key_len(2) + encoded_len_varint((*workflow).into());
            write::length(out, 4, length);
            write::length(out, 1, 16);
            out.extend_from_slice(&id.0);
            write::number(out, 2, (*workflow).into());
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
        // Mostly one of the first few, and the very same string.
        let first = self.names.iter().take(NAMES_LOOKED_THROUGH);
        if let Some(place) = first.into_iter().position(|known| Arc::ptr_eq(known, name)) {
            return place as u64 + 1;
        }
        if let Some(place) = self.name_places.get(name) {
            return u64::from(*place);
        }
        self.names.push(name.clone());
        let place = self.names.len() as u32;
        self.name_places.insert(name.clone(), place);
        place.into()
    }

    fn transaction(&mut self, id: TransactionId, workflow: &WorkflowName) -> u64 {
        // One input's events follow one another and mostly belong to one transaction.
        if self
            .transactions
            .last()
            .is_some_and(|(last, _)| *last == id)
        {
            return self.transactions.len() as u64;
        }
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

/// A message whose only field is number 1, a varint.
fn only_varint(out: &mut Vec<u8>, tag: u32, value: u64) {
    let length = if value == 0 {
        0
    } else {
        1 + encoded_len_varint(value)
    };
    write::length(out, tag, length);
    write::number(out, 1, value);
}
