//! A host's commands: each begun in a slot, awaited, and its result kept.
//!
//! Where the runtime has one thread a handler is begun where its command arrives, and goes on in a
//! task of its own only if it is not done at once. Nothing here waits for a handler, or speaks to
//! the orchestrator.

use std::sync::Arc;
use std::task::{self, Waker};
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use crate::time::{from_wire, to_wire};
use crate::wire::{Command, CommandResult};
use crate::worker::failure::Failure;
use crate::worker::handler::{AsyncHandler, Handler};
use crate::worker::host::{Observed, Observer, Offer, Offered};
use crate::worker::run::{Begun, Ended, Ending, Job, checked};
use crate::worker::table::{Admission, Table};

/// How many handlers' reports are taken at once.
const REPORTS_AT_ONCE: usize = 256;
/// A deadline no later than this: the longest timeout of the contract.
const TIMEOUT_MAX: Duration = Duration::from_secs(30 * 86_400);
/// A command without a timeout, which the contract doesn't know, gets the contract's default.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(300);

/// The commands of one host, over all its sessions.
pub(crate) struct Commands {
    offer: Arc<Offer>,
    observer: Observer,
    result_bytes_max: usize,
    /// Cancelled when the host is gone: every running command's token is a child of it.
    stop: CancellationToken,
    pub(crate) table: Table,
    reports: mpsc::Receiver<Report>,
    report: mpsc::Sender<Report>,
    /// Those just received.
    reported: Vec<Report>,
    /// Whether handlers are begun in this task. Where the runtime has one thread they would wait for
    /// each other just so in tasks of their own, each of which costs more than most handlers do. A
    /// host that is in no task gives them their own all the same: they may ask for its id.
    in_place: bool,
}

/// The orchestrator sent more commands than there are slots.
#[derive(Debug)]
pub(crate) struct TooMany;

/// What the task of a command tells.
enum Report {
    /// A slot took it after a wait.
    Started(String),
    /// It came to its outcome.
    Ended(Ended),
}

/// A command that arrived for a worker of this host.
struct Arrival<'a> {
    worker: &'a Arc<str>,
    offered: &'a Offered,
    command: Command,
    arrived: Instant,
    deadline: Instant,
}

impl Commands {
    /// Called on the runtime that the handlers run on.
    pub(crate) fn new(
        offer: Arc<Offer>,
        observer: Observer,
        result_bytes_max: usize,
        stop: CancellationToken,
    ) -> Self {
        // Every slot with a command, every one of them ended and waiting for its acknowledgement,
        // and some room. An orchestrator that sends more breaks the contract.
        let commands_max = offer.slots * 4 + 256;
        let (report, reports) = mpsc::channel(commands_max);
        let one_thread = Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread;
        Self {
            offer,
            observer,
            result_bytes_max,
            stop,
            table: Table::new(commands_max),
            reports,
            report,
            reported: Vec::new(),
            in_place: one_thread && tokio::task::try_id().is_some(),
        }
    }

    /// Starts each command, in a free slot at once or when there is one.
    pub(crate) fn take(&mut self, commands: Vec<Command>) -> Result<(), TooMany> {
        if commands.is_empty() {
            return Ok(());
        }
        let offer = self.offer.clone();
        let arrived = Instant::now();
        // The end of one is the beginning of the next: the clock is read once for each.
        let mut now = arrived;
        for command in commands {
            match self.table.admission(&command.command_id) {
                Admission::New => {}
                Admission::Known => {
                    tracing::debug!(command_id = command.command_id, "delivered twice; ignored");
                    continue;
                }
                Admission::Full => return Err(TooMany),
            }
            let Some((worker, offered)) = offer.workers.get_key_value(command.worker.as_str())
            else {
                let message = format!("this host has no worker \"{}\"", command.worker);
                let ending = Ending::Failed(Failure::new("WorkerUnknown", message));
                self.table.hold(CommandResult {
                    command_id: command.command_id,
                    outcome: Some(ending.into_wire()),
                    ..Default::default()
                });
                continue;
            };
            let timeout = command.timeout.as_ref().map(from_wire);
            let timeout = timeout.filter(|timeout| !timeout.is_zero());
            let timeout = timeout.unwrap_or(TIMEOUT_DEFAULT).min(TIMEOUT_MAX);
            let arrival = Arrival {
                worker,
                offered,
                command,
                arrived,
                deadline: arrived + timeout,
            };
            let permit = offered.free.clone().try_acquire_owned().ok();
            match (&offered.handler, permit) {
                (Handler::Async(handler), Some(permit)) if self.in_place => {
                    now = self.begin(&**handler, arrival, permit, now);
                }
                (_, permit) => self.spawn(arrival, permit),
            }
        }
        Ok(())
    }

    /// Begins a handler here, and leaves it to a task if it is not done at once. Returns what time
    /// it is then.
    fn begin(
        &mut self,
        handler: &AsyncHandler,
        arrival: Arrival<'_>,
        permit: OwnedSemaphorePermit,
        began: Instant,
    ) -> Instant {
        let worker = arrival.worker;
        let command_id = arrival.command.command_id.clone();
        let wait = began.duration_since(arrival.arrived);
        (self.observer)(&Observed::Started { worker });
        let mut begun = Begun::new(handler, arrival.command, arrival.deadline);
        // Nobody is woken for this: the task that goes on with it begins by polling it again.
        let Some(ending) = begun.poll(&mut task::Context::from_waker(Waker::noop())) else {
            let cancelled = self.stop.child_token();
            self.table.admit(&command_id, &cancelled);
            self.table.begin(&command_id);
            let (worker, result_bytes_max) = (worker.clone(), self.result_bytes_max);
            let (observer, report) = (self.observer.clone(), self.report.clone());
            tokio::spawn(async move {
                let ending = begun.ended(&cancelled).await;
                drop(permit);
                let ending = checked(ending, result_bytes_max);
                let run = began.elapsed();
                observed_end(&observer, &worker, &ending, (wait, run), true);
                // Fails only when the host is gone.
                let ended = Ended {
                    command_id,
                    ending,
                    wait,
                    run,
                };
                let _ = report.send(Report::Ended(ended)).await;
            });
            return Instant::now();
        };
        drop(permit);
        let ending = checked(ending, self.result_bytes_max);
        let now = Instant::now();
        let run = now.duration_since(began);
        observed_end(&self.observer, worker, &ending, (wait, run), true);
        let ended = Ended {
            command_id,
            ending,
            wait,
            run,
        };
        self.table.hold(result_of(ended, true));
        now
    }

    /// Leaves a command to a task of its own.
    fn spawn(&mut self, arrival: Arrival<'_>, permit: Option<OwnedSemaphorePermit>) {
        let Arrival {
            worker,
            offered,
            command,
            arrived,
            deadline,
        } = arrival;
        let cancelled = self.stop.child_token();
        self.table.admit(&command.command_id, &cancelled);
        let at_once = permit.is_some();
        if at_once {
            self.table.begin(&command.command_id);
        }
        let job = Box::new(Job {
            command,
            handler: offered.handler.clone(),
            slots: offered.free.clone(),
            arrived,
            deadline,
            cancelled,
            result_bytes_max: self.result_bytes_max,
        });
        let worker = worker.clone();
        let (observer, report) = (self.observer.clone(), self.report.clone());
        tokio::spawn(async move {
            let mut began = false;
            let started = |command_id: &str| {
                began = true;
                observer(&Observed::Started { worker: &worker });
                if !at_once {
                    // For watching only: when the channel is full it may be left out.
                    let _ = report.try_send(Report::Started(command_id.to_owned()));
                }
            };
            let ended = job.run(permit, started).await;
            let times = (ended.wait, ended.run);
            observed_end(&observer, &worker, &ended.ending, times, began);
            // Fails only when the host is gone.
            let _ = report.send(Report::Ended(ended)).await;
        });
    }

    /// Waits for the tasks of commands to tell something, and takes it in.
    pub(crate) async fn reported(&mut self) {
        let (reports, reported) = (&mut self.reports, &mut self.reported);
        reports.recv_many(reported, REPORTS_AT_ONCE).await;
        for report in reported.drain(..) {
            take_report(&mut self.table, report);
        }
    }

    /// Lets handlers that are done within one turn of the runtime be so, and takes that in.
    pub(crate) async fn one_turn(&mut self) {
        if self.table.running_count() > 0 {
            tokio::task::yield_now().await;
            while let Ok(report) = self.reports.try_recv() {
                take_report(&mut self.table, report);
            }
        }
    }
}

fn take_report(table: &mut Table, report: Report) {
    match report {
        Report::Started(command_id) => table.begin(&command_id),
        // The table knows whether its beginning is still to be told.
        Report::Ended(ended) => table.finish(result_of(ended, false)),
    }
}

fn result_of(ended: Ended, began: bool) -> CommandResult {
    CommandResult {
        command_id: ended.command_id,
        outcome: Some(ended.ending.into_wire()),
        wait: Some(to_wire(ended.wait)),
        run: Some(to_wire(ended.run)),
        began,
    }
}

/// Tells who watches how a command ended.
fn observed_end(
    observer: &Observer,
    worker: &str,
    ending: &Ending,
    (wait, run): (Duration, Duration),
    started: bool,
) {
    observer(&Observed::Ended {
        worker,
        outcome: ending.outcome(),
        wait,
        run,
        started,
    });
}
