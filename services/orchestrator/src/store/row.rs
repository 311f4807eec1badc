//! One transaction as a row: columns to find it by, its snapshot in the log's own encoding, small
//! payloads beside it, large ones as references into the log.

use bytes::Bytes;
use eventlog::{Offset, Reader};
use proto::batch::{Encoder, decode};
use proto::event::{Carried, CommandEvent, Event, Kind, TransactionEvent};
use proto::id::{Time, TransactionId, WorkflowName};
use proto::lifecycle;
use proto::payload::Payload;

use super::StoreError;
use super::schema::{self, offset_from_sql, offset_to_sql};
use crate::engine::Snapshot;

/// A transaction at one moment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    /// Its id.
    pub id: TransactionId,
    /// Its workflow.
    pub workflow: WorkflowName,
    /// Its whole state.
    pub carried: Carried,
    /// When it last changed; its end, if it has ended.
    pub update_time: Time,
    /// Where its retained story begins: its start, or where it was carried to.
    pub first_offset: Offset,
}

impl Row {
    /// The row of a transaction as the engine has it.
    pub(crate) fn of(id: TransactionId, snapshot: Snapshot) -> Self {
        Self {
            id,
            workflow: snapshot.workflow.name.clone(),
            carried: snapshot.carried,
            update_time: snapshot.updated,
            first_offset: snapshot.first_offset,
        }
    }

    /// How many bytes its input and its results have.
    pub(crate) fn payload_bytes(&self) -> u64 {
        let results = self.carried.steps.iter().flat_map(|step| &step.result);
        self.carried.start.input.size() + results.map(Payload::size).sum::<u64>()
    }

    /// Whether it has ended.
    pub(crate) fn ended(&self) -> bool {
        lifecycle::is_end(self.carried.state)
    }
}

/// What [`read`] needs, in its order.
pub(super) const COLUMNS: &str =
    "id, workflow, update_us, first_offset, snapshot, payloads, inline_max, ended, checksum";

/// The row's bytes, ready to be written.
pub(super) struct Encoded<'a> {
    pub(super) snapshot: &'a [u8],
    pub(super) payloads: &'a [u8],
    pub(super) checksum: u32,
}

/// What stands beside a row's bytes, as SQLite has it.
struct Numbers {
    update_us: i64,
    first_offset: i64,
    inline_max: i64,
    ended: i64,
}

/// Of everything that is read.
fn checksum(
    id: &[u8],
    workflow: &[u8],
    numbers: &Numbers,
    snapshot: &[u8],
    payloads: &[u8],
) -> u32 {
    schema::checksum([
        id,
        workflow,
        &numbers.update_us.to_le_bytes(),
        &numbers.first_offset.to_le_bytes(),
        snapshot,
        payloads,
        &numbers.inline_max.to_le_bytes(),
        &numbers.ended.to_le_bytes(),
    ])
}

/// Encodes rows one after the other; the buffers are used again.
#[derive(Default)]
pub(super) struct RowEncoder(Encoder);

impl RowEncoder {
    pub(super) fn encode(&mut self, row: &Row, inline_max: u64) -> Encoded<'_> {
        self.0.clear();
        let (time, carried) = (row.update_time, &row.carried);
        self.0
            .push_carried(time, row.id, &row.workflow, carried, inline_max);
        let (snapshot, payloads) = self.0.finish(row.first_offset);
        let numbers = Numbers {
            update_us: row.update_time.0,
            first_offset: offset_to_sql(row.first_offset),
            inline_max: offset_to_sql(inline_max),
            ended: row.ended().into(),
        };
        let workflow = row.workflow.as_str().as_bytes();
        Encoded {
            checksum: checksum(&row.id.0, workflow, &numbers, snapshot, payloads),
            snapshot,
            payloads,
        }
    }
}

/// A row as SQLite has it, copied out and held against its checksum, so that another thread can make
/// something of it.
pub(super) struct Raw {
    id: TransactionId,
    numbers: Numbers,
    snapshot: Vec<u8>,
    payloads: Vec<u8>,
}

/// A row as it was read: its payloads may still stand in the log.
pub(super) struct Stored {
    row: Row,
    payloads: Vec<u8>,
    inline_max: u64,
}

/// Reads a row of [`COLUMNS`].
pub(super) fn read(row: &rusqlite::Row<'_>) -> Result<Stored, StoreError> {
    Raw::copy(row)?.decode()
}

fn damaged(what: &str) -> StoreError {
    StoreError::Damaged(format!("a transaction's {what}"))
}

impl Raw {
    /// Copies a row of [`COLUMNS`].
    pub(super) fn copy(row: &rusqlite::Row<'_>) -> Result<Self, StoreError> {
        let bytes = |at| row.get_ref(at)?.as_bytes().map_err(|_| damaged("bytes"));
        let (id, workflow, snapshot, payloads) = (bytes(0)?, bytes(1)?, bytes(4)?, bytes(5)?);
        let numbers = Numbers {
            update_us: row.get(2)?,
            first_offset: row.get(3)?,
            inline_max: row.get(6)?,
            ended: row.get(7)?,
        };
        if row.get::<_, u32>(8)? != checksum(id, workflow, &numbers, snapshot, payloads) {
            return Err(damaged("checksum"));
        }
        Ok(Self {
            id: TransactionId::from_bytes(id).ok_or_else(|| damaged("id"))?,
            numbers,
            snapshot: snapshot.to_vec(),
            payloads: payloads.to_vec(),
        })
    }

    /// Makes a transaction of it.
    pub(super) fn decode(self) -> Result<Stored, StoreError> {
        let decoded = decode(&self.snapshot, None).map_err(|error| damaged(&error.to_string()))?;
        let (workflow, carried) = decoded
            .events
            .into_iter()
            .find_map(|stored| match stored.event.kind {
                Kind::Transaction {
                    workflow,
                    what: TransactionEvent::Carried(carried),
                    ..
                } => Some((workflow, *carried)),
                _ => None,
            })
            .ok_or_else(|| damaged("snapshot"))?;
        Ok(Stored {
            row: Row {
                id: self.id,
                workflow,
                carried,
                update_time: Time(self.numbers.update_us),
                first_offset: offset_from_sql(self.numbers.first_offset)?,
            },
            payloads: self.payloads,
            inline_max: offset_from_sql(self.numbers.inline_max)?,
        })
    }
}

impl Stored {
    /// The row without its payloads, for lists.
    pub(super) fn without_payloads(self) -> Row {
        self.row
    }

    /// The row with every payload: small ones from the row, large ones from the log.
    pub(super) fn with_payloads(mut self, log: &Reader) -> Result<Row, StoreError> {
        let mut position = 0_usize;
        let mut missing = false;
        let (payloads, inline_max) = (&self.payloads, self.inline_max);
        for_each_payload_mut(&mut self.row.carried, |payload| {
            let size = payload.size();
            if size > inline_max {
                missing = true;
                return;
            }
            let end = position.saturating_add(size as usize).min(payloads.len());
            *payload = Payload::Held(Bytes::copy_from_slice(&payloads[position..end]));
            position = end;
        });
        if position != payloads.len() {
            return Err(damaged("payloads"));
        }
        if missing {
            fetch(&mut self.row, inline_max, log)?;
        }
        Ok(self.row)
    }
}

/// Fetches the payloads above `inline_max` from the events that brought them.
fn fetch(row: &mut Row, inline_max: u64, log: &Reader) -> Result<(), StoreError> {
    let first = event_at(log, row.first_offset)?;
    let from_first = |step: Option<&str>| match (&first.kind, step) {
        (
            Kind::Transaction {
                what: TransactionEvent::Started(start),
                ..
            },
            None,
        ) => Some(start.input.clone()),
        (
            Kind::Transaction {
                what: TransactionEvent::Carried(carried),
                ..
            },
            None,
        ) => Some(carried.start.input.clone()),
        (
            Kind::Transaction {
                what: TransactionEvent::Carried(carried),
                ..
            },
            Some(step),
        ) => carried
            .steps
            .iter()
            .find(|carried| carried.step.as_str() == step)
            .and_then(|carried| carried.result.clone()),
        _ => None,
    };
    let damaged = || StoreError::Damaged(format!("the payloads of transaction {}", row.id));
    if row.carried.start.input.size() > inline_max {
        row.carried.start.input = from_first(None).ok_or_else(damaged)?.copied();
    }
    let first_offset = row.first_offset;
    for step in &mut row.carried.steps {
        let Some(result) = &mut step.result else {
            continue;
        };
        if result.size() <= inline_max {
            continue;
        }
        // What completed before the transaction was carried stands where it was carried to.
        let found = if step.completed_offset < first_offset {
            from_first(Some(step.step.as_str()))
        } else {
            match event_at(log, step.completed_offset)?.kind {
                Kind::Command {
                    what: CommandEvent::Completed { result, .. },
                    ..
                } => Some(result),
                _ => None,
            }
        };
        *result = found.ok_or_else(damaged)?.copied();
    }
    Ok(())
}

/// The event at an offset, with its payloads.
fn event_at(log: &Reader, offset: Offset) -> Result<Event, StoreError> {
    let damaged = || StoreError::Damaged(format!("the log at offset {offset}"));
    let records = log.read(offset, 1, true)?;
    let record = records.first().ok_or_else(damaged)?;
    let decoded = decode(&record.events, Some(&record.payloads)).map_err(|_| damaged())?;
    decoded
        .events
        .into_iter()
        .find(|stored| stored.offset == offset)
        .map(|stored| stored.event)
        .ok_or_else(damaged)
}

/// In the order in which a batch keeps them.
fn for_each_payload_mut(carried: &mut Carried, mut take: impl FnMut(&mut Payload)) {
    take(&mut carried.start.input);
    carried
        .steps
        .iter_mut()
        .filter_map(|step| step.result.as_mut())
        .for_each(take);
}
