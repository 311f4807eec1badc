//! Lookups in state.db: by id, by idempotency key, and lists. Off the runtime's threads, on a
//! connection of their own; a long one is cut short rather than let the WAL grow.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use eventlog::Reader;
use proto::id::{Time, TransactionId, WorkflowName};
use proto::lifecycle::TransactionState;
use rusqlite::Connection;
use rusqlite::types::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::keys::KeyHash;
use super::row::{self, COLUMNS, Row};
use super::schema::stretch_of;
use super::{Keys, Pace, Place, StoreError};

/// A list's page ends after this long, however few it has found.
const PAGE_TIME_MAX: Duration = Duration::from_millis(500);

/// Which transactions a list is about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    /// Only of this workflow.
    pub workflow: Option<WorkflowName>,
    /// Only in these states; empty: in all.
    pub states: Vec<TransactionState>,
    /// Only those that started at or after this.
    pub started_after: Option<Time>,
    /// Only those with all these labels.
    pub labels: Vec<(String, String)>,
}

/// A page of a list.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Newest first, without payloads.
    pub rows: Vec<Row>,
    /// Where the next page begins, if there may be one.
    pub next: Option<TransactionId>,
}

/// What an idempotency key was used for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// The transaction that it started.
    pub id: TransactionId,
    /// The hash of what that started with.
    pub input_hash: Bytes,
}

/// So many transactions with their payloads are in hand at once, from being read to being answered.
const IN_HAND_MAX: usize = 8;

/// Held while a transaction with its payloads is in hand.
pub(crate) type InHand = OwnedSemaphorePermit;

/// A handle for lookups; clones share two connections.
#[derive(Clone)]
pub(crate) struct Lookup {
    connections: Arc<[Mutex<Connection>; 2]>,
    places: Arc<Semaphore>,
    log: Reader,
    keys: Keys,
    pace: Pace,
}

impl Lookup {
    /// Opens connections to a state.db that is there.
    pub(crate) fn new(place: &Place, log: Reader, pace: Pace) -> Result<Self, StoreError> {
        let connections = [
            Mutex::new(place.connect(true)?),
            Mutex::new(place.connect(true)?),
        ];
        Ok(Self {
            connections: Arc::new(connections),
            places: Arc::new(Semaphore::new(IN_HAND_MAX)),
            log,
            keys: place.keys.clone(),
            pace,
        })
    }

    /// The transaction without its payloads.
    pub(crate) async fn find(&self, id: TransactionId) -> Result<Option<Row>, StoreError> {
        self.run(
            move |connection, _| Ok(stored(connection, id)?.map(row::Stored::without_payloads)),
        )
        .await
    }

    /// The transaction with its payloads, as soon as few others are in hand.
    pub(crate) async fn get(&self, id: TransactionId) -> Result<Option<(Row, InHand)>, StoreError> {
        let place = self.places.clone().acquire_owned().await;
        let place = place.expect("the semaphore is never closed");
        let found = self.run(move |connection, log| {
            let found = stored(connection, id)?;
            found.map(|found| found.with_payloads(log)).transpose()
        });
        Ok(found.await?.map(|row| (row, place)))
    }

    /// What the key was used for, if its transaction is here.
    pub(crate) async fn by_key(
        &self,
        workflow: WorkflowName,
        key: String,
    ) -> Result<Option<Known>, StoreError> {
        let hash = KeyHash::of(&workflow, &key);
        let places = self.keys.may_have(hash);
        if places.is_empty() {
            return Ok(None);
        }
        self.run(move |connection, _| by_key(connection, places, hash, &workflow, &key))
            .await
    }

    /// A page of a list, newest first, of what is older than `before`.
    pub(crate) async fn list(
        &self,
        filter: Filter,
        before: Option<TransactionId>,
        limit: usize,
    ) -> Result<Found, StoreError> {
        self.run(move |connection, _| list(connection, &filter, before, limit))
            .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection, &Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let this = self.clone();
        let look = move || {
            let [first, second] = &*this.connections;
            let connection = first
                .try_lock()
                .or_else(|_| second.lock())
                .unwrap_or_else(PoisonError::into_inner);
            work(&connection, &this.log)
        };
        match self.pace {
            // Nobody else waits for this thread.
            Pace::Stepped => look(),
            Pace::Thread => tokio::task::spawn_blocking(look)
                .await
                .unwrap_or_else(|error| Err(StoreError::Io(std::io::Error::other(error)))),
        }
    }
}

/// The row of a transaction.
fn stored(connection: &Connection, id: TransactionId) -> Result<Option<row::Stored>, StoreError> {
    let mut statement =
        connection.prepare_cached(&format!("SELECT {COLUMNS} FROM transactions WHERE id = ?1"))?;
    let mut rows = statement.query([id.0.as_slice()])?;
    rows.next()?.map(row::read).transpose()
}

/// Looks through one stretch of the log after the other, from the newest on: most keys that come again
/// do so soon.
fn by_key(
    connection: &Connection,
    places: Vec<RangeInclusive<i64>>,
    hash: KeyHash,
    workflow: &WorkflowName,
    key: &str,
) -> Result<Option<Known>, StoreError> {
    // Asked for at once, they would be looked for in every row.
    let bounds = "SELECT (SELECT min(first_offset) FROM transactions),
                         (SELECT max(first_offset) FROM transactions)";
    let mut bounds = connection.prepare_cached(bounds)?;
    let bounds: (Option<i64>, Option<i64>) =
        bounds.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let (Some(oldest), Some(newest)) = bounds else {
        return Ok(None);
    };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM transactions INDEXED BY transactions_key
         WHERE first_offset >> 20 = ?1 AND key_hash = ?2"
    ))?;
    let (oldest, newest) = (stretch_of(oldest), stretch_of(newest));
    let there = |place: RangeInclusive<i64>| oldest.max(*place.start())..=newest.min(*place.end());
    for stretch in places.into_iter().flat_map(|place| there(place).rev()) {
        let mut rows = statement.query((stretch, hash.0))?;
        while let Some(found) = rows.next()? {
            let row = row::read(found)?.without_payloads();
            let start = row.carried.start;
            if row.workflow == *workflow && start.idempotency_key == key {
                return Ok(Some(Known {
                    id: row.id,
                    input_hash: start.input_hash,
                }));
            }
        }
    }
    Ok(None)
}

fn list(
    connection: &Connection,
    filter: &Filter,
    before: Option<TransactionId>,
    limit: usize,
) -> Result<Found, StoreError> {
    let mut clauses = Vec::new();
    let mut values = Vec::new();
    let mut clause = |text: &str, value: Value| {
        values.push(value);
        clauses.push(format!("{text}?{}", values.len()));
    };
    if let Some(before) = before {
        clause("id < ", Value::Blob(before.0.to_vec()));
    }
    if let Some(workflow) = &filter.workflow {
        clause("workflow = ", Value::Text(workflow.as_str().to_owned()));
    }
    if let Some(Time(started_after)) = filter.started_after {
        clause("start_us >= ", Value::Integer(started_after));
    }
    if !filter.states.is_empty() {
        let states: Vec<_> = filter
            .states
            .iter()
            .map(|state| i32::from(*state).to_string())
            .collect();
        clauses.push(format!("state IN ({})", states.join(", ")));
    }
    let condition = if clauses.is_empty() {
        String::new()
    } else {
        format!("WHERE {}", clauses.join(" AND "))
    };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM transactions {condition} ORDER BY id DESC"
    ))?;
    let mut rows = statement.query(rusqlite::params_from_iter(values))?;
    let started_at = Instant::now();
    let mut found = Found::default();
    while let Some(next) = rows.next()? {
        let row = row::read(next)?.without_payloads();
        let id = row.id;
        let labels = &row.carried.start.labels;
        let matches = filter
            .labels
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value));
        if matches {
            if found.rows.len() == limit {
                // There is one more: the page ends at the last one that it holds.
                found.next = found.rows.last().map(|row| row.id);
                break;
            }
            found.rows.push(row);
        }
        if started_at.elapsed() > PAGE_TIME_MAX {
            found.next = Some(id);
            break;
        }
    }
    Ok(found)
}
