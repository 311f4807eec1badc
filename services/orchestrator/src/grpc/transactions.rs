//! GetStatus, WatchTransaction, ListTransactions, CancelTransaction.

use kit::{UnreadBytes, UnreadCounter};
use prost::Message as _;
use proto::convert::from_timestamp;
use proto::error::{Problem, Reason};
use proto::event::Cancel;
use proto::id::TransactionId;
use proto::lifecycle::TransactionState;
use proto::wire;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;

use super::render::Shown;
use super::service::{Orchestrator, bad_page_token, page_size, payload_form, store_problem};
use super::workflows::workflow_name;
use crate::inbox::{Input, View, stopping};
use crate::store::{Filter, Found};

/// The longest reason of a cancellation, in bytes; the contract says so.
const REASON_BYTES_MAX: usize = 1_024;
/// Changes that may wait for a watching client; further ones are joined.
const CHANGES_AHEAD: usize = 1;
/// The bytes of a page token: an id, and a check that it belongs to the request.
const TOKEN_BYTES: usize = 16 + 8;

type Watched = Result<wire::WatchTransactionResponse, Status>;

impl Orchestrator {
    pub(super) async fn status(
        &self,
        request: wire::GetStatusRequest,
    ) -> Result<wire::GetStatusResponse, Problem> {
        let id = TransactionId::parse(&request.transaction_id)?;
        let form = payload_form(request.payload_form)?;
        let view = self.inbox.ask(|reply| Input::Get { id, reply }).await?;
        let transaction = match view {
            Some(view) => self.complete(&view, form),
            None => self.complete_stored(id, form).await?,
        };
        Ok(wire::GetStatusResponse {
            transaction: Some(transaction),
        })
    }

    pub(super) async fn watch(
        &self,
        request: wire::WatchTransactionRequest,
        unread: Option<UnreadCounter>,
    ) -> Result<impl Stream<Item = Watched> + use<>, Problem> {
        let id = TransactionId::parse(&request.transaction_id)?;
        let form = payload_form(request.payload_form)?;
        let place = self.place_to_wait()?;
        let (messages, stream) = mpsc::channel::<(Watched, Option<UnreadBytes>)>(CHANGES_AHEAD);
        let stream = ReceiverStream::new(stream).map(|(watched, _)| watched);
        let shown = move |transaction: wire::Transaction| {
            let bytes = transaction.encoded_len() as u64;
            let unread = unread.as_ref().map(|unread| unread.count(bytes));
            let transaction = Some(transaction);
            (Ok(wire::WatchTransactionResponse { transaction }), unread)
        };
        let Some(mut changes) = self.inbox.ask(|reply| Input::Watch { id, reply }).await? else {
            let transaction = self.complete_stored(id, form).await?;
            // There is room for one, and it is the first.
            let _ = messages.try_send(shown(transaction));
            return Ok(stream);
        };
        let this = self.clone();
        tokio::spawn(async move {
            let _place = place;
            loop {
                let view: View = changes.borrow_and_update().clone();
                let transaction = this.complete(&view, form);
                if messages.send(shown(transaction)).await.is_err() || view.row.ended() {
                    return;
                }
                let more = tokio::select! {
                    biased;
                    more = changes.changed() => more.is_ok(),
                    () = this.shutdown.cancelled() => false,
                    () = messages.closed() => return,
                };
                if !more {
                    // Who went away needs no last word.
                    let _ = messages.send((Err(stopping().into()), None)).await;
                    return;
                }
            }
        });
        Ok(stream)
    }

    pub(super) async fn cancel(
        &self,
        request: wire::CancelTransactionRequest,
    ) -> Result<wire::CancelTransactionResponse, Problem> {
        let id = TransactionId::parse(&request.transaction_id)?;
        if request.reason.len() > REASON_BYTES_MAX {
            return Err(Problem::field(
                Reason::FieldInvalid,
                "reason",
                format!(
                    "reason has {} bytes; at most {REASON_BYTES_MAX} are allowed",
                    request.reason.len()
                ),
            ));
        }
        let cancel = Cancel {
            reason: request.reason,
            skip_compensation: request.skip_compensation,
        };
        let view = self
            .inbox
            .ask(|reply| Input::Cancel { id, cancel, reply })
            .await?;
        let Some(view) = view else {
            let row = self.stored(id).await?;
            return Err(Problem::new(
                Reason::TransactionEnded,
                format!(
                    "transaction {} has ended as {}, so it can't be cancelled",
                    row.id,
                    state_word(row.carried.state)
                ),
            ));
        };
        Ok(wire::CancelTransactionResponse {
            transaction: Some(self.listed(&view)),
        })
    }

    pub(super) async fn list(
        &self,
        request: wire::ListTransactionsRequest,
    ) -> Result<wire::ListTransactionsResponse, Problem> {
        let limit = page_size(request.page_size)?;
        let filter = filter_of(&request)?;
        let check = check_of(&request);
        let before = match request.page_token.as_str() {
            "" => None,
            token => Some(from_token(token, &check).ok_or_else(bad_page_token)?),
        };
        // state.db is brought up to now first, so that a list shows what was acknowledged before it.
        self.inbox.ask(|reply| Input::Checkpoint { reply }).await?;
        let found = match self.lookup.get() {
            Some(lookup) => lookup
                .list(filter, before, limit)
                .await
                .map_err(|error| store_problem(&error))?,
            None => Found::default(),
        };
        let cursor = self.cursor(self.log.bounds().next);
        let transactions = found.rows.iter().map(|row| {
            let workflow = self.catalogue.get(&row.workflow, row.carried.start.version);
            Shown {
                row,
                workflow: workflow.as_deref(),
                cursor,
                form: None,
            }
            .to_wire()
        });
        Ok(wire::ListTransactionsResponse {
            transactions: transactions.collect(),
            next_page_token: found
                .next
                .map(|next| to_token(next, &check))
                .unwrap_or_default(),
        })
    }
}

/// The state as people write it.
fn state_word(state: TransactionState) -> String {
    state
        .as_str_name()
        .trim_start_matches("TRANSACTION_STATE_")
        .to_lowercase()
}

fn filter_of(request: &wire::ListTransactionsRequest) -> Result<Filter, Problem> {
    let workflow = match request.workflow.as_str() {
        "" => None,
        name => Some(workflow_name("workflow", name)?),
    };
    let states = request
        .states
        .iter()
        .enumerate()
        .map(|(at, state)| {
            TransactionState::try_from(*state)
                .ok()
                .filter(|state| *state != TransactionState::Unspecified)
                .ok_or_else(|| {
                    let field = format!("states[{at}]");
                    Problem::field(
                        Reason::FieldInvalid,
                        &field,
                        format!("{field} is {state}, which is no state of a transaction"),
                    )
                })
        })
        .collect::<Result<_, _>>()?;
    Ok(Filter {
        workflow,
        states,
        started_after: request.started_after.as_ref().map(from_timestamp),
        labels: request.labels.clone().into_iter().collect(),
    })
}

/// What ties a token to its request.
fn check_of(request: &wire::ListTransactionsRequest) -> [u8; 8] {
    use prost::Message as _;
    let filter = wire::ListTransactionsRequest {
        page_size: 0,
        page_token: String::new(),
        ..request.clone()
    };
    let hash = blake3::hash(&filter.encode_to_vec());
    let mut check = [0; 8];
    check.copy_from_slice(&hash.as_bytes()[..8]);
    check
}

fn to_token(next: TransactionId, check: &[u8; 8]) -> String {
    let bytes = next.0.iter().chain(check);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

fn from_token(token: &str, check: &[u8; 8]) -> Option<TransactionId> {
    if token.len() != TOKEN_BYTES * 2 || !token.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let bytes: Vec<u8> = (0..TOKEN_BYTES)
        .map(|at| u8::from_str_radix(&token[at * 2..at * 2 + 2], 16).ok())
        .collect::<Option<_>>()?;
    let (id, tie) = bytes.split_at(16);
    (tie == check)
        .then(|| TransactionId::from_bytes(id))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_token_belongs_to_its_request() {
        let orders = wire::ListTransactionsRequest {
            workflow: "orders".to_owned(),
            ..Default::default()
        };
        let next = TransactionId([7; 16]);
        let token = to_token(next, &check_of(&orders));
        let later = wire::ListTransactionsRequest {
            page_size: 7,
            page_token: token.clone(),
            ..orders
        };
        assert_eq!(from_token(&token, &check_of(&later)), Some(next));
        let other = wire::ListTransactionsRequest::default();
        for wrong in [&token[1..], "", "zz", &"f".repeat(48)] {
            assert_eq!(from_token(wrong, &check_of(&later)), None);
        }
        assert_eq!(from_token(&token, &check_of(&other)), None);
    }
}
