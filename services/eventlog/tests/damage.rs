//! What was damaged is refused by name, or cut off where nobody was told of it; never is it read
//! as a shorter healthy log.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use eventlog::suite::cases;
use eventlog::{
    Batch, EventLog, OpenError, Options, ReadError, Record, SegmentLog, SimulatedDisk, Sync,
};
use proptest::prelude::*;

const OPTIONS: Options = Options {
    segment_bytes: 4096,
    retention_age: None,
    retention_bytes: None,
    reserve_bytes: 0,
    sync: Sync::EachBatch,
    background: false,
    log_id: Some([9; 16]),
};
const FIRST: &str = "00000000000000000000.seg";

fn open(disk: &SimulatedDisk) -> Result<SegmentLog, OpenError> {
    SegmentLog::open_on(Arc::new(disk.clone()), OPTIONS)
}

fn append(log: &mut SegmentLog, length: usize) {
    let next = log.reader().bounds().next;
    let fill = (next % 250) as u8 + 1;
    let payloads = vec![fill; length / 2];
    let events = vec![fill; length];
    log.append(
        next,
        &Batch {
            count: 2,
            time_us: 0,
            events: &events,
            payloads: &payloads,
        },
    )
    .unwrap();
}

fn read_all(log: &SegmentLog) -> Result<Vec<Record>, ReadError> {
    let bounds = log.reader().bounds();
    log.reader().read(bounds.oldest, usize::MAX, true)
}

/// A disk with a log of so many batches, and those; never closed, as after a kill.
fn written(batches: usize, length: usize) -> (SimulatedDisk, Vec<Record>) {
    let disk = SimulatedDisk::new();
    let mut log = open(&disk).unwrap();
    for _ in 0..batches {
        append(&mut log, length);
    }
    let records = read_all(&log).unwrap();
    (disk, records)
}

/// The damage is told by name, or nothing of the log is missing.
fn refused_or_equal(disk: &SimulatedDisk, records: &[Record]) -> bool {
    let log = match open(disk) {
        Err(OpenError::Damaged(_) | OpenError::NewerFormat { .. }) => return true,
        Err(error) => panic!("the damage is named: {error}"),
        Ok(log) => log,
    };
    let verified = log.reader().verify(&mut |_| ());
    match read_all(&log) {
        Ok(read) => {
            assert_eq!(read, records, "a damaged log is never another healthy one");
            verified.is_ok()
        }
        Err(ReadError::Damaged { file, .. }) => {
            assert!(file.ends_with(".seg"));
            assert!(verified.is_err(), "what a read finds, verify finds");
            true
        }
        Err(error) => panic!("the damage is named: {error}"),
    }
}

#[test]
fn a_tail_torn_at_any_byte_loses_the_unacknowledged_batch_alone() {
    for behind in 1..=3 {
        let (disk, records) = written(behind, 40);
        // The batch in flight: in the file, but not yet in HEAD.
        let before = disk.copy();
        let mut log = open(&before).unwrap();
        let start = log.reader().bounds().size_bytes as usize;
        let head = before.content("HEAD");
        append(&mut log, 40);
        let end = log.reader().bounds().size_bytes as usize;
        drop(log);
        for cut in start..=end {
            for zeros_behind in [true, false] {
                let torn = before.copy();
                torn.edit("HEAD", |bytes| bytes.copy_from_slice(&head));
                torn.edit(FIRST, |bytes| {
                    if zeros_behind {
                        bytes[cut..].fill(0);
                    } else {
                        bytes.truncate(cut);
                    }
                });
                let mut log = open(&torn).unwrap();
                let read = read_all(&log).unwrap();
                assert_eq!(&read[..behind], records, "cut at {cut} of {start}..{end}");
                assert!(read.len() <= behind + 1);
                append(&mut log, 10);
                drop(log);
                let log = open(&torn).unwrap();
                assert_eq!(read_all(&log).unwrap().len(), read.len() + 1);
                log.reader().verify(&mut |_| ()).unwrap();
            }
        }
    }
}

#[test]
fn an_acknowledged_batch_that_is_gone_is_told_by_head() {
    let (disk, _) = written(3, 40);
    let end = disk
        .content(FIRST)
        .iter()
        .rposition(|byte| *byte != 0)
        .unwrap();
    for cut in [600, 700, end - 30, end] {
        let torn = disk.copy();
        torn.edit(FIRST, |bytes| bytes[cut..].fill(0));
        let error = open(&torn).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("HEAD says that the log reached 6"),
            "{error}"
        );
        let untouched = torn.content(FIRST);
        assert!(open(&torn).is_err());
        assert_eq!(
            torn.content(FIRST),
            untouched,
            "a refused log stays as it was found"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(600, 5_000)))]

    #[test]
    fn a_bit_flipped_anywhere_is_named_or_does_no_harm(
        closed: bool,
        batches in 1..24usize,
        file: prop::sample::Index,
        place: prop::sample::Index,
        bit in 0..8u8,
    ) {
        let disk = SimulatedDisk::new();
        let mut log = open(&disk).unwrap();
        for _ in 0..batches {
            append(&mut log, 200);
        }
        let records = read_all(&log).unwrap();
        if closed {
            log.close().unwrap();
        }
        drop(log);
        let names: Vec<String> = disk.names().into_iter().filter(|name| name != "LOCK").collect();
        disk.edit(&names[file.index(names.len())], |bytes| {
            let place = place.index(bytes.len().max(1));
            if let Some(byte) = bytes.get_mut(place) {
                *byte ^= 1 << bit;
            }
        });
        prop_assert!(refused_or_equal(&disk, &records));
    }
}

#[test]
fn acknowledged_batches_cut_at_any_byte_are_never_a_shorter_log() {
    let (disk, records) = written(3, 40);
    for cut in 512..disk.content(FIRST).len() {
        for zeros_behind in [true, false] {
            let torn = disk.copy();
            torn.edit(FIRST, |bytes| {
                if zeros_behind {
                    bytes[cut..].fill(0);
                } else {
                    bytes.truncate(cut);
                }
            });
            assert!(refused_or_equal(&torn, &records), "cut at {cut}");
        }
    }
}

#[test]
fn every_bit_of_the_last_batch_and_of_head_is_guarded() {
    let (disk, records) = written(2, 30);
    let end = disk
        .content(FIRST)
        .iter()
        .rposition(|byte| *byte != 0)
        .unwrap()
        + 1;
    let places = (512..end)
        .map(|at| (FIRST, at))
        .chain((0..8192).map(|at| ("HEAD", at)));
    for (name, place) in places {
        let flipped = disk.copy();
        flipped.edit(name, |bytes| {
            if let Some(byte) = bytes.get_mut(place) {
                *byte ^= 1 << (place % 8);
            }
        });
        assert!(refused_or_equal(&flipped, &records), "{name} at {place}");
    }
}

#[test]
fn rot_in_an_older_file_is_named_when_it_is_read_and_by_verify() {
    let (disk, _) = written(60, 200);
    disk.edit(FIRST, |bytes| bytes[700] ^= 1);
    let log = open(&disk).unwrap();
    let told = |error: ReadError| matches!(error, ReadError::Damaged { file, .. } if file == FIRST);
    assert!(told(log.reader().read(0, 1, true).unwrap_err()));
    assert!(told(log.reader().verify(&mut |_| ()).unwrap_err()));
    assert!(
        log.reader().read(100, 1, true).is_ok(),
        "the rest is served"
    );
}

#[test]
fn rot_behind_an_old_head_is_told_from_a_torn_tail() {
    let disk = SimulatedDisk::new();
    let mut log = open(&disk).unwrap();
    append(&mut log, 50);
    // What a power cut leaves of HEAD: that of a second ago.
    let head = disk.content("HEAD");
    let start = log.reader().bounds().size_bytes as usize;
    for _ in 0..3 {
        append(&mut log, 50);
    }
    let last = log.reader().bounds().size_bytes as usize;
    drop(log);
    disk.edit("HEAD", |bytes| *bytes = head);
    let records = read_all(&open(&disk.copy()).unwrap()).unwrap();
    assert_eq!(records.len(), 4, "what was synced after HEAD is found");
    for place in start..start + 200 {
        let flipped = disk.copy();
        flipped.edit(FIRST, |bytes| bytes[place] ^= 4);
        assert!(
            refused_or_equal(&flipped, &records),
            "byte {place} before {last}"
        );
    }
    let zeroed = disk.copy();
    zeroed.edit(FIRST, |bytes| bytes[start..start + 80].fill(0));
    let error = open(&zeroed).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("a whole record stands behind it"),
        "{error}"
    );
}

#[test]
fn one_torn_slot_of_head_leaves_the_other() {
    let (disk, records) = written(3, 40);
    for slot in [0, 4096] {
        let torn = disk.copy();
        torn.edit("HEAD", |bytes| bytes[slot..slot + 20].fill(0xff));
        assert_eq!(read_all(&open(&torn).unwrap()).unwrap(), records);
    }
}

#[test]
fn a_record_in_another_ones_place_is_named() {
    let (disk, _) = written(60, 200);
    let length = (80 + 32 + 200 + 100usize).next_multiple_of(8);
    disk.edit(FIRST, |bytes| {
        bytes.copy_within(512..512 + length, 512 + length);
    });
    let log = open(&disk).unwrap();
    let error = log.reader().read(2, 1, true).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("offset 0 stands where 2 belongs"),
        "{error}"
    );
}

/// The number that the checksums of a segment begin with.
fn salt(segment: &[u8]) -> u32 {
    u32::from_le_bytes(segment[56..60].try_into().unwrap())
}

#[test]
fn a_forged_event_with_a_right_checksum_breaks_the_chain() {
    let (disk, _) = written(60, 200);
    disk.edit(FIRST, |bytes| {
        let salt = salt(bytes);
        let record = &mut bytes[512..512 + 80 + 32 + 200];
        record[80 + 32 + 7] = b'X';
        let crc = crc32c::crc32c_append(salt, &record[8..]);
        record[4..8].copy_from_slice(&crc.to_le_bytes());
    });
    let log = open(&disk).unwrap();
    assert_eq!(log.reader().read(0, 1, true).unwrap()[0].events[7], b'X');
    let error = log.reader().verify(&mut |_| ()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("byte 512: the chain of hashes breaks here"),
        "{error}"
    );
}

#[test]
fn erased_payloads_leave_a_log_that_opens_reads_and_verifies() {
    for batches in [3, 60] {
        let (disk, records) = written(batches, 200);
        disk.edit(FIRST, |bytes| {
            let salt = salt(bytes);
            eventlog::erase_payloads(&mut bytes[512..1024], salt);
        });
        let log = open(&disk).unwrap();
        let read = read_all(&log).unwrap();
        assert!(read[0].payloads.is_empty());
        assert_eq!(read[0].events, records[0].events);
        assert_eq!(read[1..], records[1..]);
        log.reader().verify(&mut |_| ()).unwrap();
    }
}

#[test]
fn segments_of_another_time_are_refused_even_where_their_length_is_right() {
    let (disk, _) = written(1, 50);
    let other = SimulatedDisk::new();
    let mut log = open(&other).unwrap();
    let batch = Batch {
        count: 2,
        time_us: 0,
        events: &[3; 50],
        payloads: &[3; 25],
    };
    log.append(0, &batch).unwrap();
    drop(log);
    disk.edit(FIRST, |bytes| *bytes = other.content(FIRST));
    let error = open(&disk).unwrap_err();
    assert!(
        error.to_string().contains("HEAD says another hash"),
        "{error}"
    );
}

#[test]
fn files_that_are_missing_or_foreign_are_named() {
    let (disk, _) = written(60, 200);
    let segments: Vec<String> = disk
        .names()
        .into_iter()
        .filter(|name| name.ends_with(".seg"))
        .collect();
    assert!(segments.len() > 3);
    for name in &segments {
        let lacking = disk.copy();
        lacking.forget(name);
        let error = open(&lacking).unwrap_err();
        assert!(
            matches!(error, OpenError::Damaged(_)),
            "without {name}: {error}"
        );
    }
    let headless = disk.copy();
    headless.forget("HEAD");
    assert!(open(&headless).unwrap_err().to_string().contains("no HEAD"));

    let other = SimulatedDisk::new();
    let options = Options {
        log_id: Some([1; 16]),
        ..OPTIONS
    };
    drop(SegmentLog::open_on(Arc::new(other.clone()), options).unwrap());
    let mixed = disk.copy();
    mixed.edit(FIRST, |bytes| *bytes = other.content(FIRST));
    assert!(
        open(&mixed)
            .unwrap_err()
            .to_string()
            .contains("belongs to another log")
    );
}

#[test]
fn an_older_copy_of_the_segments_under_a_newer_head_is_refused() {
    let disk = SimulatedDisk::new();
    let mut log = open(&disk).unwrap();
    append(&mut log, 50);
    let old = disk.content(FIRST);
    append(&mut log, 50);
    drop(log);
    disk.edit(FIRST, |bytes| *bytes = old);
    let error = open(&disk).unwrap_err();
    assert!(error.to_string().contains("ends at offset 2"), "{error}");
    assert!(error.to_string().contains("reached 4"), "{error}");
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let (disk, _) = written(1, 50);
    for name in ["HEAD", FIRST] {
        let newer = disk.copy();
        newer.edit(name, |bytes| {
            for start in [0, 4096] {
                let Some(block) = bytes.get_mut(start..start + 128) else {
                    continue;
                };
                if block[..2] != *b"MA" {
                    continue;
                }
                block[8..12].copy_from_slice(&2u32.to_le_bytes());
                let crc = crc32c::crc32c_append(crc32c::crc32c(&block[..12]), &block[16..]);
                block[12..16].copy_from_slice(&crc.to_le_bytes());
            }
        });
        let before = newer.content(name);
        let error = open(&newer).unwrap_err();
        assert!(
            matches!(
                error,
                OpenError::NewerFormat {
                    found: 2,
                    known: 1,
                    ..
                }
            ),
            "{error}"
        );
        assert!(error.to_string().contains("use a newer program"));
        assert_eq!(newer.content(name), before);
    }
}

#[test]
fn a_record_inside_a_payload_is_not_taken_for_one_behind_a_torn_tail() {
    // Records with higher offsets, of a log of the same id: all but the file's salt is right.
    let other = SimulatedDisk::new();
    let mut log = open(&other).unwrap();
    (0..8).for_each(|_| append(&mut log, 20));
    let records = other.content(FIRST)[512..2000].to_vec();

    let (disk, _) = written(1, 40);
    let torn = disk.copy();
    let mut log = open(&torn).unwrap();
    let start = log.reader().bounds().size_bytes as usize;
    let head = torn.content("HEAD");
    log.append(
        2,
        &Batch {
            count: 1,
            time_us: 0,
            events: b"",
            payloads: &records,
        },
    )
    .unwrap();
    drop(log);
    torn.edit("HEAD", |bytes| bytes.copy_from_slice(&head));
    torn.edit(FIRST, |bytes| bytes[start..start + 4].fill(0));
    assert_eq!(read_all(&open(&torn).unwrap()).unwrap().len(), 1);
}
