//! What a host remembers of contexts, so that no large piece is sent to it twice.
//!
//! A piece that it is sent, or that is a result of its own, gets an id; commands that come later name
//! it by that. The oldest are forgotten first. Pure; it lasts as long as the session.

use std::collections::VecDeque;

use bytes::Bytes;
use foldhash::HashMap;
use proto::id::TransactionId;
use proto::write::LARGE_BYTES;

use crate::engine::{Outgoing, Piece};

/// Whose payload a piece is: a transaction's input, or the result of a step.
type Key = (TransactionId, Option<u16>);

/// The pieces that one host has.
#[derive(Debug)]
pub(crate) struct Remembered {
    bytes_max: u64,
    bytes: u64,
    ids: HashMap<Key, u64>,
    /// Each with its size, the oldest first. Their ids follow each other.
    pieces: VecDeque<(Key, u64)>,
    oldest: u64,
    /// Below which id the host was told to forget.
    told: u64,
}

impl Remembered {
    /// Nothing yet, and never more than so many bytes.
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            ids: HashMap::default(),
            pieces: VecDeque::new(),
            oldest: 1,
            told: 1,
        }
    }

    /// The ids of a command's pieces, 0 for one that needs none; empty where none has one. What the
    /// host has already is taken out of the command.
    pub(crate) fn shorten(&mut self, outgoing: &mut Outgoing) -> Vec<u64> {
        let is_large = |piece: &Piece| piece.json.len() >= LARGE_BYTES;
        if self.bytes_max == 0 || !outgoing.context.iter().any(is_large) {
            return Vec::new();
        }
        let mut ids = vec![0; outgoing.context.len()];
        // What is new may push out what is known, so that comes first.
        for is_known in [true, false] {
            let pieces = outgoing.context.iter_mut().zip(&mut ids);
            for (piece, id) in pieces.filter(|(piece, _)| is_large(piece)) {
                let key = (outgoing.id.transaction, piece.step);
                if !is_known {
                    *id = self.add(key, piece.json.len());
                } else if let Some(known) = self.ids.get(&key) {
                    *id = *known;
                    piece.json = Bytes::new();
                }
            }
        }
        ids
    }

    /// The id by which the host is to remember a step's result of so many bytes, which it has just
    /// sent; 0: it need not.
    pub(crate) fn result(&mut self, transaction: TransactionId, step: u16, bytes: usize) -> u64 {
        let key = (transaction, Some(step));
        match bytes < LARGE_BYTES || self.ids.contains_key(&key) {
            true => 0,
            false => self.add(key, bytes),
        }
    }

    /// Below which id the host has to forget, where that is news.
    pub(crate) fn forgotten(&mut self) -> Option<u64> {
        let news = self.oldest > self.told;
        self.told = self.oldest;
        news.then_some(self.oldest)
    }

    /// A new piece's id; 0 where it is too large.
    fn add(&mut self, key: Key, bytes: usize) -> u64 {
        let bytes = bytes as u64;
        if bytes > self.bytes_max {
            return 0;
        }
        while self.bytes + bytes > self.bytes_max
            && let Some((oldest, bytes)) = self.pieces.pop_front()
        {
            self.ids.remove(&oldest);
            self.bytes -= bytes;
            self.oldest += 1;
        }
        let id = self.oldest + self.pieces.len() as u64;
        self.bytes += bytes;
        self.pieces.push_back((key, bytes));
        self.ids.insert(key, id);
        id
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use proto::id::{CommandId, StepName, WorkerName, WorkflowName};

    use super::*;

    /// A command with these pieces; each is as its transaction and step say.
    fn command(transaction: u8, steps: &[(Option<u16>, usize)]) -> Outgoing {
        let piece = |&(step, bytes): &(Option<u16>, usize)| Piece {
            step,
            json: content(transaction, step, bytes),
        };
        Outgoing {
            id: CommandId {
                transaction: TransactionId([transaction; 16]),
                step: StepName::parse("next").unwrap(),
                undo: false,
                attempt: 1,
            },
            worker: WorkerName::parse("w").unwrap(),
            workflow: WorkflowName::parse("w").unwrap(),
            context: steps.iter().map(piece).collect(),
            timeout_us: 1,
            undo: None,
            trace_parent: String::new(),
        }
    }

    fn content(transaction: u8, step: Option<u16>, bytes: usize) -> Bytes {
        let mut content = vec![b'x'; bytes];
        content[0] = transaction;
        content[1] = step.map_or(0, |step| 1 + step as u8);
        content.into()
    }

    proptest! {
        /// Commands with any pieces, and results, in any order: a host that does as it is told has all
        /// that is named, as it is, and never remembers more than it said.
        #[test]
        fn what_a_command_names_its_host_has(
            pieces in 1_u64..6,
            told in prop::collection::vec(
                (0_u8..3, prop::collection::vec(0_u16..5, 0..5), any::<bool>()), 1..60)
        ) {
            let bytes = |step: u16| [LARGE_BYTES + 7, LARGE_BYTES, LARGE_BYTES - 1, 40_000, 20_000][step as usize];
            let bytes_max = pieces * LARGE_BYTES as u64;
            let mut remembered = Remembered::new(bytes_max);
            let mut host: BTreeMap<u64, Bytes> = BTreeMap::new();
            for (transaction, mut steps, is_result) in told {
                steps.sort_unstable();
                steps.dedup();
                if is_result {
                    for step in steps {
                        let id = remembered.result(TransactionId([transaction; 16]), step, bytes(step));
                        if id > 0 {
                            let before = host.insert(id, content(transaction, Some(step), bytes(step)));
                            prop_assert_eq!(before, None);
                        }
                    }
                } else {
                    let context: Vec<_> = steps.iter().map(|step| (Some(*step), bytes(*step))).collect();
                    let whole = command(transaction, &context);
                    let mut shortened = whole.clone();
                    let mut ids = remembered.shorten(&mut shortened);
                    ids.resize(context.len(), 0);
                    for ((piece, whole), id) in shortened.context.iter().zip(&whole.context).zip(ids) {
                        let held = host.get(&id);
                        match (id, piece.json.is_empty()) {
                            (0, _) => prop_assert_eq!(piece, whole),
                            (_, true) => prop_assert_eq!(held, Some(&whole.json)),
                            (_, false) => prop_assert_eq!(host.insert(id, piece.json.clone()), None),
                        }
                    }
                }
                if let Some(id) = remembered.forgotten() {
                    host = host.split_off(&id);
                }
                let held: usize = host.values().map(Bytes::len).sum();
                prop_assert!(held as u64 <= bytes_max, "{} of {}", held, bytes_max);
                prop_assert_eq!(held as u64, remembered.bytes);
            }
        }
    }
}
