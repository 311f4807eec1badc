//! A backup holds what was durable at one instant, and restores to the same log or is refused by name;
//! a restore that was cut short is never opened.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use eventlog::suite::cases;
use eventlog::{
    BackupReader, Batch, Bounds, Disk, EventLog, MemoryStore, OpenError, Options, Reader, Record,
    RestoreError, SegmentLog, SimulatedDisk, Sync,
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
const EPOCH: u64 = 1_000_000;

fn open(disk: &SimulatedDisk) -> Result<SegmentLog, OpenError> {
    SegmentLog::open_on(Arc::new(disk.clone()), OPTIONS)
}

fn append(log: &mut dyn EventLog, length: usize) {
    let next = log.reader().bounds().next;
    let fill = (next % 250) as u8 + 1;
    let batch = Batch {
        count: 2,
        time_us: 0,
        events: &vec![fill; length],
        payloads: &vec![fill; length / 2],
    };
    log.append(next, &batch).unwrap();
}

fn log_of(batches: usize) -> (SimulatedDisk, SegmentLog) {
    let disk = SimulatedDisk::new();
    let mut log = open(&disk).unwrap();
    (0..batches).for_each(|_| append(&mut log, 200));
    (disk, log)
}

fn read_all(reader: &Reader) -> Vec<Record> {
    let oldest = reader.bounds().oldest;
    reader.read(oldest, usize::MAX, true).unwrap()
}

/// The bytes of a backup taken now.
fn taken(reader: &Reader) -> Vec<u8> {
    let backup = reader.backup().unwrap();
    let mut bytes = Vec::new();
    backup.write(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, backup.size_bytes());
    bytes
}

fn backup_file(bytes: &[u8]) -> Result<BackupReader, RestoreError> {
    let disk = SimulatedDisk::new();
    let file = disk.create("backup").unwrap();
    file.write_at(bytes, 0).unwrap();
    BackupReader::on(file, "backup".into())
}

fn restore(bytes: &[u8], disk: &SimulatedDisk) -> Result<Bounds, RestoreError> {
    let backup = backup_file(bytes)?;
    let extent = backup.check(&mut |_| ())?;
    assert_eq!(extent.flaw, None);
    backup.restore(disk, &extent, EPOCH, &mut |_| ())
}

#[test]
fn a_backup_of_any_store_restores_to_the_same_log_in_a_later_epoch() {
    for batches in [0, 1, 60] {
        let mut in_memory = MemoryStore::new().open(OPTIONS).unwrap();
        (0..batches).for_each(|_| append(&mut in_memory, 200));
        let (_disk, in_segments) = log_of(batches);
        for reader in [in_memory.reader(), in_segments.reader()] {
            let restored = SimulatedDisk::new();
            let bounds = restore(&taken(&reader), &restored).unwrap();
            assert_eq!((bounds.next, bounds.epoch), (batches as u64 * 2, EPOCH));
            let mut log = open(&restored).unwrap();
            assert_eq!(read_all(&log.reader()), read_all(&reader));
            log.reader().verify(&mut |_| ()).unwrap();
            assert_eq!(log.reader().bounds().log_id, reader.bounds().log_id);
            assert_eq!(log.reader().bounds().epoch, EPOCH + 1);
            append(&mut log, 10);
            // And the backup of what was restored is as good.
            let again = SimulatedDisk::new();
            let bounds = restore(&taken(&log.reader()), &again).unwrap();
            assert_eq!(bounds.epoch, EPOCH + 2, "later than the one before, always");
            let again = open(&again).unwrap();
            assert_eq!(read_all(&again.reader()), read_all(&log.reader()));
        }
    }
}

#[test]
fn a_log_that_goes_on_and_is_trimmed_meanwhile_changes_nothing_of_its_backup() {
    let (_disk, mut log) = log_of(60);
    log.trim(40).unwrap();
    let records = read_all(&log.reader());
    let backup = log.reader().backup().unwrap();
    (0..60).for_each(|_| append(&mut log, 200));
    log.trim(200).unwrap();
    let mut bytes = Vec::new();
    backup.write(&mut bytes).unwrap();

    let restored = SimulatedDisk::new();
    let bounds = restore(&bytes, &restored).unwrap();
    assert_eq!(bounds.oldest, records[0].first);
    assert_eq!(read_all(&open(&restored).unwrap().reader()), records);
}

#[test]
fn erased_payloads_stay_erased_and_the_chain_still_proves_the_backup() {
    let (disk, log) = log_of(3);
    let first = "00000000000000000000.seg";
    drop(log);
    disk.edit(first, |bytes| {
        let salt = u32::from_le_bytes(bytes[56..60].try_into().unwrap());
        eventlog::erase_payloads(&mut bytes[512..1024], salt);
    });
    let log = open(&disk).unwrap();
    let restored = SimulatedDisk::new();
    restore(&taken(&log.reader()), &restored).unwrap();
    let log = open(&restored).unwrap();
    assert!(read_all(&log.reader())[0].payloads.is_empty());
    log.reader().verify(&mut |_| ()).unwrap();
}

#[test]
fn a_damaged_log_gives_no_backup() {
    let (disk, log) = log_of(60);
    drop(log);
    disk.edit("00000000000000000000.seg", |bytes| bytes[700] ^= 1);
    let log = open(&disk).unwrap();
    let backup = log.reader().backup().unwrap();
    let mut bytes = Vec::new();
    let error = backup.write(&mut bytes).unwrap_err();
    assert!(error.to_string().contains("is damaged"), "{error}");
    assert!((bytes.len() as u64) < backup.size_bytes());
}

/// What of a spoilt backup would be restored, or why none of it; never something else.
fn refused_or_a_prefix(bytes: &[u8], records: &[Record]) -> Result<(), String> {
    let backup = match backup_file(bytes) {
        Err(RestoreError::NoBackup(_) | RestoreError::Open(OpenError::NewerFormat { .. })) => {
            return Ok(());
        }
        Err(error) => return Err(format!("the damage is named: {error}")),
        Ok(backup) => backup,
    };
    let extent = backup.check(&mut |_| ()).unwrap();
    let restored = SimulatedDisk::new();
    match backup.restore(&restored, &extent, EPOCH, &mut |_| ()) {
        Err(RestoreError::NoBackup(_)) if extent.flaw.is_some() => return Ok(()),
        other => other.unwrap(),
    };
    let log = open(&restored).map_err(|error| error.to_string())?;
    log.reader().verify(&mut |_| ()).unwrap();
    let read = read_all(&log.reader());
    let (whole, wanted) = (extent.flaw.is_none(), records.len());
    if read[..] != records[..read.len()] || (whole && read.len() < wanted) {
        return Err(format!("{} of {wanted}: {:?}", read.len(), extent.flaw));
    }
    assert_eq!(extent.next, read.last().map_or(0, Record::end));
    Ok(())
}

#[test]
fn a_backup_cut_anywhere_is_told_from_a_whole_one_and_keeps_its_whole_batches() {
    let (_disk, log) = log_of(12);
    let records = read_all(&log.reader());
    let bytes = taken(&log.reader());
    let mut kept = std::collections::BTreeSet::new();
    for cut in 0..bytes.len() {
        refused_or_a_prefix(&bytes[..cut], &records).unwrap();
        if let Ok(backup) = backup_file(&bytes[..cut]) {
            let extent = backup.check(&mut |_| ()).unwrap();
            let flaw = extent.flaw.unwrap();
            assert!(flaw.contains("is not a whole backup"), "{flaw}");
            kept.insert(extent.next);
        }
    }
    assert_eq!(
        kept.len(),
        12,
        "each number of batches from none to all but one"
    );
    let longer = [&bytes[..], &[0; 8]].concat();
    let extent = backup_file(&longer).unwrap().check(&mut |_| ()).unwrap();
    assert!(extent.flaw.unwrap().contains("is not a whole backup"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(400, 5_000)))]

    #[test]
    fn a_bit_flipped_anywhere_is_named_or_does_no_harm(
        batches in 0..40usize,
        place: prop::sample::Index,
        bit in 0..8u8,
    ) {
        let (_disk, log) = log_of(batches);
        let records = read_all(&log.reader());
        let mut bytes = taken(&log.reader());
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        prop_assert_eq!(refused_or_a_prefix(&bytes, &records), Ok(()));
    }

    #[test]
    fn a_restore_cut_short_anywhere_is_refused_and_can_be_repeated(
        syncs in 0..14u32,
        room in prop::option::of(0..20_000usize),
        seed: u64,
    ) {
        let (_disk, log) = log_of(40);
        let records = read_all(&log.reader());
        let bytes = taken(&log.reader());
        let disk = SimulatedDisk::new();
        match room {
            Some(room) => disk.full_after(Some(room)),
            None => disk.fail_sync_after(syncs),
        }
        let ended = restore(&bytes, &disk);
        disk.full_after(None);
        // As a kill leaves it, and as a power cut does.
        for left in [disk.copy(), disk.power_cut(seed)] {
            match open(&left) {
                Ok(log) if read_all(&log.reader()) == records => {}
                // Nothing had been begun: a log of its own starts there.
                Ok(log) => {
                    prop_assert!(ended.is_err());
                    prop_assert_eq!(log.reader().bounds().next, 0);
                    prop_assert!(syncs == 0 && room.is_none(), "taken for a log: {:?}", ended);
                    continue;
                }
                Err(error) => {
                    prop_assert!(ended.is_err());
                    prop_assert!(error.to_string().contains("a restore that did not come"), "{}", error);
                    restore(&bytes, &left).unwrap();
                }
            }
            let log = open(&left).unwrap();
            prop_assert_eq!(read_all(&log.reader()), records.clone());
        }
    }
}

#[test]
fn only_an_empty_directory_that_nobody_uses_is_restored_into() {
    let (disk, log) = log_of(3);
    let bytes = taken(&log.reader());
    let refused = restore(&bytes, &disk).unwrap_err();
    assert!(
        matches!(&refused, RestoreError::Open(OpenError::Locked { .. })),
        "{refused}"
    );
    drop(log);
    let refused = restore(&bytes, &disk).unwrap_err();
    assert!(refused.to_string().contains("not empty"), "{refused}");
    let foreign = SimulatedDisk::new();
    foreign.create("notes.txt").unwrap();
    let refused = restore(&bytes, &foreign).unwrap_err();
    assert!(refused.to_string().contains("notes.txt"), "{refused}");
    assert!(foreign.names().iter().any(|name| name == "notes.txt"));
}

#[test]
fn what_is_no_backup_is_named() {
    for bytes in [&b""[..], b"MABACKUP", b"some text that somebody wrote down"] {
        let refused = backup_file(bytes).err().unwrap();
        assert!(matches!(refused, RestoreError::NoBackup(_)), "{refused}");
    }
}
