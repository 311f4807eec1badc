//! What the contracts promise of every method: it works, or it is listed as not there yet.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Bytes;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tests::raw;
use tests::{Suite, http};
use tonic::{Code, Request};

/// Every method of the contracts, by its service's full name.
fn methods() -> BTreeMap<String, Vec<String>> {
    let set = FileDescriptorSet::decode(proto::DESCRIPTORS).expect("descriptors");
    let mut methods = BTreeMap::new();
    for file in set
        .file
        .iter()
        .filter(|file| file.package() == "multiagents.v1")
    {
        for service in &file.service {
            let name = format!("{}.{}", file.package(), service.name());
            let names = service.method.iter().map(|method| method.name().to_owned());
            methods.insert(name, names.collect());
        }
    }
    methods
}

/// The methods that ARCHITECTURE.md lists as not there yet: `Service.Method` or `Method` between
/// backticks, in the section whose heading says "not yet" or "UNIMPLEMENTED".
fn listed(methods: &BTreeMap<String, Vec<String>>) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ARCHITECTURE.md");
    let text = std::fs::read_to_string(path).expect("ARCHITECTURE.md");
    let known: BTreeSet<&str> = methods.values().flatten().map(String::as_str).collect();
    let mut inside = false;
    let mut listed = BTreeSet::new();
    for line in text.lines() {
        if line.starts_with('#') {
            let heading = line.to_lowercase();
            inside = heading.contains("not yet") || heading.contains("unimplemented");
        }
        if inside {
            let quoted = line.split('`').skip(1).step_by(2);
            let names = quoted.map(|word| word.rsplit(['.', '/']).next().unwrap_or(word));
            listed.extend(names.filter(|name| known.contains(name)).map(str::to_owned));
        }
    }
    listed
}

#[tokio::test]
async fn exactly_the_listed_methods_are_not_there_yet() {
    let suite = Suite::start().await;
    let methods = methods();
    let mut missing = BTreeSet::new();
    for (service, names) in &methods {
        let of_orchestrator = ["OrchestratorService", "WorkerService", "EventLogService"]
            .iter()
            .any(|name| service.ends_with(name));
        let address = if of_orchestrator {
            suite.orchestrator.address()
        } else {
            suite.monitor.address()
        };
        for name in names {
            let path = format!("/{service}/{name}");
            let channel = raw::channel(address);
            let call = raw::call(&channel, &path, Request::new(Bytes::new()));
            // A feed may have nothing to say at once; that it is open is answer enough.
            let Ok(Err(status)) = tokio::time::timeout(tests::wait::SHORT, call).await else {
                continue;
            };
            assert_ne!(status.code(), Code::Unknown, "{path}: {status:?}");
            if status.code() == Code::Unimplemented {
                assert_eq!(raw::reason(&status), "NOT_YET_IMPLEMENTED", "{path}");
                assert!(status.message().len() > 10, "{path} says why: {status:?}");
                missing.insert(name.clone());
            }
        }
    }
    assert_eq!(
        missing,
        listed(&methods),
        "answered UNIMPLEMENTED; listed in ARCHITECTURE.md"
    );
}

#[tokio::test]
async fn every_service_says_how_it_is() {
    let suite = Suite::start().await;
    let services = [&suite.orchestrator, &suite.host, &suite.monitor];
    for service in services {
        for path in ["/healthz", "/readyz"] {
            let answer = http::get(service.address(), path).await.expect("an answer");
            assert_eq!(answer.status, 200, "{} {path}", service.address());
        }
        let metrics = http::get(service.address(), "/metrics")
            .await
            .expect("metrics");
        assert_eq!(metrics.status, 200);
        assert_metrics_are_well_formed(&metrics.body);
    }
}

/// As Prometheus reads them: each family has one HELP and one TYPE before its samples, and the text
/// ends with a newline.
fn assert_metrics_are_well_formed(text: &str) {
    assert!(text.ends_with('\n'), "the text's last line has no end");
    let mut typed: BTreeMap<&str, &str> = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert_eq!(typed.insert(name, kind), None, "two types: {line}");
        } else if !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let family = name.split('{').next().unwrap_or(name);
            let bases = ["", "_total", "_bucket", "_sum", "_count"];
            let known = bases.iter().any(|suffix| {
                family
                    .strip_suffix(suffix)
                    .is_some_and(|base| typed.contains_key(base))
            });
            assert!(known, "{line} has no type");
        }
    }
}

/// One call of grpc.health.v1, by bytes: `service` is field 1, the status is field 1.
#[tokio::test]
async fn health_is_told_by_service_name() {
    let suite = Suite::start().await;
    let ask = async |address: &str, service: &str| {
        let mut request = vec![0x0a, u8::try_from(service.len()).expect("short")];
        request.extend_from_slice(service.as_bytes());
        let channel = raw::channel(address);
        let path = "/grpc.health.v1.Health/Check";
        raw::call(&channel, path, Request::new(request.into())).await
    };
    for (service, _) in methods() {
        let of_orchestrator = ["OrchestratorService", "WorkerService", "EventLogService"]
            .iter()
            .any(|name| service.ends_with(name));
        let address = if of_orchestrator {
            suite.orchestrator.address()
        } else {
            suite.monitor.address()
        };
        let answer = ask(address, &service).await.expect("a known service");
        assert_eq!(
            answer.as_deref(),
            Some(&[0x08, 0x01][..]),
            "{service} is SERVING"
        );
    }
    let unknown = ask(suite.monitor.address(), "no.such.Service").await;
    assert_eq!(unknown.expect_err("unknown").code(), Code::NotFound);
}
