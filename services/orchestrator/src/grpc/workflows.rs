//! RegisterWorkflow, GetWorkflow, ListWorkflows.

use proto::error::{Problem, Reason};
use proto::id::WorkflowName;
use proto::wire;
use proto::wire::register_workflow_request::Source;
use proto::workflow::Workflow;

use super::service::{Orchestrator, page_size};
use crate::definitions;
use crate::inbox::Input;

/// Begins every page token of a list of workflows.
const TOKEN_PREFIX: &str = "w-";

impl Orchestrator {
    pub(super) async fn register(
        &self,
        request: wire::RegisterWorkflowRequest,
    ) -> Result<wire::RegisterWorkflowResponse, Problem> {
        let (workflows, from_file) = match request.source {
            None => return Err(Problem::missing("workflow")),
            Some(Source::Workflow(workflow)) => (
                vec![Workflow::check(&workflow).map_err(|problem| problem.within("workflow."))?],
                false,
            ),
            Some(Source::WorkflowYaml(text)) => {
                // A file within all limits still takes milliseconds to parse.
                let parsed =
                    tokio::task::spawn_blocking(move || definitions::parse("workflow_yaml", &text));
                let parsed = parsed.await.map_err(|_| {
                    Problem::new(Reason::Internal, "reading workflow_yaml ran into a bug")
                })?;
                (parsed?, true)
            }
        };
        let validate_only = request.validate_only;
        let registered = self
            .inbox
            .ask(|reply| Input::Register {
                workflows,
                validate_only,
                reply,
            })
            .await?;
        let wire_of = |workflow: &Workflow| workflow.to_wire();
        Ok(wire::RegisterWorkflowResponse {
            workflow: registered.first().map(|first| wire_of(&first.workflow)),
            created: registered.iter().any(|registered| registered.created),
            workflows: match from_file {
                true => registered
                    .iter()
                    .map(|registered| wire_of(&registered.workflow))
                    .collect(),
                false => Vec::new(),
            },
        })
    }

    pub(super) async fn get_workflow(
        &self,
        request: wire::GetWorkflowRequest,
    ) -> Result<wire::GetWorkflowResponse, Problem> {
        let name = workflow_name("name", &request.name)?;
        let version = request.version;
        let workflow = self
            .inbox
            .ask(|reply| Input::GetWorkflow {
                name,
                version,
                reply,
            })
            .await?;
        Ok(wire::GetWorkflowResponse {
            workflow: Some(workflow.to_wire()),
        })
    }

    pub(super) async fn list_workflows(
        &self,
        request: wire::ListWorkflowsRequest,
    ) -> Result<wire::ListWorkflowsResponse, Problem> {
        let limit = page_size(request.page_size)?;
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(
                token
                    .strip_prefix(TOKEN_PREFIX)
                    .and_then(|name| WorkflowName::parse(name).ok())
                    .ok_or_else(super::service::bad_page_token)?,
            ),
        };
        let workflows = self
            .inbox
            .ask(|reply| Input::ListWorkflows {
                after,
                limit: limit + 1,
                reply,
            })
            .await?;
        let next_page_token = match workflows.len() > limit {
            true => format!("{TOKEN_PREFIX}{}", workflows[limit - 1].name),
            false => String::new(),
        };
        Ok(wire::ListWorkflowsResponse {
            workflows: workflows
                .iter()
                .take(limit)
                .map(|workflow| workflow.to_wire())
                .collect(),
            next_page_token,
        })
    }
}

/// A workflow's name as the request's field has it.
pub(super) fn workflow_name(field: &str, text: &str) -> Result<WorkflowName, Problem> {
    WorkflowName::parse(text).map_err(|mut problem| {
        if let Some(old) = problem.field.replace(field.to_owned())
            && let Some(rest) = problem.message.strip_prefix(&old)
        {
            problem.message = format!("{field}{rest}");
        }
        problem
    })
}
