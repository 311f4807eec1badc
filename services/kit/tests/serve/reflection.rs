//! Reflection, in both versions: the services, and the details that errors carry.

use tokio_stream::StreamExt as _;
use tonic_reflection::pb::{v1, v1alpha};

use crate::bench::Bench;

#[tokio::test]
async fn the_services_and_the_error_details_are_described() {
    use v1::server_reflection_request::MessageRequest as Ask;
    use v1::server_reflection_response::MessageResponse as Answer;
    let bench = Bench::start().await;
    let mut client =
        v1::server_reflection_client::ServerReflectionClient::new(bench.channel().await);
    let asks = [
        Ask::ListServices(String::new()),
        Ask::FileContainingSymbol("google.rpc.ErrorInfo".into()),
        Ask::FileContainingSymbol("google.rpc.RetryInfo".into()),
        Ask::FileByFilename("google/protobuf/duration.proto".into()),
        Ask::FileContainingSymbol("grpc.health.v1.Health".into()),
    ];
    let requests = tokio_stream::iter(asks.map(|ask| v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(ask),
    }));
    let answers = client
        .server_reflection_info(requests)
        .await
        .expect("served")
        .into_inner();
    let answers: Vec<_> = answers
        .map(|answer| answer.expect("no error").message_response)
        .collect()
        .await;
    let Some(Answer::ListServicesResponse(list)) = &answers[0] else {
        panic!("no list: {answers:?}");
    };
    let names: Vec<_> = list
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    for name in [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
    for answer in &answers[1..] {
        assert!(
            matches!(answer, Some(Answer::FileDescriptorResponse(_))),
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn older_clients_are_answered_too() {
    use v1alpha::server_reflection_request::MessageRequest as Ask;
    let bench = Bench::start().await;
    let mut client =
        v1alpha::server_reflection_client::ServerReflectionClient::new(bench.channel().await);
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(Ask::ListServices(String::new())),
    };
    let mut answers = client
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .expect("served")
        .into_inner();
    assert!(answers.message().await.expect("no error").is_some());
}
