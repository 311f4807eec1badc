//! Keys, unknown workflows, and a full house.

use super::*;

#[test]
fn a_key_starts_one_transaction() {
    let mut scene = check(TWO, "start key > started, a queued\n start key");
    assert_eq!(
        scene.reply,
        Reply::Started {
            id: scene.ids[0],
            existing: true
        }
    );
    let mut other = start(b"{}");
    other.idempotency_key = "key".to_owned();
    other.input_hash = Bytes::from_static(b"another");
    let again = |start: &Start, ended| Input::Start {
        id: TransactionId([77; 16]),
        workflow: WorkflowName::parse("w").unwrap(),
        version: 0,
        start: Box::new(start.clone()),
        ended,
    };
    let problem = scene.try_input(again(&other, None)).unwrap_err();
    assert_eq!(problem.reason, Reason::IdempotencyKeyReused);
    // One that has left memory is brought along by who looked it up.
    other.idempotency_key = "old".to_owned();
    let old = (TransactionId([5; 16]), other.input_hash.clone());
    assert!(scene.input(again(&other, Some(old.clone()))).is_empty());
    assert_eq!(
        scene.reply,
        Reply::Started {
            id: old.0,
            existing: true
        }
    );
}

#[test]
fn a_key_is_free_again_once_its_transaction_is_forgotten() {
    let mut scene = check(
        TWO,
        "
        start key > started, a queued
        cancel    > cancel requested, a cancelled, CANCELLED
        start key
        ",
    );
    scene.state.remove(&scene.ids[0].clone());
    scene.ids.clear();
    assert_eq!(scene.state.transaction_count(), 0);
    let events = scene.input(Input::Start {
        id: TransactionId([9; 16]),
        workflow: WorkflowName::parse("w").unwrap(),
        version: 1,
        start: start(b"{}"),
        ended: None,
    });
    assert_eq!(events, ["started", "a queued"]);
    scene.state.remove(&TransactionId([9; 16]));
    assert_eq!(scene.state.transaction_count(), 1, "a live one stays");
}

#[test]
fn an_unknown_workflow_is_named_with_the_nearest_and_an_unknown_version_with_the_newest() {
    let mut scene = Scene::new(Limits::default(), TWO);
    for (name, version, words) in [
        ("v", 0, "is it \"w\"?"),
        ("w", 7, "its newest is 1"),
        // Nothing is near: a wrong guess would be worse than none.
        ("invoices", 0, "\"invoices\"; register it"),
    ] {
        let problem = scene
            .try_input(Input::Start {
                id: TransactionId([1; 16]),
                workflow: WorkflowName::parse(name).unwrap(),
                version,
                start: start(b"{}"),
                ended: None,
            })
            .unwrap_err();
        assert_eq!(problem.reason, Reason::WorkflowNotFound);
        assert!(problem.message.contains(words), "{}", problem.message);
    }
}

#[test]
fn a_full_house_refuses_starts_and_says_when_to_come_again() {
    let few = Limits {
        max_live_transactions: 1,
        ..Limits::default()
    };
    let short = Limits {
        max_queued_per_worker: 1,
        ..Limits::default()
    };
    for limits in [few, short] {
        let mut scene = check_with(
            limits,
            TWO,
            "start > started, a queued\n start > ! OVERLOADED",
        );
        let problem = scene
            .try_input(Input::Start {
                id: TransactionId([9; 16]),
                workflow: WorkflowName::parse("w").unwrap(),
                version: 0,
                start: start(b"{}"),
                ended: None,
            })
            .unwrap_err();
        assert!(problem.retry_after.is_some());
    }
}

#[test]
fn payloads_in_memory_refuse_the_next_start_and_never_a_result() {
    let limits = Limits {
        max_live_payload_bytes: 16,
        ..Limits::default()
    };
    let mut scene = check_with(
        limits,
        TWO,
        "
        start > started, a queued
        start > started, a queued
        start > ! OVERLOADED
        a@h   > a dispatched
        a ok {\"r\":12345} > a completed, b queued
        b@h   > b dispatched
        b ok  > b completed, COMPLETED
        start > ! OVERLOADED
        ",
    );
    // What has ended counts until it leaves memory.
    let ended = scene.state.ended();
    ended.iter().for_each(|id| scene.state.remove(id));
    assert_eq!(scene.state.payload_bytes(), 8);
}
