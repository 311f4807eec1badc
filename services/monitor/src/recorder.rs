//! The recorder: the one loop, on its own thread, that writes the monitor's log and folds it.
//!
//! It takes all that has piled up, writes it as one record, folds it, hands it to the feed, and
//! publishes a view at most each 100 ms, and at once when it was quiet or somebody asks. It is the
//! only writer of the log, and waits for no reader.

use std::sync::Arc;
use std::time::{Duration, Instant};

use eventlog::{AppendError, Batch, EventLog, Refused, SegmentLog};
use kit::Clock;
use proto::id::Time;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::entry::{self, Note};
use crate::feed::{Feed, Taken};
use crate::fold::{Folds, What};
use crate::folds::settings::Settings;
use crate::store::Snapshots;
use crate::views::Views;

/// How often a view is published under load.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);
/// How soon after a view the next one is published for those who ask.
const PUBLISH_PAUSE: Duration = Duration::from_millis(5);
/// The most bytes of sources' batches in one record.
const RECORD_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The most notes in one record.
const RECORD_NOTES_MAX: usize = 1_024;
/// How long the recorder waits before it tries a full disk again.
const FULL_PAUSE: Duration = Duration::from_secs(1);

/// Everything that can change what the monitor knows.
#[derive(Debug)]
pub enum Input {
    /// Something to be written down.
    Note(Note),
    /// Somebody wants a view that has all that came before this.
    Publish(Option<oneshot::Sender<()>>),
    /// Write a snapshot and trim the log.
    CleanUp,
    /// Write what came before this, and end.
    Stop,
}

/// How the log is kept.
#[derive(Clone, Copy, Debug)]
pub struct Upkeep {
    /// A snapshot is written after so many positions.
    pub snapshot_positions: u64,
    /// And after so long.
    pub snapshot_interval: Duration,
}

/// Why the recorder stopped.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Nobody knows whether a record was written.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The recorder's thread could not be started.
    #[error("the recorder's thread can't be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// What the recorder works on.
pub struct Recorder {
    log: SegmentLog,
    folds: Folds,
    snapshots: Snapshots,
    views: Arc<Views>,
    feed: Arc<Feed>,
    clock: Clock,
    upkeep: Upkeep,
    shutdown: CancellationToken,
    published_at: Option<Instant>,
    snapshot_at: Instant,
    snapshot_position: u64,
    writing: Option<std::thread::JoinHandle<()>>,
}

impl Recorder {
    /// A recorder of an opened log, its folds at the log's end.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a part of its own, given once"
    )]
    pub fn new(
        log: SegmentLog,
        folds: Folds,
        snapshots: Snapshots,
        views: Arc<Views>,
        feed: Arc<Feed>,
        clock: Clock,
        upkeep: Upkeep,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            log,
            snapshot_position: folds.position,
            folds,
            snapshots,
            views,
            feed,
            clock,
            upkeep,
            shutdown,
            published_at: None,
            snapshot_at: Instant::now(),
            writing: None,
        }
    }

    /// Writes down that the monitor started, with the settings that hold from here on.
    ///
    /// # Errors
    /// As [`Recorder::run`].
    pub fn start(&mut self, settings: Settings) -> Result<(), RecordError> {
        let epoch = self.log.reader().bounds().epoch;
        let settings = Arc::new(settings);
        self.record(vec![Note::one(What::Started { epoch, settings })])?;
        self.publish();
        Ok(())
    }

    /// Takes what comes until it is told to stop; then a last snapshot, and the log is closed.
    ///
    /// # Errors
    /// When nobody knows whether a record was written: the process must end and open anew.
    pub fn run(mut self, mut inbox: mpsc::Receiver<Input>) -> Result<(), RecordError> {
        let mut stopping = false;
        while !stopping && let Some(first) = inbox.blocking_recv() {
            let mut notes = Vec::new();
            let mut bytes = 0;
            let mut waiting = Vec::new();
            let mut asked = false;
            let mut clean_up = false;
            let mut next = Some(first);
            while let Some(input) = next.take() {
                match input {
                    Input::Note(note) => {
                        bytes += note.batch.len();
                        notes.push(note);
                    }
                    Input::Publish(who) => {
                        asked = true;
                        waiting.extend(who);
                    }
                    Input::CleanUp => clean_up = true,
                    Input::Stop => stopping = true,
                }
                if !stopping && bytes < RECORD_BYTES_MAX && notes.len() < RECORD_NOTES_MAX {
                    next = inbox.try_recv().ok();
                }
            }
            self.record(notes)?;
            self.publish_if_due(asked);
            waiting.into_iter().for_each(|who| {
                // Who has gone away needs no answer.
                let _ = who.send(());
            });
            self.snapshot_if_due();
            if clean_up {
                self.trim()?;
            }
        }
        self.publish();
        self.finish_writing();
        if self.folds.position > self.snapshot_position {
            self.write_snapshot();
        }
        self.log.close()?;
        Ok(())
    }

    /// Writes the notes as one record, folds it, and hands it to the feed.
    fn record(&mut self, notes: Vec<Note>) -> Result<(), RecordError> {
        if notes.is_empty() {
            return Ok(());
        }
        let newest = notes.iter().filter_map(newest_event).max();
        if let Some(time) = newest {
            self.clock.raise_to(time.0);
        }
        let time = Time(self.clock.now_micros().max(self.folds.time_us));
        let bytes = entry::encode(time, &notes);
        let count = notes.iter().map(|note| note.count).sum();
        let position = self.folds.position;
        let batch = Batch {
            count,
            time_us: time.0,
            events: &bytes,
            payloads: &[],
        };
        loop {
            match self.log.append(position, &batch) {
                Ok(_) => break,
                Err(AppendError::Refused(Refused::Full(why))) => {
                    if self.shutdown.is_cancelled() {
                        // What isn't written is fetched again from its source.
                        return Ok(());
                    }
                    tracing::error!(
                        why,
                        "the monitor's disk is full: it waits, and falls behind"
                    );
                    self.trim()?;
                    std::thread::park_timeout(FULL_PAUSE);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let entries = entry::place(position, time, notes);
        for entry in &entries {
            self.folds.apply(entry);
        }
        self.views.recorded(self.folds.position);
        if let Some(taken) = Taken::new(entries) {
            self.feed.push(Arc::new(taken));
        }
        Ok(())
    }

    fn publish_if_due(&mut self, asked: bool) {
        if self.views.is_current() {
            return;
        }
        let pause = if asked {
            PUBLISH_PAUSE
        } else {
            PUBLISH_INTERVAL
        };
        if self.published_at.is_none_or(|at| at.elapsed() >= pause) {
            self.publish();
        }
    }

    fn publish(&mut self) {
        self.views.publish(self.folds.clone());
        self.published_at = Some(Instant::now());
    }

    fn snapshot_if_due(&mut self) {
        let grown = self.folds.position - self.snapshot_position;
        let due = grown >= self.upkeep.snapshot_positions
            || (grown > 0 && self.snapshot_at.elapsed() >= self.upkeep.snapshot_interval);
        if !due
            || self
                .writing
                .as_ref()
                .is_some_and(|writing| !writing.is_finished())
        {
            return;
        }
        self.snapshot_at = Instant::now();
        self.snapshot_position = self.folds.position;
        let (folds, snapshots) = (self.folds.clone(), self.snapshots.clone());
        let oldest = self.log.reader().bounds().oldest;
        // Encoding takes longer than ingest should wait.
        let write = move || {
            if let Err(error) = snapshots.write(&folds, oldest) {
                tracing::error!(%error, "a snapshot of the folds can't be written");
            }
        };
        self.writing = std::thread::Builder::new()
            .name("snapshot".to_owned())
            .spawn(write)
            .inspect_err(|error| tracing::error!(%error, "a snapshot can't be written"))
            .ok();
    }

    fn finish_writing(&mut self) {
        if let Some(writing) = self.writing.take()
            && writing.join().is_err()
        {
            tracing::error!("the thread that writes snapshots ended by a panic");
        }
    }

    /// Writes a snapshot of now; whether it stands.
    fn write_snapshot(&mut self) -> bool {
        let oldest = self.log.reader().bounds().oldest;
        match self.snapshots.write(&self.folds, oldest) {
            Ok(()) => {
                self.snapshot_at = Instant::now();
                self.snapshot_position = self.folds.position;
                true
            }
            Err(error) => {
                tracing::error!(%error, "a snapshot of the folds can't be written");
                false
            }
        }
    }

    /// Trims what is past its retention, once a snapshot has what the folds know of it.
    fn trim(&mut self) -> Result<(), RecordError> {
        let Some(before) = self.log.overdue(self.clock.now_micros()) else {
            return Ok(());
        };
        self.finish_writing();
        if !self.snapshots.reach(before) && !self.write_snapshot() {
            return Ok(());
        }
        let oldest = self.log.trim(before)?;
        tracing::info!(oldest, "the monitor's own log was trimmed");
        Ok(())
    }
}

/// The time of the newest event that a note brings.
fn newest_event(note: &Note) -> Option<Time> {
    match &note.what {
        What::Events(events) => events.events.iter().map(|stored| stored.event.time).max(),
        _ => None,
    }
}
