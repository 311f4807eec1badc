//! The embedded store on the real disk.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::os::unix::fs::PermissionsExt;

use eventlog::{Batch, EventLog, OpenError, Options, SegmentLog, open};

fn batch(events: &[u8]) -> Batch<'_> {
    Batch {
        count: 2,
        time_us: 5,
        events,
        payloads: b"payload",
    }
}

#[test]
fn what_was_appended_is_there_after_a_crash_and_after_a_close() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    for round in 0..4u64 {
        let mut log = open(&path, Options::default()).unwrap();
        let bounds = log.reader().bounds();
        assert_eq!((bounds.next, bounds.epoch), (round * 20, round + 1));
        for index in 0..10 {
            log.append(round * 20 + index * 2, &batch(b"event"))
                .unwrap();
        }
        if round % 2 == 0 {
            log.close().unwrap();
        }
        let records = log.reader().read(0, usize::MAX, true).unwrap();
        assert_eq!(records.len() as u64, (round + 1) * 10);
        assert!(records.iter().all(|record| &record.events[..] == b"event"));
        assert!(
            records
                .iter()
                .all(|record| &record.payloads[..] == b"payload")
        );
        log.reader().verify(&mut |_| ()).unwrap();
    }
}

#[test]
fn a_second_writer_is_refused_with_the_first_ones_process_id() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path(), Options::default()).unwrap();
    let error = SegmentLog::open(directory.path(), Options::default()).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }));
    assert!(
        error
            .to_string()
            .contains(&format!("(pid {})", std::process::id())),
        "{error}"
    );
    drop(first);
    open(directory.path(), Options::default()).unwrap();
}

#[test]
fn directory_and_files_are_for_their_owner_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b");
    let mut log = open(&path, Options::default()).unwrap();
    log.append(0, &batch(b"event")).unwrap();
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    for entry in path.read_dir().unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
}
