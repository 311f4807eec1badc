//! One command: to its outcome, whatever its handler does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use multiagents_client::wire::{Command, ConnectResponse, Stage};
use multiagents_client::{Failure, HostBuilder, Observed, Worker};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::fake::{Orchestrator, PATIENCE, Running, host, soon};

const LONG: Duration = Duration::from_secs(60);

/// So many commands in one message.
fn many(count: usize) -> ConnectResponse {
    let commands = (0..count).map(|at| Command {
        command_id: format!("t/s{at}/do#1"),
        worker: "w".into(),
        context_json: vec!["{\"data\":\"x\"}".into()],
        attempt: 1,
        ..Default::default()
    });
    ConnectResponse {
        commands: commands.collect(),
        ..Default::default()
    }
}

/// Runs a host on a runtime of its own that has one thread, and in no task of it.
fn run_apart(host: HostBuilder) {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(host.run(tokio_util::sync::CancellationToken::new()))
    });
}

fn echo() -> Worker {
    Worker::new("w", |context| async move {
        Ok(json!({ "was": context.require::<String>("data")? }))
    })
}

#[tokio::test]
async fn a_command_is_picked_up_processed_and_answered_with_its_handlers_result() {
    let mut orchestrator = Orchestrator::start().await;
    let _host = Running::start(host(&orchestrator, echo(), 2));
    let mut session = orchestrator.session().await;
    assert_eq!(session.announce.host_id, "h1");
    assert_eq!(session.announce.workers[0].worker, "w");
    assert_eq!(session.announce.workers[0].slots, 2);
    session.command("t/s/do#1", "w", LONG);
    let mut stages = Vec::new();
    let result = loop {
        let message = session.message().await.unwrap();
        stages.extend(message.progress.iter().map(|progress| progress.stage()));
        if let Some(result) = message.results.into_iter().next() {
            break result;
        }
    };
    // Its result stands for that too, where both leave with one message.
    assert_eq!(stages.is_empty(), result.began);
    assert!(stages.is_empty() || stages == [Stage::Processing]);
    assert_eq!(crate::fake::word(&result), r#"completed {"was":"x"}"#);
    assert!(result.wait.is_some() && result.run.is_some());
}

#[tokio::test]
async fn a_failure_keeps_its_kind_and_says_whether_to_try_again() {
    let mut orchestrator = Orchestrator::start().await;
    let worker = Worker::new("w", |context| async move {
        if context.step() == "text" {
            Err("NetworkError: Connection timeout")?;
        }
        Err::<(), _>(Failure::new("Refused", "no").not_retryable())
    });
    let _host = Running::start(host(&orchestrator, worker, 1));
    let mut session = orchestrator.session().await;
    session.command("t/text/do#1", "w", LONG);
    assert_eq!(
        session.outcome("t/text/do#1").await,
        "failed NetworkError: Connection timeout"
    );
    session.acknowledge("t/text/do#1");
    session.command("t/other/do#1", "w", LONG);
    assert_eq!(
        session.outcome("t/other/do#1").await,
        "failed Refused: no, for good"
    );
}

#[tokio::test]
async fn a_handler_that_panics_fails_its_command_and_nothing_else() {
    let mut orchestrator = Orchestrator::start().await;
    let boom = |what: &str| -> bool {
        assert!(what != "boom", "it went boom");
        true
    };
    let worker = Worker::new("w", move |context| async move {
        Ok(json!({ "fine": boom(context.step()) }))
    });
    let blocking = Worker::blocking("b", move |context| {
        Ok(json!({ "fine": boom(context.step()) }))
    });
    // One that panics before there is a future at all.
    let early = Worker::new("e", |context| {
        assert!(context.step() != "boom", "too early");
        async { Ok(json!({})) }
    });
    let host = host(&orchestrator, worker, 1)
        .worker(blocking, 1)
        .worker(early, 1);
    let _host = Running::start(host);
    let mut session = orchestrator.session().await;
    for (worker, message) in [
        ("w", "it went boom"),
        ("b", "it went boom"),
        ("e", "too early"),
    ] {
        session.command("t/boom/do#1", worker, LONG);
        assert_eq!(
            session.outcome("t/boom/do#1").await,
            format!("failed Panic: {message}")
        );
        session.acknowledge("t/boom/do#1");
        session.command("t/calm/do#1", worker, LONG);
        assert!(
            session
                .outcome("t/calm/do#1")
                .await
                .starts_with("completed")
        );
        session.acknowledge("t/calm/do#1");
    }
}

/// Says when it is dropped.
struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_handler_is_dropped_at_its_deadline_and_when_it_is_cancelled() {
    let mut orchestrator = Orchestrator::start().await;
    let dropped = Arc::new(AtomicBool::new(false));
    let seen = dropped.clone();
    let worker = Worker::new("w", move |_| {
        let guard = Dropped(seen.clone());
        async move {
            std::future::pending::<()>().await;
            drop(guard);
            Ok(json!({}))
        }
    });
    let _host = Running::start(host(&orchestrator, worker, 1));
    let mut session = orchestrator.session().await;
    let began = Instant::now();
    session.command("t/s/do#1", "w", Duration::from_millis(30));
    assert_eq!(session.outcome("t/s/do#1").await, "timeout");
    assert!(began.elapsed() >= Duration::from_millis(30));
    assert!(dropped.swap(false, Ordering::SeqCst));
    session.acknowledge("t/s/do#1");
    session.command("t/s/do#2", "w", LONG);
    session.cancel("t/s/do#2");
    assert_eq!(session.outcome("t/s/do#2").await, "cancelled");
    assert!(dropped.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_blocking_handler_is_told_to_stop_and_keeps_its_slot_until_it_does() {
    let mut orchestrator = Orchestrator::start().await;
    let worker = Worker::blocking("w", |context| {
        if context.step() == "next" {
            return Ok(json!({ "next": true }));
        }
        while !context.is_cancelled() {
            std::thread::yield_now();
        }
        Err(Failure::new("Stopped", "was told to"))
    });
    let _host = Running::start(host(&orchestrator, worker, 1));
    let mut session = orchestrator.session().await;
    session.command("t/s/do#1", "w", LONG);
    session.command("t/next/do#1", "w", LONG);
    session.cancel("t/s/do#1");
    // The slot is free as soon as the first one stops, so either may be told first.
    let mut told = [session.result().await, session.result().await];
    told.sort_by(|a, b| a.command_id.cmp(&b.command_id));
    assert_eq!(
        told.each_ref().map(crate::fake::word),
        [r#"completed {"next":true}"#, "cancelled"]
    );
    session.command("t/s/do#2", "w", Duration::from_millis(30));
    assert_eq!(session.outcome("t/s/do#2").await, "timeout");
}

#[tokio::test]
async fn no_more_run_at_once_than_there_are_slots_and_one_that_waits_can_time_out() {
    let mut orchestrator = Orchestrator::start().await;
    let (gate, running) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let worker = {
        let (gate, running) = (gate.clone(), running.clone());
        Worker::new("w", move |_| {
            let (gate, running) = (gate.clone(), running.clone());
            async move {
                let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                let pass = gate.acquire().await?;
                pass.forget();
                running.fetch_sub(1, Ordering::SeqCst);
                Ok(json!({ "at_once": now }))
            }
        })
    };
    let _host = Running::start(host(&orchestrator, worker, 2));
    let mut session = orchestrator.session().await;
    for at in 0..3 {
        session.command(&format!("t/s{at}/do#1"), "w", LONG);
    }
    session.command("t/late/do#1", "w", Duration::from_millis(20));
    assert_eq!(session.outcome("t/late/do#1").await, "timeout");
    gate.add_permits(3);
    for _ in 0..3 {
        let result = session.result().await;
        assert!(
            matches!(
                crate::fake::word(&result).as_str(),
                r#"completed {"at_once":1}"# | r#"completed {"at_once":2}"#
            ),
            "{result:?}"
        );
    }
}

#[tokio::test]
async fn a_command_that_is_delivered_twice_runs_once() {
    let mut orchestrator = Orchestrator::start().await;
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let worker = Worker::new("w", move |_| {
        let run = counted.fetch_add(1, Ordering::SeqCst) + 1;
        async move { Ok(json!({ "run": run })) }
    });
    let _host = Running::start(host(&orchestrator, worker, 4));
    let mut session = orchestrator.session().await;
    session.command("t/s/do#1", "w", LONG);
    session.command("t/s/do#1", "w", LONG);
    assert_eq!(session.outcome("t/s/do#1").await, r#"completed {"run":1}"#);
    // Held, not yet acknowledged: still the same command.
    session.command("t/s/do#1", "w", LONG);
    session.command("t/other/do#1", "w", LONG);
    assert_eq!(
        session.outcome("t/other/do#1").await,
        r#"completed {"run":2}"#
    );
    assert_eq!(runs.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_worker_that_is_not_offered_and_a_result_that_is_no_object_fail_with_a_sentence() {
    let mut orchestrator = Orchestrator::start().await;
    let worker = Worker::new("w", |context| async move {
        Ok(match context.step() {
            "list" => json!([1]),
            _ => json!({ "much": "x".repeat(200) }),
        })
    });
    let _host = Running::start(host(&orchestrator, worker, 1).result_bytes_max(100));
    let mut session = orchestrator.session().await;
    session.command("t/s/do#1", "nobody", LONG);
    assert_eq!(
        session.outcome("t/s/do#1").await,
        "failed WorkerUnknown: this host has no worker \"nobody\""
    );
    session.command("t/list/do#1", "w", LONG);
    let said = session.outcome("t/list/do#1").await;
    assert!(said.starts_with("failed ResultInvalid: the result is not a JSON object"));
    session.acknowledge("t/list/do#1");
    session.command("t/much/do#1", "w", LONG);
    let said = session.outcome("t/much/do#1").await;
    assert!(said.contains("at most 100 are allowed"), "{said}");
    assert!(said.ends_with("for good"), "{said}");
}

#[tokio::test]
async fn heartbeats_go_on_while_every_thread_of_the_handlers_is_busy() {
    let mut orchestrator = Orchestrator::start().await;
    let heartbeats = orchestrator.heartbeats.clone();
    let seen = heartbeats.clone();
    // The host's own runtime has one thread, and the handler does not give it back before ten
    // more heartbeats have come.
    let worker = Worker::new("w", move |_| {
        let seen = seen.clone();
        async move {
            let (began, until) = (Instant::now(), seen.load(Ordering::SeqCst) + 10);
            while seen.load(Ordering::SeqCst) < until && began.elapsed() < PATIENCE {
                std::thread::yield_now();
            }
            Ok(json!({ "beats": seen.load(Ordering::SeqCst) >= until }))
        }
    });
    run_apart(host(&orchestrator, worker, 1));
    let mut session = orchestrator.session().await;
    session.command("t/s/do#1", "w", LONG);
    assert_eq!(
        session.outcome("t/s/do#1").await,
        r#"completed {"beats":true}"#
    );
}

#[tokio::test]
async fn results_that_pile_up_leave_together() {
    let mut orchestrator = Orchestrator::start().await;
    let _host = Running::start(host(&orchestrator, echo(), 100));
    let mut session = orchestrator.session().await;
    session.send(many(100));
    let (mut results, mut messages) = (0, 0);
    while results < 100 {
        let message = soon(session.message()).await.unwrap();
        results += message.results.len();
        messages += 1;
    }
    assert!(messages < 50, "{messages} messages for 100 results");
}

#[tokio::test]
async fn a_handler_goes_on_from_its_first_wait_whatever_it_waits_for() {
    let mut orchestrator = Orchestrator::start().await;
    let worker = Worker::new("w", |context| async move {
        match context.step() {
            "yield" => tokio::task::yield_now().await,
            "sleep" => tokio::time::sleep(Duration::from_millis(1)).await,
            "task" => tokio::spawn(async {}).await?,
            "thread" => tokio::task::spawn_blocking(|| {}).await?,
            _ => {
                let (told, told_here) = tokio::sync::oneshot::channel();
                // Told before it is listened to, and by the same thread.
                let teller = tokio::spawn(async move { told.send(()) });
                tokio::task::yield_now().await;
                told_here.await?;
                assert!(teller.await?.is_ok());
            }
        }
        Ok(json!({}))
    });
    let _host = Running::start(host(&orchestrator, worker, 1));
    let mut session = orchestrator.session().await;
    for step in ["yield", "sleep", "task", "thread", "told"] {
        let id = format!("t/{step}/do#1");
        session.command(&id, "w", LONG);
        assert_eq!(session.outcome(&id).await, "completed {}");
        session.acknowledge(&id);
    }
}

#[tokio::test]
async fn a_handler_has_a_task_whether_its_host_has_one_or_not() {
    for host_has_one in [false, true] {
        let mut orchestrator = Orchestrator::start().await;
        let worker = Worker::new("w", |_| async {
            tokio::task::id();
            Ok(json!({}))
        });
        let host = host(&orchestrator, worker, 1);
        let _host = match host_has_one {
            true => Some(Running::start(host)),
            false => {
                run_apart(host);
                None
            }
        };
        let mut session = orchestrator.session().await;
        session.command("t/s/do#1", "w", LONG);
        assert_eq!(session.outcome("t/s/do#1").await, "completed {}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn handlers_run_beside_each_other_where_the_runtime_has_the_threads() {
    let mut orchestrator = Orchestrator::start().await;
    let running = Arc::new(AtomicUsize::new(0));
    let worker = Worker::new("w", move |_| {
        let running = running.clone();
        async move {
            // Keeps its thread until the other one has begun.
            running.fetch_add(1, Ordering::SeqCst);
            let began = Instant::now();
            while running.load(Ordering::SeqCst) < 2 && began.elapsed() < PATIENCE {
                std::thread::yield_now();
            }
            Ok(json!({ "beside": running.load(Ordering::SeqCst) }))
        }
    });
    let _host = Running::start(host(&orchestrator, worker, 2));
    let mut session = orchestrator.session().await;
    session.send(many(2));
    for _ in 0..2 {
        let word = crate::fake::word(&session.result().await);
        assert_eq!(word, r#"completed {"beside":2}"#);
    }
}

#[tokio::test]
async fn who_watches_a_host_can_panic_and_harms_nothing() {
    let mut orchestrator = Orchestrator::start().await;
    let host = host(&orchestrator, echo(), 1).observe(|observed| {
        assert!(!matches!(
            observed,
            Observed::Started { .. } | Observed::Ended { .. }
        ));
    });
    let _host = Running::start(host);
    let mut session = orchestrator.session().await;
    session.command("t/s/do#1", "w", LONG);
    assert_eq!(
        session.outcome("t/s/do#1").await,
        r#"completed {"was":"x"}"#
    );
}
