//! What is wrong below the level of messages: noise, unknown methods, foreign pages, large heads.

use bytes::Bytes;
use tests::{Suite, http, raw};
use tonic::{Code, Request};

use super::{lives, refused};

#[tokio::test]
async fn noise_and_unknown_methods_are_refused() {
    let mut suite = Suite::start().await;
    let noise: Vec<u8> = (0..1024_u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8 | 7)
        .collect();
    let addresses = [
        suite.orchestrator.address().to_owned(),
        suite.monitor.address().to_owned(),
    ];
    let methods = [
        "OrchestratorService/ExecuteWorkflow",
        "EventMonitorService/GetEventMetrics",
    ];
    for (address, method) in addresses.iter().zip(methods) {
        let channel = raw::channel(address);
        let path = format!("/multiagents.v1.{method}");
        let answer = raw::call(&channel, &path, Request::new(noise.clone().into())).await;
        refused(
            &mut suite,
            "noise",
            answer,
            (Code::Internal, "MESSAGE_MALFORMED"),
        )
        .await;
        for path in [
            "/multiagents.v1.OrchestratorService/Nope",
            "/no.such.Service/Method",
        ] {
            let answer = raw::call(&channel, path, Request::new(Bytes::new())).await;
            refused(
                &mut suite,
                path,
                answer,
                (Code::Unimplemented, "METHOD_UNKNOWN"),
            )
            .await;
        }
        let mut zipped = Request::new(Bytes::new());
        let gzip = "gzip".parse().expect("ASCII");
        zipped.metadata_mut().insert("grpc-encoding", gzip);
        let answer = raw::call(&channel, &path, zipped).await;
        let expected = (Code::Unimplemented, "ENCODING_UNSUPPORTED");
        refused(&mut suite, "gzip", answer, expected).await;
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_ends_nothing_but_itself() {
    let mut suite = Suite::start().await;
    for address in [
        suite.orchestrator.address().to_owned(),
        suite.monitor.address().to_owned(),
    ] {
        let mut request = Request::new(Bytes::new());
        let large = "x".repeat(17 << 10).parse().expect("ASCII");
        request.metadata_mut().insert("large", large);
        let path = "/multiagents.v1.OrchestratorService/ListWorkflows";
        let answer = raw::call(&raw::channel(&address), path, request).await;
        assert!(answer.is_err(), "17 KiB of metadata were taken");
        lives(&mut suite, "17 KiB of metadata").await;
    }
}

#[tokio::test]
async fn pages_of_other_sites_get_nothing() {
    let mut suite = Suite::start().await;
    for address in [
        suite.orchestrator.address().to_owned(),
        suite.host.address().to_owned(),
        suite.monitor.address().to_owned(),
    ] {
        let foreign = http::get_with(&address, "/metrics", &[("Host", "evil.example")]).await;
        let foreign = foreign.expect("an answer");
        assert_eq!(foreign.status, 421, "{foreign:?}");
        let headers = [
            ("Host", address.as_str()),
            ("Origin", "http://evil.example"),
        ];
        let foreign = http::get_with(&address, "/metrics", &headers)
            .await
            .expect("an answer");
        assert_eq!(foreign.status, 403, "{foreign:?}");
        let headers = [("Host", "localhost"), ("Origin", "http://localhost:9999")];
        let near = http::get_with(&address, "/healthz", &headers)
            .await
            .expect("an answer");
        assert_eq!(near.status, 200, "{near:?}");
    }
    lives(&mut suite, "foreign pages").await;
}
