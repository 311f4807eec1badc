//! The command line: everything that people and scripts do with a suite.
//!
//! It knows the API alone: nothing is shown here that a stranger's client could not show.

mod arguments;
mod commands;
mod connection;
mod output;
mod table;
mod progress;
mod words;
mod contracts;
mod failure;
mod services;

use std::process::ExitCode;

use clap::Parser as _;

use arguments::{Arguments, Command};
use connection::Suite;
use failure::Failure;
use output::Output;

/// What every subcommand is given.
pub(crate) struct Context {
    /// Where the services are.
    pub(crate) suite: Suite,
    /// Where the answer goes.
    pub(crate) output: Output,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let everywhere = arguments.everywhere.clone();
    // One thread: a child process is told of our death only as long as the thread that started it
    // lives, and nothing here computes.
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return said(&Failure::from(error), everywhere.json),
    };
    let mut context = Context {
        suite: Suite {
            orchestrator: everywhere.orchestrator,
            monitor: everywhere.monitor,
        },
        output: Output::standard(everywhere.json, everywhere.utc),
    };
    let ended = runtime.block_on(run(arguments.command, &mut context));
    runtime.shutdown_background();
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(failure) => said(&failure, everywhere.json),
    }
}

/// Does what the subcommand says; gives the exit code.
async fn run(command: Command, context: &mut Context) -> Result<u8, Failure> {
    match command {
        Command::Up(arguments) => commands::up::run(arguments, context).await,
        Command::Demo(arguments) => commands::demo::run(arguments, context).await,
        Command::Run(arguments) => commands::run::run(arguments, context).await,
        Command::Status(arguments) => commands::status::run(arguments, context).await,
        Command::List(arguments) => commands::list::run(arguments, context).await,
        Command::Cancel(arguments) => commands::cancel::run(arguments, context).await,
        Command::Trace(arguments) => commands::trace::run(arguments, context).await,
        Command::Events(arguments) => commands::events::run(arguments, context).await,
        Command::Workers(arguments) => commands::workers::run(arguments, context).await,
        Command::Errors(arguments) => commands::errors::run(arguments, context).await,
        Command::Alerts(arguments) => commands::alerts::run(arguments, context).await,
        Command::Metrics(arguments) => commands::metrics::run(arguments, context).await,
        Command::Verify(arguments) => commands::verify::run(arguments, context).await,
        Command::Backup(arguments) => commands::backup::run(arguments, context).await,
        Command::Restore(arguments) => commands::restore::run(arguments, context).await,
        Command::Workflows(arguments) => commands::workflows::run(arguments, context).await,
        Command::Register(arguments) => commands::register::run(arguments, context).await,
    }
}

/// Says why it failed, on standard error.
fn said(failure: &Failure, json: bool) -> ExitCode {
    use std::io::Write as _;
    if !failure.reader_gone {
        let mut errors = std::io::stderr();
        // A standard error that is gone leaves the exit code to speak.
        let _gone = if json {
            writeln!(errors, "{}", failure.to_json())
        } else {
            writeln!(errors, "multiagents: {failure}")
        };
    }
    ExitCode::from(failure.exit)
}
