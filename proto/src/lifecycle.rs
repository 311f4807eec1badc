//! Which stage a command is at after an event, and which may follow which; which states end a
//! transaction. Total matches without a wildcard: a new event or state doesn't compile until it has
//! its place here.

use crate::event::{CommandEvent, TransactionEvent};

pub use crate::wire::{Stage, StepState, TransactionState};

/// The stage of a command after an event.
pub fn stage(what: &CommandEvent) -> Stage {
    match what {
        CommandEvent::Queued { .. } => Stage::Queued,
        CommandEvent::Dispatched => Stage::Dispatched,
        CommandEvent::PickedUp => Stage::PickedUp,
        CommandEvent::Processing => Stage::Processing,
        CommandEvent::Completed { .. } => Stage::Completed,
        CommandEvent::Failed { .. } => Stage::Failed,
        CommandEvent::TimedOut { .. } => Stage::Timeout,
        CommandEvent::Lost { .. } => Stage::Lost,
        CommandEvent::Cancelled { .. } => Stage::Cancelled,
    }
}

/// Whether a stage is an outcome.
pub fn is_outcome(stage: Stage) -> bool {
    match stage {
        Stage::Unspecified
        | Stage::Queued
        | Stage::Dispatched
        | Stage::PickedUp
        | Stage::Processing => false,
        Stage::Completed | Stage::Failed | Stage::Timeout | Stage::Lost | Stage::Cancelled => true,
    }
}

/// Whether a command at `from` (unspecified: not yet there) may come to `to`.
pub fn may_follow(from: Stage, to: Stage) -> bool {
    match from {
        Stage::Unspecified => to == Stage::Queued,
        // Before any host had it, a queued command can be cancelled, or fail by its context's size.
        Stage::Queued => matches!(to, Stage::Dispatched | Stage::Failed | Stage::Cancelled),
        Stage::Dispatched => is_outcome(to) || matches!(to, Stage::PickedUp | Stage::Processing),
        Stage::PickedUp => is_outcome(to) || to == Stage::Processing,
        Stage::Processing => is_outcome(to),
        Stage::Completed | Stage::Failed | Stage::Timeout | Stage::Lost | Stage::Cancelled => false,
    }
}

/// Whether a transaction in this state has ended.
pub fn is_end(state: TransactionState) -> bool {
    match state {
        TransactionState::Unspecified
        | TransactionState::Pending
        | TransactionState::Running
        | TransactionState::Compensating => false,
        TransactionState::Completed
        | TransactionState::Failed
        | TransactionState::Compensated
        | TransactionState::Cancelled => true,
    }
}

/// The state of a transaction after an event of its own; none where the event doesn't change it.
pub fn state_after(what: &TransactionEvent) -> Option<TransactionState> {
    match what {
        TransactionEvent::Started(_) => Some(TransactionState::Pending),
        TransactionEvent::Completed { .. } => Some(TransactionState::Completed),
        TransactionEvent::Failed { .. } => Some(TransactionState::Failed),
        TransactionEvent::CancelRequested(_) => None,
        TransactionEvent::Cancelled => Some(TransactionState::Cancelled),
        TransactionEvent::CompensationStarted { .. } => Some(TransactionState::Compensating),
        TransactionEvent::Compensated => Some(TransactionState::Compensated),
        TransactionEvent::Carried(carried) => Some(carried.state),
    }
}
