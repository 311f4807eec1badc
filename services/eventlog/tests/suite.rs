//! Both stores keep the same promises; the embedded one on both of its disks.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use eventlog::suite::{OpenLog, Step, check_history, run};
use eventlog::{
    AppendError, Batch, EventLog, MemoryStore, Options, ReadError, Refused, Room, SegmentLog,
    SimulatedDisk,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn in_memory(options: Options) -> OpenLog {
    let store = MemoryStore::new();
    Box::new(move || Ok(Box::new(store.open(options)?)))
}

fn on_simulated_disk(options: Options) -> OpenLog {
    let disk = SimulatedDisk::new();
    let options = Options {
        background: false,
        ..options
    };
    Box::new(move || {
        Ok(Box::new(SegmentLog::open_on(
            Arc::new(disk.clone()),
            options,
        )?))
    })
}

fn on_real_disk(options: Options) -> OpenLog {
    let directory = tempfile::tempdir().unwrap();
    Box::new(move || Ok(Box::new(SegmentLog::open(directory.path(), options)?)))
}

#[test]
fn the_store_in_memory_keeps_every_promise() {
    run(in_memory);
}

#[test]
fn the_embedded_store_keeps_every_promise_on_a_simulated_disk() {
    run(on_simulated_disk);
}

#[test]
fn the_embedded_store_keeps_every_promise_on_a_real_disk() {
    run(on_real_disk);
}

#[test]
fn the_embedded_store_keeps_every_promise_when_it_syncs_lazily() {
    run(|options| {
        on_simulated_disk(Options {
            sync: eventlog::Sync::Lazily,
            ..options
        })
    });
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (1..6u32, 0..700usize, 0..700usize).prop_map(|(count, events, payloads)| {
            Step::Append { count, events, payloads }
        }),
        1 => (1..3u32, 0..9000usize, 0..9000usize).prop_map(|(count, events, payloads)| {
            Step::Append { count, events, payloads }
        }),
        1 => any::<i8>().prop_map(Step::AppendBeside),
        1 => any::<bool>().prop_map(|close| Step::Reopen { close }),
        1 => (0..1001u16).prop_map(Step::Trim),
        4 => (0..1001u16, 0..8000usize, any::<bool>()).prop_map(|(from, max_bytes, payloads)| {
            Step::Read { from, max_bytes, payloads }
        }),
    ];
    vec(step, 0..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_history_leaves_the_embedded_store_as_it_should_be(steps in steps()) {
        let options = Options { segment_bytes: 4096, ..Options::default() };
        check_history(&on_simulated_disk(options), &steps);
    }

    #[test]
    fn any_history_leaves_the_store_in_memory_as_it_should_be(steps in steps()) {
        check_history(&in_memory(Options::default()), &steps);
    }
}

const BATCH: Batch<'_> = Batch {
    count: 1,
    time_us: 0,
    events: b"event",
    payloads: b"",
};

#[test]
fn faults_asked_of_the_store_in_memory_come_once() {
    let store = MemoryStore::new();
    let mut log = store.open(Options::default()).unwrap();
    store.refuse_next(Refused::Full("asked for".into()));
    assert!(matches!(
        log.append(0, &BATCH),
        Err(AppendError::Refused(Refused::Full(_)))
    ));
    assert_eq!(log.append(0, &BATCH).unwrap(), 1);
    store.fail_next_read(ReadError::Io("asked for".into()));
    assert!(log.reader().read(0, 1, true).is_err());
    assert_eq!(log.reader().read(0, 1, true).unwrap().len(), 1);
    store.set_room(Room::Reserved);
    assert_eq!(log.room(), Room::Reserved);
}

#[test]
fn an_unknown_append_ends_the_log_in_memory_and_the_next_open_finds_out() {
    for written in [false, true] {
        let store = MemoryStore::new();
        let mut log = store.open(Options::default()).unwrap();
        store.unknown_next(written);
        assert!(matches!(
            log.append(0, &BATCH),
            Err(AppendError::Unknown(_))
        ));
        assert_eq!(
            log.reader().bounds().next,
            0,
            "readers see what is durable only"
        );
        assert!(
            matches!(log.append(0, &BATCH), Err(AppendError::Unknown(_))),
            "for ever"
        );
        drop(log);
        let log = store.open(Options::default()).unwrap();
        assert_eq!(log.reader().bounds().next, u64::from(written));
    }
}
