//! Connections are bounded, counted, and must begin to speak in time.

use std::time::Duration;

use kit::config::HumaneDuration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::bench::Bench;

/// Waits until the peer has closed; an error counts as closed too.
async fn closed(stream: &mut TcpStream) {
    let mut buffer = [0; 1024];
    while matches!(stream.read(&mut buffer).await, Ok(length) if length > 0) {}
}

#[tokio::test]
async fn a_connection_too_many_is_closed_at_once_and_the_others_live() {
    let bench = Bench::start_with(|service| service.limits.connections_per_address_max = 2).await;
    let mut first = bench
        .stream("/example.TryOut/Follow")
        .await
        .expect("a stream");
    let second = bench.channel().await;
    while bench.connections.count() < 2 {
        tokio::task::yield_now().await;
    }
    let mut third = TcpStream::connect(bench.address).await.expect("it listens");
    closed(&mut third).await;
    assert_eq!(bench.connections.count(), 2);
    first.message().await.expect("no error").expect("a message");
    drop((first, second));
    while bench.connections.count() > 0 {
        tokio::task::yield_now().await;
    }
    let (head, _) = bench.get("/healthz", "Host: localhost\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

#[tokio::test]
async fn who_connects_and_says_too_little_is_closed_and_others_are_served() {
    let bench = Bench::start_with(|service| {
        service.limits.handshake_timeout = HumaneDuration(Duration::from_millis(250));
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
    for beginning in [
        "",
        "P",
        "GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
        "PRI * HTTP/2.0\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut slow = TcpStream::connect(bench.address).await.expect("it listens");
        slow.write_all(beginning.as_bytes()).await.expect("written");
        let (head, _) = bench.get("/healthz", "Host: localhost\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        tokio::time::timeout(Duration::from_secs(5), closed(&mut slow))
            .await
            .unwrap_or_else(|_| panic!("still open after {beginning:?}"));
    }
    // Each of those came later than the stream and was over its time.
    bench.try_out.release.notify_one();
    stream
        .message()
        .await
        .expect("no error")
        .expect("a client that spoke in time stays");
}

#[tokio::test]
async fn an_old_connection_takes_no_new_call_and_what_is_open_on_it_goes_on() {
    let bench = Bench::start_with(|service| {
        service.limits.connection_age_max = HumaneDuration(Duration::from_millis(500));
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
    // A later connection that has reached its age says that the stream's has too.
    let mut later = TcpStream::connect(bench.address).await.expect("it listens");
    closed(&mut later).await;
    bench.try_out.release.notify_one();
    stream
        .message()
        .await
        .expect("no error")
        .expect("a second message");
    drop(stream);
    while bench.connections.count() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn noise_is_answered_or_closed_and_harms_nobody() {
    let bench = Bench::start().await;
    for noise in [
        &b"\x00\x01\x02\x03 noise and more noise, forty bytes or so"[..],
        &[0xff; 64],
    ] {
        let mut stream = TcpStream::connect(bench.address).await.expect("it listens");
        stream.write_all(noise).await.expect("written");
        tokio::time::timeout(Duration::from_secs(10), closed(&mut stream))
            .await
            .expect("closed");
    }
    let (head, _) = bench.get("/healthz", "Host: localhost\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}
