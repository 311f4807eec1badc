//! A batch as bytes: framing, checksums and the chain of hashes.
//!
//! It knows one record at a time and nothing of files. It never trusts a length before it has
//! checked that the bytes are there, and it never answers with bytes whose checksum is wrong.
//! `FORMAT.md` has the layout as a table.

use std::ops::Range;

use crate::{Batch, Hash, Offset};

/// The fixed part of a record.
pub(crate) const HEADER_BYTES: usize = 80;
/// A record with payloads has their hash between its header and its events.
const PAYLOAD_HASH_BYTES: usize = 32;
/// Records begin at multiples of this, so that a search for records behind damage is cheap.
pub(crate) const ALIGNMENT: usize = 8;
/// The longest record: larger batches are refused, larger lengths on disk are damage.
pub const MAX_RECORD_BYTES: usize = 64 * 1024 * 1024;
/// Marks a record; the last byte is the record's format.
const MAGIC: [u8; 4] = *b"MAR\x01";
/// In the length of the payloads: they were erased, their hash stays.
const ERASED: u32 = 1 << 31;
/// Stands in the chain for the hash of payloads where there are none.
const NO_PAYLOADS: Hash = [0; 32];

/// A record's header, parsed and plausible, but not yet checked against its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    crc: u32,
    payload_crc: u32,
    events_len: u32,
    payloads_len: u32,
    erased: bool,
    pub(crate) count: u32,
    pub(crate) first: Offset,
    pub(crate) epoch: u64,
    pub(crate) time_us: i64,
    pub(crate) hash: Hash,
}

impl Header {
    /// Reads the header at the start of `bytes`; `None` where none can be.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Header> {
        let bytes = bytes.get(..HEADER_BYTES)?;
        if bytes[..4] != MAGIC {
            return None;
        }
        let payloads = u32_at(bytes, 12);
        let header = Header {
            crc: u32_at(bytes, 4),
            events_len: u32_at(bytes, 8),
            payloads_len: payloads & !ERASED,
            erased: payloads & ERASED != 0,
            count: u32_at(bytes, 16),
            payload_crc: u32_at(bytes, 20),
            first: u64_at(bytes, 24),
            epoch: u64_at(bytes, 32),
            time_us: u64_at(bytes, 40).cast_signed(),
            hash: hash_at(bytes, 48),
        };
        let fits = header.events_len as usize <= MAX_RECORD_BYTES
            && header.payloads_len as usize <= MAX_RECORD_BYTES
            && header.stored_len() <= MAX_RECORD_BYTES
            && header.count > 0
            && header.first.checked_add(u64::from(header.count)).is_some();
        fits.then_some(header)
    }

    /// Where the events lie in the record.
    pub(crate) fn events(&self) -> Range<usize> {
        let start = events_start(self.payloads_len as usize);
        start..start + self.events_len as usize
    }

    /// Where the payloads lie in the record.
    pub(crate) fn payloads(&self) -> Range<usize> {
        let start = self.events().end;
        start..start + self.payloads_len as usize
    }

    /// How many bytes the record takes, padding included.
    pub(crate) fn stored_len(&self) -> usize {
        self.payloads().end.next_multiple_of(ALIGNMENT)
    }

    /// Whether the payloads' bytes were erased after the fact.
    pub(crate) fn erased(&self) -> bool {
        self.erased
    }

    /// Whether header and events are as they were written. `record` reaches at least to the end
    /// of the events.
    pub(crate) fn events_hold(&self, salt: u32, record: &[u8]) -> bool {
        record
            .get(8..self.events().end)
            .is_some_and(|covered| crc32c::crc32c_append(salt, covered) == self.crc)
    }

    /// Whether the payloads are as they were written; erased ones always are.
    pub(crate) fn payloads_hold(&self, salt: u32, record: &[u8]) -> bool {
        self.erased
            || record
                .get(self.payloads())
                .is_some_and(|payloads| checksum_payloads(salt, payloads) == self.payload_crc)
    }

    /// The chain after this record, computed from its bytes; equal to `hash` if nothing is wrong.
    pub(crate) fn chained(&self, previous: &Hash, record: &[u8]) -> Hash {
        let payload_hash = if self.payloads_len == 0 {
            NO_PAYLOADS
        } else {
            let stored = hash_at(record, HEADER_BYTES);
            let actual = *blake3::hash(&record[self.payloads()]).as_bytes();
            if self.erased || actual == stored {
                stored
            } else {
                actual
            }
        };
        chain(previous, self, &payload_hash, &record[self.events()])
    }
}

/// How many bytes a batch takes as a record.
pub(crate) fn stored_len(batch: &Batch<'_>) -> usize {
    (events_start(batch.payloads.len()) + batch.events.len() + batch.payloads.len())
        .next_multiple_of(ALIGNMENT)
}

/// Writes a batch into `buffer`, behind what it holds, and returns the chain after it.
pub(crate) fn encode(
    buffer: &mut Vec<u8>,
    salt: u32,
    previous: &Hash,
    first: Offset,
    epoch: u64,
    batch: &Batch<'_>,
) -> Hash {
    let mut header = Header {
        crc: 0,
        payload_crc: checksum_payloads(salt, batch.payloads),
        events_len: batch.events.len() as u32,
        payloads_len: batch.payloads.len() as u32,
        erased: false,
        count: batch.count,
        first,
        epoch,
        time_us: batch.time_us,
        hash: [0; 32],
    };
    let payload_hash = if batch.payloads.is_empty() {
        NO_PAYLOADS
    } else {
        *blake3::hash(batch.payloads).as_bytes()
    };
    header.hash = chain(previous, &header, &payload_hash, batch.events);

    let start = buffer.len();
    buffer.reserve(header.stored_len());
    buffer.extend_from_slice(&MAGIC);
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&header.events_len.to_le_bytes());
    buffer.extend_from_slice(&header.payloads_len.to_le_bytes());
    buffer.extend_from_slice(&header.count.to_le_bytes());
    buffer.extend_from_slice(&header.payload_crc.to_le_bytes());
    buffer.extend_from_slice(&first.to_le_bytes());
    buffer.extend_from_slice(&epoch.to_le_bytes());
    buffer.extend_from_slice(&batch.time_us.to_le_bytes());
    buffer.extend_from_slice(&header.hash);
    if !batch.payloads.is_empty() {
        buffer.extend_from_slice(&payload_hash);
    }
    buffer.extend_from_slice(batch.events);
    seal(&mut buffer[start..], salt);
    buffer.extend_from_slice(batch.payloads);
    buffer.resize(start + header.stored_len(), 0);
    header.hash
}

/// Overwrites the payloads of a record with zeros. Its events, and the chain through it, stay
/// whole, since the chain covers the payloads by their hash, which stays too.
pub fn erase_payloads(record: &mut [u8], salt: u32) {
    let Some(header) = Header::parse(record) else {
        return;
    };
    if header.payloads_len == 0 || record.len() < header.stored_len() {
        return;
    }
    record[header.payloads()].fill(0);
    record[12..16].copy_from_slice(&(header.payloads_len | ERASED).to_le_bytes());
    record[20..24].fill(0);
    seal(&mut record[..header.events().end], salt);
}

/// The chain before the first batch of a log.
pub(crate) fn genesis(log_id: &[u8; 16]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"multiagents event log");
    hasher.update(log_id);
    *hasher.finalize().as_bytes()
}

/// The chain after a batch: over the chain before it, what the header says of the batch, the
/// payloads' hash and the events. What can change later (checksums, the mark of erasure) stays out.
fn chain(previous: &Hash, header: &Header, payload_hash: &Hash, events: &[u8]) -> Hash {
    let mut fixed = [0; 100];
    fixed[..32].copy_from_slice(previous);
    fixed[32..36].copy_from_slice(&header.events_len.to_le_bytes());
    fixed[36..40].copy_from_slice(&header.payloads_len.to_le_bytes());
    fixed[40..44].copy_from_slice(&header.count.to_le_bytes());
    fixed[44..52].copy_from_slice(&header.first.to_le_bytes());
    fixed[52..60].copy_from_slice(&header.epoch.to_le_bytes());
    fixed[60..68].copy_from_slice(&header.time_us.to_le_bytes());
    fixed[68..100].copy_from_slice(payload_hash);
    let mut hasher = blake3::Hasher::new();
    hasher.update(&fixed);
    hasher.update(events);
    *hasher.finalize().as_bytes()
}

/// The chain after `batch`, for stores that keep no bytes.
pub(crate) fn chain_of(previous: &Hash, first: Offset, epoch: u64, batch: &Batch<'_>) -> Hash {
    let mut scratch = Vec::new();
    encode(&mut scratch, 0, previous, first, epoch, batch)
}

/// Writes the checksum of header and events into a record that ends with its events.
fn seal(record: &mut [u8], salt: u32) {
    let crc = crc32c::crc32c_append(salt, &record[8..]);
    record[4..8].copy_from_slice(&crc.to_le_bytes());
}

fn checksum_payloads(salt: u32, payloads: &[u8]) -> u32 {
    if payloads.is_empty() {
        0
    } else {
        crc32c::crc32c_append(salt, payloads)
    }
}

fn events_start(payloads_len: usize) -> usize {
    if payloads_len == 0 {
        HEADER_BYTES
    } else {
        HEADER_BYTES + PAYLOAD_HASH_BYTES
    }
}

/// The little-endian number at `at`; the caller has checked the length.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

/// The little-endian number at `at`; the caller has checked the length.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

/// The hash at `at`; the caller has checked the length.
pub(crate) fn hash_at(bytes: &[u8], at: usize) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(&bytes[at..at + 32]);
    hash
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const BEFORE: Hash = [7; 32];

    fn encoded(events: &[u8], payloads: &[u8], salt: u32) -> (Vec<u8>, Hash) {
        let mut buffer = Vec::new();
        let batch = Batch {
            count: 3,
            time_us: -5,
            events,
            payloads,
        };
        let hash = encode(&mut buffer, salt, &BEFORE, 41, 2, &batch);
        assert_eq!(buffer.len(), stored_len(&batch));
        (buffer, hash)
    }

    fn holds(record: &[u8], salt: u32) -> bool {
        Header::parse(record).is_some_and(|header| {
            record.len() >= header.stored_len()
                && header.events_hold(salt, record)
                && header.payloads_hold(salt, record)
        })
    }

    proptest! {
        #[test]
        fn a_record_gives_back_what_was_put_in(
            events in vec(any::<u8>(), 0..300),
            payloads in vec(any::<u8>(), 0..300),
            salt: u32,
        ) {
            let (record, hash) = encoded(&events, &payloads, salt);
            let header = Header::parse(&record).unwrap();
            prop_assert!(holds(&record, salt));
            prop_assert_eq!(&record[header.events()], &events[..]);
            prop_assert_eq!(&record[header.payloads()], &payloads[..]);
            prop_assert_eq!((header.first, header.count, header.epoch), (41, 3, 2));
            prop_assert_eq!(header.time_us, -5);
            prop_assert_eq!(header.hash, hash);
            prop_assert_eq!(header.chained(&BEFORE, &record), hash);
            prop_assert_ne!(header.chained(&[8; 32], &record), hash);
        }

        #[test]
        fn any_flipped_bit_is_noticed(
            events in vec(any::<u8>(), 0..60),
            payloads in vec(any::<u8>(), 0..60),
            place: prop::sample::Index,
            bit in 0..8u8,
        ) {
            let (mut record, _) = encoded(&events, &payloads, 9);
            let covered = Header::parse(&record).unwrap().payloads().end;
            record[place.index(covered)] ^= 1 << bit;
            prop_assert!(!holds(&record, 9));
        }

        #[test]
        fn noise_and_short_bytes_are_no_record(bytes in vec(any::<u8>(), 0..200)) {
            prop_assert!(!holds(&bytes, 1));
        }
    }

    #[test]
    fn a_record_of_another_file_does_not_pass_for_one_of_this() {
        let (record, _) = encoded(b"events", b"payloads", 1);
        assert!(holds(&record, 1));
        assert!(!holds(&record, 2));
    }

    #[test]
    fn erased_payloads_leave_events_and_chain_whole() {
        let (mut record, hash) = encoded(b"events", b"a name and an address", 5);
        erase_payloads(&mut record, 5);
        let header = Header::parse(&record).unwrap();
        assert!(header.erased());
        assert!(holds(&record, 5));
        assert_eq!(&record[header.events()], b"events");
        assert!(record[header.payloads()].iter().all(|byte| *byte == 0));
        assert_eq!(header.chained(&BEFORE, &record), hash);
    }

    #[test]
    fn changed_payloads_break_the_chain_even_with_a_right_checksum() {
        let (record, hash) = encoded(b"events", b"payloads", 5);
        let mut forged = record;
        let header = Header::parse(&forged).unwrap();
        forged[header.payloads()].copy_from_slice(b"PAYLOADS");
        let crc = checksum_payloads(5, b"PAYLOADS");
        forged[20..24].copy_from_slice(&crc.to_le_bytes());
        seal(&mut forged[..header.events().end], 5);
        assert!(holds(&forged, 5));
        assert_ne!(
            Header::parse(&forged).unwrap().chained(&BEFORE, &forged),
            hash
        );
    }
}
