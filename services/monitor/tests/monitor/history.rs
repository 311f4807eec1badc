//! Histories: transactions of one command each, at random times, as events and as entries.

use std::sync::Arc;

use monitor::entry::{Note, place};
use monitor::fold::{Entry, Events, Folds, What};
use monitor::folds::settings::Settings;
use proptest::prelude::*;
use proto::batch::Stored;
use proto::event::{
    Command, CommandEvent, Event, Failure, HostEvent, Kind, Start, Timing, TransactionEvent,
};
use proto::id::{HostId, StepName, Time, TransactionId, WorkerName, WorkflowName};
use proto::payload::Payload;

/// When histories begin, in microseconds.
pub(crate) const BEGIN: i64 = 1_760_000_000_000_000;
pub(crate) const SOURCE: &str = "127.0.0.1:7001";

/// The page's four failures.
pub(crate) const FAILURES: [(&str, &str); 4] = [
    ("NetworkError", "Connection timeout"),
    ("ValidationError", "Invalid input format"),
    ("ServiceUnavailable", "External service down"),
    ("RateLimitError", "Too many requests"),
];

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Completed,
    Failed(usize),
    TimedOut,
    Lost,
    Cancelled,
    Open,
}

/// A transaction of one command.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) start_us: i64,
    pub(crate) workflow: u8,
    pub(crate) worker: u8,
    pub(crate) host: u8,
    pub(crate) wait_us: u64,
    pub(crate) run_us: u64,
    pub(crate) end: End,
}

/// Runs within so many seconds.
pub(crate) fn runs(seconds: i64, most: usize) -> impl Strategy<Value = Vec<Run>> {
    let end = prop_oneof![
        6 => Just(End::Completed),
        3 => (0..FAILURES.len()).prop_map(End::Failed),
        1 => Just(End::TimedOut),
        1 => Just(End::Lost),
        1 => Just(End::Cancelled),
        1 => Just(End::Open),
    ];
    let run = (
        0..seconds * 1_000_000,
        0_u8..3,
        0_u8..3,
        0_u8..2,
        prop_oneof![0_u64..1_000, 0_u64..5_000_000],
        prop_oneof![0_u64..1_000, 0_u64..20_000_000],
        end,
    )
        .prop_map(
            |(start, workflow, worker, host, wait_us, run_us, end)| Run {
                start_us: BEGIN + start,
                workflow,
                worker,
                host,
                wait_us,
                run_us,
                end,
            },
        );
    prop::collection::vec(run, 1..most)
}

pub(crate) fn worker_name(worker: u8) -> WorkerName {
    WorkerName::parse(&format!("worker-{worker}")).unwrap()
}

pub(crate) fn workflow_name(workflow: u8) -> WorkflowName {
    WorkflowName::parse(&format!("flow-{workflow}")).unwrap()
}

pub(crate) fn host_id(host: u8) -> HostId {
    HostId::parse(&format!("host-{host}")).unwrap()
}

/// A UUIDv7 of this instant.
pub(crate) fn transaction_id(time_us: i64, number: usize) -> TransactionId {
    let mut id = [0; 16];
    id[..6].copy_from_slice(&(time_us / 1_000).to_be_bytes()[2..]);
    id[6] = 0x70;
    id[8] = 0x80;
    id[12..].copy_from_slice(&(number as u32).to_be_bytes());
    TransactionId(id)
}

pub(crate) fn failure(kind: &str, message: &str) -> Failure {
    Failure {
        kind: kind.to_owned(),
        message: message.to_owned(),
        detail: String::new(),
    }
}

impl Run {
    /// Its events, in order.
    pub(crate) fn events(&self, number: usize) -> Vec<Event> {
        let id = transaction_id(self.start_us, number);
        let workflow = workflow_name(self.workflow);
        let timing = Timing {
            wait_us: self.wait_us,
            run_us: self.run_us,
        };
        let mut events = Vec::new();
        let transaction = |time_us: i64, what: TransactionEvent| Event {
            time: Time(time_us),
            kind: Kind::Transaction {
                id,
                workflow: workflow.clone(),
                what,
            },
        };
        let command = |time_us: i64, hosted: bool, what: CommandEvent| Event {
            time: Time(time_us),
            kind: Kind::Command {
                id,
                workflow: workflow.clone(),
                command: Command {
                    step: StepName::parse("step").unwrap(),
                    worker: worker_name(self.worker),
                    attempt: 1,
                    undo: false,
                    host: hosted.then(|| host_id(self.host)),
                },
                what,
            },
        };
        let queued = self.start_us;
        let processing = queued + self.wait_us as i64;
        let ended = processing + self.run_us as i64;
        events.push(transaction(
            queued,
            TransactionEvent::Started(Box::new(Start {
                version: 1,
                input: Payload::Absent(100),
                idempotency_key: String::new(),
                input_hash: bytes::Bytes::new(),
                labels: Default::default(),
                trace_parent: String::new(),
            })),
        ));
        events.push(command(queued, false, CommandEvent::Queued { delay_us: 0 }));
        events.push(command(processing, true, CommandEvent::Dispatched));
        events.push(command(processing, true, CommandEvent::PickedUp));
        events.push(command(processing, true, CommandEvent::Processing));
        let (outcome, end) = match self.end {
            End::Completed => (
                CommandEvent::Completed {
                    result: Payload::Absent(10),
                    timing,
                },
                TransactionEvent::Completed {
                    failed_steps: Vec::new(),
                },
            ),
            End::Failed(kind) => {
                let failure = failure(FAILURES[kind].0, FAILURES[kind].1);
                (
                    CommandEvent::Failed {
                        failure: failure.clone(),
                        retried: false,
                        timing,
                    },
                    failed(failure),
                )
            }
            End::TimedOut => (
                CommandEvent::TimedOut {
                    retried: false,
                    timing,
                },
                failed(failure("Timeout", "the deadline passed")),
            ),
            End::Lost => (
                CommandEvent::Lost {
                    failure: None,
                    timing,
                },
                failed(failure("HostLost", "its host was lost")),
            ),
            End::Cancelled => (
                CommandEvent::Cancelled { timing },
                TransactionEvent::Cancelled,
            ),
            End::Open => return events,
        };
        events.push(command(ended, true, outcome));
        events.push(transaction(ended, end));
        events
    }
}

fn failed(failure: Failure) -> TransactionEvent {
    TransactionEvent::Failed {
        failure,
        failed_step: None,
        compensation_failed: false,
    }
}

/// A host that offers every worker.
pub(crate) fn host_connected(time_us: i64, host: u8, slots: u32) -> Event {
    Event {
        time: Time(time_us),
        kind: Kind::Host {
            host: host_id(host),
            what: HostEvent::Connected {
                workers: (0..3).map(|worker| (worker_name(worker), slots)).collect(),
                machine: "machine".to_owned(),
                version: "0.1.0".to_owned(),
                lease_us: 10_000_000,
                carried: false,
            },
        },
    }
}

/// All events of the runs, by time.
pub(crate) fn events(runs: &[Run]) -> Vec<Event> {
    let mut events: Vec<Event> = runs
        .iter()
        .enumerate()
        .flat_map(|(number, run)| run.events(number))
        .collect();
    events.sort_by_key(|event| event.time);
    events
}

/// The events as entries: batches of `size`, and a tick after each.
pub(crate) fn entries(events: &[Event], size: usize, settings: &Settings) -> Vec<Entry> {
    let started = What::Started {
        epoch: 1,
        settings: Arc::new(settings.clone()),
    };
    let mut time = Time(BEGIN);
    let mut entries = place(0, time, vec![Note::one(started)]);
    let mut offset = 0;
    for batch in events.chunks(size.max(1)) {
        let stored: Vec<Stored> = batch
            .iter()
            .zip(offset..)
            .map(|(event, offset)| Stored {
                offset,
                event: event.clone(),
            })
            .collect();
        time = batch.iter().map(|event| event.time).fold(time, Time::max);
        let notes = vec![
            Note {
                count: batch.len() as u32,
                batch: bytes::Bytes::new(),
                what: What::Events(Events {
                    source: SOURCE.into(),
                    first_offset: offset,
                    events: stored,
                    unknown: 0,
                    malformed: None,
                    cursor: format!("{offset}"),
                    head_offset: events.len() as u64,
                    head_time: time,
                }),
            },
            Note::one(What::Tick),
        ];
        offset += batch.len() as u64;
        let position = entries.last().map_or(0, Entry::end);
        entries.extend(place(position, time, notes));
    }
    entries
}

/// The folds of entries.
pub(crate) fn fold(entries: &[Entry]) -> Folds {
    let mut folds = Folds::default();
    entries.iter().for_each(|entry| folds.apply(entry));
    folds
}
