//! What the monitor answers, against figures that the test counts by itself from the raw log.

use std::collections::BTreeMap;
use std::time::Duration;

use multiagents_client::{Retry, Step, Workflow, time::from_wire};
use proto::batch::Stored;
use proto::wire::{GetEventMetricsRequest, LatencySummary, WorkerPerformance};
use serde_json::json;
use tests::count::{self, Figures, Outcomes, percentile};
use tests::wait::PATIENCE;
use tests::workers::{OwnHost, broken, reluctant, stuck, timed};
use tests::{Suite, http, record};

/// Longer than any test runs, so that it covers everything.
const WINDOW: Duration = Duration::from_secs(3600);

/// A suite with a history of every outcome but lost, all at rest.
async fn history() -> (Suite, OwnHost) {
    let suite = Suite::start().await;
    let workers = [(broken(), 4), (reluctant(), 4), (stuck(), 4), (timed(), 8)];
    let host = OwnHost::start(suite.orchestrator.address(), workers);
    let client = suite.client();
    let quick = Retry::attempts(3).initial_delay(Duration::from_millis(10));
    let mixed = Workflow::new("mixed")
        .step(("noop", "noop"))
        .parallel([
            Step::new("timed", "timed"),
            Step::new("again", "reluctant").retry(quick),
        ])
        .step(("fast", "fast_processor"));
    let failing = Workflow::new("failing")
        .step(("timed", "timed"))
        .step(("broken", "broken"));
    let late = Step::new("stuck", "stuck").timeout(Duration::from_millis(60));
    let late = Workflow::new("late").step(late);
    for workflow in [mixed, failing, late] {
        client.register(workflow).await.expect("a workflow");
    }
    let mut ids = Vec::new();
    for number in 0..30_u64 {
        let input = json!({ "millis": 5 + number * number % 97, "failures": number % 3 });
        let workflows = ["mixed", "mixed", "failing", "late", "three_noops"];
        let workflow = workflows[number as usize % workflows.len()];
        let started = client.start(workflow, &input).await.expect("it starts");
        ids.push(started.transaction_id);
    }
    // One that ends in a way that counts in no ratio.
    let stopped = client.start("late", &json!({})).await.expect("it starts");
    let _may_be_over = client
        .cancel(&stopped.transaction_id, "counts in no ratio")
        .await;
    ids.push(stopped.transaction_id);
    for id in &ids {
        client.wait_for_end(id, PATIENCE).await.expect("it ends");
    }
    suite.monitor_caught_up().await;
    (suite, host)
}

/// The events that an answer covers.
fn before(events: &[Stored], as_of: Option<&proto::wire::AsOf>) -> Figures {
    let upto = as_of.expect("a position").sources[0].offset;
    count::figures(events.iter().filter(|stored| stored.offset < upto))
}

fn near(what: &str, found: f64, exact: f64, tolerance: f64) {
    assert!(
        (found - exact).abs() <= tolerance,
        "{what}: {found}, counted {exact}"
    );
}

/// Exact but for the percentiles, which may be off by one in a hundred.
fn assert_summary(what: &str, summary: Option<&LatencySummary>, values: &[u64]) {
    if values.is_empty() {
        assert_eq!(summary, None, "{what}: absent without outcomes");
        return;
    }
    let summary = summary.unwrap_or_else(|| panic!("{what} is missing"));
    let micros = |duration: &Option<_>| {
        let duration = duration
            .as_ref()
            .unwrap_or_else(|| panic!("{what} is not whole"));
        from_wire(duration).as_secs_f64() * 1e6
    };
    let count = values.len() as f64;
    assert_eq!(summary.count, values.len() as u64, "{what}");
    near(
        what,
        micros(&summary.average),
        values.iter().sum::<u64>() as f64 / count,
        1.0,
    );
    near(
        what,
        micros(&summary.minimum),
        percentile(values, 0) as f64,
        1.0,
    );
    near(
        what,
        micros(&summary.maximum),
        percentile(values, 100) as f64,
        1.0,
    );
    for (percent, found) in [(50, &summary.p50), (95, &summary.p95), (99, &summary.p99)] {
        let exact = percentile(values, percent) as f64;
        near(
            &format!("{what} p{percent}"),
            micros(found),
            exact,
            exact * 0.01 + 1.0,
        );
    }
}

#[tokio::test]
async fn event_metrics_are_what_the_log_says() {
    let (suite, _host) = history().await;
    let monitor = suite.monitor();
    let answer = monitor.event_metrics(Some(WINDOW)).await.expect("figures");
    let events = suite.events().await;
    let counted = before(&events, answer.as_of.as_ref());
    assert!(
        counted.all.failed > 0 && counted.all.timed_out > 0,
        "a history of all sorts"
    );

    assert_eq!(answer.total_events, counted.events);
    assert_eq!(answer.transactions_started, counted.started);
    assert_eq!(answer.transactions_ended, counted.ended);
    assert_eq!(
        answer.total_commands,
        counted.all.total() + counted.all.cancelled
    );
    let by_type: BTreeMap<_, _> = answer
        .by_type
        .iter()
        .map(|entry| (entry.r#type, entry.count))
        .collect();
    assert_eq!(by_type, counted.by_type);
    let by_stage: BTreeMap<_, _> = answer
        .by_stage
        .iter()
        .map(|entry| (entry.stage, entry.count))
        .collect();
    assert_eq!(by_stage, counted.by_stage);
    let success = counted.all.success_ratio().expect("outcomes");
    near(
        "success ratio",
        answer.success_ratio.expect("outcomes"),
        success,
        1e-12,
    );
    near(
        "error ratio",
        answer.error_ratio.expect("outcomes"),
        1.0 - success,
        1e-12,
    );
    let latencies: Vec<_> = counted
        .all
        .timings
        .iter()
        .map(|timing| timing.latency_us())
        .collect();
    assert_summary("latency", answer.latency.as_ref(), &latencies);

    let window = answer.window.as_ref().expect("a window");
    let seconds = |time: &Option<prost_types::Timestamp>| {
        let time = time.as_ref().expect("a time");
        time.seconds as f64 + f64::from(time.nanos) / 1e9
    };
    // Figures are kept by the second, so nothing shorter is divided by.
    let covered = (seconds(&window.end_time) - seconds(&window.start_time)).max(1.0);
    let rate = counted.events as f64 / covered * 60.0;
    near(
        "throughput",
        answer.throughput_per_minute,
        rate,
        rate * 0.02,
    );
    let (aligned, sliding) = busiest_ten_seconds(&events);
    let peak = answer.peak_throughput_per_minute;
    assert!(
        aligned * 6.0 <= peak + 1e-6 && peak <= (sliding * 6.0).max(rate * 1.02) + 1e-6,
        "peak {peak}, counted {aligned} to {sliding} in ten seconds"
    );

    for (workflow, worker) in [("", "noop"), ("", "stuck"), ("", "broken")] {
        let request = GetEventMetricsRequest {
            window: Some(multiagents_client::time::to_wire(WINDOW)),
            workflow: workflow.to_owned(),
            worker: worker.to_owned(),
        };
        let answer = monitor.event_metrics_of(request).await.expect("figures");
        let outcomes = &counted.workers[worker];
        assert_eq!(
            answer.total_commands,
            outcomes.total() + outcomes.cancelled,
            "{worker}"
        );
        assert_eq!(answer.success_ratio, outcomes.success_ratio(), "{worker}");
    }
}

/// The most events in ten seconds: of those that begin at a full ten, and of any.
fn busiest_ten_seconds(events: &[Stored]) -> (f64, f64) {
    let times: Vec<i64> = events.iter().map(|stored| stored.event.time.0).collect();
    let mut aligned = BTreeMap::new();
    for time in &times {
        *aligned.entry(time / 10_000_000).or_insert(0_u64) += 1;
    }
    // Buckets of whole seconds can reach a second further than ten seconds do.
    let within = |from: i64| {
        times
            .iter()
            .filter(|time| (from..from + 11_000_000).contains(*time))
            .count()
    };
    let sliding = times.iter().map(|from| within(from - 1_000_000)).max();
    let most = aligned.values().max().copied().unwrap_or_default();
    (most as f64, sliding.unwrap_or_default() as f64)
}

#[tokio::test]
async fn worker_performance_is_what_the_log_says() {
    let (suite, _host) = history().await;
    let monitor = suite.monitor();
    let summary = monitor
        .worker_performance_summary(Some(WINDOW))
        .await
        .expect("figures");
    let events = suite.events().await;
    let counted = before(&events, summary.as_of.as_ref());
    assert_performance("all", summary.aggregated.as_ref(), &counted.all);
    for (worker, outcomes) in &counted.workers {
        let answer = monitor
            .worker_performance(worker, Some(WINDOW))
            .await
            .expect("figures");
        let performance = answer.performance.as_ref();
        assert_performance(worker, performance, outcomes);
        let listed = summary
            .workers
            .iter()
            .find(|listed| listed.worker == *worker);
        assert_performance(worker, listed, outcomes);
        let of_hosts: u64 = performance
            .expect("figures")
            .hosts
            .iter()
            .map(|host| {
                host.performance
                    .as_ref()
                    .map_or(0, |of| of.total_executions)
            })
            .sum();
        assert_eq!(of_hosts, outcomes.total(), "{worker}: its hosts add up");
    }
    let tracked = monitor.tracked_workers().await.expect("names");
    for worker in counted.workers.keys() {
        assert!(tracked.contains(worker), "{worker} in {tracked:?}");
    }
    assert!(
        tracked.contains(&"cpu_intensive".to_owned()),
        "offered and never used"
    );
}

fn assert_performance(what: &str, found: Option<&WorkerPerformance>, counted: &Outcomes) {
    let found = found.unwrap_or_else(|| panic!("{what} is missing"));
    assert_eq!(found.total_executions, counted.total(), "{what}");
    assert_eq!(found.successful_executions, counted.completed, "{what}");
    assert_eq!(found.failed_executions, counted.errors(), "{what}");
    assert_eq!(found.timed_out_executions, counted.timed_out, "{what}");
    assert_eq!(found.lost_executions, counted.lost, "{what}");
    assert_eq!(found.success_ratio, counted.success_ratio(), "{what}");
    let runs: Vec<_> = counted.timings.iter().map(|timing| timing.run_us).collect();
    assert_summary(&format!("{what}'s run"), found.duration.as_ref(), &runs);
    let waits: Vec<_> = counted
        .timings
        .iter()
        .map(|timing| timing.wait_us)
        .collect();
    assert_summary(&format!("{what}'s wait"), found.wait.as_ref(), &waits);
}

#[tokio::test]
async fn patterns_are_the_failures_that_the_log_has() {
    let (suite, _host) = history().await;
    let answer = suite
        .monitor()
        .error_patterns(Some(WINDOW))
        .await
        .expect("patterns");
    let counted = before(&suite.events().await, answer.as_of.as_ref());
    for ((kind, message), count) in &counted.failures {
        let found: Vec<_> = answer
            .patterns
            .iter()
            .filter(|pattern| pattern.error_type == *kind && pattern.template == *message)
            .collect();
        assert_eq!(found.len(), 1, "{kind}: {message} in {:?}", answer.patterns);
        assert_eq!(found[0].count, *count, "{kind}");
        assert_eq!(found[0].total_count, *count, "{kind}");
        assert!(!found[0].sample_transaction_ids.is_empty() && !found[0].workers.is_empty());
    }
    assert!(
        answer.patterns.is_sorted_by(|a, b| a.count >= b.count),
        "the most frequent first"
    );
}

#[tokio::test]
async fn a_trace_has_every_event_of_its_transaction() {
    let (suite, _host) = history().await;
    let events = suite.events().await;
    for id in record::stories(&events).keys().take(12) {
        let trace = suite
            .monitor()
            .trace(&id.to_string())
            .await
            .expect("a trace");
        let expected: Vec<_> = events
            .iter()
            .filter(|stored| stored.event.transaction() == Some(*id))
            .map(proto::convert::to_full)
            .collect();
        assert_eq!(trace.events, expected);
        assert!(!trace.truncated);
        let queued = |event: &&proto::wire::Event| event.stage() == proto::wire::Stage::Queued;
        assert_eq!(trace.commands.len(), expected.iter().filter(queued).count());
    }
}

#[tokio::test]
async fn prometheus_is_told_the_same() {
    let (suite, _host) = history().await;
    let head_before = record::head(&suite.client()).await;
    let scraped = http::get(suite.monitor.address(), "/metrics")
        .await
        .expect("metrics");
    let events = suite.events().await;
    let counted = count::figures(&events);
    let value = |name: &str| {
        let value = http::sample(&scraped.body, name);
        value.unwrap_or_else(|| panic!("{name} is missing in:\n{}", scraped.body))
    };
    let total = value("multiagents_events_total");
    assert!(
        (head_before as f64..=counted.events as f64).contains(&total),
        "{total}, counted {head_before} to {}",
        counted.events
    );
    // Everything happened within the five minutes that the gauges cover.
    let success = counted.all.success_ratio().expect("outcomes");
    near(
        "success rate",
        value("multiagents_success_rate"),
        success,
        1e-9,
    );
    near(
        "error rate",
        value("multiagents_error_rate"),
        1.0 - success,
        1e-9,
    );
    let mean = |values: Vec<u64>| values.iter().sum::<u64>() as f64 / values.len() as f64 / 1e6;
    let latency = mean(
        counted
            .all
            .timings
            .iter()
            .map(|timing| timing.latency_us())
            .collect(),
    );
    near(
        "latency",
        value("multiagents_avg_latency_seconds"),
        latency,
        1e-5,
    );
    for (worker, outcomes) in &counted.workers {
        let labelled = |name: &str| value(&format!("{name}{{worker=\"{worker}\"}}"));
        let executions = labelled("multiagents_worker_executions_total");
        near(worker, executions, outcomes.total() as f64, 0.0);
        if let Some(success) = outcomes.success_ratio() {
            near(
                worker,
                labelled("multiagents_worker_success_rate"),
                success,
                1e-9,
            );
            let run = mean(
                outcomes
                    .timings
                    .iter()
                    .map(|timing| timing.run_us)
                    .collect(),
            );
            near(
                worker,
                labelled("multiagents_worker_avg_duration_seconds"),
                run,
                1e-5,
            );
        }
    }
}
