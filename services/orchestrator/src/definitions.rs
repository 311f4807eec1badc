//! Workflow files: YAML text → checked workflows.
//!
//! A file is one workflow, or a list of them under `workflows:`. An item of `steps` is a step, which
//! follows the item before it unless `after` says otherwise, or a group `parallel: [...]` whose branches
//! run at once and which the next item joins; a branch is a step, or `steps: [...]` in sequence.
//! Every error names file, line and column. Reading goes no further than here: what a workflow may be
//! is `proto::workflow`'s to say.

use std::fmt;

use proto::error::{Problem, Reason};
use proto::id::shown;
use proto::wire;
use proto::workflow::Workflow;
use serde::de::{Deserialize, Deserializer, Visitor};
use serde_yaml::{Location, Spanned};

/// The longest file, in bytes.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// Reads one workflow, or the list under `workflows:`. `place` names the text in messages: a path, or a
/// request's field.
pub fn parse(place: &str, text: &str) -> Result<Vec<Workflow>, Problem> {
    if text.len() > FILE_BYTES_MAX {
        return Err(Problem::field(
            Reason::WorkflowTooLarge,
            place,
            format!(
                "{place} has {} bytes; at most {FILE_BYTES_MAX} are allowed; split it",
                text.len()
            ),
        ));
    }
    let read = serde_yaml::from_str_with_options(text, kit::config::yaml_options());
    let file: Spanned<File> = read.map_err(|error| malformed(place, &error))?;
    let at = file.referenced;
    let File { workflows, single } = file.value;
    match (workflows, single) {
        (Some(workflows), None) if !workflows.is_empty() => workflows
            .into_iter()
            .map(|entry| check(place, entry.referenced, entry.value))
            .collect(),
        (None, Some(single)) => Ok(vec![check(place, at, *single)?]),
        (Some(_), Some(_)) => Err(wrong(
            place,
            at,
            "beside `workflows` stands a workflow of its own; move it into the list",
        )),
        _ => Err(wrong(
            place,
            at,
            "there is no workflow; write `name` and `steps`, or a list of those under `workflows`",
        )),
    }
}

/// A whole file. Written by hand for its two forms, since serde loses the places of flattened fields.
struct File {
    workflows: Option<Vec<Spanned<Entry>>>,
    single: Option<Box<Entry>>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole {
    workflows: Option<Vec<Spanned<Entry>>>,
    name: Option<Spanned<String>>,
    description: Option<String>,
    steps: Option<Vec<Spanned<Item>>>,
}

impl<'de> Deserialize<'de> for File {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let whole = Whole::deserialize(from)?;
        let empty = whole.name.is_none() && whole.description.is_none() && whole.steps.is_none();
        let single = (!empty).then(|| {
            Box::new(Entry {
                name: whole.name,
                description: whole.description,
                steps: whole.steps.unwrap_or_default(),
            })
        });
        Ok(Self {
            workflows: whole.workflows,
            single,
        })
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: Option<Spanned<String>>,
    description: Option<String>,
    #[serde(default)]
    steps: Vec<Spanned<Item>>,
}

/// A step, a group, or a sequence within a group.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    name: Option<String>,
    worker: Option<String>,
    after: Option<Names>,
    timeout: Option<Spanned<Span>>,
    retry: Option<Spanned<RetryEntry>>,
    undo: Option<Spanned<UndoEntry>>,
    on_failure: Option<OnFailureEntry>,
    compensate_unknown: Option<bool>,
    parallel: Option<Vec<Spanned<Item>>>,
    steps: Option<Vec<Spanned<Item>>>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RetryEntry {
    attempts: Option<i64>,
    initial_delay: Option<Span>,
    multiplier: Option<f64>,
    max_delay: Option<Span>,
    jitter: Option<f64>,
    max_deliveries: Option<i64>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct UndoEntry {
    worker: String,
    timeout: Option<Span>,
    retry: Option<Spanned<RetryEntry>>,
}

#[derive(Clone, Copy, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum OnFailureEntry {
    Compensate,
    Fail,
    Continue,
}

/// One name or a list of them.
struct Names(Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a step, or a list of names")
            }

            fn visit_str<E>(self, text: &str) -> Result<Names, E> {
                Ok(Names(vec![text.to_owned()]))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut names: A,
            ) -> Result<Names, A::Error> {
                let mut all = Vec::new();
                while let Some(name) = names.next_element()? {
                    all.push(name);
                }
                Ok(Names(all))
            }
        }
        from.deserialize_any(Visit)
    }
}

/// A duration: "250ms", "5s", "1.5h", or a number of seconds. A negative one is read, so that the check
/// of the limits can name it.
struct Span(prost_types::Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visit;
        impl Visitor<'_> for Visit {
            type Value = Span;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a duration such as \"250ms\", \"5s\" or \"1.5h\", or a number of seconds",
                )
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Span, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Span, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Span, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Span, E> {
                let (sign, size) = match text.strip_prefix('-') {
                    Some(size) => (-1, size),
                    None => (1, text),
                };
                let whole = kit::config::parse_duration(size)
                    .and_then(|whole| prost_types::Duration::try_from(whole).ok());
                let Some(whole) = whole else {
                    return Err(E::invalid_value(serde::de::Unexpected::Str(text), &self));
                };
                Ok(Span(prost_types::Duration {
                    seconds: sign * whole.seconds,
                    nanos: i32::try_from(sign).unwrap_or(1) * whole.nanos,
                }))
            }
        }
        from.deserialize_any(Visit)
    }
}

/// Lays out one workflow and checks it.
fn check(place: &str, at: Location, entry: Entry) -> Result<Workflow, Problem> {
    let mut layout = Layout {
        place,
        steps: Vec::new(),
        places: Vec::new(),
    };
    let name = match entry.name {
        Some(name) => name.value,
        None => return Err(wrong(place, at, "the workflow has no `name`")),
    };
    layout.sequence(entry.steps, &[])?;
    let places = layout.places;
    let workflow = wire::Workflow {
        name,
        version: 0,
        description: entry.description.unwrap_or_default(),
        steps: layout.steps,
    };
    Workflow::check(&workflow).map_err(|mut problem| {
        // `steps[3].after` → the line of that step; the index itself counts steps in groups one by one.
        let step = (problem.field.as_deref())
            .and_then(|field| field.strip_prefix("steps["))
            .and_then(|rest| rest.split(']').next())
            .and_then(|index| index.parse::<usize>().ok());
        let at = step
            .and_then(|step| places.get(step))
            .copied()
            .unwrap_or(at);
        problem.message = format!(
            "{place}:{}:{}: workflow \"{}\": {}",
            at.line(),
            at.column(),
            shown(&workflow.name, 64),
            problem.message
        );
        problem
    })
}

/// A workflow's items on their way to plain steps.
struct Layout<'a> {
    place: &'a str,
    steps: Vec<wire::Step>,
    /// Where each step was written.
    places: Vec<Location>,
}

impl Layout<'_> {
    /// Lays out items one after the other, the first one after `before`; gives what ends them.
    fn sequence(
        &mut self,
        items: Vec<Spanned<Item>>,
        before: &[String],
    ) -> Result<Vec<String>, Problem> {
        let mut ends = before.to_vec();
        for item in items {
            ends = self.item(item.referenced, item.value, ends)?;
        }
        Ok(ends)
    }

    fn item(
        &mut self,
        at: Location,
        item: Item,
        before: Vec<String>,
    ) -> Result<Vec<String>, Problem> {
        let is_step = item.name.is_some()
            || item.worker.is_some()
            || item.after.is_some()
            || item.timeout.is_some()
            || item.retry.is_some()
            || item.undo.is_some()
            || item.on_failure.is_some()
            || item.compensate_unknown.is_some();
        match (is_step, &item.parallel, &item.steps) {
            (true, None, None) => self.step(at, item, before),
            (false, Some(_), None) => {
                let branches = item.parallel.unwrap_or_default();
                if branches.is_empty() {
                    return Err(wrong(self.place, at, "`parallel` has no branches"));
                }
                let mut ends = Vec::new();
                for branch in branches {
                    ends.extend(self.item(branch.referenced, branch.value, before.clone())?);
                }
                Ok(ends)
            }
            (false, None, Some(_)) => {
                let items = item.steps.unwrap_or_default();
                if items.is_empty() {
                    return Err(wrong(self.place, at, "`steps` is empty"));
                }
                self.sequence(items, &before)
            }
            (false, None, None) => Err(wrong(
                self.place,
                at,
                "the item is empty; write a step (`name`, `worker`) or a group (`parallel`)",
            )),
            _ => Err(wrong(
                self.place,
                at,
                "the item is several things at once; `parallel` and `steps` stand alone, and the keys \
                 of a step belong to the steps within",
            )),
        }
    }

    fn step(
        &mut self,
        at: Location,
        item: Item,
        before: Vec<String>,
    ) -> Result<Vec<String>, Problem> {
        let missing = |key: &str| wrong(self.place, at, &format!("the step has no `{key}`"));
        let name = item.name.ok_or_else(|| missing("name"))?;
        let worker = item.worker.ok_or_else(|| missing("worker"))?;
        let undo = match item.undo {
            None => None,
            Some(undo) => Some(wire::Undo {
                worker: undo.value.worker,
                timeout: undo.value.timeout.map(|span| span.0),
                retry: self.retry(undo.value.retry)?,
            }),
        };
        let step = wire::Step {
            name: name.clone(),
            worker,
            after: Some(wire::Predecessors {
                steps: item.after.map_or(before, |names| names.0),
            }),
            timeout: item.timeout.map(|span| span.value.0),
            retry: self.retry(item.retry)?,
            undo,
            on_failure: match item.on_failure {
                None => wire::OnFailure::Unspecified,
                Some(OnFailureEntry::Compensate) => wire::OnFailure::Compensate,
                Some(OnFailureEntry::Fail) => wire::OnFailure::Fail,
                Some(OnFailureEntry::Continue) => wire::OnFailure::Continue,
            }
            .into(),
            compensate_unknown: item.compensate_unknown.unwrap_or_default(),
        };
        self.steps.push(step);
        self.places.push(at);
        Ok(vec![name])
    }

    /// On the wire 0 stands for the default; who writes 0 into a file means 0, which there is not.
    fn retry(
        &self,
        retry: Option<Spanned<RetryEntry>>,
    ) -> Result<Option<wire::RetryPolicy>, Problem> {
        let Some(retry) = retry else { return Ok(None) };
        let at = retry.referenced;
        let count = |key: &str, value: Option<i64>, most: u32| match value {
            None => Ok(0),
            Some(value) => u32::try_from(value)
                .ok()
                .filter(|value| (1..=most).contains(value))
                .ok_or_else(|| out_of_range(self.place, at, key, value, &format!("1 to {most}"))),
        };
        let retry = retry.value;
        if let Some(multiplier) = retry.multiplier.filter(|given| *given < 1.0) {
            return Err(out_of_range(
                self.place,
                at,
                "multiplier",
                multiplier,
                "at least 1",
            ));
        }
        Ok(Some(wire::RetryPolicy {
            attempts: count("attempts", retry.attempts, 1_000)?,
            initial_delay: retry.initial_delay.map(|span| span.0),
            multiplier: retry.multiplier.unwrap_or_default(),
            max_delay: retry.max_delay.map(|span| span.0),
            jitter: retry.jitter,
            max_deliveries: count("max_deliveries", retry.max_deliveries, 100)?,
        }))
    }
}

fn out_of_range(
    place: &str,
    at: Location,
    key: &str,
    value: impl fmt::Display,
    range: &str,
) -> Problem {
    Problem::field(
        Reason::FieldOutOfRange,
        key,
        format!(
            "{place}:{}:{}: {key} is {value}; it must be {range}",
            at.line(),
            at.column()
        ),
    )
}

fn wrong(place: &str, at: Location, what: &str) -> Problem {
    Problem::field(
        Reason::WorkflowMalformed,
        place,
        format!("{place}:{}:{}: {what}", at.line(), at.column()),
    )
}

/// What the reader of YAML says, in our words where a key is wrong.
fn malformed(place: &str, error: &serde_yaml::Error) -> Problem {
    let at = error.location().unwrap_or(Location::UNKNOWN);
    if let serde_yaml::Error::SerdeUnknownField {
        field, expected, ..
    } = error.without_snippet()
    {
        let nearest = expected
            .iter()
            .min_by_key(|known| strsim::levenshtein(known, field));
        let hint = match nearest {
            Some(known) if strsim::levenshtein(known, field) <= known.len().div_ceil(2) => {
                format!("is it `{known}`?")
            }
            _ => format!("there are {}", expected.join(", ")),
        };
        let key = shown(field, 64);
        return wrong(place, at, &format!("there is no key `{key}` here; {hint}"));
    }
    let text = error.without_snippet().to_string();
    let line: Vec<_> = text.split_whitespace().collect();
    wrong(place, at, &shown(&line.join(" "), 512))
}

#[cfg(test)]
mod tests;
