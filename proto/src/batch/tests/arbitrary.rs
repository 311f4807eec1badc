//! Random events of every kind, for the tests of the batch's bytes.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use std::sync::Arc;

use bytes::Bytes;

use crate::event::{
    Cancel, CarriedCommand, CarriedStep, Command, CommandEvent, Event, Failure, HostEvent, Kind,
    Start, SystemSample, Timing, TransactionEvent,
};
use crate::id::{HostId, StepName, Time, TransactionId, WorkerName, WorkflowName};
use crate::lifecycle::{Stage, StepState, TransactionState};
use crate::payload::Payload;
use crate::workflow::Workflow;
use crate::{convert, wire};

fn name() -> impl Strategy<Value = String> {
    // Few names, so that events share entries of the table; some as long as a name may be.
    prop_oneof![
        9 => "[a-d]\\.?[0-2]",
        1 => Just("n".repeat(crate::id::NAME_BYTES_MAX)),
    ]
}

fn step_name() -> impl Strategy<Value = StepName> {
    name().prop_map(|text| StepName::parse(&text).expect("a name"))
}

fn worker_name() -> impl Strategy<Value = WorkerName> {
    name().prop_map(|text| WorkerName::parse(&text).expect("a name"))
}

fn host_id() -> impl Strategy<Value = HostId> {
    name().prop_map(|text| HostId::parse(&text).expect("a name"))
}

/// Ids from few, each with one workflow, as a transaction has.
fn subject() -> impl Strategy<Value = (TransactionId, WorkflowName)> {
    (0_u8..5).prop_map(|number| {
        let workflow = format!("workflow-{}", number % 2);
        (
            TransactionId([number; 16]),
            WorkflowName::parse(&workflow).expect("a name"),
        )
    })
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 1_u64..200, any::<u64>()]
}

fn timing() -> impl Strategy<Value = Timing> {
    (number(), number()).prop_map(|(wait_us, run_us)| Timing { wait_us, run_us })
}

fn failure() -> impl Strategy<Value = Failure> {
    (".{0,8}", ".{0,20}", ".{0,8}").prop_map(|(kind, message, detail)| Failure {
        kind,
        message,
        detail,
    })
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        Just("{}".to_owned()),
        "[ -~é]{0,300}".prop_map(|text| format!("{{\"a\":{text:?}}}")),
        Just(String::new()),
    ]
    .prop_map(|text| Payload::Held(Bytes::from(text)))
}

fn start() -> impl Strategy<Value = Start> {
    (
        any::<u32>(),
        payload(),
        ".{0,10}",
        vec(any::<u8>(), 0..33),
        btree_map(".{0,4}", ".{0,4}", 0..4),
        ".{0,55}",
    )
        .prop_map(
            |(version, input, idempotency_key, input_hash, labels, trace_parent)| Start {
                version,
                input,
                idempotency_key,
                input_hash: Bytes::from(input_hash),
                labels,
                trace_parent,
            },
        )
}

fn cancel() -> impl Strategy<Value = Cancel> {
    (".{0,20}", any::<bool>()).prop_map(|(reason, skip_compensation)| Cancel {
        reason,
        skip_compensation,
    })
}

fn instant() -> impl Strategy<Value = Time> {
    (1_i64..i64::MAX).prop_map(Time)
}

fn stage() -> impl Strategy<Value = Stage> {
    (1_i32..=9).prop_map(|number| Stage::try_from(number).expect("a stage"))
}

fn carried_command() -> impl Strategy<Value = CarriedCommand> {
    let identity = (any::<u32>(), any::<bool>(), stage(), option::of(host_id()));
    let times = (
        instant(),
        option::of(instant()),
        option::of(instant()),
        option::of(instant()),
        option::of(instant()),
        option::of(instant()),
    );
    (identity, times, timing(), option::of(failure())).prop_map(
        |((attempt, undo, stage, host), times, timing, failure)| CarriedCommand {
            attempt,
            undo,
            stage,
            host,
            queued: times.0,
            dispatched: times.1.and_then(Time::moment),
            picked_up: times.2.and_then(Time::moment),
            processing: times.3.and_then(Time::moment),
            ended: times.4.and_then(Time::moment),
            timing,
            failure: failure.map(Box::new),
            not_before: times.5.and_then(Time::moment),
        },
    )
}

fn carried_step() -> impl Strategy<Value = CarriedStep> {
    let counts = (
        any::<u32>(),
        any::<u32>(),
        any::<u32>(),
        any::<u32>(),
        number(),
    );
    (
        step_name(),
        1_i32..=9,
        option::of(payload()),
        counts,
        option::of(failure()),
        vec(carried_command(), 0..3),
    )
        .prop_map(
            |(step, state, result, counts, failure, commands)| CarriedStep {
                step,
                state: StepState::try_from(state).expect("a state"),
                result,
                completed_offset: counts.4,
                failures: counts.0,
                losses: counts.1,
                undo_failures: counts.2,
                undo_losses: counts.3,
                failure: failure.map(Box::new),
                commands: commands.into(),
            },
        )
}

fn carried() -> impl Strategy<Value = crate::event::Carried> {
    (
        any::<i64>(),
        start(),
        1_i32..=7,
        option::of(failure()),
        option::of(step_name()),
        option::of(cancel()),
        vec(carried_step(), 0..4),
    )
        .prop_map(
            |(start_time, start, state, failure, failed_step, cancel, steps)| {
                crate::event::Carried {
                    start_time: Time(start_time),
                    start,
                    state: TransactionState::try_from(state).expect("a state"),
                    failure,
                    failed_step,
                    cancel,
                    steps,
                }
            },
        )
}

fn transaction_event() -> impl Strategy<Value = TransactionEvent> {
    prop_oneof![
        start().prop_map(|start| TransactionEvent::Started(Box::new(start))),
        vec(step_name(), 0..3)
            .prop_map(|failed_steps| TransactionEvent::Completed { failed_steps }),
        (failure(), option::of(step_name()), any::<bool>()).prop_map(
            |(failure, failed_step, compensation_failed)| TransactionEvent::Failed {
                failure,
                failed_step,
                compensation_failed
            }
        ),
        cancel().prop_map(TransactionEvent::CancelRequested),
        Just(TransactionEvent::Cancelled),
        (failure(), option::of(step_name())).prop_map(|(failure, failed_step)| {
            TransactionEvent::CompensationStarted {
                failure,
                failed_step,
            }
        }),
        Just(TransactionEvent::Compensated),
        carried().prop_map(|carried| TransactionEvent::Carried(Box::new(carried))),
    ]
}

fn command_event() -> impl Strategy<Value = CommandEvent> {
    prop_oneof![
        number().prop_map(|delay_us| CommandEvent::Queued { delay_us }),
        Just(CommandEvent::Dispatched),
        Just(CommandEvent::PickedUp),
        Just(CommandEvent::Processing),
        (payload(), timing())
            .prop_map(|(result, timing)| CommandEvent::Completed { result, timing }),
        (failure(), any::<bool>(), timing()).prop_map(|(failure, retried, timing)| {
            CommandEvent::Failed {
                failure,
                retried,
                timing,
            }
        }),
        (any::<bool>(), timing())
            .prop_map(|(retried, timing)| CommandEvent::TimedOut { retried, timing }),
        (option::of(failure()), timing())
            .prop_map(|(failure, timing)| CommandEvent::Lost { failure, timing }),
        timing().prop_map(|timing| CommandEvent::Cancelled { timing }),
    ]
}

fn host_event() -> impl Strategy<Value = HostEvent> {
    prop_oneof![
        (
            vec((worker_name(), any::<u32>()), 0..4),
            ".{0,10}",
            ".{0,6}",
            number(),
            any::<bool>()
        )
            .prop_map(|(workers, machine, version, lease_us, carried)| {
                HostEvent::Connected {
                    workers,
                    machine,
                    version,
                    lease_us,
                    carried,
                }
            }),
        any::<bool>().prop_map(|drained| HostEvent::Disconnected { drained }),
        Just(HostEvent::Lost),
        Just(HostEvent::Draining),
        any::<(u64, u32)>()
            .prop_map(|(hold_us, losses)| HostEvent::Quarantined { hold_us, losses }),
    ]
}

fn sample() -> impl Strategy<Value = SystemSample> {
    (
        ".{0,10}",
        0.0_f64..1.0,
        vec(number(), 9),
        0.0_f64..100.0,
        any::<u32>(),
    )
        .prop_map(
            |(machine, cpu_ratio, numbers, load_1m, small)| SystemSample {
                service: machine.clone(),
                machine,
                cpu_ratio,
                memory_used_bytes: numbers[0],
                memory_total_bytes: numbers[1],
                load_1m,
                disk_used_bytes: numbers[2],
                disk_total_bytes: numbers[3],
                disk_read_bytes: numbers[4],
                disk_written_bytes: numbers[5],
                network_received_bytes: numbers[6],
                network_sent_bytes: numbers[7],
                open_connections: small,
                processors: small / 2,
                process_memory_bytes: numbers[8],
            },
        )
}

fn workflow() -> impl Strategy<Value = Workflow> {
    let step = (
        worker_name(),
        1_u64..1_000_000,
        0_u32..9,
        option::of(worker_name()),
        0_i32..4,
        any::<bool>(),
        option::of(any::<prop::sample::Index>()),
    );
    (name(), any::<u32>(), ".{0,20}", vec(step, 1..6)).prop_map(
        |(name, version, description, steps)| {
            let duration = |millis| Some(convert::us_to_duration(millis * 1_000));
            let steps = steps.into_iter().enumerate().map(
                |(at, (worker, timeout, attempts, undo, on_failure, unknown, after))| wire::Step {
                    name: format!("s{at}"),
                    worker: worker.to_string(),
                    after: after.map(|index| wire::Predecessors {
                        steps: (at > 0)
                            .then(|| format!("s{}", index.index(at.max(1))))
                            .into_iter()
                            .collect(),
                    }),
                    timeout: duration(timeout),
                    retry: (attempts > 0).then(|| wire::RetryPolicy {
                        attempts,
                        initial_delay: duration(timeout),
                        multiplier: 1.5,
                        jitter: Some(0.0),
                        ..Default::default()
                    }),
                    undo: undo.map(|worker| wire::Undo {
                        worker: worker.to_string(),
                        ..Default::default()
                    }),
                    on_failure,
                    compensate_unknown: unknown,
                },
            );
            let checked = Workflow::check(&wire::Workflow {
                name,
                version,
                description,
                steps: steps.collect(),
            });
            checked.expect("a good workflow")
        },
    )
}

fn kind() -> impl Strategy<Value = Kind> {
    let command = (
        step_name(),
        worker_name(),
        any::<u32>(),
        any::<bool>(),
        option::of(host_id()),
    )
        .prop_map(|(step, worker, attempt, undo, host)| Command {
            step,
            worker,
            attempt,
            undo,
            host,
        });
    prop_oneof![
        1 => (".{0,10}", number())
            .prop_map(|(version, epoch)| Kind::OrchestratorStarted { version, epoch }),
        1 => workflow().prop_map(|workflow| Kind::WorkflowRegistered(Arc::new(workflow))),
        8 => (subject(), transaction_event())
            .prop_map(|((id, workflow), what)| Kind::Transaction { id, workflow, what }),
        9 => (subject(), command, command_event()).prop_map(
            |((id, workflow), command, what)| Kind::Command { id, workflow, command, what }
        ),
        4 => (host_id(), host_event()).prop_map(|(host, what)| Kind::Host { host, what }),
        1 => (host_id(), "[A-Z_]{0,20}", ".{0,60}").prop_map(|(host, reason, command_id)| {
            Kind::ResultRefused { host, reason, command_id }
        }),
        1 => (option::of(host_id()), sample()).prop_map(|(host, sample)| Kind::SystemSampled {
            host,
            sample: Box::new(sample),
        }),
    ]
}

/// Events whose times don't fall, as the engine's time doesn't.
pub(super) fn events() -> impl Strategy<Value = Vec<Event>> {
    (0_i64..1 << 50, vec((0_i64..5_000, kind()), 1..40)).prop_map(|(mut time, kinds)| {
        let at = |(after, kind)| {
            time += after;
            Event {
                time: Time(time),
                kind,
            }
        };
        kinds.into_iter().map(at).collect()
    })
}
