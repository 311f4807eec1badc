//! The orderly end: nothing new, what is in hand may finish, and nothing holds it up for ever.

use std::time::{Duration, Instant};

use kit::config::HumaneDuration;
use kit::status;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::bench::{Bench, reason};

#[tokio::test]
async fn a_call_in_hand_is_finished_while_health_says_not_serving_and_nobody_new_comes_in() {
    let bench = Bench::start().await;
    let mut health = HealthClient::new(bench.channel().await);
    let mut watch = health
        .watch(HealthCheckRequest::default())
        .await
        .expect("known")
        .into_inner();
    let first = watch
        .message()
        .await
        .expect("no error")
        .expect("a first word");
    assert_eq!(first.status(), ServingStatus::Serving);

    let held = bench.call("/example.TryOut/Hold");
    let stop = async {
        bench.try_out.begun.notified().await;
        bench.shutdown.cancel();
        let next = watch
            .message()
            .await
            .expect("no error")
            .expect("a last word");
        assert_eq!(next.status(), ServingStatus::NotServing);
        assert!(
            bench.endpoint().connect().await.is_err(),
            "nothing more is accepted"
        );
        bench.try_out.release.notify_one();
    };
    tokio::join!(held, stop)
        .0
        .expect("the call in hand ends well");
    let status = watch
        .message()
        .await
        .expect_err("the watch ends with the server");
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, status::SHUTTING_DOWN)
    );
    bench.ended().await;
}

#[tokio::test]
async fn after_the_grace_what_is_still_open_is_ended_with_a_reason() {
    let bench = Bench::start_with(|service| {
        service.limits.drain_grace = HumaneDuration(Duration::from_millis(50));
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
    let held = bench.call("/example.TryOut/Hold");
    let stop = async {
        bench.try_out.begun.notified().await;
        bench.shutdown.cancel();
        stream.message().await.expect_err("ended")
    };
    let (held, streamed) = tokio::join!(held, stop);
    for status in [held.expect_err("ended"), streamed] {
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert_eq!(reason(&status), status::SHUTTING_DOWN);
    }
    bench.ended().await;
}

#[tokio::test]
async fn an_idle_server_stops_at_once_whoever_is_connected() {
    let bench = Bench::start().await;
    let _idle = bench.channel().await;
    let _silent = tokio::net::TcpStream::connect(bench.address)
        .await
        .expect("it listens");
    let started = Instant::now();
    bench.shutdown.cancel();
    bench.ended().await;
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
}
