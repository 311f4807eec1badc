//! Health and alerts, evaluated at an interval for the service's own log lines: a line for each
//! change, none for what stays as it is. Answers to clients never wait for this.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::alerts::rule;
use crate::fold::Folds;
use crate::folds::judgement::{Word, judge_all};
use crate::views::Views;

/// Evaluates at each interval until the shutdown.
pub async fn run(
    views: Arc<Views>,
    interval: Duration,
    per_worker: bool,
    shutdown: CancellationToken,
) {
    let mut said = Said::default();
    let mut due = tokio::time::interval(interval);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = due.tick() => said.look(&views.current(), per_worker),
        }
    }
}

/// What was said last.
#[derive(Default)]
struct Said {
    health: BTreeMap<String, Word>,
    firing: BTreeMap<(&'static str, String), String>,
}

impl Said {
    fn look(&mut self, view: &Folds, per_worker: bool) {
        if view.settings.workers {
            self.health(view);
        }
        let alerts = rule::check(view, per_worker);
        let mut firing = BTreeMap::new();
        for alert in alerts {
            let key = (alert.rule, alert.worker);
            if !self.firing.contains_key(&key) {
                let issues = alert.issues.join("; ");
                tracing::warn!(
                    alert_type = alert.rule,
                    severity = alert.severity.as_str(),
                    issues,
                    "Alert triggered: {}",
                    alert.message
                );
            }
            firing.insert(key, alert.message);
        }
        for ((rule, worker), message) in &self.firing {
            if !firing.contains_key(&(*rule, worker.clone())) {
                tracing::info!(alert_type = rule, "Alert resolved: {message}");
            }
        }
        self.firing = firing;
    }

    fn health(&mut self, view: &Folds) {
        for health in judge_all(
            &view.health,
            &view.performance,
            &view.settings,
            view.time_us,
        ) {
            let before = self.health.insert(health.worker.clone(), health.word);
            if before == Some(health.word) {
                continue;
            }
            let (worker, word, issues) = (
                &health.worker,
                health.word.as_str(),
                health.issues.join("; "),
            );
            match health.word {
                Word::Healthy | Word::Inactive => {
                    tracing::info!(worker, issues, "worker is {word}");
                }
                Word::Degraded | Word::Failed => tracing::warn!(worker, issues, "worker is {word}"),
            }
        }
    }
}
