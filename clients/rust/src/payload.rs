//! Payloads as JSON values: what goes into a request, and what an answer holds.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::Error;
use crate::wire;

/// A value as the JSON text of a request; it must be an object.
pub fn to_json(value: &impl Serialize) -> Result<Bytes, Error> {
    let text = serde_json::to_vec(value)
        .map_err(|error| Error::Invalid(format!("the input can't be written as JSON: {error}")))?;
    if text.first() != Some(&b'{') {
        return Err(Error::Invalid(
            "the input is not a JSON object, such as {\"data\": \"text\"}".into(),
        ));
    }
    Ok(text.into())
}

/// The JSON text of an answer's payload, whichever form it came in.
pub fn json_text(payload: &wire::Payload) -> Result<Bytes, Error> {
    match &payload.form {
        None => Ok(Bytes::from_static(b"{}")),
        Some(wire::payload::Form::Json(text)) => Ok(text.clone()),
        Some(wire::payload::Form::Struct(object)) => proto::payload::from_struct(object)
            .map_err(|problem| Error::Invalid(problem.to_string())),
    }
}

/// An answer's payload as a JSON value.
pub fn value(payload: &wire::Payload) -> Result<Value, Error> {
    parse(payload)
}

/// An answer's payload as a type of the caller's.
pub fn parse<T: DeserializeOwned>(payload: &wire::Payload) -> Result<T, Error> {
    serde_json::from_slice(&json_text(payload)?)
        .map_err(|error| Error::Invalid(format!("the payload is not what was expected: {error}")))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn only_an_object_is_an_input() {
        assert_eq!(&to_json(&json!({"a": 1})).unwrap()[..], b"{\"a\":1}");
        for wrong in [json!([1]), json!("x"), json!(null)] {
            assert!(to_json(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn both_forms_of_a_payload_read_the_same() {
        let text = Bytes::from_static(b"{\"a\":1,\"b\":[true,\"x\"]}");
        let as_json = proto::payload::to_wire(&text, wire::PayloadForm::Json);
        let as_struct = proto::payload::to_wire(&text, wire::PayloadForm::Struct);
        assert_eq!(value(&as_json).unwrap(), value(&as_struct).unwrap());
    }
}
