//! Specifications of the table of sessions: a host that came, what it was given, and what time does.
#![expect(clippy::unwrap_used, reason = "tests")]

use proto::id::{StepName, TransactionId};

use super::*;

const LEASE_US: u64 = 10;
const POLICY: Policy = Policy {
    losses: 2,
    window_us: 1_000,
    hold_us: 100,
};

fn host() -> HostId {
    HostId::parse("h").unwrap()
}

fn worker() -> WorkerName {
    WorkerName::parse("w").unwrap()
}

fn command(attempt: u32) -> CommandId {
    CommandId {
        transaction: TransactionId([1; 16]),
        step: StepName::parse("s").unwrap(),
        undo: false,
        attempt,
    }
}

/// What the engine says of a command that its host is at.
#[expect(clippy::unnecessary_wraps, reason = "a stand-in for one that says no")]
fn at_work(_: &CommandId) -> Option<Stage> {
    Some(Stage::Processing)
}

fn announcement(held: &[CommandId]) -> Announcement {
    Announcement {
        host: host(),
        workers: vec![(worker(), 4)],
        machine: "m".to_owned(),
        held: held.to_vec(),
    }
}

/// A table with one host that came at 0 and was given commands 1 to 3.
fn busy() -> (Table, Session) {
    let mut table = Table::new(LEASE_US, 2, POLICY);
    let came = table
        .announce(&announcement(&[]), Time(0), at_work)
        .unwrap();
    for attempt in 1..=3 {
        table.grant(&host(), command(attempt), worker());
    }
    (table, came.session)
}

#[test]
fn a_lease_lapses_once_its_time_is_over_and_not_before() {
    let (mut table, session) = busy();
    assert_eq!(table.due(), Some(Time(10)));
    table.renew(&host(), session, Time(5)).unwrap();
    // A heartbeat that was overtaken shortens nothing.
    table.renew(&host(), session, Time(3)).unwrap();
    assert!(table.lapse(Time(14)).is_empty());
    let lapsed = table.lapse(Time(15));
    assert_eq!(lapsed.len(), 1);
    assert_eq!(lapsed[0].session, Some(session));
    assert_eq!(lapsed[0].commands, [command(1), command(2), command(3)]);
    assert_eq!(table.due(), None);
    let problem = table.renew(&host(), session, Time(16)).unwrap_err();
    assert_eq!(problem.reason, Reason::SessionUnknown);
}

#[test]
fn who_reconnects_in_time_keeps_what_it_holds() {
    let (mut table, session) = busy();
    assert_eq!(table.disconnect(&host(), session, Time(1)), Some(false));
    assert_eq!(table.connected(), 0);
    // 1 it still has, 2 it forgot, 3 ended meanwhile, 9 it never had.
    let holds = |held: &CommandId| at_work(held).filter(|_| held.attempt <= 2);
    let held = [command(1), command(3), command(9), command(1)];
    let back = table
        .announce(&announcement(&held), Time(8), holds)
        .unwrap();
    assert_eq!(back.replaced, None);
    assert_eq!(back.kept, [command(1)]);
    assert_eq!(back.revoked, [command(3), command(9)]);
    assert_eq!(back.lost, [command(2)]);
    assert_eq!(back.offered, [(worker(), 4, 1)]);
    assert_eq!(table.due(), Some(Time(18)));
    assert_eq!(table.release(&host(), &command(1)), Some(worker()));
    assert_eq!(table.release(&host(), &command(1)), None);
    assert_eq!(table.release(&host(), &command(3)), None);
}

#[test]
fn a_second_stream_replaces_the_first_whose_end_changes_nothing() {
    let (mut table, first) = busy();
    let second = table
        .announce(&announcement(&[command(1)]), Time(1), at_work)
        .unwrap();
    assert_eq!(second.replaced, Some(first));
    assert!(table.is_open(&host(), second.session));
    assert_eq!(table.disconnect(&host(), first, Time(1)), None);
    assert!(!table.drain(&host(), first));
    assert!(table.renew(&host(), first, Time(2)).is_err());
    assert!(table.is_open(&host(), second.session));
}

#[test]
fn a_drained_host_leaves_at_once_and_one_with_work_only_after_its_lease() {
    let (mut table, session) = busy();
    assert!(table.drain(&host(), session));
    assert!(!table.drain(&host(), session));
    assert_eq!(table.disconnect(&host(), session, Time(1)), Some(false));
    assert_eq!(table.lapse(Time(10)).len(), 1);
    let came = table
        .announce(&announcement(&[]), Time(20), at_work)
        .unwrap();
    table.drain(&host(), came.session);
    assert_eq!(table.disconnect(&host(), came.session, Time(1)), Some(true));
    assert_eq!(table.due(), None);
}

#[test]
fn after_a_restart_every_lease_begins_anew_in_full() {
    let mut table = Table::new(LEASE_US, 2, POLICY);
    table.restore(vec![(host(), vec![(command(1), worker())])], Time(1_000));
    assert_eq!(table.due(), Some(Time(1_010)));
    let back = table
        .announce(&announcement(&[command(1)]), Time(1_009), at_work)
        .unwrap();
    assert_eq!(back.kept, [command(1)]);
    assert!(table.lapse(Time(1_010)).is_empty());
}

#[test]
fn a_full_table_refuses_strangers_only() {
    let (mut table, _) = busy();
    for (name, fits) in [("x", true), ("y", false), ("h", true)] {
        let stranger = Announcement {
            host: HostId::parse(name).unwrap(),
            ..announcement(&[])
        };
        let answer = table.announce(&stranger, Time(1), at_work);
        assert_eq!(answer.is_ok(), fits, "{name}");
    }
}

/// Announces a new process on the same machine, gives it a command of its own, and lets it die.
fn live_and_die(table: &mut Table, name: &str, attempt: u32, at: i64) -> Announced {
    let newcomer = Announcement {
        host: HostId::parse(name).unwrap(),
        ..announcement(&[])
    };
    let came = table.announce(&newcomer, Time(at), at_work).unwrap();
    table.grant(&newcomer.host, command(attempt), worker());
    table.disconnect(&newcomer.host, came.session, Time(at + 1));
    came
}

#[test]
fn a_host_from_where_hosts_crash_in_a_loop_is_held_back_for_a_while() {
    let mut table = Table::new(LEASE_US, 9, POLICY);
    assert_eq!(live_and_die(&mut table, "a", 1, 0).hold, None);
    assert_eq!(live_and_die(&mut table, "b", 2, 5).hold, None);
    assert_eq!(table.lapse(Time(20)).len(), 2);
    let newcomer = announcement(&[]);
    let came = table.announce(&newcomer, Time(20), at_work).unwrap();
    let hold = Hold {
        until: Time(120),
        losses: 2,
    };
    assert_eq!(came.hold, Some(hold));
    // It reconnects, and another from elsewhere comes: the one is held back still, the other isn't.
    table.disconnect(&host(), came.session, Time(25));
    let back = table.announce(&newcomer, Time(26), at_work).unwrap();
    assert_eq!(back.hold, Some(hold));
    let elsewhere = Announcement {
        host: HostId::parse("e").unwrap(),
        machine: "other".to_owned(),
        ..announcement(&[])
    };
    let other = table.announce(&elsewhere, Time(26), at_work).unwrap();
    assert_eq!(other.hold, None);
    for (session, name) in [(back.session, "h"), (other.session, "e")] {
        let name = HostId::parse(name).unwrap();
        table.renew(&name, session, Time(115)).unwrap();
    }
    assert_eq!(table.due(), Some(Time(120)));
    assert!(table.let_in(Time(119)).is_empty());
    assert_eq!(table.let_in(Time(120)), [(host(), vec![(worker(), 4, 0)])]);
    assert_eq!(table.due(), Some(Time(125)));
}

#[test]
fn a_host_that_comes_back_without_what_it_had_has_crashed() {
    let (mut table, _) = busy();
    let bare = announcement(&[]);
    let second = table.announce(&bare, Time(1), at_work).unwrap();
    assert_eq!((second.lost.len(), second.hold), (3, None));
    table.grant(&host(), command(4), worker());
    // The same process, cut off for a moment: that is no crash.
    let held = announcement(&[command(4)]);
    assert_eq!(table.announce(&held, Time(2), at_work).unwrap().hold, None);
    let third = table.announce(&bare, Time(3), at_work).unwrap();
    assert_eq!(third.hold.map(|hold| hold.until), Some(Time(103)));
    // It drains while it is held back: nothing is let in.
    assert!(table.drain(&host(), third.session));
    assert!(table.let_in(Time(103)).is_empty());
}

#[test]
fn what_is_lost_on_the_way_to_a_host_is_no_sign_of_a_crash() {
    let (mut table, _) = busy();
    for at in 1..5 {
        let on_the_way = |_: &CommandId| Some(Stage::Dispatched);
        let back = table.announce(&announcement(&[]), Time(at), on_the_way);
        let back = back.unwrap();
        assert!(!back.lost.is_empty() && back.hold.is_none());
        table.grant(&host(), command(9), worker());
    }
}

#[test]
fn who_is_lost_while_held_back_leaves_nothing_to_let_in() {
    let mut table = Table::new(LEASE_US, 9, POLICY);
    live_and_die(&mut table, "a", 1, 0);
    live_and_die(&mut table, "b", 2, 5);
    table.lapse(Time(20));
    assert!(live_and_die(&mut table, "c", 3, 20).hold.is_some());
    assert_eq!(table.lapse(Time(30)).len(), 1);
    assert_eq!(table.due(), None);
}
