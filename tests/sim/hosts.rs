//! Worker hosts: they keep their commands and results, and the pieces of contexts that they remember, in the
//! very tables that the Rust client has, over streams that keep their order until they are cut; and they
//! crash, lie, fall silent and come twice.

use std::collections::BTreeMap;

use multiagents_client::worker::remembered::Remembered;
use multiagents_client::worker::table::{Admission, Table};
use proto::convert::us_to_duration;
use proto::id::HostId;
use proto::wire;
use proto::wire::command_result::Outcome;
use proto::write::LARGE_BYTES;
use tests::chance::Chance;
use tokio_util::sync::CancellationToken;

use crate::plan::{Fault, Plan};
use crate::streams::{Stream, Up};
use crate::workflows::WORKERS;
use crate::world::{What, World};

/// One host process.
pub(crate) struct Host {
    pub(crate) id: HostId,
    pub(crate) offers: Vec<wire::OfferedWorker>,
    /// Another process that should have had a name of its own.
    twin: bool,
    pub(crate) table: Table,
    pub(crate) remembered: Remembered,
    tokens: BTreeMap<String, CancellationToken>,
    /// Rises with each crash.
    life: u64,
    /// Both ends of every stream that one end still has.
    pub(crate) streams: BTreeMap<u64, Stream>,
    /// How many there were; what is still on its way belongs to one of them.
    pub(crate) connected: u64,
    /// The one that the host itself uses.
    pub(crate) current: Option<u64>,
    pub(crate) session: Option<String>,
    pub(crate) gone_until: i64,
    silent_until: i64,
    /// Every command that it ever got.
    pub(crate) known: Vec<String>,
}

impl Host {
    pub(crate) fn some(plan: &Plan, chance: &mut Chance) -> Vec<Self> {
        let count = chance.within(1, 4);
        let mut hosts: Vec<_> = (0..count).map(|at| Self::new(at, chance)).collect();
        if plan.has(Fault::Twins) {
            let mut twin = Self::new(0, chance);
            twin.twin = true;
            hosts.push(twin);
        }
        hosts
    }

    fn new(number: u64, chance: &mut Chance) -> Self {
        let mut offers = Vec::new();
        for worker in WORKERS {
            // The first one offers everything, so that everything can end.
            if number == 0 || chance.one_in(2) {
                offers.push(wire::OfferedWorker {
                    worker: worker.to_owned(),
                    slots: chance.within(1, 4) as u32,
                });
            }
        }
        if offers.is_empty() {
            offers.push(wire::OfferedWorker {
                worker: WORKERS[0].to_owned(),
                slots: 1,
            });
        }
        Self {
            id: HostId::parse(&format!("h{number}")).expect("a name"),
            offers,
            twin: false,
            table: Table::new(10_000),
            // One has room for a few pieces, one for all, one for none.
            remembered: Remembered::new([40_000, 10_000_000, 0][number as usize % 3]),
            tokens: BTreeMap::new(),
            life: 0,
            streams: BTreeMap::new(),
            connected: 0,
            current: None,
            session: None,
            gone_until: 0,
            silent_until: 0,
            known: Vec::new(),
        }
    }

    /// Everything that it had is gone.
    fn crash(&mut self) {
        self.life += 1;
        self.table = Table::new(10_000);
        self.tokens.clear();
        self.current = None;
        self.session = None;
    }

    pub(crate) fn stream(&mut self) -> Option<&mut Stream> {
        self.streams.get_mut(&self.current?)
    }

    /// How it stands, for whoever wonders why something does not end.
    pub(crate) fn shown(&self) -> String {
        format!(
            "{} offers {:?}, stream {:?}, session {:?}, {} running, {} held",
            self.id,
            self.offers
                .iter()
                .map(|offer| (offer.worker.as_str(), offer.slots))
                .collect::<Vec<_>>(),
            self.current,
            self.session,
            self.table.running_count(),
            self.table.held_count()
        )
    }

    /// From now on it behaves.
    pub(crate) fn calm(&mut self) {
        self.silent_until = 0;
        self.gone_until = match self.twin {
            true => i64::MAX,
            false => 0,
        };
    }
}

impl World {
    /// What a host does every now and then.
    pub(crate) fn host(&mut self, at: usize) {
        let interval = self.process.config.sessions.heartbeat_interval.as_micros() as u64;
        self.after(interval, What::Host(at));
        if self.hosts[at].gone_until > self.now {
            if self.calm && self.hosts[at].current.is_some() {
                self.crash(at, i64::MAX);
            }
            return;
        }
        if self.hosts[at].current.is_none() {
            self.connect(at);
            return;
        }
        let quiet = self.hosts[at].silent_until > self.now;
        let number = self.hosts[at].current;
        if let (false, Some(number), Some(_)) = (quiet, number, &self.hosts[at].session) {
            // Heartbeats have a connection of their own.
            if !self.is_lost() {
                let latency = self.latency();
                self.after(latency, What::Beat(at, number));
            }
        }
        self.deliver(at);
        self.misbehave(at);
    }

    fn misbehave(&mut self, at: usize) {
        if self.has(Fault::Silence) && self.chance.one_in(10) {
            let length = self.chance.within(1_000_000, 25_000_000);
            self.hosts[at].silent_until = self.now.saturating_add_unsigned(length);
        }
        if self.has(Fault::HostCrashes) && self.chance.one_in(12) {
            self.tally.host_crashes += 1;
            let away = self.chance.within(10_000, 20_000_000);
            self.crash(at, self.now.saturating_add_unsigned(away));
        }
        if self.has(Fault::Losses) && self.chance.one_in(12) {
            self.cut(at);
        }
        if self.has(Fault::Lies) && self.chance.one_in(2) {
            self.lie(at);
        }
        if self.has(Fault::HostCrashes) && self.chance.one_in(20) {
            self.send(
                at,
                Up::Next(wire::ConnectRequest {
                    draining: true,
                    ..Default::default()
                }),
            );
        }
    }

    /// Sends what was not sent in this session.
    pub(crate) fn deliver(&mut self, at: usize) {
        if self.hosts[at].session.is_none() || !self.hosts[at].table.has_unsent() {
            return;
        }
        let results = self.hosts[at].table.next_results(1 << 20);
        self.send(
            at,
            Up::Next(wire::ConnectRequest {
                results,
                ..Default::default()
            }),
        );
    }

    /// Results that are not the host's, or not true.
    fn lie(&mut self, at: usize) {
        self.tally.lies += 1;
        let Some(command_id) = self.some_command() else {
            return;
        };
        let number = self.chance.below(1_000_000);
        let result = wire::CommandResult {
            command_id: command_id.clone(),
            outcome: Some(match self.chance.below(3) {
                0 => Outcome::TimedOut(wire::DeadlineExceeded {}),
                _ => Outcome::CompletedJson(format!("{{\"lie\":{number}}}").into()),
            }),
            ..Default::default()
        };
        let id = self.host_id(at);
        self.oracle.sends(&id, &result);
        let progress = wire::CommandProgress {
            command_id,
            stage: wire::Stage::Processing.into(),
        };
        self.send(
            at,
            Up::Next(wire::ConnectRequest {
                results: vec![result.clone(), result],
                progress: vec![progress],
                ..Default::default()
            }),
        );
    }

    pub(crate) fn some_command(&mut self) -> Option<String> {
        let at = self.chance.below(self.hosts.len() as u64) as usize;
        let known = &self.hosts[at].known;
        let which = self.chance.below(known.len().max(1) as u64) as usize;
        known.get(which).cloned()
    }

    pub(crate) fn crash(&mut self, at: usize, until: i64) {
        if let Some(number) = self.hosts[at].current {
            if let Some(stream) = self.hosts[at].stream() {
                stream.cut = true;
            }
            let notices = self.latency();
            self.after(notices, What::Up(at, number, Box::new(Up::End)));
        }
        self.hosts[at].crash();
        self.hosts[at].gone_until = until;
    }

    pub(crate) fn told(&mut self, at: usize, mut message: wire::ConnectResponse) {
        let host = &mut self.hosts[at];
        if let Some(welcome) = message.welcome {
            for revoked in &welcome.revoked_command_ids {
                host.table.revoke(revoked);
            }
            host.table.send_again();
            host.remembered.clear();
            host.session = Some(welcome.session_id);
        }
        for told in &message.acknowledgements {
            let done = host.table.acknowledge(&told.command_id);
            if told.context_id > 0 {
                let Some(Outcome::CompletedJson(result)) = done.and_then(|done| done.outcome)
                else {
                    panic!("{} is to remember a result that it did not send", host.id);
                };
                host.remembered.remember(told.context_id, result);
            }
        }
        for cancel in &message.cancels {
            host.table.cancel(&cancel.command_id);
        }
        let known = host.remembered.complete(&mut message.commands);
        known
            .and_then(|()| host.remembered.forget_below(message.forget_below))
            .expect("the host has what is named, and no more than it said");
        for command in message.commands {
            self.oracle.has_context(&command);
            self.run(at, command);
        }
        self.deliver(at);
    }

    fn run(&mut self, at: usize, command: wire::Command) {
        let token = CancellationToken::new();
        let host = &mut self.hosts[at];
        host.known.push(command.command_id.clone());
        match host.table.admit(&command.command_id, &token) {
            Admission::New => {}
            Admission::Known => return,
            Admission::Full => panic!("{} got more commands than it ever offered slots", host.id),
        }
        host.tokens.insert(command.command_id.clone(), token);
        let life = host.life;
        let progress =
            [wire::Stage::PickedUp, wire::Stage::Processing].map(|stage| wire::CommandProgress {
                command_id: command.command_id.clone(),
                stage: stage.into(),
            });
        self.send(
            at,
            Up::Next(wire::ConnectRequest {
                progress: progress.into(),
                ..Default::default()
            }),
        );
        let timeout = command.timeout.map_or(u64::MAX, |timeout| {
            timeout.seconds.unsigned_abs() * 1_000_000
        });
        let slow = self.has(Fault::Slowness) && self.chance.one_in(4);
        let length = match slow {
            true => self.chance.below(45_000_000),
            false => self.chance.within(100, 400_000),
        };
        let outcome = match self.chance.below(20) {
            // Its SDK ends it at its deadline, unless that host is too busy for it.
            _ if length > timeout && self.chance.one_in(2) => {
                Outcome::TimedOut(wire::DeadlineExceeded {})
            }
            0..=2 => failed(false),
            3 => failed(true),
            4 => Outcome::TimedOut(wire::DeadlineExceeded {}),
            size => {
                let number = self.chance.below(1_000_000);
                let fill = match number % 6 {
                    0 => LARGE_BYTES,
                    _ => size as usize * size as usize,
                };
                let fill = "y".repeat(fill);
                Outcome::CompletedJson(format!("{{\"n\":{number},\"fill\":\"{fill}\"}}").into())
            }
        };
        let ended = wire::CommandResult {
            command_id: command.command_id,
            wait: Some(us_to_duration(5)),
            run: Some(us_to_duration(length)),
            outcome: Some(outcome),
            began: false,
        };
        self.after(length, What::Done(at, life, Box::new(ended)));
    }

    /// A handler is done.
    pub(crate) fn done(&mut self, at: usize, life: u64, mut result: wire::CommandResult) {
        let heeds = self.chance.one_in(2);
        let host = &mut self.hosts[at];
        if host.life != life {
            return;
        }
        let token = host.tokens.remove(&result.command_id);
        if token.is_some_and(|token| token.is_cancelled()) && heeds {
            result.outcome = Some(Outcome::Cancelled(wire::Cancelled {}));
        }
        let id = host.id.clone();
        self.oracle.sends(&id, &result);
        self.hosts[at].table.finish(result);
        self.deliver(at);
    }
}

fn failed(not_retryable: bool) -> Outcome {
    Outcome::Failed(wire::CommandError {
        failure: Some(wire::Failure {
            kind: "Broken".to_owned(),
            message: "it broke".to_owned(),
            detail: String::new(),
        }),
        not_retryable,
    })
}
