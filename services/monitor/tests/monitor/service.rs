//! The whole monitor: what it answers about what a source wrote.

use proto::event::{Event, Kind, SystemSample};
use proto::id::Time;
use proto::wire;
use proto::wire::alert_service_client::AlertServiceClient;
use proto::wire::metrics_service_client::MetricsServiceClient;
use proto::wire::worker_monitor_service_client::WorkerMonitorServiceClient;
use tonic::Code;

use crate::history::*;
use crate::running::*;
use crate::source::FakeSource;

/// Now, less some seconds.
pub(crate) fn ago(seconds: i64) -> i64 {
    kit::Clock::system(0).now_micros() - seconds * 1_000_000
}

/// `count` transactions of worker 0 that end so, the first `seconds` ago, ten milliseconds apart.
pub(crate) fn recent(seconds: i64, count: usize, end: impl Fn(usize) -> End) -> Vec<Run> {
    let begin = ago(seconds);
    (0..count)
        .map(|number| Run {
            start_us: begin + number as i64 * 10_000,
            workflow: 0,
            worker: 0,
            host: 0,
            wait_us: 2_000,
            run_us: 40_000,
            end: end(number),
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_perfect_runs_say_one_hundred_percent_everywhere() {
    let directory = tempfile::tempdir().unwrap();
    let source = FakeSource::start().await;
    source.append(&[host_connected(ago(30), 0, 4)]);
    let next = source.append(&events(&recent(20, 10, |_| End::Completed)));
    let monitor = Running::start(directory.path(), source.address, &[]).await;

    let metrics = monitor.caught_up(next).await;
    assert_eq!(metrics.total_events, next);
    assert_eq!(
        (metrics.total_commands, metrics.transactions_started),
        (10, 10)
    );
    assert_eq!(metrics.transactions_ended, 10);
    assert_eq!(
        (metrics.success_ratio, metrics.error_ratio),
        (Some(1.0), Some(0.0))
    );
    let latency = metrics.latency.unwrap();
    assert_eq!(latency.average, Some(millis(42)));
    assert_eq!(
        (latency.minimum, latency.maximum),
        (Some(millis(42)), Some(millis(42)))
    );
    let lag = &metrics.as_of.unwrap().sources[0];
    assert_eq!((lag.lag_events, lag.connected), (0, true));

    let mut workers = WorkerMonitorServiceClient::new(monitor.channel.clone());
    let request = wire::GetWorkerPerformanceRequest {
        worker: "worker-0".into(),
        window: None,
    };
    let answer = workers
        .get_worker_performance(request)
        .await
        .unwrap()
        .into_inner();
    let performance = answer.performance.unwrap();
    assert_eq!(
        (performance.total_executions, performance.success_ratio),
        (10, Some(1.0))
    );
    assert_eq!(performance.duration.unwrap().average, Some(millis(40)));
    assert_eq!(performance.hosts.len(), 1);
    let all = workers.get_all_workers_health(wire::GetAllWorkersHealthRequest {});
    let all = all.await.unwrap().into_inner().workers;
    assert!(
        all.iter()
            .all(|health| health.status() == wire::HealthStatus::Healthy)
    );
    let mut alerts = AlertServiceClient::new(monitor.channel.clone());
    let checked = alerts
        .check_alerts(wire::CheckAlertsRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(checked.alerts.is_empty(), "{:?}", checked.alerts);
    assert_eq!(checked.rules.len(), 4);

    let page = monitor.page("/metrics").await;
    for line in [
        format!("multiagents_events_total {next}"),
        "multiagents_success_rate 1.0".into(),
        "multiagents_error_rate 0.0".into(),
        "multiagents_avg_latency_seconds 0.042".into(),
        "multiagents_worker_executions_total{worker=\"worker-0\"} 10".into(),
        "multiagents_worker_success_rate{worker=\"worker-0\"} 1.0".into(),
        "multiagents_worker_avg_duration_seconds{worker=\"worker-0\"} 0.04".into(),
        "multiagents_command_run_seconds_bucket{le=\"0.05\",worker=\"worker-0\"} 10".into(),
        "multiagents_command_run_seconds_bucket{le=\"+Inf\",worker=\"worker-0\"} 10".into(),
        "# TYPE multiagents_worker_executions_total counter".into(),
    ] {
        assert!(page.lines().any(|found| found == line), "{line} in {page}");
    }
    monitor.stop().await;
}

fn millis(millis: i32) -> prost_types::Duration {
    prost_types::Duration {
        seconds: 0,
        nanos: millis * 1_000_000,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_outcomes_ratios_are_unset_and_gauges_absent() {
    let directory = tempfile::tempdir().unwrap();
    let source = FakeSource::start().await;
    let next = source.append(&events(&recent(5, 3, |_| End::Open)));
    let monitor = Running::start(directory.path(), source.address, &[]).await;
    let metrics = monitor.caught_up(next).await;
    assert_eq!(
        (metrics.success_ratio, metrics.error_ratio, metrics.latency),
        (None, None, None)
    );
    let page = monitor.page("/metrics").await;
    assert!(page.contains("multiagents_events_total 15"), "{page}");
    for absent in ["success_rate", "error_rate", "avg_latency", "avg_duration"] {
        assert!(!page.contains(absent), "{absent} in {page}");
    }
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_four_failures_are_four_patterns_and_the_alerts_fire() {
    let directory = tempfile::tempdir().unwrap();
    let source = FakeSource::start().await;
    source.append(&[host_connected(ago(30), 0, 4)]);
    let next = source.append(&events(&recent(20, 40, |number| End::Failed(number % 4))));
    let monitor = Running::start(directory.path(), source.address, &[]).await;
    monitor.caught_up(next).await;

    let request = wire::GetErrorPatternsRequest::default();
    let answer = monitor
        .events()
        .get_error_patterns(request)
        .await
        .unwrap()
        .into_inner();
    let mut kinds: Vec<(&str, &str, u64)> = answer
        .patterns
        .iter()
        .map(|found| {
            (
                found.error_type.as_str(),
                found.template.as_str(),
                found.count,
            )
        })
        .collect();
    kinds.sort_unstable();
    let mut wanted = FAILURES.map(|(kind, message)| (kind, message, 10));
    wanted.sort_unstable();
    assert_eq!(kinds, wanted);
    assert!(
        answer
            .patterns
            .iter()
            .all(|found| found.sample_transaction_ids.len() == 5)
    );

    let mut alerts = AlertServiceClient::new(monitor.channel.clone());
    let checked = alerts
        .check_alerts(wire::CheckAlertsRequest {})
        .await
        .unwrap()
        .into_inner();
    let fired: Vec<(&str, &str)> = checked
        .alerts
        .iter()
        .map(|alert| (alert.r#type.as_str(), alert.message.as_str()))
        .collect();
    assert_eq!(
        fired,
        [
            ("worker_failed", "Worker worker-0 has failed"),
            ("high_error_rate", "Error rate 100.0% exceeds threshold"),
            (
                "worker_error_rate",
                "Worker worker-0 has an error rate of 100.0%, at or over its threshold of 20.0%"
            ),
        ]
    );
    assert!(checked.alerts[0].issues[0].starts_with("40 of 40 executions"));
    assert_eq!(checked.alerts[0].value, None);
    assert_eq!(
        (checked.alerts[1].value, checked.alerts[1].threshold),
        (Some(1.0), Some(0.1))
    );
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_has_every_event_live_recent_and_old() {
    let directory = tempfile::tempdir().unwrap();
    let source = FakeSource::start().await;
    let runs = recent(120, 60, |number| {
        if number == 59 {
            End::Open
        } else {
            End::Completed
        }
    });
    for batch in events(&runs).chunks(5) {
        source.append(batch);
    }
    // Only ten ended ones are at hand: the others are found by reading the log.
    let set = [("limits.ended_traces_max", "10")];
    let monitor = Running::start(directory.path(), source.address, &set).await;
    monitor.caught_up(source.next()).await;
    for number in [0, 30, 55, 58, 59] {
        let id = transaction_id(runs[number].start_us, number);
        let wanted = runs[number].events(number);
        let request = wire::GetTransactionTraceRequest {
            transaction_id: id.to_string(),
        };
        let trace = monitor
            .events()
            .get_transaction_trace(request)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(trace.events.len(), wanted.len(), "transaction {number}");
        assert!(!trace.truncated);
        assert_eq!(trace.workflow, "flow-0");
        assert_eq!(trace.commands.len(), 1);
        let state = trace.state();
        if number == 59 {
            assert_eq!(state, wire::TransactionState::Running);
            assert_eq!(trace.commands[0].end_time, None);
        } else {
            assert_eq!(state, wire::TransactionState::Completed);
            assert_eq!(trace.commands[0].stage(), wire::Stage::Completed);
        }
        let types: Vec<wire::EventType> = trace.events.iter().map(|event| event.r#type()).collect();
        let wanted: Vec<wire::EventType> = wanted.iter().map(Event::event_type).collect();
        assert_eq!(types, wanted);
    }
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_past_its_bound_says_so_and_one_message_at_once_is_recorded_whole() {
    let directory = tempfile::tempdir().unwrap();
    let source = FakeSource::start().await;
    let runs = recent(60, 30, |_| End::Completed);
    for batch in events(&runs).chunks(2) {
        source.append(batch);
    }
    let set = [
        ("limits.trace_events_max", "3"),
        ("limits.inbox_messages_max", "1"),
    ];
    let monitor = Running::start(directory.path(), source.address, &set).await;
    monitor.caught_up(source.next()).await;
    let id = transaction_id(runs[0].start_us, 0);
    let request = wire::GetTransactionTraceRequest {
        transaction_id: id.to_string(),
    };
    let trace = monitor
        .events()
        .get_transaction_trace(request)
        .await
        .unwrap()
        .into_inner();
    assert!(trace.truncated);
    assert_eq!(trace.events.len(), 3);
    let metrics = wire::GetEventMetricsRequest::default();
    let metrics = monitor
        .events()
        .get_event_metrics(metrics)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(metrics.total_events, events(&runs).len() as u64);
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_requests_are_refused_with_the_right_reason() {
    let directory = tempfile::tempdir().unwrap();
    let source = FakeSource::start().await;
    let monitor = Running::start(directory.path(), source.address, &[]).await;
    let refused = |status: tonic::Status, code: Code, reason: &str| {
        assert_eq!(status.code(), code, "{status:?}");
        assert_eq!(
            kit::status::reason_of(&status).as_deref(),
            Some(reason),
            "{status:?}"
        );
        assert!(status.message().len() > 20, "{status:?}");
    };
    let mut events = monitor.events();
    let window = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
    for window in [
        window(0, 0),
        window(-300, 0),
        window(0, 1),
        window(1_000_000_000, 0),
        window(1, -1),
    ] {
        let request = wire::GetEventMetricsRequest {
            window,
            ..Default::default()
        };
        let status = events.get_event_metrics(request).await.unwrap_err();
        refused(status, Code::InvalidArgument, "WINDOW_INVALID");
    }
    let request = wire::GetEventMetricsRequest {
        worker: "\u{1b}[2J".into(),
        ..Default::default()
    };
    let status = events.get_event_metrics(request).await.unwrap_err();
    refused(status, Code::InvalidArgument, "NAME_INVALID");
    for (id, code, reason) in [
        ("", Code::InvalidArgument, "FIELD_MISSING"),
        ("1", Code::InvalidArgument, "FIELD_INVALID"),
        (
            "01890a5d-ac96-774b-bcce-b302099a8057",
            Code::NotFound,
            "TRANSACTION_NOT_FOUND",
        ),
    ] {
        let request = wire::GetTransactionTraceRequest {
            transaction_id: id.into(),
        };
        let status = events.get_transaction_trace(request).await.unwrap_err();
        refused(status, code, reason);
    }
    let request = wire::GetErrorPatternsRequest {
        limit: -1,
        ..Default::default()
    };
    let status = events.get_error_patterns(request).await.unwrap_err();
    refused(status, Code::InvalidArgument, "FIELD_OUT_OF_RANGE");
    let mut workers = WorkerMonitorServiceClient::new(monitor.channel.clone());
    let request = wire::CheckWorkerHealthRequest {
        worker: "nobody".into(),
    };
    let status = workers.check_worker_health(request).await.unwrap_err();
    refused(status, Code::NotFound, "WORKER_NOT_FOUND");
    let status = events
        .stream_updates(wire::StreamUpdatesRequest::default())
        .await
        .unwrap_err();
    refused(status, Code::Unimplemented, "NOT_YET_IMPLEMENTED");
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_switched_off_says_which_key_switches_it_on() {
    let directory = tempfile::tempdir().unwrap();
    let source = FakeSource::start().await;
    source.append(&events(&recent(5, 3, |_| End::Completed)));
    let set = [
        ("event_monitoring.enabled", "false"),
        ("worker_monitoring.enabled", "false"),
        ("metrics_collection.include_system_metrics", "false"),
    ];
    let monitor = Running::start(directory.path(), source.address, &set).await;
    let request = wire::GetEventMetricsRequest::default();
    let status = monitor
        .events()
        .get_event_metrics(request)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(
        status.message().contains("event_monitoring.enabled"),
        "{status:?}"
    );
    let mut workers = WorkerMonitorServiceClient::new(monitor.channel.clone());
    let status = workers
        .get_all_workers_health(wire::GetAllWorkersHealthRequest {})
        .await
        .unwrap_err();
    assert_eq!(
        kit::status::reason_of(&status).as_deref(),
        Some("SWITCHED_OFF")
    );
    let mut metrics = MetricsServiceClient::new(monitor.channel.clone());
    let status = metrics
        .get_system_metrics(wire::GetSystemMetricsRequest::default())
        .await
        .unwrap_err();
    assert!(
        status.message().contains("include_system_metrics"),
        "{status:?}"
    );
    monitor.stop().await;
}

fn sample(time_us: i64, machine: &str, cpu: f64, connections: u32, read: u64) -> Event {
    Event {
        time: Time(time_us),
        kind: Kind::SystemSampled {
            host: Some(host_id(3)),
            sample: Box::new(SystemSample {
                machine: machine.into(),
                cpu_ratio: cpu,
                memory_used_bytes: 50,
                memory_total_bytes: 100,
                load_1m: cpu * 4.0,
                disk_used_bytes: 1,
                disk_total_bytes: 4,
                disk_read_bytes: read,
                open_connections: connections,
                service: "worker-host".into(),
                ..SystemSample::default()
            }),
        },
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn system_metrics_are_averages_and_peaks_over_the_window() {
    let directory = tempfile::tempdir().unwrap();
    let source = FakeSource::start().await;
    let next = source.append(&[
        sample(ago(900), "far", 1.0, 0, 0),
        sample(ago(20), "far", 0.2, 3, 1_000),
        sample(ago(10), "far", 0.6, 5, 11_000),
    ]);
    let monitor = Running::start(directory.path(), source.address, &[]).await;
    monitor.caught_up(next).await;
    let mut client = MetricsServiceClient::new(monitor.channel.clone());
    let request = wire::GetSystemMetricsRequest {
        machine: "far".into(),
        ..Default::default()
    };
    let figures = client
        .get_system_metrics(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(figures.samples, 2);
    assert!((figures.average_cpu_ratio.unwrap() - 0.4).abs() < 1e-9);
    assert_eq!(figures.peak_cpu_ratio, Some(0.6));
    assert_eq!(figures.average_memory_ratio, Some(0.5));
    assert_eq!(figures.disk_used_ratio, Some(0.25));
    assert!((figures.disk_read_bytes_per_second.unwrap() - 1_000.0).abs() < 1.0);
    assert_eq!(figures.machines, ["far"]);
    // The monitor samples its own machine too.
    let all = wait_for(async || {
        let request = wire::GetSystemMetricsRequest::default();
        let figures = client.get_system_metrics(request).await.ok()?.into_inner();
        (figures.machines.len() == 2).then_some(figures)
    })
    .await;
    assert!(all.active_connections.unwrap() >= 5, "{all:?}");
    let now = client
        .collect_system_metrics(wire::CollectSystemMetricsRequest {})
        .await
        .unwrap()
        .into_inner();
    let sample = now.sample.unwrap();
    assert_eq!(sample.service, "monitor");
    assert!(
        sample.memory_used_bytes > 0 && sample.open_connections > 0,
        "{sample:?}"
    );
    assert_eq!(now.connections.len(), 2);
    monitor.stop().await;
}
