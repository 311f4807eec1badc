//! Histories: anything may happen to a log, and after each step it is what it should be.
//!
//! A model that is too simple to be wrong (a list of batches) says what that is. Nothing here
//! knows how a store keeps its bytes.

use super::{OpenLog, must_open, must_read, refuses_offset};
use crate::simulated::Random;
use crate::{Batch, Offset, Reader, Record};

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
