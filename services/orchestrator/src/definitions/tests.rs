//! Workflow files as people write them, right and wrong.

#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

fn one(text: &str) -> Workflow {
    let mut workflows = parse("w.yaml", text).unwrap();
    assert_eq!(workflows.len(), 1);
    workflows.remove(0)
}

/// Each step with what it follows, as `c<-a,b`.
fn order(workflow: &Workflow) -> Vec<String> {
    let name = |at: &usize| workflow.steps[*at].name.to_string();
    workflow
        .steps
        .iter()
        .map(|step| {
            let after: Vec<_> = step.after.iter().map(name).collect();
            format!("{}<-{}", step.name, after.join(","))
        })
        .collect()
}

#[test]
fn the_demonstrations_workflows_are_as_the_page_has_them() {
    let read = |text| order(&one(text));
    let simple = include_str!("../../../../config/workflows/simple_monitoring.yaml");
    assert_eq!(
        read(simple),
        [
            "fast_step<-",
            "slow_step<-fast_step",
            "flaky_step<-slow_step"
        ]
    );
    let parallel = include_str!("../../../../config/workflows/parallel_monitoring.yaml");
    assert_eq!(
        read(parallel),
        [
            "prepare<-",
            "process_a<-prepare",
            "process_b<-prepare",
            "process_c<-prepare",
            "process_d<-prepare",
            "combine<-process_a,process_b,process_c,process_d"
        ]
    );
    let error = include_str!("../../../../config/workflows/error_monitoring.yaml");
    assert_eq!(
        read(error),
        [
            "validate<-",
            "risky_process<-validate",
            "cleanup<-risky_process"
        ]
    );
    let cpu = include_str!("../../../../config/workflows/cpu_intensive_monitoring.yaml");
    let cpu = one(cpu);
    assert_eq!(cpu.steps.len(), 1);
    assert_eq!(cpu.steps[0].worker.as_str(), "cpu_intensive");
}

#[test]
fn groups_nest_branches_are_sequences_and_after_overrides() {
    let workflow = one("
name: w
steps:
  - parallel:
      - { name: a, worker: w }
      - steps:
          - { name: b, worker: w }
          - parallel: [{ name: c, worker: w }, { name: d, worker: w }]
  - { name: e, worker: w }
  - { name: f, worker: w, after: a }
  - { name: g, worker: w, after: [] }
");
    assert_eq!(
        order(&workflow),
        ["a<-", "b<-", "c<-b", "d<-b", "e<-a,c,d", "f<-a", "g<-"]
    );
}

#[test]
fn every_key_of_a_step_is_read() {
    let workflow = one("
name: w
description: d
steps:
  - name: a
    worker: w
    timeout: 1.5
    retry: { attempts: 3, initial_delay: 250ms, multiplier: 3, max_delay: 1m, jitter: 0, max_deliveries: 2 }
    undo: { worker: u, timeout: 2h, retry: { attempts: 4 } }
    on_failure: continue
    compensate_unknown: true
");
    let step = &workflow.steps[0];
    assert_eq!(step.timeout_us, 1_500_000);
    assert_eq!(
        (
            step.retry.attempts,
            step.retry.initial_delay_us,
            step.retry.max_delay_us
        ),
        (3, 250_000, 60_000_000)
    );
    assert_eq!(
        (
            step.retry.multiplier,
            step.retry.jitter,
            step.retry.max_deliveries
        ),
        (3.0, 0.0, 2)
    );
    let undo = step.undo.as_ref().unwrap();
    assert_eq!(
        (undo.worker.as_str(), undo.timeout_us),
        ("u", 7_200_000_000)
    );
    assert_eq!(undo.retry.attempts, 4);
    assert_eq!(step.on_failure, proto::workflow::OnFailure::Continue);
    assert!(step.compensate_unknown);
}

#[test]
fn a_file_may_hold_several_workflows() {
    let workflows = parse(
        "w.yaml",
        "workflows:\n- {name: a, steps: [{name: s, worker: w}]}\n- {name: b, steps: [{name: s, worker: w}]}",
    )
    .unwrap();
    let names: Vec<_> = workflows
        .iter()
        .map(|workflow| workflow.name.as_str())
        .collect();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    let step = "name: w\nsteps:\n- name: a\n  worker: w\n  ";
    let deep = format!("name: {}", "[".repeat(10_000));
    let cases = [
        ("", Reason::WorkflowMalformed, "there is no workflow"),
        (
            "steps: []",
            Reason::WorkflowMalformed,
            "w.yaml:1:1: the workflow has no `name`",
        ),
        ("name: w", Reason::FieldMissing, "steps is empty"),
        ("- 1", Reason::WorkflowMalformed, "w.yaml:1:1"),
        ("name: [", Reason::WorkflowMalformed, "w.yaml:1"),
        ("name: w\nname: v", Reason::WorkflowMalformed, "w.yaml:2:1"),
        (&deep, Reason::WorkflowMalformed, "w.yaml:1"),
        (
            &format!("{step}retrys: {{}}"),
            Reason::WorkflowMalformed,
            "w.yaml:5:3: there is no key `retrys` here; is it `retry`?",
        ),
        (
            &format!("{step}on_failure: explode"),
            Reason::WorkflowMalformed,
            "w.yaml:5",
        ),
        (
            &format!("{step}timeout: -1s"),
            Reason::FieldOutOfRange,
            "w.yaml:3:3: workflow \"w\": steps[0].timeout is -1 s",
        ),
        (
            &format!("{step}timeout: 0"),
            Reason::FieldOutOfRange,
            "steps[0].timeout",
        ),
        (
            &format!("{step}timeout: 31d"),
            Reason::FieldOutOfRange,
            "steps[0].timeout",
        ),
        (
            &format!("{step}timeout: soon"),
            Reason::WorkflowMalformed,
            "a duration such as",
        ),
        (
            &format!("{step}retry: {{attempts: 0}}"),
            Reason::FieldOutOfRange,
            "attempts is 0; it must be 1 to 1000",
        ),
        (
            &format!("{step}retry: {{attempts: 2147483648}}"),
            Reason::FieldOutOfRange,
            "attempts",
        ),
        (
            &format!("{step}retry: {{multiplier: 0}}"),
            Reason::FieldOutOfRange,
            "multiplier",
        ),
        (
            &format!("{step}retry: {{jitter: 2}}"),
            Reason::FieldOutOfRange,
            "jitter",
        ),
        (
            &format!("{step}parallel: []"),
            Reason::WorkflowMalformed,
            "several things at once",
        ),
        (
            &format!("{step}after: b\n- {{name: b, worker: w}}"),
            Reason::WorkflowCycle,
            "w.yaml:3:3",
        ),
        (
            &format!("{step}after: nope"),
            Reason::WorkflowUnknownStep,
            "nope",
        ),
        (
            "name: w\nsteps: [{parallel: []}]",
            Reason::WorkflowMalformed,
            "`parallel` has no branches",
        ),
        (
            "name: w\nsteps: [{name: a}]",
            Reason::WorkflowMalformed,
            "no `worker`",
        ),
        (
            "name: ../x\nsteps: [{name: a, worker: w}]",
            Reason::NameInvalid,
            "../x",
        ),
        (
            "name: w\nsteps: [{name: a, worker: w}, {name: a, worker: w}]",
            Reason::WorkflowDuplicateStep,
            "w.yaml:2:",
        ),
    ];
    for (text, reason, words) in cases {
        let problem = parse("w.yaml", text).unwrap_err();
        assert_eq!(problem.reason, reason, "{text}: {}", problem.message);
        assert!(
            problem.message.contains(words),
            "{text}: {}",
            problem.message
        );
    }
}

#[test]
fn bombs_are_refused_quickly() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let inner = vec![format!("*a{}", level - 1); 9].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{inner}]\n"));
    }
    bomb.push_str("name: *a11\n");
    for text in [bomb, "#".repeat(FILE_BYTES_MAX + 1)] {
        assert!(parse("w.yaml", &text).is_err());
    }
}
