//! Bad workflows; the error names the place.

use proto::wire::{
    Predecessors, RegisterWorkflowRequest, RetryPolicy, Step, Workflow,
    register_workflow_request::Source,
};
use tests::Suite;
use tonic::Code;

use super::refused;

fn step(name: &str, after: Option<&[&str]>) -> Step {
    Step {
        name: name.to_owned(),
        worker: "noop".to_owned(),
        after: after.map(|steps| Predecessors {
            steps: steps.iter().map(|step| (*step).to_owned()).collect(),
        }),
        ..Default::default()
    }
}

fn workflow(steps: Vec<Step>) -> Source {
    Source::Workflow(Workflow {
        name: "bad".to_owned(),
        steps,
        ..Default::default()
    })
}

fn timeout(seconds: i64, nanos: i32) -> Source {
    workflow(vec![Step {
        timeout: Some(prost_types::Duration { seconds, nanos }),
        ..step("a", None)
    }])
}

fn attempts(attempts: u32) -> Source {
    workflow(vec![Step {
        retry: Some(RetryPolicy {
            attempts,
            ..Default::default()
        }),
        ..step("a", None)
    }])
}

#[tokio::test]
async fn bad_definitions_are_refused_with_the_place() {
    let mut suite = Suite::start().await;
    let many = (0..10_001)
        .map(|at| step(&format!("s{at}"), None))
        .collect();
    let named = |name: &str| workflow(vec![step(name, None)]);
    let yaml = |text: &str| Source::WorkflowYaml(text.to_owned());
    // Doubles at each line: a few hundred bytes that would become gigabytes.
    let mut bomb = String::from("name: bomb\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for at in 1..30 {
        let one = format!("*a{}", at - 1);
        bomb.push_str(&format!(
            "a{at}: &a{at} [{}]\n",
            [one.as_str(); 10].join(", ")
        ));
    }
    let circle = workflow(vec![step("a", Some(&["b"])), step("b", Some(&["a"]))]);
    let twice = workflow(vec![step("a", None), step("a", None)]);
    let cases = [
        ("a circle", circle, "WORKFLOW_CYCLE", "a"),
        (
            "a stranger",
            workflow(vec![step("a", Some(&["nope"]))]),
            "WORKFLOW_UNKNOWN_STEP",
            "nope",
        ),
        ("two of one name", twice, "WORKFLOW_DUPLICATE_STEP", "a"),
        (
            "10,001 steps",
            workflow(many),
            "WORKFLOW_TOO_LARGE",
            "10001",
        ),
        ("no steps", workflow(vec![]), "FIELD_MISSING", "steps"),
        (
            "no time",
            timeout(0, 0),
            "FIELD_OUT_OF_RANGE",
            "steps[0].timeout",
        ),
        (
            "negative time",
            timeout(-1, 0),
            "FIELD_OUT_OF_RANGE",
            "steps[0].timeout",
        ),
        (
            "impossible nanos",
            timeout(0, 2_000_000_000),
            "FIELD_OUT_OF_RANGE",
            "steps[0].timeout",
        ),
        (
            "2^31 attempts",
            attempts(1 << 31),
            "FIELD_OUT_OF_RANGE",
            "steps[0].retry.attempts",
        ),
        ("a path", named("../x"), "NAME_INVALID", "steps[0].name"),
        ("a new line", named("a\n"), "NAME_INVALID", "steps[0].name"),
        (
            "an escape",
            named("\u{1b}[2J"),
            "NAME_INVALID",
            "steps[0].name",
        ),
        (
            "a turned name",
            named("\u{202e}x"),
            "NAME_INVALID",
            "steps[0].name",
        ),
        ("no YAML", yaml("{"), "WORKFLOW_MALFORMED", ""),
        (
            "a wrong key",
            yaml("name: w\nstepz: []\n"),
            "WORKFLOW_MALFORMED",
            "steps",
        ),
        ("a bomb", yaml(&bomb), "WORKFLOW_MALFORMED", ""),
    ];
    for (what, source, reason, place) in cases {
        let request = RegisterWorkflowRequest {
            source: Some(source),
            validate_only: false,
        };
        let answer = suite.client().raw().register_workflow(request).await;
        let status = answer.as_ref().err();
        let message = status
            .map(|status| status.message().to_owned())
            .unwrap_or_default();
        assert!(
            message.contains(place),
            "{what}: {place:?} isn't named: {message}"
        );
        refused(&mut suite, what, answer, (Code::InvalidArgument, reason)).await;
    }
    let nothing = RegisterWorkflowRequest {
        source: None,
        validate_only: false,
    };
    let answer = suite.client().raw().register_workflow(nothing).await;
    refused(
        &mut suite,
        "nothing",
        answer,
        (Code::InvalidArgument, "FIELD_MISSING"),
    )
    .await;
}

#[tokio::test]
async fn a_check_alone_keeps_nothing() {
    let suite = Suite::builder()
        .without_host()
        .without_monitor()
        .start()
        .await;
    let client = suite.client();
    let source = workflow(vec![step("a", None)]);
    let checked = client
        .register_source(source, true)
        .await
        .expect("it is good");
    assert_eq!(checked.workflow.expect("a workflow").steps[0].name, "a");
    let refused = client.workflow("bad", 0).await.expect_err("it wasn't kept");
    assert_eq!(refused.reason(), "WORKFLOW_NOT_FOUND");
}
