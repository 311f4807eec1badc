//! Writing a workflow in Rust. Whether it is a sound one is the orchestrator's to say.

use std::time::Duration;

use crate::time::to_wire;
use crate::wire;

/// A definition in the making.
///
/// Steps follow each other in the order in which they are added; steps of one [`parallel`] block
/// run at once, and what is added after it joins them all.
///
/// [`parallel`]: Workflow::parallel
#[derive(Clone, Debug)]
pub struct Workflow {
    wire: wire::Workflow,
    /// The steps that the next one follows; None while that is just the step before.
    joins: Option<Vec<String>>,
}

impl Workflow {
    /// A workflow without steps.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            wire: wire::Workflow {
                name: name.into(),
                ..Default::default()
            },
            joins: None,
        }
    }

    /// With a description for people.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.wire.description = text.into();
        self
    }

    /// Adds a step that follows what was added before it: `("charge", "payment")`, or a [`Step`].
    #[must_use]
    pub fn step(mut self, step: impl Into<Step>) -> Self {
        let mut step = step.into().0;
        if let (None, Some(joins)) = (&step.after, self.joins.take()) {
            step.after = Some(wire::Predecessors { steps: joins });
        }
        self.wire.steps.push(step);
        self
    }

    /// Adds steps that run at once, all after what was added before them.
    #[must_use]
    pub fn parallel<S: Into<Step>>(mut self, steps: impl IntoIterator<Item = S>) -> Self {
        let before = self.joins.take().unwrap_or_else(|| {
            let last = self.wire.steps.last();
            last.map(|step| step.name.clone()).into_iter().collect()
        });
        let mut names = Vec::new();
        for step in steps {
            let mut step = step.into().0;
            names.push(step.name.clone());
            step.after.get_or_insert_with(|| wire::Predecessors {
                steps: before.clone(),
            });
            self.wire.steps.push(step);
        }
        // An empty block changes nothing.
        self.joins = Some(if names.is_empty() { before } else { names });
        self
    }

    /// The message that is registered.
    pub fn into_wire(self) -> wire::Workflow {
        self.wire
    }
}

impl From<Workflow> for wire::Workflow {
    fn from(workflow: Workflow) -> Self {
        workflow.wire
    }
}

/// One node of a workflow.
#[derive(Clone, Debug)]
pub struct Step(wire::Step);

impl Step {
    /// A step that `worker` does.
    pub fn new(name: impl Into<String>, worker: impl Into<String>) -> Self {
        Self(wire::Step {
            name: name.into(),
            worker: worker.into(),
            ..Default::default()
        })
    }

    /// Follows these steps, whatever stands before it; none: it starts with the transaction.
    #[must_use]
    pub fn after<S: Into<String>>(mut self, steps: impl IntoIterator<Item = S>) -> Self {
        self.0.after = Some(wire::Predecessors {
            steps: steps.into_iter().map(Into::into).collect(),
        });
        self
    }

    /// How long one attempt may take.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.0.timeout = Some(to_wire(timeout));
        self
    }

    /// When to try again.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.0.retry = Some(retry.0);
        self
    }

    /// The worker that undoes the step when a later one fails.
    #[must_use]
    pub fn undo(mut self, worker: impl Into<String>) -> Self {
        self.0.undo.get_or_insert_default().worker = worker.into();
        self
    }

    /// How long one attempt at the undo may take.
    #[must_use]
    pub fn undo_timeout(mut self, timeout: Duration) -> Self {
        self.0.undo.get_or_insert_default().timeout = Some(to_wire(timeout));
        self
    }

    /// When to try the undo again.
    #[must_use]
    pub fn undo_retry(mut self, retry: Retry) -> Self {
        self.0.undo.get_or_insert_default().retry = Some(retry.0);
        self
    }

    /// What its failure for good means for the transaction.
    #[must_use]
    pub fn on_failure(mut self, what: wire::OnFailure) -> Self {
        self.0.on_failure = what.into();
        self
    }

    /// An attempt that timed out or was lost may have had its effect: undo it as well.
    #[must_use]
    pub fn compensate_unknown(mut self) -> Self {
        self.0.compensate_unknown = true;
        self
    }
}

impl<N: Into<String>, W: Into<String>> From<(N, W)> for Step {
    fn from((name, worker): (N, W)) -> Self {
        Self::new(name, worker)
    }
}

/// When to try again.
#[derive(Clone, Copy, Debug)]
pub struct Retry(wire::RetryPolicy);

impl Retry {
    /// So many attempts in all, with the contract's delays.
    pub fn attempts(attempts: u32) -> Self {
        Self(wire::RetryPolicy {
            attempts,
            ..Default::default()
        })
    }

    /// The delay before the second attempt.
    #[must_use]
    pub fn initial_delay(mut self, delay: Duration) -> Self {
        self.0.initial_delay = Some(to_wire(delay));
        self
    }

    /// By how much each further delay is longer.
    #[must_use]
    pub fn multiplier(mut self, factor: f64) -> Self {
        self.0.multiplier = factor;
        self
    }

    /// The longest delay.
    #[must_use]
    pub fn max_delay(mut self, delay: Duration) -> Self {
        self.0.max_delay = Some(to_wire(delay));
        self
    }

    /// The part of a delay, 0..1, that is left to chance.
    #[must_use]
    pub fn jitter(mut self, ratio: f64) -> Self {
        self.0.jitter = Some(ratio);
        self
    }

    /// How many times a command whose host was lost is delivered in all.
    #[must_use]
    pub fn max_deliveries(mut self, deliveries: u32) -> Self {
        self.0.max_deliveries = deliveries;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(workflow: Workflow) -> Vec<(String, Option<Vec<String>>)> {
        let steps = workflow.into_wire().steps.into_iter();
        steps
            .map(|step| (step.name, step.after.map(|after| after.steps)))
            .collect()
    }

    #[test]
    fn steps_in_a_row_leave_their_order_to_the_contract() {
        let workflow = Workflow::new("w").step(("a", "x")).step(("b", "x"));
        assert_eq!(shape(workflow), [("a".into(), None), ("b".into(), None)]);
    }

    #[test]
    fn a_parallel_block_follows_the_step_before_it_and_is_joined_by_the_one_after_it() {
        let workflow = Workflow::new("w")
            .step(("prepare", "x"))
            .parallel([("a", "x"), ("b", "y")])
            .step(("combine", "x"))
            .step(("end", "x"));
        let one = |name: &str| Some(vec![name.to_owned()]);
        assert_eq!(
            shape(workflow),
            [
                ("prepare".into(), None),
                ("a".into(), one("prepare")),
                ("b".into(), one("prepare")),
                ("combine".into(), Some(vec!["a".into(), "b".into()])),
                ("end".into(), None),
            ]
        );
    }

    #[test]
    fn a_parallel_block_at_the_start_starts_with_the_transaction_and_blocks_can_follow_blocks() {
        let workflow = Workflow::new("w")
            .parallel([("a", "x"), ("b", "x")])
            .parallel([("c", "x"), ("d", "x")]);
        let both = || Some(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(
            shape(workflow),
            [
                ("a".into(), Some(vec![])),
                ("b".into(), Some(vec![])),
                ("c".into(), both()),
                ("d".into(), both()),
            ]
        );
    }
}
