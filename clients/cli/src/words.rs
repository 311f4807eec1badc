//! Figures, times and enums as people read them, and the other way round where people type them.
//!
//! Pure: no clock, no terminal. Ratios become percent here and nowhere else.

use std::time::Duration;

use jiff::tz::TimeZone;
use prost_types::{Duration as WireDuration, Timestamp};
use proto::wire;

/// What is printed for a figure that isn't known.
pub(crate) const UNKNOWN: &str = "-";

/// Text that somebody outside chose, safe to print on one line, cut to `limit` characters.
pub(crate) fn shown(text: &str, limit: usize) -> String {
    proto::id::shown(text, limit)
}

/// A ratio as percent with one decimal, such as "97.5%".
pub(crate) fn percent(ratio: Option<f64>) -> String {
    ratio.map_or_else(
        || UNKNOWN.to_owned(),
        |ratio| format!("{:.1}%", ratio * 100.0),
    )
}

/// A duration of the wire in milliseconds; 0 where it is absent.
pub(crate) fn milliseconds(duration: Option<&WireDuration>) -> f64 {
    duration.map_or(0.0, |duration| {
        duration.seconds as f64 * 1_000.0 + f64::from(duration.nanos) / 1_000_000.0
    })
}

/// A duration as a person says it: "850 µs", "12.3 ms", "1.53 s", "2 min 5 s", "3 h 4 min".
pub(crate) fn duration(duration: Option<&WireDuration>) -> String {
    duration.map_or_else(
        || UNKNOWN.to_owned(),
        |wire| span(proto::convert::to_std(wire)),
    )
}

/// As [`duration`], for one that is there.
pub(crate) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let micros = duration.as_micros();
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{:.1} ms", duration.as_secs_f64() * 1_000.0),
        1_000_000..60_000_000 => format!("{:.2} s", duration.as_secs_f64()),
        60_000_000..3_600_000_000 => both(seconds / 60, "min", seconds % 60, "s"),
        3_600_000_000..86_400_000_000 => both(seconds / 3_600, "h", seconds % 3_600 / 60, "min"),
        _ => both(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

/// Two units together; the smaller one only if there is any of it.
fn both(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 {
        return format!("{large} {large_unit}");
    }
    format!("{large} {large_unit} {small} {small_unit}")
}

/// A count of bytes, such as "1.5 GiB".
pub(crate) fn bytes(count: f64) -> String {
    let mut count = count;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if count < 1_024.0 {
            return if unit == "B" {
                format!("{count:.0} B")
            } else {
                format!("{count:.1} {unit}")
            };
        }
        count /= 1_024.0;
    }
    format!("{count:.1} TiB")
}

/// "1 step", "3 steps".
pub(crate) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// A wire duration as protobuf's JSON has it: seconds with as many decimals as it has, and an "s".
pub(crate) fn seconds(duration: &WireDuration) -> String {
    let sign = if duration.seconds < 0 || duration.nanos < 0 {
        "-"
    } else {
        ""
    };
    let fraction = format!("{:09}", duration.nanos.unsigned_abs());
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    format!(
        "{sign}{}{point}{fraction}s",
        duration.seconds.unsigned_abs()
    )
}

/// A timestamp in RFC 3339, in UTC.
pub(crate) fn rfc3339(time: &Timestamp) -> String {
    instant(time).map_or_else(|| UNKNOWN.to_owned(), |time| time.to_string())
}

fn instant(time: &Timestamp) -> Option<jiff::Timestamp> {
    jiff::Timestamp::new(time.seconds, time.nanos).ok()
}

/// Where a time's zone comes from.
#[derive(Clone, Debug)]
pub(crate) struct Zone(TimeZone);

impl Zone {
    /// UTC, or the machine's own.
    pub(crate) fn new(utc: bool) -> Self {
        Self(if utc {
            TimeZone::UTC
        } else {
            TimeZone::system()
        })
    }

    /// Date and time to the millisecond, with the zone's "Z" in UTC.
    pub(crate) fn date_time(&self, time: Option<&Timestamp>) -> String {
        let form = if self.0 == TimeZone::UTC {
            "%Y-%m-%d %H:%M:%S%.3fZ"
        } else {
            "%Y-%m-%d %H:%M:%S%.3f"
        };
        self.formatted(time, form)
    }

    /// As the page prints times: ISO 8601 with the zone's offset.
    pub(crate) fn iso(&self, time: Option<&Timestamp>) -> String {
        self.formatted(time, "%Y-%m-%dT%H:%M:%S%.6f%:z")
    }

    fn formatted(&self, time: Option<&Timestamp>, form: &str) -> String {
        time.and_then(instant).map_or_else(
            || UNKNOWN.to_owned(),
            |time| {
                time.to_zoned_datetime(self.0.clone())
                    .strftime(form)
                    .to_string()
            },
        )
    }
}

/// How much later one time is than another; zero when it isn't.
pub(crate) fn between(earlier: &Timestamp, later: &Timestamp) -> Duration {
    let earlier = proto::convert::from_timestamp(earlier);
    let later = proto::convert::from_timestamp(later);
    Duration::from_micros(later.since_us(earlier))
}

/// Reads a duration as people type it: "500ms", "30s", "5m", "1h30m", or a number of seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let hint = || {
        format!(
            "\"{}\" is no duration; write one as 500ms, 30s, 5m or 1h30m",
            shown(text, 40)
        )
    };
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|_| hint());
    }
    let parsed: jiff::SignedDuration = text.parse().map_err(|_| hint())?;
    Duration::try_from(parsed).map_err(|_| hint())
}

/// A duration for the wire.
pub(crate) fn to_wire(duration: Duration) -> WireDuration {
    proto::convert::us_to_duration(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}

/// An enum's value as the word that is printed and typed.
macro_rules! enum_words {
    ($(#[$doc:meta])* $name:ident, $parse:ident, $words:ident, $type:ident, $prefix:literal) => {
        $(#[$doc])*
        pub(crate) fn $name(number: i32) -> String {
            wire::$type::try_from(number).map_or_else(
                |_| format!("unknown ({number})"),
                |value| value.as_str_name().trim_start_matches($prefix).to_lowercase(),
            )
        }

        #[doc = concat!("The other way round, for one of the words of `", stringify!($words), "`.")]
        pub(crate) fn $parse(word: &str) -> Result<wire::$type, String> {
            wire::$type::from_str_name(&format!("{}{}", $prefix, word.to_uppercase()))
                .filter(|value| i32::from(*value) != 0)
                .ok_or_else(|| {
                    format!("\"{}\" is none of: {}", shown(word, 40), $words().join(", "))
                })
        }

        #[doc = "Every word but the one for what isn't told."]
        pub(crate) fn $words() -> Vec<String> {
            (1..)
                .map_while(|number| wire::$type::try_from(number).ok().map(i32::from))
                .map($name)
                .collect()
        }
    };
}

enum_words!(
    /// A transaction's state.
    transaction_state, parse_transaction_state, transaction_states, TransactionState, "TRANSACTION_STATE_"
);
enum_words!(
    /// A command's stage.
    stage, parse_stage, stages, Stage, "STAGE_"
);
enum_words!(
    /// An event's type.
    event_type, parse_event_type, event_types, EventType, "EVENT_TYPE_"
);

/// A step's state.
pub(crate) fn step_state(number: i32) -> String {
    wire::StepState::try_from(number).map_or_else(
        |_| format!("unknown ({number})"),
        |value| trimmed(value.as_str_name(), "STEP_STATE_"),
    )
}

/// A worker's health.
pub(crate) fn health(number: i32) -> String {
    wire::HealthStatus::try_from(number).map_or_else(
        |_| format!("unknown ({number})"),
        |value| trimmed(value.as_str_name(), "HEALTH_STATUS_"),
    )
}

/// How bad an alert is.
pub(crate) fn severity(number: i32) -> String {
    wire::Severity::try_from(number).map_or_else(
        |_| format!("unknown ({number})"),
        |value| trimmed(value.as_str_name(), "SEVERITY_"),
    )
}

fn trimmed(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).to_lowercase()
}

/// Whether a transaction in this state goes on no more.
pub(crate) fn has_ended(state: i32) -> bool {
    use wire::TransactionState as State;
    match State::try_from(state).unwrap_or_default() {
        State::Completed | State::Failed | State::Compensated | State::Cancelled => true,
        State::Unspecified | State::Pending | State::Running | State::Compensating => false,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use proptest::prelude::*;

    fn wire_ms(milliseconds: u64) -> WireDuration {
        to_wire(Duration::from_millis(milliseconds))
    }

    #[test]
    fn durations_are_said_in_the_unit_that_fits() {
        let said = |micros| span(Duration::from_micros(micros));
        assert_eq!(said(0), "0 µs");
        assert_eq!(said(850), "850 µs");
        assert_eq!(said(12_340), "12.3 ms");
        assert_eq!(said(1_530_000), "1.53 s");
        assert_eq!(said(125_000_000), "2 min 5 s");
        assert_eq!(said(300_000_000), "5 min");
        assert_eq!(said(11_040_000_000), "3 h 4 min");
        assert_eq!(said(90_000_000_000), "1 d 1 h");
        assert_eq!(duration(None), "-");
    }

    #[test]
    fn ratios_are_percent_and_an_absent_one_is_no_zero() {
        assert_eq!(percent(Some(0.975)), "97.5%");
        assert_eq!(percent(Some(1.0)), "100.0%");
        assert_eq!(percent(None), "-");
    }

    #[test]
    fn people_type_durations_in_several_ways_and_nonsense_is_told_how() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5_400)));
        for wrong in ["", "soon", "-5m", "-1", "NaN", "5 parsecs"] {
            let refused = parse_duration(wrong).map(|_| ()).unwrap_err();
            assert!(refused.contains("500ms"), "{wrong}: {refused}");
        }
    }

    #[test]
    fn every_state_stage_and_type_reads_back_as_it_is_written() {
        for word in transaction_states() {
            let state = parse_transaction_state(&word).map(i32::from);
            assert_eq!(state.map(transaction_state), Ok(word));
        }
        assert_eq!(stages().len(), 9);
        assert!(event_types().contains(&"system_sampled".to_owned()));
        assert!(parse_stage("unspecified").is_err());
        assert!(parse_stage("done").is_err_and(|why| why.contains("picked_up")));
        assert_eq!(stage(77), "unknown (77)");
    }

    #[test]
    fn times_are_printed_in_utc_when_asked() {
        let time = Timestamp {
            seconds: 1_700_000_000,
            nanos: 5_000_000,
        };
        let zone = Zone::new(true);
        assert_eq!(zone.date_time(Some(&time)), "2023-11-14 22:13:20.005Z");
        assert_eq!(zone.iso(Some(&time)), "2023-11-14T22:13:20.005000+00:00");
        assert_eq!(zone.date_time(None), "-");
    }

    #[test]
    fn byte_counts_are_said_in_binary_units() {
        assert_eq!(bytes(512.0), "512 B");
        assert_eq!(bytes(1_536.0), "1.5 KiB");
        assert_eq!(bytes(3.0 * 1_024_f64.powi(4)), "3.0 TiB");
    }

    proptest! {
        #[test]
        fn seconds_lose_no_digit(micros in 0u64..=10_000_000_000_000) {
            let text = seconds(&proto::convert::us_to_duration(micros));
            let number: f64 = text.trim_end_matches('s').parse().map_err(|_| TestCaseError::fail("no number"))?;
            prop_assert!((number * 1e6 - micros as f64).abs() < 1.0, "{text}");
        }

        #[test]
        fn nothing_shown_can_move_the_cursor(text in any::<String>()) {
            prop_assert!(!shown(&text, 1_000).chars().any(char::is_control));
        }
    }

    #[test]
    fn milliseconds_of_an_absent_duration_are_none() {
        assert!((milliseconds(Some(&wire_ms(1_500))) - 1_500.0).abs() < f64::EPSILON);
        assert!(milliseconds(None).abs() < f64::EPSILON);
    }
}
