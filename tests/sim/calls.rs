//! A call from a client's decision to its answer, and what its answer may be.

use std::pin::Pin;
use std::task::{Context, Poll};

use proto::id::TransactionId;
use proto::lifecycle;
use proto::wire;
use proto::wire::execute_workflow_request::Payload;
use proto::wire::orchestrator_service_server::OrchestratorService;
use proto::wire::register_workflow_request::Source;
use tonic::{Code, Request, Status};

use crate::feeds::{self, Heard, Said};
use crate::oracle::Oracle;

/// What a refusal says of a batch that never was.
pub(crate) const NOTHING_HAPPENED: &str = "nothing of this happened";

/// What a client asks for.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Register(Box<wire::Workflow>),
    Start(Box<wire::ExecuteWorkflowRequest>),
    /// Starts over one stream.
    Starts(Vec<wire::ExecuteWorkflowRequest>),
    Cancel(TransactionId, bool),
    Watch(TransactionId),
    Status(TransactionId),
    List,
}

/// What it is answered.
pub(crate) enum Answer {
    Registered(Result<wire::RegisterWorkflowResponse, Status>),
    Started(Result<wire::ExecuteWorkflowResponse, Status>),
    /// Whether every start of a stream has begun.
    Streamed(Result<bool, Status>),
    Cancelled(Result<wire::CancelTransactionResponse, Status>),
    Watched(Result<(), Status>),
    Status(Result<wire::GetStatusResponse, Status>),
    Listed(Result<wire::ListTransactionsResponse, Status>),
}

/// A call from its client's decision to its answer.
pub(crate) struct Call {
    pub(crate) client: usize,
    pub(crate) ask: Ask,
    /// The request reached the orchestrator, perhaps twice, and is being answered.
    pub(crate) under_way: Vec<UnderWay>,
    /// How often the request arrived.
    pub(crate) arrivals: u32,
    /// It was made when nothing went wrong any more.
    pub(crate) calm: bool,
}

/// A request that is being answered.
pub(crate) struct UnderWay {
    answering: Pin<Box<dyn Future<Output = Answer>>>,
    said: Said,
    heard: Heard,
    /// Before this, an answer that waited shows an end.
    waits_until: i64,
}

impl Ask {
    /// How long it is to wait for an end, in microseconds.
    pub(crate) fn wait_us(&self) -> u64 {
        match self {
            Self::Start(start) => start.wait.map_or(0, |wait| {
                wait.seconds as u64 * 1_000_000 + wait.nanos as u64 / 1_000
            }),
            _ => 0,
        }
    }

    /// The input of a start without a key, of which nobody can know but by the answer.
    pub(crate) fn keyless_input(&self) -> Option<&[u8]> {
        match self {
            Self::Start(start) if start.idempotency_key.is_empty() => match &start.payload {
                Some(Payload::InputJson(input)) => Some(input),
                _ => None,
            },
            _ => None,
        }
    }

    pub(crate) fn starts(&self) -> &[wire::ExecuteWorkflowRequest] {
        match self {
            Self::Start(start) => std::slice::from_ref(start),
            Self::Starts(starts) => starts,
            _ => &[],
        }
    }
}

/// What answers are held against.
pub(crate) struct Look<'a> {
    pub(crate) oracle: &'a Oracle,
    pub(crate) now: i64,
    pub(crate) store_in_trouble: bool,
}

/// A start, and the transaction that it was acknowledged with.
pub(crate) type Acknowledged = ((String, String), TransactionId);

impl UnderWay {
    /// A request that arrived at `now`.
    pub(crate) fn new(calls: impl OrchestratorService, asked: &Ask, now: i64) -> Self {
        let said = Said::default();
        Self {
            answering: ask(calls, asked.clone(), said.clone()),
            said,
            heard: Heard::default(),
            waits_until: now.saturating_add_unsigned(asked.wait_us()),
        }
    }

    /// Goes on, and gives what it acknowledged one by one.
    pub(crate) fn poll(
        &mut self,
        ask: &Ask,
        context: &mut Context<'_>,
        look: &Look<'_>,
    ) -> (Poll<Answer>, Vec<Acknowledged>) {
        let mut polled = self.answering.as_mut().poll(context);
        let starts = ask.starts();
        let mut acknowledged = Vec::new();
        for piece in self.said.take() {
            let begun = self.heard.piece(piece, starts, look);
            acknowledged.extend(begun.map(|(at, id)| (of(&starts[at]), id)));
        }
        match &mut polled {
            Poll::Ready(Answer::Streamed(Ok(all))) => {
                *all = self.heard.starts_are_answered(starts.len());
            }
            Poll::Ready(Answer::Watched(Ok(()))) => self.heard.has_seen_the_end(),
            Poll::Ready(Answer::Started(Ok(started))) => {
                let shown = started.transaction.as_ref().expect("a transaction");
                assert!(
                    lifecycle::is_end(shown.state()) || look.now >= self.waits_until,
                    "a wait was cut short: {shown:?}"
                );
            }
            _ => {}
        }
        (polled, acknowledged)
    }
}

pub(crate) fn id(text: &str) -> TransactionId {
    TransactionId::parse(text).expect("a transaction's id")
}

/// What names a start for good, if it has a key.
pub(crate) fn of(start: &wire::ExecuteWorkflowRequest) -> (String, String) {
    (start.workflow.clone(), start.idempotency_key.clone())
}

/// Nothing here is anybody's bug but a fault's.
pub(crate) fn refused_rightly(status: &Status, store_in_trouble: bool) {
    let bug = matches!(
        status.code(),
        Code::Internal | Code::Unknown | Code::AlreadyExists | Code::InvalidArgument
    );
    assert!(!bug || store_in_trouble, "{status:?}");
}

fn ask(
    calls: impl OrchestratorService,
    ask: Ask,
    said: Said,
) -> Pin<Box<dyn Future<Output = Answer>>> {
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
            Ask::Starts(starts) => {
                let streamed = feeds::execute_many(calls, starts, said).await;
                Answer::Streamed(streamed.map(|()| false))
            }
            Ask::Watch(id) => Answer::Watched(feeds::watch(calls, id, said).await),
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
