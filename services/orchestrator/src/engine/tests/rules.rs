//! Each rule of semantics.md that is the engine's, as a history.

mod flow;
mod retries;
mod results;
mod failing;
mod compensation;
mod cancelling;
mod starting;
mod restarting;

use proto::event::{Cancel, Failure};
use proto::id::CommandId;
use proto::lifecycle::{StepState, TransactionState};
use proto::workflow::Workflow;

use super::script::{Scene, check, check_with, host, start, workflow};
use super::*;

const TWO: &str = "
- {name: a, worker: wa}
- {name: b, worker: wb}
";

/// a, then b and c at once, then d.
const FORK: &str = "
- {name: a, worker: w, undo: {worker: u}}
- parallel:
  - {name: b, worker: w, undo: {worker: u}, retry: {attempts: 2, jitter: 0}}
  - {name: c, worker: w, undo: {worker: u}}
- {name: d, worker: w}
";

/// What a command brings its host: whose result each piece is, and the piece.
fn context(scene: &Scene, command: &str) -> Vec<String> {
    let key = scene.state.key(&scene.command(command)).unwrap();
    let outgoing = scene.state.outgoing(&key).unwrap();
    let pieces = outgoing.context.into_iter().map(|piece| {
        let whose = piece.step.map_or("in".to_owned(), |step| step.to_string());
        format!("{whose} {}", std::str::from_utf8(&piece.json).unwrap())
    });
    pieces.collect()
}

fn snapshot(scene: &Scene) -> Snapshot {
    scene.state.snapshot(scene.ids.last().unwrap()).unwrap()
}

fn state_of(scene: &Scene, step: &str) -> StepState {
    let snapshot = snapshot(scene);
    let found = snapshot
        .carried
        .steps
        .iter()
        .find(|known| known.step.as_str() == step);
    found.map_or_else(|| absent_step_state(&snapshot.carried), |step| step.state)
}
