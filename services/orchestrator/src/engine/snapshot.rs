//! A transaction as the strict form that a trim carries, that state.db keeps, and that answers are
//! rendered from; there and back without a loss.

use std::sync::Arc;

use proto::event::Carried;
use proto::id::Time;
use proto::lifecycle::StepState;
use proto::workflow::Workflow;

use super::Offset;

/// A transaction, whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The definition that it keeps to its end.
    pub workflow: Arc<Workflow>,
    /// Its state. Steps that never began are not in its list: [`absent_step_state`] says how they stand.
    pub carried: Carried,
    /// Where the log has its beginning, or last carried it: what a trim must not cut.
    pub first_offset: Offset,
    /// When it last changed; once it has ended, when it ended.
    pub updated: Time,
}

impl Snapshot {
    /// Whether its compensation failed.
    pub fn compensation_failed(&self) -> bool {
        unimplemented!()
    }
    /// Steps that failed and were passed over, in the definition's order.
    pub fn failed_steps(&self) -> Vec<proto::id::StepName> {
        unimplemented!()
    }
}

/// How a step stands that is not in the list of a carried transaction: pending, or skipped.
pub fn absent_step_state(carried: &Carried) -> StepState {
    let _ = carried;
    unimplemented!()
}
