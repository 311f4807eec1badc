//! The world: one heap of what happens when, one orchestrator, its clients, its hosts, and what goes
//! wrong. Nothing here has a thread or a clock; the same plan is the same run.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use proto::id::{HostId, Time, TransactionId};
use proto::wire;
use tests::chance::Chance;

use crate::calls::{Answer, Call};
use crate::clients::Client;
use crate::hosts::Host;
use crate::oracle::Oracle;
use crate::plan::{Fault, Plan};
use crate::process::{Process, StoreFate};
use crate::streams::{Down, Up};
use crate::tally::Tally;
use crate::workflows::workflows;

/// When the world begins, by its wall clock.
const BEGINNING_US: i64 = 1_700_000_000_000_000;

/// Something that happens.
pub(crate) enum What {
    /// The loop turns; of an older number: it was woken before.
    Turn(u64),
    /// state.db takes what was handed over.
    Rows,
    /// A client does the next thing.
    Client(usize),
    /// A request arrives.
    Request(u64),
    /// An answer arrives; none: the connection broke.
    Answer(u64, Option<Box<Answer>>),
    /// A call's wait is over.
    Waited,
    /// A client has waited long enough.
    Patience(u64),
    /// A host does the next thing.
    Host(usize),
    /// A host's message, or the end of its stream, arrives.
    Up(usize, u64, Box<Up>),
    /// What a host is told arrives.
    Down(usize, u64, Box<Down>),
    /// A heartbeat arrives.
    Beat(usize, u64),
    /// A handler is done; of an older life of its host: nobody cares.
    Done(usize, u64, Box<wire::CommandResult>),
    /// Something goes wrong.
    Fault,
    /// The disk has room again.
    Room,
    /// state.db can be written again.
    RoomForRows,
    /// The orchestrator starts again.
    Restart,
}

struct Due {
    at: i64,
    number: u64,
    what: What,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// Everything.
pub(crate) struct World {
    pub(crate) plan: Plan,
    /// By the world's own clock.
    pub(crate) now: i64,
    heap: BinaryHeap<Reverse<Due>>,
    number: u64,
    /// Of the network and everything that has no own.
    pub(crate) chance: Chance,
    pub(crate) process: Process,
    pub(crate) oracle: Oracle,
    pub(crate) clients: Vec<Client>,
    pub(crate) calls: BTreeMap<u64, Call>,
    pub(crate) acknowledged: BTreeMap<TransactionId, (String, String)>,
    pub(crate) started: u64,
    pub(crate) hosts: Vec<Host>,
    pub(crate) workflows: Vec<wire::Workflow>,
    pub(crate) tally: Tally,
    /// True: nothing goes wrong any more.
    pub(crate) calm: bool,
    /// The orchestrator does nothing before this.
    pub(crate) still_until: i64,
    /// The next turn's number: one that was planned before has another.
    turn: u64,
    turn_at: i64,
    /// When the loop last stood still, or began, by its own clock.
    since: Time,
    turned: Time,
    pub(crate) disk_in_trouble: bool,
    pub(crate) store_in_trouble: bool,
    rows_planned: bool,
}

impl World {
    pub(crate) fn new(plan: &Plan) -> Self {
        let mut chance = Chance::seeded(plan.seed);
        let workflows = workflows(&mut Chance::seeded(plan.seed ^ 0xf10e));
        let process = Process::new(plan);
        let oracle = Oracle::new(process.config.sessions.lease.as_micros() as u64);
        let hosts = Host::some(plan, &mut chance);
        let clients = (0..chance.within(1, 4))
            .map(|_| Client::default())
            .collect();
        let mut world = Self {
            plan: plan.clone(),
            now: BEGINNING_US,
            heap: BinaryHeap::new(),
            number: 0,
            chance,
            process,
            oracle,
            clients,
            calls: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            started: 0,
            hosts,
            workflows,
            tally: Tally::default(),
            calm: false,
            still_until: 0,
            turn: 0,
            turn_at: i64::MAX,
            since: Time(0),
            turned: Time(0),
            disk_in_trouble: false,
            store_in_trouble: false,
            rows_planned: false,
        };
        world.after(0, What::Restart);
        for at in 0..world.hosts.len() {
            let delay = world.chance.below(2_000_000);
            world.after(delay, What::Host(at));
        }
        for at in 0..world.clients.len() {
            let delay = world.chance.below(1_000_000);
            world.after(delay, What::Client(at));
        }
        world.after(1_000_000, What::Fault);
        world
    }

    pub(crate) fn has(&self, fault: Fault) -> bool {
        !self.calm && self.plan.has(fault)
    }

    /// Plans something.
    pub(crate) fn after(&mut self, micros: u64, what: What) {
        self.at(self.now.saturating_add_unsigned(micros), what);
    }

    /// The same, at a time.
    pub(crate) fn at(&mut self, at: i64, what: What) {
        self.number += 1;
        let number = self.number;
        self.heap.push(Reverse(Due { at, number, what }));
    }

    /// How long a message is on its way.
    pub(crate) fn latency(&mut self) -> u64 {
        let slow = self.has(Fault::Delays) && self.chance.one_in(8);
        match slow {
            true => self.chance.below(6_000_000),
            false => self.chance.within(50, 3_000),
        }
    }

    /// The next thing happens. False when there is none.
    pub(crate) fn step(&mut self) -> bool {
        let Some(Reverse(mut due)) = self.heap.pop() else {
            return false;
        };
        let reaches = matches!(
            due.what,
            What::Turn(_)
                | What::Rows
                | What::Request(_)
                | What::Waited
                | What::Up(..)
                | What::Beat(..)
        );
        if reaches && due.at < self.still_until {
            // It lies unread until the process goes on, in its order.
            due.at = self.still_until;
            self.heap.push(Reverse(due));
            return true;
        }
        let passed = u64::try_from(due.at - self.now).unwrap_or(0);
        self.now = self.now.max(due.at);
        self.process.pass(passed);
        self.happen(due.what);
        true
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Turn(number) if number == self.turn => self.turn(),
            What::Turn(_) => {}
            What::Rows => self.rows(),
            What::Client(at) => self.client(at),
            What::Request(call) => self.request(call),
            What::Answer(call, answer) => self.answer(call, answer.as_deref()),
            What::Waited => self.collect_answers(),
            What::Patience(call) => self.patience(call),
            What::Host(at) => self.host(at),
            What::Up(at, stream, up) => self.up(at, stream, *up),
            What::Down(at, stream, down) => self.down(at, stream, *down),
            What::Beat(at, stream) => self.beat(at, stream),
            What::Done(at, life, result) => self.done(at, life, *result),
            What::Fault => self.fault(),
            What::Room => self.room(),
            What::RoomForRows => self.process.refuse_rows(false),
            What::Restart => self.restart(),
        }
    }

    /// Something reached the orchestrator: the loop takes it in a moment, with what comes meanwhile.
    pub(crate) fn wake(&mut self) {
        if let Some(running) = &mut self.process.running {
            running.stepped.run_tasks();
            let delay = match self.chance.one_in(3) {
                true => 0,
                false => self.chance.below(400),
            };
            self.plan_turn(delay);
        }
    }

    fn plan_turn(&mut self, delay: u64) {
        let at = self.now.saturating_add_unsigned(delay);
        // An earlier one stands.
        if at < self.turn_at {
            self.turn += 1;
            self.turn_at = at;
            self.at(at, What::Turn(self.turn));
        }
    }

    /// One turn of the loop, and everything that may be said after it.
    fn turn(&mut self) {
        self.turn_at = i64::MAX;
        let Some(running) = &mut self.process.running else {
            return;
        };
        let now = Time(running.clock.now_micros());
        if now.since_us(self.turned) > 900_000 {
            self.since = now;
        }
        self.turned = now;
        let turned = running.stepped.turn();
        if self.process.disk.is_dead() {
            // It died within the turn: what it had let out by then got nowhere.
            self.tally.deaths += 1;
            self.end_process(StoreFate::Kept);
            return;
        }
        let log = running.log.clone();
        self.oracle.catch_up(&log);
        self.tally.turns += 1;
        self.collect();
        if let Err(ended) = turned {
            assert!(
                self.disk_in_trouble || self.store_in_trouble,
                "the orchestrator ended without a reason: {ended}"
            );
            self.tally.failures += 1;
            let kept = [StoreFate::Kept, StoreFate::Damaged][usize::from(self.store_in_trouble)];
            self.end_process(kept);
            return;
        }
        if !self.disk_in_trouble {
            let heartbeat = self.process.config.sessions.heartbeat_interval.as_micros() as u64;
            self.oracle
                .nobody_is_overdue(now, self.since, heartbeat + 2_000_000);
        } else {
            self.since = now;
        }
        self.go_on();
    }

    /// When the loop turns next by itself, and state.db is written.
    fn go_on(&mut self) {
        let Some(running) = &mut self.process.running else {
            return;
        };
        // A process that did not end in itself would otherwise turn without end.
        let wait = running.stepped.wait().as_micros() as u64;
        self.plan_turn(wait.max(1));
        if !std::mem::replace(&mut self.rows_planned, true) {
            let slow = self.has(Fault::StoreSlow) && self.chance.one_in(3);
            let delay = match slow {
                true => self.chance.below(20_000_000),
                false => self.chance.below(5_000),
            };
            self.after(delay, What::Rows);
        }
    }

    fn rows(&mut self) {
        self.rows_planned = false;
        if let Some(running) = &mut self.process.running
            && running.stepped.write_rows()
        {
            self.tally.handovers += 1;
            self.wake();
        }
    }

    /// Everything that left goes on its way.
    fn collect(&mut self) {
        self.collect_answers();
        self.collect_messages();
    }

    /// The process is gone, whatever ended it; another will come.
    pub(crate) fn end_process(&mut self, fate: StoreFate) {
        let mut chance = Chance::seeded(self.chance.next_u64());
        self.process.kill(fate, &mut chance);
        self.after_the_end();
    }

    /// The same with the whole machine.
    pub(crate) fn cut_power(&mut self) {
        let mut chance = Chance::seeded(self.chance.next_u64());
        self.process.cut_power(&mut chance);
        self.after_the_end();
    }

    fn after_the_end(&mut self) {
        self.store_in_trouble = false;
        self.rows_planned = false;
        self.break_calls();
        self.break_streams();
        let delay = match self.has(Fault::Kills) && self.chance.one_in(4) {
            true => self.chance.below(40_000_000),
            false => self.chance.below(2_000_000),
        };
        self.after(delay, What::Restart);
    }

    fn restart(&mut self) {
        if self.process.running.is_some() {
            return;
        }
        let skew = match self.has(Fault::ClockJumps) && self.chance.one_in(2) {
            // An hour, or ten years, either way.
            true => {
                let far = *self.chance.pick(&[3_600_000_000, 315_360_000_000_000]);
                [-far, far][self.chance.below(2) as usize]
            }
            false => 0,
        };
        let started = self.process.start(self.now + skew);
        let died = self.process.disk.is_dead();
        if let Err(ended) = &started {
            assert!(
                died || self.disk_in_trouble || self.store_in_trouble,
                "the orchestrator does not start: {ended}"
            );
        }
        if died || started.is_err() {
            self.end_process(StoreFate::Kept);
            return;
        }
        let Some(running) = &self.process.running else {
            return;
        };
        let (log, now) = (running.log.clone(), Time(running.clock.now_micros()));
        self.oracle.survived(&log);
        self.oracle.catch_up(&log);
        // Its own word of its start may have found no room.
        self.oracle.hear_all(now);
        (self.since, self.turned) = (now, now);
        self.turn_at = i64::MAX;
        self.tally.starts += 1;
        self.equals_a_refold();
        self.go_on();
    }

    /// The host's name.
    pub(crate) fn host_id(&self, at: usize) -> HostId {
        self.hosts[at].id.clone()
    }
}
