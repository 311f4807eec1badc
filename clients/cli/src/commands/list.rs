//! `multiagents list`: transactions, the newest first.

use proto::wire;

use crate::Context;
use crate::commands::status::labels;
use crate::contracts;
use crate::failure::{Failure, exit};
use crate::output::{Output, tone_of};
use crate::table::{self, Table};
use crate::words;

/// How many are asked for at once.
const PAGE_SIZE: u32 = 1_000;

/// What `list` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  multiagents list --workflow simple_monitoring --state failed --state compensated
  multiagents list --label team=shop --since 1h --limit 1000 --json | jq -r .transaction_id")]
pub(crate) struct Arguments {
    /// Only of this workflow
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    workflow: String,
    /// Only in this state; can be given several times
    #[arg(long, value_name = "STATE", value_parser = words::parse_transaction_state)]
    state: Vec<wire::TransactionState>,
    /// Only with this label; can be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = super::parse_label)]
    label: Vec<(String, String)>,
    /// Only those that started at most so long ago
    #[arg(long, value_name = "DURATION", value_parser = words::parse_duration)]
    since: Option<std::time::Duration>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// Lists them.
pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<u8, Failure> {
    let client = context.suite.orchestrator().await?;
    let started_after = arguments.since.map(|since| {
        let now = jiff::Timestamp::now();
        let after = now.saturating_sub(since).unwrap_or(jiff::Timestamp::MIN);
        prost_types::Timestamp {
            seconds: after.as_second(),
            nanos: after.subsec_nanosecond(),
        }
    });
    let mut left = arguments.limit;
    let mut page_token = String::new();
    let mut found = Vec::new();
    let mut more = false;
    while left > 0 {
        let request = wire::ListTransactionsRequest {
            page_size: i32::try_from(left.min(PAGE_SIZE)).unwrap_or(1),
            page_token,
            workflow: arguments.workflow.clone(),
            states: arguments
                .state
                .iter()
                .map(|state| (*state).into())
                .collect(),
            started_after,
            labels: arguments.label.iter().cloned().collect(),
        };
        let page = client.list(request).await?;
        left = left.saturating_sub(u32::try_from(page.transactions.len()).unwrap_or(u32::MAX));
        if context.output.json {
            for transaction in &page.transactions {
                let json = contracts::to_json("Transaction", transaction);
                context.output.json_line(&json)?;
            }
        } else {
            found.extend(page.transactions);
        }
        page_token = page.next_page_token;
        more = !page_token.is_empty();
        if !more {
            break;
        }
    }
    if !context.output.json {
        print(&found, more, &mut context.output)?;
    }
    Ok(exit::OK)
}

fn print(found: &[wire::Transaction], more: bool, output: &mut Output) -> Result<(), Failure> {
    if found.is_empty() {
        output.note("No transaction matches.");
        return Ok(());
    }
    let mut table = Table::new(&[
        "TRANSACTION",
        "WORKFLOW",
        "STATE",
        "STARTED",
        "TOOK",
        "LABELS",
    ]);
    for transaction in found {
        let state = words::transaction_state(transaction.state);
        let took = match (&transaction.start_time, &transaction.end_time) {
            (Some(start), Some(end)) => words::span(words::between(start, end)),
            _ => words::UNKNOWN.to_owned(),
        };
        table.row([
            table::text(&transaction.transaction_id),
            table::text(&transaction.workflow),
            table::word(&state, tone_of(&state)),
            table::text(output.zone.date_time(transaction.start_time.as_ref())),
            table::figure(took),
            table::text(labels(transaction)),
        ]);
    }
    output.table(table)?;
    if more {
        output.note("There are more; --limit shows them.");
    }
    Ok(())
}
