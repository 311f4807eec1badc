//! The tables of state.db, their settings, and what a start reads of them.

use std::sync::Arc;

use eventlog::{Bounds, Offset, Reader};
use prost::Message as _;
use proto::batch::decode;
use proto::event::Event;
use proto::id::Time;
use proto::wire;
use proto::workflow::Workflow;
use rusqlite::{Connection, OptionalExtension as _};

use super::keys::KeyHash;
use super::row::{COLUMNS, Raw, Row};
use super::{Keys, Loaded, StoreError};

/// Rises when the tables change; another one is set aside and rebuilt.
const FORMAT: i64 = 5;
/// Live rows that one thread hands to another.
const ROWS_AT_ONCE: usize = 512;
/// Up to this size the whole file is checked at each start: it takes a moment.
const CHECKED_BYTES_MAX: i64 = 64 << 20;

/// A transaction's key is where the log has its beginning: rows are added about in this order, and those
/// of what was trimmed stand together. So do idempotency keys, by stretches of the log ([`stretch_of`]):
/// they come at random, and in one index of all of them each new one would change another page.
const TABLES: &str = "
CREATE TABLE mark (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    log_id BLOB NOT NULL,
    applied INTEGER NOT NULL,
    opened_us INTEGER,
    checksum INTEGER NOT NULL
);
CREATE TABLE workflows (
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    at_offset INTEGER NOT NULL,
    definition BLOB NOT NULL,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (name, version)
) WITHOUT ROWID;
CREATE TABLE hosts (
    at_offset INTEGER PRIMARY KEY,
    events BLOB NOT NULL,
    checksum INTEGER NOT NULL
);
CREATE TABLE transactions (
    first_offset INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    workflow TEXT NOT NULL,
    state INTEGER NOT NULL,
    start_us INTEGER NOT NULL,
    update_us INTEGER NOT NULL,
    ended INTEGER NOT NULL,
    key_hash INTEGER,
    snapshot BLOB NOT NULL,
    payloads BLOB NOT NULL,
    inline_max INTEGER NOT NULL,
    checksum INTEGER NOT NULL
);
CREATE INDEX transactions_live ON transactions (ended) WHERE ended = 0;
CREATE INDEX transactions_key ON transactions (first_offset >> 20, key_hash)
    WHERE key_hash IS NOT NULL;
CREATE INDEX transactions_workflow ON transactions (workflow, id);
";

/// Settings that hold for a connection, not for the file.
pub(super) fn configure(connection: &Connection, read_only: bool) -> Result<(), StoreError> {
    connection.busy_timeout(std::time::Duration::from_secs(1))?;
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.set_prepared_statement_cache_capacity(32);
    if read_only {
        return Ok(());
    }
    // It is a fold and can be rebuilt: a power cut may take its last rows, never its consistency.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    // What a handover changes stays in memory until it is committed.
    connection.pragma_update(None, "cache_size", -8192)?;
    // A passive checkpoint each 16 MiB of WAL.
    connection.pragma_update(None, "wal_autocheckpoint", 1024)?;
    connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    Ok(())
}

/// What holds for the file: said to one that has it already, it would be written there again, which a
/// full disk refuses.
fn make(connection: &Connection) -> Result<(), StoreError> {
    // Before the first table. Most of what a handover changes are whole pages, and each costs two writes
    // into the WAL and one out of it, however large it is.
    connection.pragma_update(None, "page_size", 16_384)?;
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    Ok(connection.execute_batch(TABLES)?)
}

/// Reads what a start needs, or makes the tables of a new file.
pub(super) fn load(connection: &Connection, bounds: &Bounds) -> Result<Loaded, StoreError> {
    let format: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if format == 0 {
        let tables: i64 =
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        if tables > 0 {
            return Err(StoreError::Damaged("it has no format version".to_owned()));
        }
        make(connection)?;
        connection.execute(
            "INSERT INTO mark (one, log_id, applied, checksum) VALUES (1, ?1, ?2, ?3)",
            (
                bounds.log_id.as_slice(),
                offset_to_sql(bounds.oldest),
                mark_checksum(bounds.oldest, None),
            ),
        )?;
        connection.pragma_update(None, "user_version", FORMAT)?;
        return Ok(Loaded {
            applied: bounds.oldest,
            ..Loaded::default()
        });
    }
    if format != FORMAT {
        return Err(StoreError::Damaged(format!(
            "it has format {format}, and this program writes {FORMAT}"
        )));
    }
    check_small_file(connection)?;
    let mark: Option<(Vec<u8>, i64, Option<i64>, u32)> = connection
        .query_row(
            "SELECT log_id, applied, opened_us, checksum FROM mark",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
        )
        .optional()?;
    let Some((log_id, applied, opened_us, checksum)) = mark else {
        return Err(StoreError::Damaged("its mark is missing".to_owned()));
    };
    if log_id != bounds.log_id {
        return Err(StoreError::Damaged("it belongs to another log".to_owned()));
    }
    let applied = offset_from_sql(applied)?;
    let opened = opened_us.map(Time);
    if checksum != mark_checksum(applied, opened) {
        return Err(StoreError::Damaged("its mark".to_owned()));
    }
    super::check_offset(applied, bounds)?;
    Ok(Loaded {
        applied,
        opened,
        workflows: workflows(connection)?,
        hosts: hosts(connection)?,
    })
}

/// A flipped bit in a page that a start doesn't read would be met much later.
fn check_small_file(connection: &Connection) -> Result<(), StoreError> {
    let pages: i64 = connection.pragma_query_value(None, "page_count", |row| row.get(0))?;
    let page_bytes: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
    if pages.saturating_mul(page_bytes) > CHECKED_BYTES_MAX {
        return Ok(());
    }
    // Not the quick one, which doesn't hold indexes against their tables.
    let answer: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if answer != "ok" {
        return Err(StoreError::Damaged(answer));
    }
    // Ended ones too, which nobody may ask for until much later.
    let mut statement = connection.prepare(&format!("SELECT {COLUMNS} FROM transactions"))?;
    let mut rows = statement.query([])?;
    while let Some(found) = rows.next()? {
        Raw::copy(found)?;
    }
    Ok(())
}

/// The stretch of the log whose keys stand together in the index with those of a transaction that
/// began at this offset; as `transactions_key` counts them.
pub(super) fn stretch_of(first_offset: i64) -> i64 {
    first_offset >> 20
}

/// Fills the filter; the index alone is read.
pub(super) fn keys(connection: &Connection, known: &Keys) -> Result<(), StoreError> {
    let mut statement = connection.prepare(
        "SELECT key_hash, first_offset >> 20 FROM transactions INDEXED BY transactions_key
         WHERE key_hash IS NOT NULL ORDER BY first_offset >> 20 DESC",
    )?;
    let mut rows = statement.query([])?;
    let mut begun = i64::MAX;
    while let Some(row) = rows.next()? {
        let stretch = row.get(1)?;
        if stretch < begun {
            known.known_from(begun);
            begun = stretch;
        }
        known.insert(KeyHash(row.get(0)?), stretch);
    }
    known.known_from(i64::MIN);
    Ok(())
}

fn workflows(connection: &Connection) -> Result<Vec<(Offset, Arc<Workflow>)>, StoreError> {
    let mut statement = connection.prepare(
        "SELECT name, version, at_offset, definition, checksum FROM workflows ORDER BY at_offset",
    )?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let version: u32 = row.get(1)?;
        let at_offset = offset_from_sql(row.get(2)?)?;
        let definition: Vec<u8> = row.get(3)?;
        let damaged =
            |what: String| StoreError::Damaged(format!("workflow {name} {version}: {what}"));
        if row.get::<_, u32>(4)? != placed_checksum(at_offset, &definition) {
            return Err(damaged("its checksum".to_owned()));
        }
        let definition = wire::Workflow::decode(definition.as_slice())
            .map_err(|error| damaged(error.to_string()))?;
        let workflow = Workflow::check(&definition).map_err(|problem| damaged(problem.message))?;
        found.push((at_offset, Arc::new(workflow)));
    }
    Ok(found)
}

fn hosts(connection: &Connection) -> Result<Vec<(Offset, Event)>, StoreError> {
    let mut statement = connection.prepare("SELECT at_offset, events, checksum FROM hosts")?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let at = offset_from_sql(row.get(0)?)?;
        let events: Vec<u8> = row.get(1)?;
        let damaged =
            |what: String| StoreError::Damaged(format!("the host of offset {at}: {what}"));
        if row.get::<_, u32>(2)? != placed_checksum(at, &events) {
            return Err(damaged("its checksum".to_owned()));
        }
        let decoded = decode(&events, None).map_err(|error| damaged(error.to_string()))?;
        found.extend(decoded.events.into_iter().map(|stored| (at, stored.event)));
    }
    Ok(found)
}

/// Calls `take` with each live transaction, in the order in which they stand on the disk. Where there
/// are many, they are decoded and taken on another thread, while this one reads on.
pub(super) fn live(
    connection: &Connection,
    reader: &Reader,
    mut take: impl FnMut(Row) -> Result<(), StoreError> + Send,
) -> Result<(), StoreError> {
    let mut statement = connection.prepare(&format!(
        "SELECT {COLUMNS} FROM transactions INDEXED BY transactions_live
         WHERE ended = 0 ORDER BY first_offset"
    ))?;
    let mut rows = statement.query([])?;
    let mut next = || -> Result<Vec<Raw>, StoreError> {
        let mut some = Vec::new();
        while some.len() < ROWS_AT_ONCE
            && let Some(found) = rows.next()?
        {
            some.push(Raw::copy(found)?);
        }
        Ok(some)
    };
    let mut take_all = |some: Vec<Raw>| {
        some.into_iter()
            .try_for_each(|raw| take(raw.decode()?.with_payloads(reader)?))
    };
    let first = next()?;
    if first.len() < ROWS_AT_ONCE {
        return take_all(first);
    }
    std::thread::scope(|scope| {
        let (give, taken) = crossbeam_channel::bounded(4);
        let taking = scope.spawn(move || taken.into_iter().try_for_each(&mut take_all));
        // Once it returns, the other thread hears that there is no more.
        let read = move || -> Result<(), StoreError> {
            let mut some = first;
            while !some.is_empty() {
                if give.send(some).is_err() {
                    // The other thread found something wrong, which it says.
                    break;
                }
                some = next()?;
            }
            Ok(())
        };
        let read = read();
        let taken = taking
            .join()
            .unwrap_or_else(|_| Err(StoreError::Damaged("its rows can't be read".to_owned())));
        taken.and(read)
    })
}

/// Of what SQLite itself doesn't guard: a flipped bit in a value is no damage to it.
pub(super) fn checksum<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    parts.into_iter().fold(0, |checksum, part| {
        let length = (part.len() as u64).to_le_bytes();
        crc32c::crc32c_append(crc32c::crc32c_append(checksum, &length), part)
    })
}

pub(super) fn mark_checksum(applied: Offset, opened: Option<Time>) -> u32 {
    let opened = opened.map(|opened| opened.0.to_le_bytes());
    checksum([
        applied.to_le_bytes().as_slice(),
        opened.as_ref().map_or(&[], |opened| opened.as_slice()),
    ])
}

/// Of what has its name in it and stands in the log at an offset.
pub(super) fn placed_checksum(at: Offset, what: &[u8]) -> u32 {
    checksum([at.to_le_bytes().as_slice(), what])
}

pub(super) fn offset_to_sql(offset: Offset) -> i64 {
    // A log of 2^63 events is out of reach; SQLite's integers end there.
    i64::try_from(offset).unwrap_or(i64::MAX)
}

pub(super) fn offset_from_sql(offset: i64) -> Result<Offset, StoreError> {
    Offset::try_from(offset).map_err(|_| StoreError::Damaged(format!("offset {offset}")))
}
