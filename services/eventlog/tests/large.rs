//! Large batches, which go past the page cache and have no zeros ahead, among small ones, which
//! have them.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use eventlog::{
    Batch, Disk, DiskFile, EventLog, Options, Reader, RealDisk, Record, SegmentLog, Space,
};

const OPEN_BATCHES: u64 = 90;

/// The bytes of the batch at `offset`: some are few, some many, and odd in number. A run of small
/// batches is long enough to have blocks written ahead for it, and the large ones after it come
/// while that goes on.
fn bytes_at(offset: u64) -> &'static [u8] {
    static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut word = 1u64;
        let words = std::iter::repeat_with(|| {
            word = word.rotate_left(7).wrapping_mul(0xd1b5_4a32_d192_ed03);
            word.to_le_bytes()
        });
        words.take(600_000).flatten().collect()
    });
    let offset = offset as usize;
    let length = if offset % 26 < 22 {
        90_001 + offset * 7_919 % 60_000
    } else {
        300_001 + offset * 104_729 % 2_500_000
    };
    &NOISE[offset * 4_999..][..length]
}

fn assert_whole(record: &Record) {
    let bytes = bytes_at(record.first);
    let (events, payloads) = bytes.split_at(bytes.len() / 3);
    assert!(record.events == events, "events of {}", record.first);
    assert!(record.payloads == payloads, "payloads of {}", record.first);
}

/// Reads on from `from` until the writer is gone and all was read.
fn follow(reader: &Reader, from: u64) -> u64 {
    let mut at = from;
    loop {
        let gone = reader.0.durable().has_changed().is_err();
        let records = reader.read(at, 1 << 20, true).unwrap();
        records.iter().for_each(assert_whole);
        match records.last() {
            Some(last) => at = last.end(),
            None if gone => return at,
            None => std::thread::yield_now(),
        }
    }
}

/// Appends by turns, opens again and again, and reads what is there meanwhile and afterwards.
fn stays_whole(directory: &Path, disk: impl Fn() -> Arc<dyn Disk>) {
    let options = Options {
        segment_bytes: 40 << 20,
        ..Options::default()
    };
    let mut next = 0;
    for round in 0..3 {
        let mut log = SegmentLog::open_on(disk(), options).unwrap();
        assert_eq!(log.reader().bounds().next, next);
        log.reader().verify(&mut |_| ()).unwrap();
        let reader = log.reader();
        let follower = std::thread::spawn(move || follow(&reader, next));
        for _ in 0..OPEN_BATCHES {
            let bytes = bytes_at(next);
            let (events, payloads) = bytes.split_at(bytes.len() / 3);
            let batch = Batch {
                count: 1,
                time_us: 5,
                events,
                payloads,
            };
            next = log.append(next, &batch).unwrap();
        }
        if round % 2 == 0 {
            log.close().unwrap();
        }
        drop(log);
        assert_eq!(follower.join().unwrap(), next);
    }
    let log = SegmentLog::open_on(disk(), options).unwrap();
    assert_eq!(log.reader().verify(&mut |_| ()).unwrap().next, next);
    assert_eq!(next, 3 * OPEN_BATCHES);
    let reader = log.reader();
    drop(log);
    assert_eq!(follow(&reader, 0), next);
    let segments = directory.read_dir().unwrap();
    assert!(segments.count() > 3, "and across segments");
}

#[test]
fn large_and_small_batches_by_turns_stay_whole() {
    let directory = tempfile::tempdir().unwrap();
    let disk = || Arc::new(RealDisk::new(directory.path()).unwrap()) as Arc<_>;
    stays_whole(directory.path(), disk);
}

#[test]
fn zeros_written_ahead_never_overtake_a_large_batch_however_long_either_takes() {
    let directory = tempfile::tempdir().unwrap();
    let disk = || Arc::new(Slow(RealDisk::new(directory.path()).unwrap())) as Arc<_>;
    stays_whole(directory.path(), disk);
}

#[expect(clippy::disallowed_methods, reason = "a slow disk is what is wanted")]
fn linger(micros: u64) {
    std::thread::sleep(Duration::from_micros(micros));
}

/// A disk that takes its time over zeros before it writes them, and over large writes after it.
struct Slow<T>(T);

impl DiskFile for Slow<Arc<dyn DiskFile>> {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.0.read_at(buffer, position)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        if bytes.iter().all(|byte| *byte == 0) {
            linger(200);
        }
        let written = self.0.write_at(bytes, position);
        if bytes.len() > 256 * 1024 {
            linger(3000);
        }
        written
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.0.truncate(length)
    }

    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }
}

impl Disk for Slow<RealDisk> {
    fn place(&self) -> String {
        self.0.place()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(Slow(self.0.create(name)?)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(Slow(self.0.open(name)?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.0.sync_directory()
    }

    fn lock(&self, name: &str) -> io::Result<Option<Box<dyn Send>>> {
        self.0.lock(name)
    }

    fn space(&self) -> io::Result<Space> {
        self.0.space()
    }
}
