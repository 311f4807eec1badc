//! The page's configuration file as it stands, and what each of its keys does.

use std::path::Path;

use kit::config::ConfigError;
use monitor::config::{Config, Flags};
use monitor::folds::settings::Settings;

/// The page's file, byte for byte.
const PAGE: &str = r#"# examples/monitoring_config.yaml
logging:
  default_logger: "composite"
  level: "DEBUG"  # Verbose logging for demo
  file_path: "./logs/monitoring_demo.log"
  max_file_size_mb: 100
  backup_count: 3
  json_format: true

event_monitoring:
  enabled: true
  trace_retention_hours: 2
  cleanup_interval_minutes: 30
  track_payload_size: true
  detailed_timing: true

worker_monitoring:
  enabled: true
  health_check_interval_seconds: 10
  performance_window_minutes: 30
  alert_on_high_error_rate: true
  error_rate_threshold: 0.2  # Alert if >20% errors
  slow_execution_threshold_ms: 1000

metrics_collection:
  enabled: true
  collection_interval_seconds: 15
  retention_hours: 4
  include_system_metrics: true
  custom_metrics:
    - name: "workflow_completion_rate"
      type: "gauge"
    - name: "average_step_duration"
      type: "histogram"
"#;

fn load(directory: &Path, set: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let flags = Flags {
        set: set
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        ..Flags::default()
    };
    Ok(flags.load(directory, Vec::new())?.value)
}

#[test]
fn the_pages_file_is_found_by_itself_and_taken_as_it_stands() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("monitoring.yaml"), PAGE).unwrap();
    let loaded = Flags::default().load(directory.path(), Vec::new()).unwrap();
    let named: Vec<&str> = loaded
        .not_yet_effective
        .iter()
        .map(|(key, _)| key.as_str())
        .collect();
    assert_eq!(named, ["metrics_collection.custom_metrics"]);
    let config = loaded.value;
    assert_eq!(config.logging.backup_count, 3);
    assert_eq!(config.metrics_collection.custom_metrics.len(), 2);
    assert!((config.metrics_collection.collection_interval_seconds - 15.0).abs() < f64::EPSILON);
    let wanted = Settings {
        trace_retention_seconds: 2 * 3_600,
        figures_retention_seconds: 4 * 3_600,
        cleanup_interval_seconds: 30 * 60,
        slow_execution_us: 1_000_000,
        ..Settings::default()
    };
    assert_eq!(config.settings(), wanted);
    assert_eq!(
        config.log_options().retention_age.map(|age| age.as_secs()),
        Some(2 * 3_600)
    );
}

#[test]
fn other_names_of_keys_are_accepted() {
    let directory = tempfile::tempdir().unwrap();
    let text = "logging: {max_size_mb: 7}\nevent_monitoring: {detailed_event_tracking: false}\n\
                worker_monitoring: {performance_alerts: false}\n";
    std::fs::write(directory.path().join("monitoring.yaml"), text).unwrap();
    let config = load(directory.path(), &[]).unwrap();
    assert_eq!(config.logging.max_file_size_mb, 7);
    assert!(!config.event_monitoring.detailed_timing);
    assert!(!config.worker_monitoring.alert_on_high_error_rate);
}

#[test]
fn wrong_keys_and_values_are_named_with_the_nearest_right_one() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("monitoring.yaml");
    std::fs::write(&file, "event_monitoring:\n  trace_retention_hour: 2\n").unwrap();
    let message = load(directory.path(), &[]).unwrap_err().to_string();
    assert!(
        message.contains("trace_retention_hours") && message.contains(":2"),
        "{message}"
    );
    // A percent where a ratio belongs: the file is named, not a flag that nobody gave.
    std::fs::write(&file, "worker_monitoring:\n  error_rate_threshold: 20\n").unwrap();
    let message = load(directory.path(), &[]).unwrap_err().to_string();
    let said =
        "monitoring.yaml:2:25: worker_monitoring.error_rate_threshold: 20 is not between 0 and 1";
    assert!(message.ends_with(said), "{message}");
    std::fs::remove_file(&file).unwrap();
    for (key, value, said) in [
        ("limits.max_subscribers", "0", "must be more"),
        ("log.snapshot_interval", "0s", "not between 1 and"),
        ("log.segment_bytes", "1", "at least 4KiB"),
        (
            "logging.level",
            "LOUD",
            "flag logging.level: \"LOUD\" is no level",
        ),
        (
            "worker_monitoring.error_rate_threshold",
            "1.5",
            "not between 0 and 1",
        ),
        ("event_monitoring.trace_retention_hours", "0", "not between"),
        ("orchestrators", "[\"nonsense\"]", "no host:port"),
        (
            "metrics_collection.custom_metrics",
            "[{name: a, type: meter}]",
            "meter",
        ),
        (
            "metrics_collection.custom_metrics",
            "[{name: \"a b\", type: gauge}]",
            "a b",
        ),
    ] {
        let message = load(directory.path(), &[(key, value)])
            .unwrap_err()
            .to_string();
        assert!(message.contains(said), "{key}: {message}");
    }
}

#[test]
fn flags_go_over_variables_and_those_over_the_file() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(
        directory.path().join("monitoring.yaml"),
        "listen: 127.0.0.1:1\ndata_dir: a\n",
    )
    .unwrap();
    let flags = Flags {
        listen: Some("127.0.0.1:3".into()),
        orchestrators: vec!["127.0.0.1:7001".into(), "[::1]:7001".into()],
        ..Flags::default()
    };
    let variables = vec![
        (
            "MULTIAGENTS_MONITOR_LISTEN".to_owned(),
            "127.0.0.1:2".to_owned(),
        ),
        ("MULTIAGENTS_MONITOR_DATA_DIR".to_owned(), "b".to_owned()),
    ];
    let config = flags.load(directory.path(), variables).unwrap().value;
    assert_eq!(config.listen, "127.0.0.1:3");
    assert_eq!(config.data_dir, Path::new("b"));
    assert_eq!(config.orchestrators, ["127.0.0.1:7001", "[::1]:7001"]);
}

#[test]
fn the_defaults_of_the_file_are_the_ones_of_the_folds() {
    let directory = tempfile::tempdir().unwrap();
    let wanted = Settings {
        cleanup_interval_seconds: 600,
        ..Settings::default()
    };
    assert_eq!(load(directory.path(), &[]).unwrap().settings(), wanted);
}
