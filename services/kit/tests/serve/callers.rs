//! Foreign names and foreign pages are turned away before any routing.

use tonic::Code;
use tonic_health::pb::health_client::HealthClient;

use crate::bench::{Bench, reason};

#[tokio::test]
async fn a_foreign_host_is_misdirected() {
    let bench = Bench::start().await;
    for path in ["/own", "/metrics", "/nothing"] {
        let (head, body) = bench.get(path, "Host: evil.example\r\n").await;
        assert!(head.starts_with("HTTP/1.1 421 "), "{head}");
        assert!(
            body.starts_with("HOST_NOT_ALLOWED: host evil.example"),
            "{body}"
        );
    }
    let (head, _) = bench.get("/own", "").await;
    assert!(head.starts_with("HTTP/1.1 421 "), "no host at all: {head}");
    let (head, body) = bench
        .get("/own", &format!("Host: {}\r\n", bench.address))
        .await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(body, "own page");
}

#[tokio::test]
async fn a_foreign_origin_is_forbidden() {
    let bench = Bench::start_with(|service| {
        service.exposure.allowed_origins = vec!["https://page.example".into()];
    })
    .await;
    for origin in ["http://evil.example", "null"] {
        let (head, body) = bench
            .get("/own", &format!("Host: localhost\r\nOrigin: {origin}\r\n"))
            .await;
        assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
        assert!(body.starts_with("ORIGIN_NOT_ALLOWED"), "{body}");
    }
    for origin in ["http://localhost:5173", "https://page.example"] {
        let (head, _) = bench
            .get("/own", &format!("Host: localhost\r\nOrigin: {origin}\r\n"))
            .await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{origin}: {head}");
    }
}

#[tokio::test]
async fn grpc_is_checked_too_and_answered_with_a_status() {
    let bench = Bench::start().await;
    let endpoint = bench
        .endpoint()
        .origin("http://evil.example".parse().expect("a URI"));
    let channel = endpoint.connect().await.expect("it listens");
    let status = HealthClient::new(channel)
        .check(tonic_health::pb::HealthCheckRequest::default())
        .await
        .expect_err("a foreign host");
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(reason(&status), "HOST_NOT_ALLOWED");

    let origin = [("origin", "http://evil.example")];
    let status = bench
        .raw_call("/grpc.health.v1.Health/Check", &origin, vec![0; 5])
        .await;
    assert_eq!(reason(&status), "ORIGIN_NOT_ALLOWED");
}
