//! Whether a service can do its work, asked as anybody can: `GET /readyz`.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long one question may take.
const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// Asks `/readyz`: nothing when it is ready, else the reason that it gives.
pub(super) async fn readiness(address: SocketAddr) -> std::io::Result<Option<String>> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        let request =
            format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(16 * 1024).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = tokio::time::timeout(READY_TIMEOUT, asked)
        .await
        .map_err(|_late| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    if answer.starts_with("HTTP/1.1 200") {
        return Ok(None);
    }
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    Ok(Some(body.to_owned()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[tokio::test]
    async fn readiness_is_asked_by_http_and_a_reason_against_it_is_kept() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\n\r\nready", None),
            (
                "HTTP/1.1 503 Service Unavailable\r\n\r\nreplaying",
                Some("replaying".to_owned()),
            ),
        ] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let server = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 14];
                stream.read_exact(&mut request).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
                let mut rest = Vec::new();
                stream.shutdown().await.unwrap();
                let _reset = stream.read_to_end(&mut rest).await;
                request
            });
            assert_eq!(readiness(address).await.unwrap(), expected);
            assert_eq!(&server.await.unwrap(), b"GET /readyz HT");
        }
    }
}
