//! ReadEvents: in order, without a hole, each once, from any cursor.

use proto::batch::decode;
use proto::cursor::Cursor;
use proto::wire;
use proto::wire::TransactionState;

use crate::harness::{PATIENCE, Suite, reason, sequence};
use crate::host::FakeHost;

fn from(cursor: &str, follow: bool) -> wire::ReadEventsRequest {
    wire::ReadEventsRequest {
        cursor: cursor.to_owned(),
        follow,
    }
}

async fn one_run(suite: &mut Suite) {
    suite.register(sequence("orders", &["a", "b"])).await;
    let mut host = FakeHost::connect(suite, "h", &[("a", 1), ("b", 1)]).await;
    let id = suite.execute("orders", r#"{"n":1}"#).await;
    host.do_next("{}").await;
    host.do_next("{}").await;
    suite.until(&id, TransactionState::Completed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_cursor_resumes_with_nothing_lost_and_nothing_twice() {
    let directory = tempfile::tempdir().unwrap();
    let mut suite = Suite::start(directory.path()).await;
    one_run(&mut suite).await;
    let mut log = suite.event_log();
    let mut whole = log.read_events(from("", false)).await.unwrap().into_inner();
    let mut next = 0;
    let mut cursors = Vec::new();
    while let Some(message) = whole.message().await.unwrap() {
        let decoded = decode(&message.batch.unwrap(), None).unwrap();
        for stored in decoded.events {
            assert_eq!(stored.offset, next);
            next += 1;
        }
        cursors.push((next, message.cursor));
    }
    assert!(next > 10 && cursors.len() > 3);
    for (expected, cursor) in cursors {
        let mut rest = log
            .read_events(from(&cursor, true))
            .await
            .unwrap()
            .into_inner();
        let mut at = expected;
        while at < next {
            let message = rest.message().await.unwrap().unwrap();
            for stored in decode(&message.batch.unwrap(), None).unwrap().events {
                assert_eq!(stored.offset, at);
                at += 1;
            }
        }
    }
    suite.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_sees_what_comes_and_signs_of_life_between() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = crate::harness::config(directory.path());
    config.event_log.sign_of_life.0 = std::time::Duration::from_millis(50);
    let mut suite = Suite::start_with(config).await;
    let mut log = suite.event_log();
    let mut following = log.read_events(from("", true)).await.unwrap().into_inner();
    let mut seen = Vec::new();
    let mut signs_of_life = 0;
    let watching = async {
        while signs_of_life < 2 || seen.iter().filter(|name| *name == "late").count() == 0 {
            if signs_of_life == 1 && seen.iter().all(|name| name != "late") {
                suite.register(sequence("late", &["a"])).await;
            }
            let message = following.message().await.unwrap().unwrap();
            assert!(!message.log_id.is_empty() && message.head_time.is_some());
            match message.batch {
                None => signs_of_life += 1,
                Some(batch) => {
                    for stored in decode(&batch, None).unwrap().events {
                        if let proto::event::Kind::WorkflowRegistered(workflow) = stored.event.kind
                        {
                            seen.push(workflow.name.to_string());
                        }
                    }
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, watching).await.unwrap();
    assert_eq!(seen, ["late"]);
    suite.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_leads_nowhere_is_told_why() {
    let directory = tempfile::tempdir().unwrap();
    let mut suite = Suite::start(directory.path()).await;
    one_run(&mut suite).await;
    let mut log = suite.event_log();
    let mut whole = log.read_events(from("", false)).await.unwrap().into_inner();
    let cursor = Cursor::parse(&whole.message().await.unwrap().unwrap().cursor).unwrap();
    let foreign = Cursor {
        log_id: [9; 16],
        ..cursor
    };
    let ahead = Cursor {
        offset: 1 << 40,
        ..cursor
    };
    let future = Cursor {
        epoch: cursor.epoch + 1,
        ..cursor
    };
    for (cursor, expected) in [
        ("nonsense".to_owned(), "CURSOR_INVALID"),
        (foreign.to_string(), "CURSOR_FOREIGN"),
        (ahead.to_string(), "CURSOR_AHEAD"),
        (future.to_string(), "CURSOR_AHEAD"),
    ] {
        let refused = log.read_events(from(&cursor, false)).await.unwrap_err();
        assert_eq!(reason(&refused), expected);
    }
    suite.stop().await;
}
