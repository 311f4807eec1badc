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
async fn rows_come_back_whole_with_large_payloads_fetched_from_the_log() {
    let fixture = fixture();
    let large = row(1, "", TransactionState::Running, json(9_000), (0, 1));
    let ended = row(2, "k", TransactionState::Completed, json(9), (7, 8));
    let rows = [&large, &ended].map(|row| Arc::new(row.clone()));
    write(&fixture, vec![handover(2, rows.into())]);
    let (connection, loaded) = fixture.place.open(&fixture.reader).unwrap();
    assert_eq!(loaded.applied, 2);
    assert_eq!(live_rows(&connection, &fixture.reader).unwrap(), [large]);
    let lookup = Lookup::new(&fixture.place, fixture.reader.clone(), Pace::Thread).unwrap();
    assert_eq!(lookup.get(ended.id).await.unwrap(), Some(ended.clone()));
    assert_eq!(lookup.get(TransactionId([9; 16])).await.unwrap(), None);
    let known = lookup.by_key(ended.workflow.clone(), "k".to_owned()).await;
    assert_eq!(known.unwrap().unwrap().id, ended.id);
    let none = lookup.by_key(ended.workflow, "other".to_owned()).await;
    assert_eq!(none.unwrap(), None);
}

#[tokio::test]
async fn a_key_is_found_however_far_away_its_transaction_began_and_no_other_in_its_place() {
    let fixture = fixture();
    let began = [3_u64, 40 << 20, (40 << 20) + 9, 90 << 20];
    let rows: Vec<_> = (1_u8..)
        .zip(began)
        .map(|(number, at)| {
            let key = format!("k{number}");
            let done = TransactionState::Completed;
            Arc::new(row(number, &key, done, json(1), (at, at + 1)))
        })
        .collect();
    drop(fixture.place.open(&fixture.reader).unwrap());
    fixture.place.learn_keys(Pace::Stepped);
    write(&fixture, vec![handover((90 << 20) + 2, rows.clone())]);
    let [unknown, learnt] = [(); 2].map(|()| Place {
        keys: Keys::default(),
        ..fixture.place.clone()
    });
    learnt.learn_keys(Pace::Stepped);
    let workflow = &rows[0].workflow;
    let found = async |place: &Place, key: &str| {
        let lookup = Lookup::new(place, fixture.reader.clone(), Pace::Thread).unwrap();
        let known = lookup.by_key(workflow.clone(), key.to_owned()).await;
        known.unwrap().map(|known| known.id)
    };
    // By who wrote the keys, who knows none of them yet, and who has learnt them.
    for place in [&fixture.place, &unknown, &learnt] {
        for (number, row) in (1..).zip(&rows) {
            assert_eq!(found(place, &format!("k{number}")).await, Some(row.id));
        }
        assert_eq!(found(place, "k9").await, None);
    }
    // As if the hashes of two keys were the same.
    let connection = fixture.place.connect(false).unwrap();
    let one_hash = "UPDATE transactions SET key_hash =
        (SELECT key_hash FROM transactions WHERE first_offset = 40 << 20)";
    connection.execute(one_hash, []).unwrap();
    assert_eq!(found(&unknown, "k2").await, Some(rows[1].id));
}

#[tokio::test]
async fn lists_are_newest_first_in_pages_and_filtered() {
    let fixture = fixture();
    let rows: Vec<_> = (1..=5)
        .map(|number| {
            let state = match number % 2 {
                0 => TransactionState::Completed,
                _ => TransactionState::Failed,
            };
            Arc::new(row(number, "", state, json(1), (number.into(), 9)))
        })
        .collect();
    write(&fixture, vec![handover(2, rows)]);
    let lookup = Lookup::new(&fixture.place, fixture.reader.clone(), Pace::Thread).unwrap();
    let numbers = |found: &Found| found.rows.iter().map(|row| row.id.0[0]).collect::<Vec<_>>();
    let first = lookup.list(Filter::default(), None, 2).await.unwrap();
    assert_eq!(numbers(&first), [5, 4]);
    let second = lookup.list(Filter::default(), first.next, 9).await.unwrap();
    assert_eq!((numbers(&second), second.next), (vec![3, 2, 1], None));
    let only = |filter: Filter| lookup.list(filter, None, 9);
    let completed = only(Filter {
        states: vec![TransactionState::Completed],
        started_after: Some(Time(3)),
        ..Filter::default()
    });
    assert_eq!(numbers(&completed.await.unwrap()), [4]);
    let red = only(Filter {
        labels: vec![("team".to_owned(), "red".to_owned())],
        ..Filter::default()
    });
    assert!(red.await.unwrap().rows.is_empty());
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
    assert_eq!(lookup.get(TransactionId([2; 16])).await.unwrap(), None);
    assert_eq!(lookup.get(live.id).await.unwrap(), Some(live));
    assert_eq!(lookup.get(carried_on.id).await.unwrap(), Some(carried_on));
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
