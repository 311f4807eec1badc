//! Processes that stand still for a while, and connections that are cut or go silent.

use std::time::Duration;

use proto::batch::Stored;
use proto::event::{HostEvent, Kind};
use rustix::process::Signal;
use tests::Suite;
use tests::chance::Chance;
use tests::proxy::Proxy;
use tests::rounds::{progress, rounds};
use tests::wait::{PATIENCE, a_moment, until};

use super::Chaos;

fn losses(events: &[Stored]) -> usize {
    let lost = |kind: &Kind| {
        matches!(
            kind,
            Kind::Host {
                what: HostEvent::Lost,
                ..
            }
        )
    };
    events
        .iter()
        .filter(|stored| lost(&stored.event.kind))
        .count()
}

async fn until_lost(suite: &Suite, more_than: usize) {
    until("a host to be lost", PATIENCE, async || {
        let lost = losses(&suite.events().await);
        (lost > more_than)
            .then_some(())
            .ok_or(format!("{lost} losses"))
    })
    .await;
}

#[tokio::test]
async fn whoever_stands_still_comes_back_and_counts_nothing_twice() {
    let mut chance = Chance::new();
    let chaos = Chaos::start(Suite::builder()).await;
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
        let before = if which == 0 {
            losses(&suite.events().await)
        } else {
            0
        };
        process.signal(Signal::STOP);
        if which == 0 {
            until_lost(suite, before).await;
        } else {
            for _ in 0..chance.below(150) {
                a_moment().await;
            }
        }
        process.signal(Signal::CONT);
    }
    let (_suite, events) = chaos.compare().await;
    assert!(losses(&events) > 0);
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
    let chaos = Chaos::on(suite, &address).await;
    let cuts = rounds(8, 100);
    for cut in 0..cuts {
        progress("cuts", cut, cuts);
        chaos.acknowledged(1 + chance.below(60) as usize).await;
        proxy.reset();
    }
    // Half open: both ends believe in a connection that carries nothing any more.
    chaos.acknowledged(20).await;
    let before = losses(&chaos.suite.events().await);
    proxy.freeze();
    until_lost(&chaos.suite, before).await;
    proxy.thaw();
    chaos.acknowledged(20).await;
    chaos.compare().await;
}
