//! The orchestrator as a process on a machine: it opens what its disk has, and ends in every way that a
//! process can. What survives is what would: the log's disk as the simulated disk says, state.db as a
//! copy of its files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use eventlog::{OpenError, Reader, SegmentLog, SimulatedDisk};
use kit::Clock;
use orchestrator::config::Config;
use orchestrator::stepped::Stepped;
use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;
use tests::chance::Chance;
use tokio::runtime::Runtime;

use crate::plan::Plan;

const STORE_FILES: [&str; 2] = ["state.db", "state.db-wal"];

/// So often what was spawned is looked at: one task wakes another a few times at most.
const SPAWNED_TURNS: usize = 8;

/// An orchestrator that runs.
pub(crate) struct Running {
    pub(crate) stepped: Stepped,
    pub(crate) clock: Clock,
    pub(crate) log: Reader,
    /// What calls spawn, and how long they wait; it goes on when it is told to.
    pub(crate) runtime: Runtime,
}

impl Running {
    /// Lets everything go on that was spawned.
    pub(crate) fn run_spawned(&self) {
        self.runtime.block_on(async {
            for _ in 0..SPAWNED_TURNS {
                tokio::task::yield_now().await;
            }
        });
    }
}

/// How state.db comes through the end of its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreFate {
    /// As it was committed: a kill.
    Kept,
    /// Without its last commits: a power cut.
    Behind,
    /// Gone.
    Lost,
    /// Damaged.
    Damaged,
}

/// The machine with its disk, and the process while it runs.
pub(crate) struct Process {
    pub(crate) disk: SimulatedDisk,
    pub(crate) config: Config,
    plan: Plan,
    directory: TempDir,
    pub(crate) running: Option<Running>,
}

impl Process {
    pub(crate) fn new(plan: &Plan) -> Self {
        let directory = directory();
        Self {
            disk: SimulatedDisk::new(),
            config: plan.config(directory.path()),
            plan: plan.clone(),
            directory,
            running: None,
        }
    }

    /// Starts it, with a clock that shows `wall_us`. The error is what it would say as it ends.
    pub(crate) fn start(&mut self, wall_us: i64) -> Result<(), String> {
        let options = self.plan.log_options(&self.config);
        let log = match SegmentLog::open_on(Arc::new(self.disk.clone()), options) {
            Ok(log) => log,
            // No fault here rots anything, so nothing may be called rotten.
            Err(error @ (OpenError::Damaged(_) | OpenError::NewerFormat { .. })) => {
                panic!("the log doesn't open: {error}")
            }
            Err(error) => return Err(error.to_string()),
        };
        let reader = eventlog::EventLog::reader(&log);
        let clock = Clock::simulated(wall_us);
        let stepped = Stepped::open(self.config.clone(), Box::new(log), clock.clone());
        self.running = Some(Running {
            stepped: stepped.map_err(|ended| ended.to_string())?,
            clock,
            log: reader,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .expect("a runtime"),
        });
        Ok(())
    }

    /// Lets time pass for it.
    pub(crate) fn pass(&self, micros: u64) {
        if let Some(running) = &self.running {
            let time = Duration::from_micros(micros);
            running.clock.advance(time);
            running.runtime.block_on(tokio::time::advance(time));
        }
    }

    /// Ends it where it stands.
    pub(crate) fn kill(&mut self, fate: StoreFate, chance: &mut Chance) {
        // A process that closes its files writes the WAL back, which a killed one doesn't; but it may
        // have done so a moment before.
        if chance.one_in(2) {
            self.running = None;
        }
        let mut files: Vec<_> = STORE_FILES
            .iter()
            .filter_map(|name| Some((self.path(name), std::fs::read(self.path(name)).ok()?)))
            .collect();
        self.running = None;
        self.disk.die_after(None);
        for name in STORE_FILES {
            let _ = std::fs::remove_file(self.path(name));
        }
        match fate {
            StoreFate::Kept => {}
            StoreFate::Lost => files.clear(),
            // Only the newest file is not synced; what is left of it begins at its beginning.
            StoreFate::Behind => {
                if let [_, (_, wal)] = &mut files[..] {
                    wal.truncate(chance.below(wal.len() as u64 + 1) as usize);
                }
            }
            StoreFate::Damaged => files.iter_mut().for_each(|(_, bytes)| spoil(bytes, chance)),
        }
        for (path, bytes) in files {
            std::fs::write(path, bytes).expect("state.db is put back");
        }
    }

    /// The same with the machine: the disk keeps what was synced, and some of what wasn't.
    pub(crate) fn cut_power(&mut self, chance: &mut Chance) {
        self.kill(StoreFate::Behind, chance);
        self.disk = self.disk.power_cut(chance.next_u64());
    }

    /// Damages state.db under its user.
    pub(crate) fn spoil_store(&self, chance: &mut Chance) {
        for path in STORE_FILES.map(|name| self.path(name)) {
            if let Ok(mut bytes) = std::fs::read(&path) {
                spoil(&mut bytes, chance);
                std::fs::write(path, bytes).expect("state.db is spoilt");
            }
        }
    }

    /// From here on no handover to state.db succeeds, or each does again.
    pub(crate) fn refuse_rows(&self, refuse: bool) {
        let statement = match refuse {
            true => {
                "CREATE TRIGGER IF NOT EXISTS refuse BEFORE UPDATE ON mark
                 BEGIN SELECT RAISE(ABORT, 'no room'); END"
            }
            false => "DROP TRIGGER IF EXISTS refuse",
        };
        let opened = Connection::open_with_flags_and_vfs(
            self.path(STORE_FILES[0]),
            OpenFlags::SQLITE_OPEN_READ_WRITE,
            "unix-excl",
        );
        // Where it is gone or spoilt, there is nothing to be refused.
        let _ = opened.and_then(|connection| connection.execute_batch(statement));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// Flips a bit, or spoils a part.
fn spoil(bytes: &mut [u8], chance: &mut Chance) {
    if bytes.is_empty() {
        return;
    }
    let from = chance.below(bytes.len() as u64) as usize;
    if chance.one_in(2) {
        bytes[from] ^= 1 << chance.below(8);
        return;
    }
    let to = (from + chance.within(1, 5_000) as usize).min(bytes.len());
    for byte in &mut bytes[from..to] {
        *byte ^= 0xa5;
    }
}

/// A place for state.db: in memory where the machine has such a place, since no power is really cut.
fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    tempfile::tempdir_in(memory)
        .or_else(|_| tempfile::tempdir())
        .expect("a directory for state.db")
}
