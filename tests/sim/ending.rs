//! A run from its beginning to its end, and what must hold there: everything that was acknowledged has
//! its one end, and every view is a refold of the log.

use std::collections::{BTreeMap, BTreeSet};

use eventlog::Reader;
use orchestrator::engine::{Snapshot, State};
use orchestrator::stepped::StoredRow;
use proto::batch::{Stored, decode};
use proto::event::Kind;
use proto::id::TransactionId;
use proto::lifecycle;

use crate::plan::Plan;
use crate::tally::Tally;
use crate::world::World;

/// How long everything may take to end once nothing goes wrong any more.
const CALM_US: i64 = 3_600_000_000;
/// How long the last rows may take.
const ROWS_US: i64 = 5_000_000;

/// Runs a plan; panics at what may not be.
pub(crate) fn run(plan: &Plan) -> Tally {
    let mut world = World::new(plan);
    for _ in 0..plan.steps {
        if !world.step() || world.clients_are_done() && world.chance.one_in(200) {
            break;
        }
    }
    world.become_calm();
    world.converge();
    world.finish()
}

impl World {
    fn converge(&mut self) {
        let end = self.now + CALM_US;
        while !self.is_over() {
            assert!(
                self.step(),
                "nothing is left to happen: {}",
                self.unfinished()
            );
            assert!(self.now < end, "it does not end: {}", self.unfinished());
        }
        let end = self.now + ROWS_US;
        while self.now < end && self.step() {}
    }

    fn is_over(&self) -> bool {
        self.clients_are_done()
            && self
                .oracle
                .transactions()
                .all(|(_, state)| lifecycle::is_end(state))
            && self
                .process
                .running
                .as_ref()
                .is_some_and(|running| running.stepped.state().live().is_empty())
    }

    fn unfinished(&self) -> String {
        let live: Vec<_> = self
            .oracle
            .transactions()
            .filter(|(_, state)| !lifecycle::is_end(*state))
            .collect();
        let engine = self.process.running.as_ref().map(|running| {
            let state = running.stepped.state();
            format!(
                "{:?} queued {:?} due {:?}",
                state.live(),
                state.queued(),
                state.next_due()
            )
        });
        let hosts: Vec<_> = self.hosts.iter().map(crate::hosts::Host::shown).collect();
        format!("{live:?}; the engine has {engine:?}; hosts: {hosts:?}")
    }

    fn finish(mut self) -> Tally {
        self.equals_a_refold();
        let running = self.process.running.as_ref().expect("it runs");
        let state = running.stepped.state();
        assert_eq!(state.queued_count(), 0, "commands wait for nobody");
        assert_eq!(state.next_due(), None, "a timer is left");
        assert!(state.hosts().iter().all(|(_, held)| held.is_empty()));
        for id in self.acknowledged.keys() {
            let end = self.oracle.seen.get(id).and_then(|seen| seen.end);
            assert!(end.is_some(), "{id} was acknowledged and has no end");
        }
        // Every row, not only those that memory has let go of.
        let (folded, _) = refold(&running.log, state);
        let rows: BTreeMap<_, _> = rows(&running.stepped);
        let known: BTreeSet<_> = folded.live().into_iter().chain(folded.ended()).collect();
        assert_eq!(known, rows.keys().copied().collect(), "rows and log differ");
        for (id, row) in rows {
            assert_same(
                &format!("the row of {id}"),
                &shown_row(&row),
                &shown(&folded, &id),
            );
        }
        running.log.verify(&mut |_| {}).expect("the chain holds");
        self.tally.seeds = 1;
        self.tally.transactions = self.oracle.transactions().count() as u64;
        self.tally.events = self.oracle.events;
        self.tally.lost_commands = self.oracle.lost;
        self.tally.refused_results = self.oracle.refused;
        self.tally.carried = self.oracle.carried;
        self.tally.fingerprint = self.oracle.fingerprint;
        if let Some(running) = self.process.running.take() {
            running.stepped.stop().expect("it ends in order");
        }
        self.tally
    }

    /// What the orchestrator has, in memory and in rows, is what the log says.
    pub(crate) fn equals_a_refold(&self) {
        let Some(running) = &self.process.running else {
            return;
        };
        let state = running.stepped.state();
        let (folded, definitions) = refold(&running.log, state);
        assert_eq!(state.live(), folded.live(), "live transactions");
        assert_eq!(state.hosts(), folded.hosts(), "hosts and what they have");
        assert_eq!(state.queued(), folded.queued(), "what waits");
        assert_eq!(
            state.queued_count(),
            folded.queued_count(),
            "how much waits"
        );
        assert_eq!(state.next_due(), folded.next_due(), "timers");
        let known: BTreeSet<_> = state
            .definitions()
            .map(|(workflow, _)| (workflow.name.clone(), workflow.version))
            .collect();
        assert_eq!(known, definitions, "definitions");
        let rows = match folded.ended().iter().all(|id| state.snapshot(id).is_some()) {
            true => BTreeMap::new(),
            false => rows(&running.stepped),
        };
        for id in folded.live().into_iter().chain(folded.ended()) {
            let wanted = shown(&folded, &id);
            let found = match state.snapshot(&id) {
                Some(snapshot) => shown_snapshot(&snapshot),
                // It has left memory, so its row is there.
                None => rows.get(&id).map(shown_row).unwrap_or_default(),
            };
            assert_same(&format!("transaction {id}"), &found, &wanted);
        }
    }
}

fn rows(stepped: &orchestrator::stepped::Stepped) -> BTreeMap<TransactionId, StoredRow> {
    let rows = stepped.rows().expect("state.db reads");
    rows.into_iter().map(|row| (row.id, row)).collect()
}

type Definitions = BTreeSet<(proto::id::WorkflowName, u32)>;

/// The log from its oldest event, folded anew.
fn refold(log: &Reader, like: &State) -> (State, Definitions) {
    let bounds = log.bounds();
    let mut events: Vec<Stored> = Vec::new();
    let mut from = bounds.oldest;
    while from < bounds.next {
        for record in log.read(from, 1 << 20, true).expect("the log reads") {
            let decoded = decode(&record.events, Some(&record.payloads)).expect("it decodes");
            events.extend(decoded.events);
            from = record.end();
        }
    }
    let mut state = State::new(like.limits().clone());
    let mut definitions = Definitions::new();
    for stored in &events {
        if let Kind::WorkflowRegistered(workflow) = &stored.event.kind {
            definitions.insert((workflow.name.clone(), workflow.version));
            // A trim carries them behind those who run them.
            if bounds.oldest > 0 {
                state.restore_definition(workflow, stored.offset);
            }
        }
    }
    for stored in events {
        state.replay(stored.offset, stored.event).expect("it folds");
    }
    (state, definitions)
}

fn shown(state: &State, id: &TransactionId) -> String {
    state
        .snapshot(id)
        .as_ref()
        .map(shown_snapshot)
        .unwrap_or_default()
}

fn shown_snapshot(snapshot: &Snapshot) -> String {
    format!(
        "{} from {} until {:?}: {:#?}",
        snapshot.workflow.name, snapshot.first_offset, snapshot.updated, snapshot.carried
    )
}

fn shown_row(row: &StoredRow) -> String {
    format!(
        "{} from {} until {:?}: {:#?}",
        row.workflow, row.first_offset, row.update_time, row.carried
    )
}

/// Says where two texts part, and what stands around there.
fn assert_same(what: &str, found: &str, wanted: &str) {
    if found == wanted {
        return;
    }
    let (left, right): (Vec<_>, Vec<_>) = (found.lines().collect(), wanted.lines().collect());
    let parts = left
        .iter()
        .zip(&right)
        .position(|(left, right)| left != right);
    let from = parts
        .unwrap_or(left.len().min(right.len()))
        .saturating_sub(12);
    let near = |lines: &[&str]| {
        lines[from.min(lines.len())..]
            .iter()
            .take(24)
            .copied()
            .collect::<Vec<_>>()
            .join("\n")
    };
    panic!(
        "{what} is\n{}\nand the log says\n{}",
        near(&left),
        near(&right)
    );
}
