//! ExecuteWorkflows: starts of a stream, each answered for itself, in the order in which things
//! happen.
//!
//! One task reads and checks; answers are what the driver lets out, written when the stream's client
//! takes them. A start costs a place from its request to its last answer, so that no stream holds more
//! than its share.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use kit::{UnreadBytes, UnreadCounter};
use proto::error::{Problem, code};
use proto::wire;
use proto::write::{Output, Rope, message, number, text, value};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::Stream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Status, Streaming};

use super::service::Orchestrator;
use super::starts::{Checked, Executed};
use super::written::Written;
use crate::inbox::{LookedUp, StartReply, Started, stopping};
use crate::store::Row;

/// A start of a stream, until its last answer.
#[derive(Debug)]
pub(crate) struct StreamedStart {
    request_id: u64,
    form: wire::PayloadForm,
    answers: mpsc::Sender<Said>,
    unread: Option<UnreadCounter>,
    refused: AtomicBool,
    /// Of the stream, and for those that wait for the end.
    places: (Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>),
}

/// What the stream is to say next. Payloads count until it is said.
#[derive(Debug)]
enum Said {
    /// A start is durable, or has ended, or was refused.
    Of(
        Arc<StreamedStart>,
        Moment,
        Result<Started, Problem>,
        Option<UnreadBytes>,
    ),
    /// An answer that took a look into state.db.
    Whole(Arc<StreamedStart>, Moment, Executed, Option<UnreadBytes>),
    /// A request was no start; it takes its place until that is said.
    Refused(u64, Problem, Option<OwnedSemaphorePermit>),
    /// The stream ends.
    Last(Status),
}

/// What an answer is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The start.
    Started,
    /// The end.
    Ended,
}

impl StreamedStart {
    /// Answers it.
    pub(crate) fn answer(self: Arc<Self>, moment: Moment, answer: Result<Started, Problem>) {
        // What is lost with its batch loses start and end, and is refused once.
        if answer.is_err() && self.refused.swap(true, Ordering::Relaxed) {
            return;
        }
        let view = answer
            .as_ref()
            .ok()
            .and_then(|started| started.view.as_ref());
        let unread = view.and_then(|view| self.unread(moment, &view.row));
        let answers = self.answers.clone();
        // Who went away doesn't mind.
        let _ = answers.try_send(Said::Of(self, moment, answer, unread));
    }

    /// What the stream holds with a row until it says it.
    fn unread(&self, moment: Moment, row: &Row) -> Option<UnreadBytes> {
        let unread = self.unread.as_ref().filter(|_| moment == Moment::Ended)?;
        Some(unread.count(row.payload_bytes()))
    }

    /// Whether nobody reads its answers any more.
    pub(crate) fn is_deserted(&self) -> bool {
        self.answers.is_closed()
    }
}

impl Orchestrator {
    /// Answers each start of a stream.
    pub(super) fn execute_many(
        this: &Arc<Self>,
        requests: Streaming<wire::ExecuteWorkflowsRequest>,
        trace_parent: String,
        unread: Option<UnreadCounter>,
    ) -> Answers {
        let starts_max = this.config.waiting.stream_starts_max;
        // Room for both answers of every start that has a place, and for the last word.
        let (answers, said) = mpsc::channel(2 * starts_max + 1);
        let reading = Reading {
            orchestrator: this.clone(),
            trace_parent,
            places: Arc::new(Semaphore::new(starts_max)),
            unread,
            answers,
        };
        tokio::spawn(reading.run(requests));
        Answers {
            orchestrator: this.clone(),
            said,
            stopped: Box::pin(this.shutdown.clone().cancelled_owned()),
        }
    }
}

/// The side that reads requests.
struct Reading {
    orchestrator: Arc<Orchestrator>,
    trace_parent: String,
    places: Arc<Semaphore>,
    unread: Option<UnreadCounter>,
    answers: mpsc::Sender<Said>,
}

impl Reading {
    /// Until there are no more, or nobody hears the answers.
    async fn run(self, mut requests: Streaming<wire::ExecuteWorkflowsRequest>) {
        let answers = self.answers.clone();
        let mut deserted = std::pin::pin!(answers.closed());
        loop {
            let message = tokio::select! {
                biased;
                message = requests.message() => message,
                () = &mut deserted => return,
            };
            let request = match message {
                Ok(Some(request)) => request,
                Ok(None) => return,
                Err(status) => {
                    // Who went away needs no last word.
                    let _ = self.answers.try_send(Said::Last(status));
                    return;
                }
            };
            let Ok(place) = self.places.clone().acquire_owned().await else {
                return;
            };
            let (request_id, mut place) = (request.request_id, Some(place));
            if let Err(problem) = self.start(request, &mut place) {
                let refused = Said::Refused(request_id, problem, place);
                // Who went away doesn't mind.
                let _ = self.answers.try_send(refused);
            }
        }
    }

    fn start(
        &self,
        request: wire::ExecuteWorkflowsRequest,
        place: &mut Option<OwnedSemaphorePermit>,
    ) -> Result<(), Problem> {
        let start = request.start.ok_or_else(|| Problem::missing("start"))?;
        let checked = (self.orchestrator).check(start, self.trace_parent.clone())?;
        // A wait of any length asks for the end.
        let until_end = checked.wait.is_some();
        let waiting = until_end.then(|| self.orchestrator.place_to_wait());
        let waiting = waiting.transpose()?;
        let start = Arc::new(StreamedStart {
            request_id: request.request_id,
            form: checked.form,
            answers: self.answers.clone(),
            unread: self.unread.clone(),
            refused: AtomicBool::new(false),
            places: (place.take(), waiting),
        });
        if checked.has_key() {
            // The key is looked up, which the stream's next requests need not wait for.
            let orchestrator = self.orchestrator.clone();
            tokio::spawn(async move {
                let begun = orchestrator
                    .begin_streamed(checked, until_end, &start)
                    .await;
                if let Err(problem) = begun {
                    start.answer(Moment::Started, Err(problem));
                }
            });
            return Ok(());
        }
        let reply = StartReply::Streamed(start.clone());
        let begun = (self.orchestrator).begin(checked, LookedUp::default(), until_end, reply);
        if let Err(problem) = begun {
            start.answer(Moment::Started, Err(problem));
        }
        Ok(())
    }
}

impl Orchestrator {
    async fn begin_streamed(
        &self,
        checked: Checked,
        until_end: bool,
        start: &Arc<StreamedStart>,
    ) -> Result<(), Problem> {
        let looked_up = self.look_up(&checked).await?;
        self.begin(
            checked,
            looked_up,
            until_end,
            StartReply::Streamed(start.clone()),
        )
    }

    /// The answers to a start whose key named a transaction that was there already.
    async fn answer_existing(
        &self,
        start: &Arc<StreamedStart>,
        started: Started,
    ) -> Result<(), Problem> {
        let say = |moment, mut executed: Executed| {
            let unread = start.unread(moment, &executed.row);
            // Others may be read from state.db, however long this one waits here.
            executed.in_hand = None;
            // Who went away doesn't mind.
            let _ = (start.answers).try_send(Said::Whole(start.clone(), moment, executed, unread));
        };
        let first = self.executed(started.clone(), None).await?;
        say(Moment::Started, first);
        if start.places.1.is_none() {
            return Ok(());
        }
        let ended = self.end_of(started, None).await?;
        let last = self.executed(ended, Some(start.form)).await?;
        say(Moment::Ended, last);
        Ok(())
    }
}

/// The stream's answers.
pub(crate) struct Answers {
    orchestrator: Arc<Orchestrator>,
    said: mpsc::Receiver<Said>,
    /// The orchestrator stops: whoever waits for an end waits no longer.
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// An answer on its way out.
pub(crate) struct Answer {
    request_id: u64,
    what: Result<(Moment, Executed), Problem>,
}

impl Stream for Answers {
    type Item = Result<Answer, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let Poll::Ready(said) = self.said.poll_recv(context) else {
                ready!(self.stopped.as_mut().poll(context));
                return Poll::Ready(Some(Err(stopping().into())));
            };
            let answer = match said {
                None => return Poll::Ready(None),
                Some(Said::Last(status)) => return Poll::Ready(Some(Err(status))),
                Some(Said::Refused(request_id, problem, place)) => {
                    drop(place);
                    Answer {
                        request_id,
                        what: Err(problem),
                    }
                }
                Some(Said::Whole(start, moment, executed, unread)) => {
                    drop(unread);
                    Answer {
                        request_id: start.request_id,
                        what: Ok((moment, executed)),
                    }
                }
                Some(Said::Of(
                    start,
                    moment,
                    Ok(Started {
                        existing: false,
                        view: Some(view),
                        ..
                    }),
                    unread,
                )) => {
                    drop(unread);
                    let form = (moment == Moment::Ended).then_some(start.form);
                    let executed = self.orchestrator.shown(view, false, form);
                    Answer {
                        request_id: start.request_id,
                        what: Ok((moment, executed)),
                    }
                }
                Some(Said::Of(start, _, Ok(started), _)) => {
                    let orchestrator = self.orchestrator.clone();
                    tokio::spawn(async move {
                        let answered = orchestrator.answer_existing(&start, started).await;
                        if let Err(problem) = answered {
                            start.answer(Moment::Ended, Err(problem));
                        }
                    });
                    continue;
                }
                Some(Said::Of(start, _, Err(problem), _)) => Answer {
                    request_id: start.request_id,
                    what: Err(problem),
                },
            };
            return Poll::Ready(Some(Ok(answer)));
        }
    }
}

impl Answer {
    /// Writes an `ExecuteWorkflowsResponse`.
    pub(super) fn write(&self, out: &mut impl Output) {
        number(out, 1, self.request_id);
        match &self.what {
            Ok((moment, executed)) => {
                let tag = match moment {
                    Moment::Started => 2,
                    Moment::Ended => 3,
                };
                message(out, tag, |out| executed.write(out));
            }
            Err(problem) => message(out, 4, |out| {
                value(out, 1, code(problem.reason));
                text(out, 2, problem.reason_word());
                text(out, 3, &problem.message);
            }),
        }
    }
}

impl Written for Answer {
    fn put(self, out: &mut Rope) {
        self.write(out);
    }
}
