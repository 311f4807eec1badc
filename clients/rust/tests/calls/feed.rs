//! The feed: each event once, wherever the connection breaks.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures_core::Stream;
use multiagents_client::wire::event_monitor_service_server::{
    EventMonitorService, EventMonitorServiceServer,
};
use multiagents_client::wire::{self, stream_events_response::Message};
use multiagents_client::{FeedItem, Monitor};
use proptest::prelude::*;
use proto::error::{Problem, Reason};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// How one stream goes: so many messages, and then this end.
#[derive(Clone, Debug)]
struct Plan {
    messages: usize,
    end: Option<Status>,
}

/// Serves events 1, 2, 3, …, two in each message, and cuts the stream as planned.
#[derive(Clone, Default)]
struct Fake {
    plans: Arc<Mutex<VecDeque<Plan>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

/// The events of this log.
const EVENTS: u64 = 40;

#[tonic::async_trait]
impl EventMonitorService for Fake {
    type StreamEventsStream = Answers<wire::StreamEventsResponse>;
    type StreamUpdatesStream = Answers<wire::StreamUpdatesResponse>;
    type VerifyViewsStream = Answers<wire::VerifyViewsResponse>;

    async fn stream_events(
        &self,
        request: Request<wire::StreamEventsRequest>,
    ) -> Result<Response<Self::StreamEventsStream>, Status> {
        let request = request.into_inner();
        self.asked.lock().unwrap().push(request.cursor.clone());
        let mut at: u64 = match request.cursor.as_str() {
            "" => 0,
            cursor => cursor.parse().map_err(|_| {
                Status::from(Problem::field(
                    Reason::CursorInvalid,
                    "cursor",
                    "cursor is not one of this service",
                ))
            })?,
        };
        let plan = self.plans.lock().unwrap().pop_front();
        let mut messages = Vec::new();
        let mut opened = Some(Message::Opened(wire::FeedOpened { history: true }));
        let most = plan.as_ref().map_or(usize::MAX, |plan| plan.messages);
        while messages.len() < most && (opened.is_some() || at < EVENTS) {
            let message = opened.take().unwrap_or_else(|| {
                let events = (at + 1..=at + 2).map(|offset| wire::Event {
                    offset,
                    ..Default::default()
                });
                at += 2;
                Message::Events(wire::EventList {
                    events: events.collect(),
                })
            });
            messages.push(Ok(wire::StreamEventsResponse {
                message: Some(message),
                cursor: at.to_string(),
                lag_events: EVENTS - at,
            }));
        }
        messages.extend(plan.and_then(|plan| plan.end).map(Err));
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }

    async fn stream_updates(
        &self,
        _: Request<wire::StreamUpdatesRequest>,
    ) -> Result<Response<Self::StreamUpdatesStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_event_metrics(
        &self,
        _: Request<wire::GetEventMetricsRequest>,
    ) -> Result<Response<wire::GetEventMetricsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_transaction_trace(
        &self,
        _: Request<wire::GetTransactionTraceRequest>,
    ) -> Result<Response<wire::GetTransactionTraceResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_error_patterns(
        &self,
        _: Request<wire::GetErrorPatternsRequest>,
    ) -> Result<Response<wire::GetErrorPatternsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn verify_views(
        &self,
        _: Request<wire::VerifyViewsRequest>,
    ) -> Result<Response<Self::VerifyViewsStream>, Status> {
        Err(Status::unimplemented(""))
    }
}

impl Fake {
    async fn serve(&self) -> Monitor {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(EventMonitorServiceServer::new(self.clone()))
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Monitor::connect(&address).await.unwrap()
    }
}

fn broken() -> Status {
    Status::unavailable("the connection broke")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever the cuts, and whether a stream ends with a word or without: all events, in order,
    /// each once.
    #[test]
    fn a_feed_that_is_cut_anywhere_gives_each_event_once(
        cuts in prop::collection::vec((0_usize..6, any::<bool>()), 0..6)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(false)
            .build()
            .unwrap();
        let (events, openings, interruptions) = runtime.block_on(async {
            let fake = Fake::default();
            let plans = cuts.iter().map(|(messages, word)| Plan {
                messages: *messages,
                end: word.then(broken),
            });
            *fake.plans.lock().unwrap() = plans.collect();
            let monitor = fake.serve().await;
            // Time passes by itself, so that back-off costs nothing.
            tokio::time::pause();
            let mut feed = monitor.events(wire::StreamEventsRequest::default());
            let (mut events, mut openings, mut interruptions) = (Vec::new(), 0, 0);
            while events.len() < EVENTS as usize {
                let message = match feed.next().await {
                    Ok(message) => message.unwrap(),
                    // Cut before it was ever open, with a word: told, and asked for again.
                    Err(error) => {
                        assert!(error.is_unreachable() && openings == 0, "{error}");
                        interruptions += 1;
                        feed = monitor.events(wire::StreamEventsRequest::default());
                        continue;
                    }
                };
                match message.item {
                    FeedItem::Opened { history } => {
                        assert!(history);
                        openings += 1;
                    }
                    FeedItem::Events(list) => {
                        events.extend(list.iter().map(|event| event.offset));
                        assert_eq!(feed.cursor(), message.cursor);
                    }
                    FeedItem::Interrupted(error) => {
                        assert!(error.is_retryable(), "{error}");
                        interruptions += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
            (events, openings, interruptions)
        });
        prop_assert_eq!(events, (1..=EVENTS).collect::<Vec<_>>());
        prop_assert_eq!(openings, 1);
        prop_assert_eq!(interruptions, cuts.len());
    }
}

#[tokio::test]
async fn a_cursor_that_is_refused_is_an_error_and_not_tried_again() {
    let fake = Fake::default();
    let monitor = fake.serve().await;
    let mut feed = monitor.events(wire::StreamEventsRequest {
        cursor: "nonsense".into(),
        ..Default::default()
    });
    let error = feed.next().await.unwrap_err();
    assert_eq!(error.reason(), "CURSOR_INVALID");
    assert!(feed.next().await.unwrap().is_none());
    assert_eq!(fake.asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_feed_up_to_the_head_ends_there_and_one_that_follows_resumes_after_a_silent_end() {
    let fake = Fake::default();
    let monitor = fake.serve().await;
    let mut feed = monitor.events(wire::StreamEventsRequest {
        cursor: (EVENTS - 2).to_string(),
        until_head: true,
        ..Default::default()
    });
    let mut messages = 0;
    while feed.next().await.unwrap().is_some() {
        messages += 1;
    }
    assert_eq!(messages, 2);

    let mut feed = monitor.events(wire::StreamEventsRequest {
        cursor: (EVENTS - 2).to_string(),
        ..Default::default()
    });
    for _ in 0..2 {
        feed.next().await.unwrap();
    }
    let item = feed.next().await.unwrap().unwrap().item;
    assert!(matches!(item, FeedItem::Interrupted(_)), "{item:?}");
    assert_eq!(feed.cursor(), EVENTS.to_string());
}
