//! Random workflows: parallel steps and joins, retries, undo, every `on_failure`, timeouts.

use proto::convert::us_to_duration;
use proto::wire;
use tests::chance::Chance;

/// The workers that hosts offer.
pub(crate) const WORKERS: [&str; 3] = ["w0", "w1", "w2"];

/// A few workflows; a later one may have an earlier one's name, and is then a new version of it.
pub(crate) fn workflows(chance: &mut Chance) -> Vec<wire::Workflow> {
    (0..chance.within(1, 4)).map(|_| workflow(chance)).collect()
}

fn workflow(chance: &mut Chance) -> wire::Workflow {
    let count = chance.within(1, 5) as usize;
    let steps = (0..count).map(|at| wire::Step {
        name: format!("s{at}"),
        worker: (*chance.pick(&WORKERS)).to_owned(),
        after: Some(wire::Predecessors {
            steps: (0..at)
                .filter(|_| chance.one_in(2))
                .map(|before| format!("s{before}"))
                .collect(),
        }),
        timeout: Some(us_to_duration(chance.within(1, 30) * 1_000_000)),
        retry: retry(chance),
        undo: chance.one_in(2).then(|| wire::Undo {
            worker: (*chance.pick(&WORKERS)).to_owned(),
            timeout: Some(us_to_duration(chance.within(1, 30) * 1_000_000)),
            retry: retry(chance),
        }),
        on_failure: chance.below(4) as i32,
        compensate_unknown: chance.one_in(2),
    });
    wire::Workflow {
        steps: steps.collect(),
        name: format!("f{}", chance.below(3)),
        ..Default::default()
    }
}

fn retry(chance: &mut Chance) -> Option<wire::RetryPolicy> {
    chance.one_in(2).then(|| wire::RetryPolicy {
        attempts: chance.below(4) as u32,
        initial_delay: Some(us_to_duration(chance.within(1, 2_000) * 1_000)),
        max_deliveries: chance.below(5) as u32,
        ..Default::default()
    })
}
