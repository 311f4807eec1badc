//! From what is stored to a driver that can go on: state.db's rows, the log's tail over them, and
//! then what hosts and clients need. Replay lets out no effect.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::Receiver;
use eventlog::{EventLog, Offset, Reader};
use foldhash::{HashMap, HashSet};
use proto::batch::decode;
use proto::event::Kind;
use proto::id::Time;

use super::batch::Pending;
use super::upkeep::{Ended, Folded, Upkeep};
use super::{Driver, Fatal, Shared, micros};
use crate::busy_poll::BusyPoll;
use crate::catalogue::Catalogue;
use crate::config::Config;
use crate::dispatch::Dispatch;
use crate::engine::{self, Decided, Limits, Snapshot, State};
use crate::inbox::Queued;
use crate::journal::Journal;
use crate::sessions::quarantine::Policy;
use crate::sessions::table::Table;
use crate::store::{
    Connection, Handover, Keys, Loaded, Lookup, Place, Row, StoreError, StoreThread, Stored,
};

/// How much of the log is read at once.
const READ_BYTES: usize = 4 << 20;
/// After so many events of a replay, or after payloads of so many bytes, ended transactions are written
/// and leave memory.
const EVENTS_BETWEEN_WRITES: u64 = 500_000;
const BYTES_BETWEEN_WRITES: usize = 32 << 20;

impl Driver {
    /// Opens state.db, folds the log, and says that the orchestrator is open.
    pub(crate) fn open(
        shared: Shared,
        log: Box<dyn EventLog>,
        inputs: Receiver<Queued>,
    ) -> Result<Self, Fatal> {
        let journal = Journal::new(log);
        let config = shared.config.clone();
        let fold = fold(&shared, &journal.reader(), false)?;
        let place = place(&config, &shared.keys);
        if let Ok(lookup) =
            Lookup::new(&place, journal.reader(), shared.pace).inspect_err(|error| {
                tracing::error!(%error, "state.db cannot be read beside its writer");
            })
        {
            // Set once: a driver is opened once.
            let _ = shared.lookup.set(lookup);
        }
        let pace = shared.pace;
        shared.clock.raise_to(fold.last_time.0);
        let now = Time(shared.clock.now_micros());
        let mut driver = Self {
            table: table(&config),
            dispatch: Dispatch::new(),
            state: fold.state,
            store: fold.store,
            upkeep: Upkeep::new(fold.applied, fold.folded, journal.bounds().oldest),
            journal,
            inputs,
            lines: HashMap::default(),
            watchers: HashMap::default(),
            pending: Pending::default(),
            decided: Decided::default(),
            busy_poll: BusyPoll::new(*config.driver.busy_poll, shared.awake.clone()),
            now,
            judge_after: now,
            stopping: false,
            shared,
        };
        driver.begin()?;
        // Last, since it takes a processor and the disk from a start that others wait for.
        place.learn_keys(pace);
        Ok(driver)
    }

    /// After a fold: the log says that we are here, hosts get time to come back, and what waits is in
    /// its queue again.
    fn begin(&mut self) -> Result<(), Fatal> {
        self.now = Time(self.shared.clock.now_micros());
        self.judge_after = self.now;
        let epoch = self.journal.bounds().epoch;
        self.decide_or_say(engine::Input::Opened {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            epoch,
        });
        self.table.restore(self.state.hosts(), self.now);
        for (command, worker) in self.state.queued() {
            self.dispatch.push(&worker, command);
        }
        self.flush()?;
        self.shared
            .head_time_us
            .store(self.now.0, Ordering::Relaxed);
        Ok(())
    }

    /// Forgets all that is not durable and folds again.
    pub(super) fn refold(&mut self) -> Result<(), Fatal> {
        self.journal.discard();
        // It still writes what it was handed, which is durable.
        let failing = self.store.is_failing();
        self.store.finish();
        let fold = fold(&self.shared, &self.journal.reader(), failing)?;
        self.state = fold.state;
        self.store = fold.store;
        self.dispatch = Dispatch::new();
        self.renew_upkeep(fold.applied, fold.folded);
        // It goes on counting sessions: what streams of before still say is not to be taken for others'.
        self.table.restore(self.state.hosts(), self.now);
        for (command, worker) in self.state.queued() {
            self.dispatch.push(&worker, command);
        }
        Ok(())
    }
}

fn place(config: &Config, keys: &Keys) -> Place {
    Place::new(
        &config.data_dir,
        config.store.inline_payload_bytes_max.0,
        keys.clone(),
    )
}

fn table(config: &Config) -> Table {
    let sessions = &config.sessions;
    let quarantine = Policy {
        losses: sessions.quarantine.losses,
        window_us: micros(*sessions.quarantine.window),
        hold_us: micros(*sessions.quarantine.hold),
    };
    Table::new(micros(*sessions.lease), sessions.max_hosts, quarantine)
}

fn limits(config: &Config) -> Limits {
    Limits {
        max_live_transactions: config.engine.max_live_transactions,
        max_live_payload_bytes: config.engine.max_live_payload_bytes.0,
        max_queued_per_worker: config.engine.max_queued_per_worker,
        max_attempts_kept: config.engine.max_attempts_kept,
        max_context_bytes: config.engine.max_context_bytes.0,
        observing_events: config.engine.observing_events,
        reconnect_us: micros(*config.sessions.lease),
        ..Limits::default()
    }
}

/// What a fold comes to.
struct Fold {
    state: State,
    store: StoreThread,
    applied: Offset,
    folded: Folded,
    last_time: Time,
}

fn fold(shared: &Shared, log: &Reader, failing: bool) -> Result<Fold, Fatal> {
    let (config, catalogue) = (&*shared.config, &shared.catalogue);
    let place = place(config, &shared.keys);
    let (mut connection, loaded) = place.open(log)?;
    let mut applied = loaded.applied;
    let mut state = State::new(limits(config));
    if let Err(error) = restore(&mut state, loaded, catalogue, &connection, log) {
        drop(connection);
        place.give_up(error)?;
        let (fresh, loaded) = place.open(log)?;
        connection = fresh;
        applied = loaded.applied;
        state = State::new(limits(config));
    }
    let store = StoreThread::start(place, connection, shared.pace, failing);
    let store = store.map_err(Fatal::Thread)?;
    let mut replay = Replay {
        state,
        store,
        applied,
        folded: Folded::default(),
        since_write: 0,
        bytes_since_write: 0,
        catalogue,
    };
    let bounds = log.bounds();
    let events = bounds.next - applied;
    if events > 0 {
        tracing::info!(events, from = applied, "replaying the log");
    }
    if applied == bounds.oldest && bounds.oldest > 0 {
        replay.find_definitions(log, bounds.next)?;
    }
    replay.run(log, bounds.next)?;
    replay.written()?;
    Ok(Fold {
        last_time: last_time(log)?,
        state: replay.state,
        store: replay.store,
        applied: replay.applied,
        folded: replay.folded,
    })
}

/// Puts back what state.db has.
fn restore(
    state: &mut State,
    loaded: Loaded,
    catalogue: &Catalogue,
    connection: &Connection,
    log: &Reader,
) -> Result<(), StoreError> {
    for (offset, workflow) in loaded.workflows {
        catalogue.insert(&workflow);
        state.restore_definition(&workflow, offset);
    }
    state.restore_opened(loaded.opened);
    for (offset, event) in loaded.hosts {
        state.evolve(offset, &event);
    }
    Place::live(connection, log, |row| {
        // A row without its definition: the file is not one that this program wrote.
        let workflow = state
            .workflow(&row.workflow, row.carried.start.version)
            .map_err(|problem| StoreError::Damaged(problem.message))?
            .clone();
        state.restore(
            row.id,
            Snapshot {
                workflow,
                carried: row.carried,
                first_offset: row.first_offset,
                updated: row.update_time,
            },
        );
        Ok(())
    })
}

/// The time of the newest event: the engine's time must not begin before it.
fn last_time(log: &Reader) -> Result<Time, Fatal> {
    let bounds = log.bounds();
    if bounds.next == bounds.oldest {
        return Ok(Time::default());
    }
    let records = log.read(bounds.next - 1, 1, false)?;
    let Some(record) = records.last() else {
        return Ok(Time::default());
    };
    let decoded = decode(&record.events, None).map_err(|error| Fatal::Fold(error.to_string()))?;
    let last = decoded.events.last().map(|stored| stored.event.time);
    Ok(last.unwrap_or(Time(record.time_us)))
}

struct Replay<'a> {
    state: State,
    store: StoreThread,
    applied: Offset,
    folded: Folded,
    since_write: u64,
    bytes_since_write: usize,
    catalogue: &'a Catalogue,
}

impl Replay<'_> {
    /// A trim carries definitions to the tail, behind transactions that run them: in a log without its
    /// beginning and without state.db they are looked for first.
    fn find_definitions(&mut self, log: &Reader, end: Offset) -> Result<(), Fatal> {
        let mut from = self.applied;
        while from < end {
            for record in log.read(from, READ_BYTES, false)? {
                let decoded =
                    decode(&record.events, None).map_err(|error| Fatal::Fold(error.to_string()))?;
                for stored in decoded.events {
                    if let Kind::WorkflowRegistered(workflow) = stored.event.kind {
                        self.state.restore_definition(&workflow, stored.offset);
                    }
                }
                from = record.end();
            }
        }
        Ok(())
    }

    fn run(&mut self, log: &Reader, end: Offset) -> Result<(), Fatal> {
        let mut from = self.applied;
        while from < end {
            for record in log.read(from, READ_BYTES, true)? {
                let decoded = decode(&record.events, Some(&record.payloads))
                    .map_err(|error| Fatal::Fold(error.to_string()))?;
                if let Some(offset) = decoded.unknown.first() {
                    return Err(Fatal::Fold(format!(
                        "the event at offset {offset} is of a type that this program doesn't know"
                    )));
                }
                for stored in decoded.events {
                    if stored.offset < from {
                        continue;
                    }
                    self.folded.changed.extend(stored.event.transaction());
                    if let Kind::WorkflowRegistered(workflow) = &stored.event.kind {
                        self.catalogue.insert(workflow);
                        self.folded
                            .workflows
                            .push((stored.offset, workflow.clone()));
                    }
                    self.state
                        .replay(stored.offset, stored.event)
                        .map_err(|problem| Fatal::Fold(problem.message))?;
                    self.since_write += 1;
                }
                from = record.end();
                self.bytes_since_write += record.payloads.len();
                if self.since_write >= EVENTS_BETWEEN_WRITES
                    || self.bytes_since_write >= BYTES_BETWEEN_WRITES
                {
                    self.write(from)?;
                }
            }
        }
        Ok(())
    }

    /// Writes what changed so far, so that a long replay doesn't hold everything that ever ended.
    fn write(&mut self, durable: Offset) -> Result<(), Fatal> {
        self.since_write = 0;
        self.bytes_since_write = 0;
        self.written()?;
        if self.folded.under_way.is_some() || self.store.is_failing() {
            return Ok(());
        }
        let changed: HashSet<_> = std::mem::take(&mut self.folded.changed);
        let rows: Vec<_> = changed
            .into_iter()
            .filter_map(|id| Some(Arc::new(Row::of(id, self.state.snapshot(&id)?))))
            .collect();
        let ended = rows.iter().filter(|row| row.ended());
        let ended = ended.map(|row| Ended::of(row)).collect();
        self.store.hand_over(Handover {
            applied: durable,
            opened: self.state.opened(),
            rows,
            workflows: std::mem::take(&mut self.folded.workflows),
            hosts: Some(self.state.retold_hosts()),
            forget_before: None,
        });
        self.folded.under_way = Some((durable, ended));
        Ok(())
    }

    /// Waits for what is being written, if anything is. What can't be written at present stays.
    fn written(&mut self) -> Result<(), Fatal> {
        if self.folded.under_way.is_none() {
            return Ok(());
        }
        match self.store.wait() {
            Some(Stored::Applied(applied)) => self.applied = applied,
            Some(Stored::Damaged(why)) => return Err(Fatal::StoreDamaged(why)),
            None => return Ok(()),
        }
        let (_, leaving) = self.folded.under_way.take().unwrap_or_default();
        for ended in leaving {
            self.state.remove(&ended.id);
        }
        Ok(())
    }
}
