//! The word for a worker's health, and the sentences that say why.
//!
//! It comes from four things: liveness (leases), capacity (slots), speed and errors over the
//! configured window that ends at the answer's position.

use super::health::{Health, Host, Quarantine, Slots};
use super::performance::{Figures, Performance};
use super::settings::{Settings, seconds_to_us};

/// From how many executions on the error ratio alone can say failed.
const FAILED_OUTCOMES_MIN: u64 = 10;
/// From which error ratio on that is said.
const FAILED_ERROR_RATIO: f64 = 0.5;

/// A worker's health in a word; the later the worse, but for the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Word {
    /// A live host has it and nothing is wrong.
    Healthy,
    /// It works, but slowly or with too many errors.
    Degraded,
    /// Work waits and nobody takes it, or half of its outcomes are errors.
    Failed,
    /// Nobody has it, and nothing waits for it.
    Inactive,
}

impl Word {
    /// As people read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
            Self::Inactive => "inactive",
        }
    }
}

/// How a worker is.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerHealth {
    /// Its name.
    pub worker: String,
    /// The word.
    pub word: Word,
    /// Why it isn't healthy.
    pub issues: Vec<String>,
    /// On each host.
    pub hosts: Vec<HostHealth>,
    /// Slots on live hosts.
    pub slots: u32,
    /// Those that have a command.
    pub busy: u32,
    /// Commands that wait for a slot.
    pub queued: u64,
    /// When it last came to an outcome, in microseconds.
    pub last_outcome_us: Option<i64>,
}

/// How a worker is on one host.
#[derive(Clone, Debug, PartialEq)]
pub struct HostHealth {
    /// The host.
    pub host: String,
    /// Its machine.
    pub machine: String,
    /// The word.
    pub word: Word,
    /// Why it isn't healthy.
    pub issues: Vec<String>,
    /// Its slots for this worker.
    pub slots: Slots,
    /// Whether its lease runs.
    pub live: bool,
    /// Whether it takes no more commands.
    pub draining: bool,
    /// How it is held back, where it is.
    pub quarantine: Option<Quarantine>,
    /// When something was last heard of it, in microseconds.
    pub last_us: i64,
}

/// How all workers are at an instant, by name.
pub fn judge_all(
    health: &Health,
    performance: &Performance,
    settings: &Settings,
    now_us: i64,
) -> Vec<WorkerHealth> {
    health
        .workers()
        .keys()
        .filter_map(|worker| judge(worker, health, performance, settings, now_us))
        .collect()
}

/// How one worker is at an instant; none where nobody ever named it.
pub fn judge(
    worker: &str,
    health: &Health,
    performance: &Performance,
    settings: &Settings,
    now_us: i64,
) -> Option<WorkerHealth> {
    let known = health.find(worker)?;
    let start_us = now_us.saturating_sub(seconds_to_us(settings.performance_window_seconds));
    let report = performance.report_of(start_us, worker);
    let (figures, by_host) = report.workers.get(worker).cloned().unwrap_or_default();
    let hosts: Vec<HostHealth> = health
        .hosts_of(worker)
        .into_iter()
        .map(|(name, (host, slots))| {
            let figures = by_host.get(name).cloned().unwrap_or_default();
            judge_host(name, host, slots, &figures, settings, now_us)
        })
        .collect();
    let live: Vec<&HostHealth> = hosts
        .iter()
        .filter(|host| host.live && host.slots.offered)
        .collect();
    let slots = live.iter().map(|host| host.slots.slots).sum();
    let busy = live.iter().map(|host| host.slots.busy).sum();
    let (word, issues) = verdict(&live, known.queued, slots, busy, &figures, settings);
    Some(WorkerHealth {
        worker: worker.to_owned(),
        word,
        issues,
        slots,
        busy,
        queued: known.queued,
        last_outcome_us: known.last_outcome_us,
        hosts,
    })
}

fn verdict(
    live: &[&HostHealth],
    queued: u64,
    slots: u32,
    busy: u32,
    figures: &Figures,
    settings: &Settings,
) -> (Word, Vec<String>) {
    let (mut word, mut issues) = by_figures(figures, settings);
    if live.is_empty() && queued == 0 {
        issues.insert(
            0,
            "no live host offers it, and nothing waits for it".to_owned(),
        );
        return (Word::Inactive, issues);
    }
    let waiting = match queued {
        1 => "1 command waits".to_owned(),
        queued => format!("{queued} commands wait"),
    };
    if live.is_empty() {
        issues.insert(0, format!("{waiting}, and no live host offers it"));
        return (Word::Failed, issues);
    }
    let takes_none = |host: &&HostHealth| host.draining || host.quarantine.is_some();
    if queued > 0 && live.iter().all(takes_none) {
        word = word.max(Word::Degraded);
        let why = match live.iter().any(|host| host.quarantine.is_some()) {
            true => "draining or quarantined",
            false => "draining",
        };
        issues.push(format!(
            "{waiting}, and every live host that offers it is {why}"
        ));
    }
    let mut worse = 0;
    for host in live.iter().filter(|host| host.word > Word::Healthy) {
        worse += 1;
        // With one host its sentences are the worker's own.
        if live.len() > 1 {
            let why = host.issues.join("; ");
            issues.push(format!(
                "on {} it is {}: {why}",
                host.host,
                host.word.as_str()
            ));
        } else {
            let own = host.issues.iter().filter(|issue| !issues.contains(issue));
            let own: Vec<_> = own.cloned().collect();
            issues.extend(own);
        }
    }
    if worse > 0 {
        let all_failed = live.iter().all(|host| host.word == Word::Failed);
        word = word.max(if all_failed {
            Word::Failed
        } else {
            Word::Degraded
        });
    }
    if word > Word::Healthy && queued > 0 && busy >= slots {
        issues.push(format!("all {slots} slots are busy, and {waiting}"));
    }
    (word, issues)
}

fn judge_host(
    name: &str,
    host: &Host,
    slots: Slots,
    figures: &Figures,
    settings: &Settings,
    now_us: i64,
) -> HostHealth {
    let (mut word, mut issues) = by_figures(figures, settings);
    let quarantine = host.quarantine(now_us);
    if let Some(held) = quarantine {
        word = word.max(Word::Degraded);
        let seconds = (held.until_us - now_us).cast_unsigned().div_ceil(1_000_000);
        issues.insert(
            0,
            format!(
                "quarantined for another {}, since hosts like it were lost {} times",
                span(seconds),
                held.losses
            ),
        );
    }
    if !host.live {
        word = Word::Inactive;
        let why = if host.drained {
            "the host was drained and left"
        } else {
            "the host's lease lapsed"
        };
        issues.insert(0, why.to_owned());
    }
    HostHealth {
        host: name.to_owned(),
        machine: host.machine.clone(),
        word,
        issues,
        slots,
        live: host.live,
        draining: host.draining,
        quarantine,
        last_us: host.last_us,
    }
}

/// What errors and speed say.
fn by_figures(figures: &Figures, settings: &Settings) -> (Word, Vec<String>) {
    let mut word = Word::Healthy;
    let mut issues = Vec::new();
    let executions = figures.executions();
    if let Some(ratio) = figures.error_ratio() {
        let failed = ratio >= FAILED_ERROR_RATIO && executions >= FAILED_OUTCOMES_MIN;
        let threshold = settings.error_rate_threshold;
        if failed || (ratio >= threshold && figures.errors() > 0) {
            word = if failed { Word::Failed } else { Word::Degraded };
            let limit = if failed {
                FAILED_ERROR_RATIO
            } else {
                threshold
            };
            issues.push(format!(
                "{} of {executions} executions in the last {} failed: {:.1} %, and {:.0} % is too many",
                figures.errors(),
                span(settings.performance_window_seconds),
                ratio * 100.0,
                limit * 100.0
            ));
        }
    }
    if let Some(run) = figures.run
        && run.average_us >= settings.slow_execution_us
    {
        word = word.max(Word::Degraded);
        issues.push(format!(
            "its executions in the last {} took {:.2} s on average, and {:.2} s is slow",
            span(settings.performance_window_seconds),
            run.average_us as f64 / 1e6,
            settings.slow_execution_us as f64 / 1e6
        ));
    }
    (word, issues)
}

/// A stretch of time as a person writes it.
pub fn span(seconds: u64) -> String {
    if seconds.is_multiple_of(3_600) && seconds > 0 {
        format!("{} h", seconds / 3_600)
    } else if seconds.is_multiple_of(60) && seconds > 0 {
        format!("{} min", seconds / 60)
    } else {
        format!("{seconds} s")
    }
}
