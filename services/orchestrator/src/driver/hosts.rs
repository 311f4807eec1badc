//! What hosts say, and what becomes of their sessions.

use std::sync::Arc;

use proto::convert::us_to_duration;
use proto::error::{Problem, Reason, word};
use proto::id::{CommandId, HostId};
use proto::lifecycle::{Stage, is_end};
use proto::wire;

use super::{Driver, micros};
use crate::engine::{self, ResultOutcome};
use crate::inbox::{Announced, HostResult, Said};
use crate::letting_out::Out;
use crate::sessions::late::Late;
use crate::sessions::line::{Lease, Line};
use crate::sessions::message::HostMessage;
use crate::sessions::quarantine::Hold;
use crate::sessions::remembered::Remembered;
use crate::sessions::stream::recorded;
use crate::sessions::table::{Announcement, Session};

/// A host's open session.
pub(super) struct OpenLine {
    pub(super) session: Session,
    /// As heartbeats name it.
    pub(super) session_id: String,
    pub(super) line: Arc<Line>,
    lease: Arc<Lease>,
    pub(super) remembered: Remembered,
}

impl Driver {
    pub(super) fn announced(&mut self, announced: Announced) {
        let Announced {
            host,
            workers,
            machine,
            version,
            held,
            held_nameless,
            remembers_bytes_max,
            line,
            lease,
            reply,
        } = announced;
        let announcement = Announcement {
            host: host.clone(),
            workers: workers.clone(),
            machine: machine.clone(),
            held,
        };
        let state = &self.state;
        let stage = |command: &CommandId| state.stage_at(&host, command);
        let opened = match self.table.announce(&announcement, self.now, stage) {
            Ok(opened) => opened,
            Err(problem) => {
                self.pending.out.push(Out::Session(reply, Err(problem)));
                return;
            }
        };
        if opened.replaced.is_some()
            && let Some(old) = self.lines.remove(&host)
        {
            self.end_line(old, replaced());
        }
        let (offers, kept) = (workers.len(), opened.kept.len());
        tracing::info!(%host, workers = offers, commands = kept, "a worker host connected");
        let lease_us = micros(*self.shared.config.sessions.lease);
        self.decide_or_say(engine::Input::HostConnected {
            host: host.clone(),
            workers,
            machine,
            version,
            lease_us,
        });
        if !opened.lost.is_empty() {
            self.decide_or_say(engine::Input::CommandsLost {
                host: host.clone(),
                commands: opened.lost,
            });
        }
        if !opened.revoked.is_empty() {
            self.decide_or_say(engine::Input::Revoked {
                host: host.clone(),
                commands: opened.revoked.clone(),
            });
        }
        match opened.hold {
            None => self.dispatch.host_up(&host, &opened.offered),
            Some(hold) => self.hold_back(&host, hold),
        }
        // The epoch tells this session from those before a restart.
        let session_id = format!("{}-{}", self.journal.bounds().epoch, opened.session.0);
        lease.renew(self.now);
        self.shared
            .leases
            .insert(session_id.clone(), host.clone(), lease.clone());
        let revoked = opened.revoked.iter().map(ToString::to_string);
        let messages = self.pending.host(opened.session, &line);
        messages.welcome(wire::Welcome {
            session_id: session_id.clone(),
            lease: Some(us_to_duration(lease_us)),
            heartbeat_interval: Some(us_to_duration(micros(
                *self.shared.config.sessions.heartbeat_interval,
            ))),
            revoked_command_ids: revoked.chain(held_nameless).collect(),
        });
        for command in opened.kept {
            // The telling may have been lost with the session before.
            if self.state.is_cancelling(&command) {
                messages.cancel(&command);
            }
        }
        let open = OpenLine {
            session: opened.session,
            session_id,
            line,
            lease,
            remembered: Remembered::new(remembers_bytes_max),
        };
        self.lines.insert(host, open);
        self.pending
            .out
            .push(Out::Session(reply, Ok(opened.session)));
    }

    pub(super) fn said(&mut self, host: &HostId, session: Session, said: Said) {
        if !self.table.is_open(host, session) {
            // A session that was replaced: what it says comes again by the new one.
            return;
        }
        for (command, stage) in said.progress {
            // What only watches is not worth a word.
            let _ = self.decide(engine::Input::Progress {
                host: host.clone(),
                command,
                stage,
            });
        }
        let mut late = Vec::new();
        for result in said.results {
            let id = &result.command.transaction;
            if !said.looked_up && self.state.transaction_state(id).is_none() {
                self.free_slot(host, &result.command);
                late.push(result);
            } else {
                self.result(host, session, result);
            }
        }
        if let Some(open) = self.lines.get(host).filter(|_| !late.is_empty()) {
            let line = open.line.clone();
            let host = host.clone();
            self.pending.out.push(Out::Late(Late {
                line,
                host,
                session,
                results: late,
            }));
        }
        for command_id in said.nameless {
            self.decide_or_say(engine::Input::Refused {
                host: host.clone(),
                reason: Reason::CommandUnknown,
                command_id: recorded(&command_id),
            });
            let message = "no command has such a name; drop the result";
            let reason = Reason::CommandUnknown;
            self.acknowledge(host, session, &command_id, reason, message, 0);
        }
        for sample in said.samples {
            self.decide_or_say(engine::Input::Sampled {
                host: Some(host.clone()),
                sample: Box::new(sample),
            });
        }
        if said.draining && self.table.drain(host, session) {
            self.dispatch.host_gone(host);
            self.decide_or_say(engine::Input::HostDraining { host: host.clone() });
        }
    }

    fn result(&mut self, host: &HostId, session: Session, result: HostResult) {
        let HostResult {
            command,
            command_id,
            began,
            outcome,
            problem,
            wait_us,
            run_us,
        } = result;
        if began {
            // What only watches is not worth a word.
            let _ = self.decide(engine::Input::Progress {
                host: host.clone(),
                command: command.clone(),
                stage: Stage::Processing,
            });
        }
        let completed_bytes = match &outcome {
            ResultOutcome::Completed(result) => result.len(),
            _ => 0,
        };
        let decided = self.decide(engine::Input::Result {
            host: host.clone(),
            command: command.clone(),
            outcome,
            wait_us,
            run_us,
        });
        self.free_slot(host, &command);
        let (reason, message) = match (decided, problem) {
            (Ok(engine::Reply::ResultRefused { reason, message }), _) => (reason, message),
            (Ok(_), Some(problem)) => {
                self.shared.metrics.result_refused(word(problem.reason));
                (problem.reason, problem.message)
            }
            (Ok(_), None) => (Reason::Unspecified, String::new()),
            (Err(problem), _) => (problem.reason, problem.message),
        };
        let context_id = match reason {
            Reason::Unspecified => self.remembered(host, &command, completed_bytes),
            _ => 0,
        };
        self.acknowledge(host, session, &command_id, reason, &message, context_id);
    }

    /// By which id a host is to remember a result that counted; 0 where no context is to have it.
    fn remembered(&mut self, host: &HostId, command: &CommandId, bytes: usize) -> u64 {
        let transaction = command.transaction;
        let state = self.state.transaction_state(&transaction);
        if command.undo || state.is_none_or(is_end) {
            return 0;
        }
        match (self.lines.get_mut(host), self.state.key(command)) {
            (Some(open), Some(key)) => open.remembered.result(transaction, key.step, bytes),
            _ => 0,
        }
    }

    /// A command that its host reported takes no slot any more, whatever becomes of the report.
    fn free_slot(&mut self, host: &HostId, command: &CommandId) {
        if let Some(worker) = self.table.release(host, command) {
            self.dispatch.free(host, &worker);
        }
    }

    /// Unspecified: it counted.
    fn acknowledge(
        &mut self,
        host: &HostId,
        session: Session,
        command_id: &str,
        reason: Reason,
        message: &str,
        context_id: u64,
    ) {
        let refused_reason = match reason {
            Reason::Unspecified => "",
            reason => word(reason),
        };
        if let Some(open) = self.lines.get_mut(host) {
            let messages = self.pending.host(session, &open.line);
            messages.acknowledge(command_id, refused_reason, message, context_id);
            messages.forget(&mut open.remembered);
        }
    }

    pub(super) fn closed(&mut self, host: &HostId, session: Session) {
        if self
            .lines
            .get(host)
            .is_some_and(|open| open.session == session)
            && let Some(open) = self.lines.remove(host)
        {
            // What waits for it still goes out: a host may have closed its half alone.
            self.shared.leases.remove(&open.session_id);
            // The table has not heard the last heartbeats: the lease runs on from there.
            self.renew(host, &open);
        }
        if let Some(drained) = self.table.disconnect(host, session, self.now) {
            let what = match drained {
                true => "a worker host has finished and left",
                false => "a worker host's connection ended; its lease runs on",
            };
            tracing::info!(%host, "{what}");
            self.dispatch.host_gone(host);
            self.decide_or_say(engine::Input::HostDisconnected {
                host: host.clone(),
                drained,
            });
        }
    }

    pub(super) fn tell_to_stop(&mut self, host: &HostId, command: &CommandId) {
        // A host that is away is told when it comes back.
        if let Some(open) = self.lines.get(host) {
            self.pending.host(open.session, &open.line).cancel(command);
        }
    }

    /// A host that comes from where hosts crash in a loop gets nothing for a while.
    fn hold_back(&mut self, host: &HostId, hold: Hold) {
        self.dispatch.host_gone(host);
        let (hold_us, losses) = (hold.until.since_us(self.now), hold.losses);
        tracing::warn!(%host, losses, hold_us, "a worker host is quarantined: its kind crashes in a loop");
        self.decide_or_say(engine::Input::HostQuarantined {
            host: host.clone(),
            hold_us,
            losses,
        });
    }

    /// Hosts whose heartbeats stayed away for a whole lease lose what they have; those that were held
    /// back for long enough are let in.
    pub(super) fn judge_leases(&mut self) {
        let due = |driver: &Self| driver.table.due().is_some_and(|due| due <= driver.now);
        if !due(self) || self.now < self.judge_after {
            return;
        }
        // The table learns of heartbeats only when it matters.
        let lines = std::mem::take(&mut self.lines);
        for (host, open) in &lines {
            self.renew(host, open);
        }
        self.lines = lines;
        if !due(self) {
            return;
        }
        for (host, offered) in self.table.let_in(self.now) {
            tracing::info!(%host, "a worker host is let in after its quarantine");
            self.dispatch.host_up(&host, &offered);
        }
        for lapsed in self.table.lapse(self.now) {
            let commands = lapsed.commands.len();
            tracing::warn!(host = %lapsed.host, commands, "a worker host's lease lapsed");
            self.dispatch.host_gone(&lapsed.host);
            if let Some(open) = self.lines.remove(&lapsed.host) {
                self.end_line(open, lease_lapsed());
            }
            self.decide_or_say(engine::Input::HostLapsed {
                host: lapsed.host,
                commands: lapsed.commands,
            });
        }
    }

    fn renew(&mut self, host: &HostId, open: &OpenLine) {
        let renewed = self.table.renew(host, open.session, open.lease.heard());
        if let Err(problem) = renewed {
            tracing::warn!(%problem, %host, "a lease could not be renewed");
        }
    }

    fn end_line(&mut self, open: OpenLine, why: Problem) {
        self.shared.leases.remove(&open.session_id);
        self.pending.hosts.remove(&open.session);
        let goodbye = HostMessage::goodbye();
        let out = &mut self.pending.out;
        out.push(Out::Host(open.line.clone(), goodbye));
        out.push(Out::End(open.line, why));
    }
}

fn replaced() -> Problem {
    Problem::new(
        Reason::SessionReplaced,
        "the same host_id connected anew; give each process a host_id of its own",
    )
}

fn lease_lapsed() -> Problem {
    Problem::new(
        Reason::LeaseLapsed,
        "no heartbeat came for a whole lease, and what this host had is delivered elsewhere; connect \
         again",
    )
}
