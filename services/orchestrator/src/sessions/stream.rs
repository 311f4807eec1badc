//! The thin shell around a host's streams: parses what comes, item by item, and passes it on.
//!
//! A bad item is refused and ends nothing; a bad message ends its session. Nothing here decides
//! what a result means, and a heartbeat never waits for the driver.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use proto::convert::measured_us;
use proto::error::{Problem, Reason};
use proto::event::Failure;
use proto::id::{CommandId, HostId, WorkerName, check_name, shown};
use proto::lifecycle::Stage;
use proto::payload::kept;
use proto::wire;
use proto::wire::command_result::Outcome;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Status, Streaming};

use super::line::{Closing, Lease, Line};
use super::table::Session;
use crate::config;
use crate::engine::{ResultOutcome, checked_result};
use crate::inbox::{Announced, HostResult, Inbox, Input, Said, stopping};

/// How long a new stream may take to announce itself.
const ANNOUNCEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// Commands that a host may say it still has.
const HELD_MAX: usize = 100_000;
/// The longest name of a machine and of a version, in bytes.
const TEXT_BYTES_MAX: usize = 256;
/// The longest message and detail of a failure, in bytes; the contract says so.
const MESSAGE_BYTES_MAX: usize = 4 << 10;
const DETAIL_BYTES_MAX: usize = 16 << 10;
/// What can't be a command's name is recorded up to here.
const COMMAND_BYTES_SHOWN: usize = 256;

/// One stream of one host.
pub(crate) struct Connection {
    pub(super) inbox: Inbox,
    pub(crate) line: Arc<Line>,
    pub(super) lease: Arc<Lease>,
    pub(super) limits: config::Sessions,
    pub(super) payload_bytes_max: usize,
}

impl Connection {
    /// Until the host or the orchestrator ends it. The error is its last word.
    pub(super) async fn run(
        &self,
        stream: &mut Streaming<wire::ConnectRequest>,
    ) -> Result<(), Problem> {
        let first = tokio::time::timeout(ANNOUNCEMENT_TIMEOUT, stream.message()).await;
        match first {
            Ok(Ok(Some(first))) => self.session(first, stream).await,
            Ok(Ok(None)) => Ok(()),
            Ok(Err(status)) => Err(broken(&status)),
            Err(_) => Err(announce_first("said nothing for 10 s")),
        }
    }

    /// A session, from its first message to its end.
    pub(crate) async fn session(
        &self,
        mut first: wire::ConnectRequest,
        stream: &mut (impl Stream<Item = Result<wire::ConnectRequest, Status>> + Unpin),
    ) -> Result<(), Problem> {
        let announce = first
            .announce
            .take()
            .ok_or_else(|| announce_first("spoke before it announced itself"))?;
        let (announced, host) = self.check(announce)?;
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.inbox
            .request(Input::Announced(Box::new(Announced { reply, ..announced })))?;
        // The driver may welcome the host just as the host goes: then the stream's end is told below.
        let session = answer.await.unwrap_or_else(|_| Err(stopping()))?;
        let closing = Closing {
            inbox: self.inbox.clone(),
            host: host.clone(),
            session,
        };
        let said = tokio::select! {
            biased;
            () = self.line.is_cut() => Ok(()),
            said = self.listen(first, stream, &host, session) => said,
        };
        drop(closing);
        said
    }

    async fn listen(
        &self,
        first: wire::ConnectRequest,
        stream: &mut (impl Stream<Item = Result<wire::ConnectRequest, Status>> + Unpin),
        host: &HostId,
        session: Session,
    ) -> Result<(), Problem> {
        let mut message = first;
        loop {
            if message.announce.is_some() {
                return Err(Problem::field(
                    Reason::FieldInvalid,
                    "announce",
                    "announce belongs in the first message of a session, and nowhere else",
                ));
            }
            let said = self.said(message)?;
            if !said.is_empty() {
                let (host, said) = (host.clone(), said);
                self.inbox
                    .tell(Input::Said {
                        host,
                        session,
                        said,
                    })
                    .await?;
            }
            message = match stream.next().await {
                Some(Ok(message)) => message,
                None => return Ok(()),
                Some(Err(status)) => return Err(broken(&status)),
            };
        }
    }

    /// The announcement in its strict form.
    fn check(&self, announce: wire::Announce) -> Result<(Announced, HostId), Problem> {
        let host =
            HostId::parse(&announce.host_id).map_err(|problem| problem.within("announce."))?;
        if announce.workers.is_empty() {
            return Err(Problem::missing("announce.workers"));
        }
        let most = self.limits.max_workers_per_host;
        if announce.workers.len() > most {
            return Err(Problem::field(
                Reason::FieldOutOfRange,
                "announce.workers",
                format!(
                    "announce.workers has {} entries; at most {most} are allowed",
                    announce.workers.len()
                ),
            ));
        }
        let mut seen = HashSet::new();
        let mut workers = Vec::with_capacity(announce.workers.len());
        for (at, offered) in announce.workers.iter().enumerate() {
            let place = format!("announce.workers[{at}].");
            let worker =
                WorkerName::parse(&offered.worker).map_err(|problem| problem.within(&place))?;
            let most = self.limits.max_slots_per_worker;
            if !(1..=most).contains(&offered.slots) {
                let field = format!("{place}slots");
                return Err(Problem::field(
                    Reason::FieldOutOfRange,
                    &field,
                    format!("{field} is {}; it must be 1 to {most}", offered.slots),
                ));
            }
            if !seen.insert(worker.clone()) {
                let field = format!("{place}worker");
                return Err(Problem::field(
                    Reason::FieldInvalid,
                    &field,
                    format!(
                        "{field} is \"{worker}\", which stands there twice; offer each worker once"
                    ),
                ));
            }
            workers.push((worker, offered.slots));
        }
        if announce.held_command_ids.len() > HELD_MAX {
            return Err(Problem::field(
                Reason::FieldOutOfRange,
                "announce.held_command_ids",
                format!("announce.held_command_ids has more than {HELD_MAX} entries"),
            ));
        }
        let mut held = Vec::new();
        let mut held_nameless = Vec::new();
        for text in announce.held_command_ids {
            match text.parse() {
                Ok(id) => held.push(id),
                Err(_) => held_nameless.push(text),
            }
        }
        let (reply, _) = tokio::sync::oneshot::channel();
        let announced = Announced {
            host: host.clone(),
            workers,
            machine: cut(announce.machine, TEXT_BYTES_MAX),
            version: cut(announce.version, TEXT_BYTES_MAX),
            held,
            held_nameless,
            remembers_bytes_max: announce
                .remembers_bytes_max
                .min(self.limits.remembers_bytes_max.0),
            line: self.line.clone(),
            lease: self.lease.clone(),
            reply,
        };
        Ok((announced, host))
    }

    /// A message in its strict form, item by item.
    fn said(&self, message: wire::ConnectRequest) -> Result<Said, Problem> {
        let items = message.results.len() + message.progress.len() + message.samples.len();
        if items > self.limits.max_items_per_message {
            return Err(Problem::field(
                Reason::FieldOutOfRange,
                "results",
                format!(
                    "the message has {items} items; at most {} are allowed",
                    self.limits.max_items_per_message
                ),
            ));
        }
        let mut said = Said {
            draining: message.draining,
            ..Said::default()
        };
        let alone = items == 1;
        said.results.reserve(message.results.len());
        for result in message.results {
            match result.command_id.parse() {
                Ok(command) => said.results.push(self.result(command, result, alone)),
                Err(_) => said.nameless.push(result.command_id),
            }
        }
        // What only watches is not worth a refusal.
        said.progress
            .extend(message.progress.iter().filter_map(|progress| {
                let stage = Stage::try_from(progress.stage).ok()?;
                matches!(stage, Stage::PickedUp | Stage::Processing)
                    .then(|| Some((progress.command_id.parse::<CommandId>().ok()?, stage)))
                    .flatten()
            }));
        said.samples = message.samples.into_iter().map(sample).collect();
        Ok(said)
    }

    fn result(&self, command: CommandId, result: wire::CommandResult, alone: bool) -> HostResult {
        let (outcome, problem) = match result.outcome {
            Some(Outcome::CompletedJson(json)) => {
                checked_result(kept(json, alone), self.payload_bytes_max)
            }
            Some(Outcome::Failed(error)) => (
                ResultOutcome::Failed {
                    failure: failure(error.failure.unwrap_or_default()),
                    not_retryable: error.not_retryable,
                },
                None,
            ),
            Some(Outcome::TimedOut(_)) => (ResultOutcome::TimedOut, None),
            Some(Outcome::Cancelled(_)) => (ResultOutcome::Cancelled, None),
            None => (
                ResultOutcome::Failed {
                    failure: Failure {
                        kind: "InvalidResult".to_owned(),
                        message: "the host sent a result without an outcome".to_owned(),
                        detail: String::new(),
                    },
                    not_retryable: false,
                },
                None,
            ),
        };
        HostResult {
            command,
            command_id: result.command_id,
            began: result.began,
            outcome,
            problem,
            wait_us: measured_us(result.wait.as_ref()),
            run_us: measured_us(result.run.as_ref()),
        }
    }
}

impl Said {
    fn is_empty(&self) -> bool {
        self.results.is_empty()
            && self.progress.is_empty()
            && self.nameless.is_empty()
            && self.samples.is_empty()
            && !self.draining
    }
}

fn announce_first(what: &str) -> Problem {
    Problem::new(
        Reason::AnnounceFirst,
        format!("the host {what}; the first message of a session must have `announce`"),
    )
}

/// The stream broke: its status, with a reason, in case the host still hears it.
fn broken(status: &Status) -> Problem {
    let reason = match status.code() {
        tonic::Code::OutOfRange | tonic::Code::ResourceExhausted => Reason::MessageTooLarge,
        tonic::Code::Internal | tonic::Code::InvalidArgument => Reason::MessageMalformed,
        _ => Reason::CallCancelled,
    };
    Problem::new(reason, shown(status.message(), 512))
}

/// Text that a host chose, cut to whole characters.
fn cut(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        let end = (0..=bytes_max)
            .rev()
            .find(|&at| text.is_char_boundary(at))
            .unwrap_or(0);
        text.truncate(end);
    }
    text
}

/// A failure within the contract's limits: a kind that is no name becomes "Error", and says so.
fn failure(failure: wire::Failure) -> Failure {
    let named = check_name("kind", &failure.kind).is_ok();
    let message = match (named, failure.kind.is_empty()) {
        (true, _) | (_, true) => failure.message,
        (false, false) => format!("{}: {}", shown(&failure.kind, 128), failure.message),
    };
    Failure {
        kind: if named {
            failure.kind
        } else {
            "Error".to_owned()
        },
        message: cut(message, MESSAGE_BYTES_MAX),
        detail: cut(failure.detail, DETAIL_BYTES_MAX),
    }
}

/// A sample whose figures can be reckoned with.
fn sample(sample: wire::SystemSample) -> wire::SystemSample {
    let finite = |value: f64, most: f64| {
        if value.is_finite() {
            value.clamp(0.0, most)
        } else {
            0.0
        }
    };
    wire::SystemSample {
        cpu_ratio: finite(sample.cpu_ratio, 1.0),
        load_1m: finite(sample.load_1m, 1e6),
        machine: cut(sample.machine, TEXT_BYTES_MAX),
        service: cut(sample.service, TEXT_BYTES_MAX),
        ..sample
    }
}

/// A name that is none, as it is recorded.
pub(crate) fn recorded(command_id: &str) -> String {
    cut(command_id.to_owned(), COMMAND_BYTES_SHOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_chose_is_cut_at_a_whole_character() {
        assert_eq!(cut("ééé".to_owned(), 3), "é");
        assert_eq!(cut("abc".to_owned(), 3), "abc");
    }

    #[test]
    fn a_kind_that_is_no_name_moves_into_the_message() {
        let failure = failure(wire::Failure {
            kind: "not a name\n".to_owned(),
            message: "broke".to_owned(),
            detail: String::new(),
        });
        assert_eq!(failure.kind, "Error");
        assert_eq!(failure.message, "not a name\\u{a}: broke");
    }

    #[test]
    fn a_sample_that_is_no_number_is_none() {
        let sample = sample(wire::SystemSample {
            cpu_ratio: f64::NAN,
            load_1m: f64::INFINITY,
            ..wire::SystemSample::default()
        });
        assert_eq!((sample.cpu_ratio, sample.load_1m), (0.0, 0.0));
    }
}
