//! Every definition by name and version, shared with those who show what only state.db has.
//!
//! A copy for showing: what a workflow is, the engine says.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use proto::id::WorkflowName;
use proto::workflow::Workflow;

type Versions = HashMap<(WorkflowName, u32), Arc<Workflow>>;

/// The definitions; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalogue(Arc<RwLock<Versions>>);

impl Catalogue {
    /// Adds a definition.
    pub(crate) fn insert(&self, workflow: &Arc<Workflow>) {
        let mut versions = self.0.write().unwrap_or_else(PoisonError::into_inner);
        versions.insert((workflow.name.clone(), workflow.version), workflow.clone());
    }

    /// A definition.
    pub(crate) fn get(&self, name: &WorkflowName, version: u32) -> Option<Arc<Workflow>> {
        let versions = self.0.read().unwrap_or_else(PoisonError::into_inner);
        versions.get(&(name.clone(), version)).cloned()
    }
}
