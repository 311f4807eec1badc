//! The contracts as data: messages as JSON with the protos' own field names, and the remedies that
//! `error_reason.proto` gives.
//!
//! Nothing here knows a particular message: a field that is added to a proto appears in `--json` by
//! itself, so that the two can't drift apart.

use std::sync::OnceLock;

use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage as _,
    Value as Field,
};
use serde_json::{Map, Number, Value};

use crate::words;

/// Gives a message of package `multiagents.v1` as JSON. `name` is the message's name in the protos.
///
/// Field names are the protos'; enums are words as they are printed ("completed"); times are RFC 3339;
/// durations are seconds with an "s", as protobuf's JSON has them; payloads are the JSON they hold;
/// what is absent is null, except within a oneof, where it is left out.
pub(crate) fn to_json<M: Message>(name: &str, message: &M) -> Value {
    let full_name = format!("multiagents.v1.{name}");
    let dynamic = pool()
        .get_message_by_name(&full_name)
        .and_then(|descriptor| {
            DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).ok()
        });
    // Both fail only for a name that isn't in the contracts, which the tests of each command meet.
    dynamic.map_or(Value::Null, |dynamic| message_to_json(&dynamic))
}

/// What `error_reason.proto` says after "Remedy:" about a reason without its prefix.
pub(crate) fn remedy(reason: &str) -> Option<String> {
    let reasons = pool().get_enum_by_name("multiagents.v1.ErrorReason")?;
    let value = reasons.get_value_by_name(&format!("ERROR_REASON_{reason}"))?;
    let file = reasons.parent_file();
    let source = file.file_descriptor_proto().source_code_info.as_ref()?;
    let location = source
        .location
        .iter()
        .find(|location| location.path == value.path())?;
    let comment = location.leading_comments().replace('\n', " ");
    let words: Vec<&str> = comment.split_whitespace().collect();
    let comment = words.join(" ");
    let (_, remedy) = comment.split_once("Remedy: ")?;
    Some(remedy.to_owned())
}

fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| DescriptorPool::decode(proto::DESCRIPTORS).unwrap_or_default())
}

fn message_to_json(message: &DynamicMessage) -> Value {
    match message.descriptor().full_name() {
        "google.protobuf.Timestamp" => message
            .transcode_to::<prost_types::Timestamp>()
            .map_or(Value::Null, |time| Value::String(words::rfc3339(&time))),
        "google.protobuf.Duration" => message
            .transcode_to::<prost_types::Duration>()
            .map_or(Value::Null, |duration| {
                Value::String(words::seconds(&duration))
            }),
        "google.protobuf.Struct" => message
            .transcode_to::<prost_types::Struct>()
            .ok()
            .and_then(|object| proto::payload::from_struct(&object).ok())
            .map_or(Value::Null, |bytes| payload_to_json(&bytes)),
        "multiagents.v1.Payload" => message
            .transcode_to::<proto::wire::Payload>()
            .map_or(Value::Null, |payload| payload_value(&payload)),
        _ => plain_to_json(message),
    }
}

/// A payload as the JSON that it holds, whichever form it came in.
pub(crate) fn payload_value(payload: &proto::wire::Payload) -> Value {
    use proto::wire::payload::Form;
    match &payload.form {
        None => Value::Null,
        Some(Form::Json(bytes)) => payload_to_json(bytes),
        Some(Form::Struct(object)) => {
            proto::payload::from_struct(object).map_or(Value::Null, |bytes| payload_to_json(&bytes))
        }
    }
}

fn payload_to_json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(bytes).into_owned()))
}

fn plain_to_json(message: &DynamicMessage) -> Value {
    let mut object = Map::new();
    let mut fields: Vec<FieldDescriptor> = message.descriptor().fields().collect();
    fields.sort_by_key(|field| field.number());
    for field in fields {
        if field.supports_presence() && !message.has_field(&field) {
            let in_real_oneof = field
                .containing_oneof()
                .is_some_and(|oneof| !oneof.is_synthetic());
            if !in_real_oneof {
                object.insert(field.name().to_owned(), Value::Null);
            }
            continue;
        }
        let value = value_to_json(&message.get_field(&field), &field.kind());
        object.insert(field.name().to_owned(), value);
    }
    Value::Object(object)
}

fn value_to_json(value: &Field, kind: &Kind) -> Value {
    match value {
        Field::Bool(value) => Value::Bool(*value),
        Field::I32(value) => Value::Number((*value).into()),
        Field::I64(value) => Value::Number((*value).into()),
        Field::U32(value) => Value::Number((*value).into()),
        Field::U64(value) => Value::Number((*value).into()),
        Field::F32(value) => Number::from_f64((*value).into()).map_or(Value::Null, Value::Number),
        Field::F64(value) => Number::from_f64(*value).map_or(Value::Null, Value::Number),
        Field::String(value) => Value::String(value.clone()),
        Field::Bytes(bytes) => Value::String(hex(bytes)),
        Field::EnumNumber(number) => enum_to_json(*number, kind),
        Field::Message(message) => message_to_json(message),
        Field::List(values) => values
            .iter()
            .map(|value| value_to_json(value, kind))
            .collect(),
        Field::Map(entries) => {
            let value_kind = match kind {
                Kind::Message(entry) if entry.is_map_entry() => {
                    entry.map_entry_value_field().kind()
                }
                other => other.clone(),
            };
            let mut entries: Vec<(String, Value)> = entries
                .iter()
                .map(|(key, value)| (map_key(key), value_to_json(value, &value_kind)))
                .collect();
            entries.sort_by(|one, other| one.0.cmp(&other.0));
            Value::Object(entries.into_iter().collect())
        }
    }
}

fn map_key(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

/// An enum's value as a word; a value that this version doesn't know stays a number.
fn enum_to_json(number: i32, kind: &Kind) -> Value {
    let Kind::Enum(descriptor) = kind else {
        return Value::Number(number.into());
    };
    let Some(value) = descriptor.get_value(number) else {
        return Value::Number(number.into());
    };
    let zero = descriptor.default_value();
    let prefix = zero.name().trim_end_matches("UNSPECIFIED");
    Value::String(
        value
            .name()
            .strip_prefix(prefix)
            .unwrap_or(value.name())
            .to_lowercase(),
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use proto::wire;

    #[test]
    fn a_transaction_has_the_protos_names_words_for_states_and_its_payload_as_json() {
        let transaction = wire::Transaction {
            transaction_id: "0198".into(),
            state: wire::TransactionState::Completed.into(),
            input: Some(wire::Payload {
                form: Some(wire::payload::Form::Json(
                    r#"{"big":12345678901234567890,"text":"x"}"#.into(),
                )),
            }),
            start_time: Some(prost_types::Timestamp {
                seconds: 1_700_000_000,
                nanos: 5_000_000,
            }),
            labels: [("team".to_owned(), "a".to_owned())].into(),
            steps: vec![wire::StepStatus {
                attempts: vec![wire::CommandStatus {
                    run: Some(prost_types::Duration {
                        seconds: 1,
                        nanos: 250_000_000,
                    }),
                    stage: wire::Stage::PickedUp.into(),
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        };
        let json = to_json("Transaction", &transaction);
        assert_eq!(json["transaction_id"], "0198");
        assert_eq!(json["state"], "completed");
        assert_eq!(
            json["input"].to_string(),
            r#"{"big":12345678901234567890,"text":"x"}"#
        );
        assert_eq!(json["start_time"], "2023-11-14T22:13:20.005Z");
        assert_eq!(json["end_time"], Value::Null);
        assert_eq!(json["labels"]["team"], "a");
        assert_eq!(json["steps"][0]["attempts"][0]["run"], "1.25s");
        assert_eq!(json["steps"][0]["attempts"][0]["stage"], "picked_up");
        assert_eq!(json["cancel_requested"], false);
    }

    #[test]
    fn an_absent_ratio_is_null_and_an_unset_kind_of_event_is_left_out() {
        let metrics = to_json(
            "GetEventMetricsResponse",
            &wire::GetEventMetricsResponse::default(),
        );
        assert_eq!(metrics["success_ratio"], Value::Null);
        assert_eq!(metrics["total_events"], 0);
        let event = wire::Event {
            kind: Some(wire::event::Kind::CommandCompleted(
                wire::CommandCompleted { result_bytes: 7 },
            )),
            ..Default::default()
        };
        let event = to_json("Event", &event);
        assert_eq!(event["command_completed"]["result_bytes"], 7);
        assert!(event.get("command_failed").is_none());
    }

    #[test]
    fn every_reason_has_a_remedy() {
        let reasons = pool()
            .get_enum_by_name("multiagents.v1.ErrorReason")
            .unwrap();
        for value in reasons.values() {
            let word = value.name().trim_start_matches("ERROR_REASON_");
            assert!(remedy(word).is_some(), "{word}");
        }
    }

    #[test]
    fn a_value_of_a_newer_version_stays_a_number() {
        let event = wire::Event {
            r#type: 9_999,
            ..Default::default()
        };
        assert_eq!(to_json("Event", &event)["type"], 9_999);
    }
}
