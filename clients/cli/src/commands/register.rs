//! `multiagents register`: gives a workflow file to the orchestrator, or only lets it be checked.
//!
//! The orchestrator alone reads the file's YAML, so that both judge alike.

use std::io::Read as _;
use std::path::Path;

use multiagents_client::Error;
use proto::wire::register_workflow_request::Source;

use crate::Context;
use crate::commands::workflows;
use crate::contracts;
use crate::failure::{Failure, exit};
use crate::words;

/// The longest workflow file.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// What `register` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  multiagents register orders.yaml
  multiagents register orders.yaml --check      in a build, before it is merged
  generate | multiagents register -

The same content again changes nothing; another content under the same name is a new version, and
running transactions keep theirs. The exit code is 2 when the file isn't a valid workflow file.")]
pub(crate) struct Arguments {
    /// The file, or - for standard input
    #[arg(value_name = "FILE")]
    file: String,
    /// Check only; register nothing
    #[arg(long)]
    check: bool,
}

/// Registers it.
pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<u8, Failure> {
    let text = read(&arguments.file)?;
    let answer = context
        .suite
        .orchestrator()
        .await?
        .register_source(Source::WorkflowYaml(text), arguments.check)
        .await
        .map_err(|error| invalid(&arguments.file, error))?;
    if context.output.json {
        let json = contracts::to_json("RegisterWorkflowResponse", &answer);
        context.output.json(&json)?;
        return Ok(exit::OK);
    }
    workflows::print_all(&answer.workflows, &mut context.output)?;
    let done = match (arguments.check, answer.created) {
        (true, true) => "The file is valid; nothing was registered.",
        (true, false) => "The file is valid, and registered already.",
        (false, true) => "Registered.",
        (false, false) => "Nothing new: this content was registered already.",
    };
    context.output.note(done);
    Ok(exit::OK)
}

/// What is wrong with the file is an invalid file to a script; all else stays a refusal.
fn invalid(file: &str, error: Error) -> Failure {
    let in_file = error.code() == tonic::Code::InvalidArgument;
    let failure = Failure::from(error);
    if !in_file {
        return failure;
    }
    Failure {
        exit: exit::USAGE,
        message: format!("{}: {}", words::shown(file, 200), failure.message),
        ..failure
    }
}

fn read(file: &str) -> Result<String, Failure> {
    let name = words::shown(file, 200);
    let unreadable = |error: std::io::Error| Failure::usage(format!("can't read {name}: {error}"));
    let mut text = Vec::new();
    if file == "-" {
        std::io::stdin()
            .take(FILE_BYTES_MAX + 1)
            .read_to_end(&mut text)
            .map_err(unreadable)?;
    } else {
        // Looked at before it is opened: opening a FIFO would wait for a writer.
        let metadata = std::fs::metadata(Path::new(file)).map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(Failure::usage(format!("{name} is not a regular file")));
        }
        std::fs::File::open(file)
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text))
            .map_err(unreadable)?;
    }
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(Failure::usage(format!(
            "{name} is longer than {FILE_BYTES_MAX} bytes, the most that a workflow file may have"
        )));
    }
    String::from_utf8(text).map_err(|_| Failure::usage(format!("{name} is not UTF-8 text")))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use multiagents_client::Refusal;
    #[test]
    fn a_file_that_cannot_be_a_workflow_file_is_refused_before_anything_is_sent() {
        let folder = tempfile::tempdir().unwrap();
        let long = folder.path().join("long.yaml");
        std::fs::write(&long, vec![b'#'; 1024 * 1024 + 1]).unwrap();
        let binary = folder.path().join("binary.yaml");
        std::fs::write(&binary, [0xff, 0xfe]).unwrap();
        for (path, says) in [
            (long.as_path(), "longer than 1048576 bytes"),
            (binary.as_path(), "not UTF-8"),
            (folder.path(), "not a regular file"),
            (Path::new("/nowhere.yaml"), "No such file"),
        ] {
            let refused = read(path.to_str().unwrap()).unwrap_err();
            assert_eq!(refused.exit, exit::USAGE);
            assert!(refused.message.contains(says), "{refused}");
        }
    }

    #[test]
    fn an_invalid_workflow_is_an_invalid_file_and_an_overload_is_not() {
        let refused = |code, reason: &str| {
            Error::Refused(Box::new(Refusal {
                code,
                reason: reason.to_owned(),
                message: "steps a and b follow each other".to_owned(),
                retry_after: None,
                metadata: Default::default(),
                fields: Vec::new(),
            }))
        };
        let cycle = refused(tonic::Code::InvalidArgument, "WORKFLOW_CYCLE");
        let failure = invalid("orders.yaml", cycle);
        assert_eq!(failure.exit, exit::USAGE);
        assert!(failure.message.starts_with("orders.yaml: steps a"));
        let full = refused(tonic::Code::ResourceExhausted, "OVERLOADED");
        assert_eq!(invalid("x", full).exit, exit::REFUSED);
    }
}
