//! The second demonstration: how three workers did over ten transactions at once.

use std::time::Duration;

use proto::wire;
use serde_json::json;

use super::{Stage, average_ms, percent};
use crate::contracts;
use crate::failure::Failure;
use crate::words;

const TRANSACTIONS: usize = 10;
const WORKERS: [&str; 3] = ["fast_processor", "slow_processor", "flaky_processor"];
const WINDOW: Duration = Duration::from_secs(5 * 60);

/// Shows it.
pub(super) async fn show(stage: &mut Stage<'_>) -> Result<(), Failure> {
    stage.heading("⚡ WORKER PERFORMANCE DEMO")?;
    let inputs = (0..TRANSACTIONS)
        .map(|number| json!({"data": format!("test_{number}")}))
        .collect();
    stage.run_all("simple_monitoring", inputs).await?;
    stage.say("\n📈 Worker Performance Analysis:")?;
    let mut figures = Vec::new();
    for worker in WORKERS {
        let performance = stage
            .monitor
            .worker_performance(worker, Some(WINDOW))
            .await?;
        let health = stage.monitor.worker_health(worker).await?;
        for line in lines(
            worker,
            &performance.performance.clone().unwrap_or_default(),
            &health.health.clone().unwrap_or_default(),
        ) {
            stage.say(line)?;
        }
        figures.push(json!({
            "worker": worker,
            "performance": contracts::to_json("GetWorkerPerformanceResponse", &performance),
            "health": contracts::to_json("CheckWorkerHealthResponse", &health),
        }));
    }
    stage.figures("worker_performance", &figures.into())
}

fn lines(
    worker: &str,
    performance: &wire::WorkerPerformance,
    health: &wire::WorkerHealth,
) -> Vec<String> {
    let p95 = performance
        .duration
        .as_ref()
        .and_then(|duration| duration.p95.as_ref());
    let mut lines = vec![
        format!("\n{worker}:"),
        format!("  Executions: {}", performance.total_executions),
        format!("  Success Rate: {}", percent(performance.success_ratio)),
        format!(
            "  Avg Duration: {:.1}ms",
            average_ms(performance.duration.as_ref())
        ),
        format!("  P95 Duration: {:.1}ms", words::milliseconds(p95)),
        format!("  Error Rate: {}", percent(performance.error_ratio)),
        format!("  Health: {}", words::health(health.status)),
    ];
    if !health.issues.is_empty() {
        let issues = words::shown(&health.issues.join(", "), 600);
        lines.push(format!("  Issues: {issues}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workers_figures_have_the_pages_form() {
        let duration = |milliseconds| Some(words::to_wire(Duration::from_micros(milliseconds)));
        let performance = wire::WorkerPerformance {
            total_executions: 11,
            success_ratio: Some(8.0 / 11.0),
            error_ratio: Some(3.0 / 11.0),
            duration: Some(wire::LatencySummary {
                average: duration(412_340),
                p95: duration(780_000),
                ..Default::default()
            }),
            ..Default::default()
        };
        let health = wire::WorkerHealth {
            status: wire::HealthStatus::Degraded.into(),
            issues: vec!["27.3% of outcomes are errors".into()],
            ..Default::default()
        };
        assert_eq!(
            lines("flaky_processor", &performance, &health).join("\n"),
            "
flaky_processor:
  Executions: 11
  Success Rate: 72.7%
  Avg Duration: 412.3ms
  P95 Duration: 780.0ms
  Error Rate: 27.3%
  Health: degraded
  Issues: 27.3% of outcomes are errors"
        );
    }
}
