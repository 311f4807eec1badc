//! Pieces of contexts that the orchestrator sends once: later commands name them by their ids.
//!
//! They last as long as the session, and the orchestrator says which are to be forgotten.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::wire::Command;

/// What a host remembers.
#[derive(Debug)]
pub struct Remembered {
    pieces: BTreeMap<u64, Bytes>,
    bytes: usize,
    bytes_max: usize,
}

/// What an orchestrator said that breaks the contract, as a sentence.
pub type Broken = &'static str;

impl Remembered {
    /// Nothing yet, and between two messages no more than so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            pieces: BTreeMap::new(),
            bytes: 0,
            bytes_max,
        }
    }

    /// A new session begins with nothing.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.bytes = 0;
    }

    /// How many bytes may be remembered, for the announcement.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max as u64
    }

    /// Puts what is remembered into the commands of a message, and remembers what is to be.
    pub fn complete(&mut self, commands: &mut [Command]) -> Result<(), Broken> {
        let (mut all, mut new) = (0, 0);
        for command in &*commands {
            all += command.context_json.iter().map(Bytes::len).sum::<usize>();
            new += named(command).map(|(piece, _)| piece.len()).sum::<usize>();
        }
        // A slice keeps alive all that it was received with: no more than twice of what is meant.
        let most = new >= all / 2;
        for command in commands {
            for at in 0..command.context_ids.len().min(command.context_json.len()) {
                let (id, piece) = (command.context_ids[at], &mut command.context_json[at]);
                match (id, piece.is_empty()) {
                    (0, _) => {}
                    (_, true) => *piece = self.pieces.get(&id).ok_or(UNKNOWN)?.clone(),
                    (_, false) if most => self.remember(id, piece.clone()),
                    (_, false) => self.remember(id, Bytes::copy_from_slice(piece)),
                }
            }
        }
        Ok(())
    }

    /// Remembers a piece.
    pub fn remember(&mut self, id: u64, piece: Bytes) {
        self.bytes += piece.len();
        if let Some(before) = self.pieces.insert(id, piece) {
            self.bytes -= before.len();
        }
    }

    /// Forgets pieces with smaller ids. What is left has to be no more than the host said.
    pub fn forget_below(&mut self, id: u64) -> Result<(), Broken> {
        while let Some(oldest) = self.pieces.first_entry().filter(|piece| *piece.key() < id) {
            self.bytes -= oldest.remove().len();
        }
        match self.bytes > self.bytes_max {
            true => Err(TOO_MUCH),
            false => Ok(()),
        }
    }
}

const UNKNOWN: Broken = "the orchestrator named a piece of a context that it never sent";
const TOO_MUCH: Broken = "the orchestrator had this host remember more than it said it would";

/// A command's pieces that are to be remembered or are so, each with its id.
fn named(command: &Command) -> impl Iterator<Item = (&Bytes, u64)> {
    let ids = command.context_ids.iter().copied();
    command
        .context_json
        .iter()
        .zip(ids)
        .filter(|(_, id)| *id > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(pieces: &[(&[u8], u64)]) -> Command {
        Command {
            context_json: pieces
                .iter()
                .map(|(json, _)| Bytes::copy_from_slice(json))
                .collect(),
            context_ids: pieces.iter().map(|(_, id)| *id).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn a_piece_that_was_sent_once_stands_in_every_later_command_that_names_it() {
        let mut remembered = Remembered::new(100);
        let mut commands = [
            command(&[(b"{\"a\":1}", 1), (b"{}", 0)]),
            command(&[(b"", 1), (b"{\"b\":1}", 2)]),
        ];
        assert_eq!(remembered.complete(&mut commands), Ok(()));
        assert_eq!(commands[1].context_json, ["{\"a\":1}", "{\"b\":1}"]);
        remembered.remember(3, "{\"c\":1}".into());
        let mut later = [command(&[(b"", 3), (b"{}", 0), (b"", 2)])];
        assert_eq!(remembered.complete(&mut later), Ok(()));
        assert_eq!(later[0].context_json, ["{\"c\":1}", "{}", "{\"b\":1}"]);
    }

    #[test]
    fn what_is_forgotten_or_of_a_session_before_is_not_known_any_more() {
        let mut remembered = Remembered::new(100);
        for id in 1..=3 {
            remembered.remember(id, "{}".into());
        }
        assert_eq!(remembered.forget_below(3), Ok(()));
        let named = |id| [command(&[(b"", id)])];
        assert_eq!(remembered.complete(&mut named(2)), Err(UNKNOWN));
        assert_eq!(remembered.complete(&mut named(3)), Ok(()));
        remembered.clear();
        assert_eq!(remembered.complete(&mut named(3)), Err(UNKNOWN));
    }

    #[test]
    fn no_more_is_remembered_than_was_said() {
        let mut remembered = Remembered::new(10);
        remembered.remember(1, vec![b'x'; 6].into());
        remembered.remember(2, vec![b'y'; 6].into());
        assert_eq!(remembered.forget_below(2), Ok(()));
        remembered.remember(3, vec![b'z'; 6].into());
        assert_eq!(remembered.forget_below(2), Err(TOO_MUCH));
    }

    #[test]
    fn a_piece_keeps_little_more_alive_than_itself() {
        let message = Bytes::from(vec![b'x'; 1_000]);
        let piece = |from, to| message.slice(from..to);
        for (of_all, shares) in [(100, false), (600, true)] {
            let mut remembered = Remembered::new(1_000);
            let mut commands = [Command {
                context_json: vec![piece(0, of_all), piece(of_all, 1_000)],
                context_ids: vec![1, 0],
                ..Default::default()
            }];
            assert_eq!(remembered.complete(&mut commands), Ok(()));
            let same = remembered.pieces[&1].as_ptr() == message.as_ptr();
            assert_eq!(same, shares, "{of_all} of 1000");
        }
    }
}
