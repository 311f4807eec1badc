//! `multiagents workflows`: which workflows are registered, and what their steps are.

use proto::wire;

use crate::Context;
use crate::contracts;
use crate::failure::{Failure, exit};
use crate::output::Output;
use crate::table::{self, Table};
use crate::words;

/// What `workflows` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  multiagents workflows
  multiagents workflows simple_monitoring
  multiagents workflows --json | jq -r .name")]
pub(crate) struct Arguments {
    /// Only this workflow, with its steps
    #[arg(value_name = "NAME")]
    workflow: Option<String>,
    /// Which version of it; the newest if not given
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        hide_default_value = true,
        requires = "workflow"
    )]
    version: u32,
}

/// Lists them.
pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<u8, Failure> {
    let client = context.suite.orchestrator().await?;
    if let Some(name) = arguments.workflow {
        let workflow = client.workflow(&name, arguments.version).await?;
        if context.output.json {
            let json = contracts::to_json("Workflow", &workflow);
            context.output.json(&json)?;
        } else {
            print_one(&workflow, &mut context.output)?;
        }
        return Ok(exit::OK);
    }
    let found = client.workflows().await?;
    print_all(&found, &mut context.output)?;
    Ok(exit::OK)
}

/// Prints workflows, one a row or one a line.
pub(crate) fn print_all(found: &[wire::Workflow], output: &mut Output) -> Result<(), Failure> {
    if output.json {
        for workflow in found {
            output.json_line(&contracts::to_json("Workflow", workflow))?;
        }
        return Ok(());
    }
    if found.is_empty() {
        output.note("No workflow is registered; `multiagents register FILE` registers some.");
        return Ok(());
    }
    let mut table = Table::new(&["WORKFLOW", "VERSION", "STEPS", "DESCRIPTION"]);
    for workflow in found {
        table.row([
            table::text(&workflow.name),
            table::figure(workflow.version),
            table::figure(workflow.steps.len()),
            table::text(&workflow.description),
        ]);
    }
    output.table(table)
}

fn print_one(workflow: &wire::Workflow, output: &mut Output) -> Result<(), Failure> {
    output.line(format!(
        "{} (version {})",
        words::shown(&workflow.name, 128),
        workflow.version
    ))?;
    if !workflow.description.is_empty() {
        output.line(words::shown(&workflow.description, 4_096))?;
    }
    output.blank()?;
    let mut table = Table::new(&["STEP", "WORKER", "AFTER", "TIMEOUT", "ATTEMPTS", "UNDO"]);
    for step in &workflow.steps {
        let after = step.after.clone().unwrap_or_default().steps.join(", ");
        let attempts = step.retry.as_ref().map_or(1, |retry| retry.attempts.max(1));
        table.row([
            table::text(&step.name),
            table::text(&step.worker),
            table::text(after),
            table::figure(words::duration(step.timeout.as_ref())),
            table::figure(attempts),
            table::text(step.undo.as_ref().map_or("", |undo| &undo.worker)),
        ]);
    }
    output.table(table)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::output::captured;

    #[test]
    fn a_workflow_is_shown_with_the_order_of_its_steps() {
        let workflow = wire::Workflow {
            name: "orders".into(),
            version: 3,
            steps: vec![
                wire::Step {
                    name: "charge".into(),
                    worker: "card".into(),
                    timeout: Some(words::to_wire(std::time::Duration::from_secs(30))),
                    undo: Some(wire::Undo {
                        worker: "refund".into(),
                        ..Default::default()
                    }),
                    ..Default::default()
                },
                wire::Step {
                    name: "ship".into(),
                    worker: "post".into(),
                    after: Some(wire::Predecessors {
                        steps: vec!["charge".into()],
                    }),
                    retry: Some(wire::RetryPolicy {
                        attempts: 3,
                        ..Default::default()
                    }),
                    ..Default::default()
                },
            ],
            ..Default::default()
        };
        let text = captured(false, |output| print_one(&workflow, output)).unwrap();
        assert_eq!(
            text,
            "\
orders (version 3)

STEP    WORKER  AFTER   TIMEOUT  ATTEMPTS  UNDO
charge  card            30.00 s         1  refund
ship    post    charge        -         3
"
        );
    }
}
