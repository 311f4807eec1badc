//! Durations between the standard library and the wire.

use std::time::Duration;

/// A duration as the wire has it; more than the wire can hold becomes its most.
pub fn to_wire(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}

/// A duration of the wire; a negative one is zero.
pub fn from_wire(duration: &prost_types::Duration) -> Duration {
    let seconds = u64::try_from(duration.seconds).unwrap_or(0);
    let nanos = u32::try_from(duration.nanos).unwrap_or(0).min(999_999_999);
    Duration::new(seconds, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_reads_back_as_it_was_written() {
        for duration in [
            Duration::ZERO,
            Duration::from_nanos(1),
            Duration::new(86_400, 999_999_999),
        ] {
            assert_eq!(from_wire(&to_wire(duration)), duration);
        }
        let negative = prost_types::Duration {
            seconds: -1,
            nanos: -5,
        };
        assert_eq!(from_wire(&negative), Duration::ZERO);
    }
}
