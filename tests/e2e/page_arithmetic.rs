//! The arithmetic that the page's own framework gets wrong.

use std::time::Duration;

use multiagents_client::Workflow;
use proto::wire::{HealthStatus, Severity, TransactionState, payload::Form};
use serde_json::{Value, json};
use tests::wait::PATIENCE;
use tests::workers::{Notes, OwnHost, broken, scribe};
use tests::{Suite, count, http};

const WINDOW: Option<Duration> = Some(Duration::from_secs(300));

#[tokio::test]
async fn ten_perfect_runs_are_a_hundred_percent_everywhere() {
    let suite = Suite::start().await;
    let client = suite.client();
    for number in 0..10 {
        let input = json!({ "data": format!("test_{number}") });
        let ended = client.execute_and_wait("two_fast", &input, PATIENCE).await;
        assert_eq!(
            ended.expect("it starts").state(),
            TransactionState::Completed
        );
    }
    suite.monitor_caught_up().await;
    let monitor = suite.monitor();

    let events = monitor.event_metrics(WINDOW).await.expect("figures");
    assert_eq!(
        (events.success_ratio, events.error_ratio),
        (Some(1.0), Some(0.0))
    );
    assert_eq!(
        (events.transactions_started, events.transactions_ended),
        (10, 10)
    );
    assert_eq!(events.total_commands, 20);
    let worker = monitor
        .worker_performance("fast_processor", WINDOW)
        .await
        .expect("figures");
    let worker = worker.performance.expect("figures");
    assert_eq!(
        (worker.success_ratio, worker.error_ratio),
        (Some(1.0), Some(0.0))
    );
    assert_eq!((worker.total_executions, worker.failed_executions), (20, 0));
    let average = worker.duration.expect("runs").average.expect("an average");
    let average = multiagents_client::time::from_wire(&average).as_millis();
    assert!(
        (10..=100).contains(&average),
        "10 to 50 ms each, not half of it: {average}"
    );
    let summary = monitor
        .worker_performance_summary(WINDOW)
        .await
        .expect("figures");
    assert_eq!(
        summary.aggregated.expect("figures").success_ratio,
        Some(1.0)
    );
    let health = monitor
        .worker_health("fast_processor")
        .await
        .expect("health");
    let health = health.health.expect("health");
    assert_eq!(
        health.status(),
        HealthStatus::Healthy,
        "{:?}",
        health.issues
    );
    assert_eq!(health.issues, [] as [String; 0]);
    assert_eq!(monitor.check_alerts().await.expect("alerts").alerts, []);
    assert_eq!(
        monitor
            .error_patterns(WINDOW)
            .await
            .expect("patterns")
            .patterns,
        []
    );
    let scraped = http::get(suite.monitor.address(), "/metrics")
        .await
        .expect("metrics");
    assert_eq!(
        http::sample(&scraped.body, "multiagents_success_rate"),
        Some(1.0)
    );
    assert_eq!(
        http::sample(&scraped.body, "multiagents_error_rate"),
        Some(0.0)
    );
}

#[tokio::test]
async fn without_outcomes_a_ratio_is_absent_not_zero() {
    let suite = Suite::builder().without_host().start().await;
    suite.monitor_caught_up().await;
    let answer = suite
        .monitor()
        .event_metrics(WINDOW)
        .await
        .expect("figures");
    assert_eq!((answer.success_ratio, answer.error_ratio), (None, None));
    assert_eq!(answer.latency, None);
    let scraped = http::get(suite.monitor.address(), "/metrics")
        .await
        .expect("metrics");
    assert_eq!(
        http::sample(&scraped.body, "multiagents_success_rate"),
        None
    );
    assert_eq!(
        http::sample(&scraped.body, "multiagents_avg_latency_seconds"),
        None
    );
}

#[tokio::test]
async fn a_worker_that_always_fails_is_failed_and_alerted() {
    let suite = Suite::start().await;
    let _host = OwnHost::start(suite.orchestrator.address(), [(broken(), 4)]);
    let client = suite.client();
    let workflow = Workflow::new("breaks").step(("it", "broken"));
    client.register(workflow).await.expect("a workflow");
    for _ in 0..12 {
        let ended = client
            .execute_and_wait("breaks", &json!({}), PATIENCE)
            .await;
        assert_eq!(ended.expect("it starts").state(), TransactionState::Failed);
    }
    suite.monitor_caught_up().await;
    let monitor = suite.monitor();
    let performance = monitor
        .worker_performance("broken", WINDOW)
        .await
        .expect("figures");
    let performance = performance.performance.expect("figures");
    assert_eq!(
        (performance.success_ratio, performance.error_ratio),
        (Some(0.0), Some(1.0))
    );
    let health = monitor
        .worker_health("broken")
        .await
        .expect("health")
        .health;
    let health = health.expect("health");
    assert_eq!(health.status(), HealthStatus::Failed);
    assert!(!health.issues.is_empty(), "it says why");
    let alerts = monitor.check_alerts().await.expect("alerts").alerts;
    let find = |kind: &str| alerts.iter().find(|alert| alert.r#type == kind);
    let rate = find("high_error_rate").expect("every command failed");
    assert_eq!(rate.severity(), Severity::Warning);
    assert_eq!((rate.value, rate.threshold), (Some(1.0), Some(0.1)));
    let failed = find("worker_failed").expect("a failed worker");
    assert_eq!(failed.severity(), Severity::Critical);
    assert_eq!(
        (failed.worker.as_str(), &failed.issues),
        ("broken", &health.issues)
    );
    assert_eq!(alerts[0].severity(), Severity::Critical, "the worst first");
}

/// In the page's framework one result completed both, the second without having run.
#[tokio::test]
async fn two_steps_by_one_worker_each_get_their_own_result() {
    let suite = Suite::builder()
        .without_host()
        .without_monitor()
        .start()
        .await;
    let notes = Notes::default();
    let _host = OwnHost::start(suite.orchestrator.address(), [(scribe(&notes), 1)]);
    let client = suite.client();
    let workflow = Workflow::new("twice")
        .step(("one", "scribe"))
        .step(("two", "scribe"));
    client.register(workflow).await.expect("a workflow");
    let ended = client
        .execute_and_wait("twice", &json!({}), PATIENCE)
        .await
        .expect("it starts");
    assert_eq!(ended.state(), TransactionState::Completed);
    for step in &ended.steps {
        let Some(Form::Json(json)) = step.result.as_ref().and_then(|result| result.form.as_ref())
        else {
            panic!("{} has no result", step.name)
        };
        let result: Value = serde_json::from_slice(json).expect("JSON");
        assert_eq!(result["by"], step.name);
    }
    let did: Vec<_> = notes.all().iter().map(|note| note["did"].clone()).collect();
    assert_eq!(did, ["one", "two"], "each ran once");
}

#[tokio::test]
async fn the_four_errors_of_the_flaky_processor_are_four_patterns() {
    let suite = Suite::start().await;
    let client = suite.client();
    let workflow = Workflow::new("flaky").step(("it", "flaky_processor"));
    client.register(workflow).await.expect("a workflow");
    let mut failures = 0;
    // Until each has come: 30 % fail, a quarter of these in each way.
    for _ in 0..20 {
        let mut ids = Vec::new();
        for number in 0..40 {
            let started = client.start("flaky", &json!({ "data": number })).await;
            ids.push(started.expect("it starts").transaction_id);
        }
        for id in &ids {
            client.wait_for_end(id, PATIENCE).await.expect("it ends");
        }
        failures = count::figures(&suite.events().await).failures.len();
        if failures == 4 {
            break;
        }
    }
    assert_eq!(failures, 4, "all four came in the log");
    suite.monitor_caught_up().await;
    let patterns = suite
        .monitor()
        .error_patterns(WINDOW)
        .await
        .expect("patterns")
        .patterns;
    let mut found: Vec<_> = patterns
        .iter()
        .map(|pattern| (pattern.error_type.as_str(), pattern.template.as_str()))
        .collect();
    found.sort_unstable();
    assert_eq!(
        found,
        [
            ("NetworkError", "Connection timeout"),
            ("RateLimitError", "Too many requests"),
            ("ServiceUnavailable", "External service down"),
            ("ValidationError", "Invalid input format"),
        ]
    );
    let counted = count::figures(&suite.events().await).failures;
    for pattern in &patterns {
        let key = (pattern.error_type.clone(), pattern.template.clone());
        assert_eq!(pattern.count, counted[&key], "{key:?}");
    }
}
