//! `/metrics`: the suite's own figures, made from a view each time somebody asks.
//!
//! The page's seven names stand beside histograms and counters. What ends in `_total` is a fold of
//! the log: it never falls, and survives restarts. Gauges over five minutes are absent without
//! outcomes.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::feed::Feed;
use crate::fold::Folds;
use crate::folds::judgement::judge_all;
use crate::folds::performance::{BOUNDS_US, Cumulative, OUTCOMES, Total};
use crate::folds::rates;
use crate::folds::settings::seconds_to_us;
use crate::views::Views;

/// The window of the gauges.
const WINDOW_SECONDS: u64 = 300;

/// Adds the suite's figures to what `/metrics` shows.
pub fn register(registry: &mut Registry, views: Arc<Views>, feed: Arc<Feed>) {
    registry.register_collector(Box::new(Suite { views, feed }));
}

#[derive(Debug)]
struct Suite {
    views: Arc<Views>,
    feed: Arc<Feed>,
}

impl Collector for Suite {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let view = self.views.current();
        let mut page = Page {
            encoder: &mut encoder,
        };
        if view.settings.events {
            events(&view, &mut page)?;
        }
        if view.settings.workers {
            workers(&view, &mut page)?;
        }
        sources(&view, &mut page)?;
        let subscribers = self.feed.subscribers() as f64;
        page.gauge(
            "multiagents_feed_subscribers",
            "Subscribers of feeds",
            subscribers,
        )
    }
}

/// Writes families of metrics.
struct Page<'a, 'b> {
    encoder: &'a mut DescriptorEncoder<'b>,
}

/// One sample's labels.
type Labels<'a> = Vec<(&'a str, &'a str)>;

impl Page<'_, '_> {
    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.gauges(name, help, None, vec![(vec![], value)])
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        samples: Vec<(Labels<'_>, f64)>,
    ) -> fmt::Result {
        self.family(
            name,
            help,
            unit,
            MetricType::Gauge,
            samples,
            |sample, value| sample.encode_gauge(&value),
        )
    }

    fn counters(&mut self, name: &str, help: &str, samples: Vec<(Labels<'_>, u64)>) -> fmt::Result {
        self.family(
            name,
            help,
            None,
            MetricType::Counter,
            samples,
            |sample, value| sample.encode_counter::<NoLabelSet, _, u64>(&value, None),
        )
    }

    fn histograms(
        &mut self,
        name: &str,
        help: &str,
        samples: Vec<(Labels<'_>, &Cumulative)>,
    ) -> fmt::Result {
        let unit = Some(&Unit::Seconds);
        self.family(
            name,
            help,
            unit,
            MetricType::Histogram,
            samples,
            |sample, value| {
                let bounds = BOUNDS_US.map(|us| us as f64 / 1e6);
                let buckets: Vec<(f64, u64)> = bounds
                    .into_iter()
                    .chain([f64::INFINITY])
                    .zip(value.counts)
                    .collect();
                let count = value.counts.iter().sum();
                sample.encode_histogram::<NoLabelSet>(
                    value.sum_us as f64 / 1e6,
                    count,
                    &buckets,
                    None,
                )
            },
        )
    }

    /// A family is absent where it has no sample.
    fn family<T>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        kind: MetricType,
        samples: Vec<(Labels<'_>, T)>,
        encode: impl Fn(&mut MetricEncoder<'_>, T) -> fmt::Result,
    ) -> fmt::Result {
        if samples.is_empty() {
            return Ok(());
        }
        let mut family = self.encoder.encode_descriptor(name, help, unit, kind)?;
        for (labels, value) in samples {
            if labels.is_empty() {
                encode(&mut family, value)?;
            } else {
                let labels = labels.as_slice();
                encode(&mut family.encode_family(&labels)?, value)?;
            }
        }
        Ok(())
    }
}

fn events(view: &Folds, page: &mut Page<'_, '_>) -> fmt::Result {
    let all = view.rates.totals.values().sum();
    let help = "Events of the log, ever";
    page.counters("multiagents_events", help, vec![(vec![], all)])?;
    let kinds: Vec<(String, u64)> = view
        .rates
        .totals
        .iter()
        .map(|(number, count)| (type_word(*number), *count))
        .collect();
    page.counters(
        "multiagents_events_by_type",
        "Events of the log by type, ever",
        kinds
            .iter()
            .map(|(word, count)| (vec![("type", word.as_str())], *count))
            .collect(),
    )?;
    let start_us = view.time_us.saturating_sub(seconds_to_us(WINDOW_SECONDS));
    let figures = view.rates.figures(start_us, Default::default());
    let outcomes = rates::outcomes(&figures);
    for (name, help, value) in [
        (
            "multiagents_success_rate",
            "Part of commands that completed, over 5 minutes, 0 to 1",
            outcomes.success_ratio(),
        ),
        (
            "multiagents_error_rate",
            "Part of commands that failed, timed out or were lost, over 5 minutes, 0 to 1",
            outcomes.error_ratio(),
        ),
    ] {
        let samples = value.into_iter().map(|value| (vec![], value)).collect();
        page.gauges(name, help, None, samples)?;
    }
    let average = figures
        .latency
        .map(|latency| latency.average_us as f64 / 1e6);
    page.gauges(
        "multiagents_avg_latency",
        "Average time of commands from queued to the outcome, over 5 minutes",
        Some(&Unit::Seconds),
        average.into_iter().map(|value| (vec![], value)).collect(),
    )?;
    if view.settings.payload_sizes {
        page.counters(
            "multiagents_payload_bytes",
            "Bytes of inputs and results, ever",
            vec![
                (vec![("payload", "input")], view.rates.input_bytes_total),
                (vec![("payload", "result")], view.rates.result_bytes_total),
            ],
        )?;
    }
    let live = view.traces.live() as f64;
    page.gauge(
        "multiagents_live_transactions",
        "Transactions that have not ended",
        live,
    )?;
    let patterns = view.patterns.len() as f64;
    page.gauge(
        "multiagents_error_patterns",
        "Different error patterns",
        patterns,
    )
}

fn workers(view: &Folds, page: &mut Page<'_, '_>) -> fmt::Result {
    let totals: Vec<(&str, &Total)> = view.performance.totals().collect();
    let worker = |name| vec![("worker", name)];
    page.counters(
        "multiagents_worker_executions",
        "Commands of the worker that came to an outcome other than cancelled, ever",
        totals
            .iter()
            .map(|(name, total)| (worker(*name), total.executions()))
            .collect(),
    )?;
    let mut by_outcome = Vec::new();
    for (name, total) in &totals {
        for (outcome, word) in OUTCOMES {
            let labels = vec![("worker", *name), ("outcome", word)];
            by_outcome.push((labels, total.of(outcome)));
        }
    }
    let help = "Commands by worker and outcome, ever";
    page.counters("multiagents_commands", help, by_outcome)?;
    let start_us = view.time_us.saturating_sub(seconds_to_us(WINDOW_SECONDS));
    let report = view.performance.report(start_us);
    let rates = report
        .workers
        .iter()
        .filter_map(|(name, (figures, _))| Some((worker(name), figures.success_ratio()?)))
        .collect();
    page.gauges(
        "multiagents_worker_success_rate",
        "Part of the worker's commands that completed, over 5 minutes, 0 to 1",
        None,
        rates,
    )?;
    let durations = report
        .workers
        .iter()
        .filter_map(|(name, (figures, _))| {
            Some((worker(name), figures.run?.average_us as f64 / 1e6))
        })
        .collect();
    page.gauges(
        "multiagents_worker_avg_duration",
        "Average time that the worker's handler took, over 5 minutes",
        Some(&Unit::Seconds),
        durations,
    )?;
    let each = |pick: fn(&Total) -> &Cumulative| -> Vec<(Labels<'_>, &Cumulative)> {
        totals
            .iter()
            .map(|(name, total)| (worker(*name), pick(total)))
            .collect()
    };
    page.histograms(
        "multiagents_command_latency",
        "From queued to the outcome, ever",
        each(|total| &total.latency),
    )?;
    page.histograms(
        "multiagents_command_run",
        "From processing to the outcome, ever",
        each(|total| &total.run),
    )?;
    if view.settings.detailed_timing {
        page.histograms(
            "multiagents_command_wait",
            "From queued to processing, ever",
            each(|total| &total.wait),
        )?;
    }
    health(view, page)
}

fn health(view: &Folds, page: &mut Page<'_, '_>) -> fmt::Result {
    let judged = judge_all(
        &view.health,
        &view.performance,
        &view.settings,
        view.time_us,
    );
    let mut words = Vec::new();
    let (mut queued, mut slots, mut busy) = (Vec::new(), Vec::new(), Vec::new());
    for health in &judged {
        let worker = ("worker", health.worker.as_str());
        words.push((vec![worker, ("status", health.word.as_str())], 1.0));
        queued.push((vec![worker], health.queued as f64));
        slots.push((vec![worker], f64::from(health.slots)));
        busy.push((vec![worker], f64::from(health.busy)));
    }
    let help = "1 for the word that the worker's health has now";
    page.gauges("multiagents_worker_health", help, None, words)?;
    let help = "Commands that wait for a slot";
    page.gauges("multiagents_worker_queued_commands", help, None, queued)?;
    let help = "Slots on live hosts";
    page.gauges("multiagents_worker_slots", help, None, slots)?;
    let help = "Slots that have a command";
    page.gauges("multiagents_worker_busy_slots", help, None, busy)?;
    let hosts = view.health.live_hosts().len() as f64;
    page.gauge(
        "multiagents_live_hosts",
        "Worker hosts whose lease runs",
        hosts,
    )
}

fn sources(view: &Folds, page: &mut Page<'_, '_>) -> fmt::Result {
    let sources = &view.sources.sources;
    let labels = |name| vec![("source", name)];
    let gauge = |pick: fn(&crate::folds::sources::Source) -> f64| {
        sources
            .iter()
            .map(|(name, source)| (labels(&**name), pick(source)))
            .collect::<Vec<_>>()
    };
    let counter = |pick: fn(&crate::folds::sources::Source) -> u64| {
        sources
            .iter()
            .map(|(name, source)| (labels(&**name), pick(source)))
            .collect::<Vec<_>>()
    };
    let help = "Whether the stream from the source is open";
    let connected = gauge(|source| f64::from(u8::from(source.connected)));
    page.gauges("multiagents_source_connected", help, None, connected)?;
    let help = "Events between what was taken in and the source's head";
    let lag = gauge(|source| source.lag_events() as f64);
    page.gauges("multiagents_source_lag_events", help, None, lag)?;
    let help = "How much older the last event taken in is than the source's newest";
    let lag = gauge(|source| source.lag_us() as f64 / 1e6);
    page.gauges("multiagents_source_lag", help, Some(&Unit::Seconds), lag)?;
    for (name, help, samples) in [
        (
            "multiagents_source_missing_events",
            "Events of the source that can't be had any more",
            counter(|source| source.missing),
        ),
        (
            "multiagents_source_unknown_events",
            "Events of types that this monitor doesn't know",
            counter(|source| source.unknown),
        ),
        (
            "multiagents_source_malformed_batches",
            "Batches that can't be read as events",
            counter(|source| source.malformed),
        ),
        (
            "multiagents_source_replacements",
            "How often the source had another log than before",
            counter(|source| source.replaced),
        ),
    ] {
        page.counters(name, help, samples)?;
    }
    Ok(())
}

/// An event's type as a label: `command_completed`.
fn type_word(number: u8) -> String {
    use proto::event::EventType;
    match EventType::try_from(i32::from(number)) {
        Ok(EventType::Unspecified) | Err(_) => "unknown".to_owned(),
        Ok(known) => known
            .as_str_name()
            .trim_start_matches("EVENT_TYPE_")
            .to_lowercase(),
    }
}
