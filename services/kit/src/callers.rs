//! Who may call: the Host (or `:authority`) and Origin checks, before any routing.
//!
//! A web page can make a browser send requests to a loopback address; what it cannot do is
//! choose these headers. So a request whose Host is not a name of this server, or whose Origin
//! is neither this server nor one that is allowed, is refused, gRPC or not. Pure.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use http::uri::Authority;
use http::{HeaderMap, Uri, header};

use crate::service::Exposure;

/// Why a caller was turned away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TurnedAway {
    /// The Host is missing, doubled or not a name of this server.
    Host(String),
    /// The Origin is not one that may call.
    Origin(String),
}

/// The authority that a connection's first request was let in with. The next ones with nothing else
/// need no check of their own.
#[derive(Clone, Debug, Default)]
pub(crate) struct LetIn(Arc<OnceLock<Authority>>);

impl LetIn {
    /// As [`check`], once for each connection.
    pub(crate) fn check(
        &self,
        exposure: &Exposure,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<(), TurnedAway> {
        let alone = !headers.contains_key(header::HOST) && !headers.contains_key(header::ORIGIN);
        if !alone || uri.authority().is_none() {
            return check(exposure, uri, headers);
        }
        if self.0.get() == uri.authority() {
            return Ok(());
        }
        check(exposure, uri, headers)?;
        if let Some(authority) = uri.authority() {
            self.0.get_or_init(|| authority.clone());
        }
        Ok(())
    }
}

/// Checks one request's head.
pub(crate) fn check(exposure: &Exposure, uri: &Uri, headers: &HeaderMap) -> Result<(), TurnedAway> {
    let mut hosts = Vec::new();
    if let Some(authority) = uri.authority() {
        hosts.push(authority.as_str().to_owned());
    }
    for host in headers.get_all(header::HOST) {
        hosts.push(String::from_utf8_lossy(host.as_bytes()).into_owned());
    }
    let Some(first) = hosts.first() else {
        return Err(TurnedAway::Host("missing".into()));
    };
    if let Some(foreign) = hosts.iter().find(|host| !host_allowed(exposure, host)) {
        return Err(TurnedAway::Host(foreign.clone()));
    }
    for origin in headers.get_all(header::ORIGIN) {
        let origin = String::from_utf8_lossy(origin.as_bytes());
        if !origin_allowed(exposure, &origin, first) {
            return Err(TurnedAway::Origin(origin.into_owned()));
        }
    }
    Ok(())
}

fn host_allowed(exposure: &Exposure, authority: &str) -> bool {
    let Some(host) = host_of(authority) else {
        return false;
    };
    is_loopback(&host)
        || exposure
            .allowed_hosts
            .iter()
            .any(|allowed| host_of(allowed).as_deref() == Some(host.as_str()))
}

/// `null`, other schemes and foreign pages are refused; a page of this very server is not.
fn origin_allowed(exposure: &Exposure, origin: &str, own_authority: &str) -> bool {
    let listed = exposure
        .allowed_origins
        .iter()
        .any(|allowed| allowed.trim_end_matches('/').eq_ignore_ascii_case(origin));
    let authority = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    listed
        || authority.is_some_and(|authority| {
            authority.eq_ignore_ascii_case(own_authority)
                || host_of(authority).is_some_and(|host| is_loopback(&host))
        })
}

/// The host without port, brackets and final dot, in lower case.
fn host_of(authority: &str) -> Option<String> {
    if authority.contains('@') {
        return None;
    }
    let authority: Authority = authority.parse().ok()?;
    let host = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');
    Some(host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase())
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn checked(host: &str, origin: Option<&str>) -> Result<(), TurnedAway> {
        let exposure = Exposure {
            allowed_hosts: vec!["suite.example.org".into()],
            allowed_origins: vec!["https://page.example.org".into()],
            ..Exposure::default()
        };
        let mut headers = HeaderMap::new();
        if !host.is_empty() {
            headers.insert(header::HOST, host.parse().expect("a header"));
        }
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().expect("a header"));
        }
        check(&exposure, &Uri::from_static("/"), &headers)
    }

    #[test]
    fn what_was_let_in_once_lets_nothing_else_in() {
        let (let_in, none) = (LetIn::default(), HeaderMap::new());
        let checked = |uri: &'static str, headers: &HeaderMap| {
            let_in.check(&Exposure::default(), &Uri::from_static(uri), headers)
        };
        for _ in 0..2 {
            assert_eq!(checked("http://127.0.0.1:7001/a", &none), Ok(()));
            assert!(checked("http://evil.example/a", &none).is_err());
            assert_eq!(checked("http://localhost/a", &none), Ok(()));
        }
        for (name, value) in [("origin", "http://evil.example"), ("host", "evil.example")] {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().expect("a header"));
            assert!(
                checked("http://127.0.0.1:7001/a", &headers).is_err(),
                "{name}"
            );
        }
    }

    #[test]
    fn loopback_and_listed_hosts_are_answered_on_any_port() {
        for host in [
            "localhost",
            "LOCALHOST:1",
            "localhost.:80",
            "127.0.0.1:7001",
            "127.9.9.9",
            "[::1]:7001",
            "suite.example.org:7003",
            "Suite.Example.org",
        ] {
            assert_eq!(checked(host, None), Ok(()), "{host}");
        }
    }

    #[test]
    fn other_hosts_and_none_are_refused() {
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "user@localhost",
            "10.0.0.1:7001",
            "0.0.0.0:7001",
            "not a host",
        ] {
            assert!(
                matches!(checked(host, None), Err(TurnedAway::Host(_))),
                "{host}"
            );
        }
    }

    #[test]
    fn every_host_that_a_request_names_is_checked() {
        let mut headers = HeaderMap::new();
        headers.append(header::HOST, "localhost".parse().expect("a header"));
        headers.append(header::HOST, "evil.example".parse().expect("a header"));
        let refused = check(&Exposure::default(), &Uri::from_static("/"), &headers);
        assert_eq!(refused, Err(TurnedAway::Host("evil.example".into())));
        headers.remove(header::HOST);
        let uri = Uri::from_static("http://evil.example/path");
        headers.insert(header::HOST, "localhost".parse().expect("a header"));
        assert!(check(&Exposure::default(), &uri, &headers).is_err());
    }

    #[test]
    fn origins_of_loopback_of_the_server_itself_and_listed_ones_may_call() {
        for origin in [
            "http://localhost:5173",
            "http://127.0.0.1",
            "https://[::1]:7003",
            "https://page.example.org",
            "http://suite.example.org:7003",
        ] {
            assert_eq!(
                checked("suite.example.org:7003", Some(origin)),
                Ok(()),
                "{origin}"
            );
        }
    }

    #[test]
    fn other_origins_may_not() {
        for origin in [
            "null",
            "http://evil.example",
            "https://localhost.evil.example",
            "http://page.example.org",
            "ftp://localhost",
            "http://suite.example.org:8000",
        ] {
            let refused = checked("suite.example.org:7003", Some(origin));
            assert_eq!(refused, Err(TurnedAway::Origin(origin.into())));
        }
    }

    proptest! {
        #[test]
        fn no_host_is_a_panic(host in "\\PC*") {
            let _ = host_allowed(&Exposure::default(), &host);
        }
    }
}
