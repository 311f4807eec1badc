//! Which failures are the same failure: grouped by kind and by what is constant in the message.
//!
//! A pattern's id is fixed by its template at first sight and stays as the template generalises.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use proto::event::{CommandEvent, Failure, Kind};
use serde::{Deserialize, Serialize};

use super::names::{NameId, Names};
use super::settings::Settings;
use super::template;
use super::tiers::{Bucket, Tiers, cutoff_us};
use crate::fold::{Entry, Fold, What};

/// Names a pattern has at most, and transactions as samples.
const NAMES_MAX: usize = 100;
const SAMPLES_MAX: usize = 5;
/// The pattern of all failures past the limit.
const OTHER_KIND: &str = "(other)";

/// Failures that are the same but for their variable parts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pattern {
    /// Fixed at first sight.
    pub id: String,
    /// The failures' kind.
    pub kind: String,
    tokens: Vec<String>,
    /// How many, ever.
    pub total: u64,
    /// When the first came, in microseconds.
    pub first_us: i64,
    /// When the last came, in microseconds.
    pub last_us: i64,
    workers: BTreeSet<NameId>,
    workflows: BTreeSet<NameId>,
    /// Transactions that it happened in, the newest last.
    pub samples: VecDeque<[u8; 16]>,
}

impl Pattern {
    /// The message, its variable parts as `<*>`.
    pub fn template(&self) -> String {
        self.tokens.join(" ")
    }
}

/// The fold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Patterns {
    names: Names,
    patterns: Arc<Vec<Arc<Pattern>>>,
    /// Patterns by kind and number of tokens, so that few are compared.
    groups: Arc<BTreeMap<(String, usize), Vec<u32>>>,
    tiers: Tiers<Counts>,
    last_us: i64,
}

/// Failures by pattern and worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Counts(BTreeMap<(u32, NameId), u64>);

impl Bucket for Counts {
    fn absorb(&mut self, other: &Self, _: i64, _: usize) {
        for (key, count) in &other.0 {
            *self.0.entry(*key).or_default() += count;
        }
    }
}

/// A pattern and how often it happened in a window.
#[derive(Clone, Debug)]
pub struct Found {
    /// The pattern.
    pub pattern: Arc<Pattern>,
    /// How often.
    pub count: u64,
    /// Workers that it happened to, ever.
    pub workers: Vec<String>,
    /// Workflows that it happened in, ever.
    pub workflows: Vec<String>,
}

impl Fold for Patterns {
    const NAME: &'static str = "patterns";

    fn apply(&mut self, entry: &Entry, settings: &Settings) {
        if !settings.events {
            return;
        }
        let now = entry.time.0;
        self.tiers.roll(now);
        self.tiers.follow(entry.since_us());
        if settings.sweep_is_due(self.last_us, now) {
            self.tiers
                .forget(cutoff_us(now, settings.retention_seconds()));
        }
        self.last_us = now;
        let What::Events(events) = &entry.what else {
            return;
        };
        for stored in &events.events {
            if let Kind::Command {
                id,
                workflow,
                command,
                what,
            } = &stored.event.kind
                && let Some(failure) = failure(what)
            {
                let worker = self.names.intern(command.worker.as_str());
                let workflow = self.names.intern(workflow.as_str());
                let place = self.place(&failure, settings.patterns_max, stored.event.time.0);
                let pattern = Arc::make_mut(&mut Arc::make_mut(&mut self.patterns)[place as usize]);
                pattern.total += 1;
                pattern.last_us = pattern.last_us.max(stored.event.time.0);
                if pattern.workers.len() < NAMES_MAX {
                    pattern.workers.insert(worker);
                }
                if pattern.workflows.len() < NAMES_MAX {
                    pattern.workflows.insert(workflow);
                }
                if pattern.samples.back() != Some(&id.0) {
                    pattern.samples.push_back(id.0);
                    if pattern.samples.len() > SAMPLES_MAX {
                        pattern.samples.pop_front();
                    }
                }
                let counts = self.tiers.at(stored.event.time.0).1;
                *counts.0.entry((place, worker)).or_default() += 1;
            }
        }
    }
}

/// The failure that an event tells of.
fn failure(what: &CommandEvent) -> Option<Failure> {
    let said = |kind: &str, message: &str| Failure {
        kind: kind.to_owned(),
        message: message.to_owned(),
        detail: String::new(),
    };
    match what {
        CommandEvent::Failed { failure, .. } => Some(failure.clone()),
        CommandEvent::TimedOut { .. } => Some(said("Timeout", "the command's deadline passed")),
        CommandEvent::Lost { failure, .. } => Some(
            failure
                .clone()
                .unwrap_or_else(|| said("Lost", "the lease of the command's host lapsed")),
        ),
        CommandEvent::Queued { .. }
        | CommandEvent::Dispatched
        | CommandEvent::PickedUp
        | CommandEvent::Processing
        | CommandEvent::Completed { .. }
        | CommandEvent::Cancelled { .. } => None,
    }
}

impl Patterns {
    /// The pattern that a failure belongs to, made where there is none.
    fn place(&mut self, failure: &Failure, limit: u64, time_us: i64) -> u32 {
        let kind = if failure.kind.is_empty() {
            "Error"
        } else {
            &failure.kind
        };
        let tokens = template::tokens(&failure.message);
        let group = (kind.to_owned(), tokens.len());
        let nearest = self
            .groups
            .get(&group)
            .into_iter()
            .flatten()
            .filter(|place| template::matches(&self.patterns[**place as usize].tokens, &tokens))
            // The first of the nearest: the same for every refold.
            .max_by_key(|place| {
                let likeness = template::likeness(&self.patterns[**place as usize].tokens, &tokens);
                (likeness, std::cmp::Reverse(**place))
            })
            .copied();
        if let Some(place) = nearest {
            if self.patterns[place as usize].tokens != tokens {
                let pattern = &mut Arc::make_mut(&mut self.patterns)[place as usize];
                template::generalise(&mut Arc::make_mut(pattern).tokens, &tokens);
            }
            return place;
        }
        if self.patterns.len() as u64 >= limit.max(1) {
            return self.other(time_us);
        }
        self.make(group, tokens, time_us)
    }

    fn other(&mut self, time_us: i64) -> u32 {
        let group = (OTHER_KIND.to_owned(), 1);
        match self.groups.get(&group).and_then(|places| places.first()) {
            Some(place) => *place,
            None => self.make(group, vec![template::VARIABLE.to_owned()], time_us),
        }
    }

    fn make(&mut self, group: (String, usize), tokens: Vec<String>, time_us: i64) -> u32 {
        let place = u32::try_from(self.patterns.len()).unwrap_or(u32::MAX);
        let pattern = Pattern {
            id: id_of(&group.0, &tokens),
            kind: group.0.clone(),
            tokens,
            total: 0,
            first_us: time_us,
            last_us: time_us,
            workers: BTreeSet::new(),
            workflows: BTreeSet::new(),
            samples: VecDeque::new(),
        };
        Arc::make_mut(&mut self.patterns).push(Arc::new(pattern));
        Arc::make_mut(&mut self.groups)
            .entry(group)
            .or_default()
            .push(place);
        place
    }

    /// Where the window that is covered begins, and its patterns, the most frequent first.
    pub fn since(&self, start_us: i64, worker: Option<&str>) -> (i64, Vec<Found>) {
        let covered = self.tiers.since(start_us);
        let only = worker.map(|worker| self.names.find(worker));
        let mut counts: BTreeMap<u32, u64> = BTreeMap::new();
        for (_, _, bucket) in covered.buckets {
            for ((place, worker), count) in &bucket.0 {
                if only.is_none_or(|only| only == Some(*worker)) {
                    *counts.entry(*place).or_default() += count;
                }
            }
        }
        let names = |ids: &BTreeSet<NameId>| {
            let mut names: Vec<String> = ids
                .iter()
                .map(|id| self.names.name(*id).to_owned())
                .collect();
            names.sort_unstable();
            names
        };
        let mut found: Vec<Found> = counts
            .into_iter()
            .filter_map(|(place, count)| {
                let pattern = self.patterns.get(place as usize)?.clone();
                Some(Found {
                    count,
                    workers: names(&pattern.workers),
                    workflows: names(&pattern.workflows),
                    pattern,
                })
            })
            .collect();
        found.sort_by(|a, b| {
            let key = |found: &Found| (std::cmp::Reverse(found.count), found.pattern.first_us);
            key(a)
                .cmp(&key(b))
                .then_with(|| a.pattern.id.cmp(&b.pattern.id))
        });
        (covered.start_us, found)
    }

    /// How many patterns there are.
    pub fn len(&self) -> usize {
        self.patterns.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }
}

/// A pattern's id: FNV-1a of its kind and first template, in hexadecimal.
fn id_of(kind: &str, tokens: &[String]) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let parts = std::iter::once(kind).chain(tokens.iter().map(String::as_str));
    for part in parts {
        for byte in part.bytes().chain(std::iter::once(b'\n')) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    format!("{hash:016x}")
}
