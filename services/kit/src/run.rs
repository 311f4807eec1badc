//! From `main` to an exit code: one runtime, one printed sentence when it fails.
//!
//! Nothing here decides what an error means: whoever raises it attaches its exit code.

use std::fmt;
use std::future::Future;
use std::process::ExitCode;

/// What scripts can tell failures apart by.
pub mod exit {
    /// The request was understood and refused.
    pub const REFUSED: u8 = 1;
    /// Wrong usage, or a file given as input is not valid.
    pub const USAGE: u8 = 2;
    /// The service that was asked could not be reached.
    pub const UNREACHABLE: u8 = 69;
    /// The store failed, or what it holds is not what it should be.
    pub const STORE: u8 = 74;
    /// The data directory is in use by another process.
    pub const LOCKED: u8 = 75;
    /// The configuration is wrong, or asks for what is not safe.
    pub const CONFIG: u8 = 78;
}

/// An error that knows its exit code.
#[derive(Debug)]
pub struct ExitError {
    code: u8,
    source: anyhow::Error,
}

impl ExitError {
    /// The exit code, one of [`exit`].
    pub fn code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for ExitError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.source, out)
    }
}

impl std::error::Error for ExitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.source()
    }
}

/// Attaches an exit code to an error.
pub fn exit_with(code: u8, source: impl Into<anyhow::Error>) -> anyhow::Error {
    anyhow::Error::new(ExitError {
        code,
        source: source.into(),
    })
}

/// The exit code that an error asks for: its own, 78 for a wrong configuration or an
/// unsafe address, else 1.
pub fn exit_code_of(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if let Some(exit) = cause.downcast_ref::<ExitError>() {
            return exit.code;
        }
        let unsafe_address = matches!(
            cause.downcast_ref::<crate::ServeError>(),
            Some(crate::ServeError::NotLoopback(_))
        );
        if unsafe_address || cause.is::<crate::config::ConfigError>() {
            return exit::CONFIG;
        }
    }
    exit::REFUSED
}

/// How many threads run the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// Everything on the calling thread: least work for a service that is mostly idle.
    Current,
    /// As many as the machine has cores.
    PerCore,
}

/// Runs `service` to its end and maps how it ended to an exit code.
///
/// A failure is printed as one line on standard error, each cause after the one before it.
pub fn run_main<F>(name: &str, threads: Threads, service: F) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    let mut builder = match threads {
        Threads::Current => tokio::runtime::Builder::new_current_thread(),
        Threads::PerCore => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = match builder.enable_all().thread_name(name).build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(name, &anyhow::Error::new(error)),
    };
    let ended = runtime.block_on(service);
    // What still runs has had its chance in the drain; a stuck blocking call must not hold up
    // the end of the process.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(name, &error),
    }
}

fn failed(name: &str, error: &anyhow::Error) -> ExitCode {
    eprintln!("{name}: {}", sentence(error));
    ExitCode::from(exit_code_of(error))
}

/// The error and its causes in one line, none of them said twice.
fn sentence(error: &anyhow::Error) -> String {
    let mut said = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if said.is_empty() {
            said = text;
        } else if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
    }
    crate::logging::escape_control(&said).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_survives_added_context() {
        let error = exit_with(exit::LOCKED, anyhow::anyhow!("in use by process 7"));
        let error = error.context("cannot open the data directory");
        assert_eq!(exit_code_of(&error), 75);
        assert_eq!(
            sentence(&error),
            "cannot open the data directory: in use by process 7"
        );
    }

    #[test]
    fn an_error_without_a_code_is_a_refusal() {
        assert_eq!(exit_code_of(&anyhow::anyhow!("no")), 1);
    }

    #[test]
    fn a_service_that_ends_well_exits_zero_on_either_runtime() {
        for threads in [Threads::Current, Threads::PerCore] {
            let code = run_main("test", threads, async {
                tokio::task::yield_now().await;
                Ok(())
            });
            assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::SUCCESS));
        }
    }
}
