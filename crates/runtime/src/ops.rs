//! The ops port: `/livez`, `/readyz`, `/metrics` and `grpc.health.v1`, for the cluster's own use. It changes nothing.

use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use std::sync::OnceLock;
use tokio::net::TcpListener;
use tonic::service::Routes;

use crate::health::ProcessHealth;
use crate::lifecycle::Lifecycle;
use crate::readiness::Readiness;

static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();

/// The process's metrics; services in one process (tests) share them.
fn metrics() -> PrometheusHandle {
    METRICS
        .get_or_init(|| {
            let recorder = PrometheusBuilder::new().build_recorder();
            let handle = recorder.handle();
            if metrics::set_global_recorder(recorder).is_err() {
                tracing::warn!("another metrics recorder was installed first; /metrics stays empty");
            }
            handle
        })
        .clone()
}

/// Serves the ops port until the process stops.
pub fn serve(listener: TcpListener, readiness: &Readiness, health: &ProcessHealth, lifecycle: &Lifecycle) {
    let metrics = metrics();
    let router = Routes::new(health.service(lifecycle))
        .into_axum_router()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz).with_state(readiness.clone()))
        .route("/metrics", get(move || async move { metrics.render() }))
        .fallback(nothing_here);
    crate::http::serve("ops", listener, crate::accept::Demands::default(), router, lifecycle);
}

/// A probe with a wrong path must not look healthy; a call of gRPC gets that protocol's own answer.
async fn nothing_here(headers: HeaderMap) -> Response {
    let is_grpc = headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    match is_grpc {
        true => tonic::Status::unimplemented("").into_http::<Body>(),
        false => (StatusCode::NOT_FOUND, "there are /livez, /readyz and /metrics\n").into_response(),
    }
}

async fn readyz(State(readiness): State<Readiness>) -> (StatusCode, String) {
    let waiting = readiness.waiting_for();
    if waiting.is_empty() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for: {}\n", waiting.join(", ")))
}
