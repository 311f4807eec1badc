//! VerifyViews: folds the log once more, from as far back as it can, and compares every view with
//! what was published, byte for byte.

use std::sync::Arc;

use proto::error::{Problem, Reason};
use proto::wire;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Answers;
use super::answers::as_of;
use crate::fold::Folds;
use crate::store;

type Answer = Result<wire::VerifyViewsResponse, Status>;

/// Starts a verification of this view; progress and verdicts come on the stream.
pub(super) fn start(answers: &Answers, view: Arc<Folds>) -> ReceiverStream<Answer> {
    let (sender, receiver) = mpsc::channel(16);
    let answers = answers.clone();
    tokio::task::spawn_blocking(move || {
        if let Err(status) = verify(&answers, &view, &sender) {
            // Who has gone away needs no answer.
            let _ = sender.blocking_send(Err(status));
        }
    });
    ReceiverStream::new(receiver)
}

fn verify(answers: &Answers, view: &Folds, sender: &mpsc::Sender<Answer>) -> Result<(), Status> {
    let reader = answers.feed.reader();
    let bounds = reader.bounds();
    let mut folds = if bounds.oldest == 0 {
        Folds::default()
    } else {
        let oldest = answers.snapshots.oldest(bounds.oldest, view.position);
        oldest.ok_or_else(|| {
            Problem::new(
                Reason::LogDamaged,
                "the beginning of the monitor's log was trimmed, and no snapshot of the views can \
                 be read: there is nothing to verify from",
            )
        })?
    };
    let from = folds.position;
    let total = view.position.saturating_sub(from);
    let progress = |done: u64, verdict: Option<wire::ViewVerdict>| wire::VerifyViewsResponse {
        as_of: Some(as_of(view)),
        entries_done: done,
        entries_total: total,
        verdict,
    };
    let send = |message| sender.blocking_send(Ok(message)).is_ok();
    if !send(progress(0, None)) {
        return Ok(());
    }
    let internal = |error: &dyn std::fmt::Display| {
        Status::from(Problem::new(Reason::Internal, error.to_string()))
    };
    let mut heard = true;
    store::refold(reader, &mut folds, view.position, &mut |position| {
        heard = send(progress(position - from, None));
        heard
    })
    .map_err(|error| Problem::new(Reason::LogDamaged, error.to_string()))?;
    if !heard {
        return Ok(());
    }
    let live = view.encoded().map_err(|error| internal(&error))?;
    let again = folds.encoded().map_err(|error| internal(&error))?;
    for ((name, live), (_, again)) in live.iter().zip(&again) {
        let verdict = wire::ViewVerdict {
            view: (*name).to_owned(),
            equal: live == again,
            difference: difference(live, again),
            size_bytes: live.len() as u64,
        };
        if !send(progress(total, Some(verdict))) {
            break;
        }
    }
    Ok(())
}

/// Where two encodings differ first; empty where they don't.
fn difference(live: &[u8], again: &[u8]) -> String {
    match live
        .iter()
        .zip(again)
        .position(|(live, again)| live != again)
    {
        Some(at) => format!(
            "at byte {at} it has {:#04x}, and its refold {:#04x}",
            live[at], again[at]
        ),
        None if live.len() != again.len() => format!(
            "it has {} bytes, and its refold {}; one is the other's beginning",
            live.len(),
            again.len()
        ),
        None => String::new(),
    }
}
