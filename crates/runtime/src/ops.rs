//! The ops port: `/livez`, `/readyz`, `/metrics` and `grpc.health.v1`, for the cluster's own use. It changes nothing.

use axum::extract::State;
use axum::http::StatusCode;
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
        .route("/metrics", get(move || async move { metrics.render() }));
    crate::http::serve("ops", listener, crate::accept::Demands::default(), router, lifecycle);
}

async fn readyz(State(readiness): State<Readiness>) -> (StatusCode, String) {
    let waiting = readiness.waiting_for();
    if waiting.is_empty() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for: {}\n", waiting.join(", ")))
}
