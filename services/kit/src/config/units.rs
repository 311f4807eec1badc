//! Durations and sizes as people write them: `250ms`, `10s`, `5m`, `2h`, `7d`; `64KiB`, `1GiB`.
//!
//! A bare number is seconds, or bytes. Nothing here rounds: what has no exact meaning is refused.

use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// A duration that a configuration file gives with its unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumaneDuration(pub Duration);

/// A count of bytes that a configuration file gives with its unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteCount(pub u64);

/// The longest duration: a clock can still add it to any instant.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 86_400);

/// Reads a value where none at all would mean a service that can do nothing; for `deserialize_with`.
///
/// # Errors
/// It is zero, or no such value.
pub fn above_zero<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default + PartialEq,
{
    let value = T::deserialize(from)?;
    if value == T::default() {
        return Err(D::Error::custom("is 0; it must be more"));
    }
    Ok(value)
}

impl Deref for HumaneDuration {
    type Target = Duration;

    fn deref(&self) -> &Duration {
        &self.0
    }
}

impl<'de> Deserialize<'de> for HumaneDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DurationVisitor)
    }
}

impl<'de> Deserialize<'de> for ByteCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BytesVisitor)
    }
}

struct DurationVisitor;

impl Visitor<'_> for DurationVisitor {
    type Value = HumaneDuration;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a duration such as 250ms, 10s, 5m, 2h or 7d, or a number of seconds")
    }

    fn visit_u64<E: Error>(self, seconds: u64) -> Result<Self::Value, E> {
        bounded(Duration::from_secs(seconds))
    }

    fn visit_f64<E: Error>(self, seconds: f64) -> Result<Self::Value, E> {
        let duration = Duration::try_from_secs_f64(seconds)
            .map_err(|_| E::invalid_value(serde::de::Unexpected::Float(seconds), &self))?;
        bounded(duration)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        let duration = parse_duration(text)
            .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))?;
        bounded(duration)
    }
}

fn bounded<E: Error>(duration: Duration) -> Result<HumaneDuration, E> {
    if duration > LONGEST {
        return Err(E::custom("is too long; at most 36600d"));
    }
    Ok(HumaneDuration(duration))
}

struct BytesVisitor;

impl Visitor<'_> for BytesVisitor {
    type Value = ByteCount;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a size such as 64KiB, 16MiB or 2GiB, or a number of bytes")
    }

    fn visit_u64<E: Error>(self, bytes: u64) -> Result<Self::Value, E> {
        Ok(ByteCount(bytes))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        parse_bytes(text)
            .map(ByteCount)
            .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
    }
}

/// Reads `250ms`, `10s`, `1.5h`; a number alone is seconds.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    // Whole numbers are multiplied as such, so that 1us stays 1us at any size.
    match number.parse::<u64>() {
        Ok(whole) => {
            let micros = u64::try_from(Duration::from_secs_f64(seconds).as_micros()).ok()?;
            Some(Duration::from_micros(whole.checked_mul(micros)?))
        }
        Err(_) => Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok(),
    }
}

/// Reads `64KiB`, `10MB`; a number alone is bytes.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let factor: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

fn split(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (!number.is_empty()).then(|| (number, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_with_their_unit() {
        for (text, micros) in [
            ("1us", 1),
            ("250ms", 250_000),
            ("10s", 10_000_000),
            ("10", 10_000_000),
            ("1.5s", 1_500_000),
            ("5m", 300_000_000),
            ("5min", 300_000_000),
            ("2 h", 7_200_000_000),
            ("7d", 604_800_000_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Some(Duration::from_micros(micros)),
                "{text}"
            );
        }
        for wrong in [
            "",
            "s",
            "-1s",
            "1y",
            "1.2.3s",
            "1s2",
            "99999999999999999999d",
        ] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_are_read_with_their_unit() {
        assert_eq!(parse_bytes("64KiB"), Some(65_536));
        assert_eq!(parse_bytes("10MB"), Some(10_000_000));
        assert_eq!(parse_bytes("7"), Some(7));
        for wrong in ["", "KiB", "1.5MiB", "1kib", "99999999999TiB", "-1"] {
            assert_eq!(parse_bytes(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_a_panic(text in ".*") {
            let _ = (parse_duration(&text), parse_bytes(&text));
        }
    }
}
