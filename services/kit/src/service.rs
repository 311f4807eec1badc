//! What a service hands over to be served: its routes, names, limits and readiness.
//!
//! Data only. How it is served stands in `serve`.

use std::time::Duration;

use prometheus_client::registry::Registry;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use tokio::sync::watch;

use crate::config::{ByteCount, HumaneDuration, above_zero};
use crate::connections::OpenConnections;
use crate::routes::Routes;
use crate::status::ErrorDomain;

/// Everything that `serve` needs to know of a service.
pub struct Service {
    /// The service's name in metrics and logs.
    pub name: &'static str,
    /// The domain of every `ErrorInfo` that the transport itself adds.
    pub error_domain: ErrorDomain,
    /// The gRPC services; health and reflection are added to them.
    pub routes: Routes,
    /// Further HTTP routes on the same port; `/metrics`, `/healthz` and `/readyz` are taken.
    pub http: axum::Router,
    /// Encoded `FileDescriptorSet`s, for reflection and to know the methods by name.
    pub descriptor_sets: Vec<&'static [u8]>,
    /// Full names of the gRPC services: grpc.health.v1 answers for them, reflection lists them.
    pub health_names: Vec<&'static str>,
    /// Whether the service can do its work; health and `/readyz` follow it.
    pub readiness: watch::Receiver<Readiness>,
    /// The service's own metrics; the process' and the server's are added to them.
    pub metrics: Registry,
    /// Counts the open connections; keep a clone to report the figure elsewhere.
    pub connections: OpenConnections,
    /// How much of everything at once.
    pub limits: Limits,
    /// Who may be listened to and called by.
    pub exposure: Exposure,
    /// Paths (`/package.Service/Method`) whose calls may last as long as they need: they are
    /// under no server timeout and counted against `exempt_calls_max` alone.
    pub exempt_methods: Vec<String>,
}

impl Service {
    /// A service without routes, with the default limits; fill in what it has.
    pub fn new(
        name: &'static str,
        error_domain: ErrorDomain,
        readiness: watch::Receiver<Readiness>,
    ) -> Self {
        Self {
            name,
            error_domain,
            routes: Routes::default(),
            http: axum::Router::new(),
            descriptor_sets: Vec::new(),
            health_names: Vec::new(),
            readiness,
            metrics: Registry::default(),
            connections: OpenConnections::default(),
            limits: Limits::default(),
            exposure: Exposure::default(),
            exempt_methods: Vec::new(),
        }
    }
}

/// Whether a service can do its work now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It can.
    Ready,
    /// It cannot yet, or not any more; the text says why, for the person who asks `/readyz`.
    NotReady(String),
}

impl Readiness {
    /// A channel that starts as not ready, for the reason given.
    pub fn channel(why_not: impl Into<String>) -> (watch::Sender<Self>, watch::Receiver<Self>) {
        watch::channel(Self::NotReady(why_not.into()))
    }
}

/// Who the server listens to. The defaults are safe on a developer's machine.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Exposure {
    /// Listen beyond loopback without TLS and tokens: whoever reaches the port can do
    /// everything. `/readyz` then says so.
    pub insecure: bool,
    /// Host names, without port, that the server answers to besides loopback's.
    pub allowed_hosts: Vec<String>,
    /// Origins (`https://example.org`) whose pages may call, besides those from loopback.
    pub allowed_origins: Vec<String>,
}

/// Bounds of the server. What is over them is refused, never queued without end.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Open connections; the next one is closed at once.
    #[serde(deserialize_with = "above_zero")]
    pub connections_max: usize,
    /// Open connections from one address; the next one is closed at once.
    #[serde(deserialize_with = "above_zero")]
    pub connections_per_address_max: usize,
    /// Streams that one HTTP/2 connection may have open.
    #[serde(deserialize_with = "above_zero")]
    pub streams_per_connection_max: u32,
    /// Calls in hand at once; the next one is refused with RESOURCE_EXHAUSTED.
    #[serde(deserialize_with = "above_zero")]
    pub calls_max: usize,
    /// Calls to exempt methods in hand at once.
    #[serde(deserialize_with = "above_zero")]
    pub exempt_calls_max: usize,
    /// Bytes of answers that callers have not read yet, in all; over it the connection that holds most
    /// is cut off.
    #[serde(deserialize_with = "above_zero")]
    pub unread_bytes_max: ByteCount,
    /// The longest that a call may take before its answer begins.
    #[serde(deserialize_with = "above_zero")]
    pub call_timeout: HumaneDuration,
    /// How long a new connection may take to say its first 24 bytes, and a request its headers.
    #[serde(deserialize_with = "above_zero")]
    pub handshake_timeout: HumaneDuration,
    /// How long calls in hand may take to end once the service is asked to stop.
    pub drain_grace: HumaneDuration,
    /// After this age a connection takes no new call; what is open on it goes on.
    #[serde(deserialize_with = "above_zero")]
    pub connection_age_max: HumaneDuration,
    /// Silence on a connection before it is probed.
    #[serde(deserialize_with = "above_zero")]
    pub keepalive_interval: HumaneDuration,
    /// How long a probe may stay unanswered.
    #[serde(deserialize_with = "above_zero")]
    pub keepalive_timeout: HumaneDuration,
    /// Flow control window of one stream, in bytes.
    #[serde(deserialize_with = "window")]
    pub stream_window_bytes: u32,
    /// Flow control window of one connection, in bytes.
    #[serde(deserialize_with = "window")]
    pub connection_window_bytes: u32,
    /// All headers of one request together, in bytes.
    #[serde(deserialize_with = "above_zero")]
    pub header_list_bytes_max: u32,
    /// Streams that the peer opened and reset before we took them; more ends the connection.
    pub pending_reset_streams_max: usize,
    /// Streams that we had to reset for the peer's errors; more ends the connection.
    pub error_reset_streams_max: usize,
}

/// A flow control window as HTTP/2 has them; with less than its own default hardly anything moves.
fn window<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    let bytes = u32::deserialize(from)?;
    if !(65_535..=(1 << 31) - 1).contains(&bytes) {
        return Err(D::Error::custom("must be 65535 to 2147483647 bytes"));
    }
    Ok(bytes)
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            connections_per_address_max: 256,
            streams_per_connection_max: 256,
            calls_max: 256,
            exempt_calls_max: 10_000,
            unread_bytes_max: ByteCount(1 << 30),
            call_timeout: HumaneDuration(Duration::from_secs(30)),
            handshake_timeout: HumaneDuration(Duration::from_secs(5)),
            drain_grace: HumaneDuration(Duration::from_secs(10)),
            connection_age_max: HumaneDuration(Duration::from_secs(3_600)),
            keepalive_interval: HumaneDuration(Duration::from_secs(10)),
            keepalive_timeout: HumaneDuration(Duration::from_secs(5)),
            stream_window_bytes: 256 * 1024,
            connection_window_bytes: 2 * 1024 * 1024,
            header_list_bytes_max: 16 * 1024,
            pending_reset_streams_max: 64,
            error_reset_streams_max: 1024,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_from_a_configuration_and_default_to_the_safe_ones() {
        let limits: Limits =
            crate::config::parse("x.yaml", "calls_max: 7\ndrain_grace: 250ms\n").expect("valid");
        assert_eq!(limits.calls_max, 7);
        assert_eq!(*limits.drain_grace, Duration::from_millis(250));
        assert_eq!(limits.connections_max, 10_000);
        let error = crate::config::parse::<Limits>("x.yaml", "calls_mx: 7\n").expect_err("unknown");
        assert!(
            error.to_string().contains("did you mean calls_max?"),
            "{error}"
        );
    }

    #[test]
    fn a_limit_that_lets_nothing_through_is_refused_with_its_place() {
        for (text, says) in [
            ("connections_max: 0", "x.yaml:1:18: connections_max: is 0"),
            (
                "handshake_timeout: 0s",
                "x.yaml:1:20: handshake_timeout: is 0",
            ),
            (
                "call_timeout: 99999999d",
                "x.yaml:1:15: call_timeout: is too long",
            ),
            ("stream_window_bytes: 1", "65535 to 2147483647"),
            ("connection_window_bytes: 4000000000", "65535 to 2147483647"),
        ] {
            let error = crate::config::parse::<Limits>("x.yaml", text).expect_err(text);
            assert!(error.to_string().contains(says), "{text}: {error}");
        }
    }
}
