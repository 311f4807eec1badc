//! What can be typed: subcommands, their flags, and the help that tells about them.
//!
//! Words only; what a subcommand does stands in its own file under `commands`.

use clap::{Args, Parser, Subcommand};

use crate::commands::{
    alerts, backup, cancel, demo, errors, events, list, metrics, register, restore, run, status,
    trace, up, verify, workers, workflows,
};

const AFTER_HELP: &str = "\
Examples:
  multiagents up                                  start the suite here, stop it with Ctrl-C
  multiagents demo --up                           see everything at work in a minute
  multiagents run simple_monitoring --input '{\"data\":\"x\"}' --wait
  multiagents list --state failed                 what failed lately
  multiagents trace ID                            where the time went
  multiagents events --follow --worker flaky_processor
  multiagents workers --json | jq '.health.workers[] | select(.status != \"healthy\")'

Output:
  Tables are for people and may change. With --json an answer is one JSON object, a list or a feed
  is JSON lines; field names are those of proto/multiagents/v1. Colours appear on a terminal only,
  and never when NO_COLOR is set.

Exit codes:
  0   done                                  69  the service can't be reached
  1   refused, or it ended badly            74  the store failed (up, demo --up, restore)
  2   wrong usage, or an invalid file       75  the data directory is in use (the same)
                                            78  a service's configuration is wrong (the same)";

/// Runs workflows on fleets of workers, and shows everything that happens.
#[derive(Debug, Parser)]
#[command(
    name = "multiagents",
    version,
    max_term_width = 100,
    after_help = AFTER_HELP,
    disable_help_subcommand = true
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) everywhere: Everywhere,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every subcommand takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Everywhere {
    /// Where the orchestrator listens
    #[arg(
        long,
        global = true,
        value_name = "ADDR",
        env = "MULTIAGENTS_ORCHESTRATOR",
        default_value = "127.0.0.1:7001",
        help_heading = "Everywhere"
    )]
    pub(crate) orchestrator: String,
    /// Where the monitor listens
    #[arg(
        long,
        global = true,
        value_name = "ADDR",
        env = "MULTIAGENTS_MONITOR",
        default_value = "127.0.0.1:7003",
        help_heading = "Everywhere"
    )]
    pub(crate) monitor: String,
    /// Answer in JSON, for programs
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub(crate) json: bool,
    /// Print times in UTC instead of the local zone
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub(crate) utc: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start orchestrator, worker host and monitor here; one Ctrl-C stops all in order
    Up(up::Arguments),
    /// Run the four demonstrations: events, workers, errors, system resources
    Demo(demo::Arguments),
    /// Start a transaction of a workflow, and wait for its end if told to
    Run(run::Arguments),
    /// Show a transaction with its steps
    Status(status::Arguments),
    /// List transactions, the newest first
    List(list::Arguments),
    /// Ask a transaction to end as cancelled
    Cancel(cancel::Arguments),
    /// Draw what happened in a transaction, and when
    Trace(trace::Arguments),
    /// Print events of the log, and follow it if told to
    Events(events::Arguments),
    /// Show how workers are and how they do
    Workers(workers::Arguments),
    /// Show which failures are the same failure
    Errors(errors::Arguments),
    /// Evaluate the alert rules and show what fires
    Alerts(alerts::Arguments),
    /// Show how much, how fast and how well, and what the machines do
    Metrics(metrics::Arguments),
    /// Let the monitor refold its log and compare every view with the live one
    Verify(verify::Arguments),
    /// Write all that the orchestrator's log holds into a file, while everything goes on
    Backup(backup::Arguments),
    /// Fill an empty data directory from a backup, or only check one
    Restore(restore::Arguments),
    /// List workflows
    Workflows(workflows::Arguments),
    /// Register the workflows of a file, or only check them
    Register(register::Arguments),
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use clap::CommandFactory as _;
    use clap::error::ErrorKind;

    fn parse(words: &[&str]) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from([&["multiagents"], words].concat())
    }

    #[test]
    fn the_definition_holds_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn flags_for_everywhere_stand_before_or_after_the_subcommand() {
        for words in [
            &["--json", "--monitor", "h:1", "alerts"][..],
            &["alerts", "--json", "--monitor", "h:1"],
        ] {
            let parsed = parse(words);
            assert!(
                parsed.is_ok_and(
                    |parsed| parsed.everywhere.json && parsed.everywhere.monitor == "h:1"
                ),
                "{words:?}"
            );
        }
    }

    #[test]
    fn wait_takes_a_duration_or_none() {
        let wait = |words: &[&str]| match parse(words).map(|parsed| parsed.command) {
            Ok(Command::Run(arguments)) => Some(arguments.wait),
            _ => None,
        };
        assert_eq!(wait(&["run", "w"]), Some(None));
        assert_eq!(wait(&["run", "w", "--wait"]), Some(Some(None)));
        assert_eq!(
            wait(&["run", "w", "--wait", "30s"]),
            Some(Some(Some(std::time::Duration::from_secs(30))))
        );
        assert_eq!(wait(&["run", "w", "--wait", "soon"]), None);
    }

    #[test]
    fn wrong_words_are_usage_errors_that_name_the_right_ones() {
        for (words, right) in [
            (&["list", "--state", "done"][..], "completed"),
            (&["events", "--stage", "pickedup"], "picked_up"),
            (&["run", "w", "--label", "nokey"], "KEY=VALUE"),
            (&["metrics", "--window", "soon"], "500ms"),
            (&["statu", "x"], "status"),
        ] {
            let refused = parse(words).map(|_| ()).unwrap_err();
            assert_eq!(refused.exit_code(), 2, "{words:?}");
            assert!(refused.to_string().contains(right), "{words:?}: {refused}");
        }
    }

    #[test]
    fn every_subcommand_has_help_with_an_example() {
        for subcommand in Arguments::command().get_subcommands() {
            let name = subcommand.get_name().to_owned();
            let help = parse(&[&name, "--help"]).map(|_| ()).unwrap_err();
            assert_eq!(help.kind(), ErrorKind::DisplayHelp, "{name}");
            let text = help.to_string();
            assert!(text.contains(&format!("multiagents {name}")), "{name}");
            assert!(text.contains("Example"), "{name} has no example");
        }
    }
}
