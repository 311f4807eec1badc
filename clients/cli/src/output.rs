//! Where a command's answer goes: lines and tables for people, JSON for programs.
//!
//! The answer goes to standard output, everything said about the work (notes, progress) to standard
//! error, so that a pipe gets the answer alone. Colours only where a terminal shows them.

use std::fmt::Display;
use std::io::{BufWriter, IsTerminal as _, Write};

use serde_json::Value;

use crate::failure::Failure;
use crate::table::Table;
use crate::words::Zone;

/// How wide lines may be where no terminal says it.
const WIDTH_DEFAULT: usize = 110;

/// A terminal that says it is narrower than this knows no better, or shows nothing well.
const WIDTH_MIN: usize = 40;

/// What a mark on a word means; the colour follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it should be.
    Good,
    /// Somebody should look.
    Warning,
    /// Something is broken.
    Bad,
    /// Of less weight than the rest.
    Quiet,
    /// A heading.
    Strong,
    /// No mark.
    Plain,
}

/// Where the answer goes, and in which form.
pub(crate) struct Output {
    sink: Box<dyn Write>,
    /// For programs.
    pub(crate) json: bool,
    /// In which zone times are printed.
    pub(crate) zone: Zone,
    /// Whether a terminal shows it.
    pub(crate) terminal: bool,
    /// Whether colours are wanted.
    pub(crate) colour: bool,
    /// How many columns a line may have.
    pub(crate) width: usize,
}

impl Output {
    /// To standard output.
    pub(crate) fn standard(json: bool, utc: bool) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|value| value != "dumb");
        let width = comfy_table::Table::new().width().map_or(0, usize::from);
        Self {
            sink: Box::new(BufWriter::new(std::io::stdout())),
            json,
            zone: Zone::new(utc),
            terminal,
            colour: terminal && wanted,
            width: if width < WIDTH_MIN {
                WIDTH_DEFAULT
            } else {
                width
            },
        }
    }

    /// To somewhere else, without colours: for tests.
    #[cfg(test)]
    pub(crate) fn to(sink: Box<dyn Write>, json: bool) -> Self {
        Self {
            sink,
            json,
            zone: Zone::new(true),
            terminal: false,
            colour: false,
            width: WIDTH_DEFAULT,
        }
    }

    /// One line, or several.
    pub(crate) fn line(&mut self, text: impl Display) -> Result<(), Failure> {
        self.sink.write_all(format!("{text}\n").as_bytes())?;
        Ok(self.sink.flush()?)
    }

    /// An empty line.
    pub(crate) fn blank(&mut self) -> Result<(), Failure> {
        self.line("")
    }

    /// A table.
    pub(crate) fn table(&mut self, table: Table) -> Result<(), Failure> {
        let text = table.render(self);
        self.line(text)
    }

    /// One JSON value: spread over lines on a terminal, else on one line.
    pub(crate) fn json(&mut self, value: &Value) -> Result<(), Failure> {
        let text = if self.terminal {
            serde_json::to_string_pretty(value)
        } else {
            serde_json::to_string(value)
        };
        self.line(printable(&text.unwrap_or_default()))
    }

    /// One JSON value on one line, for streams.
    pub(crate) fn json_line(&mut self, value: &Value) -> Result<(), Failure> {
        self.line(printable(&value.to_string()))
    }

    /// Something about the work, to standard error. A standard error that is gone is no trouble.
    #[expect(
        clippy::unused_self,
        reason = "what is said and what is answered go through one place"
    )]
    pub(crate) fn note(&self, text: impl Display) {
        let _gone = writeln!(std::io::stderr(), "{text}");
    }

    /// `text` in the colour of `tone`, where colours are wanted.
    pub(crate) fn painted(&self, text: &str, tone: Tone) -> String {
        let code = match tone {
            _ if !self.colour => return text.to_owned(),
            Tone::Good => "32",
            Tone::Warning => "33",
            Tone::Bad => "31",
            Tone::Quiet => "2",
            Tone::Strong => "1",
            Tone::Plain => return text.to_owned(),
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// What `print` prints, as text: for tests.
#[cfg(test)]
pub(crate) fn captured(
    json: bool,
    print: impl FnOnce(&mut Output) -> Result<(), Failure>,
) -> Result<String, Failure> {
    #[derive(Clone, Default)]
    struct Sink(std::rc::Rc<std::cell::RefCell<Vec<u8>>>);
    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let sink = Sink::default();
    print(&mut Output::to(Box::new(sink.clone()), json))?;
    let bytes = sink.0.take();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// JSON in which no character can move a terminal's cursor or turn its text round. JSON itself
/// escapes what is below U+0020; the rest can only stand within strings, where \u is the same.
pub(crate) fn printable(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for character in json.chars() {
        let hidden = matches!(
            character,
            '\u{7f}'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        );
        if hidden {
            out.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            out.push(character);
        }
    }
    out
}

/// The tone of a transaction's, step's or command's word.
pub(crate) fn tone_of(word: &str) -> Tone {
    match word {
        "completed" | "compensated" | "healthy" => Tone::Good,
        "failed" | "timeout" | "lost" | "compensation_failed" | "critical" => Tone::Bad,
        "compensating" | "cancelled" | "degraded" | "warning" => Tone::Warning,
        "pending" | "skipped" | "inactive" | "queued" => Tone::Quiet,
        _ => Tone::Plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_for_programs_has_no_character_that_moves_a_terminals_cursor() {
        let value = json!({"text": "a\u{1b}[2J\u{9b}2J\u{202e}z\u{7f}"});
        let text = printable(&value.to_string());
        assert_eq!(
            text, r#"{"text":"a\u001b[2J\u009b2J\u202ez\u007f"}"#,
            "{text}"
        );
        assert_eq!(
            serde_json::from_str::<Value>(&text).ok(),
            Some(value),
            "it is the same value"
        );
    }

    #[test]
    fn without_colours_nothing_is_painted() {
        let output = Output::to(Box::new(std::io::sink()), false);
        assert_eq!(output.painted("failed", Tone::Bad), "failed");
    }
}
