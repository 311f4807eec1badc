//! The third demonstration: which failures twenty flaky transactions had.

use std::time::Duration;

use proto::wire;
use serde_json::json;

use super::{Stage, percent};
use crate::contracts;
use crate::failure::Failure;
use crate::words;

const TRANSACTIONS: usize = 20;
const WINDOW: Duration = Duration::from_secs(5 * 60);

/// Shows it.
pub(super) async fn show(stage: &mut Stage<'_>) -> Result<(), Failure> {
    stage.heading("🚨 ERROR MONITORING DEMO")?;
    let inputs = (0..TRANSACTIONS)
        .map(|number| json!({"data": format!("error_test_{number}")}))
        .collect();
    stage.run_all("error_monitoring", inputs).await?;
    let metrics = stage.monitor.event_metrics(Some(WINDOW)).await?;
    let flaky = stage
        .monitor
        .worker_performance("flaky_processor", Some(WINDOW))
        .await?;
    let patterns = stage.monitor.error_patterns(Some(WINDOW)).await?;
    for line in lines(
        &metrics,
        &flaky.performance.clone().unwrap_or_default(),
        &patterns.patterns,
    ) {
        stage.say(line)?;
    }
    let figures = json!({
        "events": contracts::to_json("GetEventMetricsResponse", &metrics),
        "flaky_processor": contracts::to_json("GetWorkerPerformanceResponse", &flaky),
        "patterns": contracts::to_json("GetErrorPatternsResponse", &patterns),
    });
    stage.figures("error_patterns", &figures)
}

fn lines(
    metrics: &wire::GetEventMetricsResponse,
    flaky: &wire::WorkerPerformance,
    patterns: &[wire::ErrorPattern],
) -> Vec<String> {
    let mut lines = vec![
        "\n📊 Error Analysis:".to_owned(),
        format!("Total Events: {}", metrics.total_events),
        format!("Error Rate: {}", percent(metrics.error_ratio)),
        format!("Success Rate: {}", percent(metrics.success_ratio)),
        "\nFlaky Processor:".to_owned(),
        format!("  Error Rate: {}", percent(flaky.error_ratio)),
        format!("  Failed Executions: {}", flaky.failed_executions),
    ];
    if !patterns.is_empty() {
        lines.push("\nError Patterns:".to_owned());
    }
    for pattern in patterns {
        lines.push(format!(
            "  {}: {} occurrences",
            words::shown(&pattern.error_type, 128),
            pattern.count
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_analysis_has_the_pages_form() {
        let metrics = wire::GetEventMetricsResponse {
            total_events: 310,
            error_ratio: Some(0.125),
            success_ratio: Some(0.875),
            ..Default::default()
        };
        let flaky = wire::WorkerPerformance {
            error_ratio: Some(0.3),
            failed_executions: 9,
            ..Default::default()
        };
        let patterns = [wire::ErrorPattern {
            error_type: "NetworkError".into(),
            count: 4,
            ..Default::default()
        }];
        assert_eq!(
            lines(&metrics, &flaky, &patterns).join("\n"),
            "
📊 Error Analysis:
Total Events: 310
Error Rate: 12.5%
Success Rate: 87.5%

Flaky Processor:
  Error Rate: 30.0%
  Failed Executions: 9

Error Patterns:
  NetworkError: 4 occurrences"
        );
    }
}
