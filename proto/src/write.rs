//! Messages written by hand, field by field, where the generated types would own a String for each
//! name that only passes through. Fields are written in the order of their numbers and left out at
//! their defaults, as the generated code does; tests hold what is written against it.

use prost::Message;
use prost::encoding::{WireType, encode_varint, encoded_len_varint};

use crate::event::Failure;
use crate::id::Time;

/// A varint: a number, a bool, an enum.
pub fn number(out: &mut Vec<u8>, tag: u32, value: u64) {
    if value != 0 {
        key(out, tag, WireType::Varint);
        varint(out, value);
    }
}

fn key(out: &mut Vec<u8>, tag: u32, kind: WireType) {
    varint(out, u64::from(tag << 3 | kind as u32));
}

/// Most are one byte.
#[inline]
fn varint(out: &mut Vec<u8>, value: u64) {
    match u8::try_from(value) {
        Ok(byte) if byte < 0x80 => out.push(byte),
        _ => encode_varint(value, out),
    }
}

/// An enum's value.
pub fn value(out: &mut Vec<u8>, tag: u32, value: impl Into<i32>) {
    number(out, tag, i64::from(value.into()) as u64);
}

/// A string.
pub fn text(out: &mut Vec<u8>, tag: u32, text: &str) {
    bytes(out, tag, text.as_bytes());
}

/// Bytes.
pub fn bytes(out: &mut Vec<u8>, tag: u32, bytes: &[u8]) {
    if !bytes.is_empty() {
        length(out, tag, bytes.len());
        out.extend_from_slice(bytes);
    }
}

/// An instant: a `google.protobuf.Timestamp`.
pub fn instant(out: &mut Vec<u8>, tag: u32, time: Time) {
    let micros = time.0;
    message(out, tag, |out| {
        number(out, 1, micros.div_euclid(1_000_000) as u64);
        number(out, 2, micros.rem_euclid(1_000_000) as u64 * 1_000);
    });
}

/// So many microseconds: a `google.protobuf.Duration`.
pub fn duration(out: &mut Vec<u8>, tag: u32, us: u64) {
    message(out, tag, |out| {
        number(out, 1, us / 1_000_000);
        number(out, 2, us % 1_000_000 * 1_000);
    });
}

/// What stands before a field of so many bytes.
pub fn length(out: &mut Vec<u8>, tag: u32, length: usize) {
    key(out, tag, WireType::LengthDelimited);
    varint(out, length as u64);
}

/// A message of a generated type.
pub fn generated(out: &mut Vec<u8>, tag: u32, message: &impl Message) {
    prost::encoding::message::encode(tag, message, out);
}

/// Why something failed, where it did.
pub fn failure(out: &mut Vec<u8>, tag: u32, failure: Option<&Failure>) {
    if let Some(failure) = failure {
        message(out, tag, |out| {
            text(out, 1, &failure.kind);
            text(out, 2, &failure.message);
            text(out, 3, &failure.detail);
        });
    }
}

/// A message whose length is known once it is written.
pub fn message(out: &mut Vec<u8>, tag: u32, write: impl FnOnce(&mut Vec<u8>)) {
    key(out, tag, WireType::LengthDelimited);
    let start = out.len();
    // Room for a short one's length.
    out.push(0);
    write(out);
    let length = out.len() - start - 1;
    if length < 0x80 {
        out[start] = length as u8;
        return;
    }
    let mut bytes = [0; 10];
    encode_varint(length as u64, &mut bytes.as_mut_slice());
    let bytes = &bytes[..encoded_len_varint(length as u64)];
    let end = out.len();
    out.extend_from_slice(&bytes[1..]);
    out.copy_within(start + 1..end, start + bytes.len());
    out[start..start + bytes.len()].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    #[test]
    fn a_message_of_any_length_is_written_as_the_generated_code_writes_it() {
        for length in [0, 1, 126, 127, 128, 129, 16_383, 16_384, 70_000] {
            let failure = wire::Failure {
                message: "x".repeat(length),
                ..Default::default()
            };
            let error = wire::CommandError {
                failure: Some(failure.clone()),
                not_retryable: true,
            };
            let mut written = Vec::new();
            message(&mut written, 1, |out| text(out, 2, &failure.message));
            number(&mut written, 2, 1);
            assert_eq!(written, error.encode_to_vec(), "{length}");
        }
    }
}
