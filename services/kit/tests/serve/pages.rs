//! The pages that every service has, and readiness as gRPC clients and people see it.

use kit::{Exposure, Readiness};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::bench::{Bench, DOMAIN};

const HOST: &str = "Host: localhost\r\n";

#[tokio::test]
async fn health_is_serving_only_while_the_service_is_ready() {
    let bench = Bench::start_with(|service| {
        let (sender, receiver) = Readiness::channel("replaying");
        service.readiness = receiver;
        // The first word stands when nobody is left to say otherwise.
        drop(sender);
    })
    .await;
    let mut health = HealthClient::new(bench.channel().await);
    for service in ["", "example.TryOut"] {
        let request = HealthCheckRequest {
            service: service.into(),
        };
        let answer = health.check(request).await.expect("known").into_inner();
        assert_eq!(answer.status(), ServingStatus::NotServing, "{service:?}");
    }
    let (head, body) = bench.get("/readyz", HOST).await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert!(
        body.contains(r#""ready":false,"why_not":"replaying""#),
        "{body}"
    );
    let (head, _) = bench.get("/healthz", HOST).await;
    assert!(
        head.starts_with("HTTP/1.1 200 "),
        "alive all the same: {head}"
    );
}

#[tokio::test]
async fn health_follows_readiness() {
    let bench = Bench::start().await;
    let mut health = HealthClient::new(bench.channel().await);
    let request = HealthCheckRequest {
        service: "example.TryOut".into(),
    };
    let mut watch = health.watch(request).await.expect("known").into_inner();
    for (ready, expected) in [
        (None, ServingStatus::Serving),
        (
            Some(Readiness::NotReady("store lost".into())),
            ServingStatus::NotServing,
        ),
        (Some(Readiness::Ready), ServingStatus::Serving),
    ] {
        if let Some(ready) = ready {
            bench.ready.send(ready).expect("somebody listens");
        }
        let answer = watch.message().await.expect("no error").expect("a change");
        assert_eq!(answer.status(), expected);
    }
    let (head, body) = bench.get("/readyz", HOST).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(
        body,
        "{\"service\":\"example\",\"ready\":true,\"why_not\":null,\"insecure\":false}\n"
    );
}

#[tokio::test]
async fn metrics_come_in_the_form_that_is_asked_for() {
    let bench = Bench::start().await;
    let (head, text) = bench.get("/metrics", HOST).await;
    assert!(
        head.contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    assert!(text.contains("process_resident_memory_bytes "), "{text}");
    // The very connection that asks is open.
    assert!(
        text.contains("grpc_server_open_connections{service=\"example\"} 1"),
        "{text}"
    );
    let accept = format!("{HOST}Accept: application/openmetrics-text; version=1.0.0\r\n");
    let (head, text) = bench.get("/metrics", &accept).await;
    assert!(
        head.contains("content-type: application/openmetrics-text"),
        "{head}"
    );
    assert!(text.ends_with("# EOF\n"), "{text}");
}

#[tokio::test]
async fn a_page_that_panics_is_an_error_and_the_next_is_served() {
    let bench = Bench::start().await;
    let (head, body) = bench.get("/panic", HOST).await;
    assert!(
        head.starts_with("HTTP/1.1 500 ") && body.starts_with("PANIC"),
        "{head} {body}"
    );
    let (head, _) = bench.get("/own", HOST).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let (head, _) = bench.get("/nothing", HOST).await;
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
}

#[tokio::test]
async fn beyond_loopback_is_refused_unless_meant_and_then_said() {
    let listener = tokio::net::TcpListener::bind("0.0.0.0:0")
        .await
        .expect("a free port");
    let (_sender, readiness) = Readiness::channel("starting");
    let service = kit::Service::new("example", DOMAIN, readiness);
    let error = kit::serve(service, listener, Default::default())
        .await
        .expect_err("refused");
    assert!(error.to_string().contains("insecure: true"), "{error}");
    assert_eq!(
        kit::exit_code_of(&anyhow::Error::new(error)),
        kit::exit::CONFIG
    );

    let error = kit::listen("0.0.0.0:0", &Exposure::default())
        .await
        .expect_err("refused");
    assert!(matches!(error, kit::ServeError::NotLoopback(_)));
    let taken = kit::listen("127.0.0.1:0", &Exposure::default())
        .await
        .expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let error = kit::listen(&address, &Exposure::default())
        .await
        .expect_err("taken");
    assert!(
        error
            .to_string()
            .starts_with(&format!("cannot listen on {address}")),
        "{error}"
    );

    let bench = Bench::start_with(|service| {
        service.exposure = Exposure {
            insecure: true,
            ..Exposure::default()
        };
    })
    .await;
    let (_, body) = bench.get("/readyz", HOST).await;
    assert!(body.contains("\"insecure\":true"), "{body}");
}
