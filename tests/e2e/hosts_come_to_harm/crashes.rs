//! Processes that die of their work, and processes that die of themselves.

use proto::wire::{Stage, TransactionState};
use serde_json::json;
use tests::harm::{self, TestHost};
use tests::process::binary;
use tests::wait::{PATIENCE, until};
use tests::{Suite, record};

use super::{bare, short_lease};

#[tokio::test]
async fn a_command_that_kills_every_host_ends_as_poison_and_other_work_goes_on() {
    let suite = short_lease(bare()).start().await;
    let client = suite.client();
    harm::register(&client, "deadly", 3).await;
    harm::register(&client, "recorded", 10).await;
    let (directory, address) = (suite.directory(), suite.orchestrator.address());
    let mut hosts = Vec::new();
    for machine in ["m1", "m2"] {
        let host = TestHost::on_machine(directory, address, "", machine, 4);
        hosts.push(host.start(&suite).await);
    }
    let poison = client.start("deadly", &json!({})).await.expect("it starts");
    let mut others = Vec::new();
    for _ in 0..20 {
        let started = client.start("recorded", &json!({ "millis": 20 })).await;
        others.push(started.expect("it starts").transaction_id);
    }
    // Somebody starts again what died, as an init system does.
    let ended = until("the poison's end", PATIENCE, async || {
        for host in &mut hosts {
            if !host.process.runs() {
                host.process.kill();
                host.process.start();
            }
        }
        let status = client.status(&poison.transaction_id).await;
        let status = status.map_err(|error| error.to_string())?;
        match status.state() {
            TransactionState::Failed => Ok(status),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(harm::stages(&ended), [Stage::Lost; 3]);
    let failure = ended.failure.expect("why it failed");
    assert_eq!(failure.kind, "Poison");
    assert!(failure.message.contains("3 hosts were lost"), "{failure:?}");
    for host in &mut hosts {
        if !host.process.runs() {
            host.process.kill();
            host.process.start();
        }
    }
    for id in others {
        let ended = client.wait_for_end(&id, PATIENCE).await.expect("it ends");
        assert_eq!(ended.state(), TransactionState::Completed);
    }
    let events = suite.events().await;
    record::assert_sound(&events);
    assert_eq!(harm::count(&events, harm::is_quarantine), 0);
}

/// One machine kills whatever process comes up there; each has another name.
#[tokio::test]
async fn hosts_that_crash_in_a_loop_are_held_back_and_others_do_the_work() {
    let suite = short_lease(Suite::builder().without_host())
        .setting("orchestrator", "sessions.quarantine.losses", "3")
        .start()
        .await;
    let client = suite.client();
    harm::register(&client, "recorded", 100).await;
    let (directory, address) = (suite.directory(), suite.orchestrator.address());
    let mut crashing = TestHost::on_machine(directory, address, "", "bad", 4);
    let mut ids = Vec::new();
    let held = "multiagents_orchestrator_hosts_quarantined_total";
    while harm::metric(&suite, held).await == 0.0 {
        let started = client.start("recorded", &json!({ "millis": 60_000 })).await;
        ids.push(started.expect("it starts").transaction_id);
        crashing.start_again(&suite).await;
        let lost_before = harm::metric(&suite, "multiagents_orchestrator_hosts_lost_total").await;
        if harm::metric(&suite, held).await > 0.0 {
            break;
        }
        until("a command at work", PATIENCE, async || {
            let status = client
                .status(&ids[0])
                .await
                .map_err(|error| error.to_string())?;
            let stage = status.steps[0]
                .attempts
                .last()
                .map(|attempt| attempt.stage());
            (stage == Some(Stage::Processing))
                .then_some(())
                .ok_or(format!("{stage:?}"))
        })
        .await;
        crashing.process.kill();
        until("the loss", PATIENCE, async || {
            let lost = harm::metric(&suite, "multiagents_orchestrator_hosts_lost_total").await;
            (lost > lost_before).then_some(()).ok_or(format!("{lost}"))
        })
        .await;
        assert!(ids.len() < 6, "it is held back at last");
    }
    assert_eq!(ids.len(), 4, "after three losses");

    // It is there, it says so, and gets nothing; another does its work.
    suite.monitor_caught_up().await;
    let monitor = suite.monitor();
    let health = monitor.worker_health("recorded").await.expect("its health");
    let health = health.health.expect("its health");
    let issues = health.issues.join("; ");
    assert!(issues.contains("quarantined for another"), "{issues}");
    let bad = health
        .hosts
        .iter()
        .find(|host| host.live)
        .expect("it is there");
    assert!(bad.quarantined_until_time.is_some() && bad.machine == "bad");
    let shown = tokio::process::Command::new(binary("multiagents"))
        .args(["--monitor", suite.monitor.address(), "workers", "recorded"])
        .output()
        .await
        .expect("the command line");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("quarantined for another"), "{shown}");
    for id in &ids {
        client
            .cancel(id, "they would take a minute")
            .await
            .expect("it can be cancelled");
    }
    let _sane = TestHost::on_machine(directory, address, "", "good", 1)
        .start(&suite)
        .await;
    for _ in 0..4 {
        let ended = client
            .execute_and_wait("recorded", &json!({}), PATIENCE)
            .await;
        let ended = ended.expect("it ends");
        assert!(ended.steps[0].attempts[0].host_id.starts_with("good-"));
    }
    let events = suite.events().await;
    record::assert_sound(&events);
    assert_eq!(harm::count(&events, harm::is_quarantine), 1);
}
