//! The engine's rules as histories: each line of a script is an input and, behind `>`, the events that
//! it must lead to. After each line the log is replayed and every transaction is taken out and put back:
//! both must give the very same state.

#![expect(clippy::unwrap_used, reason = "tests")]

mod random;
mod rules;
mod script;

use bytes::Bytes;

use proto::batch::{self, Encoder, Stored};
use proto::event::{CommandEvent, Event, Kind, TransactionEvent};

use super::*;

/// The log that the tests append to.
#[derive(Default)]
struct Log {
    stored: Vec<Stored>,
    next: Offset,
}

impl Log {
    /// Appends what an input led to and gives it back.
    fn append(&mut self, events: Vec<Event>) -> Vec<Event> {
        for event in &events {
            self.stored.push(Stored {
                offset: self.next,
                event: event.clone(),
            });
            self.next += 1;
        }
        events
    }

    /// The state that a start finds: the log as bytes and back, folded.
    fn replayed(&self, limits: &Limits) -> State {
        let mut state = State::new(limits.clone());
        let Some(first) = self.stored.first() else {
            return state;
        };
        let mut encoder = Encoder::default();
        self.stored
            .iter()
            .for_each(|stored| encoder.push(&stored.event));
        let (events, payloads) = encoder.finish(first.offset);
        let payloads = Bytes::copy_from_slice(payloads);
        let decoded = batch::decode(events, Some(&payloads)).unwrap();
        assert!(decoded.unknown.is_empty());
        for stored in decoded.events {
            state.replay(stored.offset, stored.event).unwrap();
        }
        state
    }
}

/// Everything of a state that a restart must find again, as text. `only` leaves out what a trim took.
fn shown(state: &State, only: &[TransactionId]) -> String {
    let transactions: Vec<_> = only.iter().map(|id| (id, state.snapshot(id))).collect();
    let workflows: Vec<_> = state
        .definitions()
        .map(|(workflow, offset)| (workflow.name.clone(), workflow.version, offset))
        .collect();
    let in_memory = [state.live(), state.ended()].concat();
    let payloads = in_memory.iter().map(|id| {
        let carried = state.snapshot(id).unwrap().carried;
        let results = carried.steps.iter().flat_map(|step| &step.result);
        let commands = carried.steps.iter().flat_map(|step| &step.commands);
        carried.start.input.size()
            + results.map(proto::payload::Payload::size).sum::<u64>()
            + commands
                .flat_map(|command| &command.failure)
                .map(|failure| failure.size())
                .sum::<u64>()
    });
    assert_eq!(state.payload_bytes(), payloads.sum::<u64>());
    let counts = (state.queued_count(), state.live());
    let hosts = (state.hosts(), state.retold_hosts());
    format!("{workflows:?}\n{counts:?}\n{hosts:?}\n{transactions:#?}")
}

/// The log, replayed, and every transaction, taken out and put back, are the state.
fn assert_found_again(state: &State, log: &Log, only: &[TransactionId]) {
    let wanted = shown(state, only);
    assert_eq!(
        shown(&log.replayed(state.limits()), only),
        wanted,
        "replayed"
    );
    let mut restored = State::new(state.limits().clone());
    for (workflow, offset) in state.definitions() {
        restored.restore_definition(workflow, offset);
    }
    restored.restore_opened(state.opened());
    for (offset, retold) in state.retold_hosts() {
        for kind in retold {
            let time = Time::default();
            restored.evolve(offset, &Event { time, kind });
        }
    }
    for id in only {
        restored.restore(*id, state.snapshot(id).unwrap());
    }
    assert_eq!(shown(&restored, only), wanted, "restored");
}

/// One event as a line.
fn line(event: &Event) -> String {
    match &event.kind {
        Kind::Transaction { what, .. } => match what {
            TransactionEvent::Started(_) => "started".to_owned(),
            TransactionEvent::Completed { failed_steps } if failed_steps.is_empty() => {
                "COMPLETED".to_owned()
            }
            TransactionEvent::Completed { failed_steps } => {
                format!("COMPLETED without {failed_steps:?}")
            }
            TransactionEvent::Failed {
                failure,
                compensation_failed,
                ..
            } => {
                let half = if *compensation_failed {
                    " half undone"
                } else {
                    ""
                };
                format!("FAILED {}{half}", failure.kind)
            }
            TransactionEvent::CancelRequested(_) => "cancel requested".to_owned(),
            TransactionEvent::Cancelled => "CANCELLED".to_owned(),
            TransactionEvent::CompensationStarted { failure, .. } => {
                format!("compensating {}", failure.kind)
            }
            TransactionEvent::Compensated => "COMPENSATED".to_owned(),
            TransactionEvent::Carried(_) => "carried".to_owned(),
        },
        Kind::Command { command, what, .. } => {
            let undo = if command.undo { "~" } else { "" };
            let attempt = match command.attempt {
                1 => String::new(),
                attempt => format!("#{attempt}"),
            };
            let again = |again: &bool| if *again { " again" } else { "" };
            let what = match what {
                CommandEvent::Queued { delay_us: 0 } => "queued".to_owned(),
                CommandEvent::Queued { delay_us } => {
                    format!("queued +{}ms", delay_us / 1_000)
                }
                CommandEvent::Dispatched => "dispatched".to_owned(),
                CommandEvent::PickedUp => "picked up".to_owned(),
                CommandEvent::Processing => "processing".to_owned(),
                CommandEvent::Completed { .. } => "completed".to_owned(),
                CommandEvent::Failed {
                    failure, retried, ..
                } => format!("failed {}{}", failure.kind, again(retried)),
                CommandEvent::TimedOut { retried, .. } => {
                    format!("timed out{}", again(retried))
                }
                CommandEvent::Lost { failure: None, .. } => "lost again".to_owned(),
                CommandEvent::Lost {
                    failure: Some(failure),
                    ..
                } => format!("lost {}", failure.kind),
                CommandEvent::Cancelled { .. } => "cancelled".to_owned(),
            };
            format!("{undo}{}{attempt} {what}", command.step)
        }
        Kind::Host { host, what } => match what {
            HostEvent::Connected { carried: true, .. } => format!("{host} carried"),
            HostEvent::Connected { .. } => format!("{host} connected"),
            HostEvent::Disconnected { drained: true } => format!("{host} drained"),
            HostEvent::Disconnected { drained: false } => format!("{host} away"),
            HostEvent::Lost => format!("{host} lost"),
            HostEvent::Draining => format!("{host} draining"),
            HostEvent::Quarantined { losses, .. } => format!("{host} quarantined for {losses}"),
        },
        Kind::ResultRefused { reason, .. } => format!("refused {reason}"),
        Kind::OrchestratorStarted { .. } => "opened".to_owned(),
        Kind::WorkflowRegistered(workflow) => {
            format!("{} {} registered", workflow.name, workflow.version)
        }
        Kind::SystemSampled { .. } => "sampled".to_owned(),
    }
}

#[test]
fn a_transaction_that_waits_takes_little_memory() {
    // Itself, its one step, its place in the index (a slot of a table that is half empty at worst) and
    // its place in the queue.
    let each = size_of::<transaction::Transaction>()
        + size_of::<step::StepRecord>()
        + 2 * (size_of::<u32>() + 1)
        + size_of::<CommandKey>();
    assert!(each <= 230, "{each} bytes");
}
