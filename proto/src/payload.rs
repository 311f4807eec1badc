//! Payloads: JSON objects that are checked once at the edge and then passed on byte for byte.

mod check;

use std::fmt;

use bytes::Bytes;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::{Problem, Reason};
use crate::wire;

/// How deep a payload may be nested.
pub const DEPTH_MAX: usize = 64;
/// Beside a payload of so many bytes the rest of its message and buffer is no great waste.
const MOST_OF_MESSAGE_BYTES: usize = 32 << 10;

/// A payload, or only its size where the bytes are not at hand.
#[derive(Clone, PartialEq, Eq)]
pub enum Payload {
    /// The JSON text.
    Held(Bytes),
    /// How many bytes it has.
    Absent(u64),
}

impl Payload {
    /// How many bytes it has.
    pub fn size(&self) -> u64 {
        match self {
            Self::Held(bytes) => bytes.len() as u64,
            Self::Absent(size) => *size,
        }
    }

    /// A copy of its own: a slice keeps alive all that it was read with.
    #[must_use]
    pub fn copied(&self) -> Self {
        match self {
            Self::Held(bytes) => Self::Held(Bytes::copy_from_slice(bytes)),
            Self::Absent(size) => Self::Absent(*size),
        }
    }

    /// Its bytes; none where they are not at hand.
    pub fn bytes(&self) -> Bytes {
        match self {
            Self::Held(bytes) => bytes.clone(),
            Self::Absent(_) => Bytes::new(),
        }
    }
}

/// A received payload, to be kept: a copy, since a slice keeps all that it was received with; but not
/// of a large one that came `alone` in its message, which is most of that.
pub fn kept(received: Bytes, alone: bool) -> Bytes {
    match alone && received.len() >= MOST_OF_MESSAGE_BYTES {
        true => received,
        false => Bytes::copy_from_slice(&received),
    }
}

impl fmt::Debug for Payload {
    /// Never shows the contents, so that no log can.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.size())
    }
}

/// Checks that `bytes` are a JSON object within the limits: UTF-8, no duplicate key, at most
/// [`DEPTH_MAX`] deep, at most `bytes_max` long. `field` is how the message names it.
pub fn check(field: &str, bytes: &[u8], bytes_max: usize) -> Result<(), Problem> {
    if bytes.len() > bytes_max {
        return Err(Problem::field(
            Reason::PayloadTooLarge,
            field,
            format!(
                "{field} has {} bytes; at most {bytes_max} are allowed; store it elsewhere and send \
                 a reference",
                bytes.len()
            ),
        ));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        Problem::field(
            Reason::PayloadNotUtf8,
            field,
            format!(
                "{field} is not UTF-8 at byte {}; encode it as UTF-8",
                error.valid_up_to()
            ),
        )
    })?;
    let first = text.trim_ascii_start().bytes().next();
    if first != Some(b'{') {
        return Err(not_object(
            field,
            "it must be a JSON object, such as {\"data\": \"text\"}",
        ));
    }
    check::object(text).map_err(|fault| match fault {
        check::Fault::Duplicate(key) => Problem::field(
            Reason::PayloadDuplicateKey,
            field,
            format!(
                "{field} has the key \"{}\" twice; remove one",
                crate::id::shown(&key, 64)
            ),
        ),
        check::Fault::TooDeep => Problem::field(
            Reason::PayloadTooDeep,
            field,
            format!("{field} is nested deeper than {DEPTH_MAX}; flatten it"),
        ),
        check::Fault::Surrogate(place) => Problem::field(
            Reason::PayloadNotUtf8,
            field,
            format!("{field} has half of a surrogate pair at {place}; send the whole character"),
        ),
        check::Fault::Syntax(what) => not_object(field, &format!("it is not JSON: {what}")),
    })
}

fn not_object(field: &str, what: &str) -> Problem {
    Problem::field(
        Reason::PayloadNotObject,
        field,
        format!("{field} is not a JSON object: {what}"),
    )
}

/// The canonical form of a payload that was checked: keys sorted, no white space, number text kept.
pub fn canonical(bytes: &[u8]) -> Vec<u8> {
    fn write(value: &Value, out: &mut Vec<u8>) {
        match value {
            Value::Object(entries) => {
                let mut sorted: Vec<_> = entries.iter().collect();
                sorted.sort_by_key(|(key, _)| *key);
                out.push(b'{');
                for (at, (key, value)) in sorted.into_iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    out.extend(Value::String(key.clone()).to_string().into_bytes());
                    out.push(b':');
                    write(value, out);
                }
                out.push(b'}');
            }
            Value::Array(values) => {
                out.push(b'[');
                for (at, value) in values.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    write(value, out);
                }
                out.push(b']');
            }
            plain => out.extend(plain.to_string().into_bytes()),
        }
    }
    let mut out = Vec::with_capacity(bytes.len());
    match serde_json::from_slice::<Value>(bytes) {
        Ok(value) => write(&value, &mut out),
        // Not reached for a checked payload; the text itself is as good a form as any.
        Err(_) => out.extend_from_slice(bytes),
    }
    out
}

/// A Struct as JSON text: keys sorted, whole numbers without a fraction.
pub fn from_struct(object: &prost_types::Struct) -> Result<Bytes, Problem> {
    fn value_of(value: &prost_types::Value) -> Result<Value, Problem> {
        use prost_types::value::Kind;
        Ok(match &value.kind {
            None | Some(Kind::NullValue(_)) => Value::Null,
            Some(Kind::BoolValue(value)) => Value::Bool(*value),
            Some(Kind::StringValue(value)) => Value::String(value.clone()),
            Some(Kind::NumberValue(value)) => {
                // Up to 2^53 a double holds every whole number.
                if value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0 {
                    Value::from(*value as i64)
                } else {
                    serde_json::Number::from_f64(*value)
                        .map(Value::Number)
                        .ok_or_else(|| {
                            Problem::field(
                                Reason::FieldInvalid,
                                "input",
                                format!("input has the number {value}, which JSON does not know"),
                            )
                        })?
                }
            }
            Some(Kind::ListValue(list)) => {
                Value::Array(list.values.iter().map(value_of).collect::<Result<_, _>>()?)
            }
            Some(Kind::StructValue(object)) => object_of(object)?,
        })
    }
    fn object_of(object: &prost_types::Struct) -> Result<Value, Problem> {
        let entries = object
            .fields
            .iter()
            .map(|(key, value)| Ok((key.clone(), value_of(value)?)));
        Ok(Value::Object(entries.collect::<Result<_, Problem>>()?))
    }
    Ok(Bytes::from(object_of(object)?.to_string()))
}

/// A payload in the form that a request asked for; JSON anyway where a Struct would lose a digit.
pub fn to_wire(bytes: &Bytes, form: wire::PayloadForm) -> wire::Payload {
    use wire::payload::Form;
    let as_struct = match form {
        wire::PayloadForm::Json => None,
        wire::PayloadForm::Unspecified | wire::PayloadForm::Struct => to_struct(bytes),
    };
    wire::Payload {
        form: Some(as_struct.map_or_else(|| Form::Json(bytes.clone()), Form::Struct)),
    }
}

/// JSON text as a Struct, unless a double would lose a digit of it.
pub fn to_struct(bytes: &[u8]) -> Option<prost_types::Struct> {
    fn kind_of(value: Value) -> Option<prost_types::Value> {
        use prost_types::value::Kind;
        let kind = match value {
            Value::Null => Kind::NullValue(0),
            Value::Bool(value) => Kind::BoolValue(value),
            Value::String(value) => Kind::StringValue(value),
            Value::Number(number) => Kind::NumberValue(exact(&number)?),
            Value::Array(values) => Kind::ListValue(prost_types::ListValue {
                values: values.into_iter().map(kind_of).collect::<Option<_>>()?,
            }),
            Value::Object(entries) => Kind::StructValue(object_of(entries)?),
        };
        Some(prost_types::Value { kind: Some(kind) })
    }
    fn exact(number: &serde_json::Number) -> Option<f64> {
        let double = number.as_f64().filter(|double| double.is_finite())?;
        let text = number.to_string();
        // A whole number must read back as itself; a fraction is a double by nature, up to the
        // digits that a double can tell apart.
        if text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'-')
        {
            // Parsing rounds, so 2^53 + 1 would come out as 2^53: the digits must agree as well.
            let kept = double.abs() <= 9_007_199_254_740_992.0 && format!("{double:.0}") == text;
            return kept.then_some(double);
        }
        let digits = text.split(['e', 'E']).next().unwrap_or_default();
        let significant = digits.trim_start_matches(['-', '0', '.']).bytes();
        (significant.filter(u8::is_ascii_digit).count() <= 17).then_some(double)
    }
    fn object_of(entries: serde_json::Map<String, Value>) -> Option<prost_types::Struct> {
        let fields = entries
            .into_iter()
            .map(|(key, value)| Some((key, kind_of(value)?)));
        Some(prost_types::Struct {
            fields: fields.collect::<Option<_>>()?,
        })
    }
    match serde_json::from_slice(bytes).ok()? {
        Value::Object(entries) => object_of(entries),
        _ => None,
    }
}

/// The context that a handler receives: the pieces in order, overlaid by top-level key, a later one
/// wins. The values stay as they were written.
pub fn overlay(pieces: &[Bytes]) -> Result<Bytes, serde_json::Error> {
    if let [only] = pieces {
        return Ok(only.clone());
    }
    // Maps keep the order in which keys first came, and a later value takes the earlier one's place.
    let mut context: Vec<(String, &RawValue)> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for piece in pieces {
        let entries: Entries<'_> = serde_json::from_slice(piece)?;
        for (key, value) in entries.0 {
            match places.entry(key.clone()) {
                std::collections::hash_map::Entry::Occupied(place) => {
                    let at: usize = *place.get();
                    context[at].1 = value;
                }
                std::collections::hash_map::Entry::Vacant(place) => {
                    place.insert(context.len());
                    context.push((key, value));
                }
            }
        }
    }
    let mut out = String::from("{");
    for (at, (key, value)) in context.into_iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        out.push_str(&serde_json::to_string(&key)?);
        out.push(':');
        out.push_str(value.get());
    }
    out.push('}');
    Ok(Bytes::from(out))
}

/// The entries of one object, values unparsed.
struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'de> serde::Deserialize<'de> for Entries<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> serde::de::Visitor<'de> for Visit {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        from.deserialize_map(Visit)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_received_payload_is_copied_unless_it_is_large_and_came_alone() {
        let message = Bytes::from(vec![b'x'; MOST_OF_MESSAGE_BYTES + 10]);
        for (length, alone, copied) in [
            (MOST_OF_MESSAGE_BYTES, true, false),
            (MOST_OF_MESSAGE_BYTES, false, true),
            (MOST_OF_MESSAGE_BYTES - 1, true, true),
            (0, true, true),
        ] {
            let received = message.slice(10..10 + length);
            let kept = kept(received.clone(), alone);
            assert_eq!(kept, received);
            assert_eq!(
                kept.as_ptr() != received.as_ptr(),
                copied,
                "{length} {alone}"
            );
        }
    }

    fn reason(bytes: &[u8]) -> Option<Reason> {
        check("input_json", bytes, 1 << 20)
            .err()
            .map(|problem| problem.reason)
    }

    #[test]
    fn what_is_not_a_json_object_is_refused_by_name() {
        for wrong in ["[1]", "nul", "", "1", "{\"a\":}", "{} x", "{\"a\":1,}"] {
            assert_eq!(
                reason(wrong.as_bytes()),
                Some(Reason::PayloadNotObject),
                "{wrong}"
            );
        }
        for duplicate in ["{\"a\":1,\"a\":2}", "{\"x\":[{\"a\":1,\"\\u0061\":2}]}"] {
            assert_eq!(
                reason(duplicate.as_bytes()),
                Some(Reason::PayloadDuplicateKey)
            );
        }
        let many: Vec<String> = (0..40).map(|at| format!("\"k{}\":0", at % 39)).collect();
        let many = format!("{{{}}}", many.join(","));
        assert_eq!(reason(many.as_bytes()), Some(Reason::PayloadDuplicateKey));
        let nested = |depth| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(reason(nested(63).as_bytes()), None);
        assert_eq!(reason(nested(64).as_bytes()), Some(Reason::PayloadTooDeep));
        assert_eq!(
            reason(nested(10_000).as_bytes()),
            Some(Reason::PayloadTooDeep)
        );
        assert_eq!(reason(b"{\"a\":\"\xff\"}"), Some(Reason::PayloadNotUtf8));
        assert_eq!(reason(br#"{"a":"\ud800"}"#), Some(Reason::PayloadNotUtf8));
        assert_eq!(
            check("x", b"{\"a\":1}", 6)
                .err()
                .map(|problem| problem.reason),
            Some(Reason::PayloadTooLarge)
        );
    }

    #[test]
    fn a_good_object_passes_whatever_its_numbers_look_like() {
        let text =
            r#" {"n":12345678901234567890123,"f":1.50e3,"u":"\ud83d\ude00","d":{"e":[{}]}} "#;
        assert_eq!(reason(text.as_bytes()), None);
    }

    #[test]
    fn a_struct_and_its_json_have_one_canonical_form() {
        let json = br#"{"b": 2, "a": {"y": [1, 2.5, null], "x": "\u00e9"}}"#;
        let object = to_struct(json).unwrap();
        assert_eq!(canonical(&from_struct(&object).unwrap()), canonical(json));
        assert_eq!(
            canonical(json),
            "{\"a\":{\"x\":\"é\",\"y\":[1,2.5,null]},\"b\":2}".as_bytes()
        );
    }

    #[test]
    fn a_number_that_a_double_would_change_stays_json() {
        assert!(to_struct(br#"{"id": 9007199254740993}"#).is_none());
        assert!(to_struct(br#"{"id": 0.12345678901234567890}"#).is_none());
        assert!(to_struct(br#"{"id": 9007199254740992, "x": 0.1}"#).is_some());
    }

    #[test]
    fn later_pieces_win_by_top_level_key_and_values_stay_as_written() {
        let pieces = [
            Bytes::from_static(br#"{"a": 1.50, "b": {"x": 1}}"#),
            Bytes::from_static(br#"{"b": {"y": 2}, "c": 12345678901234567890}"#),
            Bytes::from_static(b"{}"),
        ];
        let context = overlay(&pieces).unwrap();
        assert_eq!(
            context,
            &br#"{"a":1.50,"b":{"y": 2},"c":12345678901234567890}"#[..]
        );
    }
}
