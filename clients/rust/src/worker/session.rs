//! A host's sessions: commands in, results out, one after another over as many connections as it
//! takes.
//!
//! Results leave in batches of what has piled up, are kept until they are acknowledged, and are
//! sent again in the next session. What runs the handlers is the host's [`Commands`]; nothing here
//! waits for one.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Streaming};

use crate::error::Error;
use crate::wire::command_result::Outcome;
use crate::wire::{Announce, ConnectRequest, ConnectResponse, SystemSample};
use crate::worker::commands::{Commands, TooMany};
use crate::worker::heartbeat::Heartbeats;
use crate::worker::host::{Departure, Observed, Observer, Offer};
use crate::worker::opening::{Session, beat_of, open};
use crate::worker::remembered::Remembered;

/// How many bytes of results go into one message, unless a single one is larger: a large one goes
/// alone, so that the orchestrator can keep it as it came.
const RESULTS_BYTES_MAX: usize = 64 * 1024;
/// How long the orchestrator may take to end a stream that this side has closed.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a drained host listens for commands that crossed with its word that it is draining.
const CROSSING: Duration = Duration::from_millis(100);

/// How a session ended.
pub(crate) enum SessionEnd {
    /// The host is drained and has left.
    Left(Departure),
    /// Another one is needed.
    Broken(Error),
}

/// The host's whole state over all its sessions.
pub(crate) struct Hub {
    address: String,
    offer: Arc<Offer>,
    heartbeats: Heartbeats,
    samples: Option<mpsc::Receiver<SystemSample>>,
    observer: Observer,
    shutdown: CancellationToken,
    drain_grace: Duration,
    commands: Commands,
    /// Of the contexts of this session.
    remembered: Remembered,
    /// What is to be sent besides results.
    sampled: Vec<SystemSample>,
    /// True while the orchestrator is to be told that this host is draining.
    draining_untold: bool,
    /// When the host must be gone; set when it is asked to stop.
    give_up: Option<Instant>,
}

impl Hub {
    #[expect(
        clippy::too_many_arguments,
        reason = "the builder's fields, taken apart once"
    )]
    pub(crate) fn new(
        address: String,
        offer: Offer,
        heartbeats: Heartbeats,
        samples: Option<mpsc::Receiver<SystemSample>>,
        observer: Observer,
        result_bytes_max: usize,
        remembers_bytes_max: usize,
        shutdown: CancellationToken,
        drain_grace: Duration,
        stop: CancellationToken,
    ) -> Self {
        let offer = Arc::new(offer);
        let commands = Commands::new(offer.clone(), observer.clone(), result_bytes_max, stop);
        Self {
            address,
            offer,
            heartbeats,
            samples,
            observer,
            shutdown,
            drain_grace,
            commands,
            remembered: Remembered::new(remembers_bytes_max),
            sampled: Vec::new(),
            draining_untold: false,
            give_up: None,
        }
    }

    /// Dials, announces, and waits for the welcome. Holds nothing of the hub, which goes on
    /// meanwhile.
    pub(crate) fn open(&self) -> impl Future<Output = Result<Session, Error>> + use<> {
        let announce = Announce {
            host_id: self.offer.host_id.clone(),
            workers: self.offer.announced(),
            machine: self.offer.machine.clone(),
            version: self.offer.version.clone(),
            held_command_ids: self.commands.table.command_ids(),
            remembers_bytes_max: self.remembered.bytes_max(),
        };
        open(self.address.clone(), announce)
    }

    /// Awaits something while there is no session: handlers go on, and their results are kept. The
    /// second part is there when the host need not come back.
    pub(crate) async fn while_apart<T>(
        &mut self,
        awaited: impl Future<Output = T>,
    ) -> (Option<T>, Option<Departure>) {
        let mut awaited = pin!(awaited);
        loop {
            if let Some(departure) = self.departure() {
                return (None, Some(departure));
            }
            tokio::select! {
                biased;
                done = &mut awaited => return (Some(done), None),
                () = self.commands.reported() => {}
                sample = next_sample(&mut self.samples) => {
                    // Only the newest is worth anything later.
                    self.sampled = vec![sample];
                }
                () = asked_to_stop(&self.shutdown, self.give_up) => self.begin_draining(),
                () = until(self.give_up) => {}
            }
        }
    }

    /// How the host leaves, once it may: asked to stop, and done or out of time.
    fn departure(&self) -> Option<Departure> {
        let give_up = self.give_up?;
        let done = self.commands.table.is_empty();
        (done || Instant::now() >= give_up).then(|| self.leave())
    }

    fn leave(&self) -> Departure {
        let departure = Departure {
            unfinished: self.commands.table.running_count(),
            undelivered: self.commands.table.held_count(),
        };
        if departure != Departure::default() {
            tracing::warn!(
                unfinished = departure.unfinished,
                undelivered = departure.undelivered,
                "leaving before everything was done; what is left is delivered elsewhere"
            );
        }
        departure
    }

    fn begin_draining(&mut self) {
        tracing::info!(
            running = self.commands.table.running_count(),
            "draining: no new commands"
        );
        self.give_up = Some(Instant::now() + self.drain_grace);
        self.draining_untold = true;
    }

    /// Whether an end is one to come back from.
    pub(crate) fn judge(&self, error: Error) -> Result<Error, Error> {
        if error.reason() == "SESSION_REPLACED" {
            return Err(Error::HostReplaced {
                host_id: self.offer.host_id.clone(),
            });
        }
        let for_good = matches!(
            error.code(),
            Code::InvalidArgument
                | Code::Unimplemented
                | Code::PermissionDenied
                | Code::Unauthenticated
        );
        if for_good { Err(error) } else { Ok(error) }
    }

    /// Serves one session to its end.
    pub(crate) async fn serve(&mut self, session: Session) -> SessionEnd {
        let Session {
            welcome,
            first,
            requests,
            mut responses,
        } = session;
        for revoked in &welcome.revoked_command_ids {
            if self.commands.table.revoke(revoked) {
                let (command_id, reason) = (revoked, "LEASE_LAPSED");
                tracing::warn!(
                    command_id,
                    "a command is another host's now, and is stopped"
                );
                (self.observer)(&Observed::Refused { command_id, reason });
            }
        }
        self.commands.table.send_again();
        self.remembered.clear();
        self.draining_untold = self.give_up.is_some();
        let session_id = welcome.session_id.clone();
        tracing::info!(session_id, address = %self.address, "a session is open");
        self.heartbeats
            .session
            .send_replace(Some(beat_of(&welcome)));
        let ended = match self.take_response(first) {
            Ok(()) => self.exchange(&session_id, &requests, &mut responses).await,
            Err(error) => Err(error),
        };
        self.heartbeats.session.send_replace(None);
        match ended {
            Err(error) => SessionEnd::Broken(error),
            Ok(departure) => {
                // Closing this side says good-bye; the orchestrator then ends its own.
                drop(requests);
                let farewell = async { while let Ok(Some(_)) = responses.message().await {} };
                let _ = tokio::time::timeout(FAREWELL_TIMEOUT, farewell).await;
                SessionEnd::Left(departure)
            }
        }
    }

    async fn exchange(
        &mut self,
        session_id: &str,
        requests: &mpsc::Sender<ConnectRequest>,
        responses: &mut Streaming<ConnectResponse>,
    ) -> Result<Departure, Error> {
        let mut leave_at = None;
        let shutdown = self.shutdown.clone();
        let mut asked_to_stop = pin!(shutdown.cancelled());
        loop {
            let to_say = self.has_something_to_say();
            leave_at = self.leave_at(to_say, leave_at);
            tokio::select! {
                biased;
                () = self.commands.reported() => {}
                response = responses.message() => match response {
                    Ok(Some(response)) => self.take_response(response)?,
                    Ok(None) => return Err(self.ended("the orchestrator ended the session")),
                    Err(status) => return Err(self.refused(&status)),
                },
                sample = next_sample(&mut self.samples), if self.give_up.is_none() => {
                    self.take_sample(sample);
                }
                () = &mut asked_to_stop, if self.give_up.is_none() => self.begin_draining(),
                Some(gone) = self.heartbeats.gone.recv() => if gone == session_id {
                    return Err(self.ended("the orchestrator no longer knows the session"));
                },
                permit = requests.reserve(), if to_say => {
                    let Ok(permit) = permit else {
                        return Err(self.ended("the session's stream is closed"));
                    };
                    // Results that are there by then ride along.
                    self.commands.one_turn().await;
                    permit.send(self.next_request());
                }
                () = until(leave_at) => return Ok(self.leave()),
            }
        }
    }

    /// When a host that was asked to stop leaves an open session: a moment after it was done, or
    /// when its time is over and it has said what it has to say, or nobody takes that.
    fn leave_at(&self, to_say: bool, before: Option<Instant>) -> Option<Instant> {
        let give_up = self.give_up?;
        Some(match (to_say, self.commands.table.is_empty()) {
            (true, _) => give_up + FAREWELL_TIMEOUT,
            (false, false) => give_up,
            (false, true) => {
                let done = Instant::now() + CROSSING;
                before.map_or(done, |before| before.min(done))
            }
        })
    }

    fn has_something_to_say(&self) -> bool {
        self.draining_untold || self.commands.table.has_unsent() || !self.sampled.is_empty()
    }

    /// Everything that has piled up, as far as one message holds it.
    fn next_request(&mut self) -> ConnectRequest {
        ConnectRequest {
            announce: None,
            progress: self.commands.table.next_progress(),
            results: self.commands.table.next_results(RESULTS_BYTES_MAX),
            samples: std::mem::take(&mut self.sampled),
            draining: std::mem::take(&mut self.draining_untold),
        }
    }

    fn take_response(&mut self, mut response: ConnectResponse) -> Result<(), Error> {
        for acknowledged in &response.acknowledgements {
            if !acknowledged.refused_reason.is_empty() {
                let command_id = &acknowledged.command_id;
                let reason = &acknowledged.refused_reason;
                tracing::warn!(command_id, reason, "a result was refused, and is dropped");
                (self.observer)(&Observed::Refused { command_id, reason });
            }
            let done = self.commands.table.acknowledge(&acknowledged.command_id);
            if let Some(Outcome::CompletedJson(result)) = done.and_then(|done| done.outcome)
                && acknowledged.context_id > 0
            {
                self.remembered.remember(acknowledged.context_id, result);
            }
        }
        for cancel in &response.cancels {
            self.commands.table.cancel(&cancel.command_id);
        }
        let known = self.remembered.complete(&mut response.commands);
        known
            .and_then(|()| self.remembered.forget_below(response.forget_below))
            .map_err(|broken| self.ended(broken))?;
        if let Err(TooMany) = self.commands.take(response.commands) {
            return Err(self.ended("the orchestrator sent more commands than there are slots"));
        }
        if response.draining {
            tracing::info!("the orchestrator is going away; results are kept until it is back");
        }
        Ok(())
    }

    /// A connection that is stuck must not pile samples up: the oldest goes.
    fn take_sample(&mut self, sample: SystemSample) {
        if self.sampled.len() >= 16 {
            self.sampled.remove(0);
        }
        self.sampled.push(sample);
    }

    fn refused(&self, status: &tonic::Status) -> Error {
        Error::of(status, "orchestrator", &self.address)
    }

    fn ended(&self, what: &str) -> Error {
        Error::Unreachable {
            service: "orchestrator",
            address: self.address.clone(),
            cause: what.to_owned(),
        }
    }
}

/// The next sample; for ever waiting where there are none.
async fn next_sample(samples: &mut Option<mpsc::Receiver<SystemSample>>) -> SystemSample {
    if let Some(source) = samples {
        if let Some(sample) = source.recv().await {
            return sample;
        }
        *samples = None;
    }
    std::future::pending().await
}

/// The request to stop, once.
async fn asked_to_stop(shutdown: &CancellationToken, give_up: Option<Instant>) {
    match give_up {
        None => shutdown.cancelled().await,
        Some(_) => std::future::pending().await,
    }
}

/// The end of the time, where there is one.
async fn until(give_up: Option<Instant>) {
    match give_up {
        Some(give_up) => tokio::time::sleep_until(give_up.into()).await,
        None => std::future::pending().await,
    }
}
