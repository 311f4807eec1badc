//! The definitions, by name and version, each with what its transactions ask again and again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use proto::error::{Problem, Reason};
use proto::id::{StepName, WorkflowName};
use proto::workflow::Workflow;

use super::Offset;

/// Up to as many steps, a scan finds a name and one word holds a step's ancestors.
const FEW_STEPS: usize = 64;

/// A workflow with its order worked out.
#[derive(Debug)]
pub(super) struct Definition {
    pub(super) workflow: Arc<Workflow>,
    /// For each step, the steps that follow it directly, rising.
    followers: Vec<Vec<u16>>,
    /// For each step, its ancestors as bits; only of workflows with few steps.
    ancestors: Option<Vec<u64>>,
    /// Where each step stands; only of workflows with many.
    places: Option<HashMap<StepName, u16>>,
}

impl Definition {
    pub(super) fn new(workflow: Arc<Workflow>) -> Self {
        let mut followers = vec![Vec::new(); workflow.steps.len()];
        for (at, step) in (0..).zip(&workflow.steps) {
            step.after.iter().for_each(|&before| {
                let place: &mut Vec<u16> = &mut followers[before];
                place.push(at);
            });
        }
        let few = workflow.steps.len() <= FEW_STEPS;
        let bits = |step| {
            let before = workflow.ancestors(step);
            before.into_iter().fold(0, |bits, at| bits | 1u64 << at)
        };
        let ancestors = few.then(|| (0..workflow.steps.len()).map(bits).collect());
        let names = || (workflow.steps.iter().map(|step| step.name.clone())).zip(0..);
        let places = (!few).then(|| names().collect());
        Self {
            workflow,
            followers,
            ancestors,
            places,
        }
    }

    pub(super) fn followers(&self, step: u16) -> &[u16] {
        &self.followers[step as usize]
    }

    /// Calls `take` with each ancestor of a step, in the definition's order.
    pub(super) fn for_each_ancestor(&self, step: u16, mut take: impl FnMut(u16)) {
        match &self.ancestors {
            Some(ancestors) => {
                let mut bits = ancestors[step as usize];
                while bits != 0 {
                    take(place(bits.trailing_zeros() as usize));
                    bits &= bits - 1;
                }
            }
            None => {
                for before in self.workflow.ancestors(step as usize) {
                    take(place(before));
                }
            }
        }
    }

    pub(super) fn step_index(&self, name: &str) -> Option<u16> {
        match &self.places {
            Some(places) => places.get(name).copied(),
            None => self.workflow.step_index(name).map(place),
        }
    }
}

/// A step's place as it is kept; a workflow has at most 10,000 steps.
pub(super) fn place(index: usize) -> u16 {
    u16::try_from(index).unwrap_or(u16::MAX)
}

/// All versions of all workflows.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    names: BTreeMap<WorkflowName, BTreeMap<u32, Kept>>,
}

#[derive(Debug)]
struct Kept {
    definition: Arc<Definition>,
    /// Where the log holds it.
    offset: Offset,
}

impl Catalogue {
    /// Keeps a version; one that is there already only moves in the log.
    pub(super) fn keep(&mut self, workflow: &Arc<Workflow>, offset: Offset) {
        let versions = self.names.entry(workflow.name.clone()).or_default();
        versions
            .entry(workflow.version)
            .and_modify(|kept| kept.offset = offset)
            .or_insert_with(|| Kept {
                definition: Arc::new(Definition::new(Arc::clone(workflow))),
                offset,
            });
    }

    /// A version; 0 is the newest.
    pub(super) fn find(&self, name: &WorkflowName, version: u32) -> Option<&Arc<Definition>> {
        let versions = self.names.get(name)?;
        let kept = match version {
            0 => versions.values().next_back(),
            version => versions.get(&version),
        };
        kept.map(|kept| &kept.definition)
    }

    /// As [`Catalogue::find`]; the error helps.
    pub(super) fn demand(
        &self,
        name: &WorkflowName,
        version: u32,
    ) -> Result<&Arc<Definition>, Problem> {
        if let Some(found) = self.find(name, version) {
            return Ok(found);
        }
        let message = if let Some(newest) = self.find(name, 0) {
            format!(
                "workflow \"{name}\" has no version {version}; its newest is {}",
                newest.workflow.version
            )
        } else {
            let distance =
                |known: &WorkflowName| strsim::levenshtein(known.as_str(), name.as_str());
            let nearest = self.names.keys().min_by_key(|known| distance(known));
            // Further away than half of its letters is another word, and no help.
            let near = |known: &&WorkflowName| distance(known) <= known.as_str().len().div_ceil(2);
            let nearest = nearest.filter(near).map(|known| {
                format!("; is it \"{known}\"? If not, register it with RegisterWorkflow first")
            });
            format!(
                "there is no workflow \"{name}\"{}",
                nearest.unwrap_or_else(|| "; register it with RegisterWorkflow first".to_owned())
            )
        };
        Err(Problem::field(
            Reason::WorkflowNotFound,
            "workflow",
            message,
        ))
    }

    /// The version that a registration gives, and whether that is a new one. Only the newest version
    /// is compared: who registers an older content again wants it to be what runs.
    pub(super) fn preview(&self, workflow: &Workflow) -> (u32, bool) {
        let Some(newest) = self.find(&workflow.name, 0) else {
            return (1, true);
        };
        let newest = &newest.workflow;
        let same = newest.description == workflow.description && newest.steps == workflow.steps;
        if same {
            (newest.version, false)
        } else {
            (newest.version.saturating_add(1), true)
        }
    }

    /// All versions with their offsets, by name and version.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Arc<Workflow>, Offset)> {
        self.names
            .values()
            .flat_map(BTreeMap::values)
            .map(|kept| (&kept.definition.workflow, kept.offset))
    }

    /// The newest of each name, by name.
    pub(super) fn newest(&self) -> impl Iterator<Item = &Arc<Workflow>> {
        self.names
            .values()
            .filter_map(|versions| versions.values().next_back())
            .map(|kept| &kept.definition.workflow)
    }
}
