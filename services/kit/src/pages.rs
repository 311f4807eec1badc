//! The HTTP routes that every service has: `/metrics`, `/healthz`, `/readyz`.
//!
//! They change nothing and need nothing of the service but its readiness and its registry.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, StatusCode, header};
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::metrics;
use crate::service::Readiness;

/// What the pages show.
pub(crate) struct Pages {
    pub(crate) service: &'static str,
    pub(crate) readiness: watch::Receiver<Readiness>,
    pub(crate) draining: CancellationToken,
    pub(crate) insecure: bool,
    pub(crate) registry: Registry,
}

pub(crate) fn router(pages: Pages) -> axum::Router {
    axum::Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(show_readiness))
        .with_state(Arc::new(pages))
}

async fn show_metrics(State(pages): State<Arc<Pages>>, headers: HeaderMap) -> Response {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok());
    match metrics::expose(&pages.registry, accept.unwrap_or_default()) {
        Ok((kind, text)) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn show_readiness(State(pages): State<Arc<Pages>>) -> Response {
    let why_not = match &*pages.readiness.borrow() {
        _ if pages.draining.is_cancelled() => Some("stopping".to_owned()),
        Readiness::Ready => None,
        Readiness::NotReady(why) => Some(why.clone()),
    };
    let code = if why_not.is_none() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = json!({
        "service": pages.service,
        "ready": why_not.is_none(),
        "why_not": why_not,
        // True: whoever reaches the port can do everything.
        "insecure": pages.insecure,
    });
    (
        code,
        [(header::CONTENT_TYPE, "application/json")],
        format!("{body}\n"),
    )
        .into_response()
}
