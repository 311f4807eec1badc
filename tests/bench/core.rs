//! The path of every transaction: a workflow of three steps that do nothing, one at a time and two
//! hundred in flight, on real processes; and what it leaves on disk.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tests::{Suite, SuiteBuilder};

use crate::load::{Done, Load, check, object};
use crate::processes;
use crate::report::Report;
use crate::turns::{TURN, alternate, median, ratio};

pub(crate) const INPUT_BYTES: usize = 100;
const WARM_UP: usize = 300;
const ONE_AT_A_TIME: usize = 3_000;
/// The call's and that of each of its three steps.
const ROUND_TRIPS: f64 = 4.0;
pub(crate) const IN_FLIGHT: usize = 200;
pub(crate) const LOAD_WARM_UP: Duration = Duration::from_secs(2);
pub(crate) const LOAD_TIME: Duration = Duration::from_secs(10);
const SHORT_TIME: Duration = Duration::from_secs(4);

/// Three steps that do nothing, on this suite.
pub(crate) fn three_noops(suite: &Suite) -> Load {
    Load {
        address: suite.orchestrator.address().to_owned(),
        workflow: "three_noops",
        input: object(INPUT_BYTES),
        keys: false,
    }
}

/// A suite as the figures ask for it.
pub(crate) fn unmonitored() -> SuiteBuilder {
    Suite::builder().without_monitor()
}

/// Without a monitor: memory at rest, latency, rates, processor time and log.
pub(crate) async fn load(report: &mut Report) -> Result<()> {
    let suite = unmonitored().start().await;
    let load = three_noops(&suite);
    let rest = processes::memory_of(suite.orchestrator.id())?;
    report.add("orchestrator_rest_mb", rest as f64 / 1e6, "MB");
    let warm_up = load.one_at_a_time(WARM_UP).await?;
    rustix::fs::sync();
    let before = appending(&suite).await;
    let one = load.one_at_a_time(ONE_AT_A_TIME).await?;
    let sync = (appending(&suite).await - before) * 1e3 / ONE_AT_A_TIME as f64;
    report.add("latency_ms_p50_1", one.percentile(50), "ms");
    report.add("latency_ms_p99_1", one.percentile(99), "ms");
    let trip = report.value("limit_round_trip_us").unwrap_or_default();
    let wire = ROUND_TRIPS * trip / 1e3;
    eprintln!(
        "  of the p50, appends and their syncs: {sync:.2} ms, wire ({ROUND_TRIPS} round trips): \
         {wire:.2} ms, the rest: {:.2} ms",
        one.percentile(50) - sync - wire
    );
    let warm = load.streams(IN_FLIGHT, LOAD_WARM_UP).await?;
    rustix::fs::sync();
    let (streamed, each) = timed(&suite, load.streams(IN_FLIGHT, LOAD_TIME)).await?;
    let rate = streamed.per_second();
    report.add("workflows_per_second_200_stream", rate, "1/s");
    report.add("cpu_ms_per_workflow_200_stream", each.iter().sum(), "ms");
    check(&suite.client(), &[&warm_up, &one, &warm, &streamed], 3).await?;
    drop(suite);

    let mut suite = unmonitored().start().await;
    let load = three_noops(&suite);
    let warm = load.calls(IN_FLIGHT, LOAD_WARM_UP).await?;
    rustix::fs::sync();
    let (done, each) = timed(&suite, load.calls(IN_FLIGHT, LOAD_TIME)).await?;
    report.add("workflows_per_second_200", done.per_second(), "1/s");
    report.add("latency_ms_p99_200", done.percentile(99), "ms");
    report.add("cpu_ms_per_workflow_200", each.iter().sum(), "ms");
    let names = ["orchestrator", "worker host", "callers"];
    for (name, each) in names.iter().zip(&each) {
        eprintln!("  of these, {name}: {each:.3} ms");
    }
    check(&suite.client(), &[&warm, &done], 3).await?;
    let bytes = log_bytes(&mut suite, &[&warm, &done]).await?;
    report.add("log_bytes_per_workflow", bytes, "bytes");
    drop(suite);

    let mut suite = unmonitored()
        .setting("orchestrator", "engine.observing_events", "false")
        .start()
        .await;
    let done = three_noops(&suite).calls(IN_FLIGHT, SHORT_TIME).await?;
    let bytes = log_bytes(&mut suite, &[&done]).await?;
    report.add("log_bytes_per_workflow_unobserved", bytes, "bytes");
    Ok(())
}

/// The same load while the monitor follows live, in turns with a suite that has none.
///
/// A turn of the first lasts until the monitor has caught up: one that only postpones its work gains
/// nothing by it, and does not work off what is left in the other's turn.
pub(crate) async fn monitored(report: &mut Report) -> Result<()> {
    let with = Suite::start().await;
    let without = unmonitored().start().await;
    let mut warm = Vec::new();
    for suite in [&with, &without] {
        warm.push(three_noops(suite).calls(IN_FLIGHT, LOAD_WARM_UP).await?);
    }
    with.monitor_caught_up().await;
    rustix::fs::sync();
    let used = || processes::time_of(&[with.monitor.id()]);
    let before = used()?;
    let mut behind = Vec::new();
    let turns = alternate(async |at| match at {
        0 => {
            let mut done = three_noops(&with).calls(IN_FLIGHT, TURN).await?;
            let late = catching_up(&with).await;
            behind.push(late.as_secs_f64() * 1e3);
            done.elapsed += late;
            Ok(done)
        }
        _ => three_noops(&without).calls(IN_FLIGHT, TURN).await,
    })
    .await?;
    let [followed, alone] = &turns;
    let workflows: usize = followed.iter().map(|done| done.ids.len()).sum();
    let each = (used()? - before).as_secs_f64() * 1e3 / workflows as f64;
    report.add("cpu_ms_per_workflow_of_monitor", each, "ms");
    let rate = |turns: &[Done]| median(turns.iter().map(Done::per_second));
    report.add("workflows_per_second_200_monitored", rate(followed), "1/s");
    report.add(
        "monitored_ratio",
        ratio(followed, alone, Done::per_second),
        "",
    );
    eprintln!(
        "  beside it, without a monitor: {:.0} 1/s; to catch up after a turn took {:.1} ms, at most {:.1} ms",
        rate(alone),
        median(behind.iter().copied()),
        behind.iter().copied().fold(0.0, f64::max)
    );
    for ((suite, warm), turns) in [&with, &without].into_iter().zip(&warm).zip(&turns) {
        let done: Vec<_> = std::iter::once(warm).chain(turns).collect();
        check(&suite.client(), &done, 3).await?;
    }
    Ok(())
}

/// How long the monitor takes to have all that is in the log. To ask it takes a while too, which a
/// second time, when there is nothing to wait for, shows.
async fn catching_up(suite: &Suite) -> Duration {
    let began = Instant::now();
    suite.monitor_caught_up().await;
    let caught_up = Instant::now();
    suite.monitor_caught_up().await;
    (caught_up - began).saturating_sub(caught_up.elapsed())
}

/// How many seconds the log has spent on appends, syncs included.
async fn appending(suite: &Suite) -> f64 {
    tests::harm::metric(suite, "multiagents_orchestrator_append_seconds_sum").await
}

/// A load with the processor time that each workflow took, in milliseconds: orchestrator, worker
/// host, and this process.
pub(crate) async fn timed(
    suite: &Suite,
    load: impl Future<Output = Result<Done>>,
) -> Result<(Done, [f64; 3])> {
    let ids = [suite.orchestrator.id(), suite.host.id(), std::process::id()];
    let used = || {
        let times = ids.map(|id| processes::time_of(&[id]));
        times.into_iter().collect::<Result<Vec<_>>>()
    };
    let before = used()?;
    let done = load.await?;
    let after = used()?;
    ensure!(!done.ids.is_empty(), "nothing was done");
    let mut each = [0.0; 3];
    for (each, (after, before)) in each.iter_mut().zip(after.iter().zip(&before)) {
        *each = (*after - *before).as_secs_f64() * 1e3 / done.ids.len() as f64;
    }
    Ok((done, each))
}

/// What each workflow left in the log, headers and all, as it stands on disk.
async fn log_bytes(suite: &mut Suite, done: &[&Done]) -> Result<f64> {
    let status = suite.orchestrator.stop().await;
    ensure!(status.success(), "the orchestrator ended with {status}");
    let log = suite.directory().join("orchestrator/log");
    let log = eventlog::open(&log, eventlog::Options::default()).context("the log")?;
    let bytes = eventlog::EventLog::reader(&log).bounds().size_bytes;
    let workflows: usize = done.iter().map(|done| done.ids.len()).sum();
    Ok(bytes as f64 / workflows as f64)
}
