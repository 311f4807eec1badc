//! Names and ids: newtypes, parsed once at the edge and trusted from there on.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::num::NonZeroI64;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{Problem, Reason};
use crate::write::Output;

/// The longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// Checks that `text` is `[A-Za-z0-9._-]{1,128}`; `field` is how the message names it.
pub fn check_name(field: &str, text: &str) -> Result<(), Problem> {
    if text.is_empty() {
        return Err(Problem::missing(field));
    }
    let fits = text.len() <= NAME_BYTES_MAX
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    if fits {
        return Ok(());
    }
    Err(Problem::field(
        Reason::NameInvalid,
        field,
        format!(
            "{field} is \"{}\"; a name has 1 to {NAME_BYTES_MAX} characters out of letters, digits, \
             '.', '_' and '-'",
            shown(text, 64)
        ),
    ))
}

/// `text` as it may be printed: control and direction characters escaped, cut to `limit` characters.
pub fn shown(text: &str, limit: usize) -> String {
    let mut out = String::new();
    for (at, character) in text.chars().enumerate() {
        if at == limit {
            out.push('…');
            break;
        }
        let hidden = character.is_control()
            || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if hidden {
            out.extend(character.escape_unicode());
        } else {
            out.push(character);
        }
    }
    out
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $field:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses a name; the error names the field.
            pub fn parse(text: &str) -> Result<Self, Problem> {
                check_name($field, text)?;
                Ok(Self(text.into()))
            }

            /// A name that was checked before.
            pub(crate) fn trusted(name: Arc<str>) -> Self {
                Self(name)
            }

            /// The name as it is shared.
            pub(crate) fn arc(&self) -> &Arc<str> {
                &self.0
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// The name of a workflow.
    WorkflowName,
    "workflow"
);
name!(
    /// The name of a step, unique in its workflow.
    StepName,
    "step"
);
name!(
    /// The name of a worker.
    WorkerName,
    "worker"
);
name!(
    /// What a worker host calls itself; another for each process.
    HostId,
    "host_id"
);

/// A transaction's id: a UUIDv7.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TransactionId(pub [u8; 16]);

impl Hash for TransactionId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // One number is mixed at once; a slice is read piece by piece, after its length.
        state.write_u128(u128::from_ne_bytes(self.0));
    }
}

impl TransactionId {
    /// Parses the textual form of a UUID.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        if text.is_empty() {
            return Err(Problem::missing("transaction_id"));
        }
        match uuid::Uuid::try_parse(text) {
            Ok(id) => Ok(Self(id.into_bytes())),
            Err(_) => Err(Problem::field(
                Reason::FieldInvalid,
                "transaction_id",
                format!(
                    "transaction_id is \"{}\"; it must be a UUID, as ExecuteWorkflow answers it",
                    shown(text, 64)
                ),
            )),
        }
    }

    /// Takes the 16 bytes of a UUID.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Its text to the end of `out`.
    pub fn write(&self, out: &mut impl Output) {
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        let id = uuid::Uuid::from_bytes(self.0).hyphenated();
        out.bytes()
            .extend_from_slice(id.encode_lower(&mut text).as_bytes());
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        f.write_str(
            uuid::Uuid::from_bytes(self.0)
                .hyphenated()
                .encode_lower(&mut text),
        )
    }
}

impl fmt::Debug for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One attempt at one step: `transaction/step/do#attempt`, or `…/undo#attempt`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandId {
    /// Its transaction.
    pub transaction: TransactionId,
    /// Its step.
    pub step: StepName,
    /// True for the compensation of the step.
    pub undo: bool,
    /// Which attempt, from 1.
    pub attempt: u32,
}

impl CommandId {
    /// Its text, as [`fmt::Display`] writes it.
    pub fn text(&self) -> String {
        let mut text = Vec::with_capacity(36 + self.step.as_str().len() + 18);
        self.write(&mut text);
        // Names and numbers are ASCII.
        String::from_utf8(text).unwrap_or_default()
    }

    /// Its text to the end of `out`; commands are told apart by it on every message.
    pub fn write(&self, out: &mut impl Output) {
        self.transaction.write(out);
        let out = out.bytes();
        out.push(b'/');
        out.extend_from_slice(self.step.as_str().as_bytes());
        out.extend_from_slice(if self.undo { b"/undo#" } else { b"/do#" });
        if self.attempt < 10 {
            out.push(b'0' + self.attempt as u8);
        } else {
            out.extend_from_slice(self.attempt.to_string().as_bytes());
        }
    }

    /// The same for all attempts: what a worker passes on as its idempotency key.
    pub fn idempotency_key(&self) -> String {
        let verb = if self.undo { "undo" } else { "do" };
        format!("{}/{}/{verb}", self.transaction, self.step)
    }
}

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl fmt::Debug for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for CommandId {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let parsed = (|| {
            let (transaction, rest) = text.split_once('/')?;
            let (step, rest) = rest.split_once('/')?;
            let (verb, attempt) = rest.split_once('#')?;
            let undo = match verb {
                "do" => false,
                "undo" => true,
                _ => return None,
            };
            Some(Self {
                transaction: TransactionId::parse(transaction).ok()?,
                step: StepName::parse(step).ok()?,
                undo,
                attempt: attempt.parse().ok().filter(|attempt| *attempt > 0)?,
            })
        })();
        parsed.ok_or_else(|| {
            Problem::field(
                Reason::CommandUnknown,
                "command_id",
                format!("no command is called \"{}\"", shown(text, 256)),
            )
        })
    }
}

/// An instant of engine time, in microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Time(pub i64);

impl Time {
    /// This instant and `micros` microseconds more.
    pub fn after_us(self, micros: u64) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(micros).unwrap_or(i64::MAX)),
        )
    }

    /// How many microseconds have passed since `earlier`; none if it is later.
    pub fn since_us(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }
}

/// An instant where there may be none: an option of it is as small as itself. As on disk, what would be
/// at the Unix epoch to the microsecond is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(NonZeroI64);

impl Moment {
    /// As an instant that is there.
    pub fn time(self) -> Time {
        Time(self.0.get())
    }
}

impl Time {
    /// As an instant that may be none.
    pub fn moment(self) -> Option<Moment> {
        NonZeroI64::new(self.0).map(Moment)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_command_id_reads_back_as_it_is_written() {
        let text = "01890a5d-ac96-774b-bcce-b302099a8057/charge.card/undo#12";
        assert_eq!(
            text.parse::<CommandId>()
                .map(|id| id.to_string())
                .ok()
                .as_deref(),
            Some(text)
        );
        for wrong in [
            "",
            "x",
            "01890a5d-ac96-774b-bcce-b302099a8057/a/do#0",
            "a/b/do#1",
        ] {
            assert!(wrong.parse::<CommandId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_name_that_would_move_a_cursor_is_refused_and_shown_escaped() {
        for wrong in ["../x", "a\n", "\u{1b}[2J", "\u{202e}x", ""] {
            assert!(WorkerName::parse(wrong).is_err(), "{wrong:?}");
        }
        let problem = WorkerName::parse("\u{1b}[2J").map(|_| ()).unwrap_err();
        assert!(
            problem.message.contains("\\u{1b}[2J"),
            "{}",
            problem.message
        );
    }
}
