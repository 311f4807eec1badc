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
                std::process::exit(128 + number);
            }
        }
    });
    Ok(token)
}
