//! A configuration as a tree that remembers where each value was written.
//!
//! Reads YAML within a fixed budget, lays one tree over another and moves renamed keys. It
//! knows nothing of the types that the values are for.

use std::fmt;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::Spanned;

use super::ConfigError;

/// The largest file that is read.
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// How YAML is read everywhere: bounds that no honest file meets, against bombs.
pub fn yaml_options() -> serde_yaml::Options {
    serde_yaml::options! {
        budget: serde_yaml::budget! {
            max_reader_input_bytes: Some(1024 * 1024),
            max_nodes: 10_000,
            max_events: 40_000,
            max_depth: 32,
            max_aliases: 100,
            max_anchors: 100,
            max_documents: 1,
        },
    }
}

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file, or the built-in defaults.
    Place {
        /// The file's name.
        file: Arc<str>,
        /// Line, from 1.
        line: u64,
        /// Column, from 1.
        column: u64,
    },
    /// An environment variable.
    Variable(Arc<str>),
    /// A command line flag.
    Flag(Arc<str>),
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Place { file, line, column } => write!(out, "{file}:{line}:{column}"),
            Self::Variable(name) => write!(out, "environment variable {name}"),
            Self::Flag(name) => write!(out, "flag {name}"),
        }
    }
}

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
    /// From a variable or a flag, where everything is text: its type is what the reader expects.
    Untyped(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_origin: Origin,
    pub(super) node: Node,
}

impl Node {
    /// An empty map.
    pub(super) fn empty(origin: Origin) -> Self {
        Self {
            value: Value::Map(Vec::new()),
            origin,
        }
    }

    /// Parses one YAML document; an empty one is an empty map.
    pub(super) fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        let file: Arc<str> = file.into();
        let whole: Spanned<Raw> =
            serde_yaml::from_str_with_options(text, yaml_options()).map_err(|error| {
                let (line, column) = error
                    .location()
                    .map_or((1, 1), |place| (place.line(), place.column()));
                ConfigError::Syntax {
                    origin: Origin::Place {
                        file: file.clone(),
                        line,
                        column,
                    },
                    message: one_line(&error),
                }
            })?;
        let node = whole.value.located(&file, place(&file, &whole.referenced));
        match node.value {
            Value::Map(_) => Ok(node),
            Value::Null => Ok(Self::empty(node.origin)),
            _ => Err(ConfigError::Invalid {
                origin: node.origin,
                key: String::new(),
                message: "expected keys and values at the top".into(),
            }),
        }
    }

    /// What untyped text means by itself, read as YAML; text when it is no YAML.
    pub(super) fn inferred(text: &str, origin: &Origin) -> Self {
        let raw = serde_yaml::from_str_with_options::<Raw>(text, yaml_options());
        match raw {
            Ok(raw) => raw.at(origin),
            Err(_) => Self {
                value: Value::Text(text.to_owned()),
                origin: origin.clone(),
            },
        }
    }

    /// The entries of a map; none for anything else.
    pub(super) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The node at a dotted path.
    pub(super) fn get(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |node, key| {
            node.entries()
                .iter()
                .find(|entry| entry.key == key)
                .map(|entry| &entry.node)
        })
    }

    /// Takes the entry at a dotted path out.
    fn take(&mut self, path: &str) -> Option<Entry> {
        let (parent, key) = match path.rsplit_once('.') {
            Some((parent, key)) => (self.get_mut(parent)?, key),
            None => (self, path),
        };
        let Value::Map(entries) = &mut parent.value else {
            return None;
        };
        let index = entries.iter().position(|entry| entry.key == key)?;
        Some(entries.remove(index))
    }

    fn get_mut(&mut self, path: &str) -> Option<&mut Self> {
        path.split('.')
            .try_fold(self, |node, key| match &mut node.value {
                Value::Map(entries) => entries
                    .iter_mut()
                    .find(|entry| entry.key == key)
                    .map(|entry| &mut entry.node),
                _ => None,
            })
    }

    /// Puts a node at a dotted path, with the maps that lead there.
    pub(super) fn put(&mut self, path: &str, key_origin: &Origin, node: Self) {
        let mut target = self;
        let mut keys = path.split('.').peekable();
        while let Some(key) = keys.next() {
            if !matches!(target.value, Value::Map(_)) {
                target.value = Value::Map(Vec::new());
            }
            let Value::Map(entries) = &mut target.value else {
                return;
            };
            let index = entries
                .iter()
                .position(|entry| entry.key == key)
                .unwrap_or_else(|| {
                    let node = Self::empty(key_origin.clone());
                    entries.push(Entry {
                        key: key.to_owned(),
                        key_origin: key_origin.clone(),
                        node,
                    });
                    entries.len() - 1
                });
            if keys.peek().is_none() {
                entries[index].node = node;
                entries[index].key_origin = key_origin.clone();
                return;
            }
            target = &mut entries[index].node;
        }
    }

    /// Moves each key that has another name to the right one.
    pub(super) fn rename(&mut self, aliases: &[(&str, &str)]) -> Result<(), ConfigError> {
        for (old, new) in aliases {
            let Some(entry) = self.take(old) else {
                continue;
            };
            if self.get(new).is_some() {
                return Err(ConfigError::Invalid {
                    origin: entry.key_origin,
                    key: (*old).to_owned(),
                    message: format!("means the same as {new}, which is set too; keep one of them"),
                });
            }
            self.put(new, &entry.key_origin, entry.node);
        }
        Ok(())
    }

    /// Lays `over` over this tree: maps merge key by key, everything else replaces. A section
    /// that is named but left empty changes nothing.
    pub(super) fn lay(&mut self, over: Self) {
        match (&mut self.value, over.value) {
            (Value::Map(_), Value::Null) => {}
            (Value::Map(entries), Value::Map(overs)) => {
                for over in overs {
                    match entries.iter_mut().find(|entry| entry.key == over.key) {
                        Some(entry) => {
                            entry.key_origin = over.key_origin;
                            entry.node.lay(over.node);
                        }
                        None => entries.push(over),
                    }
                }
                self.origin = over.origin;
            }
            (value, over_value) => {
                *value = over_value;
                self.origin = over.origin;
            }
        }
    }

    /// Every dotted path in the tree.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect_paths("", &mut paths);
        paths
    }

    fn collect_paths(&self, prefix: &str, paths: &mut Vec<String>) {
        for entry in self.entries() {
            let path = super::join(prefix, &entry.key);
            entry.node.collect_paths(&path, paths);
            paths.push(path);
        }
    }
}

fn place(file: &Arc<str>, location: &serde_yaml::Location) -> Origin {
    Origin::Place {
        file: file.clone(),
        line: location.line(),
        column: location.column(),
    }
}

/// The parser's message without its drawing of the source, on one line.
fn one_line(error: &serde_yaml::Error) -> String {
    let text = error.without_snippet().to_string();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A YAML value as the parser gives it, before the name of its file is known.
enum Raw {
    Scalar(Value),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<Key>, Spanned<Raw>)>),
}

/// A key; a number or a truth value as a key is taken by its text.
struct Key(String);

impl Raw {
    fn located(self, file: &Arc<str>, origin: Origin) -> Node {
        let value = match self {
            Self::Scalar(value) => value,
            Self::List(items) => Value::List(
                items
                    .into_iter()
                    .map(|item| item.value.located(file, place(file, &item.referenced)))
                    .collect(),
            ),
            Self::Map(entries) => Value::Map(
                entries
                    .into_iter()
                    .map(|(key, item)| Entry {
                        key: key.value.0,
                        key_origin: place(file, &key.referenced),
                        node: item.value.located(file, place(file, &item.referenced)),
                    })
                    .collect(),
            ),
        };
        Node { value, origin }
    }

    /// All of it at one origin that has no lines.
    fn at(self, origin: &Origin) -> Node {
        let value = match self {
            Self::Scalar(value) => value,
            Self::List(items) => Value::List(
                items
                    .into_iter()
                    .map(|item| item.value.at(origin))
                    .collect(),
            ),
            Self::Map(entries) => Value::Map(
                entries
                    .into_iter()
                    .map(|(key, item)| Entry {
                        key: key.value.0,
                        key_origin: origin.clone(),
                        node: item.value.at(origin),
                    })
                    .collect(),
            ),
        };
        Node {
            value,
            origin: origin.clone(),
        }
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Bool(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Unsigned(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Scalar(
            u64::try_from(value).map_or(Value::Signed(value), Value::Unsigned),
        ))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Float(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Text(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Raw::Map(map))
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Raw::deserialize(deserializer)? {
            Raw::Scalar(Value::Text(text)) => Ok(Self(text)),
            Raw::Scalar(Value::Bool(value)) => Ok(Self(value.to_string())),
            Raw::Scalar(Value::Unsigned(value)) => Ok(Self(value.to_string())),
            Raw::Scalar(Value::Signed(value)) => Ok(Self(value.to_string())),
            Raw::Scalar(Value::Float(value)) => Ok(Self(value.to_string())),
            _ => Err(serde::de::Error::custom("a key must be a name")),
        }
    }
}
