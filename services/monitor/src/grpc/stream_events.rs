//! StreamEvents: one subscriber's way through the feed.
//!
//! A subscriber holds nothing but a position and one message: when its client is slow it waits, and
//! reads on from the ring or from the log. Nobody else notices.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use eventlog::ReadError;
use proto::batch::Stored;
use proto::convert::{duration_to_us, to_full};
use proto::cursor::Cursor;
use proto::error::{Problem, Reason};
use proto::event::Kind;
use proto::id::{TransactionId, WorkerName, WorkflowName, check_name};
use proto::lifecycle::stage;
use proto::wire;
use proto::wire::stream_events_response::Message;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::Answers;
use crate::feed::{Feed, FeedError, Taken};
use crate::fold::What;

/// Events are gathered for so long after a message: messages are what costs.
const GATHER: Duration = Duration::from_millis(3);
/// A sign of life comes after so long without an event; the contract says under 15 s.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Messages that wait for a slow client.
const MESSAGES_MAX: usize = 2;
const INTERVAL_MAX_US: u64 = 10_000_000;
const FILTER_VALUES_MAX: usize = 1_000;

type Answer = Result<wire::StreamEventsResponse, Status>;

/// Opens a feed for one subscriber.
pub(super) fn open(
    answers: &Answers,
    request: wire::StreamEventsRequest,
) -> Result<ReceiverStream<Answer>, Problem> {
    let filter = Filter::parse(request.filter.unwrap_or_default())?;
    let interval = match &request.min_interval {
        None => GATHER,
        Some(interval) => {
            let us = duration_to_us("min_interval", interval, 0, INTERVAL_MAX_US)?;
            Duration::from_micros(us).max(GATHER)
        }
    };
    let skip = match wire::OnSlow::try_from(request.on_slow) {
        Ok(wire::OnSlow::Unspecified | wire::OnSlow::CatchUp) => false,
        Ok(wire::OnSlow::Skip) => true,
        Err(_) => return Err(unknown("on_slow", request.on_slow)),
    };
    let bounds = answers.feed.reader().bounds();
    let head = *answers.feed.head().borrow();
    let from_oldest = match wire::FeedStart::try_from(request.start) {
        Ok(wire::FeedStart::Unspecified | wire::FeedStart::Live) => false,
        Ok(wire::FeedStart::Oldest) => true,
        Err(_) => return Err(unknown("start", request.start)),
    };
    let position = if request.cursor.is_empty() {
        if from_oldest { bounds.oldest } else { head }
    } else {
        resume(answers, &request.cursor)?
    };
    let place = answers.feed.admit().ok_or_else(|| {
        let message = format!(
            "there are {} subscribers, as many as limits.max_subscribers allows; raise it, or come \
             back later",
            answers.limits.max_subscribers
        );
        Problem::new(Reason::SubscribersLimit, message).retry_after(Duration::from_secs(5))
    })?;
    let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
    let subscriber = Subscriber {
        feed: answers.feed.clone(),
        filter,
        position,
        history: position < head,
        skip,
        until: request.until_head.then_some(head),
        interval,
        events_max: answers.limits.message_events_max,
        log_id: bounds.log_id,
        epoch: bounds.epoch,
        sender,
        shutdown: answers.shutdown.clone(),
        _place: place,
    };
    tokio::spawn(subscriber.run());
    Ok(ReceiverStream::new(receiver))
}

/// The position that a cursor stands for.
fn resume(answers: &Answers, text: &str) -> Result<u64, Problem> {
    let cursor = Cursor::parse(text)?;
    let bounds = answers.feed.reader().bounds();
    if cursor.log_id != bounds.log_id || cursor.partition != 0 {
        return Err(Problem::field(
            Reason::CursorForeign,
            "cursor",
            "cursor is of another log than this monitor's; begin anew without a cursor",
        ));
    }
    let known = answers.fresh.views().current();
    let lost = cursor.offset > bounds.next
        || cursor.epoch > bounds.epoch
        || !known.sources.still_there(cursor.epoch, cursor.offset);
    if lost {
        return Err(Problem::field(
            Reason::CursorAhead,
            "cursor",
            format!(
                "cursor is at {}, and the monitor's log lost what was there in a crash; begin anew \
                 without a cursor",
                cursor.offset
            ),
        ));
    }
    Ok(cursor.offset)
}

fn unknown(field: &str, value: i32) -> Problem {
    let message = format!("{field} is {value}, which is none of its values");
    Problem::field(Reason::FieldInvalid, field, message)
}

/// Which events a subscriber gets: those that match each list that isn't empty.
#[derive(Debug, Default)]
struct Filter {
    transactions: BTreeSet<[u8; 16]>,
    workflows: BTreeSet<String>,
    workers: BTreeSet<String>,
    stages: BTreeSet<i32>,
    types: BTreeSet<i32>,
}

impl Filter {
    fn parse(filter: wire::EventFilter) -> Result<Self, Problem> {
        let values = filter.transaction_ids.len()
            + filter.workflows.len()
            + filter.workers.len()
            + filter.stages.len()
            + filter.types.len();
        if values > FILTER_VALUES_MAX {
            return Err(Problem::field(
                Reason::FieldOutOfRange,
                "filter",
                format!("filter has {values} values; at most {FILTER_VALUES_MAX} are allowed"),
            ));
        }
        let mut transactions = BTreeSet::new();
        for text in &filter.transaction_ids {
            let id = TransactionId::parse(text).map_err(|problem| problem.within("filter."))?;
            transactions.insert(id.0);
        }
        for (field, names) in [
            ("filter.workflows", &filter.workflows),
            ("filter.workers", &filter.workers),
        ] {
            names.iter().try_for_each(|name| check_name(field, name))?;
        }
        for number in &filter.stages {
            if wire::Stage::try_from(*number).unwrap_or_default() == wire::Stage::Unspecified {
                return Err(unknown("filter.stages", *number));
            }
        }
        for number in &filter.types {
            let known = wire::EventType::try_from(*number).unwrap_or_default();
            if known == wire::EventType::Unspecified {
                return Err(unknown("filter.types", *number));
            }
        }
        Ok(Self {
            transactions,
            workflows: filter.workflows.into_iter().collect(),
            workers: filter.workers.into_iter().collect(),
            stages: filter.stages.into_iter().collect(),
            types: filter.types.into_iter().collect(),
        })
    }

    fn matches(&self, stored: &Stored) -> bool {
        let event = &stored.event;
        let at_stage = match &event.kind {
            Kind::Command { what, .. } => Some(stage(what) as i32),
            _ => None,
        };
        let among = |set: &BTreeSet<String>, name: Option<&str>| {
            set.is_empty() || name.is_some_and(|name| set.contains(name))
        };
        let transaction = event.transaction();
        let of_transaction = self.transactions.is_empty()
            || transaction.is_some_and(|id| self.transactions.contains(&id.0));
        let at_stage =
            self.stages.is_empty() || at_stage.is_some_and(|stage| self.stages.contains(&stage));
        of_transaction
            && at_stage
            && among(&self.workflows, event.workflow().map(WorkflowName::as_str))
            && among(&self.workers, event.worker().map(WorkerName::as_str))
            && (self.types.is_empty() || self.types.contains(&(event.event_type() as i32)))
    }
}

struct Subscriber {
    feed: Arc<Feed>,
    filter: Filter,
    /// All before it was sent or didn't match.
    position: u64,
    history: bool,
    skip: bool,
    /// Where the feed ends, if it ends by itself.
    until: Option<u64>,
    interval: Duration,
    events_max: usize,
    log_id: [u8; 16],
    epoch: u64,
    sender: mpsc::Sender<Answer>,
    shutdown: CancellationToken,
    _place: OwnedSemaphorePermit,
}

/// The client is gone, or the monitor stops.
struct Over;

impl Subscriber {
    async fn run(mut self) {
        // Either way there is nobody to tell.
        let _: Result<(), Over> = self.follow().await;
        if self.shutdown.is_cancelled() {
            let message = "the monitor is stopping; resume at the last cursor";
            let status = Problem::new(Reason::ShuttingDown, message).into();
            let _ = self.sender.try_send(Err(status));
        }
    }

    async fn follow(&mut self) -> Result<(), Over> {
        let mut head = self.feed.head();
        self.send(Message::Opened(wire::FeedOpened {
            history: self.history,
        }))
        .await?;
        let mut sent = Instant::now();
        loop {
            let end = *head.borrow_and_update();
            if self.until.is_some_and(|until| self.position >= until) {
                return Ok(());
            }
            if self.position >= end {
                tokio::select! {
                    () = self.shutdown.cancelled() => return Err(Over),
                    () = self.sender.closed() => return Err(Over),
                    () = sleep_until(sent + HEARTBEAT) => {
                        self.send(Message::Heartbeat(wire::FeedHeartbeat {})).await?;
                        sent = Instant::now();
                    }
                    changed = head.changed() => changed.map_err(|_| Over)?,
                }
                continue;
            }
            self.gather(sent).await?;
            if self.skip && self.position < self.feed.ring_begins() {
                let live = *self.feed.head().borrow();
                self.gap(live, "skipped").await?;
                sent = Instant::now();
                continue;
            }
            let events = match self.next_events().await {
                Ok(events) => events,
                Err(FeedError::Read(ReadError::Trimmed { oldest, .. })) => {
                    self.gap(oldest, "trimmed").await?;
                    sent = Instant::now();
                    continue;
                }
                Err(error) => {
                    tracing::error!(%error, position = self.position, "a feed can't go on");
                    let status = Problem::new(Reason::LogDamaged, error.to_string()).into();
                    let _ = self.sender.send(Err(status)).await;
                    return Err(Over);
                }
            };
            if !events.is_empty() {
                self.send(Message::Events(wire::EventList { events }))
                    .await?;
                sent = Instant::now();
            } else if sent.elapsed() >= HEARTBEAT {
                self.send(Message::Heartbeat(wire::FeedHeartbeat {}))
                    .await?;
                sent = Instant::now();
            }
        }
    }

    /// Lets a message's worth of events pile up: at once when the feed was quiet.
    async fn gather(&self, sent: Instant) -> Result<(), Over> {
        if self.interval <= GATHER && self.history_is_far() {
            return Ok(());
        }
        tokio::select! {
            () = self.shutdown.cancelled() => Err(Over),
            () = self.sender.closed() => Err(Over),
            () = sleep_until(sent + self.interval) => Ok(()),
        }
    }

    /// Whether more waits than a message holds: then there is nothing to gather.
    fn history_is_far(&self) -> bool {
        let behind = self.feed.head().borrow().saturating_sub(self.position);
        behind > self.events_max as u64
    }

    /// The matching events of what comes next; moves the position over all that was looked at.
    async fn next_events(&mut self) -> Result<Vec<wire::Event>, FeedError> {
        let mut events = Vec::new();
        for taken in self.feed.read(self.position).await? {
            if !self.look(&taken, &mut events) {
                break;
            }
        }
        Ok(events)
    }

    /// Looks at one record; false when the message is full or the feed is at its end.
    fn look(&mut self, taken: &Taken, events: &mut Vec<wire::Event>) -> bool {
        let until = self.until.unwrap_or(u64::MAX);
        for entry in &taken.entries {
            if entry.end() <= self.position {
                continue;
            }
            if let What::Events(of_source) = &entry.what {
                for stored in &of_source.events {
                    let position = entry.position_of(stored);
                    if position < self.position {
                        continue;
                    }
                    if position >= until {
                        self.position = until;
                        return false;
                    }
                    if !self.filter.matches(stored) {
                        continue;
                    }
                    if events.len() >= self.events_max {
                        self.position = position;
                        return false;
                    }
                    events.push(to_full(stored));
                }
            }
            self.position = entry.end().min(until.max(self.position));
        }
        self.position < until
    }

    async fn gap(&mut self, to: u64, reason: &str) -> Result<(), Over> {
        let from = self.position;
        self.position = to.max(from);
        let gap = wire::Gap {
            from_cursor: self.cursor(from),
            to_cursor: self.cursor(self.position),
            count: self.position - from,
            reason: reason.to_owned(),
        };
        self.send(Message::Gap(gap)).await
    }

    fn cursor(&self, offset: u64) -> String {
        Cursor {
            log_id: self.log_id,
            epoch: self.epoch,
            partition: 0,
            offset,
        }
        .to_string()
    }

    async fn send(&self, message: Message) -> Result<(), Over> {
        let head = *self.feed.head().borrow();
        let answer = wire::StreamEventsResponse {
            message: Some(message),
            cursor: self.cursor(self.position),
            lag_events: head.saturating_sub(self.position),
        };
        tokio::select! {
            () = self.shutdown.cancelled() => Err(Over),
            sent = self.sender.send(Ok(answer)) => sent.map_err(|_| Over),
        }
    }
}
