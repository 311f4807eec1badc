//! Processes that stand still for a while, and connections that are cut or go silent.

use std::time::Duration;

use proto::batch;
use proto::event::{HostEvent, Kind};
use rustix::process::Signal;
use tests::Suite;
use tests::chance::Chance;
use tests::harm;
use tests::proxy::Proxy;
use tests::rounds::{progress, rounds};
use tests::wait::{PATIENCE, a_moment, until};

use super::Chaos;

/// How many hosts were lost; the log is read on from where it was read last.
#[derive(Default)]
struct Losses {
    count: usize,
    cursor: String,
}

impl Losses {
    async fn look(&mut self, suite: &Suite) -> usize {
        let client = suite.client();
        let stream = client.read_log(&self.cursor, false).await;
        let mut stream = stream.expect("the log opens");
        while let Some(message) = stream.message().await.expect("it reads on") {
            self.cursor = message.cursor;
            let Some(bytes) = message.batch else { continue };
            let events = batch::decode(&bytes, None).expect("a batch").events;
            let lost = |kind: &Kind| match kind {
                Kind::Host { what, .. } => matches!(what, HostEvent::Lost),
                _ => false,
            };
            self.count += events
                .iter()
                .filter(|stored| lost(&stored.event.kind))
                .count();
        }
        self.count
    }

    /// Waits until one more is lost.
    async fn one_more(&mut self, suite: &Suite, before: usize) {
        until("a host to be lost", PATIENCE, async || {
            let lost = self.look(suite).await;
            (lost > before)
                .then_some(())
                .ok_or(format!("{lost} losses"))
        })
        .await;
    }
}

#[tokio::test]
async fn whoever_stands_still_comes_back_and_counts_nothing_twice() {
    let mut chance = Chance::new();
    let chaos = Chaos::start(Suite::builder()).await;
    let mut losses = Losses::default();
    let hosts = || harm::metric(&chaos.suite, "multiagents_orchestrator_hosts_connected");
    let all = chaos.hosts.len() as f64;
    let pauses = rounds(4, 60);
    for pause in 0..pauses {
        progress("pauses", pause, pauses);
        chaos.acknowledged(20).await;
        let suite = &chaos.suite;
        // The first is a host that comes back when its lease is over, with results in its hands.
        let which = if pause == 0 { 0 } else { chance.below(3) };
        let process = match which {
            0 => &chaos.hosts[chance.below(2) as usize],
            1 => &suite.orchestrator,
            _ => &suite.monitor,
        };
        let before = match which {
            0 => {
                // Who has not come back from the last pause has no lease to lose.
                until("every host to be connected", PATIENCE, async || {
                    let now = hosts().await;
                    (now == all).then_some(()).ok_or(format!("{now} of {all}"))
                })
                .await;
                losses.look(suite).await
            }
            _ => 0,
        };
        process.signal(Signal::STOP);
        if which == 0 {
            losses.one_more(suite, before).await;
        } else {
            for _ in 0..chance.below(150) {
                a_moment().await;
            }
        }
        process.signal(Signal::CONT);
    }
    assert!(losses.count > 0);
    chaos.compare().await;
}

#[tokio::test]
async fn a_connection_that_is_cut_or_silent_loses_and_repeats_nothing() {
    let mut chance = Chance::new();
    let builder = Suite::builder()
        .without_monitor()
        .without_host()
        .setting("orchestrator", "sessions.lease", "2s")
        .setting("orchestrator", "sessions.heartbeat_interval", "500ms")
        .setting("orchestrator", "sessions.quarantine.losses", "0");
    let suite = builder.start().await;
    let proxy = Proxy::start(suite.orchestrator.address(), Duration::ZERO).await;
    let address = proxy.address().to_owned();
    let chaos = Chaos::on(suite, &address, 0).await;
    let cuts = rounds(8, 100);
    for cut in 0..cuts {
        progress("cuts", cut, cuts);
        chaos.acknowledged(1 + chance.below(60) as usize).await;
        proxy.reset();
    }
    // Half open: both ends believe in a connection that carries nothing any more.
    chaos.acknowledged(20).await;
    let mut losses = Losses::default();
    let before = losses.look(&chaos.suite).await;
    proxy.freeze();
    losses.one_more(&chaos.suite, before).await;
    proxy.thaw();
    chaos.acknowledged(20).await;
    chaos.compare().await;
}
