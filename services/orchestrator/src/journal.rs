//! The batch being filled: events into their bytes, one append, one sync.
//!
//! The only place that appends to the log of record. Events that only observe may ride along with
//! the next batch; nothing here decides what an event means, and nobody learns of an event from here
//! before its append returned.

use eventlog::{AppendError, Batch, Bounds, EventLog, Offset, Reader, Room};
use proto::batch::Encoder;
use proto::event::Event;

/// The writing side of the log, with the batch that comes next.
pub(crate) struct Journal {
    log: Box<dyn EventLog>,
    encoder: Encoder,
    /// The offset that the first event of the batch gets.
    first: Offset,
    /// Whether every event of the batch only observes.
    only_observing: bool,
}

impl Journal {
    /// A journal that goes on where the log ends.
    pub(crate) fn new(log: Box<dyn EventLog>) -> Self {
        let first = log.reader().bounds().next;
        Self {
            log,
            encoder: Encoder::default(),
            first,
            only_observing: true,
        }
    }

    /// The offset that the next event gets.
    pub(crate) fn next(&self) -> Offset {
        self.first + Offset::from(self.encoder.count())
    }

    /// Everything below is durable.
    pub(crate) fn durable(&self) -> Offset {
        self.first
    }

    /// Adds an event to the batch.
    pub(crate) fn push(&mut self, event: &Event) {
        self.only_observing &= event.observes();
        self.encoder.push(event);
    }

    /// How large the batch is, about.
    pub(crate) fn batch_bytes(&self) -> usize {
        self.encoder.size()
    }

    /// How many events it has.
    pub(crate) fn batch_events(&self) -> u32 {
        self.encoder.count()
    }

    /// Whether there is anything in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.encoder.count() == 0
    }

    /// Whether nobody waits for what is in it.
    pub(crate) fn only_observes(&self) -> bool {
        self.only_observing
    }

    /// Makes the batch durable and returns the offset after it. After a failure the batch is gone:
    /// whoever filled it must forget what he made of it.
    pub(crate) fn append(&mut self) -> Result<Offset, AppendError> {
        if self.is_empty() {
            return Ok(self.first);
        }
        let count = self.encoder.count();
        let time_us = self.encoder.time().0;
        let (events, payloads) = self.encoder.finish(self.first);
        let batch = Batch {
            count,
            time_us,
            events,
            payloads,
        };
        let appended = self.log.append(self.first, &batch);
        self.encoder.clear();
        self.only_observing = true;
        if let Ok(next) = appended {
            self.first = next;
        }
        appended
    }

    /// Forgets the batch.
    pub(crate) fn discard(&mut self) {
        self.encoder.clear();
        self.only_observing = true;
    }

    /// What the log holds.
    pub(crate) fn bounds(&self) -> Bounds {
        self.log.reader().bounds()
    }

    /// A handle that reads.
    pub(crate) fn reader(&self) -> Reader {
        self.log.reader()
    }

    /// How much room is left.
    pub(crate) fn room(&self) -> Room {
        self.log.room()
    }

    /// The place before which retention asks to trim now.
    pub(crate) fn overdue(&self, now_us: i64) -> Option<Offset> {
        self.log.overdue(now_us)
    }

    /// See [`EventLog::trim`].
    pub(crate) fn trim(&mut self, before: Offset) -> Result<Offset, AppendError> {
        self.log.trim(before)
    }

    /// Ends the log in order.
    pub(crate) fn close(&mut self) -> Result<(), AppendError> {
        self.log.close()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use eventlog::{MemoryStore, Options, Refused};
    use proto::event::{HostEvent, Kind};
    use proto::id::{HostId, Time};

    fn event(micros: i64) -> Event {
        Event {
            time: Time(micros),
            kind: Kind::Host {
                host: HostId::parse("h").unwrap(),
                what: HostEvent::Draining,
            },
        }
    }

    #[test]
    fn a_batch_is_appended_as_a_whole_and_reads_back() {
        let store = MemoryStore::new();
        let mut journal = Journal::new(Box::new(store.open(Options::default()).unwrap()));
        journal.push(&event(5));
        journal.push(&event(7));
        assert_eq!((journal.durable(), journal.next()), (0, 2));
        assert_eq!(journal.append().unwrap(), 2);
        assert_eq!((journal.durable(), journal.next()), (2, 2));
        let records = journal.reader().read(0, 1 << 20, true).unwrap();
        let decoded = proto::batch::decode(&records[0].events, None).unwrap();
        let events: Vec<_> = decoded
            .events
            .into_iter()
            .map(|stored| stored.event)
            .collect();
        assert_eq!(events, [event(5), event(7)]);
    }

    #[test]
    fn a_refused_batch_leaves_the_next_offset_as_it_was() {
        let store = MemoryStore::new();
        let mut journal = Journal::new(Box::new(store.open(Options::default()).unwrap()));
        store.refuse_next(Refused::Full("a test".to_owned()));
        journal.push(&event(5));
        assert!(journal.append().is_err());
        assert_eq!((journal.durable(), journal.next()), (0, 0));
        journal.push(&event(6));
        assert_eq!(journal.append().unwrap(), 1);
    }
}
