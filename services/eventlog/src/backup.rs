//! A backup: all that a log held durably at one instant, as one file.
//!
//! It is taken through a reader, so the writer neither stops nor waits, and a trim takes nothing away
//! from under it: the files stay open. What is written is the log's own HEAD and segments behind a
//! block that says how long the whole is, and every record is checked, with the chain, on its way.
//! Nothing that is wrong gets into a backup; a file that is shorter than it says is none.
//! `FORMAT.md` has the layout.

use std::io::{self, Read as _, Write};

use crate::head::{FORMAT_VERSION, Mark, seal};
use crate::read::{Part, came_out, chain_before};
use crate::segment::{FIRST_RECORD, HEADER_LEN};
use crate::{Bounds, Hash, ReadError};

pub(crate) const MAGIC: [u8; 8] = *b"MABACKUP";
/// Where HEAD lies, and where the table of segments.
pub(crate) const HEAD_AT: usize = 32;
pub(crate) const TABLE_AT: usize = 160;
/// A segment's first offset and its length.
pub(crate) const ENTRY_BYTES: usize = 16;
/// The first block is filled up to a multiple of this.
const BLOCK_ALIGNMENT: usize = 512;

/// How long the first block is that lists so many segments.
pub(crate) fn block_bytes(segments: usize) -> usize {
    (TABLE_AT + segments * ENTRY_BYTES).next_multiple_of(BLOCK_ALIGNMENT)
}

/// A log as of one instant, ready to be written.
pub struct Backup {
    bounds: Bounds,
    hash: Hash,
    parts: Vec<Part>,
}

impl Backup {
    pub(crate) fn new(bounds: &Bounds, hash: Hash, parts: Vec<Part>) -> Backup {
        Backup {
            bounds: *bounds,
            hash,
            parts,
        }
    }

    /// What it holds.
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// How long the file becomes.
    pub fn size_bytes(&self) -> u64 {
        let segments: u64 = self.parts.iter().map(|part| part.size_bytes).sum();
        block_bytes(self.parts.len()) as u64 + segments
    }

    /// Writes it to `out`. On an error what was written so far is no backup, and says so by its
    /// length.
    pub fn write(&self, out: &mut dyn Write) -> Result<(), ReadError> {
        out.write_all(&self.block()).map_err(unwritten)?;
        let mut chain = chain_before(&self.parts, self.hash);
        for part in &self.parts {
            out.write_all(&part.segment.opening.encode())
                .map_err(unwritten)?;
            pad(out, FIRST_RECORD - HEADER_LEN as u64)?;
            let mut position = FIRST_RECORD;
            part.walk(&mut chain, &mut |found| {
                let length = found.header.stored_len() as u64;
                out.write_all(&found.bytes).map_err(unwritten)?;
                position += length;
                pad(out, length - found.bytes.len() as u64)
            })?;
            pad(out, part.size_bytes - position)?;
        }
        came_out(&self.parts, chain, self.hash)?;
        out.flush().map_err(unwritten)
    }

    /// What stands at the file's beginning, and vouches for the rest.
    fn block(&self) -> Vec<u8> {
        let mut block = vec![0; block_bytes(self.parts.len())];
        block[..8].copy_from_slice(&MAGIC);
        block[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        block[16..20].copy_from_slice(&(self.parts.len() as u32).to_le_bytes());
        block[24..32].copy_from_slice(&self.size_bytes().to_le_bytes());
        block[HEAD_AT..TABLE_AT].copy_from_slice(&Mark::of_copy(&self.bounds, self.hash).encode());
        for (part, entry) in self
            .parts
            .iter()
            .zip(block[TABLE_AT..].chunks_exact_mut(ENTRY_BYTES))
        {
            entry[..8].copy_from_slice(&part.segment.opening.first.to_le_bytes());
            entry[8..].copy_from_slice(&part.size_bytes.to_le_bytes());
        }
        seal(&mut block);
        block
    }
}

/// Zeros: what stands between the last byte of a record and the next, and behind the last one.
fn pad(out: &mut dyn Write, bytes: u64) -> Result<(), ReadError> {
    io::copy(&mut io::repeat(0).take(bytes), out)
        .map(|_| ())
        .map_err(unwritten)
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "it is what `map_err` hands over"
)]
fn unwritten(error: io::Error) -> ReadError {
    ReadError::Io(format!("the backup can't be written: {error}"))
}
