//! `multiagents verify`: the monitor refolds its log and compares every view with the live one.

use proto::wire;

use crate::Context;
use crate::contracts;
use crate::failure::{Failure, exit};
use crate::output::{Output, Tone};
use crate::progress;
use crate::table::{self, Table};
use crate::words;

/// What `verify` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  multiagents verify && echo 'every view is what the log says'

The exit code is 1 when a view differs from its refold. With --json each view is one line.")]
pub(crate) struct Arguments {}

/// Lets it verify.
pub(crate) async fn run(_arguments: Arguments, context: &mut Context) -> Result<u8, Failure> {
    let mut answers = context.suite.monitor().await?.verify().await?;
    let bar = progress::bar(0, "Refolding the monitor's log");
    let mut verdicts = Vec::new();
    let mut newest = wire::VerifyViewsResponse::default();
    while let Some(answer) = answers.next().await? {
        bar.set_length(answer.entries_total);
        bar.set_position(answer.entries_done);
        if let Some(verdict) = &answer.verdict {
            if context.output.json {
                let json = contracts::to_json("ViewVerdict", verdict);
                context.output.json_line(&json)?;
            }
            verdicts.push(verdict.clone());
        }
        newest = answer;
    }
    bar.finish_and_clear();
    if !context.output.json {
        print(&verdicts, &newest, &mut context.output)?;
    }
    if verdicts.is_empty() {
        return Err(Failure::refused(
            "the monitor compared no view, so nothing is proven; see its log",
        ));
    }
    Ok(if verdicts.iter().all(|verdict| verdict.equal) {
        exit::OK
    } else {
        exit::REFUSED
    })
}

fn print(
    verdicts: &[wire::ViewVerdict],
    newest: &wire::VerifyViewsResponse,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut table = Table::new(&["VIEW", "VERDICT", "SIZE", "DIFFERENCE"]);
    for verdict in verdicts {
        let word = if verdict.equal {
            table::word("equal", Tone::Good)
        } else {
            table::word("differs", Tone::Bad)
        };
        table.row([
            table::text(&verdict.view),
            word,
            table::figure(words::bytes(verdict.size_bytes as f64)),
            table::text(&verdict.difference),
        ]);
    }
    output.table(table)?;
    let position = newest.as_of.as_ref().map_or(0, |as_of| as_of.position);
    output.line(format!(
        "Refolded {} up to position {position}.",
        words::counted(newest.entries_total, "entry", "entries"),
    ))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::output::captured;

    #[test]
    fn a_view_that_differs_says_where() {
        let verdict = |view: &str, difference: &str| wire::ViewVerdict {
            view: view.into(),
            equal: difference.is_empty(),
            difference: difference.into(),
            size_bytes: 2_048,
        };
        let newest = wire::VerifyViewsResponse {
            as_of: Some(wire::AsOf {
                position: 42,
                ..Default::default()
            }),
            entries_total: 42,
            ..Default::default()
        };
        let verdicts = [verdict("rates", ""), verdict("traces", "byte 17")];
        let text = captured(false, |output| print(&verdicts, &newest, output)).unwrap();
        assert_eq!(
            text,
            "\
VIEW    VERDICT     SIZE  DIFFERENCE
rates   equal    2.0 KiB
traces  differs  2.0 KiB  byte 17
Refolded 42 entries up to position 42.
"
        );
    }
}
