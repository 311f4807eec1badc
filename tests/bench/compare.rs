//! Two builds beside each other, on a machine that is never twice the same: a suite of each, and the
//! load goes to one and the other in turns.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use tests::Suite;

use crate::core::{IN_FLIGHT, LOAD_WARM_UP, three_noops, timed, unmonitored};
use crate::load::Done;
use crate::turns::{TURN, alternate, median, ratio};

/// The argument that asks for it.
pub(crate) const WORD: &str = "compare";
/// In a turn in which one follows the other.
const ONES: usize = 600;

#[derive(Clone, Copy)]
enum Kind {
    Streams,
    Calls,
    OneAtATime,
}

/// Measures the builds in these folders.
pub(crate) async fn measure(folders: [&Path; 2]) -> Result<()> {
    let mut suites = Vec::new();
    for folder in folders {
        suites.push(unmonitored().binaries(folder).start().await);
    }
    let ids: Vec<_> = suites
        .iter()
        .map(|suite| (suite.orchestrator.id(), suite.host.id()))
        .collect();
    eprintln!("orchestrators and worker hosts: {ids:?}");
    for suite in &suites {
        run(suite, Kind::Streams, LOAD_WARM_UP).await?;
    }
    for (what, kind) in [
        ("streams", Kind::Streams),
        ("calls", Kind::Calls),
        ("one at a time", Kind::OneAtATime),
    ] {
        let turns = alternate(async |at| {
            let (done, each) = timed(&suites[at], run(&suites[at], kind, TURN)).await?;
            Ok((done.per_second(), each))
        })
        .await?;
        println!("{what}:");
        for (folder, turns) in folders.iter().zip(&turns) {
            let part = |at: usize| median(turns.iter().map(|(_, each)| each[at]));
            println!(
                "  {:>8.0} workflows/s  {:.4} ms each (orchestrator {:.4}, host {:.4}, callers {:.4})  {}",
                median(turns.iter().map(|(rate, _)| *rate)),
                median(turns.iter().map(|(_, each)| each.iter().sum())),
                part(0),
                part(1),
                part(2),
                folder.display()
            );
        }
        let [first, second] = &turns;
        println!(
            "  second over first, pair by pair: rate {:.3}, processor time {:.3}",
            ratio(second, first, |(rate, _)| *rate),
            ratio(second, first, |(_, each)| each.iter().sum()),
        );
    }
    Ok(())
}

async fn run(suite: &Suite, kind: Kind, time: Duration) -> Result<Done> {
    let load = three_noops(suite);
    match kind {
        Kind::Streams => load.streams(IN_FLIGHT, time).await,
        Kind::Calls => load.calls(IN_FLIGHT, time).await,
        Kind::OneAtATime => load.one_at_a_time(ONES).await,
    }
}
