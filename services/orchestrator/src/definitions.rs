//! Workflow files: YAML text → checked workflows.

use proto::error::Problem;
use proto::workflow::Workflow;

/// The longest file, in bytes.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// Reads one workflow, or the list under `workflows:`. `place` names the text in messages: a path, or a
/// request's field. Errors name line and column.
pub fn parse(place: &str, text: &str) -> Result<Vec<Workflow>, Problem> {
    let _ = (place, text);
    unimplemented!()
}
