//! Commands: stages, deadlines, and which result counts.

use bytes::Bytes;
use proto::error::Problem;

use super::ResultOutcome;

/// Checks a result at the edge, off the driver: what is no JSON object within the limit fails its
/// command instead, by the step's retry policy, and the problem says what to acknowledge.
pub fn checked_result(result: Bytes, bytes_max: usize) -> (ResultOutcome, Option<Problem>) {
    let _ = (result, bytes_max);
    unimplemented!()
}
