//! Tables for people: aligned columns, headings, no lines; coloured words on a terminal.
//!
//! Every cell's text is made printable here, so that no caller can forget it.

use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, Cell as Drawn, CellAlignment, Color, ContentArrangement};

use crate::output::{Output, Tone};
use crate::words;

/// The longest text in one cell.
const CELL_CHARACTERS_MAX: usize = 400;

/// One cell.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
    right: bool,
}

/// Text.
pub(crate) fn text(text: impl AsRef<str>) -> Cell {
    Cell {
        text: words::shown(text.as_ref(), CELL_CHARACTERS_MAX),
        tone: Tone::Plain,
        right: false,
    }
}

/// A figure, to the right.
pub(crate) fn figure(figure: impl std::fmt::Display) -> Cell {
    Cell {
        right: true,
        ..text(format!("{figure}"))
    }
}

/// A word that has a meaning, and so a colour.
pub(crate) fn word(word: impl AsRef<str>, tone: Tone) -> Cell {
    Cell { tone, ..text(word) }
}

/// A table in the making.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// With these headings.
    pub(crate) fn new(headings: &[&'static str]) -> Self {
        Self {
            headings: headings.to_vec(),
            rows: Vec::new(),
        }
    }

    /// One more row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table as lines.
    pub(crate) fn render(self, output: &Output) -> String {
        let mut drawn = comfy_table::Table::new();
        drawn.load_style(NOTHING);
        if output.terminal {
            drawn.set_content_arrangement(ContentArrangement::Dynamic);
            drawn.set_width(u16::try_from(output.width).unwrap_or(u16::MAX));
        } else {
            drawn.force_no_tty();
        }
        if output.colour {
            drawn.enforce_styling();
        }
        let right: Vec<bool> = (0..self.headings.len())
            .map(|at| {
                self.rows
                    .iter()
                    .any(|row| row.get(at).is_some_and(|cell| cell.right))
            })
            .collect();
        let headings = self.headings.iter().zip(&right).map(|(heading, right)| {
            let cell = Drawn::new(heading).add_attribute(Attribute::Bold);
            aligned(cell, *right)
        });
        drawn.set_header(headings.collect::<Vec<_>>());
        for row in self.rows {
            let cells = row.into_iter().map(|cell| {
                let drawn = aligned(Drawn::new(cell.text), cell.right);
                match cell.tone {
                    Tone::Good => drawn.fg(Color::Green),
                    Tone::Warning => drawn.fg(Color::Yellow),
                    Tone::Bad => drawn.fg(Color::Red),
                    Tone::Quiet => drawn.add_attribute(Attribute::Dim),
                    Tone::Strong => drawn.add_attribute(Attribute::Bold),
                    Tone::Plain => drawn,
                }
            });
            drawn.add_row(cells.collect::<Vec<_>>());
        }
        for column in drawn.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let lines: Vec<String> = drawn
            .lines()
            .map(|line| line.trim_end().to_owned())
            .collect();
        lines.join("\n")
    }
}

fn aligned(cell: Drawn, right: bool) -> Drawn {
    if right {
        cell.set_alignment(CellAlignment::Right)
    } else {
        cell
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_control_characters_visible() {
        let mut table = Table::new(&["WORKER", "COUNT"]);
        table.row([text("fast\u{1b}[2J"), figure(7)]);
        table.row([word("slow_processor", Tone::Bad), figure(1_234)]);
        let output = Output::to(Box::new(std::io::sink()), false);
        assert_eq!(
            table.render(&output),
            "WORKER          COUNT\n\
             fast\\u{1b}[2J       7\n\
             slow_processor   1234"
        );
    }

    #[test]
    fn the_words_of_a_table_are_coloured_only_when_colours_are_wanted() {
        let mut table = Table::new(&["STATE"]);
        table.row([word("failed", Tone::Bad)]);
        let mut output = Output::to(Box::new(std::io::sink()), false);
        assert!(!table.clone().render(&output).contains('\u{1b}'));
        output.colour = true;
        assert!(table.render(&output).contains('\u{1b}'));
    }
}
