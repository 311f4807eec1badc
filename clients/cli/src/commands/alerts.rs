//! `multiagents alerts`: evaluates the rules and shows what fires.

use proto::wire;

use crate::Context;
use crate::commands::staleness;
use crate::contracts;
use crate::failure::{Failure, exit};
use crate::output::{Output, Tone, tone_of};
use crate::table::{self, Table};
use crate::words;

/// What `alerts` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  multiagents alerts
  multiagents alerts --fail || echo 'something is wrong'
  multiagents alerts --json | jq -r '.alerts[].message'")]
pub(crate) struct Arguments {
    /// Exit with 1 when an alert fires
    #[arg(long)]
    fail: bool,
}

/// Shows them.
pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<u8, Failure> {
    let answer = context.suite.monitor().await?.check_alerts().await?;
    if context.output.json {
        let json = contracts::to_json("CheckAlertsResponse", &answer);
        context.output.json(&json)?;
    } else {
        print(&answer, &mut context.output)?;
    }
    if arguments.fail && !answer.alerts.is_empty() {
        return Ok(exit::REFUSED);
    }
    Ok(exit::OK)
}

fn print(answer: &wire::CheckAlertsResponse, output: &mut Output) -> Result<(), Failure> {
    if answer.alerts.is_empty() {
        let rules = words::shown(&answer.rules.join(", "), 300);
        output.line(format!("No alert fires (checked: {rules})."))?;
    } else {
        let mut table = Table::new(&["SEVERITY", "ALERT", "WORKER", "MESSAGE"]);
        for alert in &answer.alerts {
            let severity = words::severity(alert.severity);
            let mut message = alert.message.clone();
            if !alert.issues.is_empty() {
                message = format!("{message} ({})", alert.issues.join("; "));
            }
            table.row([
                table::word(&severity, tone_of(&severity)),
                table::text(&alert.r#type),
                table::text(&alert.worker),
                table::text(message),
            ]);
        }
        output.table(table)?;
    }
    match staleness(answer.as_of.as_ref()) {
        Some(stale) => output.line(output.painted(&stale, Tone::Quiet)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::output::captured;

    #[test]
    fn an_alert_is_told_with_what_it_is_about() {
        let answer = wire::CheckAlertsResponse {
            alerts: vec![wire::Alert {
                r#type: "worker_failed".into(),
                severity: wire::Severity::Critical.into(),
                message: "Worker flaky has failed".into(),
                worker: "flaky".into(),
                issues: vec!["60.0% errors".into()],
                ..Default::default()
            }],
            ..Default::default()
        };
        let text = captured(false, |output| print(&answer, output)).unwrap();
        assert_eq!(
            text,
            "\
SEVERITY  ALERT          WORKER  MESSAGE
critical  worker_failed  flaky   Worker flaky has failed (60.0% errors)
"
        );
    }

    #[test]
    fn without_alerts_it_says_what_was_checked() {
        let answer = wire::CheckAlertsResponse {
            rules: vec!["high_error_rate".into(), "high_latency".into()],
            ..Default::default()
        };
        let text = captured(false, |output| print(&answer, output)).unwrap();
        assert_eq!(
            text,
            "No alert fires (checked: high_error_rate, high_latency).\n"
        );
    }
}
