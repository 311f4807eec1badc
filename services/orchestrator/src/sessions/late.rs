//! Results for transactions that have left memory: a host that lost its acknowledgement sends again
//! what had counted long ago, and is told so from state.db.
//!
//! What had not counted goes back to the driver, who refuses and records it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use proto::error::{Problem, Reason};
use proto::id::{CommandId, HostId};
use tokio::sync::Semaphore;

use super::line::Line;
use super::message::HostMessage;
use super::table::Session;
use crate::catalogue::Catalogue;
use crate::engine::{self, ResultOutcome, Snapshot};
use crate::inbox::{HostResult, Inbox, Input, Said};
use crate::store::Lookup;

/// One message's results of that kind.
pub(crate) struct Late {
    /// The way back.
    pub line: Arc<Line>,
    /// Whose.
    pub host: HostId,
    /// In which session.
    pub session: Session,
    /// They.
    pub results: Vec<HostResult>,
}

/// Where they are judged.
#[derive(Clone)]
pub(crate) struct Desk {
    /// Where ended transactions are.
    pub lookup: Arc<OnceLock<Lookup>>,
    /// Their definitions.
    pub catalogue: Catalogue,
    /// The way to the driver.
    pub inbox: Inbox,
    /// One for each message that may be judged at once.
    pub places: Arc<Semaphore>,
}

impl Desk {
    /// The judgement of one message, for the caller to run. None when there is no place for it: its
    /// session ends, and its host, which keeps what was not acknowledged, sends it again.
    pub(crate) fn take(&self, late: Late) -> Option<impl Future<Output = ()> + Send + use<>> {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let why = "too many results for ended transactions are being looked up; connect again";
            let problem = Problem::new(Reason::Overloaded, why);
            late.line.end(problem.retry_after(Duration::from_secs(1)));
            return None;
        };
        let this = self.clone();
        Some(async move {
            this.judge(late).await;
            drop(place);
        })
    }

    /// Answers what had counted, and passes the rest on.
    async fn judge(self, late: Late) {
        let mut counted = HostMessage::default();
        let mut results = Vec::new();
        for result in late.results {
            if self
                .had_counted(&late.host, &result.command, &result.outcome)
                .await
            {
                counted.acknowledge(&result.command_id, "", "", 0);
            } else {
                results.push(result);
            }
        }
        if counted.len() > 0 {
            late.line.send(counted);
        }
        if !results.is_empty() {
            let said = Said {
                results,
                looked_up: true,
                ..Said::default()
            };
            let (host, session) = (late.host, late.session);
            // Fails only when the driver has ended: the host sends it again to the next.
            let _ = self
                .inbox
                .tell(Input::Said {
                    host,
                    session,
                    said,
                })
                .await;
        }
    }

    async fn had_counted(
        &self,
        host: &HostId,
        command: &CommandId,
        outcome: &ResultOutcome,
    ) -> bool {
        let Some(lookup) = self.lookup.get() else {
            return false;
        };
        let Ok(Some((row, _in_hand))) = lookup.get(command.transaction).await else {
            return false;
        };
        let version = row.carried.start.version;
        let Some(workflow) = self.catalogue.get(&row.workflow, version) else {
            return false;
        };
        let ended = Snapshot {
            workflow,
            carried: row.carried,
            first_offset: row.first_offset,
            updated: row.update_time,
        };
        engine::is_duplicate(&ended, host, command, outcome)
    }
}
