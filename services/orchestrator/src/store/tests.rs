//! Specifications of state.db: rows read back whole, and a bad file is rebuilt, never believed.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use bytes::Bytes;
use eventlog::{Batch, EventLog, MemoryStore, Options, Reader};
use proto::batch::Encoder;
use proto::event::{
    Carried, CarriedCommand, CarriedStep, Command, CommandEvent, Event, HostEvent, Kind, Start,
    Timing, TransactionEvent,
};
use proto::id::{HostId, StepName, Time, TransactionId, WorkerName, WorkflowName};
use proto::lifecycle::{Stage, StepState, TransactionState};
use proto::payload::Payload;
use smallvec::smallvec;

use super::*;

mod lookups;

fn json(length: usize) -> Payload {
    Payload::Held(Bytes::from(format!("{{\"x\":\"{}\"}}", "y".repeat(length))))
}

fn start(input: Payload, key: &str) -> Start {
    Start {
        version: 1,
        input,
        idempotency_key: key.to_owned(),
        input_hash: Bytes::from_static(b"hash"),
        labels: BTreeMap::from([("team".to_owned(), "blue".to_owned())]),
        trace_parent: String::new(),
    }
}

fn row(number: u8, key: &str, state: TransactionState, result: Payload, at: (u64, u64)) -> Row {
    Row {
        id: TransactionId([number; 16]),
        workflow: WorkflowName::parse("orders").unwrap(),
        carried: Carried {
            start_time: Time(i64::from(number)),
            start: start(json(5), key),
            state,
            failure: None,
            failed_step: None,
            cancel: None,
            steps: vec![CarriedStep {
                step: StepName::parse("pay").unwrap(),
                state: StepState::Completed,
                result: Some(result),
                completed_offset: at.1,
                failures: 1,
                losses: 2,
                undo_failures: 0,
                undo_losses: 0,
                failure: None,
                commands: smallvec![CarriedCommand {
                    attempt: 1,
                    undo: false,
                    stage: Stage::Completed,
                    host: None,
                    queued: Time(3),
                    dispatched: Time(4).moment(),
                    picked_up: None,
                    processing: None,
                    ended: Time(6).moment(),
                    timing: Timing {
                        wait_us: 1,
                        run_us: 2,
                    },
                    failure: None,
                    not_before: None,
                }],
            }],
        },
        update_time: Time(99),
        first_offset: at.0,
    }
}

/// A log of one start and one completion whose payloads are `input` and `result`.
fn log_with(id: TransactionId, input: Payload, result: Payload) -> (MemoryStore, Reader) {
    let store = MemoryStore::new();
    let mut log = store.open(Options::default()).unwrap();
    let workflow = WorkflowName::parse("orders").unwrap();
    let mut encoder = Encoder::default();
    encoder.push(&Event {
        time: Time(1),
        kind: Kind::Transaction {
            id,
            workflow: workflow.clone(),
            what: TransactionEvent::Started(Box::new(start(input, ""))),
        },
    });
    encoder.push(&Event {
        time: Time(2),
        kind: Kind::Command {
            id,
            workflow,
            command: Command {
                step: StepName::parse("pay").unwrap(),
                worker: WorkerName::parse("w").unwrap(),
                attempt: 1,
                undo: false,
                host: None,
            },
            what: CommandEvent::Completed {
                result,
                timing: Timing::default(),
            },
        },
    });
    let (events, payloads) = encoder.finish(0);
    log.append(
        0,
        &Batch {
            count: 2,
            time_us: 1,
            events,
            payloads,
        },
    )
    .unwrap();
    let reader = log.reader();
    (store, reader)
}

struct Fixture {
    place: Place,
    reader: Reader,
    _directory: tempfile::TempDir,
}

fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let (_, reader) = log_with(TransactionId([1; 16]), json(5), json(9_000));
    Fixture {
        place: Place::new(directory.path(), 4096, Keys::default()),
        reader,
        _directory: directory,
    }
}

fn write(fixture: &Fixture, handovers: Vec<Handover>) {
    let (connection, _) = fixture.place.open(&fixture.reader).unwrap();
    let thread =
        StoreThread::start(fixture.place.clone(), connection, Pace::Thread, false).unwrap();
    for handover in handovers {
        let applied = handover.applied;
        thread.hand_over(handover);
        assert!(matches!(thread.stored().recv().unwrap(), Stored::Applied(at) if at == applied));
    }
}

fn handover(applied: Offset, rows: Vec<Arc<Row>>) -> Handover {
    Handover {
        applied,
        rows,
        ..Handover::default()
    }
}

fn live_rows(connection: &Connection, reader: &Reader) -> Result<Vec<Row>, StoreError> {
    let mut found = Vec::new();
    Place::live(connection, reader, |row| {
        found.push(row);
        Ok(())
    })?;
    Ok(found)
}

/// More than one thread hands to another at once, and something wrong in the last of them.
#[test]
fn many_live_rows_come_back_all_or_with_what_is_wrong() {
    let fixture = fixture();
    let rows: Vec<_> = (0..2_000_u32)
        .map(|number| {
            let mut row = row(1, "", TransactionState::Running, json(9), (0, 1));
            row.id.0[..4].copy_from_slice(&number.to_be_bytes());
            row.first_offset = number.into();
            row
        })
        .collect();
    let all = rows.iter().cloned().map(Arc::new).collect();
    write(&fixture, vec![handover(2, all)]);
    let (connection, _) = fixture.place.open(&fixture.reader).unwrap();
    assert_eq!(live_rows(&connection, &fixture.reader).unwrap(), rows);
    let spoil = "UPDATE transactions SET update_us = 0 WHERE id = ?1";
    let last = rows.last().unwrap().id;
    connection.execute(spoil, [last.0.as_slice()]).unwrap();
    let error = live_rows(&connection, &fixture.reader).unwrap_err();
    assert!(error.is_damage(), "{error}");
    let mut taken = 0;
    let refused = Place::live(&connection, &fixture.reader, |_| {
        taken += 1;
        match taken {
            700 => Err(StoreError::Damaged("not wanted".to_owned())),
            _ => Ok(()),
        }
    });
    assert!(refused.unwrap_err().to_string().contains("not wanted"));
}

/// A driver that folds anew because the disk is full finds no room for anything.
#[test]
fn a_file_that_is_there_is_opened_without_a_write() {
    let fixture = fixture();
    let live = row(1, "", TransactionState::Running, json(9), (0, 1));
    write(&fixture, vec![handover(2, vec![Arc::new(live)])]);
    let (connection, _) = fixture.place.open(&fixture.reader).unwrap();
    assert_eq!(live_rows(&connection, &fixture.reader).unwrap().len(), 1);
    let written = fixture.place.path.with_extension("db-wal").metadata();
    assert_eq!(written.unwrap().len(), 0);
}

#[tokio::test]
async fn trimmed_transactions_lose_their_rows_and_live_ones_keep_theirs() {
    let fixture = fixture();
    let ended = row(2, "k", TransactionState::Completed, json(9), (0, 1));
    let live = row(3, "", TransactionState::Running, json(9), (1, 1));
    let carried = row(4, "", TransactionState::Completed, json(9), (2, 2));
    let mut carried_on = carried.clone();
    carried_on.first_offset = 5;
    write(
        &fixture,
        vec![
            Handover {
                applied: 2,
                rows: [ended, live.clone(), carried].map(Arc::new).to_vec(),
                ..Handover::default()
            },
            Handover {
                applied: 2,
                rows: vec![Arc::new(carried_on.clone())],
                forget_before: Some(3),
                ..Handover::default()
            },
        ],
    );
    let lookup = Lookup::new(&fixture.place, fixture.reader.clone(), Pace::Thread).unwrap();
    assert_eq!(lookups::whole(&lookup, TransactionId([2; 16])).await, None);
    assert_eq!(lookups::whole(&lookup, live.id).await, Some(live));
    assert_eq!(
        lookups::whole(&lookup, carried_on.id).await,
        Some(carried_on)
    );
}

#[test]
fn a_file_that_is_damaged_foreign_or_ahead_is_set_aside() {
    type Spoil = fn(&Fixture);
    let spoil: [(&str, Spoil); 4] = [
        ("a column's name", |fixture| {
            let mut bytes = std::fs::read(&fixture.place.path).unwrap();
            let at = bytes.windows(11).position(|found| found == b"events BLOB");
            bytes[at.unwrap()] ^= 1;
            std::fs::write(&fixture.place.path, bytes).unwrap();
        }),
        ("damaged", |fixture| {
            let mut bytes = std::fs::read(&fixture.place.path).unwrap();
            let middle = bytes.len() / 2;
            bytes[20..middle].fill(0xa5);
            std::fs::write(&fixture.place.path, bytes).unwrap();
        }),
        ("ahead", |fixture| {
            write(
                fixture,
                vec![Handover {
                    applied: 77,
                    ..Handover::default()
                }],
            );
        }),
        ("no database", |fixture| {
            std::fs::write(
                &fixture.place.path,
                "not a database, but long enough to be read",
            )
            .unwrap();
        }),
    ];
    for (what, spoil) in spoil {
        let fixture = fixture();
        write(
            &fixture,
            vec![Handover {
                applied: 2,
                rows: vec![Arc::new(row(
                    3,
                    "",
                    TransactionState::Running,
                    json(9),
                    (0, 1),
                ))],
                ..Handover::default()
            }],
        );
        spoil(&fixture);
        let (connection, loaded) = fixture.place.open(&fixture.reader).unwrap();
        assert_eq!(loaded.applied, 0, "{what}");
        let live = live_rows(&connection, &fixture.reader).unwrap();
        assert!(live.is_empty(), "{what}");
        assert!(
            fixture.place.path.with_extension("db.aside-0").exists(),
            "{what}"
        );
    }
}

fn came(name: &str) -> Vec<Kind> {
    let kind = |what| Kind::Host {
        host: HostId::parse(name).unwrap(),
        what,
    };
    let connected = HostEvent::Connected {
        workers: vec![(WorkerName::parse("w").unwrap(), 3)],
        machine: "m".to_owned(),
        version: "1".to_owned(),
        lease_us: 9,
        carried: true,
    };
    vec![kind(connected), kind(HostEvent::Draining)]
}

#[test]
fn hosts_and_the_last_start_come_back_as_they_were_handed_over_last() {
    let fixture = fixture();
    let of = |hosts| Handover {
        applied: 2,
        opened: Some(Time(5)),
        hosts,
        ..Handover::default()
    };
    let told = |hosts: &[(Offset, &str)]| {
        let told = hosts.iter().map(|(at, name)| (*at, came(name)));
        of(Some(told.collect()))
    };
    let handovers = [told(&[(0, "a"), (5, "b")]), told(&[(5, "b"), (8, "c")])];
    write(&fixture, [&handovers[..], &[of(None)]].concat());
    let (_, loaded) = fixture.place.open(&fixture.reader).unwrap();
    assert_eq!(loaded.opened, Some(Time(5)));
    let hosts = loaded.hosts.into_iter().map(|(at, event)| (at, event.kind));
    let wanted =
        [(5, "b"), (8, "c")].map(|(at, name)| came(name).into_iter().map(move |kind| (at, kind)));
    assert_eq!(
        hosts.collect::<Vec<_>>(),
        wanted.into_iter().flatten().collect::<Vec<_>>()
    );
}

/// SQLite guards its own structure, not what stands in a value.
#[test]
fn a_flipped_bit_in_a_value_is_damage_and_never_another_value() {
    let fixture = fixture();
    let live = row(3, "k", TransactionState::Running, json(9), (0, 1));
    let handover = Handover {
        applied: 1,
        rows: vec![Arc::new(live)],
        opened: Some(Time(7)),
        hosts: Some(vec![(0, came("h"))]),
        ..Handover::default()
    };
    write(&fixture, vec![handover]);
    let bounds = fixture.reader.bounds();
    let (connection, _) = fixture.place.open(&fixture.reader).unwrap();
    let load = || {
        schema::load(&connection, &bounds)?;
        live_rows(&connection, &fixture.reader)
    };
    for (table, column) in [
        ("transactions", "snapshot"),
        ("transactions", "payloads"),
        ("hosts", "events"),
    ] {
        let read = format!("SELECT {column} FROM {table}");
        let whole: Vec<u8> = connection.query_row(&read, [], |row| row.get(0)).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let spoil = format!("UPDATE {table} SET {column} = ?1");
            connection.execute(&spoil, [&bytes]).unwrap();
            assert!(load().unwrap_err().is_damage(), "{column}, bit {bit}");
            connection.execute(&spoil, [&whole]).unwrap();
        }
    }
    assert_eq!(load().unwrap().len(), 1);
    for (table, column) in [
        ("transactions", "update_us"),
        ("transactions", "first_offset"),
        ("transactions", "inline_max"),
        ("transactions", "checksum"),
        ("hosts", "at_offset"),
        ("hosts", "checksum"),
        ("mark", "applied"),
        ("mark", "opened_us"),
        ("mark", "checksum"),
    ] {
        let change = |by: i32| {
            let change = format!("UPDATE {table} SET {column} = {column} + {by}");
            connection.execute(&change, []).unwrap();
        };
        change(1);
        assert!(load().unwrap_err().is_damage(), "{table}.{column}");
        change(-1);
    }
    assert_eq!(load().unwrap().len(), 1);
}
