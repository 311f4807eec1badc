//! `multiagents up`: the three services as child processes, and one Ctrl-C that stops all in order.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::Context;
use crate::failure::{Failure, exit};
use crate::output::{Output, Tone};
use crate::progress;
use crate::services::{Plan, Services, Which};
use crate::words;

/// What `up` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  multiagents up
  multiagents up --data-dir /var/lib/multiagents --config-dir /etc/multiagents
  multiagents up --orchestrator-port 0 --worker-host-port 0 --monitor-port 0 --json

The services are programs of their own, which lie beside this one; start them one by one where you
want them on several machines. The first Ctrl-C or SIGTERM stops all in order (running commands
finish), a second one stops all at once. If a service ends by itself the others are stopped and the
exit code is 1, or the service's own 2, 74, 75 or 78.")]
pub(crate) struct Arguments {
    /// Where the services keep data and logs
    #[arg(long, value_name = "DIR", default_value = ".multiagents")]
    data_dir: PathBuf,
    /// Where orchestrator.yaml, worker-host.yaml, and monitor.yaml or monitoring.yaml are
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,
    /// The orchestrator's port; 0 is a free one
    #[arg(long, value_name = "PORT", default_value_t = 7001)]
    orchestrator_port: u16,
    /// The worker host's port, for its health and metrics; 0 is a free one
    #[arg(long, value_name = "PORT", default_value_t = 7002)]
    worker_host_port: u16,
    /// The monitor's port; 0 is a free one
    #[arg(long, value_name = "PORT", default_value_t = 7003)]
    monitor_port: u16,
    /// Let the services log to this terminal instead of files
    #[arg(long)]
    logs_here: bool,
}

/// Starts them and stays until told to stop.
pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<u8, Failure> {
    let plan = Plan {
        data_dir: arguments.data_dir,
        config_dir: arguments.config_dir,
        ports: [
            arguments.orchestrator_port,
            arguments.worker_host_port,
            arguments.monitor_port,
        ],
        logs_here: arguments.logs_here,
    };
    let mut stops = StopSignals::install()?;
    let began = Instant::now();
    let Some(mut services) = start(&plan, &mut stops).await? else {
        return Ok(exit::OK);
    };
    print(&services, began, &mut context.output)?;
    let ended = tokio::select! {
        () = stops.next() => Ok(exit::OK),
        failure = services.any_end() => Err(failure),
    };
    if ended.is_ok() {
        context
            .output
            .note("Stopping in order; a second Ctrl-C stops all at once.");
    }
    let output = &context.output;
    let stopped = services.stop(stops.next(), |step| output.note(step)).await;
    // Why it began to stop says more than how the rest stopped.
    ended.and_then(|code| stopped.map(|()| code))
}

/// Starts the services, telling what is waited for; none when a signal came first.
pub(crate) async fn start(
    plan: &Plan,
    stops: &mut StopSignals,
) -> Result<Option<Services>, Failure> {
    let spinner = progress::spinner("Starting");
    let started = tokio::select! {
        started = Services::start(plan, |what| spinner.set_message(what.to_owned())) => {
            started.map(Some)
        }
        // Dropping what was started kills it.
        () = stops.next() => Ok(None),
    };
    spinner.finish_and_clear();
    started
}

/// The signals that ask for an end: Ctrl-C, SIGTERM, and the end of the terminal.
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl StopSignals {
    /// Catches them from here on.
    pub(crate) fn install() -> Result<Self, Failure> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

fn print(services: &Services, began: Instant, output: &mut Output) -> Result<(), Failure> {
    let orchestrator = services.address(Which::Orchestrator);
    let worker_host = services.address(Which::WorkerHost);
    let monitor = services.address(Which::Monitor);
    let data_dir = services.data_dir().display().to_string();
    if output.json {
        return output.json_line(&json!({
            "orchestrator": orchestrator,
            "worker_host": worker_host,
            "monitor": monitor,
            "data_dir": data_dir,
        }));
    }
    let ready = output.painted("multiagents is up", Tone::Strong);
    output.line(format!(
        "{ready} ({}); data and logs are in {data_dir}",
        words::span(began.elapsed())
    ))?;
    output.blank()?;
    output.line(format!("  orchestrator  {orchestrator}"))?;
    output.line(format!("  worker host   {worker_host}"))?;
    output.line(format!("  monitor       {monitor}"))?;
    output.blank()?;
    output
        .line("Try in another terminal (the demo registers the workflow that is run after it):")?;
    let flags = address_flags(&orchestrator, &monitor);
    for command in [
        "demo",
        "run simple_monitoring --input '{\"data\":\"hello\"}' --wait",
        "events --follow",
        "workers",
    ] {
        output.line(format!("  multiagents{flags} {command}"))?;
    }
    output.blank()?;
    output.line("Ctrl-C stops all three in order.")
}

/// What another command needs to find services that aren't where it looks by itself.
fn address_flags(orchestrator: &str, monitor: &str) -> String {
    let mut flags = String::new();
    if orchestrator != "127.0.0.1:7001" {
        flags.push_str(&format!(" --orchestrator {orchestrator}"));
    }
    if monitor != "127.0.0.1:7003" {
        flags.push_str(&format!(" --monitor {monitor}"));
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_name_addresses_only_where_they_are_not_the_usual_ones() {
        assert_eq!(address_flags("127.0.0.1:7001", "127.0.0.1:7003"), "");
        assert_eq!(
            address_flags("127.0.0.1:9", "127.0.0.1:7003"),
            " --orchestrator 127.0.0.1:9"
        );
    }
}
