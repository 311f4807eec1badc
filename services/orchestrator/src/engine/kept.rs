//! A payload as memory keeps it for as long as its transaction lives: in the fewest bytes.

use bytes::Bytes;

use proto::payload::Payload;

/// Up to this size a payload is copied: what is shared takes 24 bytes more each, and a slice keeps all
/// that it was read with.
const SMALL_BYTES_MAX: u64 = 1 << 10;

/// A payload in two words: a small one by itself, a large one as it is shared.
#[derive(Debug)]
pub(super) enum Kept {
    Small(Box<[u8]>),
    Large(Box<Payload>),
}

impl Kept {
    pub(super) fn of(payload: &Payload) -> Self {
        match payload {
            Payload::Held(bytes) if payload.size() <= SMALL_BYTES_MAX => {
                Self::Small(bytes.as_ref().into())
            }
            payload => Self::Large(Box::new(payload.clone())),
        }
    }

    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Small(bytes) => bytes.len() as u64,
            Self::Large(payload) => payload.size(),
        }
    }

    /// Its bytes; none where they are not at hand.
    pub(super) fn bytes(&self) -> Bytes {
        match self {
            Self::Small(bytes) => Bytes::copy_from_slice(bytes),
            Self::Large(payload) => payload.bytes(),
        }
    }

    pub(super) fn payload(&self) -> Payload {
        match self {
            Self::Small(bytes) => Payload::Held(Bytes::copy_from_slice(bytes)),
            Self::Large(payload) => Payload::clone(payload),
        }
    }
}
