//! The three services as child processes: started in order, watched, stopped in order.
//!
//! Each service is its own binary, which lies beside this one. Nothing here knows what they do: it
//! gives them addresses and directories, asks `/readyz`, and sends SIGTERM.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::failure::{Failure, exit};
use crate::words;

/// How long a service may take to stop before it is killed: longer than its own drain.
const STOP_GRACE: Duration = Duration::from_secs(40);
/// How often readiness is asked for.
const READY_INTERVAL: Duration = Duration::from_millis(25);
/// How long one question about readiness may take.
const READY_TIMEOUT: Duration = Duration::from_secs(2);
/// A log longer than this is set aside at start.
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Which of the services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// Runs workflows.
    Orchestrator,
    /// Runs commands.
    WorkerHost,
    /// Watches.
    Monitor,
}

impl Which {
    /// The order in which they start: who is dialled comes first.
    const STARTING: [Self; 3] = [Self::Orchestrator, Self::WorkerHost, Self::Monitor];
    /// The order in which they stop: work first, then who gives it, then who watches.
    const STOPPING: [Self; 3] = [Self::WorkerHost, Self::Orchestrator, Self::Monitor];

    /// As files and binaries call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Orchestrator => "orchestrator",
            Self::WorkerHost => "worker-host",
            Self::Monitor => "monitor",
        }
    }

    /// As sentences call it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::WorkerHost => "worker host",
            other => other.name(),
        }
    }
}

/// Where everything is to be.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Where the services keep their data, and their logs.
    pub(crate) data_dir: PathBuf,
    /// Where their configuration is looked for.
    pub(crate) config_dir: Option<PathBuf>,
    /// Ports of orchestrator, worker host and monitor; 0 is a free one.
    pub(crate) ports: [u16; 3],
    /// Services log to the terminal instead of files.
    pub(crate) logs_here: bool,
}

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
                services.kill().await;
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

/// The binaries, in the order of starting.
fn binaries() -> Result<[PathBuf; 3], Failure> {
    let own = std::env::current_exe()?;
    let folder = own.parent().map(Path::to_path_buf).unwrap_or_default();
    let binary = |which: Which| {
        let path = folder.join(format!("multiagents-{}", which.name()));
        if path.is_file() {
            return Ok(path);
        }
        Err(Failure::refused(format!(
            "the {}'s binary is not at {}; it must lie beside multiagents, as `make run` and \
             `cargo build --bins` put it",
            which.title(),
            path.display()
        )))
    };
    let [first, second, third] = Which::STARTING;
    Ok([binary(first)?, binary(second)?, binary(third)?])
}

/// Addresses for the ports. Free ones are held together until all are known, so that they differ.
fn addresses(ports: [u16; 3]) -> Result<[SocketAddr; 3], Failure> {
    let mut held = Vec::new();
    let mut addresses = ports.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    for address in &mut addresses {
        if address.port() == 0 {
            let listener = TcpListener::bind(*address)?;
            *address = listener.local_addr()?;
            held.push(listener);
        }
    }
    Ok(addresses)
}

fn private_directory(path: &Path) -> Result<(), Failure> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| {
            Failure::refused(format!(
                "can't make the data directory {}: {error}",
                path.display()
            ))
        })
}

/// The file that configures a service, where the directory has one. The monitor takes the page's
/// `monitoring.yaml` as well.
fn config_file(which: Which, config_dir: &Path) -> Option<PathBuf> {
    let mut names = vec![format!("{}.yaml", which.name())];
    if which == Which::Monitor {
        names.push("monitoring.yaml".to_owned());
    }
    names
        .into_iter()
        .map(|name| config_dir.join(name))
        .find(|path| path.exists())
}

fn check_config_dir(plan: &Plan) -> Result<(), Failure> {
    let Some(config_dir) = &plan.config_dir else {
        return Ok(());
    };
    let found = Which::STARTING
        .into_iter()
        .any(|which| config_file(which, config_dir).is_some());
    if found {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "--config-dir {} has none of orchestrator.yaml, worker-host.yaml, monitor.yaml and \
         monitoring.yaml",
        config_dir.display()
    )))
}

fn spawn(
    which: Which,
    binary: &Path,
    plan: &Plan,
    addresses: [SocketAddr; 3],
) -> Result<Service, Failure> {
    let address = addresses[which as usize];
    let mut command = dying_with_us(binary);
    command.arg("--listen").arg(address.to_string());
    match which {
        Which::Orchestrator => {}
        Which::WorkerHost | Which::Monitor => {
            let orchestrator = addresses[Which::Orchestrator as usize];
            command.arg("--orchestrator").arg(orchestrator.to_string());
        }
    }
    match which {
        Which::WorkerHost => {}
        Which::Orchestrator | Which::Monitor => {
            command
                .arg("--data-dir")
                .arg(plan.data_dir.join(which.name()));
        }
    }
    if let Some(file) = plan
        .config_dir
        .as_deref()
        .and_then(|config_dir| config_file(which, config_dir))
    {
        command.arg("--config").arg(file);
    }
    // These are addresses for clients; a service would read them as keys of its configuration.
    command
        .env_remove("MULTIAGENTS_ORCHESTRATOR")
        .env_remove("MULTIAGENTS_MONITOR")
        .stdin(Stdio::null())
        // A Ctrl-C reaches a whole process group at once; ours alone shall get it, to keep order.
        .process_group(0)
        .kill_on_drop(true);
    let log = if plan.logs_here {
        None
    } else {
        let log = log_file(&plan.data_dir, which)?;
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log)?;
        command.stdout(file.try_clone()?).stderr(file);
        Some(log)
    };
    let child = command
        .spawn()
        .map_err(|error| Failure::refused(format!("can't start {}: {error}", binary.display())))?;
    Ok(Service {
        which,
        address,
        child,
        log,
    })
}

/// The command for a binary that is told to stop when this process dies, however it dies. The
/// kernel's own means to that needs code in the child; util-linux's setpriv has it. Where that is
/// missing, a killed `multiagents up` leaves its services running.
fn dying_with_us(binary: &Path) -> Command {
    let setpriv = Path::new("/usr/bin/setpriv");
    if !setpriv.exists() {
        return Command::new(binary);
    }
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "TERM", "--"]).arg(binary);
    command
}

fn log_file(data_dir: &Path, which: Which) -> Result<PathBuf, Failure> {
    let folder = data_dir.join("logs");
    private_directory(&folder)?;
    let log = folder.join(format!("{}.log", which.name()));
    let length = std::fs::metadata(&log).map_or(0, |metadata| metadata.len());
    if length > LOG_BYTES_MAX {
        std::fs::rename(&log, folder.join(format!("{}.log.1", which.name())))?;
    }
    Ok(log)
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

/// Says how a service ended, with the last that it logged.
fn ended_by_itself(service: &Service, status: ExitStatus) -> Failure {
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown status".to_owned(),
    };
    let mut message = format!("the {} ended with {how}", service.which.title());
    if let Some(log) = &service.log {
        let last = last_line(log).filter(|_| status.code().is_some());
        if let Some(last) = last {
            message.push_str(&format!(", saying: {}", words::shown(&last, 600)));
        }
        message.push_str(&format!("; its log is {}", log.display()));
    }
    // What a script can tell apart by a service's code it can tell apart by ours.
    let code = match status.code() {
        Some(code @ (2 | 74 | 75 | 78)) => u8::try_from(code).unwrap_or(exit::REFUSED),
        _ => exit::REFUSED,
    };
    Failure::service_ended(code, message)
}

fn last_line(log: &Path) -> Option<String> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut file = std::fs::File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(4_096)))
        .ok()?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail).ok()?;
    String::from_utf8_lossy(&tail)
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .map(str::to_owned)
}

/// Asks `/readyz`: nothing when it is ready, else the reason that it gives.
async fn readiness(address: SocketAddr) -> std::io::Result<Option<String>> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        let request =
            format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(16 * 1024).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = tokio::time::timeout(READY_TIMEOUT, asked)
        .await
        .map_err(|_late| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    if answer.starts_with("HTTP/1.1 200") {
        return Ok(None);
    }
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    Ok(Some(body.to_owned()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn service(log: PathBuf) -> Service {
        let child = Command::new("true").spawn().unwrap();
        Service {
            which: Which::Orchestrator,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
            child,
            log: Some(log),
        }
    }

    #[tokio::test]
    async fn a_service_that_ends_by_itself_is_told_with_its_code_and_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("orchestrator.log");
        std::fs::write(
            &log,
            "started\nthe data directory is in use by process 7\n\n",
        )
        .unwrap();
        let failure = ended_by_itself(&service(log), ExitStatus::from_raw(75 << 8));
        assert_eq!(failure.exit, 75);
        assert!(
            failure.message.starts_with(
                "the orchestrator ended with exit code 75, saying: the data directory is in use \
                 by process 7; its log is /"
            ),
            "{failure}"
        );
        let folder = tempfile::tempdir().unwrap();
        let killed = ended_by_itself(
            &service(folder.path().join("none.log")),
            ExitStatus::from_raw(9),
        );
        assert_eq!(killed.exit, exit::REFUSED);
        assert!(killed.message.contains("signal 9"), "{killed}");
    }

    #[test]
    fn free_ports_differ_and_given_ones_are_kept() {
        let [one, two, three] = addresses([0, 0, 7_003]).unwrap();
        assert_ne!(one.port(), two.port());
        assert_ne!(one.port(), 0);
        assert_eq!(three.to_string(), "127.0.0.1:7003");
    }

    #[test]
    fn a_services_own_file_comes_before_the_pages() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        assert_eq!(config_file(Which::Monitor, folder.path()), None);
        std::fs::write(file("monitoring.yaml"), "").unwrap();
        assert_eq!(
            config_file(Which::Monitor, folder.path()),
            Some(file("monitoring.yaml"))
        );
        std::fs::write(file("monitor.yaml"), "").unwrap();
        assert_eq!(
            config_file(Which::Monitor, folder.path()),
            Some(file("monitor.yaml"))
        );
        assert_eq!(config_file(Which::Orchestrator, folder.path()), None);
    }

    #[tokio::test]
    async fn readiness_is_asked_by_http_and_a_reason_against_it_is_kept() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\n\r\nready", None),
            (
                "HTTP/1.1 503 Service Unavailable\r\n\r\nreplaying",
                Some("replaying".to_owned()),
            ),
        ] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let server = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 14];
                stream.read_exact(&mut request).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
                let mut rest = Vec::new();
                stream.shutdown().await.unwrap();
                let _reset = stream.read_to_end(&mut rest).await;
                request
            });
            assert_eq!(readiness(address).await.unwrap(), expected);
            assert_eq!(&server.await.unwrap(), b"GET /readyz HT");
        }
    }
}
