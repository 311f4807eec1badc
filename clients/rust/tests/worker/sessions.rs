//! Sessions: what survives a broken one, and how a host leaves.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use multiagents_client::wire::{Command, ConnectResponse, ResultAcknowledgement, SystemSample};
use multiagents_client::{Context, Departure, Error, Host, Observed, Worker};
use proto::error::{Problem, Reason};
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};
use tonic::Status;

use crate::fake::{Orchestrator, Running, host, soon};

const LONG: Duration = Duration::from_secs(60);

/// A worker that waits at a gate.
fn gated(gate: &Arc<Semaphore>) -> Worker {
    let gate = gate.clone();
    Worker::new("w", move |context| {
        let gate = gate.clone();
        async move {
            gate.acquire().await?.forget();
            Ok(json!({ "step": context.step() }))
        }
    })
}

fn open_gate() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(1_000))
}

#[tokio::test]
async fn results_that_were_not_acknowledged_are_announced_and_sent_again_after_a_reconnect() {
    let mut orchestrator = Orchestrator::start().await;
    let _host = Running::start(host(&orchestrator, gated(&open_gate()), 4));
    let mut session = orchestrator.session().await;
    session.command("t/a/do#1", "w", LONG);
    session.outcome("t/a/do#1").await;
    session.command("t/b/do#1", "w", LONG);
    session.outcome("t/b/do#1").await;
    session.acknowledge("t/a/do#1");
    // A third one, so that the acknowledgement before it was taken in.
    session.command("t/c/do#1", "w", LONG);
    session.outcome("t/c/do#1").await;
    session.refuse(Status::unavailable("the orchestrator died"));

    let mut session = orchestrator.session().await;
    assert_eq!(session.announce.held_command_ids, ["t/b/do#1", "t/c/do#1"]);
    assert!(session.outcome("t/b/do#1").await.contains("\"b\""));
    assert!(session.outcome("t/c/do#1").await.contains("\"c\""));
}

#[tokio::test]
async fn a_command_that_runs_through_a_reconnect_delivers_its_result_in_the_new_session() {
    let mut orchestrator = Orchestrator::start().await;
    let gate = Arc::new(Semaphore::new(0));
    let _host = Running::start(host(&orchestrator, gated(&gate), 4));
    let session = orchestrator.session().await;
    session.command("t/a/do#1", "w", LONG);
    let mut session = session;
    // Wait until it was picked up.
    while session.message().await.unwrap().progress.is_empty() {}
    session.refuse(Status::unavailable("gone"));
    let session = orchestrator.unwelcomed().await;
    // It ends while there is no session yet.
    gate.add_permits(1);
    session.welcome(&[]);
    let mut session = session;
    assert_eq!(session.announce.held_command_ids, ["t/a/do#1"]);
    assert_eq!(
        session.outcome("t/a/do#1").await,
        r#"completed {"step":"a"}"#
    );
}

#[tokio::test]
async fn a_revoked_commands_handler_is_stopped_and_its_result_is_never_sent() {
    let mut orchestrator = Orchestrator::start().await;
    let gate = Arc::new(Semaphore::new(0));
    let _host = Running::start(host(&orchestrator, gated(&gate), 4));
    let mut session = orchestrator.session().await;
    session.command("t/a/do#1", "w", LONG);
    while session.message().await.unwrap().progress.is_empty() {}
    session.refuse(Status::unavailable("gone"));
    let mut session = orchestrator.unwelcomed().await;
    session.welcome(&["t/a/do#1"]);
    gate.add_permits(10);
    session.command("t/b/do#1", "w", LONG);
    assert_eq!(
        session.outcome("t/b/do#1").await,
        r#"completed {"step":"b"}"#
    );
    session.refuse(Status::unavailable("gone"));
    let session = orchestrator.session().await;
    assert_eq!(session.announce.held_command_ids, ["t/b/do#1"]);
}

#[tokio::test]
async fn a_refused_result_is_dropped_and_told() {
    let mut orchestrator = Orchestrator::start().await;
    let (told, mut refusals) = mpsc::channel(4);
    let host = host(&orchestrator, gated(&open_gate()), 4).observe(move |observed| {
        if let Observed::Refused { reason, .. } = observed {
            let _ = told.try_send((*reason).to_owned());
        }
    });
    let _host = Running::start(host);
    let mut session = orchestrator.session().await;
    session.command("t/a/do#1", "w", LONG);
    session.outcome("t/a/do#1").await;
    session.send(multiagents_client::wire::ConnectResponse {
        acknowledgements: vec![ResultAcknowledgement {
            command_id: "t/a/do#1".into(),
            refused_reason: "LEASE_LAPSED".into(),
            message: "too late".into(),
            context_id: 0,
        }],
        ..Default::default()
    });
    assert_eq!(soon(refusals.recv()).await.as_deref(), Some("LEASE_LAPSED"));
    session.refuse(Status::unavailable("gone"));
    let session = orchestrator.session().await;
    assert!(session.announce.held_command_ids.is_empty());
}

/// A message with one command: its pieces, each with an id.
fn naming(id: &str, pieces: &[(&str, u64)]) -> ConnectResponse {
    ConnectResponse {
        commands: vec![Command {
            command_id: id.into(),
            worker: "w".into(),
            context_json: pieces
                .iter()
                .map(|(json, _)| (*json).to_owned().into())
                .collect(),
            context_ids: pieces.iter().map(|(_, id)| *id).collect(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Acknowledges a result, which is to be remembered.
fn remember(id: &str, context_id: u64) -> ConnectResponse {
    ConnectResponse {
        acknowledgements: vec![ResultAcknowledgement {
            command_id: id.into(),
            context_id,
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Gives the context back, and its step.
fn echo() -> Worker {
    Worker::new("w", async |context: Context| {
        let mut object = context.object()?.clone();
        object.insert(context.step().into(), true.into());
        Ok(object)
    })
}

#[tokio::test]
async fn a_handler_sees_the_whole_context_whatever_of_it_is_only_named() {
    let mut orchestrator = Orchestrator::start().await;
    let _host = Running::start(host(&orchestrator, echo(), 4).remembers_bytes_max(1_000));
    let mut session = orchestrator.session().await;
    assert_eq!(session.announce.remembers_bytes_max, 1_000);
    session.send(naming("t/a/do#1", &[(r#"{"in":1}"#, 1), ("{}", 0)]));
    let a = r#"{"in":1,"a":true}"#;
    assert_eq!(session.outcome("t/a/do#1").await, format!("completed {a}"));
    // Its own result, by the id that the acknowledgement gave it.
    session.send(ConnectResponse {
        forget_below: 1,
        ..remember("t/a/do#1", 2)
    });
    session.send(naming("t/b/do#1", &[("", 1), (r#"{"x":1}"#, 3), ("", 2)]));
    assert_eq!(
        session.outcome("t/b/do#1").await,
        r#"completed {"in":1,"x":1,"a":true,"b":true}"#
    );
}

#[tokio::test]
async fn a_piece_that_the_host_does_not_have_ends_the_session_and_no_handler_sees_a_gap() {
    for forgets in [false, true] {
        let mut orchestrator = Orchestrator::start().await;
        let (told, mut ends) = mpsc::channel(4);
        let host = host(&orchestrator, echo(), 4).observe(move |observed| {
            if let Observed::Disconnected { cause } = observed {
                let _ = told.try_send((*cause).to_owned());
            }
        });
        let _host = Running::start(host);
        let mut session = orchestrator.session().await;
        session.send(ConnectResponse {
            forget_below: 2,
            ..naming("t/a/do#1", &[(r#"{"in":1}"#, 1), ("", 1)])
        });
        session.outcome("t/a/do#1").await;
        if forgets {
            session.send(naming("t/b/do#1", &[("", 1)]));
        } else {
            session.refuse(Status::unavailable("gone"));
            // What was remembered in the session before is no more.
            soon(ends.recv()).await.unwrap();
            let session = orchestrator.session().await;
            session.send(naming("t/b/do#1", &[("", 1)]));
        }
        let why = soon(ends.recv()).await.unwrap();
        assert!(why.contains("a piece of a context"), "{why}");
        let session = orchestrator.session().await;
        assert_eq!(session.announce.held_command_ids, ["t/a/do#1"]);
    }
}

#[tokio::test]
async fn a_host_that_is_asked_to_stop_finishes_delivers_and_leaves() {
    let mut orchestrator = Orchestrator::start().await;
    let gate = Arc::new(Semaphore::new(0));
    let host = Running::start(host(&orchestrator, gated(&gate), 4));
    let mut session = orchestrator.session().await;
    session.command("t/a/do#1", "w", LONG);
    while session.message().await.unwrap().progress.is_empty() {}
    host.shutdown.cancel();
    while !session.draining {
        session.message().await.unwrap();
    }
    gate.add_permits(1);
    assert_eq!(
        session.outcome("t/a/do#1").await,
        r#"completed {"step":"a"}"#
    );
    // It stays until the result is acknowledged, and then closes its side.
    session.acknowledge("t/a/do#1");
    assert!(session.message().await.is_none());
    drop(session);
    assert_eq!(host.ended().await.unwrap(), Departure::default());
}

#[tokio::test]
async fn a_command_that_crosses_with_the_word_that_the_host_is_draining_is_still_done() {
    let mut orchestrator = Orchestrator::start().await;
    let host = Running::start(host(&orchestrator, gated(&open_gate()), 4));
    let mut session = orchestrator.session().await;
    // One that is answered, so that the session is surely open.
    session.command("t/first/do#1", "w", LONG);
    session.outcome("t/first/do#1").await;
    session.acknowledge("t/first/do#1");
    host.shutdown.cancel();
    while !session.draining {
        session.message().await.unwrap();
    }
    session.command("t/a/do#1", "w", LONG);
    session.outcome("t/a/do#1").await;
    session.acknowledge("t/a/do#1");
    assert!(session.message().await.is_none());
    drop(session);
    assert_eq!(host.ended().await.unwrap(), Departure::default());
}

#[tokio::test]
async fn a_drain_goes_on_over_a_reconnect() {
    let mut orchestrator = Orchestrator::start().await;
    let host = Running::start(host(&orchestrator, gated(&open_gate()), 4));
    let mut session = orchestrator.session().await;
    session.command("t/a/do#1", "w", LONG);
    session.outcome("t/a/do#1").await;
    host.shutdown.cancel();
    while !session.draining {
        session.message().await.unwrap();
    }
    session.refuse(Status::unavailable("gone"));
    let mut session = orchestrator.session().await;
    session.outcome("t/a/do#1").await;
    assert!(session.draining, "the new session is told");
    session.acknowledge("t/a/do#1");
    assert!(session.message().await.is_none());
    drop(session);
    assert_eq!(host.ended().await.unwrap(), Departure::default());
}

#[tokio::test]
async fn a_drain_ends_with_its_grace_and_says_what_is_left() {
    let mut orchestrator = Orchestrator::start().await;
    let gate = Arc::new(Semaphore::new(0));
    let host = host(&orchestrator, gated(&gate), 4).drain_grace(Duration::from_millis(50));
    let host = Running::start(host);
    let mut session = orchestrator.session().await;
    session.command("t/a/do#1", "w", LONG);
    while session.message().await.unwrap().progress.is_empty() {}
    host.shutdown.cancel();
    while session.message().await.is_some() {}
    drop(session);
    assert_eq!(
        host.ended().await.unwrap(),
        Departure {
            unfinished: 1,
            undelivered: 0
        }
    );
}

#[tokio::test]
async fn a_host_that_never_reached_anybody_stops_at_once() {
    let host = Host::builder("127.0.0.1:1").worker(gated(&open_gate()), 1);
    let host = Running::start(host);
    host.shutdown.cancel();
    assert_eq!(host.ended().await.unwrap(), Departure::default());
}

#[tokio::test]
async fn a_host_whose_session_the_heartbeat_finds_gone_opens_another() {
    let mut orchestrator = Orchestrator::start().await;
    orchestrator.forgets_sessions.store(true, Ordering::SeqCst);
    let _host = Running::start(host(&orchestrator, gated(&open_gate()), 4));
    let first = orchestrator.session().await;
    // The first stream stays open: only the heartbeat knows.
    let mut second = orchestrator.session().await;
    second.command("t/a/do#1", "w", LONG);
    second.outcome("t/a/do#1").await;
    drop(first);
}

#[tokio::test]
async fn a_host_whose_name_another_process_took_ends_with_a_sentence() {
    let mut orchestrator = Orchestrator::start().await;
    let host = Running::start(host(&orchestrator, gated(&open_gate()), 4));
    let session = orchestrator.session().await;
    session.refuse(Problem::new(Reason::SessionReplaced, "another one connected").into());
    let error = host.ended().await.unwrap_err();
    assert!(matches!(error, Error::HostReplaced { .. }), "{error}");
    assert!(error.to_string().contains("\"h1\""), "{error}");
}

#[tokio::test]
async fn an_announcement_that_is_refused_for_good_ends_the_host() {
    let mut orchestrator = Orchestrator::start().await;
    let host = Running::start(host(&orchestrator, gated(&open_gate()), 4));
    let session = orchestrator.unwelcomed().await;
    session.refuse(Problem::field(Reason::FieldOutOfRange, "slots", "slots is 4").into());
    assert_eq!(
        host.ended().await.unwrap_err().reason(),
        "FIELD_OUT_OF_RANGE"
    );
}

#[tokio::test]
async fn samples_of_the_machine_ride_along() {
    let mut orchestrator = Orchestrator::start().await;
    let (sender, samples) = mpsc::channel(4);
    let _host = Running::start(host(&orchestrator, gated(&open_gate()), 4).samples(samples));
    let mut session = orchestrator.session().await;
    sender.send(SystemSample::default()).await.unwrap();
    while session.samples == 0 {
        session.message().await.unwrap();
    }
}

#[tokio::test]
async fn an_offer_that_makes_no_sense_is_refused_before_anybody_is_dialled() {
    let worker = || gated(&open_gate());
    for (builder, says) in [
        (Host::builder("127.0.0.1:1"), "no worker"),
        (Host::builder("127.0.0.1:1").worker(worker(), 0), "0 slots"),
        (
            Host::builder("127.0.0.1:1")
                .worker(worker(), 1)
                .worker(worker(), 1),
            "twice",
        ),
        (
            Host::builder("127.0.0.1:1")
                .worker(worker(), 1)
                .host_id("a b"),
            "host_id",
        ),
    ] {
        let error = soon(builder.run(Default::default())).await.unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
}
