//! Which hosts crash in a loop: losses counted by place, and places whose newcomers are held back.
//!
//! Pure: no clock, no channel; the table owns it, and nothing of it outlives the process. Each process
//! of a host may have a name of its own, so what is counted is the place that they come up at: the
//! machine and what is offered there. Three things are no sign of a loop and don't count:
//!
//! - hosts that lived at the same time and were lost together, as when their machine went;
//! - a loss with a command that was lost at another place before: then the command is to blame, and
//!   ends as Poison after its deliveries;
//! - the loss of a host that is only known from before a restart of the orchestrator.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use proto::id::{CommandId, HostId, StepName, Time, TransactionId, WorkerName};

/// Lost commands that are remembered in each half of the window. Full: the older half is forgotten,
/// and a loss with such a command counts against its host.
const SUSPECTS_MAX: usize = 10_000;

/// From when on a place is held back, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// So many losses hold a place back; 0: none ever do.
    pub losses: usize,
    /// That lie within so long.
    pub window_us: u64,
    /// How long its newcomers then get no commands.
    pub hold_us: u64,
}

impl Policy {
    /// Nobody is ever held back.
    pub const NEVER: Self = Self {
        losses: 0,
        window_us: 0,
        hold_us: 0,
    };
}

/// Where hosts come up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The machine; where it has no name, the host itself.
    machine: String,
    /// By name.
    workers: Vec<WorkerName>,
}

impl Place {
    /// The place of a host.
    pub fn of(host: &HostId, machine: &str, workers: &[(WorkerName, u32)]) -> Arc<Self> {
        let machine = match machine {
            "" => host.as_str(),
            named => named,
        };
        let mut workers: Vec<_> = workers.iter().map(|(worker, _)| worker.clone()).collect();
        workers.sort_unstable();
        Arc::new(Self {
            machine: machine.to_owned(),
            workers,
        })
    }
}

/// One life of a host, from its announcement to its loss.
#[derive(Clone, Debug)]
pub struct Life {
    /// Where it came up.
    pub place: Arc<Place>,
    /// When.
    pub began: Time,
    /// When its stream ended, or it was given up.
    pub ended: Time,
}

/// That a host is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Until then it gets no commands.
    pub until: Time,
    /// For so many losses.
    pub losses: u32,
}

/// What is remembered of losses.
#[derive(Debug)]
pub struct Quarantine {
    policy: Policy,
    /// Full: the place that has been quiet for the longest is forgotten.
    places_max: usize,
    places: BTreeMap<Arc<Place>, Losses>,
    /// Where commands were lost, whatever their attempt; the newer half and the older one.
    suspects: [BTreeMap<Suspect, LostAt>; 2],
    /// When the newer half began.
    since: Time,
}

type Suspect = (TransactionId, StepName, bool);

#[derive(Debug)]
enum LostAt {
    One(Arc<Place>),
    /// Wherever it is lost next, it is to blame.
    Several,
}

#[derive(Debug, Default)]
struct Losses {
    /// When the lives that count ended, the last `Policy::losses` of them.
    ends: VecDeque<Time>,
    held_until: Time,
}

impl Quarantine {
    /// Nobody was lost yet.
    pub fn new(policy: Policy, places_max: usize) -> Self {
        Self {
            policy,
            places_max,
            places: BTreeMap::new(),
            suspects: Default::default(),
            since: Time::default(),
        }
    }

    /// A host was lost with these commands.
    pub fn lost(&mut self, life: &Life, commands: &[CommandId], now: Time) {
        if self.policy.losses == 0 || self.is_blameless(&life.place, commands, now) {
            return;
        }
        let quiet = |losses: &Losses| losses.ends.back().copied();
        if !self.places.contains_key(&life.place) && self.places.len() >= self.places_max {
            let quietest = self.places.iter().min_by_key(|(_, losses)| quiet(losses));
            if let Some(place) = quietest.map(|(place, _)| place.clone()) {
                self.places.remove(&place);
            }
        }
        let losses = self.places.entry(life.place.clone()).or_default();
        if quiet(losses).is_some_and(|last| life.began < last) {
            return;
        }
        losses.ends.push_back(life.ended);
        while losses.ends.len() > self.policy.losses {
            losses.ends.pop_front();
        }
        let window_us = self.policy.window_us;
        let recent = |end: &&Time| end.after_us(window_us) >= now;
        if losses.ends.iter().filter(recent).count() >= self.policy.losses {
            losses.held_until = now.after_us(self.policy.hold_us);
        }
    }

    /// Whether newcomers of a place are held back.
    pub fn hold(&self, place: &Place, now: Time) -> Option<Hold> {
        let losses = self.places.get(place)?;
        (losses.held_until > now).then_some(Hold {
            until: losses.held_until,
            losses: u32::try_from(losses.ends.len()).unwrap_or(u32::MAX),
        })
    }

    /// Whether one of the commands was lost at another place before; all are remembered.
    fn is_blameless(&mut self, place: &Arc<Place>, commands: &[CommandId], now: Time) -> bool {
        if now.since_us(self.since) > self.policy.window_us {
            self.forget_older(now);
        }
        let mut elsewhere = false;
        for command in commands {
            let suspect = (command.transaction, command.step.clone(), command.undo);
            let [newer, older] = &mut self.suspects;
            match newer.get_mut(&suspect).or_else(|| older.get_mut(&suspect)) {
                Some(LostAt::One(known)) if known == place => {}
                Some(lost_at) => {
                    *lost_at = LostAt::Several;
                    elsewhere = true;
                }
                None => {
                    newer.insert(suspect, LostAt::One(place.clone()));
                    if newer.len() >= SUSPECTS_MAX {
                        self.forget_older(now);
                    }
                }
            }
        }
        elsewhere
    }

    fn forget_older(&mut self, now: Time) {
        self.suspects.swap(0, 1);
        self.suspects[0].clear();
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const POLICY: Policy = Policy {
        losses: 3,
        window_us: 100,
        hold_us: 50,
    };

    fn place(machine: &str) -> Arc<Place> {
        let host = HostId::parse("h").unwrap();
        Place::of(&host, machine, &[(WorkerName::parse("w").unwrap(), 1)])
    }

    fn command(number: u8, attempt: u32) -> CommandId {
        CommandId {
            transaction: TransactionId([number; 16]),
            step: StepName::parse("s").unwrap(),
            undo: false,
            attempt,
        }
    }

    fn life(machine: &str, began: i64, ended: i64) -> Life {
        Life {
            place: place(machine),
            began: Time(began),
            ended: Time(ended),
        }
    }

    /// Lives of one place after each other, each lost with a command of its own.
    fn crash(quarantine: &mut Quarantine, machine: &str, lives: &[(i64, i64)]) {
        for &(began, ended) in lives {
            let own = command(u8::try_from(ended % 251).unwrap(), 1);
            quarantine.lost(&life(machine, began, ended), &[own], Time(ended));
        }
    }

    #[test]
    fn so_many_losses_within_the_window_hold_a_place_back_and_no_other() {
        let mut quarantine = Quarantine::new(POLICY, 10);
        crash(&mut quarantine, "a", &[(0, 10), (11, 20)]);
        assert_eq!(quarantine.hold(&place("a"), Time(20)), None);
        crash(&mut quarantine, "a", &[(21, 30)]);
        let hold = quarantine.hold(&place("a"), Time(30));
        assert_eq!(
            hold,
            Some(Hold {
                until: Time(80),
                losses: 3
            })
        );
        assert_eq!(quarantine.hold(&place("b"), Time(30)), None);
        assert_eq!(quarantine.hold(&place("a"), Time(80)), None);
        // The next life is a trial: the losses before it still count.
        crash(&mut quarantine, "a", &[(81, 90)]);
        assert_eq!(
            quarantine.hold(&place("a"), Time(90)).unwrap().until,
            Time(140)
        );
    }

    #[test]
    fn losses_that_lie_far_apart_are_no_loop() {
        let mut quarantine = Quarantine::new(POLICY, 10);
        crash(
            &mut quarantine,
            "a",
            &[(0, 10), (11, 100), (101, 111), (112, 201)],
        );
        assert_eq!(quarantine.hold(&place("a"), Time(201)), None);
    }

    #[test]
    fn hosts_that_go_together_count_once() {
        let mut quarantine = Quarantine::new(POLICY, 10);
        crash(&mut quarantine, "a", &[(0, 50), (1, 51), (2, 52), (3, 53)]);
        assert_eq!(quarantine.hold(&place("a"), Time(53)), None);
        crash(&mut quarantine, "a", &[(60, 70), (71, 80)]);
        assert!(quarantine.hold(&place("a"), Time(80)).is_some());
    }

    #[test]
    fn a_command_that_was_lost_elsewhere_before_is_to_blame_itself() {
        let mut quarantine = Quarantine::new(POLICY, 10);
        for (attempt, machine) in (1..).zip(["a", "b", "a", "b", "a", "b", "a", "b"]) {
            let at = i64::from(attempt) * 10;
            let poison = command(7, attempt);
            let innocent = command(100 + u8::try_from(attempt).unwrap(), 1);
            quarantine.lost(&life(machine, at - 9, at), &[innocent, poison], Time(at));
            assert_eq!(
                quarantine.hold(&place(machine), Time(at)),
                None,
                "{attempt}"
            );
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut quarantine = Quarantine::new(POLICY, 2);
        for (number, machine) in ["a", "b", "c"].into_iter().enumerate() {
            let at = i64::try_from(number).unwrap() * 10 + 10;
            crash(&mut quarantine, machine, &[(at - 5, at)]);
        }
        assert_eq!(quarantine.places.len(), 2);
        assert!(!quarantine.places.contains_key(&place("a")));
        let numbered = |number: u32| {
            let mut id = command(1, 1);
            id.transaction.0[..4].copy_from_slice(&number.to_be_bytes());
            id
        };
        let many: Vec<_> = (0..25_000).map(numbered).collect();
        quarantine.lost(&life("d", 40, 41), &many, Time(41));
        let remembered: usize = quarantine.suspects.iter().map(BTreeMap::len).sum();
        assert!(
            remembered <= 2 * SUSPECTS_MAX && remembered > 0,
            "{remembered}"
        );
    }

    #[test]
    fn without_a_policy_nobody_is_held_back() {
        let mut quarantine = Quarantine::new(Policy::NEVER, 10);
        crash(&mut quarantine, "a", &[(0, 1), (2, 3), (4, 5), (6, 7)]);
        assert_eq!(quarantine.hold(&place("a"), Time(7)), None);
        assert!(quarantine.places.is_empty());
    }
}
