//! Contexts over the wire: no large piece is sent to a host twice that says it remembers.

use proto::wire;
use proto::wire::TransactionState;

use crate::harness::{Suite, config, sequence};
use crate::host::{FakeHost, announce, completed};

const LARGE: usize = 20 << 10;

/// A payload that is told from others by its letter.
fn large(letter: char) -> String {
    format!("{{\"{letter}\":\"{}\"}}", letter.to_string().repeat(LARGE))
}

/// A host that remembers so much.
async fn host(suite: &Suite, bytes: usize, held: &[String]) -> FakeHost {
    let announce = wire::Announce {
        remembers_bytes_max: bytes as u64,
        ..announce("h", &[("a", 2), ("b", 2), ("c", 2)], held)
    };
    FakeHost::announced(suite, announce).await
}

/// The pieces of the next command, each by its letter and id; a dot is one that it did not bring.
async fn next(host: &mut FakeHost) -> (String, String) {
    let command = host.command().await;
    let ids = command.context_ids.iter().copied().chain([0; 8]);
    let pieces = command.context_json.iter().zip(ids).map(|(piece, id)| {
        let letter = piece.get(2).copied().map_or('.', char::from);
        format!("{letter}{id}")
    });
    let pieces: Vec<_> = pieces.collect();
    (command.command_id.clone(), pieces.join(" "))
}

/// Completes a command with a large result; gives the id by which that is to be remembered.
async fn complete(host: &mut FakeHost, command_id: &str, letter: char) -> u64 {
    host.report(command_id, completed(&large(letter))).await;
    let acknowledged = host.acknowledged().await;
    assert_eq!(acknowledged.refused_reason, "");
    acknowledged.context_id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_gets_each_large_piece_once_and_its_own_results_never() {
    let directory = tempfile::tempdir().unwrap();
    let mut suite = Suite::start(directory.path()).await;
    suite.register(sequence("w", &["a", "b", "c"])).await;
    let mut host = host(&suite, 1 << 20, &[]).await;
    let id = suite.execute("w", &large('i')).await;
    let (a, pieces) = next(&mut host).await;
    assert_eq!(pieces, "i1");
    assert_eq!(complete(&mut host, &a, 'x').await, 2);
    // What counts for nothing is not remembered.
    host.report(&a, completed(&large('w'))).await;
    let refused = host.acknowledged().await;
    assert_eq!(
        (&*refused.refused_reason, refused.context_id),
        ("RESULT_CONFLICT", 0)
    );
    let (b, pieces) = next(&mut host).await;
    assert_eq!(pieces, ".1 .2");
    // What is small is sent each time, and no context has the last step's result.
    host.complete(&b, "{\"y\":1}").await;
    let (c, pieces) = next(&mut host).await;
    assert_eq!(pieces, ".1 .2 y0");
    assert_eq!(complete(&mut host, &c, 'z').await, 0);
    let ended = suite.until(&id, TransactionState::Completed).await;
    assert_eq!(ended.steps.len(), 3);
    // Another transaction's pieces are others.
    suite.execute("w", &large('j')).await;
    assert_eq!(next(&mut host).await.1, "j3");
    suite.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_does_not_remember_and_a_new_session_get_everything() {
    let directory = tempfile::tempdir().unwrap();
    let mut suite = Suite::start(directory.path()).await;
    suite.register(sequence("w", &["a", "b", "c"])).await;
    suite.execute("w", &large('i')).await;
    let mut forgetful = host(&suite, 0, &[]).await;
    let (a, pieces) = next(&mut forgetful).await;
    assert_eq!(pieces, "i0");
    assert_eq!(complete(&mut forgetful, &a, 'x').await, 0);
    let (b, pieces) = next(&mut forgetful).await;
    assert_eq!(pieces, "i0 x0");
    // It comes back with a result, and remembers from now on.
    let mut again = host(&suite, 1 << 20, std::slice::from_ref(&b)).await;
    assert_eq!(complete(&mut again, &b, 'y').await, 1);
    assert_eq!(next(&mut again).await.1, "i2 x3 .1");
    suite.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_told_what_to_forget_before_it_remembers_too_much() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    // Two pieces, whatever hosts say.
    config.sessions.remembers_bytes_max.0 = 2 * LARGE as u64 + 100;
    let mut suite = Suite::start_with(config).await;
    suite.register(sequence("w", &["a", "b", "c"])).await;
    let mut host = host(&suite, 1 << 30, &[]).await;
    suite.execute("w", &large('i')).await;
    let (a, pieces) = next(&mut host).await;
    assert_eq!(pieces, "i1");
    assert_eq!(complete(&mut host, &a, 'x').await, 2);
    let (b, pieces) = next(&mut host).await;
    assert_eq!((&*pieces, host.forget_below), (".1 .2", 0));
    assert_eq!(complete(&mut host, &b, 'y').await, 3);
    // That pushed the input out, which now pushes out the next oldest, but not before its last use.
    assert_eq!(next(&mut host).await.1, "i4 .2 .3");
    assert_eq!(host.forget_below, 3);
    suite.stop().await;
}
