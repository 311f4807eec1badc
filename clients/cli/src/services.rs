//! The three services as child processes: started in order, watched, stopped in order.
//!
//! Each service is its own binary, which lies beside this one. Nothing here knows what they do: it
//! gives them addresses and directories, asks `/readyz`, and sends SIGTERM.

mod plan;
mod readiness;
mod ending;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;

use crate::failure::Failure;
use crate::words;
use ending::ended_by_itself;
pub(crate) use plan::{Plan, Which, binary, dying_with_us};
use plan::{addresses, binaries, check_config_dir, private_directory, spawn};
use readiness::readiness;

/// How long a service may take to stop before it is killed: longer than its own drain.
const STOP_GRACE: Duration = Duration::from_secs(40);
/// How often readiness is asked for.
const READY_INTERVAL: Duration = Duration::from_millis(25);

/// A running service.
struct Service {
    which: Which,
    address: SocketAddr,
    child: Child,
    log: Option<PathBuf>,
}

/// The running services.
pub(crate) struct Services {
    running: Vec<Service>,
    addresses: [SocketAddr; 3],
    data_dir: PathBuf,
}

impl Services {
    /// Starts them, each when the one before it is ready, and gives them when all are. `waiting` is
    /// told what is waited for.
    pub(crate) async fn start(plan: &Plan, mut waiting: impl FnMut(&str)) -> Result<Self, Failure> {
        let binaries = binaries()?;
        check_config_dir(plan)?;
        private_directory(&plan.data_dir)?;
        let mut services = Self {
            running: Vec::new(),
            addresses: addresses(plan.ports)?,
            data_dir: plan.data_dir.clone(),
        };
        for (which, binary) in Which::STARTING.into_iter().zip(&binaries) {
            waiting(&format!("The {} starts", which.title()));
            let service = spawn(which, binary, plan, services.addresses)?;
            services.running.push(service);
            if let Err(failure) = services.until_ready(which, &mut waiting).await {
                // Why it could not start says more than how the rest stopped.
                let _stopped = services.stop_in_order(&mut |_| ()).await;
                return Err(failure);
            }
        }
        Ok(services)
    }

    /// Where a service listens, as host:port.
    pub(crate) fn address(&self, which: Which) -> String {
        self.addresses[which as usize].to_string()
    }

    /// Where the data is.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Waits until one of them ends by itself, and says which and how.
    pub(crate) async fn any_end(&mut self) -> Failure {
        loop {
            for at in 0..self.running.len() {
                match self.running[at].child.try_wait() {
                    // What has ended needn't be stopped any more.
                    Ok(Some(status)) => return ended_by_itself(&self.running.remove(at), status),
                    Ok(None) => {}
                    Err(error) => return Failure::from(error),
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Stops them in order; `told` hears of each step. Those that don't stop in time, or when `now`
    /// comes, are killed.
    pub(crate) async fn stop(
        mut self,
        now: impl Future<Output = ()>,
        mut told: impl FnMut(&str),
    ) -> Result<(), Failure> {
        let stopped = tokio::select! {
            stopped = self.stop_in_order(&mut told) => Some(stopped),
            () = now => None,
        };
        let Some(stopped) = stopped else {
            self.kill().await;
            return Err(Failure::refused("the services were stopped at once"));
        };
        stopped
    }

    async fn stop_in_order(&mut self, told: &mut impl FnMut(&str)) -> Result<(), Failure> {
        let mut worst = Ok(());
        for which in Which::STOPPING {
            let Some(service) = self
                .running
                .iter_mut()
                .find(|service| service.which == which)
            else {
                continue;
            };
            match stop_one(service).await {
                Ok(()) => told(&format!("The {} has stopped.", which.title())),
                Err(failure) => {
                    told(&failure.to_string());
                    worst = Err(failure);
                }
            }
        }
        worst
    }

    /// Ends all of them at once.
    async fn kill(&mut self) {
        for service in &mut self.running {
            // What has ended already can't be killed, and needn't be.
            let _ended = service.child.kill().await;
        }
    }

    async fn until_ready(
        &mut self,
        which: Which,
        waiting: &mut impl FnMut(&str),
    ) -> Result<(), Failure> {
        let Some(service) = self
            .running
            .iter_mut()
            .find(|service| service.which == which)
        else {
            return Ok(());
        };
        loop {
            if let Some(status) = service.child.try_wait()? {
                return Err(ended_by_itself(service, status));
            }
            match readiness(service.address).await {
                Ok(None) => return Ok(()),
                Ok(Some(why)) => waiting(&format!(
                    "The {} is not ready yet: {}",
                    which.title(),
                    words::shown(why.trim(), 100)
                )),
                // It doesn't listen yet.
                Err(_) => {}
            }
            tokio::time::sleep(READY_INTERVAL).await;
        }
    }
}

async fn stop_one(service: &mut Service) -> Result<(), Failure> {
    let which = service.which;
    let pid = service.child.id().and_then(|id| i32::try_from(id).ok());
    if let Some(pid) = pid.and_then(Pid::from_raw) {
        // It may have ended by itself just now; the wait below tells.
        let _gone = kill_process(pid, Signal::TERM);
    }
    let Ok(status) = tokio::time::timeout(STOP_GRACE, service.child.wait()).await else {
        service.child.kill().await?;
        return Err(Failure::refused(format!(
            "the {} did not stop within {} and was killed",
            which.title(),
            words::span(STOP_GRACE)
        )));
    };
    let status = status?;
    if status.success() {
        return Ok(());
    }
    Err(ended_by_itself(service, status))
}
