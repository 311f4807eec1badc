//! Bad calls get the right code, a reason and a sentence; the next good one is served.

use std::time::Duration;

use kit::config::HumaneDuration;
use kit::status;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest as Ask;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use crate::bench::{Bench, DOMAIN, call, reason};

const CHECK: &str = "/grpc.health.v1.Health/Check";

/// Asserts what came back, and that the server still serves.
async fn refused(bench: &Bench, status: &Status, code: Code, expected: &str) {
    assert_eq!(
        (status.code(), reason(status).as_str()),
        (code, expected),
        "{status:?}"
    );
    let info = status.get_details_error_info().expect("an ErrorInfo");
    assert_eq!(info.domain, DOMAIN);
    assert!(!status.message().is_empty());
    call(bench.channel().await, CHECK, Ask::default())
        .await
        .expect("the next call is served");
}

#[tokio::test]
async fn a_message_that_is_too_large_is_out_of_range() {
    let bench = Bench::start().await;
    let ask = Ask {
        service: "x".repeat(5 * 1024 * 1024),
    };
    let status = call(bench.channel().await, CHECK, ask)
        .await
        .expect_err("too large");
    refused(&bench, &status, Code::OutOfRange, status::MESSAGE_TOO_LARGE).await;
    assert!(
        status.message().contains("5242885 bytes"),
        "{}",
        status.message()
    );
}

#[tokio::test]
async fn a_length_of_four_gibibytes_is_out_of_range() {
    let bench = Bench::start().await;
    let status = bench
        .raw_call(CHECK, &[], vec![0, 0xff, 0xff, 0xff, 0xff])
        .await;
    refused(&bench, &status, Code::OutOfRange, status::MESSAGE_TOO_LARGE).await;
}

#[tokio::test]
async fn what_is_no_message_is_malformed() {
    let bench = Bench::start().await;
    let noise: Vec<u8> = (0..1024_u32).map(|byte| (byte * 167 + 255) as u8).collect();
    let mut framed = vec![0, 0, 0, 4, 0];
    framed.extend(&noise);
    for body in [
        noise,
        framed,
        vec![0, 0, 0, 0, 9, 1],
        vec![1, 0, 0, 0, 0],
        vec![],
    ] {
        let status = bench.raw_call(CHECK, &[], body).await;
        refused(&bench, &status, Code::Internal, status::MESSAGE_MALFORMED).await;
    }
}

#[tokio::test]
async fn an_encoding_that_is_off_is_unsupported() {
    let bench = Bench::start().await;
    let status = bench
        .raw_call(CHECK, &[("grpc-encoding", "gzip")], vec![1, 0, 0, 0, 0])
        .await;
    refused(
        &bench,
        &status,
        Code::Unimplemented,
        status::ENCODING_UNSUPPORTED,
    )
    .await;
    assert!(status.metadata().contains_key("grpc-accept-encoding"));
}

#[tokio::test]
async fn an_unknown_method_or_service_is_named_and_so_is_the_nearest() {
    let bench = Bench::start().await;
    for path in [
        "/example.TryOut/Nothing",
        "/no.Such/Service",
        "/",
        "/grpc.health.v1.Health/Chek",
    ] {
        let status = bench.raw_call(path, &[], vec![0, 0, 0, 0, 0]).await;
        refused(&bench, &status, Code::Unimplemented, status::METHOD_UNKNOWN).await;
        assert!(status.message().contains(path), "{}", status.message());
    }
    let status = bench
        .raw_call("/grpc.health.v1.Health/Chek", &[], vec![])
        .await;
    assert!(
        status
            .message()
            .ends_with("did you mean /grpc.health.v1.Health/Check?")
    );
}

#[tokio::test]
async fn the_health_of_an_unknown_service_is_not_found_with_a_reason() {
    let bench = Bench::start().await;
    let channel = bench.endpoint().connect().await.expect("it listens");
    let service = "no.Such".into();
    let asked = HealthClient::new(channel).check(Ask { service }).await;
    let status = asked.expect_err("an unknown service");
    refused(&bench, &status, Code::NotFound, status::FIELD_INVALID).await;
    assert!(status.message().starts_with("service names none"));
}

#[tokio::test]
async fn a_deadline_that_has_passed_is_said_before_anything_begins() {
    let bench = Bench::start().await;
    let status = bench
        .raw_call(
            "/example.TryOut/Hold",
            &[("grpc-timeout", "1n")],
            vec![0; 5],
        )
        .await;
    refused(
        &bench,
        &status,
        Code::DeadlineExceeded,
        status::DEADLINE_PASSED,
    )
    .await;
}

#[tokio::test]
async fn a_deadline_ends_a_call_that_takes_longer() {
    let bench = Bench::start().await;
    let status = bench
        .raw_call(
            "/example.TryOut/Hold",
            &[("grpc-timeout", "20m")],
            vec![0; 5],
        )
        .await;
    refused(
        &bench,
        &status,
        Code::DeadlineExceeded,
        status::DEADLINE_PASSED,
    )
    .await;
    assert!(
        status
            .message()
            .starts_with("the call's own deadline of 20ms")
    );
}

#[tokio::test]
async fn the_servers_limit_ends_a_call_that_takes_longer_but_not_an_exempt_one() {
    let bench = Bench::start_with(|service| {
        service.limits.call_timeout = HumaneDuration(Duration::from_millis(20));
    })
    .await;
    let status = bench
        .call("/example.TryOut/Hold")
        .await
        .expect_err("too long");
    refused(
        &bench,
        &status,
        Code::DeadlineExceeded,
        status::DEADLINE_PASSED,
    )
    .await;
    assert!(status.message().starts_with("the server's limit of 20ms"));

    let bench = Bench::start_with(|service| {
        service.limits.call_timeout = HumaneDuration(Duration::from_millis(20));
        service.exempt_methods = vec!["/example.TryOut/HoldLong".into()];
    })
    .await;
    let held = bench.call("/example.TryOut/HoldLong");
    let release = async {
        bench.try_out.begun.notified().await;
        limit_has_passed(&bench).await;
        bench.try_out.release.notify_one();
    };
    tokio::join!(held, release)
        .0
        .expect("an exempt call may take its time");
}

/// A call that begins now and is ended by the server's limit: all that began before is past it.
async fn limit_has_passed(bench: &Bench) {
    let status = bench
        .call("/example.TryOut/Hold")
        .await
        .expect_err("too long");
    assert_eq!(reason(&status), status::DEADLINE_PASSED);
}

#[tokio::test]
async fn a_stream_outlives_the_servers_limit() {
    let bench = Bench::start_with(|service| {
        service.limits.call_timeout = HumaneDuration(Duration::from_millis(20));
        service.exempt_methods = vec!["/example.TryOut/Follow".into()];
    })
    .await;
    let mut stream = bench
        .stream("/example.TryOut/Follow")
        .await
        .expect("a stream");
    stream
        .message()
        .await
        .expect("no error")
        .expect("a first message");
    limit_has_passed(&bench).await;
    bench.try_out.release.notify_one();
    stream
        .message()
        .await
        .expect("no error")
        .expect("a second message");
}

#[tokio::test]
async fn a_call_too_many_is_shed_with_a_time_to_come_back_and_health_is_still_heard() {
    let bench = Bench::start_with(|service| service.limits.calls_max = 1).await;
    let held = bench.call("/example.TryOut/Hold");
    let second = async {
        bench.try_out.begun.notified().await;
        let status = bench
            .call("/example.TryOut/Hold")
            .await
            .expect_err("one too many");
        refused(&bench, &status, Code::ResourceExhausted, status::OVERLOADED).await;
        let retry = status.get_details_retry_info().expect("when to come back");
        assert_eq!(retry.retry_delay, Some(Duration::from_secs(1)));
        bench.try_out.release.notify_one();
    };
    tokio::join!(held, second)
        .0
        .expect("the first call ends well");
    bench.try_out.release.notify_one();
    bench
        .call("/example.TryOut/Hold")
        .await
        .expect("its place is free again");
}

#[tokio::test]
async fn a_stream_takes_the_place_of_no_short_call() {
    let bench = Bench::start_with(|service| service.limits.calls_max = 1).await;
    let mut stream = bench
        .stream("/example.TryOut/Follow")
        .await
        .expect("a stream");
    stream
        .message()
        .await
        .expect("no error")
        .expect("a first message");
    bench.try_out.release.notify_one();
    stream
        .message()
        .await
        .expect("no error")
        .expect("a second message");
    let (held, ()) = tokio::join!(bench.call("/example.TryOut/Hold"), async {
        bench.try_out.begun.notified().await;
        // Two wait now, the stream's next message and the call.
        bench.try_out.release.notify_waiters();
    });
    held.expect("there was a place");
}

#[tokio::test]
async fn long_calls_have_a_bound_of_their_own_and_keep_their_place_to_the_end() {
    let bench = Bench::start_with(|service| {
        service.limits.exempt_calls_max = 1;
        service.exempt_methods = vec!["/example.TryOut/Follow".into()];
    })
    .await;
    let stream = bench
        .stream("/example.TryOut/Follow")
        .await
        .expect("a stream");
    let status = bench
        .stream("/example.TryOut/Follow")
        .await
        .expect_err("one too many");
    assert_eq!(reason(&status), status::OVERLOADED);
    drop(stream);
    // The place is free once the server has seen the stream's end.
    while bench.stream("/example.TryOut/Follow").await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_panic_ends_its_own_call_and_nothing_else() {
    let bench = Bench::start().await;
    let channel = bench.channel().await;
    let other = call(channel.clone(), "/example.TryOut/Hold", Ask::default());
    let panics = async {
        bench.try_out.begun.notified().await;
        let status = call(channel.clone(), "/example.TryOut/Panic", Ask::default())
            .await
            .expect_err("a panic");
        refused(&bench, &status, Code::Internal, status::PANIC).await;
        assert!(
            !status.message().contains("a handler's bug"),
            "the inside stays inside"
        );
        bench.try_out.release.notify_one();
    };
    tokio::join!(other, panics)
        .0
        .expect("a call on the same connection ends well");
}

#[tokio::test]
async fn a_panic_in_a_stream_ends_it_with_a_status() {
    let bench = Bench::start().await;
    let mut stream = bench
        .stream("/example.TryOut/PanicLater")
        .await
        .expect("a stream");
    stream
        .message()
        .await
        .expect("no error")
        .expect("a first message");
    let status = stream.message().await.expect_err("a panic");
    refused(&bench, &status, Code::Internal, status::PANIC).await;
}

#[tokio::test]
async fn unknown_is_never_an_answer() {
    let bench = Bench::start().await;
    let status = bench.call("/example.TryOut/Odd").await.expect_err("odd");
    refused(&bench, &status, Code::Internal, status::INTERNAL).await;
    assert_eq!(status.message(), "something odd");

    let mut stream = bench
        .stream("/example.TryOut/OddLater")
        .await
        .expect("a stream");
    stream
        .message()
        .await
        .expect("no error")
        .expect("a first message");
    let status = stream.message().await.expect_err("odd");
    refused(&bench, &status, Code::Internal, status::INTERNAL).await;
    assert_eq!(status.message(), "something odd");
}

#[tokio::test]
async fn too_many_headers_are_refused_and_other_streams_live() {
    let bench = Bench::start().await;
    let mut stream = bench
        .stream("/example.TryOut/Follow")
        .await
        .expect("a stream");
    stream
        .message()
        .await
        .expect("no error")
        .expect("a first message");
    let long = "x".repeat(17 * 1024);
    let status = bench
        .raw_call(CHECK, &[("x-long", &long)], vec![0; 5])
        .await;
    assert_ne!(status.code(), Code::Ok);
    bench.try_out.release.notify_one();
    stream
        .message()
        .await
        .expect("no error")
        .expect("a second message");
}

#[tokio::test]
async fn calls_are_counted_by_method_and_code() {
    let bench = Bench::start().await;
    call(bench.channel().await, CHECK, Ask::default())
        .await
        .expect("served");
    let unknown = Ask {
        service: "nobody".into(),
    };
    call(bench.channel().await, CHECK, unknown)
        .await
        .expect_err("unknown");
    bench.call("/no.Such/Method").await.expect_err("unknown");
    let (_, text) = bench.get("/metrics", "Host: localhost\r\n").await;
    for (method, code) in [
        ("grpc.health.v1.Health/Check", "OK"),
        ("grpc.health.v1.Health/Check", "NOT_FOUND"),
        ("unknown", "UNIMPLEMENTED"),
    ] {
        let labels = format!("grpc_method=\"{method}\",grpc_code=\"{code}\"");
        let sample = format!("grpc_server_handled_total{{{labels}}} 1");
        assert!(text.contains(&sample), "{sample} in {text}");
    }
}
