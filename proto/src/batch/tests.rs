//! The batch's bytes against the generated code, over random events of every kind.

mod arbitrary;

use proptest::collection::vec;
use proptest::prelude::*;

use bytes::Bytes;
use prost::Message as _;

use super::*;
use crate::convert;
use crate::event::{CommandEvent, Kind, Start, TransactionEvent};
use crate::id::{Time, TransactionId, WorkflowName};
use crate::payload::Payload;
use crate::wire;
use crate::write;
use arbitrary::events;

fn encode(encoder: &mut Encoder, events: &[Event], first: u64) -> (Bytes, Bytes) {
    for event in events {
        encoder.push(event);
    }
    let (bytes, payloads) = encoder.finish(first);
    let owned = (
        Bytes::copy_from_slice(bytes),
        Bytes::copy_from_slice(payloads),
    );
    encoder.clear();
    owned
}

/// What generated code would make of the event, its names found in the tables of `batch`.
fn expected_record(batch: &wire::EventBatch, event: &Event) -> wire::EventRecord {
    let place = |found: Option<usize>| found.map_or(0, |at| at as u32 + 1);
    let name = |text: &str| {
        let found = batch.names.iter().position(|known| known == text);
        assert!(found.is_some(), "{text} is missing in the table of names");
        place(found)
    };
    let mut record = wire::EventRecord {
        after_us: event.time.since_us(Time(batch.time_us)),
        kind: Some(record_kind(event)),
        ..Default::default()
    };
    match &event.kind {
        Kind::Transaction { id, workflow, .. } | Kind::Command { id, workflow, .. } => {
            let found = batch
                .transactions
                .iter()
                .position(|known| known.transaction_id == id.0[..]);
            let found = found.expect("its transaction is in the table");
            assert_eq!(
                batch.transactions[found].workflow,
                name(workflow.as_str()),
                "the transaction's workflow"
            );
            record.transaction = place(Some(found));
        }
        Kind::Host { host, .. } | Kind::ResultRefused { host, .. } => {
            record.host = name(host.as_str());
        }
        Kind::SystemSampled { host, .. } => {
            record.host = host.as_ref().map_or(0, |host| name(host.as_str()));
        }
        Kind::OrchestratorStarted { .. } | Kind::WorkflowRegistered(_) => {}
    }
    if let Kind::Command { command, what, .. } = &event.kind {
        record.step = name(command.step.as_str());
        record.worker = name(command.worker.as_str());
        record.host = command.host.as_ref().map_or(0, |host| name(host.as_str()));
        record.attempt = command.attempt;
        record.undo = command.undo;
        let timing = convert::timing(what).unwrap_or_default();
        (record.wait_us, record.run_us) = (timing.wait_us, timing.run_us);
    }
    record
}

/// The event as it reads without the payload section: sizes stand where bytes were.
fn without_payloads(mut event: Event) -> Event {
    let absent = |payload: &mut Payload| *payload = Payload::Absent(payload.size());
    match &mut event.kind {
        Kind::Transaction { what, .. } => match what {
            TransactionEvent::Started(start) => absent(&mut start.input),
            TransactionEvent::Carried(carried) => {
                absent(&mut carried.start.input);
                carried
                    .steps
                    .iter_mut()
                    .filter_map(|step| step.result.as_mut())
                    .for_each(absent);
            }
            _ => {}
        },
        Kind::Command {
            what: CommandEvent::Completed { result, .. },
            ..
        } => absent(result),
        _ => {}
    }
    event
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    /// Two batches through one encoder, so that what it keeps of the first would show in the second.
    #[test]
    fn the_bytes_are_what_the_generated_code_says(
        earlier in events(), events in events(), first in any::<u32>(),
    ) {
        let mut encoder = Encoder::default();
        encode(&mut encoder, &earlier, 0);
        let (bytes, payloads) = encode(&mut encoder, &events, first.into());
        let batch = wire::EventBatch::decode(&bytes[..]).expect("it parses");
        prop_assert_eq!(batch.first_offset, u64::from(first));
        prop_assert_eq!(batch.time_us, events[0].time.0);
        let distinct: std::collections::HashSet<_> = batch.names.iter().collect();
        prop_assert_eq!(distinct.len(), batch.names.len(), "each name once");
        let expected: Vec<_> = events.iter().map(|event| expected_record(&batch, event)).collect();
        prop_assert_eq!(&batch.events, &expected);
        // Nothing beside: no field twice, and none that the generated code doesn't know.
        prop_assert_eq!(batch.encoded_len(), bytes.len());
        let mut section = Vec::new();
        for event in &events {
            event.for_each_payload(|payload| section.extend_from_slice(&payload.bytes()));
        }
        prop_assert_eq!(&payloads[..], &section[..]);
    }

    #[test]
    fn a_batch_reads_back_as_it_was_written(events in events(), first in any::<u32>()) {
        let first = u64::from(first);
        let (bytes, payloads) = encode(&mut Encoder::default(), &events, first);
        let stored = |(offset, event): (u64, Event)| Stored { offset, event };
        let whole: Vec<_> = (first..).zip(events.clone()).map(stored).collect();
        let decoded = decode(&bytes, Some(&payloads)).expect("it decodes");
        prop_assert_eq!(decoded, Decoded { events: whole, unknown: Vec::new() });

        let sizes: Vec<_> = (first..)
            .zip(events.into_iter().map(without_payloads))
            .map(stored)
            .collect();
        let decoded = decode(&bytes, None).expect("it decodes without payloads");
        prop_assert_eq!(decoded, Decoded { events: sizes, unknown: Vec::new() });
    }

    /// Another writer may put the tables last and say more than this program knows.
    #[test]
    fn fields_are_read_in_any_order_and_unknown_ones_passed_over(events in events()) {
        let (bytes, payloads) = encode(&mut Encoder::default(), &events, 7);
        let batch = wire::EventBatch::decode(&bytes[..]).expect("it parses");
        let (records, tables) = (batch.events.clone(), wire::EventBatch { events: Vec::new(), ..batch });
        let mut raw = Vec::new();
        prost::encoding::double::encode(90, &1.5, &mut raw);
        prost::encoding::float::encode(91, &1.5, &mut raw);
        prost::encoding::string::encode(92, &"more".to_owned(), &mut raw);
        raw.extend(wire::EventBatch { events: records, ..Default::default() }.encode_to_vec());
        raw.extend(tables.encode_to_vec());
        prop_assert_eq!(extent(&raw), Ok((7, events.len() as u64)));
        prop_assert_eq!(decode(&raw, Some(&payloads)), decode(&bytes, Some(&payloads)));
    }

    /// A kind that a later version may add, at a place among known ones.
    #[test]
    fn an_unknown_kind_is_reported_and_its_neighbours_are_read(
        events in events(), at in any::<prop::sample::Index>(), tag in 60_u32..1_000,
    ) {
        let (bytes, _) = encode(&mut Encoder::default(), &events, 7);
        let mut batch = wire::EventBatch::decode(&bytes[..]).expect("it parses");
        let at = at.index(events.len());
        batch.events[at].kind = None;
        // The record again, by hand, with a field that this program's contract doesn't have.
        let unknown = batch.events[at].clone();
        let (head, tail) = batch.events.split_at(at);
        let mut raw = wire::EventBatch { events: head.to_vec(), ..batch.clone() }.encode_to_vec();
        let mut record = unknown.encode_to_vec();
        write::length(&mut record, tag, 3);
        record.extend_from_slice(&[8, 1, 0][..3]);
        write::length(&mut raw, 5, record.len());
        raw.extend_from_slice(&record);
        raw.extend(wire::EventBatch { events: tail[1..].to_vec(), ..Default::default() }.encode_to_vec());
        let decoded = decode(&raw, None).expect("it decodes");
        prop_assert_eq!(decoded.unknown, vec![7 + at as u64]);
        let offsets: Vec<_> = decoded.events.iter().map(|stored| stored.offset).collect();
        let known: Vec<_> =
            (7..).take(events.len()).filter(|offset| *offset != 7 + at as u64).collect();
        prop_assert_eq!(offsets, known);
    }

    /// Bytes from a broken disk or a foreign program are refused or read, never a panic.
    #[test]
    fn any_bytes_are_refused_or_read(
        events in events(), flips in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let (bytes, payloads) = encode(&mut Encoder::default(), &events, 0);
        let mut bytes = bytes.to_vec();
        for (place, value) in flips {
            let at = place.index(bytes.len());
            bytes[at] = value;
        }
        let _either = decode(&bytes, Some(&payloads));
    }
}

#[test]
fn a_payload_that_the_section_lacks_is_an_error_that_names_the_event() {
    let events = [Event {
        time: Time(1),
        kind: Kind::Transaction {
            id: TransactionId([1; 16]),
            workflow: WorkflowName::parse("w").expect("a name"),
            what: TransactionEvent::Started(Box::new(Start {
                version: 1,
                input: Payload::Held(Bytes::from_static(b"{}")),
                idempotency_key: String::new(),
                input_hash: Bytes::new(),
                labels: Default::default(),
                trace_parent: String::new(),
            })),
        },
    }];
    let (bytes, payloads) = encode(&mut Encoder::default(), &events, 41);
    let short = payloads.slice(..1);
    let malformed = decode(&bytes, Some(&short)).expect_err("a byte is missing");
    assert_eq!(malformed.offset, 41);
    assert!(malformed.what.contains("payload"), "{malformed}");
}
