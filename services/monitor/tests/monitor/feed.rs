//! StreamEvents: replay, follow, filters, and resuming exactly once.

use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::strategy::{Strategy as _, ValueTree as _};
use proto::wire;
use proto::wire::stream_events_response::Message;
use tonic::{Code, Streaming};

use crate::history::*;
use crate::running::*;
use crate::service::recent;
use crate::source::FakeSource;

type Feed = Streaming<wire::StreamEventsResponse>;
/// What a filter means.
type Matches<'a> = &'a dyn Fn(&wire::Event) -> bool;

async fn open(monitor: &Running, request: wire::StreamEventsRequest) -> Feed {
    monitor
        .events()
        .stream_events(request)
        .await
        .unwrap()
        .into_inner()
}

fn from_oldest(filter: wire::EventFilter) -> wire::StreamEventsRequest {
    wire::StreamEventsRequest {
        start: wire::FeedStart::Oldest.into(),
        filter: Some(filter),
        until_head: true,
        ..Default::default()
    }
}

/// All events up to the feed's end.
async fn read_all(feed: &mut Feed) -> Vec<wire::Event> {
    let mut events = Vec::new();
    while let Some(message) = feed.message().await.unwrap() {
        if let Some(Message::Events(list)) = message.message {
            events.extend(list.events);
        }
    }
    events
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_replays_from_the_oldest_and_filters_by_each_of_its_lists() {
    let directory = tempfile::tempdir().unwrap();
    let source = FakeSource::start().await;
    let mut runs = recent(30, 40, |number| {
        if number % 4 == 0 {
            End::Failed(0)
        } else {
            End::Completed
        }
    });
    for (number, run) in runs.iter_mut().enumerate() {
        run.worker = (number % 3) as u8;
        run.workflow = (number % 2) as u8;
    }
    for batch in events(&runs).chunks(9) {
        source.append(batch);
    }
    let set = [
        ("limits.message_events_max", "16"),
        ("limits.feed_events_max", "50"),
    ];
    let monitor = Running::start(directory.path(), source.address, &set).await;
    monitor.caught_up(source.next()).await;

    let all = read_all(&mut open(&monitor, from_oldest(Default::default())).await).await;
    let offsets: Vec<u64> = all.iter().map(|event| event.offset).collect();
    assert_eq!(offsets, (0..source.next()).collect::<Vec<_>>());

    let id = transaction_id(runs[7].start_us, 7).to_string();
    let matches: [(wire::EventFilter, Matches<'_>); 6] = [
        (
            wire::EventFilter {
                transaction_ids: vec![id.clone()],
                ..Default::default()
            },
            &|event| event.transaction_id == id,
        ),
        (
            wire::EventFilter {
                workflows: vec!["flow-1".into()],
                ..Default::default()
            },
            &|event| event.workflow == "flow-1",
        ),
        (
            wire::EventFilter {
                workers: vec!["worker-2".into(), "worker-0".into()],
                ..Default::default()
            },
            &|event| event.worker == "worker-2" || event.worker == "worker-0",
        ),
        (
            wire::EventFilter {
                stages: vec![wire::Stage::Failed.into()],
                ..Default::default()
            },
            &|event| event.stage() == wire::Stage::Failed,
        ),
        (
            wire::EventFilter {
                workers: vec!["worker-1".into()],
                types: vec![wire::EventType::CommandQueued.into()],
                ..Default::default()
            },
            &|event| event.worker == "worker-1" && event.r#type() == wire::EventType::CommandQueued,
        ),
        (
            wire::EventFilter {
                workers: vec!["nobody".into()],
                ..Default::default()
            },
            &|_| false,
        ),
    ];
    for (filter, matches) in matches {
        let found = read_all(&mut open(&monitor, from_oldest(filter.clone())).await).await;
        let wanted: Vec<wire::Event> = all.iter().filter(|event| matches(event)).cloned().collect();
        assert_eq!(found, wanted, "{filter:?}");
    }
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_feed_says_where_it_begins_and_brings_only_what_is_new() {
    let directory = tempfile::tempdir().unwrap();
    let source = FakeSource::start().await;
    source.append(&events(&recent(30, 5, |_| End::Completed)));
    let monitor = Running::start(directory.path(), source.address, &[]).await;
    monitor.caught_up(source.next()).await;
    let mut feed = open(&monitor, wire::StreamEventsRequest::default()).await;
    let opened = feed.message().await.unwrap().unwrap();
    assert_eq!(
        opened.message,
        Some(Message::Opened(wire::FeedOpened { history: false }))
    );
    let before = source.next();
    source.append(&events(&recent(2, 1, |_| End::Completed)));
    let message = feed.message().await.unwrap().unwrap();
    let Some(Message::Events(list)) = message.message else {
        panic!("events come next: {message:?}");
    };
    assert_eq!(list.events[0].offset, before);
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_subscriber_slows_nobody_and_misses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let source = FakeSource::start().await;
    let set = [("limits.feed_events_max", "100")];
    let monitor = Running::start(directory.path(), source.address, &set).await;
    monitor.caught_up(0).await;
    let start = wire::StreamEventsRequest {
        start: wire::FeedStart::Oldest.into(),
        ..Default::default()
    };
    let mut slow = open(&monitor, start.clone()).await;
    let mut fast = open(&monitor, start).await;
    let runs = recent(30, 1_000, |_| End::Completed);
    for batch in events(&runs).chunks(50) {
        source.append(batch);
    }
    for feed in [&mut fast, &mut slow] {
        let mut next = 0;
        while next < source.next() {
            let message = feed.message().await.unwrap().unwrap();
            if let Some(Message::Events(list)) = message.message {
                for event in list.events {
                    assert_eq!(event.offset, next);
                    next += 1;
                }
            }
        }
    }
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_skips_is_told_exactly_what_was_skipped_and_can_fetch_it() {
    let directory = tempfile::tempdir().unwrap();
    let source = FakeSource::start().await;
    for batch in events(&recent(30, 100, |_| End::Completed)).chunks(10) {
        source.append(batch);
    }
    let set = [("limits.feed_events_max", "30")];
    let monitor = Running::start(directory.path(), source.address, &set).await;
    monitor.caught_up(source.next()).await;
    let mut feed = open(
        &monitor,
        wire::StreamEventsRequest {
            start: wire::FeedStart::Oldest.into(),
            on_slow: wire::OnSlow::Skip.into(),
            ..Default::default()
        },
    )
    .await;
    feed.message().await.unwrap().unwrap();
    let message = feed.message().await.unwrap().unwrap();
    let Some(Message::Gap(gap)) = message.message else {
        panic!("a gap comes next: {message:?}");
    };
    assert_eq!(
        (gap.reason.as_str(), &gap.to_cursor),
        ("skipped", &message.cursor)
    );
    let from = proto::cursor::Cursor::parse(&gap.from_cursor)
        .unwrap()
        .offset;
    let to = proto::cursor::Cursor::parse(&gap.to_cursor).unwrap().offset;
    assert_eq!(gap.count, to - from);
    let mut again = open(
        &monitor,
        wire::StreamEventsRequest {
            cursor: gap.from_cursor,
            until_head: true,
            ..Default::default()
        },
    )
    .await;
    assert_eq!(read_all(&mut again).await.len() as u64, source.next());
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cursors_that_mean_nothing_here_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let source = FakeSource::start().await;
    let monitor = Running::start(directory.path(), source.address, &[]).await;
    monitor.caught_up(0).await;
    let mut feed = open(&monitor, wire::StreamEventsRequest::default()).await;
    let here = feed.message().await.unwrap().unwrap().cursor;
    let here = proto::cursor::Cursor::parse(&here).unwrap();
    let foreign = proto::cursor::Cursor {
        log_id: [1; 16],
        ..here
    };
    let ahead = proto::cursor::Cursor {
        offset: here.offset + 1_000_000,
        ..here
    };
    let later = proto::cursor::Cursor {
        epoch: here.epoch + 1,
        ..here
    };
    for (cursor, code, reason) in [
        ("zz".to_owned(), Code::InvalidArgument, "CURSOR_INVALID"),
        (
            foreign.to_string(),
            Code::FailedPrecondition,
            "CURSOR_FOREIGN",
        ),
        (ahead.to_string(), Code::DataLoss, "CURSOR_AHEAD"),
        (later.to_string(), Code::DataLoss, "CURSOR_AHEAD"),
    ] {
        let request = wire::StreamEventsRequest {
            cursor,
            ..Default::default()
        };
        let status = monitor.events().stream_events(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        assert_eq!(kit::status::reason_of(&status).as_deref(), Some(reason));
    }
    let filters = [
        wire::EventFilter {
            transaction_ids: vec!["1".into()],
            ..Default::default()
        },
        wire::EventFilter {
            stages: vec![77],
            ..Default::default()
        },
        wire::EventFilter {
            types: vec![0],
            ..Default::default()
        },
        wire::EventFilter {
            workers: vec!["a b".into()],
            ..Default::default()
        },
    ];
    for filter in filters {
        let status = monitor
            .events()
            .stream_events(from_oldest(filter))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    }
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_subscriber_past_the_limit_is_refused_and_places_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let source = FakeSource::start().await;
    let set = [("limits.max_subscribers", "1")];
    let monitor = Running::start(directory.path(), source.address, &set).await;
    let feed = open(&monitor, wire::StreamEventsRequest::default()).await;
    let mut client = monitor.events();
    let request = wire::StreamEventsRequest::default();
    let status = client.stream_events(request.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(
        kit::status::reason_of(&status).as_deref(),
        Some("SUBSCRIBERS_LIMIT")
    );
    drop(feed);
    wait_for(async || client.stream_events(request.clone()).await.ok()).await;
    monitor.stop().await;
}

/// A client that is cut off again and again, its monitor restarted in between, gets each event once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resuming_at_the_last_cursor_loses_nothing_and_brings_nothing_twice() {
    let mut random = proptest::test_runner::TestRunner::deterministic();
    let mut pick = |most: usize| (0..most).new_tree(&mut random).unwrap().current();
    let directory = tempfile::tempdir().unwrap();
    let source = FakeSource::start().await;
    let set = [
        ("limits.message_events_max", "7"),
        ("limits.feed_events_max", "40"),
    ];
    let mut monitor = Running::start(directory.path(), source.address, &set).await;
    let runs = recent(60, 200, |_| End::Completed);
    let all = events(&runs);
    let mut rest = all.chunks(13);
    let (mut cursor, mut next) = (String::new(), 0);
    let cuts = AtomicUsize::new(0);
    while next < all.len() as u64 {
        for batch in rest.by_ref().take(1 + pick(3)) {
            source.append(batch);
        }
        if pick(6) == 0 {
            monitor.stop().await;
            monitor = Running::start(directory.path(), source.address, &set).await;
        }
        monitor.caught_up(source.next()).await;
        let request = wire::StreamEventsRequest {
            cursor: cursor.clone(),
            start: wire::FeedStart::Oldest.into(),
            ..Default::default()
        };
        let mut feed = open(&monitor, request).await;
        for _ in 0..1 + pick(6) {
            if next == source.next() {
                break;
            }
            let message = feed.message().await.unwrap().unwrap();
            if let Some(Message::Events(list)) = message.message {
                for event in list.events {
                    assert_eq!(event.offset, next);
                    next += 1;
                }
            }
            cursor = message.cursor;
        }
        cuts.fetch_add(1, Ordering::Relaxed);
    }
    assert!(cuts.into_inner() > 20);
    monitor.stop().await;
}
