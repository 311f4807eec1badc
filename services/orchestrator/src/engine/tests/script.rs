//! The scripts' language.
//!
//! `start [KEY]`, `cancel [keep]`, `STEP@HOST` (dispatch), `STEP ok [JSON]`, `STEP fail KIND [final]`,
//! `STEP timeout`, `STEP stopped`, `STEP picked`, `STEP runs`, `+SECONDS` (time, then a tick), `lapse HOST`,
//! `come HOST`, `drain HOST`, `leave HOST`, `break HOST` (its stream), `gone HOST` (back without its commands), `carry`, `open` (restart). A result comes from the host that
//! has the step's newest attempt, unless ` from HOST` follows; `STEP#2` names an attempt, `~STEP` the undo.

use proto::event::{Cancel, Failure, Start};
use proto::id::{CommandId, StepName};
use proto::payload::Payload;

use super::*;

/// Runs a script on a workflow with these steps, in YAML.
pub(super) fn check(steps: &str, script: &str) -> Scene {
    check_with(Limits::default(), steps, script)
}

/// As [`check`] under other limits.
pub(super) fn check_with(limits: Limits, steps: &str, script: &str) -> Scene {
    let mut scene = Scene::new(limits, steps);
    scene.play(script);
    scene
}

/// One workflow and its newest transaction.
pub(super) struct Scene {
    pub(super) state: State,
    pub(super) log: Log,
    pub(super) now: Time,
    /// The effects of the last input.
    pub(super) effects: Vec<Effect>,
    /// Every transaction that was started.
    pub(super) ids: Vec<TransactionId>,
    /// What the last input was answered.
    pub(super) reply: Reply,
}

impl Scene {
    pub(super) fn new(limits: Limits, steps: &str) -> Self {
        let mut scene = Self {
            state: State::new(limits),
            log: Log::default(),
            now: Time(1_000_000),
            effects: Vec::new(),
            ids: Vec::new(),
            reply: Reply::None,
        };
        scene.input(Input::Opened {
            version: "0".to_owned(),
            epoch: 1,
        });
        let workflow = workflow(steps);
        scene.input(Input::Register { workflow });
        scene
    }

    pub(super) fn play(&mut self, script: &str) {
        for step in script
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
        {
            let (input, wanted) = step.split_once('>').unwrap_or((step, ""));
            let wanted: Vec<_> = wanted
                .split(',')
                .map(str::trim)
                .filter(|event| !event.is_empty())
                .collect();
            assert_eq!(self.say(input.trim()), wanted, "after: {step}");
            let live = self.ids.clone();
            assert_found_again(&self.state, &self.log, &live);
        }
    }

    /// One input; gives the events as lines, or the refusal.
    fn say(&mut self, input: &str) -> Vec<String> {
        let mut words = input.split_whitespace();
        let first = words.next().unwrap();
        let rest: Vec<&str> = words.collect();
        let id = self.ids.last().copied().unwrap_or(TransactionId([0; 16]));
        let input = match (first, rest.as_slice()) {
            ("start", key) => self.start(key.first().copied().unwrap_or_default()),
            ("cancel", keep) => Input::Cancel {
                id,
                cancel: Cancel {
                    reason: String::new(),
                    skip_compensation: keep == ["keep"],
                },
            },
            ("lapse", [name]) => Input::HostLapsed {
                host: host(name),
                commands: self.held(&host(name)),
            },
            ("come", [name]) => Input::HostConnected {
                host: host(name),
                workers: Vec::new(),
                machine: String::new(),
                version: String::new(),
                lease_us: 0,
            },
            ("drain", [name]) => Input::HostDraining { host: host(name) },
            ("leave" | "break", [name]) => Input::HostDisconnected {
                host: host(name),
                drained: first == "leave",
            },
            ("gone", [name]) => Input::CommandsLost {
                host: host(name),
                commands: self.held(&host(name)),
            },
            ("carry", _) => Input::Carry {
                before: self.log.next,
                limit: 100,
            },
            ("open", _) => {
                self.state = self.log.replayed(self.state.limits());
                Input::Opened {
                    version: "0".to_owned(),
                    epoch: 2,
                }
            }
            (time, []) if time.starts_with('+') => {
                self.now = self
                    .now
                    .after_us((time[1..].parse::<f64>().unwrap() * 1e6) as u64);
                Input::Tick
            }
            (given, []) if given.contains('@') => {
                let (step, name) = given.split_once('@').unwrap();
                let command = self.state.key(&self.command(step)).unwrap();
                Input::Dispatched {
                    command,
                    host: host(name),
                }
            }
            (step, words) => self.told(step, words),
        };
        let outcome = self.try_input(input);
        outcome.unwrap_or_else(|problem| vec![format!("! {}", problem.reason_word())])
    }

    fn start(&mut self, key: &str) -> Input {
        let number = u8::try_from(self.ids.len() + 1).unwrap();
        let mut start = start(b"{\"in\":1}");
        start.idempotency_key = key.to_owned();
        Input::Start {
            id: TransactionId([number; 16]),
            workflow: WorkflowName::parse("w").unwrap(),
            version: 0,
            start,
            ended: None,
        }
    }

    fn told(&self, step: &str, words: &[&str]) -> Input {
        let command = self.command(step);
        let (words, host) = match words {
            [words @ .., "from", name] => (words, host(name)),
            words => (words, self.holder(&command)),
        };
        let stage = |stage| Input::Progress {
            host: host.clone(),
            command: command.clone(),
            stage,
        };
        let outcome = match words {
            ["picked"] => return stage(Stage::PickedUp),
            ["runs"] => return stage(Stage::Processing),
            ["ok"] => ResultOutcome::Completed(format!("{{\"{step}\":1}}").into()),
            ["ok", json] => ResultOutcome::Completed(Bytes::copy_from_slice(json.as_bytes())),
            ["fail", kind, last @ ..] => ResultOutcome::Failed {
                failure: Failure {
                    kind: (*kind).to_owned(),
                    message: "it broke".to_owned(),
                    detail: String::new(),
                },
                not_retryable: last == ["final"],
            },
            ["timeout"] => ResultOutcome::TimedOut,
            ["stopped"] => ResultOutcome::Cancelled,
            other => panic!("no such input: {step} {other:?}"),
        };
        Input::Result {
            host,
            command,
            outcome,
            wait_us: 1_000,
            run_us: 20_000,
        }
    }

    /// `~a#2`, or the newest attempt of `a`.
    pub(super) fn command(&self, text: &str) -> CommandId {
        let (undo, text) = match text.strip_prefix('~') {
            Some(text) => (true, text),
            None => (false, text),
        };
        let (step, attempt) = match text.split_once('#') {
            Some((step, attempt)) => (step, attempt.parse().unwrap()),
            None => (text, 0),
        };
        let mut id = CommandId {
            transaction: *self.ids.last().unwrap(),
            step: StepName::parse(step).unwrap(),
            undo,
            attempt,
        };
        if attempt == 0 {
            id.attempt = self.attempts(&id).last().map_or(1, |known| known.attempt);
        }
        id
    }

    fn attempts(&self, id: &CommandId) -> Vec<proto::event::CarriedCommand> {
        let Some(snapshot) = self.state.snapshot(&id.transaction) else {
            return Vec::new();
        };
        let step = snapshot
            .carried
            .steps
            .into_iter()
            .find(|step| step.step == id.step);
        step.into_iter()
            .flat_map(|step| step.commands)
            .filter(|command| command.undo == id.undo)
            .collect()
    }

    fn holder(&self, id: &CommandId) -> HostId {
        let attempts = self.attempts(id);
        let known = attempts.iter().find(|known| known.attempt == id.attempt);
        known
            .and_then(|known| known.host.clone())
            .unwrap_or_else(|| host("nobody"))
    }

    fn held(&self, host: &HostId) -> Vec<CommandId> {
        let hosts = self.state.hosts().into_iter();
        let held = hosts
            .filter(|(name, _)| name == host)
            .flat_map(|(_, held)| held);
        held.map(|(id, _)| id).collect()
    }

    /// One input; gives its events as lines.
    pub(super) fn try_input(&mut self, input: Input) -> Result<Vec<String>, Problem> {
        let mut decided = Decided::default();
        let id = match &input {
            Input::Start { id, .. } => Some(*id),
            _ => None,
        };
        let answer = handle(
            &mut self.state,
            input,
            self.now,
            self.log.next,
            &mut decided,
        );
        self.effects = decided.effects;
        let events = self.log.append(decided.events);
        self.reply = answer.inspect_err(|_| assert!(events.is_empty()))?;
        if let Reply::Started {
            existing: false, ..
        } = self.reply
        {
            self.ids.extend(id);
        }
        Ok(events.iter().map(line).collect())
    }

    pub(super) fn input(&mut self, input: Input) -> Vec<String> {
        self.try_input(input).unwrap()
    }
}

pub(super) fn host(name: &str) -> HostId {
    HostId::parse(name).unwrap()
}

/// Workflow "w" with these steps.
pub(super) fn workflow(steps: &str) -> Box<Workflow> {
    let text = format!("name: w\nsteps:\n{steps}");
    let mut workflows = crate::definitions::parse("w", &text).unwrap();
    Box::new(workflows.remove(0))
}

pub(super) fn start(input: &'static [u8]) -> Box<Start> {
    Box::new(Start {
        version: 0,
        input: Payload::Held(Bytes::from_static(input)),
        idempotency_key: String::new(),
        input_hash: Bytes::from_static(b"hash"),
        labels: std::collections::BTreeMap::new(),
        trace_parent: String::new(),
    })
}
