//! What goes wrong with the orchestrator's process, its machine and its clock; and the calm at the end.

use eventlog::Disk as _;

use crate::plan::Fault;
use crate::process::StoreFate;
use crate::world::{What, World};

impl World {
    /// Something goes wrong, if the plan has it, and the next such moment is planned.
    pub(crate) fn fault(&mut self) {
        if self.calm {
            return;
        }
        let pause = self.chance.within(200_000, 8_000_000);
        self.after(pause, What::Fault);
        let faults = self.plan.faults();
        if faults.is_empty() {
            return;
        }
        match *self.chance.pick(&faults) {
            Fault::Kills if self.process.running.is_some() => {
                self.tally.kills += 1;
                self.end_process(StoreFate::Kept);
            }
            Fault::Dies => {
                let changes = self.chance.below(40) as u32;
                self.process.disk.die_after(Some(changes));
            }
            Fault::PowerCuts if self.process.running.is_some() => {
                self.tally.power_cuts += 1;
                self.cut_power();
            }
            Fault::SyncFails => {
                self.disk_in_trouble = true;
                let syncs = self.chance.below(6) as u32;
                self.process.disk.fail_sync_after(syncs);
            }
            Fault::DiskFull => self.fill_disk(),
            Fault::StoreLost => self.lose_store(),
            Fault::StoreFull => {
                self.tally.full_stores += 1;
                self.process.refuse_rows(true);
                let length = self.chance.within(100_000, 20_000_000);
                self.after(length, What::RoomForRows);
            }
            Fault::ClockJumps => {
                self.tally.jumps += 1;
                let length = self.chance.within(100_000, 60_000_000);
                self.still_until = self.now.saturating_add_unsigned(length);
            }
            _ => {}
        }
    }

    fn fill_disk(&mut self) {
        self.tally.full_disks += 1;
        self.disk_in_trouble = true;
        let disk = &self.process.disk;
        if self.chance.one_in(2) {
            disk.full_after(Some(self.chance.below(6_000) as usize));
        } else if let Ok(space) = disk.space() {
            let used = space.total_bytes - space.free_bytes;
            disk.set_capacity(Some(used + self.chance.below(20_000)));
        }
        let length = self.chance.within(100_000, 20_000_000);
        self.after(length, What::Room);
    }

    /// The disk has room again.
    pub(crate) fn room(&mut self) {
        self.process.disk.set_capacity(None);
        self.process.disk.full_after(None);
        // A sync that is yet to fail is still to come.
        self.disk_in_trouble = self.plan.has(Fault::SyncFails);
    }

    fn lose_store(&mut self) {
        if self.process.running.is_none() {
            return;
        }
        self.tally.lost_stores += 1;
        match self.chance.below(3) {
            0 => {
                let mut chance = tests::chance::Chance::seeded(self.chance.next_u64());
                self.store_in_trouble = true;
                self.process.spoil_store(&mut chance);
            }
            1 => self.end_process(StoreFate::Lost),
            _ => self.end_process(StoreFate::Damaged),
        }
    }

    /// From now on nothing goes wrong: the process starts once more, on a disk without faults.
    pub(crate) fn become_calm(&mut self) {
        self.calm = true;
        self.still_until = 0;
        let fate = match self.store_in_trouble {
            true => StoreFate::Damaged,
            false => StoreFate::Kept,
        };
        self.end_process(fate);
        self.process.refuse_rows(false);
        self.process.disk = self.process.disk.copy();
        self.disk_in_trouble = false;
        self.hosts.iter_mut().for_each(crate::hosts::Host::calm);
        for at in 0..self.clients.len() {
            self.after(0, What::Client(at));
        }
    }
}
