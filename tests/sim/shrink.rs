//! From a seed that fails to the least that still does: fewer faults, fewer starts, fewer steps.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use crate::ending::run;
use crate::plan::Plan;
use crate::tally::Tally;

/// Where a panic in hand leaves its words.
static SAID: Mutex<Vec<(std::thread::ThreadId, String)>> = Mutex::new(Vec::new());

/// Runs a plan; what it panicked with otherwise.
fn attempt(plan: &Plan) -> Result<Tally, String> {
    catch_unwind(AssertUnwindSafe(|| run(plan))).map_err(|_| {
        let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
        let here = std::thread::current().id();
        let mine = said.iter().position(|(thread, _)| *thread == here);
        mine.map(|at| said.swap_remove(at).1).unwrap_or_default()
    })
}

/// Panics are caught and told by whoever runs the plan.
fn listen() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |what| {
            let text = what.to_string();
            if text.starts_with("the simulation found") || text.contains("\nthe simulation found") {
                usual(what);
                return;
            }
            let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
            let here = std::thread::current().id();
            said.retain(|(thread, _)| *thread != here);
            said.push((here, text));
        }));
    });
}

/// Runs a plan; if it fails, it is made smaller and told, with the command that repeats it.
pub(crate) fn run_or_tell(plan: &Plan) -> Tally {
    listen();
    let first = match attempt(plan) {
        Ok(tally) => return tally,
        Err(said) => said,
    };
    let (least, said) = shrink(plan, first.clone());
    panic!(
        "the simulation found something:\n{first}\n\nrepeat it: {}\nleast that fails: {}\n{said}",
        plan.command(),
        least.command()
    );
}

fn shrink(plan: &Plan, said: String) -> (Plan, String) {
    let mut best = (plan.clone(), said);
    let better = |best: &mut (Plan, String), smaller: Plan| {
        if smaller == best.0 {
            return false;
        }
        match attempt(&smaller) {
            Ok(_) => false,
            Err(said) => {
                *best = (smaller, said);
                true
            }
        }
    };
    for name in plan.names() {
        let mut names = best.0.names();
        names.retain(|known| *known != name);
        let fewer = best.0.only(&names);
        better(&mut best, fewer);
    }
    for halved in 1..=5 {
        let starts = (plan.starts >> halved).max(1);
        let fewer = Plan {
            starts,
            ..best.0.clone()
        };
        better(&mut best, fewer);
    }
    let (mut low, mut high) = (0, best.0.steps);
    while high - low > 1 {
        let middle = (low + high) / 2;
        let shorter = Plan {
            steps: middle,
            ..best.0.clone()
        };
        match better(&mut best, shorter) {
            true => high = middle,
            false => low = middle,
        }
    }
    best
}
