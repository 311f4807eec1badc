//! The promises of every store, as one test suite.
//!
//! A store's tests call [`run`] and, with histories of their own making, [`check_history`]. What
//! is checked here holds for each store alike; what only bytes on a disk can show is tested beside
//! the store that has them. It panics where a promise is broken, as tests do.

mod history;

use std::time::Duration;

use crate::{
    AppendError, Batch, EventLog, MAX_RECORD_BYTES, Offset, OpenError, Options, ReadError, Reader,
    Record, Refused,
};

pub use history::{Step, check_history, random_steps};

/// Opens one and the same log, again and again.
pub type OpenLog = Box<dyn Fn() -> Result<Box<dyn EventLog>, OpenError>>;

/// How many random cases a test tries: `few`, or in proportion as many as `CHAOS_ROUNDS` asks for, of
/// which 300 stand for `many`.
pub fn cases(few: u32, many: u32) -> u32 {
    let asked = std::env::var("CHAOS_ROUNDS").ok();
    let asked = asked.and_then(|text| text.parse::<u32>().ok());
    asked.map_or(few, |asked| (many * asked).div_ceil(300))
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
