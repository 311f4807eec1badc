//! Each queue of the orchestrator up to its bound and over it, on the stepped orchestrator: nothing moves
//! but what a test moves, so that full is full.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use eventlog::MemoryStore;
use kit::Clock;
use orchestrator::config::Config;
use orchestrator::stepped::Stepped;
use proto::wire;
use proto::wire::execute_workflows_response::Answer;
use proto::wire::orchestrator_service_server::OrchestratorService;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::harness::{self, Suite, reason, sequence, start, start_and_wait};
use crate::host::{FakeHost, announce, completed};

mod payloads;

type Call<T> = Pin<Box<dyn Future<Output = Result<tonic::Response<T>, Status>> + Send>>;

/// A stepped orchestrator with the workflow `orders`, one step by `a`.
struct Bench {
    stepped: Stepped,
    clock: Clock,
    _directory: tempfile::TempDir,
}

impl Bench {
    fn new(change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = harness::config(directory.path());
        config.store.write_interval.0 = Duration::from_secs(3_600);
        change(&mut config);
        let clock = Clock::simulated(1_000_000);
        let log = MemoryStore::new()
            .open(eventlog::Options::default())
            .unwrap();
        let stepped = Stepped::open(config, Box::new(log), clock.clone()).unwrap();
        let mut bench = Self {
            stepped,
            clock,
            _directory: directory,
        };
        let workflow = sequence("orders", &["a"]);
        let calls = bench.stepped.calls();
        let mut registered: Call<wire::RegisterWorkflowResponse> = Box::pin(async move {
            let request = wire::RegisterWorkflowRequest {
                source: Some(wire::register_workflow_request::Source::Workflow(workflow)),
                validate_only: false,
            };
            calls.register_workflow(Request::new(request)).await
        });
        assert!(poll(&mut registered).is_none());
        bench.turn();
        poll(&mut registered).unwrap().unwrap();
        bench
    }

    fn turn(&mut self) {
        self.clock.advance(Duration::from_millis(1));
        self.stepped.run_tasks();
        self.stepped.turn().unwrap();
        self.stepped.run_tasks();
    }

    /// A call that is under way, and what it was answered at once.
    fn execute(
        &self,
        request: wire::ExecuteWorkflowRequest,
    ) -> (Call<wire::ExecuteWorkflowResponse>, Option<Status>) {
        let calls = self.stepped.calls();
        let mut call: Call<_> =
            Box::pin(async move { calls.execute_workflow(Request::new(request)).await });
        let refused = poll(&mut call).map(|answer| answer.unwrap_err());
        (call, refused)
    }

    fn connect(&mut self, id: &str, slots: u32) -> Host {
        self.announce(announce(id, &[("a", slots)], &[]))
    }

    fn announce(&mut self, announce: wire::Announce) -> Host {
        let (say, said) = mpsc::channel(4);
        let first = wire::ConnectRequest {
            announce: Some(announce),
            ..Default::default()
        };
        let hear = self.stepped.connect(first, ReceiverStream::new(said));
        self.turn();
        Host { say, hear }
    }
}

/// A host's two ends.
struct Host {
    say: mpsc::Sender<Result<wire::ConnectRequest, Status>>,
    hear: orchestrator::stepped::Told,
}

impl Host {
    /// Everything that waits for it, and how its stream ended, where it did.
    fn read(&mut self) -> (Vec<wire::ConnectResponse>, Option<Status>) {
        let mut messages = Vec::new();
        while let Ok(message) = self.hear.try_recv() {
            match message {
                Ok(message) => messages.push(message),
                Err(status) => return (messages, Some(status)),
            }
        }
        (messages, None)
    }

    fn commands(&mut self) -> Vec<wire::Command> {
        let (messages, _) = self.read();
        messages
            .into_iter()
            .flat_map(|message| message.commands)
            .collect()
    }

    fn end(&mut self) -> String {
        reason(&self.read().1.expect("the session has ended"))
    }

    fn complete(&self, command_ids: &[String]) {
        let result = |id: &String| wire::CommandResult {
            command_id: id.clone(),
            outcome: Some(completed("{}")),
            ..Default::default()
        };
        let results = command_ids.iter().map(result).collect();
        let message = wire::ConnectRequest {
            results,
            ..Default::default()
        };
        self.say.try_send(Ok(message)).unwrap();
    }
}

fn poll<T>(call: &mut Call<T>) -> Option<Result<T, Status>> {
    match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer.map(tonic::Response::into_inner)),
        Poll::Pending => None,
    }
}

/// As what is too much is refused: at once, with a time to come back.
fn assert_shed(status: &Status) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert_eq!(reason(status), "OVERLOADED");
    let retry = status.get_details_retry_info();
    assert!(
        retry.and_then(|retry| retry.retry_delay).is_some(),
        "{status:?}"
    );
}

#[test]
fn a_full_inbox_sheds_requests_and_lets_hosts_wait() {
    let mut bench = Bench::new(|config| config.driver.inbox_inputs_max = 3);
    let mut host = bench.connect("h", 8);
    let mut calls: Vec<_> = (0..3)
        .map(|_| bench.execute(start("orders", "{}")))
        .collect();
    assert!(calls.iter().all(|(_, refused)| refused.is_none()));
    let (_, refused) = bench.execute(start("orders", "{}"));
    assert_shed(&refused.unwrap());
    // What a host has to say finds no place either, and is heard after the turn.
    host.complete(&["nothing".to_owned()]);
    bench.stepped.run_tasks();
    host.read();
    bench.turn();
    assert!(
        calls
            .iter_mut()
            .all(|(call, _)| poll(call).unwrap().is_ok())
    );
    assert_eq!(host.commands().len(), 3);
    bench.turn();
    assert_eq!(host.read().0[0].acknowledgements.len(), 1);
    assert!(bench.execute(start("orders", "{}")).1.is_none());
}

/// A start with an input of so many bytes and a few.
fn large(bytes: usize) -> wire::ExecuteWorkflowRequest {
    start("orders", &format!("{{\"x\":\"{}\"}}", "x".repeat(bytes)))
}

#[test]
fn a_batch_takes_so_many_inputs_and_so_many_bytes() {
    let answered = |change: fn(&mut Config), bytes: usize| {
        let mut bench = Bench::new(change);
        let mut calls: Vec<_> = (0..5).map(|_| bench.execute(large(bytes)).0).collect();
        let mut after_each = Vec::new();
        while !calls.is_empty() {
            bench.turn();
            calls.retain_mut(|call| poll(call).is_none());
            after_each.push(calls.len());
        }
        after_each
    };
    assert_eq!(
        answered(|config| config.driver.batch_inputs_max = 2, 0),
        [3, 1, 0]
    );
    let few_bytes = |config: &mut Config| config.driver.batch_bytes_max.0 = 64 << 10;
    assert_eq!(answered(few_bytes, 40 << 10), [3, 1, 0]);
    assert_eq!(answered(few_bytes, 0), [0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_calls_wait_for_an_end_and_the_next_is_shed() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = harness::config(directory.path());
    config.waiting.max_waiters = 1;
    let mut suite = Suite::start_with(config).await;
    suite.register(sequence("orders", &["a"])).await;
    let mut host = FakeHost::connect(&suite, "h", &[("a", 1)]).await;
    let mut client = suite.client.clone();
    let waiting = tokio::spawn(async move {
        let request = start_and_wait("orders", "{}");
        client.execute_workflow(request).await
    });
    // It has its place once its command is out.
    let command = host.command().await;
    let mut client = suite.client.clone();
    let refused = client
        .execute_workflow(start_and_wait("orders", "{}"))
        .await;
    assert_shed(&refused.unwrap_err());
    host.complete(&command.command_id, "{}").await;
    waiting.await.unwrap().unwrap();
    let waiting = tokio::spawn(async move {
        let request = start_and_wait("orders", "{}");
        client.execute_workflow(request).await
    });
    host.do_next("{}").await;
    waiting.await.unwrap().unwrap();
    suite.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_read_the_log_and_the_next_is_refused_until_one_leaves() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = harness::config(directory.path());
    config.event_log.max_readers = 1;
    let suite = Suite::start_with(config).await;
    let follow = wire::ReadEventsRequest {
        follow: true,
        ..Default::default()
    };
    let mut reader = suite
        .event_log()
        .read_events(follow.clone())
        .await
        .unwrap()
        .into_inner();
    reader.message().await.unwrap().unwrap();
    let refused = suite
        .event_log()
        .read_events(follow.clone())
        .await
        .unwrap_err();
    assert_eq!(reason(&refused), "SUBSCRIBERS_LIMIT");
    assert!(refused.get_details_retry_info().is_some());
    drop(reader);
    while let Err(status) = suite.event_log().read_events(follow.clone()).await {
        assert_eq!(reason(&status), "SUBSCRIBERS_LIMIT");
    }
    suite.stop().await;
}

#[test]
fn so_many_transactions_live_and_so_many_commands_wait_and_the_next_start_is_shed() {
    for what in ["live", "queued"] {
        let mut bench = Bench::new(|config| match what {
            "live" => config.engine.max_live_transactions = 2,
            _ => config.engine.max_queued_per_worker = 2,
        });
        let mut calls: Vec<_> = (0..3)
            .map(|_| bench.execute(start("orders", "{}")).0)
            .collect();
        bench.turn();
        let answers: Vec<_> = calls.iter_mut().map(|call| poll(call).unwrap()).collect();
        assert!(answers[0].is_ok() && answers[1].is_ok(), "{what}");
        assert_shed(answers[2].as_ref().unwrap_err());
    }
}

/// It is cut off, and nobody waits for it meanwhile; it comes back to its commands.
#[test]
fn a_host_that_takes_no_messages_is_cut_off_at_so_many() {
    let mut bench = Bench::new(|config| config.sessions.outbox_messages_max = 3);
    let mut deaf = bench.connect("deaf", 100);
    let mut calls = Vec::new();
    for _ in 0..6 {
        calls.push(bench.execute(start("orders", "{}")).0);
        bench.turn();
    }
    // The welcome and two messages had room; then nobody tried again.
    let (messages, end) = deaf.read();
    assert_eq!(messages.len(), 3);
    assert!(end.is_none());
    assert!(
        calls.iter_mut().all(|call| poll(call).unwrap().is_ok()),
        "nobody waited for it"
    );
    let held: Vec<_> = messages
        .into_iter()
        .flat_map(|message| message.commands)
        .map(|command| command.command_id)
        .collect();
    assert_eq!(held.len(), 2);
    let mut back = bench.announce(announce("deaf", &[("a", 100)], &held));
    bench.turn();
    let attempts: BTreeMap<_, _> = back
        .commands()
        .into_iter()
        .map(|command| (command.command_id, command.attempt))
        .collect();
    assert!(
        held.iter().all(|id| !attempts.contains_key(id)),
        "those it kept"
    );
    assert_eq!(
        attempts.len(),
        4,
        "what never reached it comes again or for the first time"
    );
}

#[test]
fn hosts_workers_slots_and_items_have_their_bounds() {
    let mut bench = Bench::new(|config| {
        config.sessions.max_hosts = 1;
        config.sessions.max_workers_per_host = 2;
        config.sessions.max_slots_per_worker = 5;
        config.sessions.max_items_per_message = 3;
    });
    let three = [("a", 1), ("b", 1), ("c", 1)];
    assert_eq!(
        bench.announce(announce("h", &three, &[])).end(),
        "FIELD_OUT_OF_RANGE"
    );
    assert_eq!(bench.connect("h", 6).end(), "FIELD_OUT_OF_RANGE");
    let mut host = bench.connect("h", 5);
    assert!(host.read().1.is_none());
    assert_eq!(bench.connect("another", 1).end(), "HOSTS_LIMIT");
    let nothing = |count| vec!["nothing".to_owned(); count];
    host.complete(&nothing(3));
    bench.turn();
    assert_eq!(host.read().0[0].acknowledgements.len(), 3);
    host.complete(&nothing(4));
    bench.turn();
    assert_eq!(host.end(), "FIELD_OUT_OF_RANGE");
}

/// Ended transactions leave memory when the bound is reached, though the time to write them is far off.
#[test]
fn what_state_db_has_not_written_is_bounded() {
    let mut bench = Bench::new(|config| config.store.unwritten_max = 4);
    let mut host = bench.connect("h", 100);
    for _ in 0..40 {
        let (mut call, _) = bench.execute(start("orders", "{}"));
        bench.turn();
        poll(&mut call).unwrap().unwrap();
        let ids: Vec<_> = host
            .commands()
            .into_iter()
            .map(|command| command.command_id)
            .collect();
        host.complete(&ids);
        bench.turn();
        let in_memory = bench.stepped.state().transaction_count();
        assert!(in_memory <= 8, "{in_memory} in memory");
    }
    assert!(!bench.stepped.rows().unwrap().is_empty());
}

/// Results for what has left memory are looked up: one message at once here, and the other's host
/// connects again.
#[test]
fn late_results_are_judged_so_many_at_once() {
    let mut bench = Bench::new(|config| config.sessions.late_messages_max = 1);
    let mut hosts = ["h1", "h2"].map(|id| bench.connect(id, 1));
    for host in &mut hosts {
        host.read();
        host.complete(&["01890a5d-ac96-774b-bcce-b302099a8057/a/do#1".to_owned()]);
    }
    bench.turn();
    bench.turn();
    let [mut first, mut second] = hosts;
    let (messages, end) = first.read();
    assert!(end.is_none());
    assert_eq!(
        messages[0].acknowledgements[0].refused_reason,
        "COMMAND_UNKNOWN"
    );
    assert_shed(&second.read().1.unwrap());
    let mut again = bench.connect("h2", 1);
    again.read();
    again.complete(&["01890a5d-ac96-774b-bcce-b302099a8057/a/do#1".to_owned()]);
    bench.turn();
    bench.turn();
    assert_eq!(again.read().0[0].acknowledgements.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_starts_is_read_no_further_than_so_many_ahead() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = harness::config(directory.path());
    config.waiting.stream_starts_max = 2;
    let mut suite = Suite::start_with(config).await;
    suite.register(sequence("orders", &["a"])).await;
    let mut host = FakeHost::connect(&suite, "h", &[("a", 10)]).await;
    let (starts, stream) = mpsc::channel(8);
    for request_id in 1..=5 {
        let start = Some(start_and_wait("orders", "{}"));
        let request = wire::ExecuteWorkflowsRequest { request_id, start };
        starts.send(request).await.unwrap();
    }
    let mut answers = suite
        .client
        .execute_workflows(ReceiverStream::new(stream))
        .await
        .unwrap()
        .into_inner();
    for ended in 0..5 {
        let command = host.command().await;
        // Each that has begun and hasn't ended takes a place.
        let begun = suite.count(wire::EventType::TransactionStarted).await;
        assert!(begun <= ended + 2, "{begun} begun, {ended} ended");
        host.complete(&command.command_id, "{}").await;
        let is_end = |answer: &Option<Answer>| matches!(answer, Some(Answer::Ended(_)));
        while !is_end(&answers.message().await.unwrap().unwrap().answer) {}
    }
    suite.stop().await;
}

/// Nobody waits for somebody who waits for him.
#[tokio::test(flavor = "multi_thread")]
async fn with_the_least_bounds_everything_still_goes_through() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = harness::config(directory.path());
    config.driver.inbox_inputs_max = 1;
    config.driver.batch_inputs_max = 1;
    config.driver.outgoing_batches_max = 1;
    config.sessions.late_messages_max = 1;
    config.store.unwritten_max = 1;
    let mut suite = Suite::start_with(config).await;
    suite.register(sequence("orders", &["a"])).await;
    let mut host = FakeHost::connect(&suite, "h", &[("a", 4)]).await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let mut client = suite.client.clone();
        clients.spawn(async move {
            for _ in 0..10 {
                while let Err(status) = client.execute_workflow(start("orders", "{}")).await {
                    assert_shed(&status);
                    tokio::task::yield_now().await;
                }
            }
        });
    }
    for _ in 0..40 {
        host.do_next("{}").await;
    }
    clients.join_all().await;
    assert_eq!(suite.count(wire::EventType::TransactionCompleted).await, 40);
    suite.stop().await;
}
