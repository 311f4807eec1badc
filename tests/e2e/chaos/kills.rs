//! kill -9 of orchestrator, hosts and monitor at random moments.

use proto::event::Kind;
use tests::Suite;
use tests::chance::Chance;
use tests::rounds::{progress, rounds};
use tests::wait::a_moment;

use super::Chaos;

#[tokio::test]
async fn whoever_is_killed_what_was_acknowledged_is_found_finished_once() {
    let mut chance = Chance::new();
    let mut chaos = Chaos::start(Suite::builder()).await;
    let kills = rounds(20, 300);
    let mut orchestrators = 0;
    for kill in 0..kills {
        progress("kills", kill, kills);
        chaos.acknowledged(1 + chance.below(80) as usize).await;
        match chance.below(4) {
            0 => {
                let which = chance.below(2) as usize;
                chaos.hosts[which].kill();
                chaos.hosts[which].start();
            }
            1 => {
                chaos.suite.monitor.kill();
                chaos.suite.monitor.start();
            }
            _ => {
                let orchestrator = &mut chaos.suite.orchestrator;
                orchestrator.kill();
                orchestrators += 1;
                if chance.below(4) == 0 {
                    // And once while it is coming up: before it says that it is ready.
                    orchestrator.start();
                    for _ in 0..chance.below(8) {
                        a_moment().await;
                    }
                    orchestrator.kill();
                }
                orchestrator.start_ready().await;
            }
        }
    }
    let (mut suite, events) = chaos.compare().await;
    let started = |kind: &Kind| matches!(kind, Kind::OrchestratorStarted { .. });
    let starts = events.iter().filter(|stored| started(&stored.event.kind));
    assert!(starts.count() > orchestrators, "each start is an event");

    // The monitor, which was killed and cut off, says the same as the log.
    suite.monitor.ready().await;
    suite.monitor_caught_up().await;
    let mut verification = suite.monitor().verify().await.expect("it verifies");
    while let Some(step) = verification.next().await.expect("it goes on") {
        if let Some(verdict) = step.verdict {
            assert!(verdict.equal, "{}: {}", verdict.view, verdict.difference);
        }
    }
}

/// Large batches go to the disk by another way than small ones, and both share a file.
#[tokio::test]
async fn large_inputs_between_small_ones_survive_whoever_is_killed() {
    let mut chance = Chance::new();
    let builder = Suite::builder().without_monitor();
    let mut chaos = Chaos::padded(builder, 256 << 10).await;
    let kills = rounds(8, 100);
    for kill in 0..kills {
        progress("kills under large inputs", kill, kills);
        chaos.acknowledged(1 + chance.below(60) as usize).await;
        chaos.suite.orchestrator.kill();
        chaos.suite.orchestrator.start_ready().await;
    }
    chaos.compare().await;
}
