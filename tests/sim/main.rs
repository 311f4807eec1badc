//! A simulation that finds what nobody thought of.
//!
//! One seed makes a world: the orchestrator's own driver with its calls, sessions, journal, segment files
//! and state.db (`orchestrator::stepped`), clients, worker hosts over the Rust client's own table, and a
//! network, a disk and a clock that fail as [`plan::Fault`] lists. Nothing has a thread or a clock of its
//! own, so a seed is the same run each time.
//!
//! An observer ([`oracle::Oracle`]) reads what is durable after every turn, through every crash, and
//! holds against it what leaves for hosts and clients. At the end nothing goes wrong any more: then
//! everything has to end within bounds, and engine and state.db have to be what the log says.
//!
//! It must never be kinder than the world, know more than its observer reads, or do by itself what the
//! driver does. `make sim SEED=…` repeats a seed, `make sim SIM_SECONDS=…` tries fresh ones.
//!
//! That it bites: each of these was planted by hand, one at a time, and seeds tried from 0 upwards.
//!
//! | planted | found after |
//! |---|---|
//! | journal: an append of unknown fate is taken for durable | 3 seeds |
//! | journal: answers leave before the append of their batch | 2 seeds |
//! | lease: a start gives hosts half of theirs (`Table::restore`) | 7 seeds |
//! | fence: a result counts whoever sends it (`engine/result.rs`) | 7 seeds |
//! | trim: what is being compensated is not carried | 16 seeds |
//! | trim: hosts are not carried | 4 seeds |
//! | state.db: the replay passes over the first event after `applied` | 1 seed |
//! | state.db: hosts are not put back | 2 seeds |
//! | state.db: a write that failed is taken for done | 6 seeds |
//! | waiters: answers are made before the append (`Driver::flush`) | 391 seeds |
//! | watches: nobody is shown the end | 14 seeds |
//! | streams of starts: ends are not answered | 3 seeds |
//! | segments: of the appends at each sixteenth offset none is synced | 32 seeds |
//! | contexts: pieces are told apart by their step alone (`Remembered`) | 3 seeds |
//! | contexts: a host forgets one piece too many | 5 seeds |
//! | contexts: results that were refused are remembered | 224 seeds |
//!
//! What it found by itself: a stream that broke took with it the heartbeats that the sessions' table had
//! not heard of, so a lease could lapse early (seed 0); a flipped bit in a row of state.db was read as
//! another value; a host that held nothing and died with the orchestrator was forgotten, where state.db had
//! read the log beyond its coming; whoever waited for an end that a full disk refused was told that nothing
//! had happened, or shown no end at its end; a bit flipped in the name of a column kept the orchestrator from starting; and
//! a trim took the event that says when the log was opened while hosts still had time to come back.

#![expect(clippy::unwrap_used, reason = "tests")]

mod plan;
mod workflows;
#[path = "../../services/orchestrator/src/engine/tests/random/seen.rs"]
mod seen;
mod oracle;
mod process;
mod world;
mod calls;
mod feeds;
mod clients;
mod hosts;
mod streams;
mod faults;
mod ending;
mod shrink;
mod tally;

use std::time::{Duration, Instant};

use plan::Plan;
use tally::Tally;

/// A fourth of the seeds of each run of the tests.
fn a_fourth(which: u64) {
    let mut tally = Tally::default();
    for seed in (0..500).filter(|seed| seed % 4 == which) {
        tally.add(&shrink::run_or_tell(&Plan::of(seed)));
    }
    println!("{tally}");
}

#[test]
fn whatever_goes_wrong_all_that_was_acknowledged_ends_once_1() {
    a_fourth(0);
}

#[test]
fn whatever_goes_wrong_all_that_was_acknowledged_ends_once_2() {
    a_fourth(1);
}

#[test]
fn whatever_goes_wrong_all_that_was_acknowledged_ends_once_3() {
    a_fourth(2);
}

#[test]
fn whatever_goes_wrong_all_that_was_acknowledged_ends_once_4() {
    a_fourth(3);
}

/// Without this no seed would repeat what it found.
#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 1_000..1_020 {
        let plan = Plan::of(seed);
        let (first, again) = (shrink::run_or_tell(&plan), shrink::run_or_tell(&plan));
        assert_eq!(first.fingerprint, again.fingerprint, "{}", plan.command());
        assert_eq!(
            format!("{first:?}"),
            format!("{again:?}"),
            "{}",
            plan.command()
        );
    }
}

/// `make sim`: the seed that is named, or fresh ones for as long as was asked.
#[test]
#[ignore = "make sim runs it"]
fn what_make_sim_asks_for() {
    let asked = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let number = |name: &str| {
        asked(name).map(|text| {
            text.parse::<u64>()
                .unwrap_or_else(|_| panic!("{name} is {text:?}"))
        })
    };
    if let Some(seed) = number("SEED") {
        let mut plan = Plan::of(seed);
        if let Some(names) = asked("FAULTS") {
            let names: Vec<_> = names.split(',').collect();
            plan = plan.only(&names);
        }
        plan.starts = number("STARTS").unwrap_or(plan.starts);
        plan.steps = number("STEPS").unwrap_or(plan.steps);
        println!("faults: {}", plan.names().join(","));
        println!("{}", shrink::run_or_tell(&plan));
        return;
    }
    let until = Instant::now() + Duration::from_secs(number("SIM_SECONDS").unwrap_or(60));
    let try_seeds = || {
        let mut tally = Tally::default();
        let mut seeds = tests::chance::Chance::new();
        while Instant::now() < until {
            // Short enough to be typed.
            let seed = seeds.next_u64() >> 24;
            tally.add(&shrink::run_or_tell(&Plan::of(seed)));
        }
        tally
    };
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let tallies: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(try_seeds)).collect();
        running
            .into_iter()
            .map(std::thread::ScopedJoinHandle::join)
            .collect()
    });
    let mut tally = Tally::default();
    for tried in tallies {
        tally.add(&tried.expect("the simulation found something; see above"));
    }
    println!("{tally}");
}
