//! How workers and machines are, as the monitor says it.

use proto::wire::{HealthStatus, WorkerHealth};
use serde_json::json;
use tests::Suite;
use tests::wait::{PATIENCE, until};

async fn health_of(suite: &Suite, worker: &str) -> WorkerHealth {
    let answer = suite.monitor().worker_health(worker).await;
    answer.expect("it is tracked").health.expect("health")
}

async fn becomes(suite: &Suite, worker: &str, status: HealthStatus) -> WorkerHealth {
    until(
        &format!("{worker} to be {status:?}"),
        PATIENCE,
        async || {
            let health = health_of(suite, worker).await;
            (health.status() == status)
                .then_some(health.clone())
                .ok_or(format!("{health:?}"))
        },
    )
    .await
}

#[tokio::test]
async fn a_worker_is_healthy_then_inactive_then_failed_then_healthy_again() {
    let mut suite = Suite::builder()
        .setting("orchestrator", "sessions.lease", "2s")
        .setting("orchestrator", "sessions.heartbeat_interval", "500ms")
        .start()
        .await;
    let idle = becomes(&suite, "noop", HealthStatus::Healthy).await;
    assert!(
        idle.issues.is_empty() && idle.slots > 0 && idle.busy_slots == 0,
        "{idle:?}"
    );
    assert_eq!(idle.hosts.len(), 1);
    assert!(idle.hosts[0].live && !idle.hosts[0].draining);

    suite.host.kill();
    let gone = becomes(&suite, "noop", HealthStatus::Inactive).await;
    assert!(!gone.issues.is_empty() && gone.slots == 0, "{gone:?}");

    let started = suite
        .client()
        .start("three_noops", &json!({}))
        .await
        .expect("it starts");
    let starved = becomes(&suite, "noop", HealthStatus::Failed).await;
    assert_eq!(starved.queued_commands, 1);
    assert!(!starved.issues.is_empty(), "{starved:?}");

    suite.host.start_ready().await;
    let id = &started.transaction_id;
    suite
        .client()
        .wait_for_end(id, PATIENCE)
        .await
        .expect("it ends");
    becomes(&suite, "noop", HealthStatus::Healthy).await;
}

#[tokio::test]
async fn machines_are_sampled_and_connections_counted() {
    let suite = Suite::builder()
        .setting("orchestrator", "sample_interval", "1s")
        .setting("worker-host", "sample_interval", "1s")
        .setting(
            "monitor",
            "metrics_collection.collection_interval_seconds",
            "1",
        )
        .start()
        .await;
    let metrics = until("some samples", PATIENCE, async || {
        let answer = suite.monitor().system_metrics(None).await;
        let answer = answer.map_err(|error| error.to_string())?;
        (answer.samples >= 6)
            .then_some(answer.clone())
            .ok_or(format!("{answer:?}"))
    })
    .await;
    for (average, peak) in [
        (metrics.average_cpu_ratio, metrics.peak_cpu_ratio),
        (metrics.average_memory_ratio, metrics.peak_memory_ratio),
    ] {
        let (average, peak) = (average.expect("samples"), peak.expect("samples"));
        assert!(
            (0.0..=1.0).contains(&average) && average <= peak && peak <= 1.0,
            "{metrics:?}"
        );
    }
    assert!(metrics.average_memory_ratio > Some(0.0) && metrics.disk_used_ratio > Some(0.0));
    assert!(metrics.average_load <= metrics.peak_load && metrics.average_load.is_some());
    assert_eq!(
        metrics.machines.len(),
        1,
        "three services on one machine: {metrics:?}"
    );
    assert!(metrics.active_connections >= Some(3), "{metrics:?}");

    let now = suite
        .monitor()
        .collect_system_metrics()
        .await
        .expect("a sample");
    let sample = now.sample.expect("a sample");
    assert!(sample.memory_used_bytes > 0 && sample.memory_used_bytes < sample.memory_total_bytes);
    assert!(sample.processors > 0 && sample.process_memory_bytes > 1 << 20);
    let mut services: Vec<_> = now
        .connections
        .iter()
        .map(|one| one.service.as_str())
        .collect();
    services.sort_unstable();
    assert_eq!(services, ["monitor", "orchestrator", "worker-host"]);
    let sum: u32 = now.connections.iter().map(|one| one.connections).sum();
    assert_eq!(sum, now.active_connections);
}
