//! Heartbeats: on a thread, a runtime and a connection of their own, so that neither a busy
//! handler nor a large payload delays one. Nothing else may run here.

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::back_off::BackOff;
use crate::connection::{Purpose, endpoint};
use crate::error::Error;
use crate::wire::{HeartbeatRequest, worker_service_client::WorkerServiceClient};

/// A session to keep alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Beat {
    pub(crate) session_id: String,
    pub(crate) interval: Duration,
    pub(crate) lease: Duration,
}

/// The thread's two ends: which session to keep alive, and which one turned out to be gone. The
/// thread ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Heartbeats {
    pub(crate) session: watch::Sender<Option<Beat>>,
    pub(crate) gone: mpsc::Receiver<String>,
}

impl Heartbeats {
    /// Starts the thread.
    pub(crate) fn start(address: &str, host_id: &str) -> Result<Self, Error> {
        let (session, sessions) = watch::channel(None);
        let (report, gone) = mpsc::channel(4);
        let beater = Beater {
            address: address.to_owned(),
            host_id: host_id.to_owned(),
            sessions,
            report,
        };
        let failed = |error: std::io::Error| {
            Error::Invalid(format!(
                "the heartbeat thread could not be started: {error}"
            ))
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        std::thread::Builder::new()
            .name("heartbeat".into())
            .spawn(move || {
                runtime.block_on(beater.run());
                runtime.shutdown_background();
            })
            .map_err(failed)?;
        Ok(Self { session, gone })
    }
}

struct Beater {
    address: String,
    host_id: String,
    sessions: watch::Receiver<Option<Beat>>,
    report: mpsc::Sender<String>,
}

impl Beater {
    async fn run(mut self) {
        loop {
            let beat = self.sessions.borrow_and_update().clone();
            let mut sessions = self.sessions.clone();
            tokio::select! {
                changed = sessions.changed() => if changed.is_err() {
                    return;
                },
                () = self.keep_alive(beat) => {}
            }
        }
    }

    /// Beats for one session for as long as it is the session; never returns.
    async fn keep_alive(&self, beat: Option<Beat>) {
        let Some(beat) = beat else {
            return std::future::pending().await;
        };
        let most = (beat.lease / 4).clamp(Duration::from_millis(50), Duration::from_secs(1));
        let mut back_off = BackOff::new(Duration::from_millis(50), most);
        loop {
            match self.stream(&beat, &mut back_off).await {
                Error::Refused(refusal) if refusal.reason == "SESSION_UNKNOWN" => {
                    // Whoever holds the session finds out and opens another.
                    let _ = self.report.try_send(beat.session_id.clone());
                    return std::future::pending().await;
                }
                error => tracing::warn!(%error, "a heartbeat failed; connecting anew"),
            }
            tokio::time::sleep(back_off.delay()).await;
        }
    }

    /// One connection's heartbeats, up to what breaks it.
    async fn stream(&self, beat: &Beat, back_off: &mut BackOff) -> Error {
        match self.try_stream(beat, back_off).await {
            Err(error) => error,
            Ok(status) => Error::of(&status, "orchestrator", &self.address),
        }
    }

    async fn try_stream(
        &self,
        beat: &Beat,
        back_off: &mut BackOff,
    ) -> Result<tonic::Status, Error> {
        let channel: Channel = endpoint(&self.address, Purpose::Heartbeat)?
            .connect()
            .await
            .map_err(|error| {
                crate::connection::unreachable("orchestrator", &self.address, &error)
            })?;
        let (sender, requests) = mpsc::channel(2);
        let mut sequence = 0;
        let mut next = || {
            sequence += 1;
            HeartbeatRequest {
                host_id: self.host_id.clone(),
                session_id: beat.session_id.clone(),
                sequence,
            }
        };
        // The first one stands ready before the call, which some servers answer only after it.
        let _ = sender.try_send(next());
        let answer = WorkerServiceClient::new(channel)
            .heartbeat(ReceiverStream::new(requests))
            .await;
        let mut answers = match answer {
            Ok(answer) => answer.into_inner(),
            Err(status) => return Ok(status),
        };
        let mut ticks = tokio::time::interval(beat.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.tick().await;
        let mut heard = Instant::now();
        let silence_max = (beat.lease / 2).max(beat.interval * 2);
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    if heard.elapsed() > silence_max {
                        return Ok(tonic::Status::unavailable("heartbeats are not answered"));
                    }
                    // Full: the connection is stuck, and the silence above will say so.
                    let _ = sender.try_send(next());
                }
                answer = answers.message() => match answer {
                    Ok(Some(_)) => {
                        heard = Instant::now();
                        back_off.reset();
                    }
                    Ok(None) => return Ok(tonic::Status::unavailable("heartbeats were ended")),
                    Err(status) => return Ok(status),
                },
            }
        }
    }
}
