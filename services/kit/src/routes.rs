//! The gRPC services of a server, found by name.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use foldhash::HashMap;
use http::{Request, Response};
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

/// The future of an answer, which never fails: a failure is an answer too.
pub(crate) type Answering =
    Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

type Call = dyn Fn(Request<Body>) -> Answering + Send + Sync;

/// Services by their full names.
#[derive(Clone, Default)]
pub struct Routes(HashMap<&'static str, Arc<Call>>);

impl Routes {
    /// With one more service; the same name again replaces the first.
    pub fn add_service<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
        S: NamedService + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        let call = move |request| -> Answering { Box::pin(service.clone().call(request)) };
        self.0.insert(S::NAME, Arc::new(call));
        self
    }

    /// Calls the service that the path (`/package.Service/Method`) names; one that isn't there is
    /// UNIMPLEMENTED, as gRPC says.
    pub(crate) fn call(&self, request: Request<Body>) -> Answering {
        let mut parts = request.uri().path().split('/');
        let name = parts.nth(1).unwrap_or_default();
        match self.0.get(name) {
            Some(call) => call(request),
            None => Box::pin(async { Ok(tonic::Status::unimplemented("").into_http()) }),
        }
    }
}
