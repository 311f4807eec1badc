//! Random workflows.

use proptest::prelude::*;

use proto::wire;
use proto::workflow::Workflow;

use super::WORKERS;

/// A workflow of up to six steps in a random order, with random policies.
pub(super) fn workflows() -> impl Strategy<Value = Workflow> {
    let step = (
        any::<u8>(),
        any::<u8>(),
        0..4u32,
        0..4u32,
        0..8u32,
        any::<u8>(),
    );
    prop::collection::vec(step, 1..6).prop_map(|steps| {
        let retry = |attempts, max_deliveries, bits: u8| {
            Some(wire::RetryPolicy {
                attempts,
                initial_delay: Some(proto::convert::us_to_duration(u64::from(bits) * 10_000)),
                max_deliveries,
                ..Default::default()
            })
        };
        let worker = |bits: u8| WORKERS[usize::from(bits) % WORKERS.len()].to_owned();
        let steps = steps.iter().enumerate().map(|(at, step)| {
            let (after, bits, attempts, deliveries, undo, seconds) = *step;
            wire::Step {
                name: format!("s{at}"),
                worker: worker(bits),
                after: Some(wire::Predecessors {
                    steps: (0..at)
                        .filter(|before| after >> before & 1 == 1)
                        .map(|before| format!("s{before}"))
                        .collect(),
                }),
                timeout: Some(proto::convert::us_to_duration(
                    u64::from(seconds % 20 + 1) * 1_000_000,
                )),
                retry: retry(attempts, deliveries, bits),
                undo: (undo > 2).then(|| wire::Undo {
                    worker: worker(bits >> 1),
                    timeout: None,
                    retry: retry(undo - 2, deliveries, 0),
                }),
                on_failure: i32::from(bits >> 2) % 4,
                compensate_unknown: bits & 1 == 1,
            }
        });
        Workflow::check(&wire::Workflow {
            name: format!("w{}", steps.len()),
            steps: steps.collect(),
            ..Default::default()
        })
        .unwrap()
    })
}
