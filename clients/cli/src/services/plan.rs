//! What is to be started: which services, where they listen and keep things, and their commands.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::Service;
use crate::failure::Failure;

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
    pub(super) const STARTING: [Self; 3] = [Self::Orchestrator, Self::WorkerHost, Self::Monitor];
    /// The order in which they stop: work first, then who gives it, then who watches.
    pub(super) const STOPPING: [Self; 3] = [Self::WorkerHost, Self::Orchestrator, Self::Monitor];

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

/// The binaries, in the order of starting.
pub(super) fn binaries() -> Result<[PathBuf; 3], Failure> {
    let [first, second, third] = Which::STARTING;
    Ok([binary(first)?, binary(second)?, binary(third)?])
}

/// A service's own binary.
pub(crate) fn binary(which: Which) -> Result<PathBuf, Failure> {
    let own = std::env::current_exe()?;
    let folder = own.parent().map(Path::to_path_buf).unwrap_or_default();
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
}

/// Addresses for the ports. All are held together for a moment: so free ones differ, and one that
/// somebody else has is found out here, before that one's readiness is taken for ours.
pub(super) fn addresses(ports: [u16; 3]) -> Result<[SocketAddr; 3], Failure> {
    let mut held = Vec::new();
    let mut addresses = ports.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    for (which, address) in Which::STARTING.into_iter().zip(&mut addresses) {
        let listener = TcpListener::bind(*address).map_err(|error| {
            Failure::refused(format!(
                "the {} can't listen on {address} ({}); if a suite runs there already use that \
                 one, else choose another with --{}-port, 0 for a free one",
                which.title(),
                error.kind(),
                which.name()
            ))
        })?;
        *address = listener.local_addr()?;
        held.push(listener);
    }
    Ok(addresses)
}

pub(super) fn private_directory(path: &Path) -> Result<(), Failure> {
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

pub(super) fn check_config_dir(plan: &Plan) -> Result<(), Failure> {
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

pub(super) fn spawn(
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
    command
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
pub(crate) fn dying_with_us(binary: &Path) -> Command {
    let setpriv = Path::new("/usr/bin/setpriv");
    let mut command = if setpriv.exists() {
        let mut command = Command::new(setpriv);
        command.args(["--pdeathsig", "TERM", "--"]).arg(binary);
        command
    } else {
        Command::new(binary)
    };
    // These are addresses for clients; a service would read them as keys of its configuration.
    command
        .env_remove("MULTIAGENTS_ORCHESTRATOR")
        .env_remove("MULTIAGENTS_MONITOR");
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn free_ports_differ_and_given_ones_are_kept() {
        let [one, two, three] = addresses([0, 0, 0]).unwrap();
        assert_ne!(one.port(), two.port());
        assert_ne!(one.port(), 0);
        let given = addresses([0, 0, three.port()]).unwrap();
        assert_eq!(given[2], three);
    }

    #[test]
    fn a_port_that_somebody_has_is_refused_before_anything_starts() {
        let somebody = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = somebody.local_addr().unwrap().port();
        let refused = addresses([0, port, 0]).unwrap_err();
        assert!(
            refused.message.contains("the worker host can't listen")
                && refused.message.contains("--worker-host-port"),
            "{refused}"
        );
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
}
