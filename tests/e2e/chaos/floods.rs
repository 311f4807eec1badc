//! What a peer can do with HTTP/2 and sockets alone: frames without end, nothing said at all, and
//! answers that are never read. Memory stays within its bound, and whoever calls meanwhile is served.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use multiagents_client::Client;
use prost::Message as _;
use proto::wire::execute_workflow_request::Payload;
use proto::wire::orchestrator_service_client::OrchestratorServiceClient;
use proto::wire::{self, GetStatusRequest, PayloadForm};
use tests::process::{peak_mebibytes, resident_mebibytes};
use tests::wait::{self, PATIENCE, a_moment, is_long};
use tests::{Suite, http, raw};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What a flood may cost, in MiB.
const COST_MAX: u64 = 32;

/// A frame of HTTP/2 (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header field that no table is to keep (RFC 7541, section 6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0];
    for text in [name, value] {
        field.push(u8::try_from(text.len()).expect("a short one"));
        field.extend(text.as_bytes());
    }
    field
}

/// The fields of a call.
fn head(method: &str) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (
            ":path",
            &format!("/multiagents.v1.OrchestratorService/{method}"),
        ),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    fields
        .iter()
        .flat_map(|(name, value)| field(name, value))
        .collect()
}

/// Fields of 64 MiB in a block of 16 KiB: one that the table keeps, named again and again.
fn bomb() -> Vec<u8> {
    let mut block = vec![0x40, 1, b'x', 0x7f];
    // An integer with a prefix of 7 bits (RFC 7541, section 5.1).
    let mut rest = 4_000 - 127;
    while rest >= 128 {
        block.push((rest % 128) as u8 | 0x80);
        rest /= 128;
    }
    block.push(rest as u8);
    block.extend([b'y'; 4_000]);
    block.extend([0x80 | 62; 12_000]);
    block
}

const LIST: &str = "ListWorkflows";
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;

/// A flood: what comes first, and what then comes for the n-th time.
type Flood = (&'static str, fn() -> Vec<u8>, fn(u32) -> Vec<u8>);

const FLOODS: [Flood; 8] = [
    ("PING", Vec::new, |_| frame(6, 0, 0, &[0; 8])),
    ("SETTINGS", Vec::new, |_| frame(4, 0, 0, &[])),
    (
        "empty DATA",
        || frame(1, END_HEADERS, 1, &head(LIST)),
        |_| frame(0, 0, 1, &[]),
    ),
    (
        "CONTINUATION",
        || frame(1, 0, 1, &head(LIST)),
        |_| frame(9, 0, 1, &field("a", "b")),
    ),
    ("rapid reset", Vec::new, |number| {
        let stream = 2 * number + 1;
        let mut both = frame(1, END_HEADERS | END_STREAM, stream, &head(LIST));
        both.extend(frame(3, 0, stream, &8_u32.to_be_bytes()));
        both
    }),
    ("PRIORITY", Vec::new, |number| {
        frame(2, 0, 2 * number + 1, &[0, 0, 0, 0, 16])
    }),
    ("frames of no known kind", Vec::new, |_| {
        frame(0xbe, 0, 0, &[7; 64])
    }),
    ("header bomb", Vec::new, |number| {
        let mut block = head(LIST);
        block.extend(bomb());
        frame(1, END_HEADERS | END_STREAM, 2 * number + 1, &block)
    }),
];

/// Sends so many frames, and reads what is answered; gives how many were taken.
async fn flood(address: &str, (_, first, next): Flood, frames: u32) -> u32 {
    let stream = TcpStream::connect(address).await.expect("it listens");
    let (mut read, mut write) = stream.into_split();
    let drain = tokio::spawn(async move {
        let mut buffer = vec![0; 1 << 16];
        while matches!(read.read(&mut buffer).await, Ok(length) if length > 0) {}
    });
    let mut sent = 0;
    let mut piece = [PREFACE, &frame(4, 0, 0, &[]), &first()].concat();
    while sent < frames {
        while piece.len() < 1 << 16 && sent < frames {
            piece.extend(next(sent));
            sent += 1;
        }
        // A peer that takes no more for so long has had enough, which is as good as closing.
        let written = tokio::time::timeout(Duration::from_secs(5), write.write_all(&piece)).await;
        if !matches!(written, Ok(Ok(()))) {
            break;
        }
        piece.clear();
    }
    drop(write);
    drain.abort();
    sent
}

/// Runs a workflow.
async fn run(client: &Client) {
    let ended = client
        .execute_and_wait("three_noops", &serde_json::json!({}), PATIENCE)
        .await;
    ended.expect("whoever calls is served");
}

/// Calls all the while; how many were answered, and the slowest answer.
async fn everybody_else(suite: &Suite, done: &AtomicBool) -> (u32, Duration) {
    let client = suite.client();
    let (mut answered, mut slowest) = (0, Duration::ZERO);
    while !done.load(Ordering::Relaxed) {
        let began = Instant::now();
        run(&client).await;
        slowest = slowest.max(began.elapsed());
        answered += 1;
    }
    (answered, slowest)
}

/// How much memory the orchestrator has at most.
async fn peak(process: u32, done: &AtomicBool) -> u64 {
    let mut most = 0;
    while !done.load(Ordering::Relaxed) {
        most = most.max(resident_mebibytes(process));
        a_moment().await;
    }
    most
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_without_end_cost_little_memory_and_nobody_elses_calls() {
    let frames = match is_long() {
        true => 1_000_000,
        false => 20_000,
    };
    let suite = Suite::builder().without_monitor().start().await;
    let address = suite.orchestrator.address();
    let process = suite.orchestrator.id();
    // What serving costs anyway.
    for _ in 0..50 {
        run(&suite.client()).await;
    }
    for kind in FLOODS {
        let before = resident_mebibytes(process);
        let done = AtomicBool::new(false);
        let floods = async {
            let mut floods = JoinSet::new();
            for _ in 0..4 {
                let address = address.to_owned();
                floods.spawn(async move { flood(&address, kind, frames / 4).await });
            }
            let taken: u32 = floods.join_all().await.into_iter().sum();
            done.store(true, Ordering::Relaxed);
            taken
        };
        let (taken, (answered, slowest), peak) =
            tokio::join!(floods, everybody_else(&suite, &done), peak(process, &done));
        println!(
            "{}: {taken} of {frames} frames taken, {before} MiB became {peak} MiB, {answered} calls \
             answered meanwhile, the slowest in {slowest:?}",
            kind.0
        );
        assert!(
            peak < before + COST_MAX,
            "{}: {before} MiB became {peak} MiB",
            kind.0
        );
    }
    let health = http::get(address, "/healthz").await.expect("an answer");
    assert_eq!(health.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_that_say_nothing_or_one_byte_at_a_time_are_closed_and_others_are_served() {
    const EACH: usize = 250;
    let sockets = match is_long() {
        true => 5_000,
        false => 500,
    };
    let suite = Suite::builder().without_monitor().start().await;
    let address: SocketAddr = suite.orchestrator.address().parse().expect("an address");
    let done = AtomicBool::new(false);
    let slow = async {
        let mut closing = JoinSet::new();
        for number in 0..sockets {
            // One address may not have more than some.
            let from = Ipv4Addr::new(127, 0, 1, (1 + number / EACH) as u8);
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.bind(SocketAddr::from((from, 0))).expect("loopback");
            let mut stream = socket.connect(address).await.expect("it listens");
            closing.spawn(async move {
                let began = Instant::now();
                let mut buffer = [0; 1];
                let bytes = PREFACE
                    .iter()
                    .take(if number % 2 == 0 { 0 } else { PREFACE.len() });
                for byte in bytes {
                    let said = stream.write_all(&[*byte]).await;
                    let pause =
                        tokio::time::timeout(Duration::from_millis(500), stream.read(&mut buffer));
                    if said.is_err() || matches!(pause.await, Ok(Ok(0) | Err(_))) {
                        return began.elapsed();
                    }
                }
                while matches!(stream.read(&mut buffer).await, Ok(length) if length > 0) {}
                began.elapsed()
            });
        }
        let closed = closing.join_all().await;
        done.store(true, Ordering::Relaxed);
        closed.into_iter().max().unwrap_or_default()
    };
    let (closed, (answered, slowest)) = tokio::join!(slow, everybody_else(&suite, &done));
    println!(
        "{sockets} slow sockets were closed, the last after {closed:?}; {answered} calls answered \
         meanwhile, the slowest in {slowest:?}"
    );
    assert!(answered > 0);
    // 10 s are promised; tenfold slack for any machine.
    assert!(closed < Duration::from_secs(100), "{closed:?}");
}

/// Asks so often for a transaction, lets each stream take `window` bytes of its answer, and reads
/// nothing; gives the connection.
async fn ask_and_not_read(
    address: &str,
    method: &str,
    id: &str,
    window: u32,
    calls: u32,
) -> TcpStream {
    // A WatchTransactionRequest has the same form.
    let request = GetStatusRequest {
        transaction_id: id.to_owned(),
        payload_form: PayloadForm::Json as i32,
    };
    let message = request.encode_to_vec();
    let prefix = [&[0][..], &(message.len() as u32).to_be_bytes()].concat();
    let mut asked = PREFACE.to_vec();
    // SETTINGS_INITIAL_WINDOW_SIZE.
    asked.extend(frame(
        4,
        0,
        0,
        &[&[0, 4][..], &window.to_be_bytes()].concat(),
    ));
    for number in 0..calls {
        let stream = 2 * number + 1;
        asked.extend(frame(1, END_HEADERS, stream, &head(method)));
        let data = [&prefix[..], &message].concat();
        asked.extend(frame(0, END_STREAM, stream, &data));
    }
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(&asked).await.expect("it reads");
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_no_answers_is_cut_off_before_they_fill_memory() {
    const METHODS: [&str; 2] = ["GetStatus", "WatchTransaction"];
    const CONNECTIONS: usize = 6;
    const CALLS: u32 = 200;
    let suite = Suite::builder()
        .without_monitor()
        .setting("orchestrator", "server.unread_bytes_max", "64MiB")
        .start()
        .await;
    let (address, client) = (suite.orchestrator.address(), suite.client());
    let input = serde_json::json!({ "filler": "x".repeat(1_000_000) });
    let ended = client.execute_and_wait("three_noops", &input, PATIENCE);
    let id = ended.await.expect("it ends").transaction_id;
    let before = resident_mebibytes(suite.orchestrator.id());
    for window in [0, 65_535, (1 << 31) - 1] {
        for method in METHODS.iter().cycle().take(CONNECTIONS) {
            let mut stream = ask_and_not_read(address, method, &id, window, CALLS).await;
            wait::until("its end", PATIENCE, async || {
                let ping = stream.write_all(&frame(6, 0, 0, &[0; 8])).await;
                ping.err().map(|_| ()).ok_or("it is left open".to_owned())
            })
            .await;
            run(&client).await;
        }
        let peak = peak_mebibytes(suite.orchestrator.id());
        println!("windows of {window} bytes: {before} MiB became {peak} MiB");
        // Beside what is bounded: what is being read and written, and memory that was freed just now.
        assert!(peak < before + 6 * 64, "{peak} MiB");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_starts_whose_ends_nobody_reads_is_cut_off() {
    const STARTS: u64 = 64;
    let suite = Suite::builder()
        .without_monitor()
        .setting("orchestrator", "server.unread_bytes_max", "16MiB")
        .start()
        .await;
    let start = wire::ExecuteWorkflowRequest {
        workflow: "three_noops".to_owned(),
        payload: Some(Payload::InputJson(
            format!(r#"{{"filler":"{}"}}"#, "x".repeat(1_000_000)).into(),
        )),
        wait: Some(prost_types::Duration::default()),
        payload_form: PayloadForm::Json as i32,
        ..Default::default()
    };
    let starts = (0..STARTS).map(move |request_id| wire::ExecuteWorkflowsRequest {
        request_id,
        start: Some(start.clone()),
    });
    let channel = raw::channel(suite.orchestrator.address());
    let mut client = OrchestratorServiceClient::new(channel);
    let answers = client.execute_workflows(tokio_stream::iter(starts)).await;
    let mut answers = answers.expect("a stream").into_inner();
    wait::until("the cut", PATIENCE, async || {
        let printed = suite.orchestrator.printed();
        let said = printed.contains("a connection was cut off");
        said.then_some(()).ok_or("it goes on".to_owned())
    })
    .await;
    let mut heard = 0;
    while let Ok(answer) = answers.message().await {
        heard += u64::from(
            answer
                .expect("the stream does not end well")
                .answer
                .is_some(),
        );
    }
    println!("{heard} answers were heard");
    assert!(heard < 2 * STARTS);
    run(&suite.client()).await;
}
