//! Old events are trimmed away; what is still live goes on, and what is left of the log is enough.

use multiagents_client::{Start, Workflow};
use proto::event::{Kind, TransactionEvent};
use proto::id::TransactionId;
use proto::wire::TransactionState;
use serde_json::json;
use tests::wait::{PATIENCE, until};
use tests::workers::{Notes, OwnHost, scribe};
use tests::{Suite, process};

#[tokio::test]
async fn a_live_transaction_outlives_the_files_that_it_began_in() {
    let mut suite = Suite::builder()
        .without_monitor()
        .setting("orchestrator", "log.segment_bytes", "1MiB")
        .setting("orchestrator", "log.retention_bytes", "3MiB")
        .setting("orchestrator", "store.trim_interval", "100ms")
        // So long the event of its start stays in any case.
        .setting("orchestrator", "sessions.lease", "1s")
        .setting("orchestrator", "sessions.heartbeat_interval", "300ms")
        .setting("orchestrator", "store.write_interval", "100ms")
        .start()
        .await;
    let client = suite.client();
    // One step done, one that nobody can do yet.
    let workflow = Workflow::new("long")
        .step(("first", "noop"))
        .step(("second", "scribe"));
    client.register(workflow).await.expect("a workflow");
    let long = client
        .start("long", &json!({ "kept": "through it all" }))
        .await;
    let long = long.expect("it starts").transaction_id;
    let id = TransactionId::parse(&long).expect("an id");
    let first = client
        .execute_and_wait("three_noops", &json!({}), PATIENCE)
        .await;
    let first = first.expect("it starts").transaction_id;

    let filler = json!({ "data": "x".repeat(100_000) });
    until("the oldest file to be trimmed", PATIENCE, async || {
        let start = Start::new("three_noops").input(&filler).expect("an object").wait(PATIENCE);
        client.begin(start).await.map_err(|error| error.to_string())?;
        let events = suite.events().await;
        let is = |what: &TransactionEvent| matches!(what, TransactionEvent::Started(_));
        let began = events.iter().any(|stored| {
            matches!(&stored.event.kind, Kind::Transaction { id: of, what, .. } if *of == id && is(what))
        });
        (!began).then_some(()).ok_or(format!("{} events", events.len()))
    })
    .await;
    let events = suite.events().await;
    let carried = events.iter().any(|stored| {
        matches!(
            &stored.event.kind,
            Kind::Transaction { id: of, what: TransactionEvent::Carried(_), .. } if *of == id
        )
    });
    assert!(carried, "it was carried to the tail");
    let refused = client
        .status(&first)
        .await
        .expect_err("events and row go together");
    assert_eq!(refused.reason(), "TRANSACTION_NOT_FOUND");

    // The log alone is enough.
    suite.orchestrator.kill();
    let data = suite.directory().join("orchestrator");
    let state = process::find(&data, "state.db").expect("state.db");
    for name in ["state.db", "state.db-wal"] {
        let _may_be_gone = std::fs::remove_file(state.with_file_name(name));
    }
    suite.orchestrator.start_ready().await;
    let status = client.status(&long).await.expect("it is known");
    assert_eq!(status.state(), TransactionState::Running);
    let notes = Notes::default();
    let _host = OwnHost::start(suite.orchestrator.address(), [(scribe(&notes), 1)]);
    let ended = client.wait_for_end(&long, PATIENCE).await.expect("it ends");
    assert_eq!(ended.state(), TransactionState::Completed);
    assert_eq!(
        notes.all()[0]["context"],
        json!({ "kept": "through it all" })
    );
}
