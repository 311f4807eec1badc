//! The fourth demonstration: what the machine does under computing load.

use std::time::Duration;

use proto::wire;
use serde_json::json;
use tokio::time::Instant;

use super::{Stage, percent};
use crate::contracts;
use crate::failure::Failure;

const TRANSACTIONS: usize = 5;
const COMPLEXITY: u64 = 10_000;
const INTERVAL: Duration = Duration::from_secs(2);
const WATCHED: Duration = Duration::from_secs(30);
const WATCHED_QUICK: Duration = Duration::from_secs(6);
const BASELINE_WINDOW: Duration = Duration::from_secs(60);
const FINAL_WINDOW: Duration = Duration::from_secs(2 * 60);

/// Shows it.
pub(super) async fn show(stage: &mut Stage<'_>, quick: bool) -> Result<(), Failure> {
    stage.heading("💻 SYSTEM RESOURCE MONITORING DEMO")?;
    let baseline = stage.monitor.system_metrics(Some(BASELINE_WINDOW)).await?;
    stage.say(format!(
        "Baseline CPU: {}",
        percent(baseline.average_cpu_ratio)
    ))?;
    stage.say(format!(
        "Baseline Memory: {}",
        percent(baseline.average_memory_ratio)
    ))?;
    stage.say("\n🔥 Generating CPU load...")?;
    let inputs = (0..TRANSACTIONS)
        .map(|number| json!({"data": format!("cpu_test_{number}"), "complexity": COMPLEXITY}))
        .collect();
    let began = Instant::now();
    stage.run_all("cpu_intensive_monitoring", inputs).await?;
    let watched = if quick { WATCHED_QUICK } else { WATCHED };
    let mut samples = 0_u32;
    // What was sampled for us alone isn't in the monitor's log, and yet a peak that was shown.
    let mut peaks = (0.0_f64, 0.0_f64);
    while began.elapsed() < watched {
        let current = stage.monitor.collect_system_metrics().await?;
        stage.say(sample_line(&current))?;
        let sample = current.sample.unwrap_or_default();
        peaks = (
            peaks.0.max(sample.cpu_ratio),
            peaks.1.max(memory_ratio(&sample).unwrap_or(0.0)),
        );
        samples += 1;
        tokio::time::sleep_until(began + INTERVAL * samples).await;
    }
    let end = stage.monitor.system_metrics(Some(FINAL_WINDOW)).await?;
    let peak_cpu = peaks.0.max(end.peak_cpu_ratio.unwrap_or(0.0));
    let peak_memory = peaks.1.max(end.peak_memory_ratio.unwrap_or(0.0));
    stage.say(format!("\nPeak CPU: {}", percent(Some(peak_cpu))))?;
    stage.say(format!("Peak Memory: {}", percent(Some(peak_memory))))?;
    stage.say(format!("Avg Load: {:.2}", end.average_load.unwrap_or(0.0)))?;
    let figures = json!({
        "baseline": contracts::to_json("GetSystemMetricsResponse", &baseline),
        "samples": samples,
        "peak_cpu_ratio": peak_cpu,
        "peak_memory_ratio": peak_memory,
        "final": contracts::to_json("GetSystemMetricsResponse", &end),
    });
    stage.figures("system_resources", &figures)
}

fn sample_line(current: &wire::CollectSystemMetricsResponse) -> String {
    let sample = current.sample.clone().unwrap_or_default();
    format!(
        "CPU: {} | Memory: {} | Active Connections: {}",
        percent(Some(sample.cpu_ratio)),
        percent(memory_ratio(&sample)),
        current.active_connections
    )
}

fn memory_ratio(sample: &wire::SystemSample) -> Option<f64> {
    (sample.memory_total_bytes > 0)
        .then(|| sample.memory_used_bytes as f64 / sample.memory_total_bytes as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_the_pages_form() {
        let current = wire::CollectSystemMetricsResponse {
            sample: Some(wire::SystemSample {
                cpu_ratio: 0.875,
                memory_used_bytes: 1,
                memory_total_bytes: 4,
                ..Default::default()
            }),
            active_connections: 6,
            ..Default::default()
        };
        assert_eq!(
            sample_line(&current),
            "CPU: 87.5% | Memory: 25.0% | Active Connections: 6"
        );
    }
}
