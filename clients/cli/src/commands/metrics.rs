//! `multiagents metrics`: how much, how fast, how well; and what the machines do meanwhile.

use proto::wire;
use serde_json::json;

use crate::Context;
use crate::commands::workers::latencies;
use crate::commands::{WindowArgument, covered};
use crate::contracts;
use crate::failure::{Failure, exit};
use crate::output::{Output, Tone};
use crate::table::{self, Table};
use crate::words;

/// What `metrics` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  multiagents metrics --window 1m
  multiagents metrics --workflow simple_monitoring
  multiagents metrics --json | jq '.events.error_ratio'")]
pub(crate) struct Arguments {
    #[command(flatten)]
    window: WindowArgument,
    /// Only events of this workflow
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    workflow: String,
    /// Only events of this worker
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    worker: String,
}

/// Shows them.
pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<u8, Failure> {
    let monitor = context.suite.monitor().await?;
    let events = monitor
        .event_metrics_of(wire::GetEventMetricsRequest {
            window: arguments.window.wire(),
            workflow: arguments.workflow,
            worker: arguments.worker,
        })
        .await?;
    let system = monitor
        .system_metrics(Some(arguments.window.window))
        .await?;
    if context.output.json {
        let json = json!({
            "events": contracts::to_json("GetEventMetricsResponse", &events),
            "system": contracts::to_json("GetSystemMetricsResponse", &system),
        });
        context.output.json(&json)?;
    } else {
        print(&events, &system, &mut context.output)?;
    }
    Ok(exit::OK)
}

fn print(
    events: &wire::GetEventMetricsResponse,
    system: &wire::GetSystemMetricsResponse,
    output: &mut Output,
) -> Result<(), Failure> {
    output.line(output.painted("Events", Tone::Strong))?;
    let facts = [
        ("Events", events.total_events.to_string()),
        ("Commands", events.total_commands.to_string()),
        (
            "Transactions",
            format!(
                "{} started, {} ended",
                events.transactions_started, events.transactions_ended
            ),
        ),
        ("Success", words::percent(events.success_ratio)),
        ("Errors", words::percent(events.error_ratio)),
        (
            "Throughput",
            format!(
                "{:.1} events a minute, {:.1} in the busiest ten seconds",
                events.throughput_per_minute, events.peak_throughput_per_minute
            ),
        ),
    ];
    for (name, value) in facts {
        output.line(format!("  {name:<13} {value}"))?;
    }
    output.blank()?;
    output.table(latencies(&[("latency", events.latency.as_ref())]))?;
    if !events.by_stage.is_empty() {
        output.blank()?;
        let mut stages = Table::new(&["STAGE", "EVENTS"]);
        for count in &events.by_stage {
            stages.row([
                table::text(words::stage(count.stage)),
                table::figure(count.count),
            ]);
        }
        output.table(stages)?;
    }
    output.blank()?;
    output.line(output.painted("System", Tone::Strong))?;
    for (name, value) in system_facts(system) {
        output.line(format!("  {name:<13} {value}"))?;
    }
    let line = covered(output, events.as_of.as_ref(), events.window.as_ref());
    output.line(line)
}

fn system_facts(system: &wire::GetSystemMetricsResponse) -> Vec<(&'static str, String)> {
    let figure = |figure: Option<f64>| {
        figure.map_or_else(
            || words::UNKNOWN.to_owned(),
            |figure| format!("{figure:.2}"),
        )
    };
    let rate = |bytes: Option<f64>| {
        bytes.map_or_else(
            || words::UNKNOWN.to_owned(),
            |bytes| format!("{}/s", words::bytes(bytes)),
        )
    };
    let count = |count: Option<u32>| {
        count.map_or_else(|| words::UNKNOWN.to_owned(), |count| count.to_string())
    };
    vec![
        (
            "CPU",
            format!(
                "{} on average, peak {}",
                words::percent(system.average_cpu_ratio),
                words::percent(system.peak_cpu_ratio)
            ),
        ),
        (
            "Memory",
            format!(
                "{} on average, peak {}",
                words::percent(system.average_memory_ratio),
                words::percent(system.peak_memory_ratio)
            ),
        ),
        (
            "Load",
            format!(
                "{} on average, peak {}",
                figure(system.average_load),
                figure(system.peak_load)
            ),
        ),
        (
            "Disk",
            format!(
                "{} used, {} read, {} written",
                words::percent(system.disk_used_ratio),
                rate(system.disk_read_bytes_per_second),
                rate(system.disk_written_bytes_per_second)
            ),
        ),
        (
            "Network",
            format!(
                "{} received, {} sent",
                rate(system.network_received_bytes_per_second),
                rate(system.network_sent_bytes_per_second)
            ),
        ),
        (
            "Connections",
            format!(
                "{} open, at most {}",
                count(system.active_connections),
                count(system.peak_active_connections)
            ),
        ),
        (
            "Machines",
            format!(
                "{} ({})",
                words::shown(&system.machines.join(", "), 300),
                words::counted(system.samples, "sample", "samples")
            ),
        ),
    ]
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::output::captured;

    #[test]
    fn an_empty_window_shows_what_is_unknown_as_unknown() {
        let text = captured(false, |output| {
            print(
                &wire::GetEventMetricsResponse::default(),
                &wire::GetSystemMetricsResponse::default(),
                output,
            )
        })
        .unwrap();
        assert!(text.contains("  Success       -\n"), "{text}");
        assert!(
            text.contains("  CPU           - on average, peak -\n"),
            "{text}"
        );
        assert!(text.contains("  Events        0\n"), "{text}");
    }
}
