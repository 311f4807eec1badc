//! A network that fails on request: a TCP proxy between two processes, whose connections can be reset,
//! stand still, or be forgotten as a router forgets them.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How much is on its way in one direction.
const PIECE_BYTES: usize = 16 * 1024;

/// What the network does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Weather {
    /// Nothing gets through; whoever sends sees his buffers fill.
    frozen: bool,
    /// Connections made before this number are reset.
    reset_before: u64,
    /// Those made before this number never get anything through again, and never learn of it.
    forgotten_before: u64,
}

/// The proxy; its connections end with it.
#[derive(Debug)]
pub struct Proxy {
    address: String,
    weather: Arc<watch::Sender<Weather>>,
    made: watch::Receiver<u64>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a port of its own, and passes everything on to `target`, each piece `delay` late.
    pub async fn start(target: &str, delay: Duration) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let weather = Arc::new(watch::Sender::new(Weather {
            frozen: false,
            reset_before: 0,
            forgotten_before: 0,
        }));
        let (count, made) = watch::channel(0);
        let (target, seen) = (target.to_owned(), weather.clone());
        let accepting = tokio::spawn(async move {
            for number in 0.. {
                let Ok((near, _)) = listener.accept().await else {
                    return;
                };
                count.send_replace(number + 1);
                tokio::spawn(connection(
                    near,
                    target.clone(),
                    number,
                    seen.subscribe(),
                    delay,
                ));
            }
        });
        Self {
            address,
            weather,
            made,
            accepting,
        }
    }

    /// Where to connect to.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Nothing gets through until [`Proxy::thaw`].
    pub fn freeze(&self) {
        self.weather.send_modify(|weather| weather.frozen = true);
    }

    /// All that has piled up goes on its way.
    pub fn thaw(&self) {
        self.weather.send_modify(|weather| weather.frozen = false);
    }

    /// Every connection ends at once, as by a reset.
    pub fn reset(&self) {
        let made = *self.made.borrow();
        self.weather
            .send_modify(|weather| weather.reset_before = made);
    }

    /// Every connection is half-open from now on; new ones work.
    pub fn forget(&self) {
        let made = *self.made.borrow();
        self.weather
            .send_modify(|weather| weather.forgotten_before = made);
    }

    /// How many connections were made.
    pub fn connections(&self) -> u64 {
        *self.made.borrow()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn connection(
    near: TcpStream,
    target: String,
    number: u64,
    weather: watch::Receiver<Weather>,
    delay: Duration,
) {
    let Ok(far) = TcpStream::connect(target).await else {
        return;
    };
    for stream in [&near, &far] {
        // Dropped, it is reset, as by a machine that knows nothing of it; ended in order, it isn't.
        let _ = stream
            .set_nodelay(true)
            .and_then(|()| stream.set_zero_linger());
    }
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    let mut reset = weather.clone();
    let there = pass(near_in, far_out, number, weather.clone(), delay);
    let back = pass(far_in, near_out, number, weather, delay);
    tokio::select! {
        _ = async { tokio::join!(there, back) } => {}
        _ = reset.wait_for(|weather| number < weather.reset_before) => {}
    }
}

/// Passes one direction on until it ends.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    number: u64,
    mut weather: watch::Receiver<Weather>,
    delay: Duration,
) {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let open = |weather: &Weather| !weather.frozen && number >= weather.forgotten_before;
        if weather.wait_for(open).await.is_err() {
            return;
        }
        let Ok(size @ 1..) = from.read(&mut piece).await else {
            break;
        };
        // It may have frozen while there was nothing to read.
        if weather.wait_for(open).await.is_err() {
            return;
        }
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if to.write_all(&piece[..size]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
