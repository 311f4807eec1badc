//! How a service ended, told so that a person knows what to do and a script what it was.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;

use super::Service;
use crate::failure::{Failure, exit};
use crate::words;

/// Says how a service ended, with the last that it logged.
pub(super) fn ended_by_itself(service: &Service, status: ExitStatus) -> Failure {
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::services::Which;
    use std::net::{Ipv4Addr, SocketAddr};
    use std::path::PathBuf;
    use tokio::process::Command;

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
}
