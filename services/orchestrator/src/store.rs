//! state.db: a row per transaction, live or ended, the definitions and the hosts; a fold of the log with its
//! own offset.
//!
//! Rows, definitions, hosts and the offset that they are true at are committed together, so a start loads
//! the live rows and replays the log from there. Whatever is wrong with the file, it is set aside and
//! rebuilt: the log alone is always enough. Nothing but this module opens it, and nothing here
//! decides anything.

mod row;
mod keys;
mod schema;
mod reading;
mod writing;

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use eventlog::{Bounds, Offset};
use proto::event::Event;
use proto::id::Time;
use proto::workflow::Workflow;
use rusqlite::OpenFlags;

// To be passed on: nobody else reads or writes with it.
pub(crate) use rusqlite::Connection;

pub(crate) use keys::Keys;
pub(crate) use reading::{Filter, Found, InHand, Known, Lookup};
pub(crate) use row::Row;
pub(crate) use writing::{Handover, Pace, StoreThread, Stored};

/// The file's name in the data directory.
pub(crate) const FILE_NAME: &str = "state.db";

/// Why state.db could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// SQLite's own word.
    #[error("state.db: {0}")]
    Sql(#[from] rusqlite::Error),
    /// A row or the file is not what it should be.
    #[error("state.db: {0}")]
    Damaged(String),
    /// The log could not be read where a row refers to it.
    #[error("the log at a row's payload: {0}")]
    Log(#[from] eventlog::ReadError),
    /// The file could not be moved or read.
    #[error("state.db: {0}")]
    Io(#[from] std::io::Error),
}

impl StoreError {
    /// Whether the file is not worth keeping: it is rebuilt from the log.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Self::Damaged(_) => true,
            Self::Sql(rusqlite::Error::SqliteFailure(error, _)) => matches!(
                error.code,
                rusqlite::ErrorCode::DatabaseCorrupt
                    | rusqlite::ErrorCode::NotADatabase
                    | rusqlite::ErrorCode::SchemaChanged
                    | rusqlite::ErrorCode::Unknown
            ),
            // What is asked is always the same: where it has no meaning, the tables' own names are
            // spoilt.
            Self::Sql(rusqlite::Error::SqlInputError { .. }) => true,
            Self::Sql(
                rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::QueryReturnedNoRows,
            ) => true,
            Self::Sql(_) | Self::Log(_) | Self::Io(_) => false,
        }
    }
}

/// What a start finds.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    /// Everything below is in the rows; replay begins here.
    pub applied: Offset,
    /// When the log was last opened.
    pub opened: Option<Time>,
    /// Every definition, with the offset of its event.
    pub workflows: Vec<(Offset, Arc<Workflow>)>,
    /// The events that tell of every host, with the offset where it came.
    pub hosts: Vec<(Offset, Event)>,
}

/// Where state.db is, and how rows are kept in it.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Which idempotency keys it may have.
    pub keys: Keys,
    /// The file.
    pub path: PathBuf,
    /// Payloads up to this size stand in the row.
    pub inline_bytes_max: u64,
}

impl Place {
    /// state.db in `data_dir`.
    pub(crate) fn new(data_dir: &Path, inline_bytes_max: u64, keys: Keys) -> Self {
        Self {
            keys,
            path: data_dir.join(FILE_NAME),
            inline_bytes_max,
        }
    }

    /// Opens state.db for the log that `reader` reads. A file that is
    /// damaged, of another log, or ahead of this one is set aside, and an empty one begun.
    ///
    /// # Errors
    /// Only when not even a new file can be used.
    pub(crate) fn open(
        &self,
        reader: &eventlog::Reader,
    ) -> Result<(Connection, Loaded), StoreError> {
        match self.try_open(reader) {
            Ok(opened) => Ok(opened),
            Err(error) => {
                self.give_up(error)?;
                self.try_open(reader)
            }
        }
    }

    /// Calls `take` with each live transaction, whole, on any thread. An error of its own ends it.
    pub(crate) fn live(
        connection: &Connection,
        reader: &eventlog::Reader,
        take: impl FnMut(Row) -> Result<(), StoreError> + Send,
    ) -> Result<(), StoreError> {
        schema::live(connection, reader, take)
    }

    /// Sets a file aside that can't be gone on with.
    ///
    /// # Errors
    /// When it isn't the file that is to blame.
    pub(crate) fn give_up(&self, error: StoreError) -> Result<(), StoreError> {
        if !error.is_damage() && !matches!(error, StoreError::Log(_)) {
            return Err(error);
        }
        let aside = self.set_aside()?;
        tracing::warn!(
            %error, aside = %aside.display(),
            "state.db is set aside and rebuilt from the log"
        );
        Ok(())
    }

    fn try_open(&self, reader: &eventlog::Reader) -> Result<(Connection, Loaded), StoreError> {
        let connection = self.connect(false)?;
        let bounds = reader.bounds();
        let loaded = schema::load(&connection, &bounds)?;
        Ok((connection, loaded))
    }

    /// Reads which keys state.db has, behind the start: there may be millions of them. What is older than
    /// those read so far is looked up.
    pub(crate) fn learn_keys(&self, pace: Pace) {
        let place = self.clone();
        let learn = move || {
            let learned = place
                .connect(true)
                .and_then(|connection| schema::keys(&connection, &place.keys));
            match learned {
                Ok(()) => tracing::debug!("the idempotency keys of state.db are known"),
                Err(error) => {
                    tracing::warn!(%error, "the keys of state.db can't be read; each is looked up");
                }
            }
        };
        match pace {
            Pace::Stepped => learn(),
            Pace::Thread => {
                let thread = std::thread::Builder::new().name("keys".to_owned());
                if let Err(error) = thread.spawn(learn) {
                    tracing::warn!(%error, "no thread reads the keys; each is looked up");
                }
            }
        }
    }

    /// A connection with the settings that every user of the file has.
    pub(crate) fn connect(&self, read_only: bool) -> Result<Connection, StoreError> {
        let flags = if read_only {
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX
        } else {
            OpenFlags::SQLITE_OPEN_READ_WRITE
                | OpenFlags::SQLITE_OPEN_CREATE
                | OpenFlags::SQLITE_OPEN_NO_MUTEX
        };
        if !read_only && !self.path.exists() {
            // For its owner alone; SQLite makes the files beside it alike.
            std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&self.path)?;
        }
        let connection = Connection::open_with_flags_and_vfs(&self.path, flags, IN_ONE_PROCESS)?;
        schema::configure(&connection, read_only)?;
        Ok(connection)
    }

    /// Moves the file and what belongs to it out of the way; returns its new name.
    pub(crate) fn set_aside(&self) -> Result<PathBuf, StoreError> {
        let aside = (0..)
            .map(|number| self.path.with_extension(format!("db.aside-{number}")))
            .find(|path| !path.exists())
            .unwrap_or_else(|| self.path.with_extension("db.aside"));
        let with = |path: &Path, suffix: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        for suffix in ["-wal", ""] {
            let from = with(&self.path, suffix);
            if from.exists() {
                std::fs::rename(&from, with(&aside, suffix))?;
            }
        }
        Ok(aside)
    }
}

/// SQLite's way of working for one process alone: what its connections share lies in memory, where others
/// map a file. On a full disk that can't be made, or ends the process by SIGBUS where each write takes room.
const IN_ONE_PROCESS: &str = "unix-excl";

/// Whether rows that are true at `applied` can be gone on with.
pub(crate) fn check_offset(applied: Offset, bounds: &Bounds) -> Result<(), StoreError> {
    if applied > bounds.next {
        return Err(StoreError::Damaged(format!(
            "it has seen the log up to {applied}, but the log ends at {}",
            bounds.next
        )));
    }
    if applied < bounds.oldest {
        return Err(StoreError::Damaged(format!(
            "it has seen the log up to {applied}, but the log begins at {}",
            bounds.oldest
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
