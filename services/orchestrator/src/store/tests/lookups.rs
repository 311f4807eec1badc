//! Specifications of the look-ups in state.db.

use std::time::Duration;

use super::*;

/// What a look-up finds, with its payloads.
pub(super) async fn whole(lookup: &Lookup, id: TransactionId) -> Option<Row> {
    lookup.get(id).await.unwrap().map(|(row, _)| row)
}

#[tokio::test]
async fn rows_come_back_whole_with_large_payloads_fetched_from_the_log() {
    let fixture = fixture();
    let large = row(1, "", TransactionState::Running, json(9_000), (0, 1));
    let ended = row(2, "k", TransactionState::Completed, json(9), (7, 8));
    let rows = [&large, &ended].map(|row| Arc::new(row.clone()));
    write(&fixture, vec![handover(2, rows.into())]);
    let (connection, loaded) = fixture.place.open(&fixture.reader).unwrap();
    assert_eq!(loaded.applied, 2);
    assert_eq!(live_rows(&connection, &fixture.reader).unwrap(), [large]);
    let lookup = Lookup::new(&fixture.place, fixture.reader.clone(), Pace::Thread).unwrap();
    assert_eq!(whole(&lookup, ended.id).await, Some(ended.clone()));
    assert_eq!(whole(&lookup, TransactionId([9; 16])).await, None);
    let known = lookup.by_key(ended.workflow.clone(), "k".to_owned()).await;
    assert_eq!(known.unwrap().unwrap().id, ended.id);
    let none = lookup.by_key(ended.workflow, "other".to_owned()).await;
    assert_eq!(none.unwrap(), None);
}

/// Each may be of some megabytes.
#[tokio::test]
async fn few_transactions_are_in_hand_at_once() {
    let fixture = fixture();
    let ended = row(2, "", TransactionState::Completed, json(9), (7, 8));
    write(&fixture, vec![handover(2, vec![Arc::new(ended.clone())])]);
    let lookup = Lookup::new(&fixture.place, fixture.reader.clone(), Pace::Stepped).unwrap();
    let at_once = async || tokio::time::timeout(Duration::ZERO, lookup.get(ended.id)).await;
    let mut in_hand = Vec::new();
    while let Ok(got) = at_once().await {
        in_hand.push(got.unwrap().unwrap());
        assert!(in_hand.len() < 100, "without end");
    }
    in_hand.pop();
    assert!(at_once().await.is_ok());
    assert!(lookup.find(ended.id).await.unwrap().is_some());
}

#[tokio::test]
async fn a_key_is_found_however_far_away_its_transaction_began_and_no_other_in_its_place() {
    let fixture = fixture();
    let began = [3_u64, 40 << 20, (40 << 20) + 9, 90 << 20];
    let rows: Vec<_> = (1_u8..)
        .zip(began)
        .map(|(number, at)| {
            let key = format!("k{number}");
            let done = TransactionState::Completed;
            Arc::new(row(number, &key, done, json(1), (at, at + 1)))
        })
        .collect();
    drop(fixture.place.open(&fixture.reader).unwrap());
    fixture.place.learn_keys(Pace::Stepped);
    write(&fixture, vec![handover((90 << 20) + 2, rows.clone())]);
    let [unknown, learnt] = [(); 2].map(|()| Place {
        keys: Keys::default(),
        ..fixture.place.clone()
    });
    learnt.learn_keys(Pace::Stepped);
    let workflow = &rows[0].workflow;
    let found = async |place: &Place, key: &str| {
        let lookup = Lookup::new(place, fixture.reader.clone(), Pace::Thread).unwrap();
        let known = lookup.by_key(workflow.clone(), key.to_owned()).await;
        known.unwrap().map(|known| known.id)
    };
    // By who wrote the keys, who knows none of them yet, and who has learnt them.
    for place in [&fixture.place, &unknown, &learnt] {
        for (number, row) in (1..).zip(&rows) {
            assert_eq!(found(place, &format!("k{number}")).await, Some(row.id));
        }
        assert_eq!(found(place, "k9").await, None);
    }
    // As if the hashes of two keys were the same.
    let connection = fixture.place.connect(false).unwrap();
    let one_hash = "UPDATE transactions SET key_hash =
        (SELECT key_hash FROM transactions WHERE first_offset = 40 << 20)";
    connection.execute(one_hash, []).unwrap();
    assert_eq!(found(&unknown, "k2").await, Some(rows[1].id));
}

#[tokio::test]
async fn lists_are_newest_first_in_pages_and_filtered() {
    let fixture = fixture();
    let rows: Vec<_> = (1..=5)
        .map(|number| {
            let state = match number % 2 {
                0 => TransactionState::Completed,
                _ => TransactionState::Failed,
            };
            Arc::new(row(number, "", state, json(1), (number.into(), 9)))
        })
        .collect();
    write(&fixture, vec![handover(2, rows)]);
    let lookup = Lookup::new(&fixture.place, fixture.reader.clone(), Pace::Thread).unwrap();
    let numbers = |found: &Found| found.rows.iter().map(|row| row.id.0[0]).collect::<Vec<_>>();
    let first = lookup.list(Filter::default(), None, 2).await.unwrap();
    assert_eq!(numbers(&first), [5, 4]);
    let second = lookup.list(Filter::default(), first.next, 9).await.unwrap();
    assert_eq!((numbers(&second), second.next), (vec![3, 2, 1], None));
    let only = |filter: Filter| lookup.list(filter, None, 9);
    let completed = only(Filter {
        states: vec![TransactionState::Completed],
        started_after: Some(Time(3)),
        ..Filter::default()
    });
    assert_eq!(numbers(&completed.await.unwrap()), [4]);
    let red = only(Filter {
        labels: vec![("team".to_owned(), "red".to_owned())],
        ..Filter::default()
    });
    assert!(red.await.unwrap().rows.is_empty());
}
