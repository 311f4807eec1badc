//! A feed that is cut off anywhere resumes at its cursor: nothing lost, nothing twice.

use proto::batch::Stored;
use proto::event::Kind;
use proto::wire::{
    self, EventFilter, FeedStart, StreamEventsRequest, stream_events_response::Message,
};
use tests::chance::Chance;
use tests::load::Load;
use tests::wait::{PATIENCE, until};
use tests::{Suite, record};

/// Reads the feed up to `head`, cutting it off again and again. Gives every event that came.
async fn read_in_pieces(
    suite: &Suite,
    filter: Option<EventFilter>,
    head: u64,
    chance: &mut Chance,
) -> Vec<wire::Event> {
    let monitor = suite.monitor();
    let mut cursor = String::new();
    let mut seen: Vec<wire::Event> = Vec::new();
    let mut cuts = 0;
    loop {
        let request = StreamEventsRequest {
            cursor: cursor.clone(),
            start: FeedStart::Oldest.into(),
            filter: filter.clone(),
            ..Default::default()
        };
        let stream = monitor.raw_events().stream_events(request).await;
        let mut stream = stream.expect("the feed opens").into_inner();
        // Sometimes the connection breaks before anything came.
        let mut messages = chance.below(6);
        while messages > 0 {
            messages -= 1;
            let next = tokio::time::timeout(PATIENCE, stream.message()).await;
            let message = next.expect("a sign of life").expect("the feed goes on");
            let message = message.expect("a feed that follows doesn't end");
            cursor = message.cursor;
            match message.message.expect("something") {
                Message::Events(list) => seen.extend(list.events),
                Message::Gap(gap) => panic!("nothing was trimmed: {gap:?}"),
                Message::Opened(_) | Message::Heartbeat(_) => {}
            }
            if message.lag_events == 0 && monitor_is_past(suite, head).await {
                assert!(cuts > 3, "it was hardly ever cut off");
                return seen;
            }
        }
        cuts += 1;
        drop(stream);
    }
}

async fn monitor_is_past(suite: &Suite, head: u64) -> bool {
    let answer = suite.monitor().workers_health().await.expect("an answer");
    answer
        .as_of
        .is_some_and(|as_of| as_of.sources.iter().all(|source| source.offset >= head))
}

fn offsets(events: &[wire::Event]) -> Vec<u64> {
    events.iter().map(|event| event.offset).collect()
}

#[tokio::test]
async fn a_feed_cut_off_at_random_gives_each_event_once() {
    let mut chance = Chance::new();
    let suite = Suite::start().await;
    let load = Load::start(&suite.client(), 8, "three_noops");
    until("some load", PATIENCE, async || {
        (load.count() >= 400)
            .then_some(())
            .ok_or(load.count().to_string())
    })
    .await;
    let head = record::head(&suite.client()).await;
    let seen = read_in_pieces(&suite, None, head, &mut chance).await;
    load.stop().await;
    let events = suite.events().await;
    let expected: Vec<u64> = events.iter().map(|stored| stored.offset).collect();
    let seen = offsets(&seen);
    assert!(
        seen.len() as u64 >= head - expected[0],
        "it went on to the head"
    );
    assert_eq!(seen[..], expected[..seen.len()]);
}

#[tokio::test]
async fn a_filter_gives_exactly_what_matches() {
    let mut chance = Chance::new();
    let suite = Suite::start().await;
    let client = suite.client();
    let load = Load::start(&client, 4, "two_fast");
    until("some load", PATIENCE, async || {
        (load.count() >= 30)
            .then_some(())
            .ok_or(load.count().to_string())
    })
    .await;
    let acknowledged = load.stop().await;
    for id in acknowledged.values() {
        client.wait_for_end(id, PATIENCE).await.expect("it ends");
    }
    let one = acknowledged.values().next().expect("at least one").clone();
    suite.monitor_caught_up().await;
    let head = record::head(&client).await;

    type Matches = Box<dyn Fn(&Stored) -> bool>;
    let id = one.clone();
    let cases: [(EventFilter, Matches); 4] = [
        (
            EventFilter {
                transaction_ids: vec![one],
                ..Default::default()
            },
            Box::new(move |stored| {
                stored
                    .event
                    .transaction()
                    .is_some_and(|of| of.to_string() == id)
            }),
        ),
        (
            EventFilter {
                workers: vec!["fast_processor".into()],
                ..Default::default()
            },
            Box::new(|stored| {
                matches!(&stored.event.kind, Kind::Command { command, .. }
                    if command.worker.as_str() == "fast_processor")
            }),
        ),
        (
            EventFilter {
                workflows: vec!["two_fast".into()],
                stages: vec![wire::Stage::Completed.into()],
                ..Default::default()
            },
            Box::new(|stored| stored.event.event_type() == wire::EventType::CommandCompleted),
        ),
        (
            EventFilter {
                workflows: vec!["nothing.of.that.name".into()],
                ..Default::default()
            },
            Box::new(|_| false),
        ),
    ];
    for (filter, matches) in cases {
        let seen = until_head(&suite, &filter, &mut chance).await;
        let events = suite.events().await;
        let expected: Vec<u64> = events
            .iter()
            .filter(|stored| stored.offset < head && matches(stored))
            .map(|stored| stored.offset)
            .collect();
        let seen: Vec<u64> = offsets(&seen)
            .into_iter()
            .filter(|offset| *offset < head)
            .collect();
        assert_eq!(seen, expected, "{filter:?}");
    }
}

/// Reads to the head, resuming after each message for a while.
async fn until_head(suite: &Suite, filter: &EventFilter, chance: &mut Chance) -> Vec<wire::Event> {
    let mut cursor = String::new();
    let mut seen = Vec::new();
    loop {
        let request = StreamEventsRequest {
            cursor: cursor.clone(),
            start: FeedStart::Oldest.into(),
            filter: Some(filter.clone()),
            until_head: true,
            ..Default::default()
        };
        let stream = suite.monitor().raw_events().stream_events(request).await;
        let mut stream = stream.expect("the feed opens").into_inner();
        let cut_after = 1 + chance.below(8);
        let mut messages = 0;
        loop {
            let Some(message) = stream.message().await.expect("the feed goes on") else {
                return seen;
            };
            cursor = message.cursor;
            if let Some(Message::Events(list)) = message.message {
                seen.extend(list.events);
            }
            messages += 1;
            if messages == cut_after {
                break;
            }
        }
    }
}

/// The same on the orchestrator's own log, which monitors read.
#[tokio::test]
async fn the_log_itself_resumes_at_its_cursor() {
    let mut chance = Chance::new();
    let suite = Suite::builder().without_monitor().start().await;
    let client = suite.client();
    let load = Load::start(&client, 8, "three_noops");
    until("some load", PATIENCE, async || {
        (load.count() >= 200)
            .then_some(())
            .ok_or(load.count().to_string())
    })
    .await;
    let head = record::head(&client).await;
    let mut cursor = String::new();
    let mut next = 0;
    while next < head {
        let mut stream = client.read_log(&cursor, true).await.expect("the log opens");
        for _ in 0..=chance.below(5) {
            let message = stream
                .message()
                .await
                .expect("it reads on")
                .expect("it follows");
            cursor = message.cursor;
            let Some(bytes) = message.batch else { continue };
            let batch = proto::batch::decode(&bytes, None).expect("a batch");
            let first = batch.events[0].offset;
            assert_eq!(first, next, "batches begin where the last one ended");
            next = first + batch.events.len() as u64;
        }
    }
    load.stop().await;
}
