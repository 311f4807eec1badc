//! `multiagents cancel`: asks a transaction to end as cancelled.

use proto::wire;

use crate::Context;
use crate::contracts;
use crate::failure::{Failure, exit};
use crate::words;

/// What `cancel` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  multiagents cancel ID --reason 'ordered twice'
  multiagents cancel ID --skip-compensation

The answer comes when the request is durable; the end follows when open commands have come to an
outcome and completed steps are undone. `multiagents status ID` shows it.")]
pub(crate) struct Arguments {
    /// The transaction's id
    #[arg(value_name = "ID")]
    transaction_id: String,
    /// Why, for people
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    reason: String,
    /// Leave completed steps as they are
    #[arg(long)]
    skip_compensation: bool,
}

/// Asks for it.
pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<u8, Failure> {
    let transaction = context
        .suite
        .orchestrator()
        .await?
        .cancel_as(wire::CancelTransactionRequest {
            transaction_id: arguments.transaction_id,
            reason: arguments.reason,
            skip_compensation: arguments.skip_compensation,
        })
        .await?;
    if context.output.json {
        let answer = wire::CancelTransactionResponse {
            transaction: Some(transaction),
        };
        let json = contracts::to_json("CancelTransactionResponse", &answer);
        context.output.json(&json)?;
    } else {
        context.output.line(format!(
            "The cancellation of {} is durable; the transaction is {}.",
            words::shown(&transaction.transaction_id, 64),
            words::transaction_state(transaction.state)
        ))?;
    }
    Ok(exit::OK)
}
