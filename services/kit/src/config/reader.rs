//! From a tree to a type, with an error that says where and what was expected.
//!
//! A key that the type does not have is always an error here, whether or not the type itself
//! asks for that.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::tree::{Entry, Node, Origin, Value};

/// What went wrong, at which node. Boxed, since every read may return one and hardly any does.
#[derive(Debug)]
pub(super) struct Failure(pub(super) Box<Cause>);

/// The path is filled in on the way up.
#[derive(Debug, Default)]
pub(super) struct Cause {
    pub(super) message: String,
    /// Set when the failure is a key that the type does not have: what it does have.
    pub(super) unknown_key: Option<(String, Vec<&'static str>)>,
    pub(super) origin: Option<Origin>,
    pub(super) path: Vec<String>,
}

impl Failure {
    fn unknown_key(key: &str, expected: &[&'static str]) -> Self {
        let unknown_key = Some((key.to_owned(), expected.to_vec()));
        Self(Box::new(Cause {
            unknown_key,
            ..Cause::default()
        }))
    }

    fn at(mut self, origin: &Origin) -> Self {
        self.0.origin.get_or_insert_with(|| origin.clone());
        self
    }

    fn below(mut self, key: impl Into<String>) -> Self {
        self.0.path.insert(0, key.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0.message)
    }
}

impl std::error::Error for Failure {}

impl serde::de::Error for Failure {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(Box::new(Cause {
            message: message.to_string(),
            ..Cause::default()
        }))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::unknown_key(field, expected)
    }

    fn missing_field(field: &'static str) -> Self {
        Self::custom(format_args!("the key {field} is missing"))
    }
}

/// Reads one node.
pub(super) struct Reader<'a> {
    node: &'a Node,
    /// Set when the node belongs to a key that its struct has no field for.
    siblings: &'static [&'static str],
}

impl<'a> Reader<'a> {
    pub(super) fn new(node: &'a Node) -> Self {
        Self {
            node,
            siblings: &[],
        }
    }

    fn map<'de, V: Visitor<'de>>(
        entries: &'a [Entry],
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        visitor.visit_map(Entries {
            rest: entries.iter(),
            current: None,
            fields,
        })
    }

    /// Text that came without a type, read by what it looks like.
    fn inferred<'de, V: Visitor<'de>>(
        text: &str,
        origin: &Origin,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        let node = Node::inferred(text, origin);
        Reader::new(&node).deserialize_any(visitor)
    }
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Failure;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        let read = match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Unsigned(value) => visitor.visit_u64(*value),
            Value::Signed(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(text) => visitor.visit_str(text),
            Value::Untyped(text) => Self::inferred(text, &self.node.origin, visitor),
            Value::List(items) => visitor.visit_seq(Items {
                rest: items.iter().enumerate(),
            }),
            Value::Map(entries) => Self::map(entries, &[], visitor),
        };
        read.map_err(|failure| failure.at(&self.node.origin))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Untyped(text) => visitor
                .visit_str(text)
                .map_err(|failure: Failure| failure.at(&self.node.origin)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Map(entries) => {
                Self::map(entries, fields, visitor).map_err(|failure| failure.at(&self.node.origin))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        let origin = &self.node.origin;
        let read = match &self.node.value {
            Value::Text(text) | Value::Untyped(text) => {
                let variant: StrDeserializer<'_, Failure> = text.as_str().into_deserializer();
                visitor.visit_enum(variant)
            }
            Value::Map(entries) => match entries.as_slice() {
                [entry] => visitor.visit_enum(Variant(entry)),
                _ => Err(Failure::custom("expected a single key that names the kind")),
            },
            _ => return self.deserialize_any(visitor),
        };
        read.map_err(|failure| failure.at(origin))
    }

    /// Only a value that nobody wants is read so: its key is unknown.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Failure> {
        Err(Failure::unknown_key("", self.siblings))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit
        unit_struct seq tuple tuple_struct map identifier
    }
}

struct Entries<'a> {
    rest: std::slice::Iter<'a, Entry>,
    current: Option<&'a Entry>,
    fields: &'static [&'static str],
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Failure;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Failure> {
        self.current = self.rest.next();
        let Some(entry) = self.current else {
            return Ok(None);
        };
        let key: StrDeserializer<'_, Failure> = entry.key.as_str().into_deserializer();
        seed.deserialize(key)
            .map(Some)
            .map_err(|failure| failure.at(&entry.key_origin))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Failure> {
        let Some(entry) = self.current else {
            return Err(Failure::custom("a value was asked for before its key"));
        };
        let reader = Reader {
            node: &entry.node,
            siblings: self.fields,
        };
        seed.deserialize(reader)
            .map_err(|mut failure| match &mut failure.0.unknown_key {
                Some((key, _)) if key.is_empty() => {
                    key.clone_from(&entry.key);
                    failure.at(&entry.key_origin)
                }
                // What `deserialize_with` refuses has been read already; its place is the value's.
                _ => failure.at(&entry.node.origin).below(&entry.key),
            })
    }
}

struct Items<'a> {
    rest: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Failure;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Failure> {
        let Some((index, node)) = self.rest.next() else {
            return Ok(None);
        };
        seed.deserialize(Reader::new(node))
            .map(Some)
            .map_err(|failure| failure.at(&node.origin).below(format!("[{index}]")))
    }
}

/// `kind: value`, as one of several kinds.
struct Variant<'a>(&'a Entry);

impl<'de, 'a> EnumAccess<'de> for Variant<'a> {
    type Error = Failure;
    type Variant = Reader<'a>;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Reader<'a>), Failure> {
        let key: StrDeserializer<'_, Failure> = self.0.key.as_str().into_deserializer();
        let variant = seed
            .deserialize(key)
            .map_err(|failure| failure.at(&self.0.key_origin))?;
        Ok((variant, Reader::new(&self.0.node)))
    }
}

impl<'de> VariantAccess<'de> for Reader<'_> {
    type Error = Failure;

    fn unit_variant(self) -> Result<(), Failure> {
        match &self.node.value {
            Value::Null => Ok(()),
            _ => Err(Failure::invalid_type(
                Unexpected::Other("a value"),
                &"nothing after this name",
            )
            .at(&self.node.origin)),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Failure> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        self.deserialize_struct("", fields, visitor)
    }
}
