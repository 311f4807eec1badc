//! What was tried, to be told at the end.

use crate::calls::{Answer, Ask};

/// Counts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) seeds: u64,
    pub(crate) transactions: u64,
    pub(crate) events: u64,
    pub(crate) turns: u64,
    pub(crate) starts: u64,
    pub(crate) handovers: u64,
    pub(crate) kills: u64,
    pub(crate) deaths: u64,
    pub(crate) power_cuts: u64,
    pub(crate) failures: u64,
    pub(crate) full_disks: u64,
    pub(crate) lost_stores: u64,
    pub(crate) full_stores: u64,
    pub(crate) jumps: u64,
    pub(crate) lost_messages: u64,
    pub(crate) doubled: u64,
    pub(crate) cut_streams: u64,
    pub(crate) host_crashes: u64,
    pub(crate) lies: u64,
    pub(crate) lost_commands: u64,
    pub(crate) refused_results: u64,
    pub(crate) carried: u64,
    pub(crate) waits: u64,
    pub(crate) start_streams: u64,
    pub(crate) watches: u64,
    /// Of everything that ever became durable.
    pub(crate) fingerprint: u64,
}

impl Tally {
    /// Both together.
    pub(crate) fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.transactions += other.transactions;
        self.events += other.events;
        self.turns += other.turns;
        self.starts += other.starts;
        self.handovers += other.handovers;
        self.kills += other.kills;
        self.deaths += other.deaths;
        self.power_cuts += other.power_cuts;
        self.failures += other.failures;
        self.full_disks += other.full_disks;
        self.lost_stores += other.lost_stores;
        self.full_stores += other.full_stores;
        self.jumps += other.jumps;
        self.lost_messages += other.lost_messages;
        self.doubled += other.doubled;
        self.cut_streams += other.cut_streams;
        self.host_crashes += other.host_crashes;
        self.lies += other.lies;
        self.lost_commands += other.lost_commands;
        self.refused_results += other.refused_results;
        self.carried += other.carried;
        self.waits += other.waits;
        self.start_streams += other.start_streams;
        self.watches += other.watches;
        self.fingerprint ^= other.fingerprint;
    }
}

impl Tally {
    /// A call was answered.
    pub(crate) fn answered(&mut self, ask: &Ask, answer: &Answer) {
        match answer {
            Answer::Started(Ok(_)) => self.waits += u64::from(ask.wait_us() > 0),
            Answer::Streamed(Ok(_)) => self.start_streams += 1,
            Answer::Watched(Ok(())) => self.watches += 1,
            _ => {}
        }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} seeds, {} transactions, {} events in {} turns, {} handovers to state.db; {} starts after \
             {} kills, {} deaths within a turn, {} power cuts, {} failed syncs or stores; {} full disks, \
             {} spoilt or lost state.db, {} without room; {} jumps of the clock; {} messages lost, {} doubled, {} streams \
             cut; {} hosts crashed, {} lies; {} commands lost, {} results refused, {} transactions \
             carried past a trim; {} waits, {} streams of starts and {} watches to their ends",
            self.seeds,
            self.transactions,
            self.events,
            self.turns,
            self.handovers,
            self.starts,
            self.kills,
            self.deaths,
            self.power_cuts,
            self.failures,
            self.full_disks,
            self.lost_stores,
            self.full_stores,
            self.jumps,
            self.lost_messages,
            self.doubled,
            self.cut_streams,
            self.host_crashes,
            self.lies,
            self.lost_commands,
            self.refused_results,
            self.carried,
            self.waits,
            self.start_streams,
            self.watches
        )
    }
}
