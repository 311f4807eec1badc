//! What a session's stream and the driver share: the way out to the host, and its lease.
//!
//! Heartbeats touch one atomic here and never wait for the driver, who reads it when he judges
//! whether a lease has lapsed.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Waker};

use proto::error::{Problem, Reason};
use proto::id::{HostId, Time};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::message::HostMessage;
use super::table::Session;
use crate::inbox::{Inbox, Input};

/// Where what goes to one host comes out.
pub(crate) type FarEnd = mpsc::Receiver<Result<HostMessage, Status>>;

/// The way out to one host.
#[derive(Debug)]
pub(crate) struct Line {
    messages: mpsc::Sender<Result<HostMessage, Status>>,
    cut: CancellationToken,
}

impl Line {
    /// A line with room for so many messages, and its far end.
    pub(crate) fn new(messages_max: usize) -> (Self, FarEnd) {
        let (messages, far_end) = mpsc::channel(messages_max);
        let line = Self {
            messages,
            cut: CancellationToken::new(),
        };
        (line, far_end)
    }

    /// Sends a message. A host that takes none for so long that the line is full is cut off: it comes
    /// back to its commands within its lease, and nobody waits for it meanwhile.
    pub(crate) fn send(&self, message: HostMessage) {
        if self.messages.try_send(Ok(message)).is_err() && !self.cut.is_cancelled() {
            self.cut.cancel();
        }
    }

    /// Ends the session with a last word.
    pub(crate) fn end(&self, why: Problem) {
        // A host that doesn't listen will see the stream end.
        let _ = self.messages.try_send(Err(why.into()));
        self.cut.cancel();
    }

    /// Whether the session is to end.
    pub(crate) async fn is_cut(&self) {
        self.cut.cancelled().await;
    }
}

/// Tells the driver that the stream has ended, however that came.
pub(super) struct Closing {
    pub(super) inbox: Inbox,
    pub(super) host: HostId,
    pub(super) session: Session,
}

impl Drop for Closing {
    fn drop(&mut self) {
        let (inbox, host, session) = (self.inbox.clone(), self.host.clone(), self.session);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // Fails only when the driver has ended, and then every session has.
                let _ = inbox.tell(Input::Closed { host, session }).await;
            });
        } else {
            // Nobody's task (see `stepped`): there is a place, or the driver is gone.
            let told = pin!(inbox.tell(Input::Closed { host, session }));
            let _ = told.poll(&mut Context::from_waker(Waker::noop()));
        }
    }
}

/// When a host was last heard.
#[derive(Debug)]
pub(crate) struct Lease {
    heard_us: AtomicI64,
}

impl Lease {
    /// Heard at `at`.
    pub(crate) fn new(at: Time) -> Self {
        Self {
            heard_us: AtomicI64::new(at.0),
        }
    }

    /// A sign of life.
    pub(crate) fn renew(&self, at: Time) {
        self.heard_us.fetch_max(at.0, Ordering::Relaxed);
    }

    /// The last sign of life.
    pub(crate) fn heard(&self) -> Time {
        Time(self.heard_us.load(Ordering::Relaxed))
    }
}

/// The open sessions by the names that heartbeats use.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leases(Arc<RwLock<BySession>>);

type BySession = HashMap<String, (HostId, Arc<Lease>)>;

impl Leases {
    /// A session is open.
    pub(crate) fn insert(&self, session_id: String, host: HostId, lease: Arc<Lease>) {
        let mut leases = self.0.write().unwrap_or_else(PoisonError::into_inner);
        leases.insert(session_id, (host, lease));
    }

    /// A session has ended.
    pub(crate) fn remove(&self, session_id: &str) {
        let mut leases = self.0.write().unwrap_or_else(PoisonError::into_inner);
        leases.remove(session_id);
    }

    /// Renews the lease of an open session.
    pub(crate) fn renew(&self, host_id: &str, session_id: &str, at: Time) -> Result<(), Problem> {
        let leases = self.0.read().unwrap_or_else(PoisonError::into_inner);
        match leases.get(session_id) {
            Some((host, lease)) if host.as_str() == host_id => {
                lease.renew(at);
                Ok(())
            }
            _ => Err(Problem::field(
                Reason::SessionUnknown,
                "session_id",
                "session_id names no open session of this host; Connect and send heartbeats with the \
                 session_id of the Welcome",
            )),
        }
    }
}
