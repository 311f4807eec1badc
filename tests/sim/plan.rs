//! What a seed stands for: which faults are on, how much is started, and how everything is configured.

use std::sync::OnceLock;
use std::time::Duration;

use eventlog::Options;
use kit::config::{ByteCount, HumaneDuration};
use orchestrator::config::Config;
use tests::chance::Chance;

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The orchestrator is killed between two turns.
    Kills,
    /// It dies in the midst of a turn, after any write or sync.
    Dies,
    /// The machine loses its power.
    PowerCuts,
    /// A sync fails.
    SyncFails,
    /// The disk fills up for a while, sometimes in the midst of a write.
    DiskFull,
    /// state.db is gone or damaged at a start, or while in use.
    StoreLost,
    /// state.db is written late.
    StoreSlow,
    /// state.db can't be written for a while.
    StoreFull,
    /// The orchestrator stands still, or starts with another idea of the time.
    ClockJumps,
    /// Requests and answers are lost, streams are cut, some half open.
    Losses,
    /// Messages take seconds, so that they arrive after later ones of other streams.
    Delays,
    /// Requests come twice.
    Doubles,
    /// Hosts crash with all that they had.
    HostCrashes,
    /// Hosts lie: results that are not theirs, twice, for nothing; things held that never were.
    Lies,
    /// Two processes have one host's name.
    Twins,
    /// Hosts send no heartbeats, while their streams are open.
    Silence,
    /// Handlers take longer than leases and timeouts.
    Slowness,
    /// Retention trims the log all the time.
    Trims,
}

/// All of them, by the names that the command line takes.
pub(crate) const FAULTS: [(Fault, &str); 18] = [
    (Fault::Kills, "kills"),
    (Fault::Dies, "dies"),
    (Fault::PowerCuts, "power"),
    (Fault::SyncFails, "syncs"),
    (Fault::DiskFull, "full"),
    (Fault::StoreLost, "store"),
    (Fault::StoreSlow, "rows"),
    (Fault::StoreFull, "norows"),
    (Fault::ClockJumps, "clock"),
    (Fault::Losses, "losses"),
    (Fault::Delays, "delays"),
    (Fault::Doubles, "doubles"),
    (Fault::HostCrashes, "crashes"),
    (Fault::Lies, "lies"),
    (Fault::Twins, "twins"),
    (Fault::Silence, "silence"),
    (Fault::Slowness, "slowness"),
    (Fault::Trims, "trims"),
];

/// A run, wholly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// A bit for each of [`FAULTS`].
    pub(crate) faults: u32,
    /// How many transactions are asked for.
    pub(crate) starts: u64,
    /// Whether some inputs are large.
    pub(crate) large: bool,
    /// After how many steps the faults end, whatever was planned.
    pub(crate) steps: u64,
}

impl Plan {
    /// What the seed says.
    pub(crate) fn of(seed: u64) -> Self {
        let mut chance = Chance::seeded(seed ^ 0x5eed);
        let odds = chance.within(1, 5);
        let mut faults = 0;
        for bit in 0..FAULTS.len() {
            faults |= u32::from(chance.one_in(odds)) << bit;
        }
        Self {
            seed,
            faults,
            starts: chance.within(2, 24),
            large: chance.one_in(8),
            steps: 4_000,
        }
    }

    pub(crate) fn has(&self, fault: Fault) -> bool {
        let bit = FAULTS.iter().position(|(known, _)| *known == fault);
        bit.is_some_and(|bit| self.faults >> bit & 1 == 1)
    }

    /// The faults that are on.
    pub(crate) fn faults(&self) -> Vec<Fault> {
        let all = FAULTS.iter().map(|(fault, _)| *fault);
        all.filter(|fault| self.has(*fault)).collect()
    }

    /// The same by name.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        let on = FAULTS.iter().filter(|(fault, _)| self.has(*fault));
        on.map(|(_, name)| *name).collect()
    }

    /// The same with only these faults.
    pub(crate) fn only(&self, names: &[&str]) -> Self {
        let mut faults = 0;
        for (bit, (_, name)) in FAULTS.iter().enumerate() {
            faults |= u32::from(names.contains(name)) << bit;
        }
        Self {
            faults,
            ..self.clone()
        }
    }

    /// How the orchestrator is configured: short intervals and small files, so that much happens.
    pub(crate) fn config(&self, data_dir: &std::path::Path) -> Config {
        static DEFAULTS: OnceLock<Config> = OnceLock::new();
        let mut chance = Chance::seeded(self.seed ^ 0xc0f6);
        let mut config = DEFAULTS.get_or_init(Config::default).clone();
        let millis = |millis| HumaneDuration(Duration::from_millis(millis));
        config.data_dir = data_dir.to_owned();
        config.store.write_interval = millis(*chance.pick(&[20, 200, 1_000]));
        config.store.trim_interval = millis(*chance.pick(&[100, 1_000]));
        config.store.inline_payload_bytes_max = ByteCount(*chance.pick(&[0, 20, 4_096]));
        config.store.unwritten_max = *chance.pick(&[1, 4, 1_000]);
        config.driver.batch_inputs_max = *chance.pick(&[1, 3, 1_024]);
        config.driver.observing_delay = millis(*chance.pick(&[0, 50]));
        config.engine.observing_events = !chance.one_in(4);
        config.log.segment_bytes = ByteCount(*chance.pick(&[4_096, 16_384]));
        config.log.reserve_bytes = ByteCount(8_192);
        config.log.retention_age = millis(0);
        config.log.retention_bytes = ByteCount(0);
        if self.has(Fault::Trims) {
            config.log.retention_bytes = ByteCount(*chance.pick(&[8_192, 16_384, 32_768]));
        }
        config
    }

    /// How its log is kept: as configured, and such that it repeats itself.
    pub(crate) fn log_options(&self, config: &Config) -> Options {
        let mut log_id = [7; 16];
        log_id[..8].copy_from_slice(&self.seed.to_le_bytes());
        Options {
            background: false,
            log_id: Some(log_id),
            ..config.log_options()
        }
    }

    /// The command that runs it again.
    pub(crate) fn command(&self) -> String {
        let whole = Self::of(self.seed);
        let mut command = format!("make sim SEED={}", self.seed);
        if self.faults != whole.faults {
            command += &format!(" FAULTS={}", self.names().join(","));
        }
        if self.starts != whole.starts {
            command += &format!(" STARTS={}", self.starts);
        }
        if self.steps != whole.steps {
            command += &format!(" STEPS={}", self.steps);
        }
        command
    }
}
