//! One real process: started, watched, killed and started again at the same place.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::{http, wait};

/// Where the suite's own binaries are: those that were built beside the running test.
pub fn binary(name: &str) -> PathBuf {
    let folder = std::env::var_os("MULTIAGENTS_BINARIES")
        .map(PathBuf::from)
        .or_else(|| {
            // target/<profile>/deps/<test> and target/<profile>/<bin>.
            let test = std::env::current_exe().ok()?;
            let folder = test.parent()?;
            let folder = if folder.ends_with("deps") {
                folder.parent()?
            } else {
                folder
            };
            Some(folder.to_owned())
        });
    let path = folder.unwrap_or_default().join(name);
    assert!(
        path.exists(),
        "{} is missing; build it with `cargo build --workspace --bins`, or run `make test`",
        path.display()
    );
    path
}

/// A port of loopback that nobody listens on. Below the range that outgoing connections draw from,
/// so that a service finds it free again when it restarts.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Tests that run side by side are processes of their own: their ids keep them apart.
    let first = std::process::id().wrapping_mul(37);
    loop {
        let next = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 11_000 + (next % 20_000) as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// How much memory a process has.
pub fn resident_mebibytes(process: u32) -> u64 {
    mebibytes(process, "VmRSS:")
}

/// How much memory it had at the most.
pub fn peak_mebibytes(process: u32) -> u64 {
    mebibytes(process, "VmHWM:")
}

fn mebibytes(process: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let words = line.expect("its memory").split_whitespace().next();
    words.expect("a number").parse::<u64>().expect("KiB") / 1024
}

/// A program with its arguments and its place; it runs or it doesn't.
#[derive(Debug)]
pub struct Process {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    directory: PathBuf,
    output: PathBuf,
    address: String,
    child: Option<Child>,
}

impl Process {
    /// One of the suite's binaries, to run in `directory` and to listen on `address`.
    pub fn new(binary_name: &str, directory: &Path, address: &str) -> Self {
        Self::of(binary(binary_name), directory, address)
    }

    /// A program of another folder than the suite's.
    pub fn of(program: PathBuf, directory: &Path, address: &str) -> Self {
        let name = program.file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        Self {
            arguments: Vec::new(),
            variables: Vec::new(),
            directory: directory.to_owned(),
            output: directory.join(format!("{name}-{}.out", address.replace(':', "-"))),
            name,
            program,
            address: address.to_owned(),
            child: None,
        }
    }

    /// With more arguments.
    #[must_use]
    pub fn arguments<T: Into<String>>(mut self, more: impl IntoIterator<Item = T>) -> Self {
        self.arguments.extend(more.into_iter().map(Into::into));
        self
    }

    /// With one more environment variable.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With more environment variables.
    #[must_use]
    pub fn variables(mut self, more: &[(String, String)]) -> Self {
        self.variables.extend_from_slice(more);
        self
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Starts it; what it prints is kept, over all its lives.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let mut output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.output)
            .expect("a file for what it prints");
        writeln!(output, "--- started").expect("room for what it prints");
        let handle = |file: &File| Stdio::from(file.try_clone().expect("another handle"));
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(handle(&output))
            .stderr(handle(&output))
            .spawn()
            .unwrap_or_else(|error| panic!("{} can't be started: {error}", self.name));
        self.child = Some(child);
    }

    /// Starts it and waits until it says that it is ready.
    pub async fn start_ready(&mut self) {
        self.start();
        self.ready().await;
    }

    /// Waits until it says that it is ready.
    pub async fn ready(&mut self) {
        let address = self.address.clone();
        let what = format!("{} to be ready", self.name);
        wait::until(&what, wait::PATIENCE, async || {
            if let Some(status) = self.has_ended() {
                panic!("{} ended ({status}):\n{}", self.name, self.printed());
            }
            match http::get(&address, "/readyz").await {
                Ok(answer) if answer.status == 200 => Ok(()),
                Ok(answer) => Err(format!("{} {}", answer.status, answer.body)),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Whether it runs.
    pub fn runs(&mut self) -> bool {
        self.child.is_some() && self.has_ended().is_none()
    }

    fn has_ended(&mut self) -> Option<ExitStatus> {
        let child = self.child.as_mut()?;
        child.try_wait().expect("its state can be asked")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.id()).ok().and_then(Pid::from_raw);
        kill_process(id.expect("a process id"), signal).expect("it can be signalled");
    }

    /// kill -9: it gets no chance to say or save anything.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; either way it is gone after the wait.
            let _gone_already = child.kill();
            child.wait().expect("it can be waited for");
        }
    }

    /// Waits until it ends by itself.
    pub async fn ended(&mut self, patience: Duration) -> ExitStatus {
        let what = format!("{} to end", self.name);
        let status = wait::until(&what, patience, async || {
            self.has_ended().ok_or_else(|| self.printed())
        })
        .await;
        self.child = None;
        status
    }

    /// SIGTERM, and its orderly end.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended(wait::PATIENCE).await
    }

    /// What it has printed, in all its lives.
    pub fn printed(&self) -> String {
        let bytes = std::fs::read(&self.output).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let printed = self.printed();
            let lines: Vec<_> = printed.lines().collect();
            let tail = &lines[lines.len().saturating_sub(40)..];
            eprintln!("--- {} printed at the end:\n{}", self.name, tail.join("\n"));
        }
    }
}

/// The file of that name at or below `folder`.
pub fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    for entry in std::fs::read_dir(folder).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if let Some(found) = find(&path, name) {
                return Some(found);
            }
        } else if path.file_name().is_some_and(|file| file == name) {
            return Some(path);
        }
    }
    None
}
