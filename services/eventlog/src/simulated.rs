//! A disk in memory that fails as it is told.
//!
//! It keeps what was written apart from what was synced, sector by sector, so that a power cut can
//! leave any mixture that a real one could: each unsynced sector as it was, as it is, or as it was
//! in between; names created, renamed and removed up to some point. The same seed leaves the same.
//! It must never be kinder than a real disk.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::{DIRECT_BYTES_MIN, Disk, DiskFile, Space};

/// A disk writes so many bytes wholly or not at all.
const SECTOR_BYTES: usize = 512;
/// How many states of an unsynced sector are remembered; older ones are forgotten.
const VERSIONS_MAX: usize = 8;

/// A simulated disk; clones are the same disk.
#[derive(Clone, Default)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    names: BTreeMap<String, usize>,
    synced_names: BTreeMap<String, usize>,
    unsynced_renames: Vec<NameChange>,
    files: Vec<File>,
    locks: BTreeSet<String>,
    faults: Faults,
}

#[derive(Clone)]
enum NameChange {
    Put(String, usize),
    Take(String),
}

#[derive(Clone, Default)]
struct File {
    bytes: Vec<u8>,
    synced: Vec<u8>,
    /// Sector number to the states it had since the last sync, oldest first.
    unsynced: BTreeMap<usize, Vec<Vec<u8>>>,
}

#[derive(Clone, Copy, Default)]
struct Faults {
    capacity_bytes: Option<u64>,
    full_after_bytes: Option<usize>,
    syncs_until_failure: Option<u32>,
    fail_writes: bool,
    reads_until_failure: Option<u32>,
    changes_until_death: Option<u32>,
    dead: bool,
    writes: u64,
    syncs: u64,
}

impl SimulatedDisk {
    /// An empty disk without faults.
    pub fn new() -> SimulatedDisk {
        SimulatedDisk::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a killed process leaves: all that was written, on a disk of its own without faults.
    pub fn copy(&self) -> SimulatedDisk {
        let state = self.state();
        let files = state
            .files
            .iter()
            .map(|file| File::settled(file.bytes.clone()))
            .collect();
        SimulatedDisk::of(state.names.clone(), files)
    }

    /// What a power cut leaves, on a disk of its own without faults: all that was synced and a
    /// random part of what was not.
    pub fn power_cut(&self, seed: u64) -> SimulatedDisk {
        let mut random = Random(seed);
        let state = self.state();
        let mut names = state.synced_names.clone();
        let kept = random.below(state.unsynced_renames.len() as u64 + 1) as usize;
        for change in &state.unsynced_renames[..kept] {
            change.apply(&mut names);
        }
        let odds = [0, 10, 50, 90, 100][random.below(5) as usize];
        let files = state
            .files
            .iter()
            .map(|file| file.after_power_cut(odds, &mut random));
        SimulatedDisk::of(names, files.collect())
    }

    fn of(names: BTreeMap<String, usize>, files: Vec<File>) -> SimulatedDisk {
        let state = State {
            synced_names: names.clone(),
            names,
            files,
            ..State::default()
        };
        SimulatedDisk {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// The content of a file; empty where there is none.
    pub fn content(&self, name: &str) -> Vec<u8> {
        let state = self.state();
        state
            .names
            .get(name)
            .map(|file| state.files[*file].bytes.clone())
            .unwrap_or_default()
    }

    /// The names of its files.
    pub fn names(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    /// Removes a file behind everybody's back, durably.
    pub fn forget(&self, name: &str) {
        let mut state = self.state();
        state.names.remove(name);
        state.synced_names.remove(name);
    }

    /// Changes the content of a file behind everybody's back, durably.
    pub fn edit(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        if let Some(file) = state.names.get(name).copied() {
            let file = &mut state.files[file];
            change(&mut file.bytes);
            *file = File::settled(std::mem::take(&mut file.bytes));
        }
    }

    /// How many bytes all files together may have; `None` for no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().faults.capacity_bytes = bytes;
    }

    /// The disk is full in the midst of a write, after so many bytes from now on; `None` ends it.
    pub fn full_after(&self, bytes: Option<usize>) {
        self.state().faults.full_after_bytes = bytes;
    }

    /// After so many syncs that succeed one fails. As on Linux, what it should have written stays
    /// readable, counts as written, and never reaches the disk; later syncs succeed.
    pub fn fail_sync_after(&self, syncs: u32) {
        self.state().faults.syncs_until_failure = Some(syncs);
    }

    /// Whether writes fail with an I/O error.
    pub fn fail_writes(&self, fail: bool) {
        self.state().faults.fail_writes = fail;
    }

    /// After so many reads that succeed one fails with an I/O error.
    pub fn fail_read_after(&self, reads: u32) {
        self.state().faults.reads_until_failure = Some(reads);
    }

    /// The process that uses the disk dies: after so many changes (writes, syncs, names) nothing
    /// changes any more, and a write in that moment is half done. `None` is the next process.
    pub fn die_after(&self, changes: Option<u32>) {
        let faults = &mut self.state().faults;
        faults.changes_until_death = changes;
        faults.dead = false;
    }

    /// Whether the process has died of [`SimulatedDisk::die_after`].
    pub fn is_dead(&self) -> bool {
        self.state().faults.dead
    }

    /// How many writes and how many syncs there were.
    pub fn counts(&self) -> (u64, u64) {
        let faults = self.state().faults;
        (faults.writes, faults.syncs)
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            NameChange::Put(name, file) => names.insert(name.clone(), *file),
            NameChange::Take(name) => names.remove(name),
        };
    }
}

impl State {
    fn change_names(&mut self, change: NameChange) -> io::Result<()> {
        self.live_on()?;
        change.apply(&mut self.names);
        self.unsynced_renames.push(change);
        Ok(())
    }

    /// Counts a change; an error when nothing changes any more.
    fn live_on(&mut self) -> io::Result<()> {
        let faults = &mut self.faults;
        faults.dead |= count_down(&mut faults.changes_until_death);
        if faults.dead {
            return Err(io::Error::other("simulated death of the process"));
        }
        Ok(())
    }

    fn used_bytes(&self) -> u64 {
        self.names
            .values()
            .map(|file| self.files[*file].bytes.len() as u64)
            .sum()
    }

    fn count_sync(&mut self) -> io::Result<()> {
        self.faults.syncs += 1;
        if count_down(&mut self.faults.syncs_until_failure) {
            return Err(io::Error::other("simulated failure of a sync"));
        }
        Ok(())
    }
}

/// Whether it is this one that fails; after it none does.
fn count_down(until_failure: &mut Option<u32>) -> bool {
    match until_failure {
        Some(0) => {
            *until_failure = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

impl File {
    fn settled(bytes: Vec<u8>) -> File {
        File {
            synced: bytes.clone(),
            bytes,
            unsynced: BTreeMap::new(),
        }
    }

    fn write(&mut self, bytes: &[u8], position: usize) {
        let end = position + bytes.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[position..end].copy_from_slice(bytes);
        for sector in position / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let now = self.sector(sector).to_vec();
            let versions = self.unsynced.entry(sector).or_default();
            versions.push(now);
            if versions.len() > VERSIONS_MAX {
                versions.remove(0);
            }
        }
    }

    fn sector(&self, sector: usize) -> &[u8] {
        let end = ((sector + 1) * SECTOR_BYTES).min(self.bytes.len());
        &self.bytes[(sector * SECTOR_BYTES).min(end)..end]
    }

    fn sync(&mut self) {
        self.synced.resize(self.bytes.len(), 0);
        for sector in std::mem::take(&mut self.unsynced).into_keys() {
            let start = sector * SECTOR_BYTES;
            let now = self.sector(sector).to_vec();
            if start < self.synced.len() {
                self.synced[start..start + now.len()].copy_from_slice(&now);
            }
        }
    }

    fn after_power_cut(&self, odds: u64, random: &mut Random) -> File {
        let mut left = self.synced.clone();
        for (sector, versions) in &self.unsynced {
            if random.below(100) >= odds {
                continue;
            }
            // Mostly the newest state, sometimes one that write-back caught in between.
            let older = random.below(4) == 0;
            let index = if older {
                random.below(versions.len() as u64) as usize
            } else {
                versions.len() - 1
            };
            let start = sector * SECTOR_BYTES;
            let end = start + versions[index].len();
            if left.len() < end {
                left.resize(end, 0);
            }
            left[start..end].copy_from_slice(&versions[index]);
        }
        File::settled(left)
    }
}

impl Disk for SimulatedDisk {
    fn place(&self) -> String {
        "simulated disk".into()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        let index = state.files.len();
        state.files.push(File::default());
        state.change_names(NameChange::Put(name.into(), index))?;
        Ok(Arc::new(OpenFile {
            disk: self.clone(),
            index,
        }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        match self.state().names.get(name) {
            Some(index) => Ok(Arc::new(OpenFile {
                disk: self.clone(),
                index: *index,
            })),
            None => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("no file {name}"),
            )),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let Some(index) = state.names.get(from).copied() else {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("no file {from}"),
            ));
        };
        // Both in one step of the journal would be kinder; a power cut may find both names.
        state.change_names(NameChange::Put(to.into(), index))?;
        state.change_names(NameChange::Take(from.into()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.state().change_names(NameChange::Take(name.into()))
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.state();
        state.live_on()?;
        state.count_sync()?;
        state.synced_names = state.names.clone();
        state.unsynced_renames.clear();
        Ok(())
    }

    fn lock(&self, name: &str) -> io::Result<Option<Box<dyn Send>>> {
        let free = self.state().locks.insert(name.into());
        if free {
            Ok(Some(Box::new(Guard {
                disk: self.clone(),
                name: name.into(),
            })))
        } else {
            Ok(None)
        }
    }

    fn space(&self) -> io::Result<Space> {
        let state = self.state();
        let total = state.faults.capacity_bytes.unwrap_or(1 << 40);
        Ok(Space {
            free_bytes: total.saturating_sub(state.used_bytes()),
            total_bytes: total,
        })
    }
}

struct Guard {
    disk: SimulatedDisk,
    name: String,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.disk.state().locks.remove(&self.name);
    }
}

struct OpenFile {
    disk: SimulatedDisk,
    index: usize,
}

impl DiskFile for OpenFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        if count_down(&mut state.faults.reads_until_failure) {
            return Err(io::Error::other("simulated failure of a read"));
        }
        let bytes = &state.files[self.index].bytes;
        let start = (position as usize).min(bytes.len());
        let length = buffer.len().min(bytes.len() - start);
        buffer[..length].copy_from_slice(&bytes[start..start + length]);
        Ok(length)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        state.faults.writes += 1;
        if state.faults.fail_writes {
            return Err(io::Error::other("simulated failure of a write"));
        }
        let mut fits = bytes.len();
        let was_dead = state.faults.dead;
        if let Err(died) = state.live_on() {
            if !was_dead {
                state.files[self.index].write(&bytes[..fits / 2], position as usize);
            }
            return Err(died);
        }
        if let Some(left) = state.faults.full_after_bytes {
            fits = fits.min(left);
            state.faults.full_after_bytes = Some(left - fits);
        }
        if let Some(capacity) = state.faults.capacity_bytes {
            let length = state.files[self.index].bytes.len();
            let inside = length.saturating_sub(position as usize);
            let free = capacity.saturating_sub(state.used_bytes()) as usize;
            fits = fits.min(inside + free);
        }
        if fits == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.files[self.index].write(&bytes[..fits], position as usize);
        // Past the page cache, Linux does not tell how far a write came that found no room.
        if fits < bytes.len() && bytes.len() >= DIRECT_BYTES_MIN {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(fits)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.live_on()?;
        if let Err(error) = state.count_sync() {
            state.files[self.index].unsynced.clear();
            return Err(error);
        }
        state.files[self.index].sync();
        Ok(())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.live_on()?;
        let file = &mut state.files[self.index];
        file.bytes.truncate(length as usize);
        file.unsynced
            .retain(|sector, _| sector * SECTOR_BYTES < file.bytes.len());
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.state().files[self.index].bytes.len() as u64)
    }
}

/// A small generator (splitmix64), so that a seed is all there is to repeat a run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
