//! Worker hosts that lie, repeat themselves or come too late.

use proto::wire::{
    Announce, CommandResult, ConnectRequest, ConnectResponse, OfferedWorker, ResultAcknowledgement,
    command_result::Outcome, worker_service_client::WorkerServiceClient,
};
use tests::wait::PATIENCE;
use tests::{Suite, raw};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::{lives, refused};

/// A host that says what it is told to say.
struct Liar {
    say: mpsc::Sender<ConnectRequest>,
    hear: Streaming<ConnectResponse>,
}

impl Liar {
    /// Opens a session whose first message is `first`.
    async fn connect(suite: &Suite, first: ConnectRequest) -> Result<Self, Status> {
        let channel: Channel = raw::channel(suite.orchestrator.address());
        let (say, said) = mpsc::channel(16);
        say.send(first).await.expect("room");
        let mut client = WorkerServiceClient::new(channel);
        let hear = client
            .connect(ReceiverStream::new(said))
            .await?
            .into_inner();
        Ok(Self { say, hear })
    }

    /// Opens a session as `host_id` that offers `worker`.
    async fn announced(suite: &Suite, host_id: &str, worker: &str) -> Self {
        let mut liar = Self::connect(suite, announce(host_id, worker, 1))
            .await
            .expect("a session");
        let first = liar.next().await.expect("an answer");
        assert!(first.welcome.is_some(), "{first:?}");
        liar
    }

    async fn next(&mut self) -> Result<ConnectResponse, Status> {
        let next = tokio::time::timeout(PATIENCE, self.hear.message()).await;
        let message = next.expect("an answer in time")?;
        message.ok_or_else(|| Status::unavailable("the stream ended"))
    }

    /// Sends a result for `command_id`, and gives what became of it.
    async fn result(&mut self, command_id: &str, json: &'static str) -> ResultAcknowledgement {
        let result = CommandResult {
            command_id: command_id.to_owned(),
            outcome: Some(Outcome::CompletedJson(json.into())),
            ..Default::default()
        };
        let request = ConnectRequest {
            results: vec![result],
            ..Default::default()
        };
        self.say.send(request).await.expect("the session lives");
        loop {
            let mut message = self.next().await.expect("the session lives");
            if let Some(acknowledgement) = message.acknowledgements.pop() {
                return acknowledgement;
            }
        }
    }

    /// Waits for a command.
    async fn command(&mut self) -> String {
        loop {
            let mut message = self.next().await.expect("the session lives");
            if let Some(command) = message.commands.pop() {
                return command.command_id;
            }
        }
    }
}

fn announce(host_id: &str, worker: &str, slots: u32) -> ConnectRequest {
    ConnectRequest {
        announce: Some(Announce {
            host_id: host_id.to_owned(),
            workers: vec![OfferedWorker {
                worker: worker.to_owned(),
                slots,
            }],
            machine: "liar".to_owned(),
            version: "0".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The error that ends a session which begins with `first`.
async fn end_of(suite: &Suite, first: ConnectRequest) -> Result<(), Status> {
    let mut liar = Liar::connect(suite, first).await?;
    loop {
        liar.next().await?;
    }
}

#[tokio::test]
async fn bad_announcements_end_the_session() {
    let mut suite = Suite::start().await;
    let ia = Code::InvalidArgument;
    let early = ConnectRequest {
        results: vec![CommandResult::default()],
        ..Default::default()
    };
    let twice = ConnectRequest {
        announce: announce("h", "w", 1).announce.map(|mut announce| {
            announce.workers.extend(announce.workers.clone());
            announce
        }),
        ..Default::default()
    };
    let cases = [
        (
            "a result first",
            early,
            (Code::FailedPrecondition, "ANNOUNCE_FIRST"),
        ),
        (
            "no slots",
            announce("h", "w", 0),
            (ia, "FIELD_OUT_OF_RANGE"),
        ),
        (
            "4e9 slots",
            announce("h", "w", 4_000_000_000),
            (ia, "FIELD_OUT_OF_RANGE"),
        ),
        (
            "a bad worker",
            announce("h", "a b", 1),
            (ia, "NAME_INVALID"),
        ),
        ("no name", announce("", "w", 1), (ia, "FIELD_MISSING")),
        ("a worker twice", twice, (ia, "FIELD_INVALID")),
    ];
    for (what, first, expected) in cases {
        let end = end_of(&suite, first).await;
        refused(&mut suite, what, end, expected).await;
    }
}

#[tokio::test]
async fn results_that_count_for_nothing_are_refused_by_item() {
    let mut suite = Suite::start().await;
    let client = suite.client();
    let workflow = multiagents_client::Workflow::new("lied").step(("it", "lied_to"));
    client.register(workflow).await.expect("a workflow");
    let mut owner = Liar::announced(&suite, "owner", "lied_to").await;
    let mut other = Liar::announced(&suite, "other", "something_else").await;

    let started = client
        .start("lied", &serde_json::json!({}))
        .await
        .expect("it starts");
    let command = owner.command().await;
    assert_eq!(command, format!("{}/it/do#1", started.transaction_id));
    for unknown in [
        "",
        "nonsense",
        "01890a5d-ac96-774b-bcce-b302099a8057/it/do#1",
    ] {
        let answer = owner.result(unknown, "{}").await;
        assert_eq!(answer.refused_reason, "COMMAND_UNKNOWN", "{unknown:?}");
        assert!(answer.message.len() > 10, "it says why");
    }
    let answer = other.result(&command, "{}").await;
    assert_eq!(answer.refused_reason, "NOT_LEASE_HOLDER");
    let answer = owner.result(&command, r#"{"mine":1}"#).await;
    assert_eq!(answer.refused_reason, "", "{answer:?}");
    let answer = owner.result(&command, r#"{"mine":1}"#).await;
    assert_eq!(
        answer.refused_reason, "",
        "the same again is acknowledged: {answer:?}"
    );
    let answer = owner.result(&command, r#"{"mine":2}"#).await;
    assert_eq!(answer.refused_reason, "RESULT_CONFLICT");

    let ended = client
        .wait_for_end(&started.transaction_id, PATIENCE)
        .await
        .expect("it ends");
    let Some(proto::wire::payload::Form::Json(result)) =
        ended.steps[0].result.clone().and_then(|result| result.form)
    else {
        panic!("{ended:?}")
    };
    assert_eq!(result, r#"{"mine":1}"#, "the first one counted");
    lives(&mut suite, "lies").await;
}

/// A result that is no JSON object fails its step, and nothing else.
#[tokio::test]
async fn a_result_that_is_no_object_fails_its_step() {
    let mut suite = Suite::start().await;
    let client = suite.client();
    let workflow = multiagents_client::Workflow::new("lied").step(("it", "lied_to"));
    client.register(workflow).await.expect("a workflow");
    let mut owner = Liar::announced(&suite, "owner", "lied_to").await;
    let started = client
        .start("lied", &serde_json::json!({}))
        .await
        .expect("it starts");
    let command = owner.command().await;
    owner.result(&command, "[1]").await;
    let ended = client
        .wait_for_end(&started.transaction_id, PATIENCE)
        .await
        .expect("it ends");
    assert_eq!(ended.state(), proto::wire::TransactionState::Failed);
    lives(&mut suite, "a list for a result").await;
}

#[tokio::test]
async fn a_host_id_on_two_streams_is_the_newer_ones() {
    let mut suite = Suite::start().await;
    let mut older = Liar::announced(&suite, "same", "lied_to").await;
    let _newer = Liar::announced(&suite, "same", "lied_to").await;
    let end = loop {
        if let Err(status) = older.next().await {
            break Err::<(), _>(status);
        }
    };
    refused(
        &mut suite,
        "two of one id",
        end,
        (Code::Aborted, "SESSION_REPLACED"),
    )
    .await;
}

/// No heartbeat is ever sent, so the lease lapses and the command is another's.
#[tokio::test]
async fn a_result_under_a_lapsed_lease_changes_nothing() {
    let mut suite = Suite::builder()
        .setting("orchestrator", "sessions.lease", "1s")
        .setting("orchestrator", "sessions.heartbeat_interval", "250ms")
        .start()
        .await;
    let client = suite.client();
    let workflow = multiagents_client::Workflow::new("lied").step(("it", "lied_to"));
    client.register(workflow).await.expect("a workflow");
    let mut silent = Liar::announced(&suite, "silent", "lied_to").await;
    let started = client
        .start("lied", &serde_json::json!({}))
        .await
        .expect("it starts");
    let command = silent.command().await;
    tests::wait::until("the lease to lapse", PATIENCE, async || {
        let status = client.status(&started.transaction_id).await;
        let status = status.map_err(|error| error.to_string())?;
        let stage = status.steps[0].attempts[0].stage();
        (stage == proto::wire::Stage::Lost)
            .then_some(())
            .ok_or(format!("{stage:?}"))
    })
    .await;
    let end = loop {
        if let Err(status) = silent.next().await {
            break status;
        }
    };
    assert_eq!(
        raw::reason(&end),
        "LEASE_LAPSED",
        "the session is over: {end:?}"
    );
    // It comes back, as a host does that was only cut off for too long.
    let mut back = Liar::announced(&suite, "silent", "something_else").await;
    let answer = back.result(&command, r#"{"late":true}"#).await;
    assert_eq!(answer.refused_reason, "LEASE_LAPSED");
    let status = client
        .status(&started.transaction_id)
        .await
        .expect("it is known");
    assert_eq!(status.steps[0].result, None);
    lives(&mut suite, "a late result").await;
}
