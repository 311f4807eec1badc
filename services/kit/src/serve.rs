//! One port for gRPC and HTTP, from the first connection to the orderly end.
//!
//! The caller owns listener, shutdown and readiness. The end: nothing more is accepted, health
//! says NOT_SERVING, calls in hand may end within the grace, what is then still open is ended
//! with UNAVAILABLE, and only then does `serve` return.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{HeaderMap, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::Service as _;

use crate::answer_body::Outgoing;
use crate::callers;
use crate::calls::{Calls, CatchPanic, Method};
use crate::connections::{Admission, Admitted};
use crate::gathering::gathering;
use crate::handshake::Handshake;
use crate::methods::{self, Methods};
use crate::metrics;
use crate::pages::{self, Pages};
use crate::refusals;
use crate::service::{Exposure, Limits, Readiness, Service};
use crate::status::{self, ErrorDomain};
use crate::unread::{Connection, Unread, UnreadCounter};

/// How long connections get to write their last frames once every call has ended.
const LAST_FRAMES: Duration = Duration::from_secs(1);
/// A payload of 64 KiB comes in one frame.
const FRAME_BYTES_MAX: u32 = 128 * 1024;
/// How long to wait before accepting again when the system has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why a service was not served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Anybody who reaches the port could do everything.
    #[error(
        "refusing to listen on {0}: beyond loopback anybody who reaches the port could do \
         everything; listen on 127.0.0.1, or set insecure: true if that is meant"
    )]
    NotLoopback(SocketAddr),
    /// A descriptor set is no descriptor set.
    #[error("a descriptor set cannot be read: {0}")]
    Descriptors(String),
    /// The listener has no address.
    #[error("the listener has no address: {0}")]
    Listener(#[from] std::io::Error),
    /// The address is taken, not this machine's, or no address.
    #[error("cannot listen on {address}: {source}; {}", remedy(source))]
    Address {
        /// As it was asked for.
        address: String,
        /// The system's word.
        source: std::io::Error,
    },
}

/// What helps against an address that can't be bound.
fn remedy(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::AddrInUse => "another port will do, 0 for any free one",
        std::io::ErrorKind::PermissionDenied => "take a port from 1024 on",
        _ => "it must be an address of this machine and a port, such as 127.0.0.1:7001",
    }
}

/// Binds `address` (`127.0.0.1:7000`, port 0 for any free one).
///
/// Call it before anything else is opened: an address that is not safe is refused here, with
/// nothing touched yet.
///
/// # Errors
/// [`ServeError::NotLoopback`] and [`ServeError::Address`].
pub async fn listen(address: &str, exposure: &Exposure) -> Result<TcpListener, ServeError> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| ServeError::Address {
            address: address.to_owned(),
            source,
        })?;
    check_address(&listener, exposure)?;
    Ok(listener)
}

fn check_address(listener: &TcpListener, exposure: &Exposure) -> Result<SocketAddr, ServeError> {
    let address = listener.local_addr()?;
    match address.ip().to_canonical().is_loopback() || exposure.insecure {
        true => Ok(address),
        false => Err(ServeError::NotLoopback(address)),
    }
}

/// Serves until `shutdown` is cancelled and everything in hand has ended.
///
/// # Errors
/// Only before the first connection is accepted.
pub async fn serve(
    service: Service,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let address = check_address(&listener, &service.exposure)?;
    let server = Server::new(service).await?;
    // Whoever drops this future wants it to end now.
    let _stop = server.calls.cut.clone().drop_guard();
    tracing::info!(%address, "listening");
    let health = server.follow_readiness();
    let mut health = pin!(health);
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            () = &mut health => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => server.accept(stream, peer),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    server.drain().await;
    Ok(())
}

/// What every connection shares.
struct Server {
    calls: Arc<Calls>,
    pages: axum::Router,
    exposure: Arc<Exposure>,
    admission: Admission,
    limits: Limits,
    builder: Arc<auto::Builder<TokioExecutor>>,
    health: HealthReporter,
    health_names: Vec<&'static str>,
    readiness: watch::Receiver<Readiness>,
    connections: TaskTracker,
    unread: Arc<Unread>,
    draining: CancellationToken,
}

impl Server {
    async fn new(mut service: Service) -> Result<Self, ServeError> {
        let unreadable = |error: &dyn std::fmt::Display| ServeError::Descriptors(error.to_string());
        let methods =
            Methods::read(&service.descriptor_sets).map_err(|error| unreadable(&error))?;
        let paths: Vec<String> = methods.paths().map(str::to_owned).collect();
        let counters = metrics::register(
            &mut service.metrics,
            service.name,
            service.connections.clone(),
            &paths,
        );
        let exempt_methods = &service.exempt_methods;
        let paths = methods
            .paths()
            .chain(exempt_methods.iter().map(String::as_str));
        let known = paths.map(|path| {
            let exempt = exempt_methods.iter().any(|exempt| exempt == path);
            let method = Method {
                path: path.into(),
                lasting: exempt || methods.is_streaming(path) || Methods::is_own(path),
                streaming: methods.is_streaming(path),
                counters: counters.of(path).clone(),
            };
            (method.path.clone(), method)
        });
        let known = known.collect();
        let (health, health_service) = tonic_health::server::health_reporter();
        let (sets, names) = (&service.descriptor_sets, &service.health_names);
        let routes = methods::add_reflection(service.routes, sets, names)
            .map_err(|error| unreadable(&error))?
            .add_service(health_service);
        let draining = CancellationToken::new();
        let pages = Pages {
            service: service.name,
            readiness: service.readiness.clone(),
            draining: draining.clone(),
            insecure: service.exposure.insecure,
            registry: service.metrics,
        };
        let limits = service.limits;
        let server = Self {
            pages: service.http.merge(pages::router(pages)),
            calls: Arc::new(Calls {
                routes,
                methods: known,
                unknown: counters.unknown(),
                domain: service.error_domain,
                places: Arc::new(Semaphore::new(limits.calls_max)),
                exempt_places: Arc::new(Semaphore::new(limits.exempt_calls_max)),
                in_hand: TaskTracker::new(),
                cut: CancellationToken::new(),
                limits: limits.clone(),
            }),
            exposure: Arc::new(service.exposure),
            admission: Admission::new(
                service.connections,
                limits.connections_max,
                limits.connections_per_address_max,
            ),
            builder: Arc::new(builder(&limits)),
            unread: Unread::new(limits.unread_bytes_max.0),
            limits,
            health,
            health_names: service.health_names,
            readiness: service.readiness,
            connections: TaskTracker::new(),
            draining,
        };
        let ready = *server.readiness.borrow() == Readiness::Ready;
        server.say_health(ready).await;
        Ok(server)
    }

    /// Keeps grpc.health.v1 saying what the service says of itself.
    async fn follow_readiness(&self) {
        let mut readiness = self.readiness.clone();
        loop {
            let ready = *readiness.borrow_and_update() == Readiness::Ready;
            self.say_health(ready).await;
            if readiness.changed().await.is_err() {
                // Nobody is left to say otherwise; the last word stands.
                std::future::pending::<()>().await;
            }
        }
    }

    async fn say_health(&self, ready: bool) {
        let status = if ready {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for name in std::iter::once(&"").chain(&self.health_names) {
            self.health.set_service_status(name, status).await;
        }
    }

    fn accept(&self, stream: TcpStream, peer: SocketAddr) {
        let Some(admitted) = self.admission.admit(peer.ip()) else {
            tracing::debug!(%peer, "closed at once: too many connections");
            return;
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "the connection was gone before it was accepted");
            return;
        }
        let unread = self.unread.connection(peer);
        let counter = unread.counter();
        let connection = self.connection(stream, admitted, unread);
        counter.is_of(self.connections.spawn(connection).abort_handle());
    }

    /// One connection, until its peer or this server ends it.
    fn connection(
        &self,
        stream: TcpStream,
        admitted: Admitted,
        unread: Connection,
    ) -> impl Future<Output = ()> + Send + use<> {
        let front = Front {
            calls: self.calls.clone(),
            pages: self.pages.clone(),
            exposure: self.exposure.clone(),
            let_in: callers::LetIn::default(),
            call_timeout: *self.limits.call_timeout,
        };
        let counter = unread.counter();
        let respond = service_fn(move |request: Request<Incoming>| {
            let (front, counter) = (front.clone(), counter.clone());
            // Boxed once, since what carries it is moved several times.
            let answered = Box::pin(async {
                let response = front.answer(request, &counter).await;
                counter.answer(response).await
            });
            async move { Ok::<_, Infallible>(answered.await) }
        });
        let builder = self.builder.clone();
        let stream = Handshake::new(stream, *self.limits.handshake_timeout);
        let (stream, turns) = gathering(stream);
        let io = TokioIo::new(stream);
        let draining = self.draining.clone();
        let cut = self.calls.cut.clone();
        let age_max = *self.limits.connection_age_max;
        async move {
            let mut connection = pin!(builder.serve_connection(io, respond));
            let ended = tokio::select! {
                ended = turns.of(connection.as_mut()) => Some(ended),
                () = draining.cancelled() => None,
                // The peer opens a new connection for its next call and may end what is open.
                () = tokio::time::sleep(age_max) => None,
            };
            if ended.is_none() {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    _ = turns.of(connection.as_mut()) => {}
                    () = async { cut.cancelled().await; tokio::time::sleep(LAST_FRAMES).await } => {}
                }
            }
            drop((admitted, unread));
        }
    }

    async fn drain(&self) {
        tracing::info!(
            calls = self.calls.in_hand.len(),
            "stopping: waiting for calls in hand"
        );
        // Health first, so that who watches it learns it before his connection goes.
        self.say_health(false).await;
        self.draining.cancel();
        self.calls.in_hand.close();
        let ended = self.calls.in_hand.wait();
        if tokio::time::timeout(*self.limits.drain_grace, ended)
            .await
            .is_err()
        {
            let calls = self.calls.in_hand.len();
            tracing::warn!(calls, "the grace is over: what is still open is ended");
        }
        self.calls.cut.cancel();
        self.connections.close();
        self.connections.wait().await;
        tracing::info!("stopped");
    }
}

fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(*limits.handshake_timeout)
        .max_buf_size(limits.header_list_bytes_max.max(8 * 1024) as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        // Nobody reads it of an answer to a call.
        .auto_date_header(false)
        .max_concurrent_streams(limits.streams_per_connection_max)
        .max_header_list_size(limits.header_list_bytes_max)
        .max_pending_accept_reset_streams(limits.pending_reset_streams_max)
        .max_local_error_reset_streams(limits.error_reset_streams_max)
        .initial_stream_window_size(limits.stream_window_bytes)
        .initial_connection_window_size(limits.connection_window_bytes)
        .max_frame_size(FRAME_BYTES_MAX)
        .keep_alive_interval(*limits.keepalive_interval)
        .keep_alive_timeout(*limits.keepalive_timeout);
    builder
}

/// The way of one request: who calls, then gRPC or HTTP.
#[derive(Clone)]
struct Front {
    calls: Arc<Calls>,
    pages: axum::Router,
    exposure: Arc<Exposure>,
    let_in: callers::LetIn,
    call_timeout: Duration,
}

impl Front {
    async fn answer(
        self,
        request: Request<Incoming>,
        unread: &UnreadCounter,
    ) -> Response<Outgoing> {
        let grpc = is_grpc(request.headers());
        let checked = self
            .let_in
            .check(&self.exposure, request.uri(), request.headers());
        if let Err(why) = checked {
            return turn_away(&why, grpc, self.calls.domain);
        }
        if grpc {
            let request = request.map(tonic::body::Body::new);
            self.calls.answer(request, unread).await
        } else {
            let page = self.page(request.map(Body::new)).await;
            page.map(Outgoing::Page)
        }
    }

    async fn page(mut self, request: Request<Body>) -> Response<Body> {
        let called = CatchPanic(Box::pin(self.pages.call(request)));
        tokio::select! {
            biased;
            answered = called => answered.unwrap_or_else(|_| {
                plain(StatusCode::INTERNAL_SERVER_ERROR, status::PANIC, "a bug stopped this request")
            }),
            () = tokio::time::sleep(self.call_timeout) => {
                plain(StatusCode::GATEWAY_TIMEOUT, status::DEADLINE_PASSED, "this took too long")
            }
            () = self.calls.cut.cancelled() => {
                plain(StatusCode::SERVICE_UNAVAILABLE, status::SHUTTING_DOWN, "stopping")
            }
        }
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// For HTTP the code of the page, for gRPC a status as well.
fn turn_away(why: &callers::TurnedAway, grpc: bool, domain: ErrorDomain) -> Response<Outgoing> {
    let refusal = refusals::turned_away(why, domain);
    let (code, reason) = match why {
        callers::TurnedAway::Host(_) => (StatusCode::MISDIRECTED_REQUEST, status::HOST_NOT_ALLOWED),
        callers::TurnedAway::Origin(_) => (StatusCode::FORBIDDEN, status::ORIGIN_NOT_ALLOWED),
    };
    let mut response = match grpc {
        true => refusal.into_http().map(Outgoing::Bare),
        false => plain(code, reason, refusal.message()).map(Outgoing::Page),
    };
    *response.status_mut() = code;
    response
}

/// A page that says why in one line.
fn plain(code: StatusCode, reason: &str, sentence: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{reason}: {sentence}\n")));
    *response.status_mut() = code;
    let kind = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
