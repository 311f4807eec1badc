//! How a connection is made, for every client of this crate alike.
//!
//! A stream's window is well below its connection's, so that one stalled feed holds up no other
//! call on the same connection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tonic::transport::{Channel, Endpoint};

use crate::back_off::BackOff;
use crate::error::{Error, deepest};

/// The largest answer that is taken: a transaction with all its steps' results.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The largest batch of the log that is taken.
pub const LOG_MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long a caller waits for an answer that should come at once.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a new connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Silence on a connection before it is probed, and how long the probe may stay unanswered.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// What a connection is for, which decides its windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Calls and feeds.
    Calls,
    /// One session, which has the connection to itself.
    Session,
    /// Heartbeats.
    Heartbeat,
}

/// A service at an address. It connects when first used, and again when the connection broke.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) service: &'static str,
    pub(crate) address: Arc<str>,
    pub(crate) channel: Channel,
}

impl Connection {
    /// Without connecting yet.
    pub(crate) fn lazy(service: &'static str, address: &str) -> Result<Self, Error> {
        Ok(Self {
            service,
            address: address.into(),
            channel: endpoint(address, Purpose::Calls)?.connect_lazy(),
        })
    }

    /// Connects, trying again with back-off for as long as `patience`; at least once.
    pub(crate) async fn open(
        service: &'static str,
        address: &str,
        patience: Duration,
    ) -> Result<Self, Error> {
        let endpoint = endpoint(address, Purpose::Calls)?;
        let give_up = Instant::now() + patience;
        let mut back_off = BackOff::new(Duration::from_millis(50), Duration::from_secs(1));
        loop {
            match endpoint.connect().await {
                Ok(channel) => {
                    return Ok(Self {
                        service,
                        address: address.into(),
                        channel,
                    });
                }
                Err(error) => {
                    let delay = back_off.delay();
                    if Instant::now() + delay >= give_up {
                        return Err(unreachable(service, address, &error));
                    }
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    /// What a status of this service means.
    pub(crate) fn refused(&self, status: &tonic::Status) -> Error {
        Error::of(status, self.service, &self.address)
    }
}

/// A connection that could not be made.
pub(crate) fn unreachable(
    service: &'static str,
    address: &str,
    error: &tonic::transport::Error,
) -> Error {
    Error::Unreachable {
        service,
        address: address.to_owned(),
        cause: deepest(error),
    }
}

/// A payload of 64 KiB comes in one frame.
const FRAME_BYTES_MAX: u32 = 128 * 1024;

/// The settings of a connection to `address`: `host:port`, or a URL `http://host:port`.
pub(crate) fn endpoint(address: &str, purpose: Purpose) -> Result<Endpoint, Error> {
    let invalid = |what: &str| {
        Error::Invalid(format!(
            "the address is \"{}\"; {what}",
            proto::id::shown(address, 128)
        ))
    };
    let rest = match address.split_once("://") {
        None => address,
        Some(("http", rest)) => rest.trim_end_matches('/'),
        Some(_) => return Err(invalid("only http:// is spoken; write host:port")),
    };
    let port = rest.rsplit_once(':').map(|(_, port)| port);
    if port.is_none_or(|port| port.parse::<u16>().is_err()) {
        return Err(invalid("it must be host:port, for example 127.0.0.1:7001"));
    }
    let (stream_window, connection_window) = match purpose {
        Purpose::Calls => (64 * 1024, 4 * 1024 * 1024),
        Purpose::Session => (1024 * 1024, 4 * 1024 * 1024),
        Purpose::Heartbeat => (64 * 1024, 64 * 1024),
    };
    let endpoint = Endpoint::from_shared(format!("http://{rest}"))
        .map_err(|error| invalid(&format!("it is no address: {error}")))?;
    Ok(endpoint
        .initial_stream_window_size(stream_window)
        .initial_connection_window_size(connection_window)
        .max_frame_size(FRAME_BYTES_MAX)
        .http2_keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn an_address_without_a_port_or_with_another_scheme_is_refused_with_the_right_form() {
        for wrong in ["", "localhost", "127.0.0.1:x", "a:99999", "https://a:1"] {
            let error = endpoint(wrong, Purpose::Calls).unwrap_err().to_string();
            assert!(error.contains("host:port"), "{wrong}: {error}");
        }
        for right in ["127.0.0.1:7001", "http://localhost:7001/", "[::1]:7001"] {
            assert!(endpoint(right, Purpose::Calls).is_ok(), "{right}");
        }
    }

    #[tokio::test]
    async fn an_address_where_nobody_listens_is_unreachable_with_the_address_and_the_remedy() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let error = Connection::open("orchestrator", &address, Duration::ZERO)
            .await
            .unwrap_err();
        assert!(error.is_unreachable());
        let text = error.to_string();
        assert!(text.contains(&address), "{text}");
        assert!(text.contains("multiagents up"), "{text}");
        assert!(text.contains("refused"), "{text}");
    }
}
