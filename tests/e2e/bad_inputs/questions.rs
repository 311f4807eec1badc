//! Bad windows, cursors and names at the monitor and at the log.

use proto::cursor::Cursor;
use proto::wire::{
    CheckWorkerHealthRequest, EventFilter, GetErrorPatternsRequest, GetEventMetricsRequest,
    GetSystemMetricsRequest, GetTransactionTraceRequest, GetWorkerPerformanceRequest,
    StreamEventsRequest,
};
use tests::Suite;
use tonic::{Code, Status};

use super::{lives, refused};

fn window(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

#[tokio::test]
async fn windows_that_are_none_are_refused() {
    let mut suite = Suite::start().await;
    let expected = (Code::InvalidArgument, "WINDOW_INVALID");
    for seconds in [0, -300, i64::MAX] {
        let what = format!("a window of {seconds} s");
        let monitor = suite.monitor();
        let request = GetEventMetricsRequest {
            window: window(seconds),
            ..Default::default()
        };
        let answer = monitor.raw_events().get_event_metrics(request).await;
        refused(&mut suite, &what, answer, expected).await;
        let request = GetErrorPatternsRequest {
            window: window(seconds),
            ..Default::default()
        };
        let answer = monitor.raw_events().get_error_patterns(request).await;
        refused(&mut suite, &what, answer, expected).await;
        let request = GetSystemMetricsRequest {
            window: window(seconds),
            ..Default::default()
        };
        let answer = monitor.raw_metrics().get_system_metrics(request).await;
        refused(&mut suite, &what, answer, expected).await;
        let request = GetWorkerPerformanceRequest {
            worker: "noop".to_owned(),
            window: window(seconds),
        };
        let answer = monitor.raw_workers().get_worker_performance(request).await;
        refused(&mut suite, &what, answer, expected).await;
    }
}

#[tokio::test]
async fn names_that_nobody_has_are_not_found() {
    let mut suite = Suite::start().await;
    let monitor = suite.monitor();
    let cases = [
        ("nobody", (Code::NotFound, "WORKER_NOT_FOUND")),
        ("a b", (Code::InvalidArgument, "NAME_INVALID")),
        ("", (Code::InvalidArgument, "FIELD_MISSING")),
    ];
    for (worker, expected) in cases {
        let request = CheckWorkerHealthRequest {
            worker: worker.to_owned(),
        };
        let answer = monitor.raw_workers().check_worker_health(request).await;
        refused(
            &mut suite,
            &format!("health of {worker:?}"),
            answer,
            expected,
        )
        .await;
    }
    for (id, expected) in [
        ("1", (Code::InvalidArgument, "FIELD_INVALID")),
        (
            "01890a5d-ac96-774b-bcce-b302099a8057",
            (Code::NotFound, "TRANSACTION_NOT_FOUND"),
        ),
    ] {
        let request = GetTransactionTraceRequest {
            transaction_id: id.to_owned(),
        };
        let answer = monitor.raw_events().get_transaction_trace(request).await;
        refused(&mut suite, &format!("trace of {id:?}"), answer, expected).await;
    }
}

/// A good cursor of the suite's log, and what is wrong with each that is made of it.
fn bad_cursors(good: &str) -> [(String, Code, &'static str); 4] {
    let cursor = Cursor::parse(good).expect("a cursor");
    let foreign = Cursor {
        log_id: [7; 16],
        ..cursor
    };
    let future = Cursor {
        offset: cursor.offset + 1_000_000_000,
        ..cursor
    };
    [
        (
            "nonsense".to_owned(),
            Code::InvalidArgument,
            "CURSOR_INVALID",
        ),
        (
            good.replace(|c: char| c.is_ascii_digit(), "0"),
            Code::InvalidArgument,
            "CURSOR_INVALID",
        ),
        (
            foreign.to_string(),
            Code::FailedPrecondition,
            "CURSOR_FOREIGN",
        ),
        (future.to_string(), Code::DataLoss, "CURSOR_AHEAD"),
    ]
}

/// The error with which a stream ends.
async fn end<T>(
    stream: Result<tonic::Response<tonic::Streaming<T>>, Status>,
) -> Result<(), Status> {
    let mut stream = stream?.into_inner();
    while stream.message().await?.is_some() {}
    Ok(())
}

#[tokio::test]
async fn cursors_that_lead_nowhere_are_refused() {
    let mut suite = Suite::start().await;
    let client = suite.client();
    let mut log = client.read_log("", false).await.expect("the log opens");
    let good = log
        .message()
        .await
        .expect("it reads")
        .expect("a batch")
        .cursor;
    for (cursor, code, reason) in bad_cursors(&good) {
        let what = format!("the log's cursor {cursor}");
        let request = proto::wire::ReadEventsRequest {
            cursor,
            follow: false,
        };
        let channel = tests::raw::channel(suite.orchestrator.address());
        let mut client = proto::wire::event_log_service_client::EventLogServiceClient::new(channel);
        let end = end(client.read_events(request).await).await;
        refused(&mut suite, &what, end, (code, reason)).await;
    }

    let live = StreamEventsRequest {
        until_head: true,
        ..Default::default()
    };
    let feed = suite
        .monitor()
        .raw_events()
        .stream_events(live.clone())
        .await;
    let first = feed
        .expect("a feed")
        .into_inner()
        .message()
        .await
        .expect("it opens");
    let good = first.expect("a first message").cursor;
    for (cursor, code, reason) in bad_cursors(&good) {
        let what = format!("the feed's cursor {cursor}");
        let request = StreamEventsRequest {
            cursor,
            ..live.clone()
        };
        let end = end(suite.monitor().raw_events().stream_events(request).await).await;
        refused(&mut suite, &what, end, (code, reason)).await;
    }
}

#[tokio::test]
async fn filters_on_nonsense_are_refused_and_on_nothing_are_empty() {
    let mut suite = Suite::start().await;
    let filtered = |filter: EventFilter| StreamEventsRequest {
        start: proto::wire::FeedStart::Oldest.into(),
        until_head: true,
        filter: Some(filter),
        ..Default::default()
    };
    let bad = filtered(EventFilter {
        transaction_ids: vec!["1".into()],
        ..Default::default()
    });
    let end_of_bad = end(suite.monitor().raw_events().stream_events(bad).await).await;
    let expected = (Code::InvalidArgument, "FIELD_INVALID");
    refused(&mut suite, "a filter on no id", end_of_bad, expected).await;
    let nothing = filtered(EventFilter {
        workers: vec!["nobody".into()],
        ..Default::default()
    });
    let end_of_nothing = end(suite.monitor().raw_events().stream_events(nothing).await).await;
    assert!(end_of_nothing.is_ok(), "{end_of_nothing:?}");
    lives(&mut suite, "a filter on nothing").await;
}
