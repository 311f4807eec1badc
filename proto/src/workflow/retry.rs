//! When to try again: what a definition says, checked, and the delays that follow from it.

use super::{SECOND_US, TIMEOUT_US_MAX};
use crate::convert::{duration_to_us, us_to_duration};
use crate::error::{Problem, Reason};
use crate::wire;

/// When to try again.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// How many attempts in all.
    pub attempts: u32,
    /// The delay before the second attempt, in microseconds.
    pub initial_delay_us: u64,
    /// What each further delay is multiplied by.
    pub multiplier: f64,
    /// The longest delay, in microseconds.
    pub max_delay_us: u64,
    /// Which part of a delay chance may take away, 0..1.
    pub jitter: f64,
    /// How many times a lost command is delivered in all.
    pub max_deliveries: u32,
}

impl Retry {
    pub(super) fn check(retry: Option<&wire::RetryPolicy>) -> Result<Self, Problem> {
        let unset = wire::RetryPolicy::default();
        let retry = retry.unwrap_or(&unset);
        let delay = |field: &str, value: &Option<prost_types::Duration>, default| {
            value.as_ref().map_or(Ok(default), |value| {
                duration_to_us(field, value, 0, TIMEOUT_US_MAX)
            })
        };
        let count = |field: &str, value: u32, default: u32, most: u32| match value {
            0 => Ok(default),
            value if value <= most => Ok(value),
            value => Err(Problem::field(
                Reason::FieldOutOfRange,
                field,
                format!("{field} is {value}; it must be 1 to {most}"),
            )),
        };
        let number = |field: &str, value: f64, least: f64, most: f64| {
            if (least..=most).contains(&value) {
                return Ok(value);
            }
            Err(Problem::field(
                Reason::FieldOutOfRange,
                field,
                format!("{field} is {value}; it must be {least} to {most}"),
            ))
        };
        let multiplier = if retry.multiplier == 0.0 {
            2.0
        } else {
            retry.multiplier
        };
        Ok(Self {
            attempts: count("attempts", retry.attempts, 1, 1_000)?,
            initial_delay_us: delay("initial_delay", &retry.initial_delay, SECOND_US)?,
            multiplier: number("multiplier", multiplier, 1.0, 1_000.0)?,
            max_delay_us: delay("max_delay", &retry.max_delay, 60 * SECOND_US)?,
            jitter: number("jitter", retry.jitter.unwrap_or(0.2), 0.0, 1.0)?,
            max_deliveries: count("max_deliveries", retry.max_deliveries, 5, 100)?,
        })
    }

    pub(super) fn to_wire(&self) -> wire::RetryPolicy {
        wire::RetryPolicy {
            attempts: self.attempts,
            initial_delay: Some(us_to_duration(self.initial_delay_us)),
            multiplier: self.multiplier,
            max_delay: Some(us_to_duration(self.max_delay_us)),
            jitter: Some(self.jitter),
            max_deliveries: self.max_deliveries,
        }
    }

    /// The delay before the attempt after `failures` failed ones. `chance` is 0..1; the caller
    /// draws it from something that replay finds again.
    pub fn delay_us(&self, failures: u32, chance: f64) -> u64 {
        let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
        let grown = self.initial_delay_us as f64 * self.multiplier.powi(exponent);
        let limited = grown.min(self.max_delay_us as f64);
        (limited * (1.0 - self.jitter * chance)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_by_the_multiplier_up_to_the_limit() {
        let retry = Retry {
            attempts: 9,
            initial_delay_us: 100,
            multiplier: 3.0,
            max_delay_us: 1_000,
            jitter: 0.5,
            max_deliveries: 5,
        };
        let delays: Vec<_> = (1..5)
            .map(|failures| retry.delay_us(failures, 0.0))
            .collect();
        assert_eq!(delays, [100, 300, 900, 1_000]);
        assert_eq!(retry.delay_us(2, 1.0), 150);
    }
}
