//! The demonstration's workers: one fast, one slow, one that fails now and then, one that computes;
//! and two for benchmarks and trials.
//!
//! Texts, fields and numbers are a contract with who reads the demonstration; a seed makes their
//! randomness repeatable.

use std::sync::Arc;
use std::time::Duration;

use multiagents_client::{Context, Failure, Worker};
use rand::Rng as _;
use serde_json::{Value, json};

use crate::config::Builtin;
use crate::handlers::chance::{Chance, stable_hash};
use crate::handlers::text;

/// What flaky_processor fails with.
pub const FLAKY_ERRORS: [&str; 4] = [
    "NetworkError: Connection timeout",
    "ValidationError: Invalid input format",
    "ServiceUnavailable: External service down",
    "RateLimitError: Too many requests",
];
/// The rounds of cpu_intensive when the context names none.
const COMPLEXITY_DEFAULT: u64 = 1_000;
/// After how many rounds cpu_intensive looks whether it is to stop.
const ROUNDS_BETWEEN_LOOKS: u64 = 4_096;

/// The worker called `name`; None where there is none.
pub fn worker(name: &str, config: &Builtin) -> Option<Worker> {
    let chance = Arc::new(Chance::new(config.seed, name));
    let worker = match name {
        "fast_processor" => Worker::new(name, move |context| {
            let wait = Duration::from_secs_f64(chance.next().random_range(0.01..0.05));
            fast(context, wait)
        }),
        "slow_processor" => Worker::new(name, move |context| {
            let seconds = chance.next().random_range(0.5..2.0);
            slow(context, seconds)
        }),
        "flaky_processor" => {
            let failure_ratio = config.flaky_failure_ratio;
            Worker::new(name, move |context| {
                let mut numbers = chance.next();
                let error = (numbers.random::<f64>() < failure_ratio)
                    .then(|| FLAKY_ERRORS[numbers.random_range(0..FLAKY_ERRORS.len())]);
                let wait = Duration::from_secs_f64(numbers.random_range(0.1..0.8));
                flaky(context, error, wait)
            })
        }
        "cpu_intensive" => {
            let complexity_max = config.complexity_max;
            Worker::blocking(name, move |context| compute(&context, complexity_max))
        }
        "noop" => Worker::new(name, |_| async { Ok(json!({})) }),
        "echo" => Worker::new(name, |context| async move { Ok(context.object()?.clone()) }),
        _ => return None,
    };
    Some(worker)
}

async fn fast(context: Context, wait: Duration) -> Result<Value, Failure> {
    let data = data(&context)?;
    tokio::time::sleep(wait).await;
    Ok(json!({
        "processed": text::upper(&data),
        "processing_time": "fast",
        "worker_type": "fast_processor",
    }))
}

async fn slow(context: Context, seconds: f64) -> Result<Value, Failure> {
    let data = data(&context)?;
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    Ok(json!({
        "processed": text::lower(&data),
        "processing_time": format!("{seconds:.2}s"),
        "worker_type": "slow_processor",
    }))
}

async fn flaky(
    context: Context,
    error: Option<&'static str>,
    wait: Duration,
) -> Result<Value, Failure> {
    let data = data(&context)?;
    if let Some(error) = error {
        return Err(Failure::from_text(error));
    }
    tokio::time::sleep(wait).await;
    Ok(json!({
        "processed": text::title(&data),
        "success": true,
        "worker_type": "flaky_processor",
    }))
}

fn compute(context: &Context, complexity_max: u64) -> Result<Value, Failure> {
    let data = data(context)?;
    let complexity = complexity(context, complexity_max)?;
    let hash_sum = hash_sum(&data, complexity, || context.is_cancelled())
        .ok_or_else(|| Failure::new("Cancelled", "the computation was told to stop"))?;
    Ok(json!({
        "calculation_result": {
            "hash_sum": hash_sum,
            "iterations": complexity,
            "computational_load": "high",
        },
        "complexity": complexity,
        "worker_type": "cpu_intensive",
    }))
}

/// The sum over `complexity` rounds of the hash of "data-round", each modulo 1000; None when it was
/// told to stop. The hash is a stable one: the same input has the same sum everywhere.
fn hash_sum(data: &str, complexity: u64, is_cancelled: impl Fn() -> bool) -> Option<u64> {
    use std::io::Write as _;
    let mut line = format!("{data}-").into_bytes();
    let prefix_length = line.len();
    let mut sum = 0;
    for round in 0..complexity {
        if round % ROUNDS_BETWEEN_LOOKS == 0 && is_cancelled() {
            return None;
        }
        line.truncate(prefix_length);
        // Writing to memory doesn't fail.
        let _ = write!(line, "{round}");
        sum += stable_hash(&line) % 1_000;
    }
    Some(sum)
}

/// How many rounds: a whole number within the limit.
fn complexity(context: &Context, complexity_max: u64) -> Result<u64, Failure> {
    let Some(value) = context.object()?.get("complexity") else {
        return Ok(COMPLEXITY_DEFAULT.min(complexity_max));
    };
    let whole = value.as_u64().or_else(|| {
        let fraction = value.as_f64().filter(|value| value.fract() == 0.0)?;
        // Up to 2^53 a double holds every whole number.
        (0.0..=9_007_199_254_740_992.0)
            .contains(&fraction)
            .then_some(fraction as u64)
    });
    whole
        .filter(|rounds| *rounds <= complexity_max)
        .ok_or_else(|| {
            let shown = proto::id::shown(&value.to_string(), 64);
            Failure::new(
                "ValidationError",
                format!(
                    "complexity is {shown}; it must be a whole number from 0 to {complexity_max}"
                ),
            )
            .not_retryable()
        })
}

/// The context's `data` as text: absent and null are empty, a text is itself, and whatever else is
/// its JSON text.
fn data(context: &Context) -> Result<String, Failure> {
    Ok(match context.object()?.get("data") {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const NOW: Duration = Duration::ZERO;

    async fn processed(data: Value) -> [String; 3] {
        let context = || Context::for_test(&json!({ "data": data }));
        let text = |value: Value| value["processed"].as_str().unwrap().to_owned();
        [
            text(fast(context(), NOW).await.unwrap()),
            text(slow(context(), 0.0).await.unwrap()),
            text(flaky(context(), None, NOW).await.unwrap()),
        ]
    }

    #[tokio::test]
    async fn results_have_the_pages_fields_in_the_pages_order() {
        let context = || Context::for_test(&json!({ "data": "monitoring_test" }));
        assert_eq!(
            fast(context(), NOW).await.unwrap().to_string(),
            r#"{"processed":"MONITORING_TEST","processing_time":"fast","worker_type":"fast_processor"}"#
        );
        assert_eq!(
            slow(context(), 0.004_9).await.unwrap().to_string(),
            r#"{"processed":"monitoring_test","processing_time":"0.00s","worker_type":"slow_processor"}"#
        );
        assert_eq!(
            flaky(context(), None, NOW).await.unwrap().to_string(),
            r#"{"processed":"Monitoring_Test","success":true,"worker_type":"flaky_processor"}"#
        );
    }

    #[tokio::test]
    async fn data_may_be_absent_empty_a_number_or_any_script() {
        for (data, upper, lower, title) in [
            (Value::Null, "", "", ""),
            (json!(""), "", "", ""),
            (json!(42), "42", "42", "42"),
            (json!(1.5), "1.5", "1.5", "1.5"),
            (json!(true), "TRUE", "true", "True"),
            (json!(["aB"]), "[\"AB\"]", "[\"ab\"]", "[\"Ab\"]"),
            (json!("grüße ÉL"), "GRÜSSE ÉL", "grüße él", "Grüße Él"),
            (json!("😀 hi"), "😀 HI", "😀 hi", "😀 Hi"),
        ] {
            assert_eq!(processed(data).await, [upper, lower, title]);
        }
        let none = fast(Context::for_test(&json!({})), NOW).await.unwrap();
        assert_eq!(none["processed"], "");
    }

    #[tokio::test]
    async fn each_of_the_four_errors_has_its_kind_and_can_be_tried_again() {
        let mut kinds = Vec::new();
        for error in FLAKY_ERRORS {
            let context = Context::for_test(&json!({}));
            let failure = flaky(context, Some(error), NOW).await.unwrap_err();
            assert_eq!(failure.to_string(), error);
            assert!(failure.is_retryable());
            kinds.push(failure.kind().to_owned());
        }
        let right = [
            "NetworkError",
            "ValidationError",
            "ServiceUnavailable",
            "RateLimitError",
        ];
        assert_eq!(kinds, right);
    }

    #[test]
    fn the_computation_is_the_same_everywhere_and_grows_with_its_complexity() {
        let context = Context::for_test(&json!({ "data": "cpu_test_0", "complexity": 10_000 }));
        let result = compute(&context, 1_000_000).unwrap();
        assert_eq!(result, compute(&context, 1_000_000).unwrap());
        assert_eq!(result["complexity"], 10_000);
        let calculation = &result["calculation_result"];
        assert_eq!(calculation["iterations"], 10_000);
        assert_eq!(calculation["computational_load"], "high");
        // Each round adds 0 to 999, on average close to half of that.
        let sum = calculation["hash_sum"].as_u64().unwrap();
        assert!((4_900_000..5_100_000).contains(&sum), "{sum}");
        assert_eq!(hash_sum("a", 0, || false), Some(0));
    }

    #[test]
    fn the_computation_stops_when_it_is_told_to() {
        assert_eq!(hash_sum("a", u64::MAX, || true), None);
        let looks = std::cell::Cell::new(0);
        let third = || {
            looks.set(looks.get() + 1);
            looks.get() == 3
        };
        assert_eq!(hash_sum("a", u64::MAX, third), None);
    }

    #[test]
    fn complexity_is_checked_and_a_wrong_one_is_not_tried_again() {
        let of = |value: Value| {
            let context = Context::for_test(&json!({ "complexity": value }));
            complexity(&context, 1_000_000)
        };
        assert_eq!(of(json!(0)).unwrap(), 0);
        assert_eq!(of(json!(10_000.0)).unwrap(), 10_000);
        assert_eq!(
            complexity(&Context::for_test(&json!({})), 1_000_000).unwrap(),
            1_000
        );
        for wrong in [
            json!(-1),
            json!(1.5),
            json!("many"),
            json!(1_000_001),
            json!(1e300),
            json!([1]),
            Value::Null,
        ] {
            let failure = of(wrong.clone()).unwrap_err();
            assert_eq!(failure.kind(), "ValidationError", "{wrong}");
            assert!(!failure.is_retryable());
            assert!(failure.message().contains("0 to 1000000"), "{failure}");
        }
    }
}
