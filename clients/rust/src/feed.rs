//! The feed of events for a reader who wants each event once: when the connection breaks it
//! resumes at the last cursor that was handed over, with nothing lost and nothing twice.

use tonic::Streaming;

use crate::back_off::BackOff;
use crate::error::Error;
use crate::monitor::Monitor;
use crate::wire::{self, stream_events_response::Message};

/// A feed. It connects when it is first read.
#[derive(Debug)]
pub struct Feed {
    monitor: Monitor,
    request: wire::StreamEventsRequest,
    stream: Option<Streaming<wire::StreamEventsResponse>>,
    back_off: BackOff,
    /// True from the first message on: later openings are resumptions, and not told.
    opened: bool,
    /// True after an interruption was told: the next read waits and resumes.
    interrupted: Option<std::time::Duration>,
    ended: bool,
}

/// One message of a feed.
#[derive(Clone, Debug)]
pub struct FeedMessage {
    /// What it is.
    pub item: FeedItem,
    /// Resume after this message; empty only before the feed was first open.
    pub cursor: String,
    /// How many events the feed is behind the head of the monitor's log.
    pub lag_events: u64,
}

/// What a feed has to say.
#[derive(Clone, Debug)]
pub enum FeedItem {
    /// The feed is open; with `history` what was comes first.
    Opened {
        /// Whether history comes first.
        history: bool,
    },
    /// Events in the order of the log.
    Events(Vec<wire::Event>),
    /// Events that can no longer be had.
    Gap(wire::Gap),
    /// Nothing matched for a while; the cursor has moved all the same.
    Heartbeat,
    /// The connection broke; the next read resumes.
    Interrupted(Error),
}

impl Feed {
    pub(crate) fn new(monitor: Monitor, request: wire::StreamEventsRequest) -> Self {
        Self {
            monitor,
            request,
            stream: None,
            back_off: BackOff::default(),
            opened: false,
            interrupted: None,
            ended: false,
        }
    }

    /// Where to resume after what was read so far.
    pub fn cursor(&self) -> &str {
        &self.request.cursor
    }

    /// The next message; None at the end of a feed that was asked to end at the head. May be dropped
    /// half-way: nothing is lost.
    ///
    /// # Errors
    /// A refusal that resuming can't mend, or a monitor that was not there from the start.
    pub async fn next(&mut self) -> Result<Option<FeedMessage>, Error> {
        loop {
            if self.ended {
                return Ok(None);
            }
            if let Some(delay) = self.interrupted {
                tokio::time::sleep(delay).await;
                self.interrupted = None;
            }
            let read = match &mut self.stream {
                Some(stream) => stream.message().await,
                None => {
                    let request = self.request.clone();
                    match self.monitor.raw_events().stream_events(request).await {
                        Ok(stream) => {
                            self.stream = Some(stream.into_inner());
                            continue;
                        }
                        Err(status) => Err(status),
                    }
                }
            };
            match read {
                Ok(Some(message)) => {
                    if let Some(message) = self.take(message) {
                        return Ok(Some(message));
                    }
                }
                Ok(None) if self.request.until_head => {
                    self.ended = true;
                    return Ok(None);
                }
                // A server that stops in order ends the stream without a word.
                Ok(None) => {
                    return Ok(Some(self.interrupt(tonic::Status::unavailable(
                        "the monitor ended the feed",
                    ))));
                }
                Err(status) => {
                    let error = self.monitor.refused(&status);
                    if !error.is_retryable() {
                        self.ended = true;
                        return Err(error);
                    }
                    // Who was never connected is told that, instead of waiting for ever.
                    if !self.opened && error.is_unreachable() {
                        return Err(error);
                    }
                    return Ok(Some(self.interrupt(status)));
                }
            }
        }
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "the status ends here; its callers made it for this"
    )]
    fn interrupt(&mut self, status: tonic::Status) -> FeedMessage {
        let error = self.monitor.refused(&status);
        self.stream = None;
        self.interrupted = Some(error.retry_after().unwrap_or_else(|| self.back_off.delay()));
        FeedMessage {
            item: FeedItem::Interrupted(error),
            cursor: self.request.cursor.clone(),
            lag_events: 0,
        }
    }

    /// What a message means to the reader; None for what only this side needs.
    fn take(&mut self, message: wire::StreamEventsResponse) -> Option<FeedMessage> {
        self.back_off.reset();
        if !message.cursor.is_empty() {
            self.request.cursor.clone_from(&message.cursor);
        }
        let item = match message.message? {
            Message::Opened(_) if self.opened => return None,
            Message::Opened(opened) => {
                self.opened = true;
                FeedItem::Opened {
                    history: opened.history,
                }
            }
            Message::Events(list) => FeedItem::Events(list.events),
            Message::Gap(gap) => FeedItem::Gap(gap),
            Message::Heartbeat(_) => FeedItem::Heartbeat,
        };
        Some(FeedMessage {
            item,
            cursor: message.cursor,
            lag_events: message.lag_events,
        })
    }
}
