//! HTTP as every process serves it: HTTP/1.1 and HTTP/2, bounded connections and headers, drained on stop.

use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;

use crate::accept::{Demands, accept};
use crate::lifecycle::Lifecycle;

/// How long a client may take to send its headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest set of request headers, in bytes.
const MAX_HEADER_BYTES: u32 = 16 * 1024;

/// Serves until the process stops. Handlers find the peer as an extension.
pub fn serve(name: &'static str, listener: TcpListener, demands: Demands, router: Router, lifecycle: &Lifecycle) {
    let (stopping, connections) = (lifecycle.stopping().clone(), lifecycle.clone());
    let mut accepted = accept(listener, demands, lifecycle);
    lifecycle.spawn_vital(name, async move {
        let graceful = GracefulShutdown::new();
        loop {
            let connection = tokio::select! {
                Some(Ok(connection)) = accepted.recv() => connection,
                () = stopping.cancelled() => break,
            };
            let (router, peer) = (router.clone(), connection.peer());
            let service = hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
                request.extensions_mut().insert(peer.clone());
                tower::Service::call(&mut router.clone(), request)
            });
            let mut builder = Builder::new(TokioExecutor::new());
            builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(64 * 1024);
            builder
                .http2()
                .timer(TokioTimer::new())
                .keep_alive_interval(Duration::from_secs(20))
                .max_header_list_size(MAX_HEADER_BYTES);
            let connection = builder.serve_connection(TokioIo::new(connection), service).into_owned();
            let connection = graceful.watch(connection);
            connections.spawn(async move {
                // A client that breaks its connection is no news.
                let _ = connection.await;
            });
        }
        drop(accepted);
        graceful.shutdown().await;
    });
}
