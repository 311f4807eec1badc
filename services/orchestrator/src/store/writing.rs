//! What writes state.db behind the log: what the driver hands over, in one SQL transaction with the
//! offset that it is true at. On a thread, so that it never holds up the driver, who looks for its
//! answer when it suits him; or when it is told to, where every step is somebody else's to choose.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use eventlog::Offset;
use prost::Message as _;
use proto::batch::Encoder;
use proto::event::{Event, Kind};
use proto::id::Time;
use proto::workflow::Workflow;
use rusqlite::Connection;

use super::keys::KeyHash;
use super::row::{Row, RowEncoder};
use super::schema::{mark_checksum, offset_to_sql, placed_checksum, stretch_of};
use super::{Place, StoreError};

/// How long to wait before a write that failed is tried again.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// How often who waits for an answer looks whether there will be one.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Everything that changed since the last time, as of one offset.
#[derive(Clone, Debug, Default)]
pub(crate) struct Handover {
    /// Everything below is in the rows, these included.
    pub applied: Offset,
    /// When the log was last opened (`State::opened`).
    pub opened: Option<Time>,
    /// Transactions that changed.
    pub rows: Vec<Arc<Row>>,
    /// Definitions that came, with the offsets of their events.
    pub workflows: Vec<(Offset, Arc<Workflow>)>,
    /// All hosts (`State::retold_hosts`), where that changed.
    pub hosts: Option<Vec<(Offset, Vec<Kind>)>>,
    /// Ended transactions that began before this were trimmed: their rows go.
    pub forget_before: Option<Offset>,
}

/// What became of a handover.
#[derive(Debug)]
pub(crate) enum Stored {
    /// It is committed.
    Applied(Offset),
    /// state.db is beyond repair and was set aside; the process must start anew to rebuild it.
    Damaged(String),
}

impl Stored {
    /// The writer panicked: it answers nothing any more.
    pub(crate) fn ended() -> Self {
        Self::Damaged("the thread that writes state.db has ended".to_owned())
    }
}

/// When handovers are written, and who looks things up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// As they come, on a thread.
    Thread,
    /// At each [`StoreThread::step`], or when the driver waits.
    Stepped,
}

/// The writer, from the driver's side.
pub(crate) struct StoreThread {
    handovers: Option<Sender<Handover>>,
    stored: Receiver<Stored>,
    thread: Option<JoinHandle<()>>,
    stepped: Option<Stepped>,
    /// Whether the last try to write failed, and will be repeated.
    failing: Arc<AtomicBool>,
}

/// The writer and its ends of the channels, where no thread has them.
struct Stepped {
    writer: Writer,
    take: Receiver<Handover>,
    answer: Sender<Stored>,
    /// What could not be written yet.
    failed: Option<Handover>,
}

impl StoreThread {
    /// Starts writing on the connection that the start opened; `failing`: as long as nothing else is
    /// known.
    pub(crate) fn start(
        place: Place,
        connection: Connection,
        pace: Pace,
        failing: bool,
    ) -> std::io::Result<Self> {
        let failing = Arc::new(AtomicBool::new(failing));
        // One in hand and one that waits would only be two halves of one.
        let (handovers, take) = bounded(1);
        let (answer, stored) = bounded(4);
        let writer = Writer {
            place,
            connection,
            encoder: RowEncoder::default(),
            failing: failing.clone(),
        };
        let (mut thread, mut stepped) = (None, None);
        match pace {
            Pace::Thread => {
                let named = std::thread::Builder::new().name("store".to_owned());
                thread = Some(named.spawn(move || writer.run(&take, &answer))?);
            }
            Pace::Stepped => {
                stepped = Some(Stepped {
                    writer,
                    take,
                    answer,
                    failed: None,
                });
            }
        }
        Ok(Self {
            handovers: Some(handovers),
            stored,
            thread,
            stepped,
            failing,
        })
    }

    /// Hands over; the caller has had the answer to the one before.
    pub(crate) fn hand_over(&self, handover: Handover) {
        if let Some(handovers) = &self.handovers {
            // Fails only when the thread has ended, which `stored` then shows.
            let _ = handovers.send(handover);
        }
    }

    /// Where answers come.
    pub(crate) fn stored(&self) -> &Receiver<Stored> {
        &self.stored
    }

    /// Whether state.db can't be written at present, for want of room for example.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Waits for the answer to what was handed over; none where that can't be written at present.
    pub(crate) fn wait(&mut self) -> Option<Stored> {
        self.step();
        loop {
            if self.is_failing() && self.stored.is_empty() {
                return None;
            }
            match self.stored.recv_timeout(LOOK_INTERVAL) {
                Ok(stored) => return Some(stored),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Some(Stored::ended()),
            }
        }
    }

    /// Writes what was handed over, where no thread does; whether something was written.
    pub(crate) fn step(&mut self) -> bool {
        let Some(stepped) = &mut self.stepped else {
            return false;
        };
        let waiting = stepped.failed.take();
        let Some(handover) = waiting.or_else(|| stepped.take.try_recv().ok()) else {
            return false;
        };
        let stored = stepped.writer.try_to_write(&handover);
        match stored {
            // The driver holds the other end.
            Some(stored) => stepped.answer.send(stored).is_ok(),
            None => {
                stepped.failed = Some(handover);
                false
            }
        }
    }

    /// Ends the writer; what was handed over is still written.
    pub(crate) fn finish(&mut self) {
        self.step();
        self.end_thread();
    }

    fn end_thread(&mut self) {
        self.handovers = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(
                "the thread that writes state.db panicked; the next start replays more"
            );
        }
    }
}

impl Drop for StoreThread {
    fn drop(&mut self) {
        // Without a thread, a drop is what a kill is: nothing more is written.
        self.end_thread();
    }
}

struct Writer {
    place: Place,
    connection: Connection,
    encoder: RowEncoder,
    failing: Arc<AtomicBool>,
}

impl Writer {
    fn run(mut self, take: &Receiver<Handover>, answer: &Sender<Stored>) {
        while let Ok(handover) = take.recv() {
            let stored = loop {
                if let Some(stored) = self.try_to_write(&handover) {
                    break stored;
                }
                // Nobody hands over before the answer, so all that can come is the driver's end.
                if let Err(RecvTimeoutError::Disconnected) = take.recv_timeout(RETRY_DELAY) {
                    return;
                }
            };
            let damaged = matches!(stored, Stored::Damaged(_));
            if answer.send(stored).is_err() || damaged {
                return;
            }
        }
    }

    /// None: it failed, and is to be tried again.
    fn try_to_write(&mut self, handover: &Handover) -> Option<Stored> {
        let Err(error) = self.write(handover) else {
            self.failing.store(false, Ordering::Relaxed);
            return Some(Stored::Applied(handover.applied));
        };
        if error.is_damage() {
            let aside = self.place.set_aside();
            tracing::error!(%error, ?aside, "state.db is damaged and set aside");
            return Some(Stored::Damaged(error.to_string()));
        }
        if !self.failing.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "state.db cannot be written and is tried again each second");
        }
        None
    }

    fn write(&mut self, handover: &Handover) -> Result<(), StoreError> {
        let sql = self.connection.transaction()?;
        {
            let mut workflow = sql.prepare_cached(
                "INSERT INTO workflows (name, version, at_offset, definition, checksum)
                 VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT DO UPDATE SET at_offset = excluded.at_offset,
                    definition = excluded.definition, checksum = excluded.checksum",
            )?;
            for (offset, definition) in &handover.workflows {
                let encoded = definition.to_wire().encode_to_vec();
                let checksum = placed_checksum(*offset, &encoded);
                workflow.execute((
                    definition.name.as_str(),
                    definition.version,
                    offset_to_sql(*offset),
                    encoded,
                    checksum,
                ))?;
            }
            if let Some(hosts) = &handover.hosts {
                write_hosts(&sql, hosts)?;
            }
            // A carried transaction moves, any other stays where it is.
            let mut transaction = sql.prepare_cached(
                "INSERT INTO transactions (id, workflow, state, start_us, update_us, ended,
                    first_offset, key_hash, snapshot, payloads, inline_max, checksum)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
                 ON CONFLICT (first_offset) DO UPDATE SET state = excluded.state,
                    update_us = excluded.update_us, ended = excluded.ended,
                    snapshot = excluded.snapshot, payloads = excluded.payloads,
                    inline_max = excluded.inline_max, checksum = excluded.checksum
                 ON CONFLICT (id) DO UPDATE SET first_offset = excluded.first_offset,
                    state = excluded.state, update_us = excluded.update_us,
                    ended = excluded.ended, snapshot = excluded.snapshot,
                    payloads = excluded.payloads, inline_max = excluded.inline_max,
                    checksum = excluded.checksum",
            )?;
            let inline_max = self.place.inline_bytes_max;
            // In the table's order, which is about the order of the ids too: what is added at an end
            // costs half of what is added in between.
            let mut rows: Vec<&Row> = handover.rows.iter().map(Arc::as_ref).collect();
            rows.sort_by_key(|row| row.first_offset);
            for row in rows {
                let encoded = self.encoder.encode(row, inline_max);
                let key = &row.carried.start.idempotency_key;
                let key = (!key.is_empty()).then(|| KeyHash::of(&row.workflow, key));
                let first_offset = offset_to_sql(row.first_offset);
                if let Some(key) = key {
                    // Before it is committed, so that nobody misses it in between.
                    self.place.keys.insert(key, stretch_of(first_offset));
                }
                transaction.execute(rusqlite::params![
                    row.id.0.as_slice(),
                    row.workflow.as_str(),
                    i32::from(row.carried.state),
                    row.carried.start_time.0,
                    row.update_time.0,
                    row.ended(),
                    first_offset,
                    key.map(|key| key.0),
                    encoded.snapshot,
                    encoded.payloads,
                    offset_to_sql(inline_max),
                    encoded.checksum,
                ])?;
            }
            if let Some(before) = handover.forget_before {
                sql.prepare_cached(
                    "DELETE FROM transactions WHERE ended = 1 AND first_offset < ?1",
                )?
                .execute([offset_to_sql(before)])?;
            }
            sql.prepare_cached("UPDATE mark SET applied = ?1, opened_us = ?2, checksum = ?3")?
                .execute((
                    offset_to_sql(handover.applied),
                    handover.opened.map(|opened| opened.0),
                    mark_checksum(handover.applied, handover.opened),
                ))?;
        }
        sql.commit()?;
        if handover.forget_before.is_some() {
            // A step at a time: what is freed now is used again anyway.
            self.connection
                .execute_batch("PRAGMA incremental_vacuum(1024)")?;
        }
        Ok(())
    }
}

/// There are a thousand or so at most, and they come and go seldom.
fn write_hosts(
    sql: &rusqlite::Transaction<'_>,
    hosts: &[(Offset, Vec<Kind>)],
) -> Result<(), StoreError> {
    sql.execute("DELETE FROM hosts", [])?;
    let mut host =
        sql.prepare_cached("INSERT INTO hosts (at_offset, events, checksum) VALUES (?1, ?2, ?3)")?;
    let mut encoder = Encoder::default();
    for (at, kinds) in hosts {
        for kind in kinds.iter().cloned() {
            encoder.push(&Event {
                // Only what they say counts.
                time: Time::default(),
                kind,
            });
        }
        let (events, _) = encoder.finish(*at);
        host.execute((offset_to_sql(*at), events, placed_checksum(*at, events)))?;
        encoder.clear();
    }
    Ok(())
}
