//! `multiagents workers`: how workers are, why, and how they do.

use proto::wire;
use serde_json::json;

use crate::Context;
use crate::commands::{WindowArgument, covered};
use crate::contracts;
use crate::failure::{Failure, exit};
use crate::output::{Output, tone_of};
use crate::table::{self, Table};
use crate::words;

/// What `workers` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  multiagents workers
  multiagents workers flaky_processor --window 1h
  multiagents workers --json | jq -r '.health.workers[] | [.worker, .status] | @tsv'")]
pub(crate) struct Arguments {
    /// Only this worker, in detail
    #[arg(value_name = "NAME")]
    worker: Option<String>,
    #[command(flatten)]
    window: WindowArgument,
}

/// Shows them.
pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<u8, Failure> {
    match arguments.worker {
        Some(worker) => one(&worker, &arguments.window, context).await,
        None => all(&arguments.window, context).await,
    }
}

async fn all(window: &WindowArgument, context: &mut Context) -> Result<u8, Failure> {
    let monitor = context.suite.monitor().await?;
    let health = monitor.workers_health().await?;
    let summary = monitor
        .worker_performance_summary(Some(window.window))
        .await?;
    if context.output.json {
        let json = json!({
            "health": contracts::to_json("GetAllWorkersHealthResponse", &health),
            "performance": contracts::to_json("GetWorkerPerformanceSummaryResponse", &summary),
        });
        context.output.json(&json)?;
    } else {
        print_all(&health, &summary, &mut context.output)?;
    }
    Ok(exit::OK)
}

fn print_all(
    health: &wire::GetAllWorkersHealthResponse,
    summary: &wire::GetWorkerPerformanceSummaryResponse,
    output: &mut Output,
) -> Result<(), Failure> {
    if health.workers.is_empty() {
        output.note("No worker is known yet; start a worker host, or `multiagents up`.");
        return Ok(());
    }
    let mut table = Table::new(&[
        "WORKER",
        "HEALTH",
        "BUSY",
        "QUEUED",
        "EXECUTIONS",
        "SUCCESS",
        "AVERAGE",
        "P95",
        "ISSUES",
    ]);
    for worker in &health.workers {
        let status = words::health(worker.status);
        let performance = summary
            .workers
            .iter()
            .find(|performance| performance.worker == worker.worker);
        let duration = performance.and_then(|performance| performance.duration.as_ref());
        table.row([
            table::text(&worker.worker),
            table::word(&status, tone_of(&status)),
            table::figure(format!("{}/{}", worker.busy_slots, worker.slots)),
            table::figure(worker.queued_commands),
            table::figure(performance.map_or(0, |performance| performance.total_executions)),
            table::figure(words::percent(
                performance.and_then(|performance| performance.success_ratio),
            )),
            table::figure(words::duration(
                duration.and_then(|duration| duration.average.as_ref()),
            )),
            table::figure(words::duration(
                duration.and_then(|duration| duration.p95.as_ref()),
            )),
            table::text(worker.issues.join("; ")),
        ]);
    }
    output.table(table)?;
    let line = covered(output, summary.as_of.as_ref(), summary.window.as_ref());
    output.line(line)
}

async fn one(worker: &str, window: &WindowArgument, context: &mut Context) -> Result<u8, Failure> {
    let monitor = context.suite.monitor().await?;
    let health = monitor.worker_health(worker).await?;
    let performance = monitor
        .worker_performance(worker, Some(window.window))
        .await?;
    if context.output.json {
        let json = json!({
            "health": contracts::to_json("CheckWorkerHealthResponse", &health),
            "performance": contracts::to_json("GetWorkerPerformanceResponse", &performance),
        });
        context.output.json(&json)?;
    } else {
        print_one(
            &health.health.unwrap_or_default(),
            &performance,
            &mut context.output,
        )?;
    }
    Ok(exit::OK)
}

fn print_one(
    health: &wire::WorkerHealth,
    answer: &wire::GetWorkerPerformanceResponse,
    output: &mut Output,
) -> Result<(), Failure> {
    let status = words::health(health.status);
    let figures = answer.performance.clone().unwrap_or_default();
    let facts = [
        ("Worker", words::shown(&health.worker, 128)),
        ("Health", output.painted(&status, tone_of(&status))),
        (
            "Slots",
            format!(
                "{} of {} busy, {} queued",
                health.busy_slots,
                health.slots,
                words::counted(health.queued_commands, "command", "commands"),
            ),
        ),
        (
            "Last outcome",
            output.zone.date_time(health.last_outcome_time.as_ref()),
        ),
        (
            "Executions",
            format!(
                "{}: {} completed, {} failed ({} timed out, {} lost), {:.1} a minute",
                figures.total_executions,
                figures.successful_executions,
                figures.failed_executions,
                figures.timed_out_executions,
                figures.lost_executions,
                figures.throughput_per_minute,
            ),
        ),
        ("Success", words::percent(figures.success_ratio)),
    ];
    for (name, value) in facts {
        output.line(format!("{name:<13} {value}"))?;
    }
    for issue in &health.issues {
        output.line(format!("{:<13} {}", "Issue", words::shown(issue, 400)))?;
    }
    output.blank()?;
    output.table(latencies(&[
        ("run", figures.duration.as_ref()),
        ("wait", figures.wait.as_ref()),
    ]))?;
    if !health.hosts.is_empty() {
        output.blank()?;
        output.table(hosts(health, &figures))?;
    }
    let line = covered(output, answer.as_of.as_ref(), answer.window.as_ref());
    output.line(line)
}

/// How long things took, a row for each.
pub(crate) fn latencies(rows: &[(&str, Option<&wire::LatencySummary>)]) -> Table {
    let mut table = Table::new(&["", "AVERAGE", "LEAST", "P50", "P95", "P99", "MOST"]);
    for (name, summary) in rows {
        let summary = summary.cloned().unwrap_or_default();
        let figures = [
            &summary.average,
            &summary.minimum,
            &summary.p50,
            &summary.p95,
            &summary.p99,
            &summary.maximum,
        ];
        let figures = figures.map(|figure| table::figure(words::duration(figure.as_ref())));
        table.row(std::iter::once(table::text(name)).chain(figures));
    }
    table
}

fn hosts(health: &wire::WorkerHealth, figures: &wire::WorkerPerformance) -> Table {
    let mut table = Table::new(&[
        "HOST",
        "MACHINE",
        "HEALTH",
        "BUSY",
        "EXECUTIONS",
        "SUCCESS",
        "ISSUES",
    ]);
    for host in &health.hosts {
        let status = words::health(host.status);
        let performance = figures
            .hosts
            .iter()
            .find(|found| found.host_id == host.host_id)
            .and_then(|found| found.performance.as_ref());
        let mut issues = host.issues.clone();
        if host.draining {
            issues.push("draining".to_owned());
        }
        if !host.live {
            issues.push("not connected".to_owned());
        }
        table.row([
            table::text(&host.host_id),
            table::text(&host.machine),
            table::word(&status, tone_of(&status)),
            table::figure(format!("{}/{}", host.busy_slots, host.slots)),
            table::figure(performance.map_or(0, |found| found.total_executions)),
            table::figure(words::percent(
                performance.and_then(|found| found.success_ratio),
            )),
            table::text(issues.join("; ")),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::output::captured;

    #[test]
    fn a_table_of_workers_has_health_figures_and_issues() {
        let health = wire::GetAllWorkersHealthResponse {
            workers: vec![
                wire::WorkerHealth {
                    worker: "fast_processor".into(),
                    status: wire::HealthStatus::Healthy.into(),
                    slots: 4,
                    busy_slots: 1,
                    ..Default::default()
                },
                wire::WorkerHealth {
                    worker: "lost_one".into(),
                    status: wire::HealthStatus::Failed.into(),
                    issues: vec!["3 commands wait and no live host has it".into()],
                    queued_commands: 3,
                    ..Default::default()
                },
            ],
            ..Default::default()
        };
        let summary = wire::GetWorkerPerformanceSummaryResponse {
            workers: vec![wire::WorkerPerformance {
                worker: "fast_processor".into(),
                total_executions: 10,
                success_ratio: Some(1.0),
                ..Default::default()
            }],
            ..Default::default()
        };
        let text = captured(false, |output| print_all(&health, &summary, output)).unwrap();
        assert_eq!(
            text.trim_end(),
            "\
WORKER          HEALTH   BUSY  QUEUED  EXECUTIONS  SUCCESS  AVERAGE  P95  ISSUES
fast_processor  healthy   1/4       0          10   100.0%        -    -
lost_one        failed    0/0       3           0        -        -    -  3 commands wait and no live host has it"
        );
    }
}
