//! The network between hosts and orchestrator: streams that keep their order until they are cut, each
//! end noticing in its own time, and heartbeats on a way of their own.

use proto::id::Time;
use proto::wire;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::plan::Fault;
use crate::world::{What, World};

/// Messages that a session may not have read yet; more break its stream.
const UNREAD_MAX: usize = 1_000;

/// What goes to the orchestrator.
pub(crate) enum Up {
    First(wire::ConnectRequest),
    Next(wire::ConnectRequest),
    End,
}

/// What comes from it.
pub(crate) enum Down {
    Message(wire::ConnectResponse),
    /// The stream ended; whether another process with the same name came.
    End {
        replaced: bool,
    },
}

/// A stream.
pub(crate) struct Stream {
    pub(crate) up: Option<mpsc::Sender<Result<wire::ConnectRequest, Status>>>,
    pub(crate) down: Option<orchestrator::stepped::Told>,
    pub(crate) session: Option<String>,
    /// Nothing gets through any more.
    pub(crate) cut: bool,
    /// When the last message in each direction arrives: the next one doesn't before.
    pub(crate) up_at: i64,
    pub(crate) down_at: i64,
}

impl World {
    pub(crate) fn connect(&mut self, at: usize) {
        let host = &self.hosts[at];
        let mut held = host.table.command_ids();
        if self.has(Fault::Lies) && self.chance.one_in(2) {
            held.extend(self.some_command());
            held.extend(self.some_command());
            held.push("nothing".to_owned());
        }
        let host = &mut self.hosts[at];
        host.connected += 1;
        let number = host.connected;
        let stream = Stream {
            up: None,
            down: None,
            session: None,
            cut: false,
            up_at: 0,
            down_at: 0,
        };
        host.streams.insert(number, stream);
        host.current = Some(number);
        host.session = None;
        let announce = wire::Announce {
            host_id: host.id.to_string(),
            workers: host.offers.clone(),
            held_command_ids: held,
            remembers_bytes_max: host.remembered.bytes_max(),
            ..Default::default()
        };
        self.send(
            at,
            Up::First(wire::ConnectRequest {
                announce: Some(announce),
                ..Default::default()
            }),
        );
    }

    /// Sends on the host's own stream, behind what was sent before.
    pub(crate) fn send(&mut self, at: usize, up: Up) {
        let latency = self.latency();
        let now = self.now;
        let Some(number) = self.hosts[at].current else {
            return;
        };
        let Some(stream) = self.hosts[at].stream() else {
            return;
        };
        stream.up_at = stream.up_at.max(now.saturating_add_unsigned(latency));
        let arrives = stream.up_at;
        self.at(arrives, What::Up(at, number, Box::new(up)));
    }

    /// Both sides lose the stream, each when it notices.
    pub(crate) fn cut(&mut self, at: usize) {
        let Some(number) = self.hosts[at].current else {
            return;
        };
        self.tally.cut_streams += 1;
        if let Some(stream) = self.hosts[at].stream() {
            stream.cut = true;
        }
        let half_open = match self.chance.one_in(2) {
            true => self.chance.below(30_000_000),
            false => self.chance.below(10_000),
        };
        self.after(half_open, What::Up(at, number, Box::new(Up::End)));
        let notices = self.chance.below(3_000_000);
        let end = Down::End { replaced: false };
        self.after(notices, What::Down(at, number, Box::new(end)));
    }

    /// A host's message reaches the orchestrator.
    pub(crate) fn up(&mut self, at: usize, number: u64, up: Up) {
        if let Up::End = up {
            // Whoever had the other end hears of it.
            self.hosts[at].streams.remove(&number);
            self.wake();
            return;
        }
        let Some(stream) = self.hosts[at].streams.get_mut(&number) else {
            return;
        };
        if stream.cut {
            self.tally.lost_messages += 1;
            return;
        }
        match (up, &mut self.process.running) {
            (Up::First(first), Some(running)) => {
                let (sender, messages) = mpsc::channel(UNREAD_MAX);
                let messages = ReceiverStream::new(messages);
                stream.up = Some(sender);
                stream.down = Some(running.stepped.connect(first, messages));
            }
            (Up::Next(message), Some(_)) => {
                let sent = stream
                    .up
                    .as_ref()
                    .map(|up| up.try_send(Ok(message)).is_ok());
                // It was ended over there, and the end is on its way.
                stream.cut |= sent == Some(false);
            }
            (_, None) => {
                let latency = self.latency();
                let end = Down::End { replaced: false };
                self.after(latency, What::Down(at, number, Box::new(end)));
            }
            (Up::End, _) => {}
        }
        self.wake();
    }

    /// What the orchestrator let out goes on its way, each stream's in its order.
    pub(crate) fn collect_messages(&mut self) {
        for at in 0..self.hosts.len() {
            let numbers: Vec<_> = self.hosts[at].streams.keys().copied().collect();
            for number in numbers {
                self.collect_stream(at, number);
            }
        }
    }

    fn collect_stream(&mut self, at: usize, number: u64) {
        loop {
            let latency = self.latency();
            let now = self.now;
            let id = self.host_id(at);
            let Some(stream) = self.hosts[at].streams.get_mut(&number) else {
                return;
            };
            let Some(down) = &mut stream.down else {
                return;
            };
            let told = match down.try_recv() {
                Ok(Ok(message)) => {
                    if let Some(welcome) = &message.welcome {
                        stream.session = Some(welcome.session_id.clone());
                    }
                    self.oracle.may_tell(&id, &message);
                    Down::Message(message)
                }
                Ok(Err(status)) => Down::End {
                    replaced: status.message().contains("the same host_id connected anew"),
                },
                Err(mpsc::error::TryRecvError::Disconnected) => {
                    stream.down = None;
                    Down::End { replaced: false }
                }
                Err(mpsc::error::TryRecvError::Empty) => return,
            };
            stream.down_at = stream.down_at.max(now.saturating_add_unsigned(latency));
            let arrives = stream.down_at;
            if !stream.cut {
                self.at(arrives, What::Down(at, number, Box::new(told)));
            }
        }
    }

    /// What it is told reaches a host.
    pub(crate) fn down(&mut self, at: usize, number: u64, down: Down) {
        if self.hosts[at].current != Some(number) {
            return;
        }
        match down {
            Down::Message(message) => self.told(at, message),
            Down::End { replaced: true } => {
                // The program ends; somebody may start it again.
                let away = self.chance.within(1_000_000, 30_000_000);
                self.crash(at, self.now.saturating_add_unsigned(away));
            }
            Down::End { replaced: false } => {
                if let Some(stream) = self.hosts[at].stream() {
                    stream.cut = true;
                }
                let latency = self.latency();
                self.after(latency, What::Up(at, number, Box::new(Up::End)));
                self.hosts[at].current = None;
                self.hosts[at].session = None;
            }
        }
    }

    /// A heartbeat reaches the orchestrator.
    pub(crate) fn beat(&mut self, at: usize, number: u64) {
        let Some(running) = &self.process.running else {
            return;
        };
        let host = &self.hosts[at];
        let session = host
            .streams
            .get(&number)
            .and_then(|stream| stream.session.clone());
        let Some(session) = session else {
            return;
        };
        let now = Time(running.clock.now_micros());
        match running.stepped.heartbeat(host.id.as_str(), &session) {
            Ok(()) => {
                let id = host.id.clone();
                self.oracle.hear(&id, now);
            }
            Err(_) => {
                let latency = self.latency();
                let end = Down::End { replaced: false };
                self.after(latency, What::Down(at, number, Box::new(end)));
            }
        }
    }

    /// The orchestrator is gone, and with it its end of every stream.
    pub(crate) fn break_streams(&mut self) {
        for at in 0..self.hosts.len() {
            let numbers: Vec<_> = self.hosts[at].streams.keys().copied().collect();
            for number in numbers {
                let Some(stream) = self.hosts[at].streams.get_mut(&number) else {
                    continue;
                };
                // One whose first message is still on its way has not come yet; in the calm it must not,
                // since that may be a lie, and who claims a command for ever has no slot for ever.
                if stream.up.is_none() && !self.calm {
                    continue;
                }
                stream.cut = true;
                stream.down = None;
                let latency = self.latency();
                let end = Down::End { replaced: false };
                self.after(latency, What::Down(at, number, Box::new(end)));
            }
        }
    }
}
