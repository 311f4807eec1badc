//! Cursors: opaque places in a log to resume from.

use std::fmt;

use crate::error::{Problem, Reason};

const VERSION: u8 = 1;
const LENGTH: usize = 1 + 16 + 8 + 4 + 8 + 1;

/// A place in one log. Clients pass its text on as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Which log.
    pub log_id: [u8; 16],
    /// The epoch of the log when the cursor was made.
    pub epoch: u64,
    /// The partition; 0 as long as there is one.
    pub partition: u32,
    /// The offset of the next event to read.
    pub offset: u64,
}

impl Cursor {
    /// Reads a cursor's text.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        Self::decode(text).ok_or_else(|| {
            Problem::field(
                Reason::CursorInvalid,
                "cursor",
                "cursor is not one that this service made; pass it on as it came, or leave it out",
            )
        })
    }

    /// Its text; every answer about a transaction has one.
    pub fn text(&self) -> [u8; LENGTH * 2] {
        let mut bytes = [0; LENGTH];
        bytes[0] = VERSION;
        bytes[1..17].copy_from_slice(&self.log_id);
        bytes[17..25].copy_from_slice(&self.epoch.to_be_bytes());
        bytes[25..29].copy_from_slice(&self.partition.to_be_bytes());
        bytes[29..37].copy_from_slice(&self.offset.to_be_bytes());
        bytes[37] = checksum(&bytes[..37]);
        let mut text = [0; LENGTH * 2];
        for (digits, byte) in text.chunks_exact_mut(2).zip(bytes) {
            digits[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
            digits[1] = b"0123456789abcdef"[usize::from(byte & 15)];
        }
        text
    }

    fn decode(text: &str) -> Option<Self> {
        if text.len() != LENGTH * 2 || !text.is_ascii() {
            return None;
        }
        let mut bytes = [0; LENGTH];
        for (at, byte) in bytes.iter_mut().enumerate() {
            let digits = text.get(at * 2..at * 2 + 2)?;
            if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return None;
            }
            *byte = u8::from_str_radix(digits, 16).ok()?;
        }
        let (body, check) = bytes.split_at(LENGTH - 1);
        if body[0] != VERSION || check[0] != checksum(body) {
            return None;
        }
        Some(Self {
            log_id: body[1..17].try_into().ok()?,
            epoch: u64::from_be_bytes(body[17..25].try_into().ok()?),
            partition: u32::from_be_bytes(body[25..29].try_into().ok()?),
            offset: u64::from_be_bytes(body[29..37].try_into().ok()?),
        })
    }
}

/// Tells a mistyped cursor from a real one.
fn checksum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0x5a, |sum: u8, byte| sum.rotate_left(3) ^ byte)
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.text()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_a_changed_one_is_refused() {
        let cursor = Cursor {
            log_id: [7; 16],
            epoch: 3,
            partition: 0,
            offset: 1 << 40,
        };
        let text = cursor.to_string();
        assert_eq!(Cursor::parse(&text).ok(), Some(cursor));
        for at in 0..text.len() {
            let mut changed: Vec<u8> = text.clone().into_bytes();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            assert!(
                Cursor::parse(&String::from_utf8_lossy(&changed)).is_err(),
                "digit {at}"
            );
        }
        for wrong in ["", "zz", "+1", "é"] {
            assert!(Cursor::parse(wrong).is_err());
        }
    }
}
