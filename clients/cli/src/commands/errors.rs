//! `multiagents errors`: failures grouped by what is constant in their messages.

use proto::wire;

use crate::Context;
use crate::commands::{WindowArgument, covered};
use crate::contracts;
use crate::failure::{Failure, exit};
use crate::output::{Output, Tone};
use crate::table::{self, Table};

/// What `errors` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  multiagents errors --window 1h
  multiagents errors --worker flaky_processor --json | jq '.patterns[0].sample_transaction_ids'")]
pub(crate) struct Arguments {
    /// Only of this worker
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    worker: String,
    #[command(flatten)]
    window: WindowArgument,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    limit: u16,
}

/// Shows them.
pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<u8, Failure> {
    let answer = context
        .suite
        .monitor()
        .await?
        .raw_events()
        .get_error_patterns(wire::GetErrorPatternsRequest {
            window: arguments.window.wire(),
            worker: arguments.worker,
            limit: arguments.limit.into(),
        })
        .await?
        .into_inner();
    if context.output.json {
        let json = contracts::to_json("GetErrorPatternsResponse", &answer);
        context.output.json(&json)?;
    } else {
        print(&answer, &mut context.output)?;
    }
    Ok(exit::OK)
}

fn print(answer: &wire::GetErrorPatternsResponse, output: &mut Output) -> Result<(), Failure> {
    if answer.patterns.is_empty() {
        output.note("No failure in this window.");
    } else {
        let mut table = Table::new(&[
            "COUNT", "EVER", "TYPE", "MESSAGE", "WORKERS", "LAST", "EXAMPLE",
        ]);
        for pattern in &answer.patterns {
            table.row([
                table::figure(pattern.count),
                table::figure(pattern.total_count),
                table::word(&pattern.error_type, Tone::Bad),
                table::text(&pattern.template),
                table::text(pattern.workers.join(", ")),
                table::text(output.zone.date_time(pattern.last_time.as_ref())),
                table::text(
                    pattern
                        .sample_transaction_ids
                        .first()
                        .map_or("", String::as_str),
                ),
            ]);
        }
        output.table(table)?;
    }
    let line = covered(output, answer.as_of.as_ref(), answer.window.as_ref());
    output.line(line)
}
