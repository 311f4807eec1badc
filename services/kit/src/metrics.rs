//! `/metrics`: what the process and its server do, next to what the service itself registers.
//!
//! Written as OpenMetrics for who asks for it and in Prometheus' older text format for
//! everybody else. Nothing here may cost a call more than an atomic addition.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use tonic::Code;

use crate::connections::OpenConnections;

/// Content type of the OpenMetrics form.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Content type of Prometheus' older text form.
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Adds the process' and the server's own metrics to a service's registry.
pub(crate) fn register(
    registry: &mut Registry,
    service: &'static str,
    connections: OpenConnections,
    methods: &[String],
) -> CallCounters {
    #[expect(
        clippy::disallowed_methods,
        reason = "when the process started is told by the wall clock, whatever the engine's time is"
    )]
    let started_at = SystemTime::now();
    registry.register_collector(Box::new(Process {
        service,
        connections,
        started_at,
    }));
    let family = Family::<CallLabels, Counter>::default();
    registry.register(
        "grpc_server_handled",
        "Calls ended, by method and code",
        family.clone(),
    );
    CallCounters::new(&family, methods)
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    grpc_method: String,
    grpc_code: &'static str,
}

/// Counts calls by method and code. Methods nobody serves count as `unknown`, so that no
/// client can make new series.
pub(crate) struct CallCounters {
    methods: HashMap<String, Arc<MethodCounters>>,
    unknown: Arc<MethodCounters>,
}

/// The counters of one method, one for each code, made when first needed.
pub(crate) struct MethodCounters {
    family: Family<CallLabels, Counter>,
    method: String,
    counters: [std::sync::OnceLock<Counter>; 17],
}

impl CallCounters {
    fn new(family: &Family<CallLabels, Counter>, methods: &[String]) -> Self {
        let counters = |method: &str| {
            Arc::new(MethodCounters {
                family: family.clone(),
                method: method.trim_start_matches('/').to_owned(),
                counters: Default::default(),
            })
        };
        Self {
            methods: methods
                .iter()
                .map(|path| (path.clone(), counters(path)))
                .collect(),
            unknown: counters("unknown"),
        }
    }

    pub(crate) fn unknown(&self) -> Arc<MethodCounters> {
        self.unknown.clone()
    }

    pub(crate) fn of(&self, path: &str) -> &Arc<MethodCounters> {
        self.methods.get(path).unwrap_or(&self.unknown)
    }
}

impl MethodCounters {
    pub(crate) fn count(&self, code: Code) {
        let Some(slot) = self.counters.get(code as usize) else {
            return;
        };
        slot.get_or_init(|| {
            let labels = CallLabels {
                grpc_method: self.method.clone(),
                grpc_code: name(code),
            };
            self.family.get_or_create_owned(&labels)
        })
        .inc();
    }
}

/// The code as gRPC writes it.
pub(crate) fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Read from the operating system each time somebody asks.
#[derive(Debug)]
struct Process {
    service: &'static str,
    connections: OpenConnections,
    started_at: SystemTime,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let labels = [("service", self.service)];
        let open = ConstGauge::new(i64::try_from(self.connections.count()).unwrap_or(i64::MAX));
        open.encode(
            encoder
                .encode_descriptor(
                    "grpc_server_open_connections",
                    "Open connections to this server",
                    None,
                    open.metric_type(),
                )?
                .encode_family(&labels)?,
        )?;
        let started = since_epoch(self.started_at).as_secs_f64();
        gauge(
            &mut encoder,
            "process_start_time",
            "Start of the process",
            &Unit::Seconds,
            started,
        )?;
        // Absent rather than wrong where the system does not say.
        let Some(usage) = ProcessUsage::read() else {
            return Ok(());
        };
        let resident = usage.resident_bytes as f64;
        gauge(
            &mut encoder,
            "process_resident_memory",
            "Memory in use",
            &Unit::Bytes,
            resident,
        )?;
        let threads = i64::try_from(usage.threads).unwrap_or(i64::MAX);
        plain_gauge(&mut encoder, "process_threads", "Threads", threads)?;
        let open = i64::try_from(usage.open_files).unwrap_or(i64::MAX);
        plain_gauge(
            &mut encoder,
            "process_open_fds",
            "Open file descriptors",
            open,
        )?;
        let cpu = ConstCounter::new(usage.cpu.as_secs_f64());
        let (name, help) = ("process_cpu", "Processor time used");
        cpu.encode(encoder.encode_descriptor(
            name,
            help,
            Some(&Unit::Seconds),
            cpu.metric_type(),
        )?)
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: &Unit,
    value: f64,
) -> Result<(), fmt::Error> {
    let metric = ConstGauge::new(value);
    metric.encode(encoder.encode_descriptor(name, help, Some(unit), metric.metric_type())?)
}

fn plain_gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: i64,
) -> Result<(), fmt::Error> {
    let metric = ConstGauge::new(value);
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// What this process uses of the machine.
#[derive(Clone, Copy, Debug)]
pub struct ProcessUsage {
    /// Memory that is in RAM.
    pub resident_bytes: u64,
    /// Processor time since the start, in user and kernel.
    pub cpu: Duration,
    /// Open file descriptors.
    pub open_files: u64,
    /// Threads.
    pub threads: u64,
}

impl ProcessUsage {
    /// Reads it from the operating system; None where that does not tell.
    pub fn read() -> Option<Self> {
        let process = procfs::process::Process::myself().ok()?;
        let stat = process.stat().ok()?;
        let ticks = stat.utime + stat.stime;
        Some(Self {
            resident_bytes: stat.rss * procfs::page_size(),
            cpu: Duration::from_secs_f64(ticks as f64 / procfs::ticks_per_second() as f64),
            open_files: process.fd_count().ok()? as u64,
            threads: u64::try_from(stat.num_threads).unwrap_or(0),
        })
    }
}

/// The whole registry in the form that the `Accept` header asks for, and its content type.
pub(crate) fn expose(
    registry: &Registry,
    accept: &str,
) -> Result<(&'static str, String), fmt::Error> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry)?;
    if accept.contains("application/openmetrics-text") {
        return Ok((OPEN_METRICS, text));
    }
    Ok((PROMETHEUS_TEXT, prometheus_text(&text)))
}

/// OpenMetrics as Prometheus' older text form: a counter's family carries the name of its
/// sample there, an info is a gauge, and there are neither units nor an end mark.
fn prometheus_text(open_metrics: &str) -> String {
    let mut suffixes: HashMap<&str, (&str, &str)> = HashMap::new();
    for line in open_metrics.lines() {
        let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.split_once(' '))
        else {
            continue;
        };
        let (suffix, kind) = match kind {
            "counter" => ("_total", "counter"),
            "info" => ("_info", "gauge"),
            "stateset" => ("", "gauge"),
            "unknown" => ("", "untyped"),
            kind => ("", kind),
        };
        suffixes.insert(name, (suffix, kind));
    }
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        let declared = |rest: &'_ str| -> Option<(String, String)> {
            let (name, rest) = rest.split_once(' ')?;
            let (suffix, _) = suffixes.get(name)?;
            Some((format!("{name}{suffix}"), rest.to_owned()))
        };
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(declared) {
            text.push_str(&format!("# HELP {name} {help}\n"));
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let name = rest.split(' ').next().unwrap_or(rest);
            let (suffix, kind) = suffixes.get(name).copied().unwrap_or(("", "untyped"));
            text.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else {
            // Exemplars stand behind " # " and are unknown to the older form.
            text.push_str(line.split(" # {").next().unwrap_or(line));
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry() -> Registry {
        let mut registry = Registry::default();
        let methods = ["/a.B/C".to_owned()];
        let counters = register(
            &mut registry,
            "example",
            OpenConnections::default(),
            &methods,
        );
        counters.of("/a.B/C").count(Code::Ok);
        counters.of("/a.B/C").count(Code::Ok);
        counters.of("/evil/1").count(Code::Unimplemented);
        counters.of("/evil/2").count(Code::Unimplemented);
        registry
    }

    #[test]
    fn open_metrics_is_given_to_who_asks_for_it() {
        let (kind, text) = expose(
            &registry(),
            "application/openmetrics-text;version=1.0.0,*/*",
        )
        .expect("text");
        assert_eq!(kind, OPEN_METRICS);
        assert!(text.ends_with("# EOF\n"));
        assert!(
            text.contains("# TYPE grpc_server_handled counter"),
            "{text}"
        );
    }

    #[test]
    fn the_older_form_is_the_default_and_names_families_like_their_samples() {
        let (kind, text) = expose(&registry(), "*/*").expect("text");
        assert_eq!(kind, PROMETHEUS_TEXT);
        assert!(
            text.contains("# TYPE grpc_server_handled_total counter"),
            "{text}"
        );
        let sample = "grpc_server_handled_total{grpc_method=\"a.B/C\",grpc_code=\"OK\"} 2";
        assert!(text.contains(sample), "{text}");
        assert!(
            text.contains("# TYPE process_cpu_seconds_total counter"),
            "{text}"
        );
        assert!(
            text.contains("grpc_server_open_connections{service=\"example\"} 0"),
            "{text}"
        );
        assert!(!text.contains("EOF") && !text.contains("# UNIT"), "{text}");
    }

    #[test]
    fn unknown_methods_share_one_series() {
        let (_, text) = expose(&registry(), "").expect("text");
        let code = "grpc_code=\"UNIMPLEMENTED\"";
        let sample = format!("grpc_server_handled_total{{grpc_method=\"unknown\",{code}}} 2");
        assert!(text.contains(&sample), "{text}");
        assert!(!text.contains("evil"), "{text}");
    }

    #[test]
    fn the_process_says_what_it_uses() {
        let usage = ProcessUsage::read().expect("this system tells");
        assert!(usage.resident_bytes > 100_000 && usage.open_files > 2 && usage.threads > 0);
    }
}
