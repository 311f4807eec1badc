//! A checked workflow: distinct steps in a known order without a circle, every default filled in.

mod retry;

use std::collections::HashMap;

use crate::convert::{duration_to_us, us_to_duration};
use crate::error::{Problem, Reason};
use crate::id::{StepName, WorkerName, WorkflowName, shown};
use crate::wire;

/// The most steps of a workflow.
pub const STEPS_MAX: usize = 10_000;
/// The longest description, in bytes.
pub const DESCRIPTION_BYTES_MAX: usize = 4096;

pub use retry::Retry;

const SECOND_US: u64 = 1_000_000;
const TIMEOUT_US_DEFAULT: u64 = 300 * SECOND_US;
const TIMEOUT_US_MIN: u64 = 1_000;
const TIMEOUT_US_MAX: u64 = 30 * 24 * 3600 * SECOND_US;

/// A definition that was checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Workflow {
    /// Its name.
    pub name: WorkflowName,
    /// Its version, from 1; 0 before the orchestrator has given it one.
    pub version: u32,
    /// For people.
    pub description: String,
    /// At least one.
    pub steps: Vec<Step>,
}

/// One step of a checked workflow.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Its name.
    pub name: StepName,
    /// The worker that does it.
    pub worker: WorkerName,
    /// The steps that it follows, as indices into the workflow's steps, rising.
    pub after: Vec<usize>,
    /// How long one attempt may take, in microseconds.
    pub timeout_us: u64,
    /// When to try again.
    pub retry: Retry,
    /// How it is undone.
    pub undo: Option<Undo>,
    /// What its failure for good means.
    pub on_failure: OnFailure,
    /// Whether an attempt that timed out or was lost is undone too.
    pub compensate_unknown: bool,
}

/// How a completed step is undone.
#[derive(Clone, Debug, PartialEq)]
pub struct Undo {
    /// The worker that does it.
    pub worker: WorkerName,
    /// How long one attempt may take, in microseconds.
    pub timeout_us: u64,
    /// When to try again.
    pub retry: Retry,
}

/// What it means for the transaction when a step fails for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Undo what has completed.
    Compensate,
    /// End as failed, undo nothing.
    Fail,
    /// Go on without its result.
    Continue,
}

impl Workflow {
    /// The place of a step.
    pub fn step_index(&self, name: &str) -> Option<usize> {
        // Workflows are short; a scan beats a table that every definition would have to carry.
        self.steps
            .iter()
            .position(|step| step.name.as_str() == name)
    }

    /// Every step that `step` follows, directly or not, rising.
    pub fn ancestors(&self, step: usize) -> Vec<usize> {
        let mut seen = vec![false; self.steps.len()];
        let mut open = vec![step];
        while let Some(at) = open.pop() {
            for &before in &self.steps[at].after {
                if !std::mem::replace(&mut seen[before], true) {
                    open.push(before);
                }
            }
        }
        (0..seen.len()).filter(|&at| seen[at]).collect()
    }

    /// Checks a definition; the error names the place.
    pub fn check(wire: &wire::Workflow) -> Result<Self, Problem> {
        let name = WorkflowName::parse(&wire.name).map_err(|problem| renamed(problem, "name"))?;
        if wire.description.len() > DESCRIPTION_BYTES_MAX {
            return Err(Problem::field(
                Reason::WorkflowTooLarge,
                "description",
                format!(
                    "description has {} bytes; at most {DESCRIPTION_BYTES_MAX} are allowed",
                    wire.description.len()
                ),
            ));
        }
        if wire.steps.is_empty() {
            return Err(Problem::field(
                Reason::FieldMissing,
                "steps",
                format!("steps is empty; workflow \"{name}\" needs at least one step"),
            ));
        }
        if wire.steps.len() > STEPS_MAX {
            return Err(Problem::field(
                Reason::WorkflowTooLarge,
                "steps",
                format!(
                    "steps has {} entries; at most {STEPS_MAX} are allowed",
                    wire.steps.len()
                ),
            ));
        }
        let mut places: HashMap<&str, usize> = HashMap::new();
        for (at, step) in wire.steps.iter().enumerate() {
            if let Some(first) = places.insert(&step.name, at) {
                return Err(Problem::field(
                    Reason::WorkflowDuplicateStep,
                    &format!("steps[{at}].name"),
                    format!(
                        "steps[{at}].name is \"{}\", as is steps[{first}].name; rename one of them",
                        shown(&step.name, 64)
                    ),
                ));
            }
        }
        let steps = wire
            .steps
            .iter()
            .enumerate()
            .map(|(at, step)| {
                check_step(at, step, &places)
                    .map_err(|problem| problem.within(&format!("steps[{at}].")))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let workflow = Self {
            name,
            version: wire.version,
            description: wire.description.clone(),
            steps,
        };
        workflow.check_order()?;
        Ok(workflow)
    }

    /// Finds a circle, if there is one, and names its steps.
    fn check_order(&self) -> Result<(), Problem> {
        let mut waits_for: Vec<usize> = self.steps.iter().map(|step| step.after.len()).collect();
        let mut followers = vec![Vec::new(); self.steps.len()];
        for (at, step) in self.steps.iter().enumerate() {
            step.after
                .iter()
                .for_each(|&before| followers[before].push(at));
        }
        let mut ready: Vec<usize> = (0..waits_for.len())
            .filter(|&at| waits_for[at] == 0)
            .collect();
        let mut done = 0;
        while let Some(at) = ready.pop() {
            done += 1;
            for &next in &followers[at] {
                waits_for[next] -= 1;
                if waits_for[next] == 0 {
                    ready.push(next);
                }
            }
        }
        if done == self.steps.len() {
            return Ok(());
        }
        // Every step that still waits has a predecessor that still waits: walking back must come
        // round.
        let stuck = |at: &usize| waits_for[*at] > 0;
        let mut walk = Vec::new();
        let mut at = (0..waits_for.len()).find(stuck).unwrap_or_default();
        while !walk.contains(&at) {
            walk.push(at);
            at = self.steps[at]
                .after
                .iter()
                .copied()
                .find(stuck)
                .unwrap_or(at);
        }
        let from = walk.iter().position(|&step| step == at).unwrap_or_default();
        let mut names: Vec<&str> = walk[from..]
            .iter()
            .rev()
            .map(|&step| self.steps[step].name.as_str())
            .collect();
        names.insert(0, self.steps[at].name.as_str());
        Err(Problem::field(
            Reason::WorkflowCycle,
            &format!("steps[{at}].after"),
            format!(
                "steps[{at}].after makes a circle: {}; remove one of these",
                names.join(" -> ")
            ),
        ))
    }

    /// Back to the wire, complete: order explicit, defaults filled in.
    pub fn to_wire(&self) -> wire::Workflow {
        let step_to_wire = |step: &Step| wire::Step {
            name: step.name.as_str().to_owned(),
            worker: step.worker.as_str().to_owned(),
            after: Some(wire::Predecessors {
                steps: step
                    .after
                    .iter()
                    .map(|&before| self.steps[before].name.as_str().to_owned())
                    .collect(),
            }),
            timeout: Some(us_to_duration(step.timeout_us)),
            retry: Some(step.retry.to_wire()),
            undo: step.undo.as_ref().map(|undo| wire::Undo {
                worker: undo.worker.as_str().to_owned(),
                timeout: Some(us_to_duration(undo.timeout_us)),
                retry: Some(undo.retry.to_wire()),
            }),
            on_failure: match step.on_failure {
                OnFailure::Compensate => wire::OnFailure::Compensate,
                OnFailure::Fail => wire::OnFailure::Fail,
                OnFailure::Continue => wire::OnFailure::Continue,
            }
            .into(),
            compensate_unknown: step.compensate_unknown,
        };
        wire::Workflow {
            name: self.name.as_str().to_owned(),
            version: self.version,
            description: self.description.clone(),
            steps: self.steps.iter().map(step_to_wire).collect(),
        }
    }
}

fn check_step(
    at: usize,
    step: &wire::Step,
    places: &HashMap<&str, usize>,
) -> Result<Step, Problem> {
    let name = StepName::parse(&step.name).map_err(|problem| renamed(problem, "name"))?;
    let worker = WorkerName::parse(&step.worker)?;
    let mut after = match &step.after {
        None => at.checked_sub(1).into_iter().collect(),
        Some(predecessors) => predecessors
            .steps
            .iter()
            .map(|before| {
                places.get(before.as_str()).copied().ok_or_else(|| {
                    let nearest = places
                        .keys()
                        .copied()
                        .min_by_key(|known| strsim::levenshtein(known, before));
                    Problem::field(
                        Reason::WorkflowUnknownStep,
                        "after",
                        format!(
                            "after names \"{}\", which is no step of this workflow{}",
                            shown(before, 64),
                            nearest
                                .map(|known| format!("; is it \"{}\"?", shown(known, 64)))
                                .unwrap_or_default()
                        ),
                    )
                })
            })
            .collect::<Result<Vec<_>, _>>()?,
    };
    after.sort_unstable();
    after.dedup();
    let undo = step.undo.as_ref().map(check_undo).transpose();
    Ok(Step {
        name,
        worker,
        after,
        timeout_us: check_timeout(step.timeout.as_ref())?,
        retry: Retry::check(step.retry.as_ref()).map_err(|problem| problem.within("retry."))?,
        undo: undo.map_err(|problem| problem.within("undo."))?,
        on_failure: match wire::OnFailure::try_from(step.on_failure) {
            Ok(wire::OnFailure::Unspecified | wire::OnFailure::Compensate) => OnFailure::Compensate,
            Ok(wire::OnFailure::Fail) => OnFailure::Fail,
            Ok(wire::OnFailure::Continue) => OnFailure::Continue,
            Err(_) => {
                return Err(Problem::field(
                    Reason::FieldInvalid,
                    "on_failure",
                    format!(
                        "on_failure is {}; it must be compensate, fail or continue",
                        step.on_failure
                    ),
                ));
            }
        },
        compensate_unknown: step.compensate_unknown,
    })
}

fn check_undo(undo: &wire::Undo) -> Result<Undo, Problem> {
    Ok(Undo {
        worker: WorkerName::parse(&undo.worker)?,
        timeout_us: check_timeout(undo.timeout.as_ref())?,
        retry: Retry::check(undo.retry.as_ref()).map_err(|problem| problem.within("retry."))?,
    })
}

fn check_timeout(timeout: Option<&prost_types::Duration>) -> Result<u64, Problem> {
    match timeout {
        None => Ok(TIMEOUT_US_DEFAULT),
        Some(timeout) => duration_to_us("timeout", timeout, TIMEOUT_US_MIN, TIMEOUT_US_MAX),
    }
}

/// A step's or workflow's own name is the field `name`.
fn renamed(mut problem: Problem, field: &str) -> Problem {
    if let Some(old) = problem.field.replace(field.to_owned())
        && let Some(rest) = problem.message.strip_prefix(&old)
    {
        problem.message = format!("{field}{rest}");
    }
    problem
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn step(name: &str, after: Option<&[&str]>) -> wire::Step {
        wire::Step {
            name: name.to_owned(),
            worker: "w".to_owned(),
            after: after.map(|steps| wire::Predecessors {
                steps: steps.iter().map(|step| (*step).to_owned()).collect(),
            }),
            ..Default::default()
        }
    }

    fn check(steps: Vec<wire::Step>) -> Result<Workflow, Problem> {
        Workflow::check(&wire::Workflow {
            name: "w".to_owned(),
            steps,
            ..Default::default()
        })
    }

    #[test]
    fn a_step_follows_the_one_before_it_unless_it_says_otherwise() {
        let workflow = check(vec![
            step("a", None),
            step("b", None),
            step("c", Some(&["a"])),
            step("d", Some(&["c", "b"])),
            step("e", Some(&[])),
        ])
        .unwrap();
        let after: Vec<_> = workflow
            .steps
            .iter()
            .map(|step| step.after.clone())
            .collect();
        assert_eq!(after, [vec![], vec![0], vec![0], vec![1, 2], vec![]]);
        assert_eq!(workflow.ancestors(3), [0, 1, 2]);
        assert_eq!(Workflow::check(&workflow.to_wire()).unwrap(), workflow);
    }

    #[test]
    fn a_circle_is_named() {
        let problem = check(vec![
            step("start", None),
            step("a", Some(&["start", "b"])),
            step("b", Some(&["a"])),
        ])
        .unwrap_err();
        assert_eq!(problem.reason, Reason::WorkflowCycle);
        assert!(problem.message.contains("a -> b -> a") || problem.message.contains("b -> a -> b"));
        assert_eq!(
            check(vec![step("a", Some(&["a"]))]).unwrap_err().reason,
            Reason::WorkflowCycle
        );
    }

    #[test]
    fn errors_name_the_place_and_the_nearest_name() {
        let problem = check(vec![step("prepare", None), step("b", Some(&["prepar"]))]).unwrap_err();
        assert_eq!(problem.reason, Reason::WorkflowUnknownStep);
        assert_eq!(problem.field.as_deref(), Some("steps[1].after"));
        assert!(
            problem.message.contains("\"prepare\""),
            "{}",
            problem.message
        );
        let problem = check(vec![step("a", None), step("a", None)]).unwrap_err();
        assert_eq!(problem.reason, Reason::WorkflowDuplicateStep);
        let mut negative = step("a", None);
        negative.timeout = Some(prost_types::Duration {
            seconds: -1,
            nanos: 0,
        });
        let problem = check(vec![negative]).unwrap_err();
        assert_eq!(problem.reason, Reason::FieldOutOfRange);
        assert_eq!(problem.field.as_deref(), Some("steps[0].timeout"));
    }
}
