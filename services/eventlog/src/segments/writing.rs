//! One record into the active segment: all of it or, without room, none.

use std::io;

use super::SegmentLog;
use crate::AppendError;
use crate::disk::{LARGE_BYTES_MIN, is_full, until_next_block, write_whole};
use crate::record::HEADER_BYTES;

/// Whether a record of that length is written past the page cache, without zeros ahead of it.
pub(super) fn is_large(length: usize) -> bool {
    length >= LARGE_BYTES_MIN
}

impl SegmentLog {
    /// Writes a record. Without room for it, nothing of it stays.
    pub(super) fn write_record(&self, record: &[u8]) -> Result<(), AppendError> {
        let end = self.position + record.len() as u64;
        if is_large(record.len()) {
            return self.write_large_record(record, end);
        }
        self.ahead
            .ensure(end, self.work.options.segment_bytes)
            .map_err(|error| self.full_or_fail("lengthening a segment in", &error))?;
        write_whole(&*self.active.file, record, self.position)
            .map_err(|(written, error)| self.take_back(written, &error))
    }

    /// Writes a large record into blocks of its own, which need not exist before.
    fn write_large_record(&self, record: &[u8], end: u64) -> Result<(), AppendError> {
        let claim = self.ahead.claim(end);
        // Its beginning goes by itself: once that is written its block exists, so that it can be
        // taken back however full the disk is. Of the rest an error may hide what was written.
        let (start, rest) = record.split_at(until_next_block(self.position));
        let file = &*self.active.file;
        let result = write_whole(file, start, self.position).and_then(|()| {
            let position = self.position + start.len() as u64;
            write_whole(file, rest, position).map_err(|(_, error)| (start.len(), error))
        });
        result.map_err(|(written, error)| {
            let refused = self.take_back(written, &error);
            if let AppendError::Refused(_) = refused {
                claim.give_back();
            }
            refused
        })
    }

    /// After a failed write of a record, of which at least the beginning's `written` bytes are
    /// there: if it was for want of room, its header is overwritten and it is refused. It may be
    /// whole if the rest happened to be there already; without its header it is no record.
    fn take_back(&self, written: usize, error: &io::Error) -> AppendError {
        if !is_full(error) {
            return self.fail("writing", error);
        }
        let file = &*self.active.file;
        // No more than was written: that much has its blocks.
        let zeros = &[0; HEADER_BYTES][..written.min(HEADER_BYTES)];
        if let Err((_, error)) = write_whole(file, zeros, self.position) {
            return self.fail("taking back an unfinished record in", &error);
        }
        if let Err(error) = file.sync_data() {
            return self.fail("syncing", &error);
        }
        self.full_or_fail("writing to", error)
    }
}
