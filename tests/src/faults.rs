//! Faults from outside a process: system calls that fail or dawdle, a disk that is full.
//!
//! The tools are Debian's. Where one is missing it is installed, if that may be; where it can't be,
//! the story says that it is skipped, and fails instead where `CI` is `true`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::process::Process;
use crate::wait;

/// Whether the file of a Debian package is there, after installing the package if need be.
pub fn have(package: &str, path: &str) -> bool {
    let there = || Path::new(path).exists();
    if !there() && rustix::process::geteuid().is_root() {
        for words in [&["update", "-q"][..], &["install", "-y", "-q", package]] {
            let mut command = Command::new("apt-get");
            command
                .args(words)
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            // Whether it helped is seen by the file.
            let _ended = command.env("DEBIAN_FRONTEND", "noninteractive").status();
        }
    }
    there() || skipped(&format!("{package} is not here and can't be installed"))
}

/// Says that a story is skipped, which is not good enough for CI.
fn skipped(why: &str) -> bool {
    let ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!ci, "{why}");
    eprintln!("skipped: {why}");
    false
}

/// What strace does to a thread's system calls.
#[derive(Clone, Copy, Debug)]
pub struct Fault<'a> {
    /// Which calls, such as `fdatasync`.
    pub calls: &'a str,
    /// What happens to them, as `-e inject=` says it.
    pub what: &'a str,
    /// Only where they are about this file.
    pub file: Option<&'a Path>,
}

/// strace on one thread of a process, whose system calls it makes fail or wait.
#[derive(Debug)]
pub struct Strace {
    child: Child,
    log: PathBuf,
}

impl Strace {
    /// Whether there can be one.
    pub fn is_here() -> bool {
        have("strace", "/usr/bin/strace")
    }

    /// On the thread of that name, from now on; what it traces goes to `log`.
    pub async fn attach(process: &Process, thread: &str, fault: &Fault<'_>, log: &Path) -> Self {
        let task = task(process.id(), thread);
        let Fault { calls, what, file } = fault;
        let mut command = Command::new("/usr/bin/strace");
        command
            .args(["-q", "-ttt", "-e", &format!("trace={calls}")])
            .args(["-e", &format!("inject={calls}:{what}"), "-o"])
            .arg(log)
            .args(["-p", &task.to_string()]);
        if let Some(file) = file {
            command.arg("-P").arg(file);
        }
        let child = command
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace starts");
        let status = format!("/proc/{}/task/{task}/status", process.id());
        wait::until("strace to be attached", wait::PATIENCE, async || {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let traced = text
                .lines()
                .any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"));
            traced.then_some(()).ok_or(text)
        })
        .await;
        Self {
            child,
            log: log.to_owned(),
        }
    }

    /// Lets go of the thread; gives what was traced, one call a line.
    pub fn detach(mut self) -> String {
        self.end();
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn end(&mut self) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let (Ok(None), Some(id)) = (self.child.try_wait(), id) {
            // It may have ended with the thread; the wait tells.
            let _gone = kill_process(id, Signal::INT);
        }
        self.child.wait().expect("it can be waited for");
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        self.end();
    }
}

/// The thread of that name.
fn task(process: u32, thread: &str) -> u32 {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("its threads");
    let found = tasks.flatten().find(|task| {
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        name.trim() == thread
    });
    let found = found.unwrap_or_else(|| panic!("no thread is called {thread}"));
    let name = found.file_name().into_string().expect("digits");
    name.parse().expect("a number")
}

/// A small disk of its own, gone when it is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
    _directory: tempfile::TempDir,
}

/// What takes the room of a small disk that is left out.
const BALLAST: &str = "ballast";
/// What takes the rest, once it is full.
const FILLER: &str = "filler";
const MEBIBYTE: u64 = 1 << 20;

/// File systems with the Debian packages that make them. The first lies in memory and needs none.
const FILE_SYSTEMS: [(&str, &str); 4] = [
    ("tmpfs", ""),
    ("ext4", "e2fsprogs"),
    ("xfs", "xfsprogs"),
    ("btrfs", "btrfs-progs"),
];

impl SmallDisk {
    /// Disks with so many MiB of room: one in memory, and in long runs one of each file system. Those that
    /// can't be mounted here are left out.
    pub fn each(mebibytes: u64) -> impl Iterator<Item = Self> {
        let count = if wait::is_long() {
            FILE_SYSTEMS.len()
        } else {
            1
        };
        let kinds = FILE_SYSTEMS.iter().take(count);
        kinds.filter_map(move |(kind, package)| Self::mount(kind, package, mebibytes))
    }

    fn mount(kind: &str, package: &str, mebibytes: u64) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, image) = (
            directory.path().join("disk"),
            directory.path().join("image"),
        );
        std::fs::create_dir(&path).expect("a directory");
        let mut mount = Command::new("mount");
        if kind == "tmpfs" {
            mount.args(["-t", kind, "-o", "size=400m,mode=0700", kind]);
        } else {
            let make = format!("mkfs.{kind}");
            if !have(package, &format!("/usr/sbin/{make}")) {
                return None;
            }
            let file = std::fs::File::create(&image).expect("a file");
            // The least that XFS takes is 300 MiB.
            file.set_len(400 * MEBIBYTE).expect("a file with holes");
            assert!(run(Command::new(make).arg(&image)), "{kind} can be made");
            mount.args(["-o", "loop"]).arg(&image);
        }
        if !run(mount.arg(&path)) {
            skipped(&format!("no {kind} can be mounted here"));
            return None;
        }
        let disk = Self {
            path,
            _directory: directory,
        };
        let free = rustix::fs::statvfs(&disk.path).expect("a file system");
        let free = free.f_bavail * free.f_frsize / MEBIBYTE;
        disk.write(BALLAST, (free - mebibytes) * MEBIBYTE)
            .expect("room");
        println!("a small {kind}");
        Some(disk)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes all the room that is left.
    pub fn fill(&self) {
        let full = self.write(FILLER, u64::MAX).expect_err("it is small");
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }

    /// Gives it plenty of room.
    pub fn make_room(&self) {
        for name in [BALLAST, FILLER] {
            let _may_not_be_there = std::fs::remove_file(self.path.join(name));
        }
        // A file system may give back a removed file's room later.
        rustix::fs::sync();
    }

    /// A file of so many bytes, to the last block that fits.
    fn write(&self, name: &str, bytes: u64) -> std::io::Result<()> {
        const BLOCK: [u8; 4096] = [7; 4096];
        let mut file = std::fs::File::create(self.path.join(name))?;
        for _ in 0..bytes / BLOCK.len() as u64 {
            file.write_all(&BLOCK)?;
        }
        file.sync_all()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run(Command::new("umount").arg("-l").arg(&self.path));
    }
}

fn run(command: &mut Command) -> bool {
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
