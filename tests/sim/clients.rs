//! Clients: they register, start with and without keys, repeat, cancel and ask, over a network that loses
//! and doubles. What they are told is held against what is durable.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use proto::id::TransactionId;
use proto::wire;
use proto::wire::execute_workflow_request::Payload;
use proto::wire::orchestrator_service_server::OrchestratorService;
use proto::wire::register_workflow_request::Source;
use tonic::{Code, Request, Status};

use crate::plan::Fault;
use crate::world::{What, World};

/// What a client asks for.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Register(Box<wire::Workflow>),
    Start(Box<wire::ExecuteWorkflowRequest>),
    Cancel(TransactionId, bool),
    Status(TransactionId),
    List,
}

/// What it is answered.
pub(crate) enum Answer {
    Registered(Result<wire::RegisterWorkflowResponse, Status>),
    Started(Result<wire::ExecuteWorkflowResponse, Status>),
    Cancelled(Result<wire::CancelTransactionResponse, Status>),
    Status(Result<wire::GetStatusResponse, Status>),
    Listed(Result<wire::ListTransactionsResponse, Status>),
}

/// A call from its client's decision to its answer.
pub(crate) struct Call {
    client: usize,
    ask: Ask,
    /// The request reached the orchestrator, perhaps twice, and is being answered.
    under_way: Vec<Pin<Box<dyn Future<Output = Answer>>>>,
    arrived: bool,
}

/// A client.
#[derive(Default)]
pub(crate) struct Client {
    /// What it does until it succeeds.
    wants: Option<Ask>,
    call: Option<u64>,
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
                let Some(ask) = self.next_ask() else {
                    return;
                };
                self.clients[at].wants = Some(ask.clone());
                ask
            }
        };
        let number = self.tally.turns.wrapping_mul(1_000_003) ^ self.chance.next_u64();
        self.clients[at].call = Some(number);
        self.calls.insert(
            number,
            Call {
                client: at,
                ask,
                under_way: Vec::new(),
                arrived: false,
            },
        );
        let patience = self.chance.within(1_000_000, 8_000_000);
        self.after(patience, What::Patience(number));
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

    fn next_ask(&mut self) -> Option<Ask> {
        if let Some(workflow) = self.workflows.pop() {
            return Some(Ask::Register(Box::new(workflow)));
        }
        let known: Vec<_> = self.acknowledged.keys().copied().collect();
        let calm = self.calm;
        match self.chance.below(10) {
            0 | 1 if !known.is_empty() && !calm => {
                let id = *self.chance.pick(&known);
                Some(Ask::Cancel(id, self.chance.one_in(2)))
            }
            2 | 3 if !known.is_empty() && !calm => Some(Ask::Status(*self.chance.pick(&known))),
            4 if !calm => Some(Ask::List),
            _ if self.started < self.plan.starts => {
                self.started += 1;
                Some(self.next_start())
            }
            _ => None,
        }
    }

    fn next_start(&mut self) -> Ask {
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
        let fill = "x".repeat([1, 30, 600][of / 3 % 3]);
        let input = format!("{{\"key\":\"{key}\",\"fill\":\"{fill}\"}}");
        Ask::Start(Box::new(wire::ExecuteWorkflowRequest {
            workflow,
            idempotency_key: key,
            payload: Some(Payload::InputJson(input.into())),
            ..Default::default()
        }))
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
        call.arrived = true;
        let calls = running.stepped.calls();
        call.under_way.push(ask(calls, call.ask.clone()));
        self.collect_answers();
        self.wake();
    }

    /// Takes the answers that are ready.
    pub(crate) fn collect_answers(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        let mut ready = Vec::new();
        for (number, call) in &mut self.calls {
            call.under_way
                .retain_mut(|answering| match answering.as_mut().poll(&mut context) {
                    Poll::Ready(answer) => {
                        ready.push((*number, call.ask.clone(), answer));
                        false
                    }
                    Poll::Pending => true,
                });
        }
        for (number, ask, answer) in ready {
            self.check(&ask, &answer);
            if !self.is_lost() {
                let latency = self.latency();
                self.after(latency, What::Answer(number, Some(Box::new(answer))));
            }
        }
    }

    /// What leaves is true, whether it arrives or not.
    fn check(&self, ask: &Ask, answer: &Answer) {
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
            (Ask::Status(id) | Ask::Cancel(id, _), Answer::Status(Err(status)))
            | (Ask::Status(id) | Ask::Cancel(id, _), Answer::Cancelled(Err(status))) => {
                let lost = status.code() == Code::NotFound && self.oracle.is_retained(*id);
                assert!(
                    !lost,
                    "{id} was acknowledged and is not to be found: {status:?}"
                );
                self.refused_rightly(status);
            }
            (_, Answer::Started(Err(status)) | Answer::Listed(Err(status))) => {
                self.refused_rightly(status);
            }
            _ => {}
        }
    }

    /// Nothing here is anybody's bug but a fault's.
    fn refused_rightly(&self, status: &Status) {
        let bug = matches!(
            status.code(),
            Code::Internal | Code::Unknown | Code::AlreadyExists | Code::InvalidArgument
        );
        assert!(!bug || self.store_in_trouble, "{status:?}");
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
                    let of = (start.workflow.clone(), start.idempotency_key.clone());
                    self.acknowledged.insert(id, of);
                }
                true
            }
            // Without a key nobody can know, and nobody asks twice.
            Some(Answer::Started(Err(status))) => status.code() == Code::NotFound,
            Some(Answer::Registered(answer)) => answer.is_ok(),
            Some(_) => true,
            None => false,
        };
        let keyless = matches!(&call.ask, Ask::Start(start) if start.idempotency_key.is_empty());
        self.over(call.client, done || (keyless && call.arrived));
    }

    /// A client has waited long enough.
    pub(crate) fn patience(&mut self, number: u64) {
        if self.calls.contains_key(&number) {
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

fn id(text: &str) -> TransactionId {
    TransactionId::parse(text).expect("a transaction's id")
}

fn ask(calls: impl OrchestratorService, ask: Ask) -> Pin<Box<dyn Future<Output = Answer>>> {
    Box::pin(async move {
        match ask {
            Ask::Register(workflow) => {
                let request = wire::RegisterWorkflowRequest {
                    validate_only: false,
                    source: Some(Source::Workflow(*workflow)),
                };
                let answer = calls.register_workflow(Request::new(request)).await;
                Answer::Registered(answer.map(tonic::Response::into_inner))
            }
            Ask::Start(request) => {
                let answer = calls.execute_workflow(Request::new(*request)).await;
                Answer::Started(answer.map(tonic::Response::into_inner))
            }
            Ask::Cancel(id, skip_compensation) => {
                let request = wire::CancelTransactionRequest {
                    transaction_id: id.to_string(),
                    reason: String::new(),
                    skip_compensation,
                };
                let answer = calls.cancel_transaction(Request::new(request)).await;
                Answer::Cancelled(answer.map(tonic::Response::into_inner))
            }
            Ask::Status(id) => {
                let request = wire::GetStatusRequest {
                    transaction_id: id.to_string(),
                    payload_form: wire::PayloadForm::Json.into(),
                };
                let answer = calls.get_status(Request::new(request)).await;
                Answer::Status(answer.map(tonic::Response::into_inner))
            }
            Ask::List => {
                let request = wire::ListTransactionsRequest::default();
                let answer = calls.list_transactions(Request::new(request)).await;
                Answer::Listed(answer.map(tonic::Response::into_inner))
            }
        }
    })
}
