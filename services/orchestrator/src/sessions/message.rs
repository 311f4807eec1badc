//! A message to a host as its bytes, written as it fills: commands and acknowledgements are most of
//! what leaves, and nobody between the engine and the wire looks at them again.

use bytes::Bytes;
use prost::Message as _;
use proto::id::CommandId;
use proto::wire;
use proto::write::{self, Output as _, Rope};
use tonic::Status;

use crate::engine::Outgoing;
use crate::grpc::written::Written;

/// The bytes of a `ConnectResponse`. What is written later goes behind what came before, as if the
/// one message were several merged.
#[derive(Debug, Default)]
pub(crate) struct HostMessage {
    rope: Rope,
    scratch: Vec<u8>,
}

impl HostMessage {
    /// The orchestrator is going away.
    pub(crate) fn goodbye() -> Self {
        let mut message = Self::default();
        message.add(&wire::ConnectResponse {
            draining: true,
            ..Default::default()
        });
        message
    }

    /// How many bytes it has.
    pub(crate) fn len(&self) -> usize {
        self.rope.written()
    }

    /// The message as the generated type.
    pub(crate) fn into_wire(self) -> Result<wire::ConnectResponse, Status> {
        let bytes = self.rope.into_parts().concat();
        wire::ConnectResponse::decode(Bytes::from(bytes))
            .map_err(|error| Status::internal(error.to_string()))
    }

    /// Adds what is in a message of the generated type.
    pub(crate) fn add(&mut self, message: &wire::ConnectResponse) {
        message.encode_raw(self.rope.bytes());
    }

    /// Adds a command, whose pieces have these ids.
    pub(crate) fn command(&mut self, outgoing: &Outgoing, context_ids: &[u64]) {
        let command = &mut self.scratch;
        command.clear();
        write::message(command, 1, |out| outgoing.id.write(out));
        write::text(command, 2, outgoing.worker.as_str());
        write::duration(command, 4, outgoing.timeout_us);
        write::number(command, 5, outgoing.id.attempt.into());
        if let Some(undo) = &outgoing.undo {
            write::message(command, 6, |out| {
                write::bytes(out, 1, &undo.result);
                write::failure(out, 2, Some(&undo.failure));
            });
        }
        write::text(command, 7, &outgoing.trace_parent);
        write::text(command, 8, outgoing.workflow.as_str());
        write::numbers(command, 9, context_ids);
        // Last, so that nobody moves them once they are written.
        let pieces: usize = (outgoing.context.iter())
            .map(|piece| piece.json.len())
            .map(|bytes| 1 + prost::length_delimiter_len(bytes) + bytes)
            .sum();
        write::length(&mut self.rope, 2, command.len() + pieces);
        self.rope.bytes().extend_from_slice(command);
        for piece in &outgoing.context {
            write::repeated_payload(&mut self.rope, 3, &piece.json);
        }
    }

    /// Adds the request to stop a command.
    pub(crate) fn cancel(&mut self, command: &CommandId) {
        write::message(&mut self.rope, 3, |out| {
            write::message(out, 1, |out| command.write(out));
        });
    }

    /// Adds what became of a result, and by which id it is to be remembered.
    pub(crate) fn acknowledge(
        &mut self,
        command_id: &str,
        refused_reason: &str,
        message: &str,
        context_id: u64,
    ) {
        write::message(&mut self.rope, 4, |out| {
            write::text(out, 1, command_id);
            write::text(out, 2, refused_reason);
            write::text(out, 3, message);
            write::number(out, 4, context_id);
        });
    }

    /// Adds the request to forget pieces with smaller ids.
    pub(crate) fn forget_below(&mut self, id: u64) {
        write::number(&mut self.rope, 6, id);
    }
}

impl Written for HostMessage {
    fn put(self, out: &mut Rope) {
        out.join(self.rope);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proto::convert::us_to_duration;
    use proto::event::Failure;
    use proto::id::{StepName, TransactionId, WorkerName, WorkflowName};

    use super::*;
    use crate::engine::{OutgoingUndo, Piece};

    #[test]
    fn what_is_written_is_what_the_generated_type_says() {
        let id = CommandId {
            transaction: TransactionId([7; 16]),
            step: StepName::parse("pay").unwrap(),
            undo: true,
            attempt: 3,
        };
        let large = Bytes::from(vec![b'x'; write::LARGE_BYTES]);
        let piece = |json| Piece { step: None, json };
        let failure = Failure {
            kind: "Refused".to_owned(),
            message: "no stock".to_owned(),
            detail: "x".repeat(200),
        };
        let outgoing = Outgoing {
            id: id.clone(),
            worker: WorkerName::parse("payer").unwrap(),
            workflow: WorkflowName::parse("orders").unwrap(),
            context: vec![
                piece(Bytes::from_static(b"{}")),
                piece(large),
                piece(Bytes::new()),
            ],
            timeout_us: 1_500_000,
            undo: Some(OutgoingUndo {
                result: Bytes::from_static(b"{\"paid\":true}"),
                failure: failure.clone(),
            }),
            trace_parent: "00-trace".to_owned(),
        };
        let mut message = HostMessage::default();
        message.acknowledge("c-1", "", "", 300);
        message.command(&outgoing, &[0, 301, 299]);
        message.cancel(&id);
        message.acknowledge("c-2", "LEASE_LAPSED", "too late", 0);
        message.forget_below(300);
        message.add(&wire::ConnectResponse {
            draining: true,
            ..Default::default()
        });
        let acknowledged =
            |id: &str, reason: &str, message: &str, context_id| wire::ResultAcknowledgement {
                command_id: id.to_owned(),
                refused_reason: reason.to_owned(),
                message: message.to_owned(),
                context_id,
            };
        let command = wire::Command {
            command_id: id.text(),
            worker: "payer".to_owned(),
            context_json: outgoing
                .context
                .into_iter()
                .map(|piece| piece.json)
                .collect(),
            timeout: Some(us_to_duration(1_500_000)),
            attempt: 3,
            undo: Some(wire::UndoContext {
                result_json: outgoing.undo.unwrap().result,
                failure: Some(failure.into()),
            }),
            trace_parent: "00-trace".to_owned(),
            workflow: "orders".to_owned(),
            context_ids: vec![0, 301, 299],
        };
        let bytes = message.len();
        let told = message.into_wire().unwrap();
        assert_eq!(told.encoded_len(), bytes);
        assert_eq!(
            told,
            wire::ConnectResponse {
                welcome: None,
                commands: vec![command],
                cancels: vec![wire::CommandCancel {
                    command_id: id.text(),
                }],
                acknowledgements: vec![
                    acknowledged("c-1", "", "", 300),
                    acknowledged("c-2", "LEASE_LAPSED", "too late", 0),
                ],
                draining: true,
                forget_below: 300,
            }
        );
    }
}
