//! Messages read by hand, field by field, where the generated types would own what is only looked at:
//! the other half of [`crate::write`].

use prost::encoding::{WireType, decode_varint};

/// A field's value, as it stands in the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// An integer, a bool or an enum.
    Number(u64),
    /// Text, bytes, or a message.
    Bytes(&'a [u8]),
    /// Of a fixed width.
    Fixed,
}

/// The fields of a message, in the order in which they stand there. An error is the last of them.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Those of an encoded message.
    pub(crate) fn of(message: &'a [u8]) -> Self {
        Self(message)
    }

    fn field(&mut self) -> Result<(u32, Value<'a>), String> {
        let key = self.number()?;
        let tag = u32::try_from(key >> 3).map_err(|_| format!("no field has the key {key}"))?;
        let value = match key & 7 {
            kind if kind == WireType::Varint as u64 => Value::Number(self.number()?),
            kind if kind == WireType::LengthDelimited as u64 => {
                let length = self.number()?;
                Value::Bytes(self.take(length)?)
            }
            kind if kind == WireType::SixtyFourBit as u64 => self.take(8).map(|_| Value::Fixed)?,
            kind if kind == WireType::ThirtyTwoBit as u64 => self.take(4).map(|_| Value::Fixed)?,
            kind => return Err(format!("field {tag} has the unknown encoding {kind}")),
        };
        Ok((tag, value))
    }

    fn number(&mut self) -> Result<u64, String> {
        match self.0 {
            // Most are small.
            [small, rest @ ..] if *small < 0x80 => {
                self.0 = rest;
                Ok((*small).into())
            }
            _ => decode_varint(&mut self.0).map_err(|error| error.to_string()),
        }
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], String> {
        let taken = usize::try_from(length)
            .ok()
            .and_then(|length| self.0.split_at_checked(length));
        let (taken, rest) = taken.ok_or("it ends within a field")?;
        self.0 = rest;
        Ok(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

/// The number of a field; 0 where the message does not have it.
pub(crate) fn number(message: &[u8], tag: u32) -> Result<u64, String> {
    let mut found = 0;
    for field in Fields::of(message) {
        if let (at, Value::Number(number)) = field?
            && at == tag
        {
            found = number;
        }
    }
    Ok(found)
}
