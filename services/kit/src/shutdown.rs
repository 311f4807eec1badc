//! SIGTERM and SIGINT as a token that everything which runs waits on.
//!
//! The first signal asks for an orderly end, the second one ends the process at once. Only
//! `main` calls this: a service under test is given a token of the test's own.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Installs the signal handlers and returns the token that the first signal cancels.
///
/// # Errors
/// Fails when the operating system refuses a handler.
pub fn on_signals() -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let first = token.clone();
    tokio::spawn(async move {
        let mut received = 0;
        loop {
            let (name, number) = tokio::select! {
                _ = terminate.recv() => ("SIGTERM", 15),
                _ = interrupt.recv() => ("SIGINT", 2),
            };
            received += 1;
            if received == 1 {
                tracing::info!(
                    signal = name,
                    "stopping in order; a second signal stops at once"
                );
                first.cancel();
            } else {
                eprintln!("stopped at once by a second {name}");
                #[expect(clippy::disallowed_methods, reason = "who asks twice wants no order")]
                std::process::exit(128 + number);
            }
        }
    });
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;

    use tokio::io::{AsyncBufReadExt as _, BufReader};
    use tokio::process::Command;

    /// Not a test of its own: what `the_first_signal_asks_and_the_second_ends` runs as a process.
    #[tokio::test]
    #[ignore = "run by another test"]
    async fn a_process_that_never_stops_by_itself() {
        let token = on_signals().expect("handlers");
        println!("\nready");
        token.cancelled().await;
        println!("asked");
        std::future::pending::<()>().await;
    }

    #[tokio::test]
    async fn the_first_signal_asks_and_the_second_ends() {
        for (signal, code) in [("TERM", 143), ("INT", 130)] {
            let mut child = Command::new(std::env::current_exe().expect("this very program"))
                .args(["--exact", "--ignored", "--nocapture"])
                .arg("shutdown::tests::a_process_that_never_stops_by_itself")
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .expect("started");
            let id = child.id().expect("it runs").to_string();
            let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
            for awaited in ["ready", "asked"] {
                while lines.next_line().await.expect("text").expect("it runs on") != awaited {}
                let name = format!("-{signal}");
                Command::new("kill")
                    .args([&name, &id])
                    .status()
                    .await
                    .expect("kill runs");
            }
            assert_eq!(
                child.wait().await.expect("it ends").code(),
                Some(code),
                "{signal}"
            );
        }
    }
}
