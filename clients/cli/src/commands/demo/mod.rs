//! `multiagents demo`: the four demonstrations, on a running suite or on one of its own.
//!
//! Every figure that is printed was answered by the services; nothing is made up, and nothing is
//! rounded up to look well.

mod lifecycle;
mod performance;
mod patterns;
mod resources;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use multiagents_client::{Client, Monitor, Start};
use proto::wire;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::Context;
use crate::commands::up::{self, StopSignals};
use crate::failure::{Failure, exit};
use crate::output::Output;
use crate::progress;
use crate::services::{Plan, Services, Which};
use crate::words;

/// The workflows, registered before anything else.
const WORKFLOWS: [&str; 4] = [
    include_str!("../../../../../config/workflows/simple_monitoring.yaml"),
    include_str!("../../../../../config/workflows/parallel_monitoring.yaml"),
    include_str!("../../../../../config/workflows/error_monitoring.yaml"),
    include_str!("../../../../../config/workflows/cpu_intensive_monitoring.yaml"),
];

/// How long one transaction of the demonstrations may take: the slowest worker with a full queue
/// before it, many times over.
const END_TIMEOUT: Duration = Duration::from_secs(120);
/// How long the monitor may take to have seen what has ended.
const SEEN_TIMEOUT: Duration = Duration::from_secs(20);
/// How often it is asked.
const SEEN_INTERVAL: Duration = Duration::from_millis(50);

/// What `demo` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  multiagents demo --up               on a suite of its own, which is stopped at the end
  multiagents demo                    on the suite that runs at --orchestrator and --monitor
  multiagents demo --up --quick       in half a minute

It shows, on real work: the life of one transaction's events; how three workers did over ten
transactions at once; which failures twenty flaky transactions had; what the machine did under
computing load. With --json each demonstration is one line of its figures.")]
pub(crate) struct Arguments {
    /// Start a suite for the demonstrations on free ports, and stop it at the end
    #[arg(long)]
    up: bool,
    /// Watch the machine for 6 seconds instead of 30
    #[arg(long)]
    quick: bool,
    /// Where the suite of --up keeps its data; a directory that is removed at the end if not given
    #[arg(long, value_name = "DIR", requires = "up")]
    data_dir: Option<PathBuf>,
    /// Where the suite of --up finds its configuration
    #[arg(long, value_name = "DIR", requires = "up")]
    config_dir: Option<PathBuf>,
}

/// Runs them.
pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<u8, Failure> {
    if !arguments.up {
        show(context, arguments.quick).await?;
        return Ok(exit::OK);
    }
    let temporary = match &arguments.data_dir {
        Some(_) => None,
        None => Some(
            tempfile::Builder::new()
                .prefix("multiagents-demo-")
                .tempdir()?,
        ),
    };
    let data_dir = match (&arguments.data_dir, &temporary) {
        (Some(given), _) => given.clone(),
        (None, Some(temporary)) => temporary.path().to_path_buf(),
        (None, None) => PathBuf::from(".multiagents"),
    };
    let plan = Plan {
        data_dir,
        config_dir: arguments.config_dir,
        ports: [0; 3],
        logs_here: false,
    };
    let mut stops = StopSignals::install()?;
    let began = Instant::now();
    let Some(mut services) = up::start(&plan, &mut stops).await? else {
        return Ok(exit::REFUSED);
    };
    context.suite.orchestrator = services.address(Which::Orchestrator);
    context.suite.monitor = services.address(Which::Monitor);
    tell_start(&services, began, &mut context.output)?;
    let shown = tokio::select! {
        shown = show(context, arguments.quick) => shown,
        failure = services.any_end() => Err(failure),
        () = stops.next() => Err(Failure::refused("the demonstrations were interrupted")),
    };
    let output = &context.output;
    let stopped = services.stop(stops.next(), |step| output.note(step)).await;
    shown.and(stopped)?;
    Ok(exit::OK)
}

fn tell_start(services: &Services, began: Instant, output: &mut Output) -> Result<(), Failure> {
    if output.json {
        return Ok(());
    }
    output.line(format!(
        "The suite is up ({}): orchestrator {}, worker host {}, monitor {}",
        words::span(began.elapsed()),
        services.address(Which::Orchestrator),
        services.address(Which::WorkerHost),
        services.address(Which::Monitor),
    ))
}

/// What every demonstration works with.
struct Stage<'a> {
    client: Client,
    monitor: Monitor,
    output: &'a mut Output,
}

async fn show(context: &mut Context, quick: bool) -> Result<(), Failure> {
    let mut stage = Stage {
        client: context.suite.orchestrator().await?,
        monitor: context.suite.monitor().await?,
        output: &mut context.output,
    };
    for workflow in WORKFLOWS {
        stage.client.register_yaml(workflow).await?;
    }
    lifecycle::show(&mut stage).await?;
    performance::show(&mut stage).await?;
    patterns::show(&mut stage).await?;
    resources::show(&mut stage, quick).await
}

impl Stage<'_> {
    /// A line for people.
    fn say(&mut self, line: impl std::fmt::Display) -> Result<(), Failure> {
        if self.output.json {
            return Ok(());
        }
        self.output.line(line)
    }

    /// A demonstration's heading, as the page has it.
    fn heading(&mut self, heading: &str) -> Result<(), Failure> {
        self.say(format!("\n{heading}\n{}", "=".repeat(50)))
    }

    /// A demonstration's figures, for programs.
    fn figures(&mut self, demonstration: &str, figures: &Value) -> Result<(), Failure> {
        if !self.output.json {
            return Ok(());
        }
        self.output
            .json_line(&json!({"demonstration": demonstration, "figures": figures}))
    }

    /// Starts transactions at once and waits for the end of all; gives them in the order of their
    /// inputs.
    async fn run_all(
        &mut self,
        workflow: &'static str,
        inputs: Vec<Value>,
    ) -> Result<Vec<wire::Transaction>, Failure> {
        let bar = progress::bar(inputs.len() as u64, workflow);
        let mut running = JoinSet::new();
        for (at, input) in inputs.into_iter().enumerate() {
            let client = self.client.clone();
            running.spawn(async move {
                let started = client.begin(Start::new(workflow).input(&input)?).await?;
                let id = started.transaction_id;
                let transaction = client.wait_for_end(&id, END_TIMEOUT).await?;
                Ok::<_, Failure>((at, transaction))
            });
        }
        let mut ended = Vec::new();
        while let Some(joined) = running.join_next().await {
            let (at, transaction) = joined.map_err(|error| {
                Failure::refused(format!("a task of the demo broke: {error}"))
            })??;
            if !words::has_ended(transaction.state) {
                return Err(no_end(&transaction));
            }
            bar.inc(1);
            ended.push((at, transaction));
        }
        bar.finish_and_clear();
        ended.sort_by_key(|(at, _)| *at);
        let ended: Vec<_> = ended
            .into_iter()
            .map(|(_, transaction)| transaction)
            .collect();
        self.say(how_they_ended(&ended))?;
        self.until_seen(&ended).await?;
        Ok(ended)
    }

    /// Waits until the monitor has seen the end of these, so that its figures count them.
    async fn until_seen(&self, ended: &[wire::Transaction]) -> Result<(), Failure> {
        let give_up = Instant::now() + SEEN_TIMEOUT;
        for transaction in ended {
            let id = &transaction.transaction_id;
            loop {
                match self.monitor.trace(id).await {
                    Ok(trace) if words::has_ended(trace.state) => break,
                    Ok(_) => {}
                    Err(error) if error.code() == tonic::Code::NotFound => {}
                    Err(error) => return Err(error.into()),
                }
                if Instant::now() > give_up {
                    return Err(Failure::refused(format!(
                        "the monitor has not seen the end of transaction {} within {}",
                        words::shown(id, 64),
                        words::span(SEEN_TIMEOUT)
                    )));
                }
                tokio::time::sleep(SEEN_INTERVAL).await;
            }
        }
        Ok(())
    }
}

/// Says that a transaction took too long, and where to look.
fn no_end(transaction: &wire::Transaction) -> Failure {
    Failure::refused(format!(
        "transaction {} did not end within {}; it is {}; `multiagents workers` shows whether a \
         worker host takes its commands",
        words::shown(&transaction.transaction_id, 64),
        words::span(END_TIMEOUT),
        words::transaction_state(transaction.state)
    ))
}

/// "10 transactions ended: 7 completed, 3 failed".
fn how_they_ended(ended: &[wire::Transaction]) -> String {
    let mut counts: Vec<(String, u64)> = Vec::new();
    for transaction in ended {
        let state = words::transaction_state(transaction.state);
        match counts.iter_mut().find(|(known, _)| *known == state) {
            Some((_, count)) => *count += 1,
            None => counts.push((state, 1)),
        }
    }
    counts.sort();
    let counts: Vec<String> = counts
        .into_iter()
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    format!(
        "{} ended: {}",
        words::counted(ended.len() as u64, "transaction", "transactions"),
        counts.join(", ")
    )
}

/// A ratio as percent with one decimal, as the page prints it; 0 where nothing was measured.
fn percent(ratio: Option<f64>) -> String {
    format!("{:.1}%", ratio.unwrap_or(0.0) * 100.0)
}

/// The average of a summary in milliseconds.
fn average_ms(summary: Option<&wire::LatencySummary>) -> f64 {
    words::milliseconds(summary.and_then(|summary| summary.average.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_counted_by_state() {
        let ended = [
            wire::TransactionState::Failed,
            wire::TransactionState::Completed,
            wire::TransactionState::Completed,
        ]
        .map(|state| wire::Transaction {
            state: state.into(),
            ..Default::default()
        });
        assert_eq!(
            how_they_ended(&ended),
            "3 transactions ended: 2 completed, 1 failed"
        );
    }

    #[test]
    fn the_workflows_of_the_page_are_there() {
        for (text, name) in WORKFLOWS.iter().zip([
            "simple_monitoring",
            "parallel_monitoring",
            "error_monitoring",
            "cpu_intensive_monitoring",
        ]) {
            assert!(text.contains(&format!("name: {name}")), "{name}");
        }
    }
}
