//! The promises of every store, as one test suite.
//!
//! A store's tests call [`run`] and, with histories of their own making, [`check_history`]. What
//! is checked here holds for each store alike; what only bytes on a disk can show is tested beside
//! the store that has them. It panics where a promise is broken, as tests do.

use std::time::Duration;

use crate::simulated::Random;
use crate::{
    AppendError, Batch, EventLog, MAX_RECORD_BYTES, Offset, OpenError, Options, ReadError, Reader,
    Record, Refused,
};

/// Opens one and the same log, again and again.
pub type OpenLog = Box<dyn Fn() -> Result<Box<dyn EventLog>, OpenError>>;

/// One thing that happens to a log.
#[derive(Clone, Debug)]
pub enum Step {
    /// A batch of so many events, with so many bytes of events and of payloads.
    Append {
        /// At least 1.
        count: u32,
        /// How many bytes of events.
        events: usize,
        /// How many bytes of payloads.
        payloads: usize,
    },
    /// An append that expects an offset so far beside the next one; 0 counts as 1.
    AppendBeside(i8),
    /// The writer goes, with or without a close, and another comes.
    Reopen {
        /// Whether it is closed first.
        close: bool,
    },
    /// A trim at so many thousandths of what is retained.
    Trim(u16),
    /// A read.
    Read {
        /// From so many thousandths of what is retained on.
        from: u16,
        /// With this limit.
        max_bytes: usize,
        /// With payloads or without.
        payloads: bool,
    },
}

/// Checks all promises on logs that `fresh` makes, each in a new place.
pub fn run(fresh: impl Fn(Options) -> OpenLog) {
    let small = Options {
        segment_bytes: 4096,
        ..Options::default()
    };
    appends_are_read_back_whole(&fresh(small));
    batches_that_do_not_fit_are_refused_and_nothing_changes(&fresh(small));
    reads_keep_their_limits(&fresh(small));
    offsets_that_are_not_there_are_told(&fresh(small));
    identity_stays_and_the_epoch_rises(&fresh(small));
    a_second_writer_is_refused(&fresh(small));
    a_follower_sees_everything_once_and_ends_with_the_writer(&fresh(small));
    a_closed_log_takes_nothing(&fresh(small));
    retention_never_stops_the_writer(&fresh);
    for seed in 0..40 {
        check_history(&fresh(small), &random_steps(seed));
    }
}

/// Lets a history happen to a log and checks after each step that the log is what it should be.
pub fn check_history(open: &OpenLog, steps: &[Step]) {
    let mut log = must_open(open);
    let mut model = Model {
        epoch: log.reader().bounds().epoch,
        ..Model::default()
    };
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Append {
                count,
                events,
                payloads,
            } => {
                let fill = u8::try_from(number % 251).unwrap_or(0);
                let batch = Batch {
                    count: *count,
                    time_us: i64::try_from(number).unwrap_or(0) * 1000,
                    events: &vec![fill; *events],
                    payloads: &vec![!fill; *payloads],
                };
                let next = model.next();
                let end = log.append(next, &batch);
                assert_eq!(end.ok(), Some(next + u64::from(*count)), "step {number}");
                model.append(&log.reader(), &batch);
            }
            Step::AppendBeside(distance) => {
                let distance = if *distance == 0 { 1 } else { *distance };
                let next = model.next();
                let expected = next.wrapping_add_signed(distance.into());
                refuses_offset(&mut *log, expected, next);
            }
            Step::Reopen { close } => {
                let before = log.reader().bounds();
                if *close {
                    assert!(log.close().is_ok(), "step {number}: the log closes");
                }
                drop(log);
                log = must_open(open);
                let after = log.reader().bounds();
                assert_eq!(after.log_id, before.log_id);
                assert!(after.epoch > before.epoch, "the epoch rises");
                model.epoch = after.epoch;
            }
            Step::Trim(permille) => {
                let before = model.at(*permille);
                let Ok(oldest) = log.trim(before) else {
                    panic!("step {number}: a trim succeeds");
                };
                model.trimmed(before, oldest);
            }
            Step::Read {
                from,
                max_bytes,
                payloads,
            } => {
                model.check_read(&log.reader(), model.at(*from), *max_bytes, *payloads);
            }
        }
        let bounds = log.reader().bounds();
        assert_eq!(
            (bounds.oldest, bounds.next),
            (model.oldest, model.next()),
            "step {number}"
        );
    }
    model.check_read(&log.reader(), model.oldest, usize::MAX, true);
    let verified = log.reader().verify(&mut |_| ());
    assert_eq!(verified.map(|bounds| bounds.next).ok(), Some(model.next()));
}

/// Steps drawn from a seed.
pub fn random_steps(seed: u64) -> Vec<Step> {
    let mut random = Random(seed);
    let mut small = |limit: u64| usize::try_from(random.below(limit)).unwrap_or(0);
    (0..60)
        .map(|_| match small(20) {
            0 => Step::Reopen {
                close: small(2) == 0,
            },
            1 => Step::Trim(u16::try_from(small(1001)).unwrap_or(0)),
            2 => Step::AppendBeside(i8::try_from(small(9)).unwrap_or(0) - 4),
            3..=6 => Step::Read {
                from: u16::try_from(small(1001)).unwrap_or(0),
                max_bytes: small(6000),
                payloads: small(2) == 0,
            },
            // Now and then one that is longer than a segment.
            7 => Step::Append {
                count: 1,
                events: small(9000),
                payloads: small(9000),
            },
            _ => Step::Append {
                count: u32::try_from(small(5)).unwrap_or(0) + 1,
                events: small(600),
                payloads: small(3) * small(600),
            },
        })
        .collect()
}

/// What a log should hold.
#[derive(Default)]
struct Model {
    records: Vec<Record>,
    oldest: Offset,
    epoch: u64,
}

impl Model {
    fn next(&self) -> Offset {
        self.records.last().map_or(self.oldest, Record::end)
    }

    fn at(&self, permille: u16) -> Offset {
        self.oldest + (self.next() - self.oldest) * u64::from(permille.min(1000)) / 1000
    }

    /// Takes over a batch that was just appended; its hash is what the log says at first.
    fn append(&mut self, reader: &Reader, batch: &Batch<'_>) {
        let first = self.next();
        let read = must_read(reader, first, 1, true);
        assert_eq!(read.len(), 1);
        let expected = Record {
            first,
            count: batch.count,
            epoch: self.epoch,
            time_us: batch.time_us,
            events: batch.events.to_vec().into(),
            payloads: batch.payloads.to_vec().into(),
            hash: read[0].hash,
        };
        assert_eq!(read[0], expected);
        self.records.push(expected);
    }

    fn trimmed(&mut self, before: Offset, oldest: Offset) {
        assert!(oldest >= self.oldest, "the oldest offset never falls");
        assert!(
            oldest <= before.max(self.oldest),
            "a trim stops before the offset it was given"
        );
        self.records.retain(|record| record.end() > oldest);
        let whole = self
            .records
            .first()
            .is_none_or(|record| record.first == oldest);
        assert!(whole, "whole batches are trimmed");
        self.oldest = oldest;
    }

    fn check_read(&self, reader: &Reader, from: Offset, max_bytes: usize, payloads: bool) {
        let read = must_read(reader, from, max_bytes, payloads);
        let mut left = max_bytes;
        let mut expected = Vec::new();
        for record in self.records.iter().filter(|record| record.end() > from) {
            let mut record = record.clone();
            if !payloads {
                record.payloads.clear();
            }
            let size = record.events.len() + record.payloads.len();
            if size > left && !expected.is_empty() {
                break;
            }
            left = left.saturating_sub(size);
            expected.push(record);
        }
        // A limit that is used up exactly may end the read or let empty batches follow.
        assert!(
            !read.is_empty() || expected.is_empty(),
            "a read gives at least one batch"
        );
        assert!(
            expected.starts_with(&read),
            "a read gives batches as they were appended"
        );
        if left > 0 {
            assert_eq!(
                read.len(),
                expected.len(),
                "a read gives as many batches as fit"
            );
        }
    }
}

fn must_open(open: &OpenLog) -> Box<dyn EventLog> {
    match open() {
        Ok(log) => log,
        Err(error) => panic!("the log opens: {error}"),
    }
}

fn must_read(reader: &Reader, from: Offset, max_bytes: usize, payloads: bool) -> Vec<Record> {
    match reader.read(from, max_bytes, payloads) {
        Ok(records) => records,
        Err(error) => panic!("a read from {from} succeeds: {error}"),
    }
}

fn must_append(log: &mut dyn EventLog, count: u32, events: &[u8], payloads: &[u8], time_us: i64) {
    let next = log.reader().bounds().next;
    let end = log.append(
        next,
        &Batch {
            count,
            time_us,
            events,
            payloads,
        },
    );
    match end {
        Ok(end) => assert_eq!(end, next + u64::from(count)),
        Err(error) => panic!("an append at {next} succeeds: {error}"),
    }
}

fn refuses_offset(log: &mut dyn EventLog, expected: Offset, next: Offset) {
    let batch = Batch {
        count: 1,
        time_us: 0,
        events: b"beside",
        payloads: b"",
    };
    let refused = matches!(
        log.append(expected, &batch),
        Err(AppendError::Refused(Refused::WrongOffset { expected: e, next: n }))
            if e == expected && n == next
    );
    assert!(
        refused,
        "an append at {expected} is refused where {next} is the next"
    );
}

fn appends_are_read_back_whole(open: &OpenLog) {
    let mut log = must_open(open);
    must_append(&mut *log, 2, b"events", b"payloads", -7);
    must_append(&mut *log, 1, b"", b"", i64::MAX);
    let read = must_read(&log.reader(), 0, usize::MAX, true);
    assert_eq!((read[0].first, read[0].count, read[0].time_us), (0, 2, -7));
    assert_eq!(
        (&read[0].events[..], &read[0].payloads[..]),
        (&b"events"[..], &b"payloads"[..])
    );
    assert_eq!(
        (read[1].first, read[1].count, read[1].time_us),
        (2, 1, i64::MAX)
    );
    assert_ne!(read[0].hash, read[1].hash);
}

fn batches_that_do_not_fit_are_refused_and_nothing_changes(open: &OpenLog) {
    let mut log = must_open(open);
    must_append(&mut *log, 3, b"abc", b"", 1);
    refuses_offset(&mut *log, 0, 3);
    refuses_offset(&mut *log, 2, 3);
    refuses_offset(&mut *log, 4, 3);
    let empty = Batch {
        count: 0,
        time_us: 0,
        events: b"",
        payloads: b"",
    };
    assert!(matches!(
        log.append(3, &empty),
        Err(AppendError::Refused(Refused::Unfit(_)))
    ));
    let huge = vec![0; MAX_RECORD_BYTES];
    let huge = Batch {
        count: 1,
        time_us: 0,
        events: &huge,
        payloads: b"",
    };
    assert!(matches!(
        log.append(3, &huge),
        Err(AppendError::Refused(Refused::Unfit(_)))
    ));
    assert_eq!(log.reader().bounds().next, 3);
    must_append(&mut *log, 1, b"d", b"", 2);
    assert_eq!(must_read(&log.reader(), 0, usize::MAX, true).len(), 2);
}

fn reads_keep_their_limits(open: &OpenLog) {
    let mut log = must_open(open);
    for index in 0..40u8 {
        must_append(&mut *log, 5, &[index; 100], &[index; 400], i64::from(index));
    }
    let reader = log.reader();
    let inside = must_read(&reader, 7, 1, false);
    assert_eq!(
        (inside.len(), inside[0].first),
        (1, 5),
        "the batch that holds the offset is first"
    );
    assert_eq!(must_read(&reader, 0, 250, false).len(), 2);
    assert_eq!(must_read(&reader, 0, 499, true).len(), 1);
    assert_eq!(must_read(&reader, 0, 1000, true).len(), 2);
    assert_eq!(must_read(&reader, 0, 0, true).len(), 1);
    let all = must_read(&reader, 0, usize::MAX, false);
    assert_eq!(all.len(), 40);
    assert!(
        all.iter()
            .all(|record| record.payloads.is_empty() && record.events.len() == 100)
    );
    assert!(
        must_read(&reader, 200, 1000, true).is_empty(),
        "the end holds nothing yet"
    );
}

fn offsets_that_are_not_there_are_told(open: &OpenLog) {
    let mut log = must_open(open);
    for index in 0..100 {
        must_append(&mut *log, 1, &[7; 300], b"", index);
    }
    let reader = log.reader();
    assert!(matches!(
        reader.read(101, 1, true),
        Err(ReadError::PastEnd {
            from: 101,
            next: 100
        })
    ));
    let Ok(oldest) = log.trim(60) else {
        panic!("a trim succeeds");
    };
    assert!(
        oldest > 0 && oldest <= 60,
        "files before 60 are gone: {oldest}"
    );
    assert!(matches!(
        reader.read(oldest - 1, 1, true),
        Err(ReadError::Trimmed { oldest: o, .. }) if o == oldest
    ));
    assert_eq!(
        must_read(&reader, oldest, usize::MAX, true).len() as u64,
        100 - oldest
    );
    drop(log);
    let log = must_open(open);
    assert_eq!(
        log.reader().bounds().oldest,
        oldest,
        "a trim outlives the writer"
    );
}

fn identity_stays_and_the_epoch_rises(open: &OpenLog) {
    let mut log = must_open(open);
    let first = log.reader().bounds();
    must_append(&mut *log, 1, b"first", b"", 1);
    drop(log);
    let mut log = must_open(open);
    let second = log.reader().bounds();
    assert_eq!(second.log_id, first.log_id);
    assert!(second.epoch > first.epoch);
    must_append(&mut *log, 1, b"second", b"", 2);
    let epochs: Vec<u64> = must_read(&log.reader(), 0, usize::MAX, true)
        .iter()
        .map(|record| record.epoch)
        .collect();
    assert_eq!(epochs, [first.epoch, second.epoch]);
}

fn a_second_writer_is_refused(open: &OpenLog) {
    let mut log = must_open(open);
    assert!(matches!(open(), Err(OpenError::Locked { .. })));
    must_append(&mut *log, 1, b"goes on", b"", 1);
    drop(log);
    assert!(open().is_ok());
}

fn a_follower_sees_everything_once_and_ends_with_the_writer(open: &OpenLog) {
    let mut log = must_open(open);
    let reader = log.reader();
    let follower = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let Ok(runtime) = runtime else {
            panic!("a runtime starts");
        };
        let mut at = 0;
        let mut seen = Vec::new();
        while runtime.block_on(reader.follow(at)) {
            for record in must_read(&reader, at, 2000, true) {
                assert_eq!(record.first, at, "nothing twice, nothing left out");
                at = record.end();
                seen.push(record.events);
            }
        }
        seen
    });
    let events: Vec<Vec<u8>> = (0..200u8)
        .map(|index| vec![index; usize::from(index)])
        .collect();
    for (index, events) in (0..).zip(&events) {
        must_append(&mut *log, 2, events, b"payload", index);
    }
    let reader = log.reader();
    drop(log);
    let Ok(mut seen) = follower.join() else {
        panic!("the follower ends without a panic");
    };
    // What was appended last may still have to be fetched when the writer is gone.
    let at = seen.len() as u64 * 2;
    seen.extend(
        must_read(&reader, at, usize::MAX, true)
            .into_iter()
            .map(|record| record.events),
    );
    assert_eq!(seen, events);
}

fn a_closed_log_takes_nothing(open: &OpenLog) {
    let mut log = must_open(open);
    must_append(&mut *log, 1, b"kept", b"", 1);
    assert!(log.close().is_ok());
    assert!(log.close().is_ok(), "closing twice does no harm");
    let batch = Batch {
        count: 1,
        time_us: 0,
        events: b"late",
        payloads: b"",
    };
    assert!(matches!(
        log.append(1, &batch),
        Err(AppendError::Unknown(_))
    ));
    assert_eq!(must_read(&log.reader(), 0, usize::MAX, true).len(), 1);
}

fn retention_never_stops_the_writer(fresh: &impl Fn(Options) -> OpenLog) {
    let by_size = Options {
        retention_bytes: Some(64 * 1024),
        ..Options::default()
    };
    let open = fresh(Options {
        segment_bytes: 4096,
        ..by_size
    });
    let mut log = must_open(&open);
    for index in 0..2000 {
        must_append(&mut *log, 1, &[1; 200], b"", index);
        if let Some(before) = log.overdue(index) {
            assert!(log.trim(before).is_ok());
        }
        assert!(
            log.reader().bounds().size_bytes <= 72 * 1024,
            "the log stays near its size"
        );
    }
    let kept = log.reader().bounds();
    assert!(
        kept.oldest > 0 && kept.next - kept.oldest > 100,
        "and keeps what fits"
    );
    drop(log);

    let second = 1_000_000;
    let by_age = Options {
        retention_age: Some(Duration::from_secs(100)),
        ..Options::default()
    };
    let open = fresh(Options {
        segment_bytes: 1 << 20,
        ..by_age
    });
    let mut log = must_open(&open);
    for index in 0..1000 {
        let now = index * second;
        must_append(&mut *log, 1, b"an event a second", b"", now);
        if let Some(before) = log.overdue(now) {
            assert!(log.trim(before).is_ok());
        }
    }
    let kept = must_read(
        &log.reader(),
        log.reader().bounds().oldest,
        usize::MAX,
        true,
    );
    assert!(
        kept.len() > 100,
        "what is young enough is kept: {}",
        kept.len()
    );
    assert!(kept.len() < 160, "what is too old is not: {}", kept.len());
}
