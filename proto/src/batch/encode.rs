//! A batch being filled: strict events to bytes. It must write exactly what `event.proto` says; the
//! tests hold it against the generated code.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use super::carried;
use super::kinds::record_kind;
use crate::convert;
use crate::event::{Carried, Command, CommandEvent, Event, Kind, TransactionEvent};
use crate::id::{Time, TransactionId, WorkflowName};
use crate::payload::Payload;

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
                varint_field(&mut self.record, 2, transaction);
                match what {
                    TransactionEvent::Started(start) => {
                        message_field(&mut self.record, 14, |out| carried::write_start(start, out));
                    }
                    TransactionEvent::Completed { failed_steps } if failed_steps.is_empty() => {
                        length_field(&mut self.record, 15, 0);
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
        varint_field(&mut self.record, 2, transaction);
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
        varint_field(&mut self.record, 1, time.since_us(self.base));
    }

    fn end(&mut self) {
        length_field(&mut self.records, 5, self.record.len());
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

pub(super) fn varint_field(out: &mut Vec<u8>, tag: u32, value: u64) {
    if value != 0 {
        encode_key(tag, WireType::Varint, out);
        encode_varint(value, out);
    }
}

pub(super) fn length_field(out: &mut Vec<u8>, tag: u32, length: usize) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(length as u64, out);
}

pub(super) fn text_field(out: &mut Vec<u8>, tag: u32, text: &str) {
    if !text.is_empty() {
        length_field(out, tag, text.len());
        out.extend_from_slice(text.as_bytes());
    }
}

/// A message whose length shows once it is written.
pub(super) fn message_field(out: &mut Vec<u8>, tag: u32, write: impl FnOnce(&mut Vec<u8>)) {
    encode_key(tag, WireType::LengthDelimited, out);
    let at = out.len();
    // Most are short enough for one byte of length.
    out.push(0);
    write(out);
    let length = out.len() - at - 1;
    match u8::try_from(length) {
        Ok(length) if length < 0x80 => out[at] = length,
        _ => {
            let mut prefix = Vec::new();
            encode_varint(length as u64, &mut prefix);
            out.splice(at..=at, prefix);
        }
    }
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
