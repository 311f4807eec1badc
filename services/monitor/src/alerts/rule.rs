//! The rules: what is measured, against what, and the sentence that says so.

use crate::fold::Folds;
use crate::folds::judgement::{Word, judge_all};
use crate::folds::performance::Performance;
use crate::folds::settings::{Settings, seconds_to_us};

/// The window of the rules over all commands, in seconds.
const WINDOW_SECONDS: u64 = 300;
/// Above this error ratio of all commands `high_error_rate` fires.
const ERROR_RATIO_MAX: f64 = 0.1;
/// Above this average latency of all commands `high_latency` fires.
const LATENCY_SECONDS_MAX: f64 = 5.0;

/// Every rule, as it is named.
pub const HIGH_ERROR_RATE: &str = "high_error_rate";
/// Commands take too long on average.
pub const HIGH_LATENCY: &str = "high_latency";
/// A worker has failed.
pub const WORKER_FAILED: &str = "worker_failed";
/// A worker's own error ratio is at its configured threshold.
pub const WORKER_ERROR_RATE: &str = "worker_error_rate";

/// How bad an alert is; the later the worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Somebody should look.
    Warning,
    /// Somebody must act.
    Critical,
}

impl Severity {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// What was measured, and what it should not exceed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// The value.
    pub value: f64,
    /// Its limit.
    pub threshold: f64,
    /// "ratio" or "seconds".
    pub unit: &'static str,
}

/// An alert that fires.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    /// Its rule.
    pub rule: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// A sentence for people.
    pub message: String,
    /// What was measured, where it is a figure.
    pub measured: Option<Measured>,
    /// The worker, where the rule is about one.
    pub worker: String,
    /// Why, where the rule is about a worker's health.
    pub issues: Vec<String>,
}

/// The rules that these settings ask for.
pub fn rules(settings: &Settings, per_worker: bool) -> Vec<&'static str> {
    let mut rules = Vec::new();
    if settings.events {
        rules.extend([HIGH_ERROR_RATE, HIGH_LATENCY]);
    }
    if settings.workers {
        rules.push(WORKER_FAILED);
        if per_worker {
            rules.push(WORKER_ERROR_RATE);
        }
    }
    rules
}

/// Every alert that fires at the view's position, the worst first. `per_worker` switches the rule
/// on that has a threshold of its own.
pub fn check(view: &Folds, per_worker: bool) -> Vec<Alert> {
    let mut alerts = Vec::new();
    let settings = &view.settings;
    if settings.events {
        all_commands(view, &mut alerts);
    }
    if settings.workers {
        for health in judge_all(&view.health, &view.performance, settings, view.time_us) {
            if health.word == Word::Failed {
                alerts.push(Alert {
                    rule: WORKER_FAILED,
                    severity: Severity::Critical,
                    message: format!("Worker {} has failed", health.worker),
                    measured: None,
                    worker: health.worker,
                    issues: health.issues,
                });
            }
        }
        if per_worker {
            each_worker(&view.performance, settings, view.time_us, &mut alerts);
        }
    }
    alerts.sort_by(|a, b| {
        let key = |alert: &Alert| (std::cmp::Reverse(alert.severity), alert.rule);
        key(a).cmp(&key(b)).then_with(|| a.worker.cmp(&b.worker))
    });
    alerts
}

fn all_commands(view: &Folds, alerts: &mut Vec<Alert>) {
    let start_us = view.time_us.saturating_sub(seconds_to_us(WINDOW_SECONDS));
    let figures = view.rates.figures(start_us, Default::default());
    let outcomes = crate::folds::rates::outcomes(&figures);
    if let Some(ratio) = outcomes.error_ratio()
        && ratio > ERROR_RATIO_MAX
    {
        alerts.push(Alert {
            rule: HIGH_ERROR_RATE,
            severity: Severity::Warning,
            message: format!("Error rate {:.1}% exceeds threshold", ratio * 100.0),
            measured: Some(Measured {
                value: ratio,
                threshold: ERROR_RATIO_MAX,
                unit: "ratio",
            }),
            worker: String::new(),
            issues: Vec::new(),
        });
    }
    let average = figures
        .latency
        .map(|latency| latency.average_us as f64 / 1e6);
    if let Some(seconds) = average
        && seconds > LATENCY_SECONDS_MAX
    {
        alerts.push(Alert {
            rule: HIGH_LATENCY,
            severity: Severity::Warning,
            message: format!("Average latency {:.0}ms exceeds threshold", seconds * 1e3),
            measured: Some(Measured {
                value: seconds,
                threshold: LATENCY_SECONDS_MAX,
                unit: "seconds",
            }),
            worker: String::new(),
            issues: Vec::new(),
        });
    }
}

fn each_worker(
    performance: &Performance,
    settings: &Settings,
    now_us: i64,
    alerts: &mut Vec<Alert>,
) {
    let window = settings.performance_window_seconds;
    let report = performance.report(now_us.saturating_sub(seconds_to_us(window)));
    for (worker, (figures, _)) in report.workers {
        let Some(ratio) = figures.error_ratio() else {
            continue;
        };
        if figures.errors() == 0 || ratio < settings.error_rate_threshold {
            continue;
        }
        alerts.push(Alert {
            rule: WORKER_ERROR_RATE,
            severity: Severity::Warning,
            message: format!(
                "Worker {worker} has an error rate of {:.1}%, at or over its threshold of {:.1}%",
                ratio * 100.0,
                settings.error_rate_threshold * 100.0
            ),
            measured: Some(Measured {
                value: ratio,
                threshold: settings.error_rate_threshold,
                unit: "ratio",
            }),
            worker,
            issues: Vec::new(),
        });
    }
}
