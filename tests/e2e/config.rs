//! The configuration: the page's file as it stands, what is wrong with a wrong one, and what a start
//! refuses.

use std::time::{Duration, Instant};

use multiagents_client::Monitor;
use tests::process::{Process, free_port};
use tests::wait::{PATIENCE, until};
use tests::{Suite, http};

/// The page's own `monitoring_config.yaml`, word for word.
const PAGE: &str = include_str!("page_monitoring.yaml");

#[tokio::test]
async fn the_pages_file_is_found_by_itself_and_does_what_it_says() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("monitoring.yaml"), PAGE).expect("a file");
    let address = format!("127.0.0.1:{}", free_port());
    let mut monitor = Process::new("multiagents-monitor", directory.path(), &address).arguments([
        "--listen",
        &address,
        "--data-dir",
        "data",
    ]);
    monitor.start_ready().await;

    // logging: composite, DEBUG, JSON in the file.
    let log = directory.path().join("logs/monitoring_demo.log");
    let lines = until(
        "lines in the log file, a verbose one among them",
        PATIENCE,
        async || {
            let text = std::fs::read_to_string(&log).map_err(|error| error.to_string())?;
            (text.lines().count() > 2 && text.contains(r#""level":"DEBUG""#))
                .then_some(text)
                .ok_or_else(|| "too short".to_owned())
        },
    )
    .await;
    for line in lines.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("a JSON object a line");
        assert!(
            line.get("level").is_some() && line.get("message").is_some(),
            "{line}"
        );
    }
    let printed = monitor.printed();
    assert!(printed.lines().count() > 1, "composite prints as well");
    assert!(
        printed.contains("custom_metrics") && printed.contains("not yet effective"),
        "what comes later is named: {printed}"
    );

    // worker_monitoring.performance_window_minutes: 30; metrics_collection every 15 s.
    let client = Monitor::lazy(&address).expect("an address");
    let rules = client.check_alerts().await.expect("alerts").rules;
    for rule in [
        "high_error_rate",
        "high_latency",
        "worker_failed",
        "worker_error_rate",
    ] {
        assert!(rules.contains(&rule.to_owned()), "{rule} in {rules:?}");
    }
    assert!(monitor.stop().await.success());
}

/// Runs a service that must refuse to start, and gives its exit code and what it printed.
async fn refuses(binary: &str, file: Option<&str>, arguments: &[&str]) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let address = format!("127.0.0.1:{}", free_port());
    let mut process = Process::new(binary, directory.path(), &address);
    if let Some(text) = file {
        std::fs::write(directory.path().join("wrong.yaml"), text).expect("a file");
        process = process.arguments(["--config", "wrong.yaml"]);
    }
    process = process.arguments(arguments.iter().copied());
    if !arguments.contains(&"--listen") {
        process = process.arguments(["--listen", &address]);
    }
    process.start();
    let status = process.ended(PATIENCE).await;
    (status.code(), process.printed())
}

#[tokio::test]
async fn a_wrong_key_or_value_is_named_with_its_place_and_the_right_one() {
    let cases = [
        (
            "multiagents-orchestrator",
            "sessions:\n  leese: 5s\n",
            "wrong.yaml:2",
            "sessions.lease",
        ),
        (
            "multiagents-orchestrator",
            "sessions:\n  lease: soon\n",
            "wrong.yaml:2",
            "sessions.lease",
        ),
        ("multiagents-orchestrator", "engine: [\n", "wrong.yaml:", ""),
        (
            "multiagents-monitor",
            "worker_monitoring:\n  error_rate_treshold: 0.2\n",
            "wrong.yaml:2",
            "error_rate_threshold",
        ),
        (
            "multiagents-monitor",
            "event_monitoring:\n  enabled: perhaps\n",
            "wrong.yaml:2",
            "enabled",
        ),
        // What only the service can judge: a range, a pair of keys, a level.
        (
            "multiagents-monitor",
            "worker_monitoring:\n  error_rate_threshold: 20\n",
            "wrong.yaml:2:25",
            "between 0 and 1",
        ),
        (
            "multiagents-orchestrator",
            "sessions:\n  lease: 1s\n  heartbeat_interval: 900ms\n",
            "wrong.yaml:3:23",
            "sessions.lease (1s)",
        ),
        (
            "multiagents-worker-host",
            "logging:\n  level: LOUD\n",
            "wrong.yaml:2:10",
            "WARNING",
        ),
        (
            "multiagents-worker-host",
            "orchestrater: x\n",
            "wrong.yaml:1",
            "orchestrator",
        ),
    ];
    for (binary, text, place, right) in cases {
        let (code, printed) = refuses(binary, Some(text), &[]).await;
        assert_eq!(code, Some(78), "{text}: {printed}");
        assert!(
            printed.contains(place) && printed.contains(right),
            "{text}: {printed}"
        );
    }
}

#[tokio::test]
async fn what_is_no_file_is_refused_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let pipe = directory.path().join("pipe").display().to_string();
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.is_ok_and(|status| status.success()), "a pipe");
    for path in ["/dev/zero", ".", "/no/such/file", &pipe] {
        let started = Instant::now();
        let (code, printed) = refuses("multiagents-orchestrator", None, &["--config", path]).await;
        assert_eq!(code, Some(78), "{path}: {printed}");
        assert!(printed.contains(path), "{path}: {printed}");
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "{path} was read to its end"
        );
    }
}

#[tokio::test]
async fn an_address_that_is_none_is_told_how_to_write_one() {
    for binary in [
        "multiagents-orchestrator",
        "multiagents-worker-host",
        "multiagents-monitor",
    ] {
        let (code, printed) = refuses(binary, None, &["--listen", "banana"]).await;
        assert_eq!(code, Some(1), "{binary}: {printed}");
        let told = printed.contains("banana") && printed.contains("such as 127.0.0.1:7001");
        assert!(told, "{printed}");
    }
}

#[tokio::test]
async fn an_address_beyond_loopback_needs_a_word() {
    let address = format!("0.0.0.0:{}", free_port());
    for binary in [
        "multiagents-orchestrator",
        "multiagents-worker-host",
        "multiagents-monitor",
    ] {
        let (code, printed) = refuses(binary, None, &["--listen", &address]).await;
        assert_eq!(code, Some(78), "{binary}: {printed}");
        assert!(
            printed.contains("insecure"),
            "it says what to do: {printed}"
        );
    }
}

#[tokio::test]
async fn flags_go_over_variables_and_variables_over_the_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let (by_file, by_variable, by_flag) = (free_port(), free_port(), free_port());
    let listen = |port: u16| format!("127.0.0.1:{port}");
    let text = format!("listen: \"{}\"\ndata_dir: \"from-file\"\n", listen(by_file));
    std::fs::write(path.join("o.yaml"), text).expect("a file");
    let mut process = Process::new("multiagents-orchestrator", path, &listen(by_flag))
        .variable("MULTIAGENTS_ORCHESTRATOR_LISTEN", &listen(by_variable))
        .variable("MULTIAGENTS_ORCHESTRATOR_DATA_DIR", "from-variable")
        .arguments(["--config", "o.yaml", "--listen", &listen(by_flag)]);
    process.start_ready().await;
    assert!(path.join("from-variable").is_dir() && !path.join("from-file").exists());
    for port in [by_file, by_variable] {
        assert!(
            http::get(&listen(port), "/healthz").await.is_err(),
            "nobody listens there"
        );
    }
    assert!(process.stop().await.success());
}

#[tokio::test]
async fn a_data_directory_has_one_owner() {
    let suite = Suite::start().await;
    for (binary, folder) in [
        ("multiagents-orchestrator", "orchestrator"),
        ("multiagents-monitor", "monitor"),
    ] {
        let data = suite.directory().join(folder).display().to_string();
        let (code, printed) = refuses(binary, None, &["--data-dir", &data]).await;
        assert_eq!(code, Some(75), "{binary}: {printed}");
        assert!(
            printed.contains(&data),
            "a sentence that names it: {printed}"
        );
    }
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_is_named_with_its_key() {
    for binary in ["multiagents-orchestrator", "multiagents-monitor"] {
        let (code, printed) = refuses(binary, None, &["--data-dir", "/dev/null/x"]).await;
        assert_eq!(code, Some(74), "{binary}: {printed}");
        assert!(printed.contains("data_dir /dev/null/x"), "{printed}");
    }
}

/// Payloads lie in them.
#[tokio::test]
async fn data_files_are_their_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let suite = Suite::start().await;
    for folder in ["orchestrator", "monitor"] {
        let mut folders = vec![suite.directory().join(folder)];
        while let Some(folder) = folders.pop() {
            let mode = std::fs::metadata(&folder)
                .expect("it is there")
                .permissions()
                .mode();
            assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", folder.display());
            for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
                let path = entry.path();
                let metadata = entry.metadata().expect("it is there");
                if metadata.is_dir() {
                    folders.push(path);
                } else {
                    let mode = metadata.permissions().mode();
                    assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
                }
            }
        }
    }
}
