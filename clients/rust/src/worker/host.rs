//! A host of workers: what it offers, where to, and its life from the first connection to the
//! orderly end.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::{HashMap, HashMapExt as _};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::back_off::BackOff;
use crate::error::Error;
use crate::wire::{OfferedWorker, SystemSample};
use crate::worker::handler::{Handler, Worker};
use crate::worker::heartbeat::Heartbeats;
use crate::worker::run::Outcome;
use crate::worker::session::{Hub, SessionEnd};

/// A session that lasted this long was a good one: the next attempt begins with a short delay.
const GOOD_SESSION: Duration = Duration::from_secs(5);

/// What a host tells who watches it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Observed<'a> {
    /// A session is open.
    Connected {
        /// False for the first one.
        again: bool,
    },
    /// The session ended, or none could be opened; it is tried again unless the host stops.
    Disconnected {
        /// What happened, as a sentence.
        cause: &'a str,
    },
    /// A slot took a command.
    Started {
        /// The worker.
        worker: &'a str,
    },
    /// A command came to an outcome.
    Ended {
        /// The worker.
        worker: &'a str,
        /// How.
        outcome: Outcome,
        /// From its arrival to its handler's start, or to the outcome where it never started.
        wait: Duration,
        /// From its handler's start to its end.
        run: Duration,
        /// False when it never got a slot.
        started: bool,
    },
    /// The orchestrator refused a result, or has taken back a command that is at work here.
    Refused {
        /// The command.
        command_id: &'a str,
        /// Why, as a reason word.
        reason: &'a str,
    },
}

/// How a host left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Departure {
    /// Commands that were still running when the grace was over; they are delivered elsewhere.
    pub unfinished: usize,
    /// Results that nobody acknowledged in time; their commands are delivered elsewhere.
    pub undelivered: usize,
}

pub(crate) type Observer = Arc<dyn Fn(&Observed<'_>) + Send + Sync>;

/// The way to a host: `Host::builder(address).worker(w, slots).run(shutdown)`.
#[derive(Debug)]
pub struct Host;

impl Host {
    /// A host that will dial the orchestrator at `host:port`.
    pub fn builder(address: impl Into<String>) -> HostBuilder {
        HostBuilder {
            address: address.into(),
            workers: Vec::new(),
            host_id: None,
            machine: None,
            version: concat!("multiagents-client ", env!("CARGO_PKG_VERSION")).to_owned(),
            drain_grace: Duration::from_secs(30),
            result_bytes_max: 1024 * 1024,
            remembers_bytes_max: 64 * 1024 * 1024,
            reconnect: BackOff::default(),
            samples: None,
            observer: Arc::new(|_| {}),
        }
    }
}

/// What a host offers, and how it behaves.
pub struct HostBuilder {
    address: String,
    workers: Vec<(Worker, u32)>,
    host_id: Option<String>,
    machine: Option<String>,
    version: String,
    drain_grace: Duration,
    result_bytes_max: usize,
    remembers_bytes_max: usize,
    reconnect: BackOff,
    samples: Option<mpsc::Receiver<SystemSample>>,
    observer: Observer,
}

impl fmt::Debug for HostBuilder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("HostBuilder")
            .field("address", &self.address)
            .field("workers", &self.workers)
            .field("host_id", &self.host_id)
            .finish_non_exhaustive()
    }
}

impl HostBuilder {
    /// Offers a worker with so many slots: how many of its commands run at once.
    #[must_use]
    pub fn worker(mut self, worker: Worker, slots: u32) -> Self {
        self.workers.push((worker, slots));
        self
    }

    /// What the host calls itself; another for each process. Default: the machine's name and a
    /// random part.
    #[must_use]
    pub fn host_id(mut self, host_id: impl Into<String>) -> Self {
        self.host_id = Some(host_id.into());
        self
    }

    /// The machine's name, for people. Default: what the system calls it.
    #[must_use]
    pub fn machine(mut self, machine: impl Into<String>) -> Self {
        self.machine = Some(machine.into());
        self
    }

    /// The program's version, for people.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// How long commands may take to end, and results to be acknowledged, once the host is asked
    /// to stop. Default: 30 s.
    #[must_use]
    pub fn drain_grace(mut self, grace: Duration) -> Self {
        self.drain_grace = grace;
        self
    }

    /// The largest result; a larger one fails its command. Default: 1 MiB, as the orchestrator's.
    #[must_use]
    pub fn result_bytes_max(mut self, bytes: usize) -> Self {
        // A message of the session holds at least one whole result.
        self.result_bytes_max = bytes.min(3 * 1024 * 1024);
        self
    }

    /// How many bytes of contexts are remembered, so that no large piece of one is sent to this host
    /// twice; 0: none. Default: 64 MiB, and the orchestrator's `sessions.remembers_bytes_max` at most.
    #[must_use]
    pub fn remembers_bytes_max(mut self, bytes: usize) -> Self {
        self.remembers_bytes_max = bytes;
        self
    }

    /// The delays between attempts to connect. Default: 100 ms, doubling, up to 5 s.
    #[must_use]
    pub fn reconnect(mut self, back_off: BackOff) -> Self {
        self.reconnect = back_off;
        self
    }

    /// Samples of the machine, sent along as they come.
    #[must_use]
    pub fn samples(mut self, samples: mpsc::Receiver<SystemSample>) -> Self {
        self.samples = Some(samples);
        self
    }

    /// Who is told what the host does; called on the runtime's threads, so it must not block.
    #[must_use]
    pub fn observe(mut self, observer: impl Fn(&Observed<'_>) + Send + Sync + 'static) -> Self {
        // It is called where the host does its work, which goes on whatever happens to it.
        self.observer = Arc::new(move |observed| {
            if catch_unwind(AssertUnwindSafe(|| observer(observed))).is_err() {
                tracing::error!(?observed, "who watches the host panicked");
            }
        });
        self
    }

    /// Serves until `shutdown` is cancelled, then drains: finishes what it has, delivers the
    /// results, and leaves. Reconnects for as long as it takes.
    ///
    /// # Errors
    /// An offer or an address that is wrong, another process with the same `host_id`, or a refusal
    /// that trying again can't mend.
    pub async fn run(self, shutdown: CancellationToken) -> Result<Departure, Error> {
        let machine = self.machine.unwrap_or_else(machine_name);
        let host_id = self.host_id.unwrap_or_else(|| random_host_id(&machine));
        let offer = Offer::check(self.workers, host_id, machine, self.version)?;
        let heartbeats = Heartbeats::start(&self.address, &offer.host_id)?;
        // Whoever drops this future wants the handlers to end as well.
        let stop = CancellationToken::new();
        let _stop_handlers = stop.clone().drop_guard();
        let mut back_off = self.reconnect;
        let mut hub = Hub::new(
            self.address,
            offer,
            heartbeats,
            self.samples,
            self.observer.clone(),
            self.result_bytes_max,
            self.remembers_bytes_max,
            shutdown,
            self.drain_grace,
            stop,
        );
        let mut delay = Duration::ZERO;
        let mut again = false;
        loop {
            if let Some(departure) = hub.while_apart(tokio::time::sleep(delay)).await.1 {
                return Ok(departure);
            }
            let opening = hub.open();
            let (opened, departure) = hub.while_apart(opening).await;
            if let Some(departure) = departure {
                return Ok(departure);
            }
            let began = Instant::now();
            let error = match opened {
                // The grace was over while it was being opened; told above.
                None => continue,
                Some(Err(error)) => error,
                Some(Ok(session)) => {
                    (self.observer)(&Observed::Connected { again });
                    again = true;
                    match hub.serve(session).await {
                        SessionEnd::Left(departure) => return Ok(departure),
                        SessionEnd::Broken(error) => error,
                    }
                }
            };
            let error = hub.judge(error)?;
            let cause = error.to_string();
            tracing::warn!(%cause, "no session with the orchestrator; trying again");
            (self.observer)(&Observed::Disconnected { cause: &cause });
            if began.elapsed() > GOOD_SESSION {
                back_off.reset();
            }
            delay = error.retry_after().unwrap_or_else(|| back_off.delay());
        }
    }
}

/// What a host offers, checked.
pub(crate) struct Offer {
    pub(crate) host_id: String,
    pub(crate) machine: String,
    pub(crate) version: String,
    pub(crate) workers: HashMap<Arc<str>, Offered>,
    pub(crate) slots: usize,
}

/// One worker of an offer.
pub(crate) struct Offered {
    pub(crate) handler: Handler,
    pub(crate) slots: u32,
    pub(crate) free: Arc<Semaphore>,
}

impl Offer {
    fn check(
        workers: Vec<(Worker, u32)>,
        host_id: String,
        machine: String,
        version: String,
    ) -> Result<Self, Error> {
        let invalid = |problem: proto::error::Problem| Error::Invalid(problem.message);
        proto::id::check_name("host_id", &host_id).map_err(invalid)?;
        let mut offered = HashMap::new();
        let mut all = 0;
        for (worker, slots) in workers {
            let name: Arc<str> = worker.name().into();
            proto::id::check_name("worker", &name).map_err(invalid)?;
            if slots == 0 {
                return Err(Error::Invalid(format!(
                    "worker {name} has 0 slots; give it at least one, or leave it out"
                )));
            }
            all += slots as usize;
            let entry = Offered {
                handler: worker.handler().clone(),
                slots,
                free: Arc::new(Semaphore::new(slots as usize)),
            };
            if offered.insert(name.clone(), entry).is_some() {
                return Err(Error::Invalid(format!("worker {name} is offered twice")));
            }
        }
        if offered.is_empty() {
            return Err(Error::Invalid(
                "the host offers no worker; add at least one".into(),
            ));
        }
        Ok(Self {
            host_id,
            machine,
            version,
            workers: offered,
            slots: all,
        })
    }

    /// What is announced, by name.
    pub(crate) fn announced(&self) -> Vec<OfferedWorker> {
        let offer = |(name, offered): (&Arc<str>, &Offered)| OfferedWorker {
            worker: name.to_string(),
            slots: offered.slots,
        };
        let mut workers: Vec<_> = self.workers.iter().map(offer).collect();
        workers.sort_by(|a, b| a.worker.cmp(&b.worker));
        workers
    }
}

/// What the system calls the machine.
fn machine_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .or_else(|| std::env::var("HOSTNAME").ok())
        .unwrap_or_else(|| "unknown".to_owned())
}

/// A name that no other process has.
fn random_host_id(machine: &str) -> String {
    let fitting = |character: &char| character.is_ascii_alphanumeric() || *character == '-';
    let machine: String = machine.chars().filter(fitting).take(64).collect();
    let random: u32 = StdRng::from_os_rng().random();
    match machine.is_empty() {
        true => format!("host-{random:08x}"),
        false => format!("{machine}-{random:08x}"),
    }
}
