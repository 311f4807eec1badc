//! What the simulation found, step by step on the driver itself, with a clock that is told.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use eventlog::{EventLog as _, MemoryStore, Options, Refused};
use kit::Clock;
use kit::config::ByteCount;
use orchestrator::config::Config;
use orchestrator::stepped::{Stepped, Told};
use proto::wire;
use proto::wire::orchestrator_service_server::OrchestratorService as _;
use proto::wire::register_workflow_request::Source;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};

use crate::harness::{reason, sequence, start};

/// Whether the orchestrator still counts on a host.
fn counts_on(stepped: &Stepped, host: &str) -> bool {
    let hosts = stepped.state().hosts();
    hosts.iter().any(|(known, _)| known.as_str() == host)
}

/// Lets time pass as it does: the loop turns all the while.
fn pass(stepped: &mut Stepped, clock: &Clock, time: Duration) {
    const PART: Duration = Duration::from_millis(100);
    let mut left = time;
    while !left.is_zero() {
        let part = left.min(PART);
        clock.advance(part);
        left -= part;
        stepped.run_tasks();
        stepped.turn().unwrap();
    }
}

fn in_directory(directory: &tempfile::TempDir) -> Config {
    Config {
        data_dir: directory.path().to_owned(),
        ..Config::default()
    }
}

fn opened(store: &MemoryStore, directory: &tempfile::TempDir) -> Stepped {
    let log = store.open(Options::default()).unwrap();
    let clock = Clock::simulated(1_700_000_000_000_000);
    Stepped::open(in_directory(directory), Box::new(log), clock).unwrap()
}

/// A host comes: what it says goes in, what it is told comes out.
fn comes(
    stepped: &mut Stepped,
    host: &str,
) -> (mpsc::Sender<Result<wire::ConnectRequest, Status>>, Told) {
    let announce = wire::Announce {
        host_id: host.to_owned(),
        workers: vec![wire::OfferedWorker {
            worker: "w".to_owned(),
            slots: 1,
        }],
        ..Default::default()
    };
    let first = wire::ConnectRequest {
        announce: Some(announce),
        ..Default::default()
    };
    let (says, stream) = mpsc::channel(8);
    let hears = stepped.connect(first, ReceiverStream::new(stream));
    stepped.run_tasks();
    stepped.turn().unwrap();
    (says, hears)
}

#[test]
fn a_host_whose_stream_broke_keeps_the_lease_of_its_last_heartbeat() {
    let directory = tempfile::tempdir().unwrap();
    let config = in_directory(&directory);
    let lease = *config.sessions.lease;
    let log = MemoryStore::new().open(Options::default()).unwrap();
    let clock = Clock::simulated(1_700_000_000_000_000);
    let mut stepped = Stepped::open(config, Box::new(log), clock.clone()).unwrap();
    let (says, mut hears) = comes(&mut stepped, "h");
    let welcome = hears.try_recv().unwrap().unwrap().welcome.unwrap();

    pass(&mut stepped, &clock, lease * 8 / 10);
    stepped.heartbeat("h", &welcome.session_id).unwrap();
    drop(says);
    pass(&mut stepped, &clock, lease * 9 / 10);
    assert!(counts_on(&stepped, "h"), "given up within its lease");
    pass(&mut stepped, &clock, lease / 10 + Duration::from_millis(1));
    assert!(!counts_on(&stepped, "h"), "kept beyond its lease");
}

/// It held no command, and state.db had everything of the log: nothing else told of it.
#[test]
fn a_host_that_a_restart_finds_gone_is_given_up_after_a_lease() {
    let directory = tempfile::tempdir().unwrap();
    let config = in_directory(&directory);
    let lease = *config.sessions.lease;
    let store = MemoryStore::new();
    let clock = Clock::simulated(1_700_000_000_000_000);
    let open = || {
        let log = store.open(Options::default()).unwrap();
        Stepped::open(config.clone(), Box::new(log), clock.clone()).unwrap()
    };
    let mut stepped = open();
    let line = comes(&mut stepped, "h");
    pass(&mut stepped, &clock, *config.store.write_interval);
    assert!(stepped.write_rows());
    drop((stepped, line));

    let mut stepped = open();
    assert!(counts_on(&stepped, "h"), "forgotten by the restart");
    pass(&mut stepped, &clock, lease * 9 / 10);
    assert!(counts_on(&stepped, "h"), "given up within its lease");
    pass(&mut stepped, &clock, lease / 10 + Duration::from_millis(1));
    assert!(!counts_on(&stepped, "h"), "kept beyond its lease");
}

/// The log refuses a batch, and every session ends. The end of its stream may be heard after its host
/// came back.
#[test]
fn a_session_after_a_refold_has_no_namesake_before_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = MemoryStore::new();
    let mut stepped = opened(&store, &directory);
    let welcomed = |mut hears: Told| hears.try_recv().unwrap().unwrap().welcome.unwrap();
    let (_says, hears) = comes(&mut stepped, "h");
    let before = welcomed(hears).session_id;
    store.refuse_next(Refused::Full("a test".to_owned()));
    let (_, mut refused) = comes(&mut stepped, "g");
    refused.try_recv().unwrap().unwrap_err();

    let (_says, hears) = comes(&mut stepped, "h");
    assert_ne!(welcomed(hears).session_id, before);
}

/// The event that says when the log was opened moves the deadlines of what was out by then.
#[test]
fn a_trim_soon_after_a_start_leaves_the_event_of_it_until_hosts_had_time_to_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = in_directory(&directory);
    config.log.retention_bytes = ByteCount(1);
    config.store.trim_interval.0 = Duration::from_millis(100);
    let store = MemoryStore::new();
    let clock = Clock::simulated(1_700_000_000_000_000);
    let open = || {
        let log = store.open(config.log_options()).unwrap();
        let reader = log.reader();
        let stepped = Stepped::open(config.clone(), Box::new(log), clock.clone());
        (stepped.unwrap(), reader)
    };
    let (mut stepped, _) = open();
    let calls = stepped.calls();
    let register = wire::RegisterWorkflowRequest {
        source: Some(Source::Workflow(sequence("orders", &["a"]))),
        validate_only: false,
    };
    let register = pin!(calls.register_workflow(Request::new(register)));
    answered(&mut stepped, register).unwrap();
    let begun = pin!(calls.execute_workflow(Request::new(start("orders", "{}"))));
    answered(&mut stepped, begun).unwrap();
    drop(stepped);

    let (mut stepped, log) = open();
    let started = log.bounds().next - 1;
    let lease = *config.sessions.lease;
    let mut pass_and_write = |time: Duration| {
        for _ in 0..10 {
            pass(&mut stepped, &clock, time / 10);
            stepped.write_rows();
        }
    };
    pass_and_write(lease * 9 / 10);
    assert_eq!(log.bounds().oldest, started, "it goes as far as it may");
    pass_and_write(lease);
    assert!(log.bounds().oldest > started);
}

/// What a call that was polled once is answered after a turn or two.
fn answered<T>(stepped: &mut Stepped, mut call: Pin<&mut impl Future<Output = T>>) -> T {
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..3 {
        if let Poll::Ready(answer) = call.as_mut().poll(&mut context) {
            return answer;
        }
        stepped.turn().unwrap();
    }
    panic!("no answer");
}

#[test]
fn who_only_asks_is_answered_beside_what_the_log_refuses() {
    let directory = tempfile::tempdir().unwrap();
    let store = MemoryStore::new();
    let mut stepped = opened(&store, &directory);
    let calls = stepped.calls();
    let workflow = sequence("orders", &["a"]);
    let register = wire::RegisterWorkflowRequest {
        source: Some(Source::Workflow(workflow)),
        validate_only: false,
    };
    let register = pin!(calls.register_workflow(Request::new(register)));
    answered(&mut stepped, register).unwrap();
    let begin = || calls.execute_workflow(Request::new(start("orders", "{}")));
    let started = answered(&mut stepped, pin!(begin())).unwrap().into_inner();

    store.refuse_next(Refused::Full("a test".to_owned()));
    let (mut refused, status) = (
        pin!(begin()),
        wire::GetStatusRequest {
            transaction_id: started.transaction_id.clone(),
            ..Default::default()
        },
    );
    let mut asked = pin!(calls.get_status(Request::new(status)));
    let mut context = Context::from_waker(Waker::noop());
    assert!(refused.as_mut().poll(&mut context).is_pending());
    assert!(asked.as_mut().poll(&mut context).is_pending());
    let refused = answered(&mut stepped, refused).unwrap_err();
    assert_eq!(reason(&refused), "STORE_FULL");
    let shown = answered(&mut stepped, asked).unwrap().into_inner();
    assert_eq!(
        shown.transaction.unwrap().transaction_id,
        started.transaction_id
    );
}
