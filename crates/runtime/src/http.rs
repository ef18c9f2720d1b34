//! HTTP as every process serves it: HTTP/1.1 and HTTP/2 without TLS, TCP_NODELAY, bounded connections and headers, drained
//! on stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::lifecycle::Lifecycle;

/// Connections at once on one listener.
const MAX_CONNECTIONS: usize = 4096;
/// How long a client may take to send its headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest set of request headers, in bytes.
const MAX_HEADER_BYTES: u32 = 16 * 1024;

/// Serves until the process stops. Handlers find the peer's address as `ConnectInfo<SocketAddr>`.
pub fn serve(name: &'static str, listener: TcpListener, router: Router, lifecycle: &Lifecycle) {
    let (stopping, connections) = (lifecycle.stopping().clone(), lifecycle.clone());
    lifecycle.spawn_vital(name, async move {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let graceful = GracefulShutdown::new();
        loop {
            let accepted = tokio::select! {
                accepted = accept(&listener, &places) => accepted,
                () = stopping.cancelled() => break,
            };
            let Some((stream, peer, place)) = accepted else { continue };
            let router = router.clone();
            let service = hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
                request.extensions_mut().insert(ConnectInfo(peer));
                tower::Service::call(&mut router.clone(), request)
            });
            let mut builder = Builder::new(TokioExecutor::new());
            builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(64 * 1024);
            builder
                .http2()
                .timer(TokioTimer::new())
                .keep_alive_interval(Duration::from_secs(20))
                .max_header_list_size(MAX_HEADER_BYTES);
            let watcher = graceful.watcher();
            let stopped = stopping.clone();
            connections.spawn(async move {
                // Who says nothing does not keep a place. Once the first byte has come, the header timeout counts.
                let spoke = tokio::time::timeout(HEADER_TIMEOUT, stream.readable());
                if matches!(stopped.run_until_cancelled(spoke).await, Some(Ok(Ok(())))) {
                    let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
                    // A client that breaks its connection is no news.
                    let _ = watcher.watch(connection).await;
                }
                drop(place);
            });
        }
        drop(listener);
        graceful.shutdown().await;
    });
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => {
            let _ = stream.set_nodelay(true);
            Some((stream, peer, place))
        }
        Err(error) => {
            // Out of file descriptors, usually: waiting is all that helps.
            tracing::warn!(error = %error, "a connection could not be accepted");
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}
