//! Which failures are the same failure.

use monitor::folds::patterns::{Found, Patterns};
use monitor::folds::settings::Settings;
use proptest::prelude::*;
use proto::event::{CommandEvent, Event, Kind};

use crate::history::*;

/// The patterns of failed commands, one a second.
fn patterns_of(failures: &[(&str, String)], settings: &Settings) -> Patterns {
    let mut events: Vec<Event> = Vec::new();
    for (number, (kind, message)) in failures.iter().enumerate() {
        let run = Run {
            start_us: BEGIN + number as i64 * 1_000_000,
            workflow: 0,
            worker: 0,
            host: 0,
            wait_us: 1,
            run_us: 1,
            end: End::Failed(0),
        };
        for mut event in run.events(number) {
            if let Kind::Command {
                what: CommandEvent::Failed { failure: its, .. },
                ..
            } = &mut event.kind
            {
                *its = failure(kind, message);
            }
            events.push(event);
        }
    }
    fold(&entries(&events, 10, settings)).patterns
}

fn all(patterns: &Patterns) -> Vec<Found> {
    patterns.since(BEGIN, None).1
}

#[test]
fn a_template_generalises_and_its_id_stays() {
    let settings = Settings::default();
    let message = |name: &str| {
        (
            "NetworkError",
            format!("cannot reach shop of {name} in time"),
        )
    };
    let first = all(&patterns_of(&[message("alice")], &settings));
    let both = all(&patterns_of(&[message("alice"), message("bob")], &settings));
    assert_eq!(both.len(), 1);
    assert_eq!(
        first[0].pattern.template(),
        "cannot reach shop of alice in time"
    );
    assert_eq!(
        both[0].pattern.template(),
        "cannot reach shop of <*> in time"
    );
    assert_eq!(first[0].pattern.id, both[0].pattern.id);
    assert_eq!((both[0].count, both[0].pattern.total), (2, 2));
}

#[test]
fn one_message_of_two_kinds_is_two_patterns() {
    let message = || "no answer".to_owned();
    let failures = [("NetworkError", message()), ("RateLimitError", message())];
    assert_eq!(all(&patterns_of(&failures, &Settings::default())).len(), 2);
}

#[test]
fn failures_past_the_limit_are_counted_as_other() {
    let settings = Settings {
        patterns_max: 3,
        ..Settings::default()
    };
    let words = ["one", "two", "three", "four", "five"];
    let failures: Vec<(&str, String)> = words.map(|word| (word, "no".to_owned())).to_vec();
    let found = all(&patterns_of(&failures, &settings));
    assert_eq!(found.len(), 4);
    assert_eq!(
        (found[0].pattern.kind.as_str(), found[0].count),
        ("(other)", 2)
    );
}

#[test]
fn a_window_covers_the_time_before_the_first_failure_too() {
    let settings = Settings::default();
    let well = Run {
        start_us: BEGIN,
        workflow: 0,
        worker: 0,
        host: 0,
        wait_us: 1,
        run_us: 1,
        end: End::Completed,
    };
    let failed = Run {
        start_us: BEGIN + 60_000_000,
        end: End::Failed(0),
        ..well
    };
    let events = [well.events(0), failed.events(1)].concat();
    let folds = fold(&entries(&events, 1, &settings));
    assert_eq!(folds.patterns.since(BEGIN, None).0, BEGIN);
    assert_eq!(folds.patterns.since(BEGIN, None).1[0].count, 1);
    assert_eq!(folds.performance.report(BEGIN).start_us, BEGIN);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_four_failures_are_four_patterns_whatever_ids_they_carry(
        carried in prop::collection::vec((0_usize..4, any::<u128>(), any::<u32>(), "[a-z]{1,12}"), 1..80),
    ) {
        let failures: Vec<(&str, String)> = carried
            .iter()
            .map(|(at, id, number, quoted)| {
                let (kind, message) = FAILURES[*at];
                let id = uuid::Uuid::from_u128(*id);
                (kind, format!("{message} for {id} after {number} ms at '{quoted}'"))
            })
            .collect();
        let found = all(&patterns_of(&failures, &Settings::default()));
        let kinds: std::collections::BTreeSet<usize> = carried.iter().map(|(at, ..)| *at).collect();
        prop_assert_eq!(found.len(), kinds.len());
        let wanted = |kind: &str| failures.iter().filter(|(its, _)| *its == kind).count() as u64;
        for found in &found {
            prop_assert_eq!(found.count, wanted(&found.pattern.kind));
            let template = found.pattern.template();
            prop_assert!(template.ends_with("for <*> after <*> ms at <*>"), "{}", template);
        }
    }
}
