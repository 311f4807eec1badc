//! Opening a session: dial, announce, be welcomed. Nothing here knows what the host is doing.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::connection::{Purpose, endpoint, unreachable};
use crate::error::Error;
use crate::time::from_wire;
use crate::wire::{
    Announce, ConnectRequest, ConnectResponse, Welcome, worker_service_client::WorkerServiceClient,
};
use crate::worker::heartbeat::Beat;

/// The largest message of the orchestrator: a batch of commands with their contexts.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long the answer to the announcement may take.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);

/// An open session.
pub(crate) struct Session {
    pub(crate) welcome: Welcome,
    /// What came with the welcome.
    pub(crate) first: ConnectResponse,
    pub(crate) requests: mpsc::Sender<ConnectRequest>,
    pub(crate) responses: Streaming<ConnectResponse>,
}

/// Dials, announces, and waits for the welcome.
pub(crate) async fn open(address: String, announce: Announce) -> Result<Session, Error> {
    let channel = endpoint(&address, Purpose::Session)?
        .connect()
        .await
        .map_err(|error| unreachable("orchestrator", &address, &error))?;
    // One message at a time: what comes meanwhile piles up into the next.
    let (requests, outgoing) = mpsc::channel(1);
    let _ = requests.try_send(ConnectRequest {
        announce: Some(announce),
        ..Default::default()
    });
    let mut client = WorkerServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let opening = async {
        let mut responses = client
            .connect(ReceiverStream::new(outgoing))
            .await?
            .into_inner();
        let first = responses.message().await?.unwrap_or_default();
        Ok::<_, tonic::Status>((responses, first))
    };
    let silent = |cause: &str| Error::Unreachable {
        service: "orchestrator",
        address: address.clone(),
        cause: cause.to_owned(),
    };
    let opened = tokio::time::timeout(WELCOME_TIMEOUT, opening)
        .await
        .map_err(|_| silent("it did not answer the announcement"))?;
    let (responses, mut first) =
        opened.map_err(|status| Error::of(&status, "orchestrator", &address))?;
    let Some(welcome) = first.welcome.take() else {
        return Err(silent("it did not welcome the host"));
    };
    Ok(Session {
        welcome,
        first,
        requests,
        responses,
    })
}

/// How to keep a session alive; a welcome without figures gets cautious ones.
pub(crate) fn beat_of(welcome: &Welcome) -> Beat {
    let figure = |duration: &Option<prost_types::Duration>| {
        let duration = duration.as_ref().map(from_wire);
        duration.filter(|duration| !duration.is_zero())
    };
    let lease = figure(&welcome.lease).unwrap_or(Duration::from_secs(10));
    let interval = figure(&welcome.heartbeat_interval).unwrap_or(lease / 4);
    Beat {
        session_id: welcome.session_id.clone(),
        interval: interval.clamp(Duration::from_millis(20), Duration::from_secs(60)),
        lease,
    }
}
