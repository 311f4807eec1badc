//! Clients: they register, start with and without keys, one by one and over streams, wait for ends, repeat,
//! cancel, watch and ask, over a network that loses and doubles. What they are told is held against what
//! is durable.

use std::task::{Context, Poll, Waker};

use proto::wire;
use proto::wire::execute_workflow_request::Payload;
use tonic::Code;

use crate::calls::{Answer, Ask, Call, Look, NOTHING_HAPPENED, UnderWay, id, of, refused_rightly};
use crate::plan::Fault;
use crate::world::{What, World};

/// More than a record has that is written past the page cache.
const LARGE_BYTES: usize = 280_000;

/// A client.
#[derive(Default)]
pub(crate) struct Client {
    /// What it does until it succeeds.
    wants: Option<Ask>,
    call: Option<u64>,
    /// Whether it has watched a transaction since nothing goes wrong any more.
    watched_in_the_calm: bool,
}

impl World {
    /// A client decides what to do next.
    pub(crate) fn client(&mut self, at: usize) {
        if self.clients[at].call.is_some() {
            return;
        }
        let ask = match self.clients[at].wants.clone() {
            Some(ask) => ask,
            None => {
                let Some(ask) = self.next_ask(at) else {
                    return;
                };
                self.clients[at].wants = Some(ask.clone());
                ask
            }
        };
        let patience = self.chance.within(1_000_000, 8_000_000) + ask.wait_us();
        let until_the_end = matches!(&ask, Ask::Starts(_) | Ask::Watch(_));
        let number = self.tally.turns.wrapping_mul(1_000_003) ^ self.chance.next_u64();
        self.clients[at].call = Some(number);
        self.calls.insert(
            number,
            Call {
                client: at,
                ask,
                under_way: Vec::new(),
                arrivals: 0,
                calm: self.calm,
            },
        );
        // In the calm everything ends, and whoever waits for that hears of it.
        if !(until_the_end && self.calm) {
            self.after(patience, What::Patience(number));
        }
        if self.is_lost() {
            return;
        }
        let latency = self.latency();
        self.after(latency, What::Request(number));
        if self.has(Fault::Doubles) && self.chance.one_in(3) {
            self.tally.doubled += 1;
            let latency = self.latency();
            self.after(latency, What::Request(number));
        }
    }

    /// Whether a message gets lost.
    pub(crate) fn is_lost(&mut self) -> bool {
        let lost = self.has(Fault::Losses) && self.chance.one_in(6);
        self.tally.lost_messages += u64::from(lost);
        lost
    }

    fn next_ask(&mut self, client: usize) -> Option<Ask> {
        if let Some(workflow) = self.workflows.pop() {
            return Some(Ask::Register(Box::new(workflow)));
        }
        let known: Vec<_> = self.acknowledged.keys().copied().collect();
        let calm = self.calm;
        let watch = !known.is_empty() && calm && !self.clients[client].watched_in_the_calm;
        if watch {
            self.clients[client].watched_in_the_calm = true;
            return Some(Ask::Watch(*self.chance.pick(&known)));
        }
        match self.chance.below(12) {
            0 | 1 if !known.is_empty() && !calm => {
                let id = *self.chance.pick(&known);
                Some(Ask::Cancel(id, self.chance.one_in(2)))
            }
            2 | 3 if !known.is_empty() && !calm => Some(Ask::Status(*self.chance.pick(&known))),
            4 if !calm => Some(Ask::List),
            5 if !known.is_empty() && !calm => Some(Ask::Watch(*self.chance.pick(&known))),
            6 | 7 if self.started < self.plan.starts => {
                let many = self
                    .chance
                    .within(1, 4)
                    .min(self.plan.starts - self.started);
                Some(Ask::Starts((0..many).map(|_| self.next_start()).collect()))
            }
            _ if self.started < self.plan.starts => {
                let start = self.next_start();
                Some(Ask::Start(Box::new(start)))
            }
            _ => None,
        }
    }

    fn next_start(&mut self) -> wire::ExecuteWorkflowRequest {
        self.started += 1;
        let key = match self.chance.below(4) {
            0 => String::new(),
            // One that may have been used already, by whomever.
            1 => format!("k{}", self.chance.below(self.started)),
            _ => format!("k{}", self.started),
        };
        // Whoever has the key has the input: what is told apart is tested elsewhere.
        let of = match key.is_empty() {
            true => self.chance.below(9) as usize,
            false => key.bytes().map(usize::from).sum(),
        };
        let names = self.oracle.workflow_names();
        let workflow = match names.is_empty() {
            true => "f0".to_owned(),
            false => names[of % names.len()].clone(),
        };
        // One in some goes to the disk past the page cache.
        let large = self.plan.large && of % 7 == 3;
        let fill = "x".repeat(match large {
            true => LARGE_BYTES,
            false => [1, 30, 600][of / 3 % 3],
        });
        let waits = self.chance.one_in(3);
        let wait = waits.then(|| prost_types::Duration {
            seconds: self.chance.below(5) as i64,
            nanos: self.chance.below(1_000) as i32 * 1_000_000,
        });
        // Two without a key have nothing in common.
        let number = match key.is_empty() {
            true => self.started,
            false => 0,
        };
        let input = format!("{{\"key\":\"{key}\",\"number\":{number},\"fill\":\"{fill}\"}}");
        wire::ExecuteWorkflowRequest {
            workflow,
            idempotency_key: key,
            payload: Some(Payload::InputJson(input.into())),
            wait,
            ..Default::default()
        }
    }

    /// A request arrives at the orchestrator, if that is there.
    pub(crate) fn request(&mut self, number: u64) {
        let Some(call) = self.calls.get_mut(&number) else {
            return;
        };
        let Some(running) = &self.process.running else {
            let latency = self.latency();
            self.after(latency, What::Answer(number, None));
            return;
        };
        call.arrivals += 1;
        let wait = call.ask.wait_us();
        let under_way = UnderWay::new(running.stepped.calls(), &call.ask, self.now);
        call.under_way.push(under_way);
        if wait > 0 {
            // The runtime's timers have whole milliseconds.
            self.after(wait + 1_000, What::Waited);
        }
        self.collect_answers();
        self.wake();
    }

    /// Takes the answers that are ready.
    pub(crate) fn collect_answers(&mut self) {
        let Some(running) = &self.process.running else {
            return;
        };
        running.run_spawned();
        let mut context = Context::from_waker(Waker::noop());
        let (mut ready, mut begun) = (Vec::new(), Vec::new());
        let look = Look {
            oracle: &self.oracle,
            now: self.now,
            store_in_trouble: self.store_in_trouble,
        };
        let entered = running.runtime.enter();
        for (number, call) in &mut self.calls {
            let (ask, under_way) = (&call.ask, &mut call.under_way);
            under_way.retain_mut(|under_way| {
                let (polled, acknowledged) = under_way.poll(ask, &mut context, &look);
                begun.extend(acknowledged);
                let Poll::Ready(answer) = polled else {
                    return true;
                };
                self.tally.answered(ask, &answer);
                ready.push((*number, ask.clone(), answer));
                false
            });
        }
        drop(entered);
        if running.stepped.has_inputs() {
            self.wake();
        }
        for (of, id) in begun {
            if !self.is_lost() {
                self.acknowledged.insert(id, of);
            }
        }
        for (number, ask, answer) in ready {
            self.check(number, &ask, &answer);
            if !self.is_lost() {
                let latency = self.latency();
                self.after(latency, What::Answer(number, Some(Box::new(answer))));
            }
        }
    }

    /// What leaves is true, whether it arrives or not.
    fn check(&self, number: u64, ask: &Ask, answer: &Answer) {
        let call = &self.calls[&number];
        if let Answer::Started(Err(status))
        | Answer::Streamed(Err(status))
        | Answer::Watched(Err(status)) = answer
        {
            let rightly = !call.calm || status.code() == Code::NotFound;
            assert!(rightly, "nothing goes wrong, and {ask:?} fails: {status:?}");
            if let Some(input) = ask.keyless_input()
                && call.arrivals == 1
                && status.message().contains(NOTHING_HAPPENED)
            {
                self.oracle.may_deny(input, status);
            }
        }
        match (ask, answer) {
            (Ask::Start(start), Answer::Started(Ok(started))) => {
                let id = id(&started.transaction_id);
                self.oracle
                    .may_acknowledge(&start.workflow, &start.idempotency_key, id);
                self.shown(started.transaction.as_ref());
            }
            (Ask::Cancel(id, _), Answer::Cancelled(Ok(cancelled))) => {
                self.oracle.may_cancel(*id);
                self.shown(cancelled.transaction.as_ref());
            }
            (_, Answer::Status(Ok(status))) => self.shown(status.transaction.as_ref()),
            (_, Answer::Listed(Ok(listed))) => {
                listed
                    .transactions
                    .iter()
                    .for_each(|listed| self.shown(Some(listed)));
            }
            (Ask::Status(id), Answer::Status(Err(status)))
            | (Ask::Watch(id), Answer::Watched(Err(status)))
            | (Ask::Cancel(id, _), Answer::Cancelled(Err(status))) => {
                let lost = status.code() == Code::NotFound && self.oracle.is_retained(*id);
                assert!(
                    !lost,
                    "{id} was acknowledged and is not to be found: {status:?}"
                );
                refused_rightly(status, self.store_in_trouble);
            }
            (
                _,
                Answer::Started(Err(status))
                | Answer::Streamed(Err(status))
                | Answer::Listed(Err(status)),
            ) => refused_rightly(status, self.store_in_trouble),
            _ => {}
        }
    }

    fn shown(&self, transaction: Option<&wire::Transaction>) {
        let transaction = transaction.expect("a transaction");
        self.oracle
            .may_show(id(&transaction.transaction_id), transaction.state());
    }

    /// An answer reaches its client.
    pub(crate) fn answer(&mut self, number: u64, answer: Option<&Answer>) {
        let Some(call) = self.calls.remove(&number) else {
            return;
        };
        let done = match answer {
            Some(Answer::Started(Ok(started))) => {
                let id = id(&started.transaction_id);
                if let Ask::Start(start) = &call.ask {
                    self.acknowledged.insert(id, of(start));
                }
                true
            }
            // Without a key nobody can know, and nobody asks twice.
            Some(Answer::Started(Err(status))) => status.code() == Code::NotFound,
            Some(Answer::Registered(answer)) => answer.is_ok(),
            Some(Answer::Streamed(answer)) => *answer.as_ref().unwrap_or(&false),
            Some(_) => true,
            None => false,
        };
        let mut starts = call.ask.starts().iter();
        let keyless = starts.any(|start| start.idempotency_key.is_empty());
        self.over(call.client, done || (keyless && call.arrivals > 0));
    }

    /// A client has waited long enough.
    pub(crate) fn patience(&mut self, number: u64) {
        if let Some(call) = self.calls.get(&number) {
            assert!(
                !call.calm || call.under_way.is_empty(),
                "nothing goes wrong, and this is not answered: {:?}",
                call.ask
            );
            self.answer(number, None);
        }
    }

    fn over(&mut self, client: usize, done: bool) {
        self.clients[client].call = None;
        if done {
            self.clients[client].wants = None;
        }
        let pause = self.chance.within(1_000, 2_000_000);
        self.after(pause, What::Client(client));
    }

    /// The orchestrator is gone: nothing that it was asked is answered.
    pub(crate) fn break_calls(&mut self) {
        let mut broken = Vec::new();
        for (number, call) in &mut self.calls {
            if !call.under_way.is_empty() {
                call.under_way.clear();
                broken.push(*number);
            }
        }
        for number in broken {
            let latency = self.latency();
            self.after(latency, What::Answer(number, None));
        }
    }

    /// Whether every client has what it wants.
    pub(crate) fn clients_are_done(&self) -> bool {
        self.workflows.is_empty()
            && self.started >= self.plan.starts
            && self.clients.iter().all(|client| client.wants.is_none())
    }
}
