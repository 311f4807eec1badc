//! Messages written by hand, field by field, where the generated types would own a String for each
//! name that only passes through, and copy each payload. Fields are written in the order of their
//! numbers and left out at their defaults, as the generated code does; tests hold what is written
//! against it.

use bytes::Bytes;
use prost::Message;
use prost::encoding::{WireType, encoded_len_varint};

use crate::event::Failure;
use crate::id::Time;

/// A payload of so many bytes is not copied into a [`Rope`]: a smaller one is copied sooner than HTTP/2
/// writes a frame more.
pub const LARGE_BYTES: usize = 16 << 10;

/// Where messages are written to: plain bytes, or a [`Rope`].
pub trait Output {
    /// What small things are appended to.
    fn bytes(&mut self) -> &mut Vec<u8>;

    /// How many bytes were written in all.
    fn written(&self) -> usize;

    /// Appends a large payload.
    fn large(&mut self, payload: &Bytes);

    /// The small things from a place on have moved by so many bytes.
    fn moved(&mut self, from: usize, by: usize);
}

impl Output for Vec<u8> {
    fn bytes(&mut self) -> &mut Vec<u8> {
        self
    }

    fn written(&self) -> usize {
        self.len()
    }

    fn large(&mut self, payload: &Bytes) {
        self.extend_from_slice(payload);
    }

    fn moved(&mut self, _: usize, _: usize) {}
}

/// Bytes with large payloads between them that nobody copied.
#[derive(Debug, Default)]
pub struct Rope {
    small: Vec<u8>,
    /// Each with its place in `small`, ascending.
    large: Vec<(usize, Bytes)>,
    large_bytes: usize,
}

impl Rope {
    /// Adds what another one has.
    pub fn join(&mut self, other: Self) {
        let from = self.small.len();
        self.small.extend_from_slice(&other.small);
        let large = other.large.into_iter();
        self.large
            .extend(large.map(|(at, payload)| (from + at, payload)));
        self.large_bytes += other.large_bytes;
    }

    /// What was written, in order.
    pub fn into_parts(self) -> Vec<Bytes> {
        let small = Bytes::from(self.small);
        let mut parts = Vec::with_capacity(2 * self.large.len() + 1);
        let mut from = 0;
        for (at, payload) in self.large {
            parts.extend([small.slice(from..at), payload]);
            from = at;
        }
        parts.push(small.slice(from..));
        parts.retain(|part| !part.is_empty());
        parts
    }
}

impl Output for Rope {
    fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.small
    }

    fn written(&self) -> usize {
        self.small.len() + self.large_bytes
    }

    fn large(&mut self, payload: &Bytes) {
        self.large_bytes += payload.len();
        self.large.push((self.small.len(), payload.clone()));
    }

    fn moved(&mut self, from: usize, by: usize) {
        for (at, _) in self
            .large
            .iter_mut()
            .rev()
            .take_while(|(at, _)| *at >= from)
        {
            *at += by;
        }
    }
}

/// A varint: a number, a bool, an enum.
pub fn number(out: &mut impl Output, tag: u32, value: u64) {
    if value != 0 {
        let out = out.bytes();
        key(out, tag, WireType::Varint);
        varint(out, value);
    }
}

/// Several of them, packed.
pub fn numbers(out: &mut impl Output, tag: u32, values: &[u64]) {
    if !values.is_empty() {
        let bytes = values.iter().map(|value| encoded_len_varint(*value)).sum();
        length(out, tag, bytes);
        for value in values {
            varint(out.bytes(), *value);
        }
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
        _ => {
            let (bytes, length) = long_varint(value);
            out.extend_from_slice(&bytes[..length]);
        }
    }
}

/// A varint's bytes, and how many they are.
fn long_varint(mut value: u64) -> ([u8; 10], usize) {
    let mut bytes = [0; 10];
    let mut length = 0;
    loop {
        bytes[length] = value as u8 | 0x80;
        length += 1;
        value >>= 7;
        if value == 0 {
            bytes[length - 1] &= 0x7f;
            return (bytes, length);
        }
    }
}

/// An enum's value.
pub fn value(out: &mut impl Output, tag: u32, value: impl Into<i32>) {
    number(out, tag, i64::from(value.into()) as u64);
}

/// A string.
pub fn text(out: &mut impl Output, tag: u32, text: &str) {
    bytes(out, tag, text.as_bytes());
}

/// Bytes.
pub fn bytes(out: &mut impl Output, tag: u32, bytes: &[u8]) {
    if !bytes.is_empty() {
        length(out, tag, bytes.len());
        out.bytes().extend_from_slice(bytes);
    }
}

/// Bytes that may be many.
pub fn payload(out: &mut impl Output, tag: u32, payload: &Bytes) {
    if !payload.is_empty() {
        repeated_payload(out, tag, payload);
    }
}

/// One of several such; an empty one counts.
pub fn repeated_payload(out: &mut impl Output, tag: u32, payload: &Bytes) {
    length(out, tag, payload.len());
    match payload.len() {
        0..LARGE_BYTES => out.bytes().extend_from_slice(payload),
        LARGE_BYTES.. => out.large(payload),
    }
}

/// An instant: a `google.protobuf.Timestamp`.
pub fn instant(out: &mut impl Output, tag: u32, time: Time) {
    let micros = time.0;
    message(out, tag, |out| {
        number(out, 1, micros.div_euclid(1_000_000) as u64);
        number(out, 2, micros.rem_euclid(1_000_000) as u64 * 1_000);
    });
}

/// So many microseconds: a `google.protobuf.Duration`.
pub fn duration(out: &mut impl Output, tag: u32, us: u64) {
    message(out, tag, |out| {
        number(out, 1, us / 1_000_000);
        number(out, 2, us % 1_000_000 * 1_000);
    });
}

/// What stands before a field of so many bytes.
pub fn length(out: &mut impl Output, tag: u32, length: usize) {
    let out = out.bytes();
    key(out, tag, WireType::LengthDelimited);
    varint(out, length as u64);
}

/// A message of a generated type.
pub fn generated(out: &mut impl Output, tag: u32, message: &impl Message) {
    prost::encoding::message::encode(tag, message, out.bytes());
}

/// Why something failed, where it did.
pub fn failure(out: &mut impl Output, tag: u32, failure: Option<&Failure>) {
    if let Some(failure) = failure {
        message(out, tag, |out| {
            text(out, 1, &failure.kind);
            text(out, 2, &failure.message);
            text(out, 3, &failure.detail);
        });
    }
}

/// A message whose length is known once it is written.
pub fn message<O: Output>(out: &mut O, tag: u32, write: impl FnOnce(&mut O)) {
    let bytes = out.bytes();
    key(bytes, tag, WireType::LengthDelimited);
    let start = bytes.len();
    // Room for a short one's length.
    bytes.push(0);
    let before = out.written();
    write(out);
    let length = out.written() - before;
    let bytes = out.bytes();
    if length < 0x80 {
        bytes[start] = length as u8;
        return;
    }
    let (prefix, prefix_bytes) = long_varint(length as u64);
    let prefix = &prefix[..prefix_bytes];
    let end = bytes.len();
    bytes.extend_from_slice(&prefix[1..]);
    bytes.copy_within(start + 1..end, start + prefix.len());
    bytes[start..start + prefix.len()].copy_from_slice(prefix);
    out.moved(start + 1, prefix.len() - 1);
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

    #[test]
    fn a_number_of_any_size_is_written_as_the_generated_code_writes_it() {
        for bits in 0..64 {
            for value in [(1_u64 << bits) - 1, 1 << bits, u64::MAX >> bits] {
                let sequence = wire::HeartbeatRequest {
                    sequence: value,
                    ..Default::default()
                };
                let mut written = Vec::new();
                number(&mut written, 3, value);
                assert_eq!(written, sequence.encode_to_vec(), "{value}");
            }
        }
    }

    #[test]
    fn several_numbers_are_packed_as_the_generated_code_packs_them() {
        for values in [&[][..], &[0], &[1, 0, 300, u64::MAX]] {
            let command = wire::Command {
                context_ids: values.to_vec(),
                ..Default::default()
            };
            let mut written = Vec::new();
            numbers(&mut written, 9, values);
            assert_eq!(written, command.encode_to_vec(), "{values:?}");
        }
    }

    #[test]
    fn a_rope_is_the_same_message_without_a_copy_of_its_large_payloads() {
        let sizes = [0, 1, LARGE_BYTES - 1, LARGE_BYTES, 70_000];
        let pairs = sizes.iter().flat_map(|one| sizes.map(|two| (*one, two)));
        for (one, two) in pairs {
            let payloads = [one, two].map(|size| Bytes::from(vec![b'x'; size]));
            fn write(out: &mut impl Output, [one, two]: &[Bytes; 2]) {
                text(out, 1, "before");
                message(out, 2, |out| {
                    payload(out, 1, one);
                    message(out, 2, |out| payload(out, 1, two));
                    payload(out, 3, one);
                });
                payload(out, 3, two);
            }
            let (mut plain, mut rope) = (Vec::new(), Rope::default());
            write(&mut plain, &payloads);
            write(&mut rope, &payloads);
            assert_eq!(rope.written(), plain.len(), "{one} {two}");
            let parts = rope.into_parts();
            for payload in &payloads {
                let copied = !parts.iter().any(|part| part.as_ptr() == payload.as_ptr());
                assert_eq!(copied, payload.len() < LARGE_BYTES, "{one} {two}");
            }
            assert_eq!(parts.concat(), plain, "{one} {two}");
        }
    }
}
