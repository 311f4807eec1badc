//! Walks a JSON text without keeping it.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

pub(super) enum Fault {
    Duplicate(String),
    TooDeep,
    Surrogate(String),
    Syntax(String),
}

/// One value at some depth; what is wrong beyond syntax is left in the cell.
#[derive(Clone, Copy)]
struct Walk<'a> {
    depth: usize,
    fault: &'a RefCell<Option<Fault>>,
}

pub(super) fn object(text: &str) -> Result<(), Fault> {
    let fault = RefCell::new(None);
    let mut parser = serde_json::Deserializer::from_str(text);
    let walked = Walk {
        depth: 0,
        fault: &fault,
    }
    .deserialize(&mut parser)
    .and_then(|()| parser.end());
    let Err(error) = walked else { return Ok(()) };
    Err(fault.take().unwrap_or_else(|| {
        let what = error.to_string();
        let place = || format!("line {} column {}", error.line(), error.column());
        if what.contains("surrogate") || what.contains("hex escape") {
            Fault::Surrogate(place())
        } else if what.contains("recursion limit") {
            Fault::TooDeep
        } else {
            Fault::Syntax(what)
        }
    }))
}

/// A key, borrowed from the text unless it has escapes.
struct Key<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(key)))
            }

            fn visit_str<E>(self, key: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }

        from.deserialize_str(Read)
    }
}

impl<'a> Walk<'a> {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        if self.depth == super::DEPTH_MAX {
            self.fault.replace(Some(Fault::TooDeep));
            return Err(E::custom("too deep"));
        }
        Ok(Self {
            depth: self.depth + 1,
            ..self
        })
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while values.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let Some(Key(first)) = entries.next_key()? else {
            self.deeper::<A::Error>()?;
            return Ok(());
        };
        // With arbitrary precision serde_json presents a number as a map of this one key.
        if first == "$serde_json::private::Number" {
            return entries.next_value_seed(Walk {
                depth: self.depth,
                ..self
            });
        }
        let inner = self.deeper()?;
        entries.next_value_seed(inner)?;
        // Few keys are compared one by one; only a large object earns a set.
        let mut few = Vec::new();
        let mut many: HashSet<Cow<'de, str>> = HashSet::new();
        while let Some(Key(key)) = entries.next_key()? {
            if key == first || few.contains(&key) || many.contains(&key) {
                self.fault.replace(Some(Fault::Duplicate(key.into_owned())));
                return Err(A::Error::custom("duplicate key"));
            }
            entries.next_value_seed(inner)?;
            if few.len() < 16 {
                few.push(key);
            } else {
                many.insert(key);
            }
        }
        Ok(())
    }
}
