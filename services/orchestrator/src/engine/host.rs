//! What is known of a worker host: enough to tell of it again, at the log's tail or in state.db.

use proto::event::HostEvent;

use super::Offset;

/// A host that came and neither left nor was lost.
#[derive(Debug)]
pub(super) struct KnownHost {
    /// Where the log says that it came.
    pub(super) at: Offset,
    /// What it said then, as a carried event.
    connected: HostEvent,
    draining: bool,
    /// Its stream ended, its lease runs on.
    away: bool,
}

impl KnownHost {
    /// What is known once an event is in the log; none: of this host nothing more.
    pub(super) fn after(known: Option<Self>, at: Offset, what: &HostEvent) -> Option<Self> {
        match what {
            HostEvent::Connected { .. } => {
                let mut connected = what.clone();
                if let HostEvent::Connected { carried, .. } = &mut connected {
                    *carried = true;
                }
                Some(Self {
                    at,
                    connected,
                    draining: false,
                    away: false,
                })
            }
            HostEvent::Disconnected { drained: true } | HostEvent::Lost => None,
            HostEvent::Disconnected { drained: false } => known.map(|known| Self {
                away: true,
                ..known
            }),
            HostEvent::Draining => known.map(|known| Self {
                draining: true,
                ..known
            }),
            HostEvent::Quarantined { .. } => known,
        }
    }

    /// The events that say all of it once more.
    pub(super) fn retold(&self) -> Vec<HostEvent> {
        let mut events = vec![self.connected.clone()];
        events.extend(self.draining.then_some(HostEvent::Draining));
        events.extend(
            self.away
                .then_some(HostEvent::Disconnected { drained: false }),
        );
        events
    }
}
