//! Names as small numbers, in the order in which they came.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A name's number within its fold.
pub type NameId = u32;

/// The name that stands for all that are over a limit. No real name has parentheses.
pub const OTHER: &str = "(other)";
/// Its number.
pub const OTHER_ID: NameId = 0;

/// More names than this are one, [`OTHER`]: host ids are new with each process.
const NAMES_MAX: usize = 200_000;

/// Names and their numbers; clones share until one changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Names(Arc<Table>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Table {
    ids: BTreeMap<Arc<str>, NameId>,
    names: Vec<Arc<str>>,
}

impl Default for Names {
    fn default() -> Self {
        let other: Arc<str> = OTHER.into();
        Self(Arc::new(Table {
            ids: BTreeMap::from([(other.clone(), OTHER_ID)]),
            names: vec![other],
        }))
    }
}

impl Names {
    /// The name's number, drawn at first sight.
    pub fn intern(&mut self, name: &str) -> NameId {
        if let Some(id) = self.find(name) {
            return id;
        }
        if self.0.names.len() >= NAMES_MAX {
            return OTHER_ID;
        }
        let table = Arc::make_mut(&mut self.0);
        let id = NameId::try_from(table.names.len()).unwrap_or(OTHER_ID);
        let name: Arc<str> = name.into();
        table.names.push(name.clone());
        table.ids.insert(name, id);
        id
    }

    /// The name's number, if it ever came.
    pub fn find(&self, name: &str) -> Option<NameId> {
        self.0.ids.get(name).copied()
    }

    /// The name of a number.
    pub fn name(&self, id: NameId) -> &str {
        self.0.names.get(id as usize).map_or(OTHER, |name| name)
    }
}
