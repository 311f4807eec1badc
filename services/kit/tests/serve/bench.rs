//! A server on a free port with a small service of its own, and clients to try it with.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use kit::{Readiness, Service};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, ServerStreamingService, UnaryService};
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use tonic_health::pb::{HealthCheckRequest as Ask, HealthCheckResponse as Answer};
use tonic_prost::ProstCodec;

pub(crate) const DOMAIN: &str = "example.v1";

/// A running server.
pub(crate) struct Bench {
    pub(crate) address: SocketAddr,
    pub(crate) ready: watch::Sender<Readiness>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) try_out: TryOut,
    pub(crate) connections: kit::connections::OpenConnections,
    served: tokio::task::JoinHandle<Result<(), kit::ServeError>>,
}

impl Bench {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Service)) -> Self {
        let (ready, readiness) = watch::channel(Readiness::Ready);
        let try_out = TryOut::default();
        let mut service = Service::new("example", DOMAIN, readiness);
        service.routes = service.routes.add_service(try_out.clone());
        service.health_names = vec!["example.TryOut"];
        service.http = axum::Router::new()
            .route("/own", axum::routing::get(async || "own page"))
            .route("/panic", axum::routing::get(panicking_page));
        change(&mut service);
        let connections = service.connections.clone();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shutdown = CancellationToken::new();
        let served = tokio::spawn(kit::serve(service, listener, shutdown.clone()));
        Self {
            address,
            ready,
            shutdown,
            try_out,
            connections,
            served,
        }
    }

    pub(crate) async fn channel(&self) -> Channel {
        self.endpoint().connect().await.expect("it listens")
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::from_shared(format!("http://{}", self.address)).expect("an address")
    }

    /// Calls a method of the test's own service.
    pub(crate) async fn call(&self, method: &'static str) -> Result<Answer, Status> {
        call(self.channel().await, method, Ask::default()).await
    }

    /// Asks for a stream of the test's own service.
    pub(crate) async fn stream(&self, method: &'static str) -> Result<Streaming<Answer>, Status> {
        let mut client = tonic::client::Grpc::new(self.channel().await);
        client.ready().await.expect("connected");
        let path = http::uri::PathAndQuery::from_static(method);
        let request = tonic::Request::new(Ask::default());
        let codec = ProstCodec::<Ask, Answer>::default();
        client
            .server_streaming(request, path, codec)
            .await
            .map(tonic::Response::into_inner)
    }

    /// Sends the bytes of a message as they are, and gives the status that came back.
    pub(crate) async fn raw_call(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Status {
        let client = Client::builder(TokioExecutor::new())
            .http2_only(true)
            .build_http();
        let mut request = Request::post(format!("http://{}{path}", self.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .expect("a request");
        let response = match client.request(request).await {
            Ok(response) => response,
            Err(error) => return Status::unavailable(format!("refused: {error:?}")),
        };
        if response.status() != http::StatusCode::OK {
            return Status::from_header_map(response.headers()).unwrap_or_else(|| {
                Status::unavailable(format!("refused with HTTP {}", response.status()))
            });
        }
        let (parts, body) = response.into_parts();
        let trailers = match Status::from_header_map(&parts.headers) {
            Some(status) => return status,
            None => body.collect().await.expect("a body").trailers().cloned(),
        };
        let trailers: HeaderMap = trailers.expect("a status");
        Status::from_header_map(&trailers).expect("a status")
    }

    /// One HTTP/1 request by hand: its status line and headers, and its body.
    pub(crate) async fn get(&self, path: &str, headers: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.address).await.expect("it listens");
        let head = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).await.expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (head.to_owned(), body.to_owned())
    }

    /// Waits for the server's end.
    pub(crate) async fn ended(self) {
        self.served.await.expect("no panic").expect("served well");
    }
}

async fn panicking_page() -> &'static str {
    panic!("a page's bug")
}

pub(crate) async fn call(
    channel: Channel,
    method: &'static str,
    ask: Ask,
) -> Result<Answer, Status> {
    let mut client = tonic::client::Grpc::new(channel);
    client
        .ready()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let path = http::uri::PathAndQuery::from_static(method);
    let codec = ProstCodec::<Ask, Answer>::default();
    client
        .unary(tonic::Request::new(ask), path, codec)
        .await
        .map(tonic::Response::into_inner)
}

pub(crate) fn reason(status: &Status) -> String {
    kit::status::reason_of(status).unwrap_or_else(|| format!("no reason in {status:?}"))
}

/// A service that does what a test needs to see.
#[derive(Clone, Default)]
pub(crate) struct TryOut {
    /// Told when a held call has begun.
    pub(crate) begun: Arc<Notify>,
    /// Lets one held call end.
    pub(crate) release: Arc<Notify>,
}

impl NamedService for TryOut {
    const NAME: &'static str = "example.TryOut";
}

type Future<T> = Pin<Box<dyn std::future::Future<Output = T> + Send>>;

impl tower::Service<Request<Body>> for TryOut {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Future<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::<Answer, Ask>::default());
            let path = request.uri().path().to_owned();
            match path.rsplit('/').next() {
                Some("Hold" | "HoldLong") => Ok(grpc.unary(Hold(this), request).await),
                Some("Panic") => panic!("a handler's bug"),
                Some("Follow") => Ok(grpc.server_streaming(Follow(this), request).await),
                Some("PanicLater") => Ok(grpc.server_streaming(PanicLater, request).await),
                Some("OddLater") => Ok(grpc.server_streaming(OddLater, request).await),
                Some("Odd") => Ok(Status::unknown("something odd").into_http()),
                _ => Ok(Status::unimplemented("").into_http()),
            }
        })
    }
}

/// Begins, and ends when released.
struct Hold(TryOut);

impl UnaryService<Ask> for Hold {
    type Response = Answer;
    type Future = Future<Result<tonic::Response<Answer>, Status>>;

    fn call(&mut self, _request: tonic::Request<Ask>) -> Self::Future {
        let this = self.0.clone();
        Box::pin(async move {
            this.begun.notify_one();
            this.release.notified().await;
            Ok(tonic::Response::new(Answer::default()))
        })
    }
}

/// One message at once and another for each release, without end.
struct Follow(TryOut);

impl ServerStreamingService<Ask> for Follow {
    type Response = Answer;
    type ResponseStream = ReceiverStream<Result<Answer, Status>>;
    type Future = Future<Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, _request: tonic::Request<Ask>) -> Self::Future {
        let this = self.0.clone();
        Box::pin(async move {
            let (sender, receiver) = mpsc::channel(1);
            tokio::spawn(async move {
                while sender.send(Ok(Answer::default())).await.is_ok() {
                    this.release.notified().await;
                }
            });
            Ok(tonic::Response::new(ReceiverStream::new(receiver)))
        })
    }
}

/// One message, and then an error that says nothing of use.
struct OddLater;

impl ServerStreamingService<Ask> for OddLater {
    type Response = Answer;
    type ResponseStream = tokio_stream::Iter<std::array::IntoIter<Result<Answer, Status>, 2>>;
    type Future = Future<Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, _request: tonic::Request<Ask>) -> Self::Future {
        let messages = [Ok(Answer::default()), Err(Status::unknown("something odd"))];
        Box::pin(async { Ok(tonic::Response::new(tokio_stream::iter(messages))) })
    }
}

/// A stream that panics at its second message, once the first is out.
struct PanicLater;

pub(crate) struct PanickingStream {
    polled: usize,
}

impl tokio_stream::Stream for PanickingStream {
    type Item = Result<Answer, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.polled += 1;
        match self.polled {
            1 => Poll::Ready(Some(Ok(Answer::default()))),
            2 => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            _ => panic!("a stream's bug"),
        }
    }
}

impl ServerStreamingService<Ask> for PanicLater {
    type Response = Answer;
    type ResponseStream = PanickingStream;
    type Future = Future<Result<tonic::Response<PanickingStream>, Status>>;

    fn call(&mut self, _request: tonic::Request<Ask>) -> Self::Future {
        Box::pin(async { Ok(tonic::Response::new(PanickingStream { polled: 0 })) })
    }
}
