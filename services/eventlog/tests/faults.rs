//! The embedded store on a disk that fails: syncs, writes, room and power.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use eventlog::suite::cases;
use eventlog::{
    AppendError, Batch, EventLog, OpenError, Options, Refused, Room, SegmentLog, SimulatedDisk,
    Sync,
};
use proptest::prelude::*;

const OPTIONS: Options = Options {
    segment_bytes: 16 * 1024,
    retention_age: None,
    retention_bytes: None,
    reserve_bytes: 0,
    sync: Sync::EachBatch,
    background: false,
    log_id: Some([9; 16]),
};
const LAZILY: Options = Options {
    sync: Sync::Lazily,
    ..OPTIONS
};
const SECOND_US: i64 = 1_000_000;

fn open(disk: &SimulatedDisk) -> SegmentLog {
    SegmentLog::open_on(Arc::new(disk.clone()), OPTIONS).unwrap()
}

fn append(log: &mut SegmentLog, length: usize) -> Result<u64, AppendError> {
    append_at(log, length, 0)
}

/// A batch whose every byte says its offset.
fn append_at(log: &mut SegmentLog, length: usize, time_us: i64) -> Result<u64, AppendError> {
    let next = log.reader().bounds().next;
    let (events, payloads) = (vec![fill(next); length], vec![fill(next); length / 3]);
    log.append(
        next,
        &Batch {
            count: 1,
            time_us,
            events: &events,
            payloads: &payloads,
        },
    )
}

fn fill(offset: u64) -> u8 {
    (offset % 250) as u8 + 1
}

/// The log is whole; how far it reaches.
fn whole(log: &SegmentLog) -> u64 {
    let bounds = log.reader().verify(&mut |_| ()).unwrap();
    for record in log.reader().read(bounds.oldest, usize::MAX, true).unwrap() {
        assert!(record.events.iter().all(|byte| *byte == fill(record.first)));
        assert!(
            record
                .payloads
                .iter()
                .all(|byte| *byte == fill(record.first))
        );
    }
    bounds.next
}

fn is_full(result: &Result<u64, AppendError>) -> bool {
    matches!(result, Err(AppendError::Refused(Refused::Full(_))))
}

#[test]
fn an_append_is_one_write_and_one_sync_and_a_word_to_head() {
    let disk = SimulatedDisk::new();
    let mut log = SegmentLog::open_on(
        Arc::new(disk.clone()),
        Options {
            segment_bytes: 1 << 20,
            ..OPTIONS
        },
    )
    .unwrap();
    append(&mut log, 100).unwrap();
    let (writes, syncs) = disk.counts();
    for _ in 0..100 {
        append(&mut log, 100).unwrap();
    }
    assert_eq!(disk.counts(), (writes + 200, syncs + 100));
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_any_more() {
    for after in 0..60 {
        let disk = SimulatedDisk::new();
        let mut log = open(&disk);
        for _ in 0..5 {
            append(&mut log, 500).unwrap();
        }
        disk.fail_sync_after(after);
        let mut acknowledged = 5;
        let error = loop {
            match append(&mut log, 500) {
                Ok(next) => acknowledged = next,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, AppendError::Unknown(_)), "{error}");
        assert_eq!(
            log.reader().bounds().next,
            acknowledged,
            "readers see no more"
        );
        // Later syncs succeed, and prove nothing.
        for _ in 0..3 {
            assert!(matches!(append(&mut log, 1), Err(AppendError::Unknown(_))));
        }
        assert!(matches!(log.trim(3), Err(AppendError::Unknown(_))));
        assert!(matches!(log.close(), Err(AppendError::Unknown(_))));
        assert_eq!(whole(&log), acknowledged, "reads go on");
        drop(log);
        let mut log = open(&disk);
        let found = whole(&log);
        assert!(found == acknowledged || found == acknowledged + 1);
        assert_eq!(append(&mut log, 1).unwrap(), found + 1);
    }
}

#[test]
fn what_a_failed_sync_left_in_memory_is_written_again_before_it_is_served() {
    let disk = SimulatedDisk::new();
    let mut log = open(&disk);
    append(&mut log, 300).unwrap();
    disk.fail_sync_after(0);
    append(&mut log, 300).unwrap_err();
    drop(log);
    let log = open(&disk);
    assert_eq!(whole(&log), 2, "the batch of unknown fate is there");
    for seed in 0..20 {
        assert_eq!(whole(&open(&disk.power_cut(seed))), 2, "and now it stays");
    }
}

#[test]
fn a_failed_write_ends_the_writer() {
    let disk = SimulatedDisk::new();
    let mut log = open(&disk);
    append(&mut log, 300).unwrap();
    disk.fail_writes(true);
    assert!(matches!(
        append(&mut log, 300),
        Err(AppendError::Unknown(_))
    ));
    disk.fail_writes(false);
    assert!(matches!(
        append(&mut log, 300),
        Err(AppendError::Unknown(_))
    ));
}

#[test]
fn a_read_that_fails_while_opening_cuts_nothing_off() {
    let disk = SimulatedDisk::new();
    let mut log = open(&disk);
    (0..5).for_each(|_| assert!(append(&mut log, 300).is_ok()));
    drop(log);
    let mut failures = 0;
    for reads in 0..40 {
        let disk = disk.copy();
        disk.fail_read_after(reads);
        match SegmentLog::open_on(Arc::new(disk.clone()), OPTIONS) {
            Ok(log) => drop(log),
            Err(OpenError::Io(_)) => failures += 1,
            Err(error) => panic!("a failing disk is not damage: {error}"),
        }
        assert_eq!(whole(&open(&disk.copy())), 5);
    }
    assert!(failures > 3);
}

#[test]
fn a_full_disk_refuses_and_then_the_log_goes_on_without_being_opened_again() {
    let disk = SimulatedDisk::new();
    disk.set_capacity(Some(100_000));
    let mut log = open(&disk);
    let mut acknowledged = 0;
    let refused = loop {
        match append(&mut log, 700) {
            Ok(next) => acknowledged = next,
            refused => break refused,
        }
    };
    assert!(is_full(&refused), "{refused:?}");
    assert_eq!(log.room(), Room::Reserved);
    assert!(acknowledged > 80);
    for _ in 0..5 {
        assert!(is_full(&append(&mut log, 700)));
    }
    assert_eq!(whole(&log), acknowledged);
    for seed in 0..10 {
        assert_eq!(whole(&open(&disk.power_cut(seed))), acknowledged);
    }
    let oldest = log.trim(40).unwrap();
    assert!(oldest > 0, "a trim fits on a full disk");
    append(&mut log, 700).unwrap();
    assert_eq!(log.room(), Room::Ample);
    disk.set_capacity(None);
    for _ in 0..100 {
        append(&mut log, 700).unwrap();
    }
    assert_eq!(whole(&log), acknowledged + 101);
}

#[test]
fn the_reserve_is_told_while_appends_still_fit() {
    let disk = SimulatedDisk::new();
    disk.set_capacity(Some(200_000));
    let options = Options {
        reserve_bytes: 60_000,
        ..OPTIONS
    };
    let mut log = SegmentLog::open_on(Arc::new(disk), options).unwrap();
    let mut told = None;
    for second in 0.. {
        match append_at(&mut log, 700, second * SECOND_US) {
            Ok(next) if log.room() == Room::Reserved && told.is_none() => told = Some(next),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    let still_fitted = log.reader().bounds().next - told.unwrap();
    assert!(
        still_fitted > 40,
        "results and cancels fit into the reserve: {still_fitted}"
    );
}

#[test]
fn a_batch_refused_in_the_midst_of_its_write_never_comes_back() {
    for written in 0..1400 {
        let disk = SimulatedDisk::new();
        let mut log = open(&disk);
        append(&mut log, 300).unwrap();
        disk.full_after(Some(written));
        // Its end is zeros, and zeros already stand where they belong: a beginning is enough to
        // make it whole.
        let batch = Batch {
            count: 1,
            time_us: 0,
            events: b"refused",
            payloads: &[0; 1200],
        };
        let result = log.append(1, &batch);
        let complete = result.is_ok();
        disk.full_after(None);
        if complete {
            continue;
        }
        let unknown = matches!(result, Err(AppendError::Unknown(_)));
        assert!(is_full(&result) || unknown, "{result:?}");
        if unknown {
            continue;
        }
        for seed in 0..3 {
            assert_eq!(
                whole(&open(&disk.power_cut(seed))),
                1,
                "after {written} bytes"
            );
        }
        assert_eq!(whole(&open(&disk.copy())), 1, "after {written} bytes");
        append(&mut log, 20).unwrap();
        assert_eq!(whole(&log), 2);
    }
}

/// The length of a batch that [`append`] makes a large record of; as the first it ends at a
/// multiple of 4096.
const LARGE: usize = 220_716;
const MIB_SEGMENTS: Options = Options {
    segment_bytes: 2 << 20,
    ..OPTIONS
};

#[test]
fn of_a_large_batch_without_room_nothing_stays_and_the_log_goes_on() {
    let free = [
        0, 1, 4, 8, 79, 80, 81, 2_000, 4_095, 4_096, 4_097, 50_000, 290_000,
    ];
    for (free, before) in free
        .into_iter()
        .flat_map(|free| [(free, LARGE), (free, LARGE + 700)])
    {
        let disk = SimulatedDisk::new();
        let mut log = SegmentLog::open_on(Arc::new(disk.clone()), MIB_SEGMENTS).unwrap();
        append(&mut log, before).unwrap();
        let position = log.reader().bounds().size_bytes as usize;
        assert_eq!(position.is_multiple_of(4096), before == LARGE);
        let used: usize = disk
            .names()
            .iter()
            .map(|name| disk.content(name).len())
            .sum();
        disk.set_capacity(Some((used + free) as u64));
        for _ in 0..2 {
            let result = append(&mut log, LARGE);
            assert!(is_full(&result), "with {free} bytes: {result:?}");
            let content = disk.content("00000000000000000000.seg");
            assert!(!content[position..].starts_with(b"M"), "with {free} bytes");
        }
        for left in [disk.power_cut(free as u64), disk.copy()] {
            assert_eq!(whole(&open(&left)), 1, "with {free} bytes");
        }
        disk.set_capacity(None);
        for length in [20, LARGE, 20] {
            append(&mut log, length).unwrap();
        }
        assert_eq!(whole(&log), 4);
        assert_eq!(whole(&open(&disk.power_cut(free as u64))), 4);
    }
}

#[test]
fn a_large_batch_that_was_refused_does_not_count_as_room() {
    let disk = SimulatedDisk::new();
    let options = Options {
        reserve_bytes: 100_000,
        ..MIB_SEGMENTS
    };
    let mut log = SegmentLog::open_on(Arc::new(disk.clone()), options).unwrap();
    append(&mut log, LARGE).unwrap();
    let used: usize = disk
        .names()
        .iter()
        .map(|name| disk.content(name).len())
        .sum();
    disk.set_capacity(Some(used as u64 + 60_000));
    assert!(is_full(&append(&mut log, LARGE)));
    append_at(&mut log, 100, SECOND_US).unwrap();
    assert_eq!(log.room(), Room::Reserved, "as of a new look");
}

#[test]
fn what_a_lazy_log_lost_in_its_midst_does_not_come_back_behind_what_follows() {
    let disk = SimulatedDisk::new();
    let mut log = SegmentLog::open_on(Arc::new(disk.clone()), LAZILY).unwrap();
    append(&mut log, 90).unwrap();
    let start = log.reader().bounds().size_bytes as usize;
    for _ in 0..4 {
        append(&mut log, 90).unwrap();
    }
    drop(log);
    // The second batch never reached the disk, those behind it did.
    disk.edit("00000000000000000000.seg", |bytes| {
        bytes[start..start + 100].fill(0);
    });
    let mut log = SegmentLog::open_on(Arc::new(disk.copy()), LAZILY).unwrap();
    assert_eq!(whole(&log), 1);
    append(&mut log, 90).unwrap();
    drop(log);
    let mut log = open(&disk);
    assert_eq!(whole(&log), 1);
    append(&mut log, 90).unwrap();
    drop(log);
    assert_eq!(whole(&open(&disk)), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(80, 400)))]

    #[test]
    fn a_power_cut_takes_nothing_that_was_acknowledged(
        lengths in prop::collection::vec(0..3000usize, 1..40),
        trims in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        sync_fails in prop::option::of(0..80u32),
        seed: u64,
    ) {
        let disk = SimulatedDisk::new();
        let mut log = open(&disk);
        let mut acknowledged = 0;
        if let Some(after) = sync_fails {
            disk.fail_sync_after(after);
        }
        for (index, length) in lengths.iter().enumerate() {
            match append_at(&mut log, *length, index as i64 * SECOND_US / 3) {
                Ok(next) => acknowledged = next,
                Err(_) => break,
            }
            if trims.iter().any(|trim| trim.index(lengths.len()) == index) {
                let _ = log.trim(acknowledged / 2);
            }
        }
        let oldest = log.reader().bounds().oldest;
        drop(log);
        for image in 0..8 {
            let mut left = disk.power_cut(seed.wrapping_add(image));
            // And again, a few times, in the midst of recovering.
            for _ in 0..2 {
                let mut log = open(&left);
                let found = whole(&log);
                prop_assert!(found >= acknowledged && found <= acknowledged + 1);
                prop_assert!(log.reader().bounds().oldest <= oldest);
                left = left.power_cut(seed);
                prop_assert_eq!(append(&mut log, 100).unwrap(), found + 1);
            }
        }
    }

    #[test]
    fn a_power_cut_takes_a_lazily_synced_log_back_to_its_last_sync_at_most(
        lengths in prop::collection::vec(0..3000usize, 1..40),
        seed: u64,
    ) {
        let disk = SimulatedDisk::new();
        let mut log = SegmentLog::open_on(Arc::new(disk.clone()), LAZILY).unwrap();
        let mut synced = 0;
        for (index, length) in lengths.iter().enumerate() {
            // Each fourth batch a second has gone by.
            let next = append_at(&mut log, *length, index as i64 * SECOND_US / 4).unwrap();
            if index % 4 == 0 {
                synced = next;
            }
        }
        let written = log.reader().bounds().next;
        drop(log);
        for image in 0..6 {
            let left = disk.power_cut(seed.wrapping_add(image));
            let log = SegmentLog::open_on(Arc::new(left), OPTIONS).unwrap();
            let found = whole(&log);
            prop_assert!(found >= synced && found <= written, "{synced} {found} {written}");
        }
        let log = SegmentLog::open_on(Arc::new(disk.copy()), LAZILY).unwrap();
        prop_assert_eq!(whole(&log), written, "a killed process loses nothing");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(16, 200)))]

    #[test]
    fn a_power_cut_takes_no_large_batch_that_was_acknowledged(
        large in prop::collection::vec(prop::bool::ANY, 1..9),
        lengths in prop::collection::vec(0..3000usize, 9),
        dies_after in prop::option::of(0..20u32),
        seed: u64,
    ) {
        let disk = SimulatedDisk::new();
        let mut log = SegmentLog::open_on(Arc::new(disk.clone()), MIB_SEGMENTS).unwrap();
        disk.die_after(dies_after);
        let mut acknowledged = 0;
        for (large, length) in large.iter().zip(lengths) {
            let length = if *large { LARGE + length } else { length };
            match append(&mut log, length) {
                Ok(next) => acknowledged = next,
                Err(_) => break,
            }
        }
        drop(log);
        for image in 0..4 {
            let left = disk.power_cut(seed.wrapping_add(image));
            let mut log = SegmentLog::open_on(Arc::new(left.clone()), MIB_SEGMENTS).unwrap();
            let found = whole(&log);
            prop_assert!(found >= acknowledged && found <= acknowledged + 1);
            prop_assert_eq!(append(&mut log, LARGE).unwrap(), found + 1);
            prop_assert_eq!(whole(&open(&left.power_cut(seed))), found + 1);
        }
    }
}

#[test]
fn a_crash_while_a_log_is_created_leaves_one_that_opens() {
    for syncs in 0..8 {
        for seed in 0..30 {
            let disk = SimulatedDisk::new();
            disk.fail_sync_after(syncs);
            let opened = SegmentLog::open_on(Arc::new(disk.clone()), OPTIONS);
            drop(opened);
            let mut log = open(&disk.power_cut(seed));
            append(&mut log, 10).unwrap();
        }
    }
}
