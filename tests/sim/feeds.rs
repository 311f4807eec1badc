//! Calls that are answered one piece after the other: streams of starts, and watches of a transaction
//! until its end.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::Full;
use prost::Message as _;
use proto::id::TransactionId;
use proto::lifecycle::is_end;
use proto::wire;
use proto::wire::execute_workflows_response::Answer as OfStart;
use proto::wire::orchestrator_service_server::OrchestratorService;
use tokio_stream::StreamExt as _;
use tonic::codec::Codec as _;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::calls::{Look, NOTHING_HAPPENED, id, refused_rightly};

/// What has left, and is to be looked at.
pub(crate) type Said = Rc<RefCell<Vec<Piece>>>;

/// A part of an answer.
pub(crate) enum Piece {
    OfStart(wire::ExecuteWorkflowsResponse),
    Seen(Option<wire::Transaction>),
}

/// What one call was told so far.
#[derive(Default)]
pub(crate) struct Heard {
    /// Of each start: whether it was answered with its beginning, and whether it will hear no more.
    starts: BTreeMap<u64, (bool, bool)>,
    /// Whether a watch has shown the end.
    end: bool,
}

impl Heard {
    /// Checks a piece. Gives what it acknowledges: which start, and its transaction.
    pub(crate) fn piece(
        &mut self,
        piece: Piece,
        starts: &[wire::ExecuteWorkflowRequest],
        look: &Look<'_>,
    ) -> Option<(usize, TransactionId)> {
        let piece = match piece {
            Piece::OfStart(piece) => piece,
            Piece::Seen(transaction) => {
                let transaction = transaction.expect("a transaction");
                assert!(!self.end, "something after the end: {transaction:?}");
                self.end = is_end(transaction.state());
                look.oracle
                    .may_show(id(&transaction.transaction_id), transaction.state());
                return None;
            }
        };
        let at = usize::try_from(piece.request_id).expect("a number that was given");
        let start = &starts[at];
        let (begun, over) = self.starts.entry(piece.request_id).or_default();
        assert!(!*over, "more than the last answer: {piece:?}");
        let executed = match piece.answer.expect("an answer") {
            OfStart::Started(executed) => {
                assert!(!std::mem::replace(begun, true), "begun twice: {executed:?}");
                *over = start.wait.is_none();
                executed
            }
            OfStart::Ended(executed) => {
                assert!(*begun, "ended before it began: {executed:?}");
                *over = true;
                let shown = executed.transaction.as_ref().expect("a transaction");
                assert!(is_end(shown.state()), "no end: {shown:?}");
                executed
            }
            OfStart::Refused(refused) => {
                let denied = refused.message.contains(NOTHING_HAPPENED);
                assert!(!(*begun && denied), "it did happen: {refused:?}");
                *over = true;
                let status = Status::new(Code::from_i32(refused.code), refused.message);
                refused_rightly(&status, look.store_in_trouble);
                // An unknown workflow will not get known by asking again.
                *begun |= status.code() == Code::NotFound;
                return None;
            }
        };
        let id = id(&executed.transaction_id);
        let shown = executed.transaction.expect("a transaction");
        look.oracle
            .may_acknowledge(&start.workflow, &start.idempotency_key, id);
        look.oracle.may_show(id, shown.state());
        Some((at, id))
    }

    /// Whether a stream that ended in order leaves nobody without an answer, and each start has begun.
    pub(crate) fn starts_are_answered(&self, starts: usize) -> bool {
        let over = |(_, over): &(bool, bool)| *over;
        assert!(
            self.starts.len() == starts && self.starts.values().all(over),
            "{starts} starts, of which were answered: {:?}",
            self.starts
        );
        self.starts.values().all(|(begun, _)| *begun)
    }

    /// A watch that ended in order has shown the end.
    pub(crate) fn has_seen_the_end(&self) {
        assert!(self.end, "a watch ended before its transaction");
    }
}

/// Starts over one stream, numbered from 0, after which the client says no more.
pub(crate) async fn execute_many(
    calls: impl OrchestratorService,
    starts: Vec<wire::ExecuteWorkflowRequest>,
    said: Said,
) -> Result<(), Status> {
    let mut body = BytesMut::new();
    for (request_id, start) in (0..).zip(starts) {
        let message = wire::ExecuteWorkflowsRequest {
            request_id,
            start: Some(start),
        };
        // gRPC's framing: not compressed, so long.
        body.put_u8(0);
        body.put_u32(message.encoded_len() as u32);
        message.encode(&mut body).expect("it grows");
    }
    let decoder = ProstCodec::<(), wire::ExecuteWorkflowsRequest>::default().decoder();
    let body = Full::<Bytes>::new(body.freeze());
    let requests = Streaming::new_request(decoder, body, None, None);
    let answers = calls.execute_workflows(Request::new(requests)).await?;
    let mut answers = std::pin::pin!(answers.into_inner());
    while let Some(answer) = answers.next().await {
        said.borrow_mut().push(Piece::OfStart(answer?));
    }
    Ok(())
}

/// Watches a transaction until its end.
pub(crate) async fn watch(
    calls: impl OrchestratorService,
    id: TransactionId,
    said: Said,
) -> Result<(), Status> {
    let request = wire::WatchTransactionRequest {
        transaction_id: id.to_string(),
        ..Default::default()
    };
    let changes = calls.watch_transaction(Request::new(request)).await?;
    let mut changes = std::pin::pin!(changes.into_inner());
    while let Some(change) = changes.next().await {
        said.borrow_mut().push(Piece::Seen(change?.transaction));
    }
    Ok(())
}
