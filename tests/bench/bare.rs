//! What large payloads cost at least: the same payloads go the same ways between three processes and into
//! a file with the same syncs, over bare sockets. Nobody parses, checks, hashes or remembers anything.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::processes::Another;

/// The argument that makes this program a client or a host: whatever comes is answered with a payload.
pub(crate) const PEER_WORD: &str = "serve-bare-payloads";
const TIME: Duration = Duration::from_secs(5);
/// The file is written anew from here on.
const FILE_BYTES: usize = 1 << 30;
/// So many payloads are appended at once.
const BATCH: usize = 64;
/// More than are in flight; whoever hears more waits.
const WAITING_MAX: usize = 1_024;
/// So many parts of a message are handed to the system at once.
const PARTS: usize = 512;

/// What is moved.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) in_flight: usize,
    pub(crate) steps: u8,
    pub(crate) payload_bytes: usize,
}

/// A message: which workflow, after which of its steps, and so many payloads.
struct Message {
    workflow: u32,
    step: u8,
    payloads: Vec<u8>,
}

impl Message {
    const HEADER_BYTES: usize = 9;

    fn header(workflow: u32, step: u8, bytes: usize) -> [u8; Self::HEADER_BYTES] {
        let mut header = [step; Self::HEADER_BYTES];
        header[..4].copy_from_slice(&workflow.to_le_bytes());
        header[4..8].copy_from_slice(&(bytes as u32).to_le_bytes());
        header
    }

    fn read(from: &mut TcpStream) -> io::Result<Self> {
        let mut header = [0; Self::HEADER_BYTES];
        from.read_exact(&mut header)?;
        let number = |at: usize| {
            let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
            u32::from_le_bytes(bytes)
        };
        let bytes = u64::from(number(4));
        let mut payloads = Vec::with_capacity(bytes as usize);
        from.take(bytes).read_to_end(&mut payloads)?;
        Ok(Self {
            workflow: number(0),
            step: header[8],
            payloads,
        })
    }
}

/// Writes messages, each with so many copies of a payload.
fn write(to: &mut TcpStream, messages: &[(u32, u8, usize)], payload: &[u8]) -> io::Result<()> {
    let header = |&(workflow, step, payloads): &(u32, u8, usize)| {
        Message::header(workflow, step, payloads * payload.len())
    };
    let headers: Vec<_> = messages.iter().map(header).collect();
    let mut parts = Vec::new();
    for (header, (.., payloads)) in headers.iter().zip(messages) {
        parts.push(IoSlice::new(header));
        parts.extend((0..*payloads).map(|_| IoSlice::new(payload)));
    }
    let mut left = &mut parts[..];
    while !left.is_empty() {
        let some = left.len().min(PARTS);
        let written = to.write_vectored(&left[..some])?;
        IoSlice::advance_slices(&mut left, written);
    }
    Ok(())
}

/// All that comes, as it comes; ends with the stream.
fn hear(from: &TcpStream, to: mpsc::SyncSender<Message>) -> io::Result<()> {
    let mut from = from.try_clone()?;
    thread::spawn(move || {
        while let Ok(message) = Message::read(&mut from) {
            if to.send(message).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// The next message and those that have come since.
fn heard(messages: &mpsc::Receiver<Message>) -> Option<Vec<Message>> {
    let mut batch = vec![messages.recv().ok()?];
    batch.extend(messages.try_iter().take(BATCH - 1));
    Some(batch)
}

/// A client, which begins so many workflows, or a host, which begins none.
pub(crate) fn peer(address: &str, begins: &str, payload_bytes: &str) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let payload = vec![7; payload_bytes.parse()?];
    let (to, messages) = mpsc::sync_channel(WAITING_MAX);
    hear(&stream, to)?;
    let begun: Vec<_> = (0..begins.parse()?)
        .map(|workflow| (workflow, 0, 1))
        .collect();
    write(&mut stream, &begun, &payload)?;
    while let Some(batch) = heard(&messages) {
        let answers = batch.iter().map(|heard| (heard.workflow, heard.step, 1));
        if write(&mut stream, &answers.collect::<Vec<_>>(), &payload).is_err() {
            break;
        }
    }
    Ok(())
}

/// One of them, and the socket to it.
fn start(listener: &TcpListener, begins: usize, shape: Shape) -> Result<(Another, TcpStream)> {
    let address = listener.local_addr()?.to_string();
    let [begins, bytes] = [begins, shape.payload_bytes].map(|number| number.to_string());
    let peer = Another::start(&[PEER_WORD, &address, &begins, &bytes])?;
    let (stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    Ok((peer, stream))
}

/// Megabytes of payloads a second that come into the file: each input and result once. Over the sockets go
/// the input to the orchestrator and on to the host, the results to the orchestrator, and all of
/// them to the client.
pub(crate) fn measure(shape: Shape) -> Result<f64> {
    let directory = tempfile::tempdir()?;
    let mut file = std::fs::File::create(directory.path().join("log"))?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let (_host, mut host) = start(&listener, 0, shape)?;
    let (_client, mut client) = start(&listener, shape.in_flight, shape)?;
    let (to, messages) = mpsc::sync_channel(WAITING_MAX);
    hear(&host, to.clone())?;
    hear(&client, to)?;
    let payload = vec![7; shape.payload_bytes];
    let (mut batch, mut in_file, mut logged) = (Vec::new(), 0, 0);
    let began = Instant::now();
    while began.elapsed() < TIME {
        let heard = heard(&messages).context("a peer is gone")?;
        batch.clear();
        for message in &heard {
            batch.extend_from_slice(&message.payloads);
        }
        if in_file > FILE_BYTES {
            io::Seek::rewind(&mut file)?;
            in_file = 0;
        }
        file.write_all(&batch)?;
        file.sync_data()?;
        in_file += batch.len();
        logged += batch.len();
        let (mut commands, mut ends) = (Vec::new(), Vec::new());
        for Message { workflow, step, .. } in heard {
            match step {
                0 => commands.push((workflow, 1, 1)),
                last if last == shape.steps => ends.push((workflow, 0, 1 + usize::from(last))),
                step => commands.push((workflow, step + 1, 0)),
            }
        }
        write(&mut host, &commands, &payload)?;
        write(&mut client, &ends, &payload)?;
    }
    Ok(logged as f64 / 1e6 / began.elapsed().as_secs_f64())
}
