//! gRPC as every process serves and calls it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Uri};
use hyper_util::rt::TokioIo;
use postern_proto::{Failure, Reason};
use rustls::ClientConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint, Server};

use crate::accept::{Demands, accept};
use crate::config::{ConfigError, PeerAddress};
use crate::ending::EndingLayer;
use crate::lifecycle::Lifecycle;
use crate::request_id::{self, RequestId, RequestIdLayer};
use crate::tls::{self, Tls};

/// Largest message that is taken, in bytes: a long conversation with a few pictures.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// Largest set of request headers, in bytes: a token of 8 KiB and some room.
const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// Streams at once on one connection.
const MAX_STREAMS: u32 = 1024;
/// What one stream may send ahead of its reader, in bytes. It bounds the memory of a stream that nobody reads.
const STREAM_WINDOW: u32 = 64 * 1024;
/// What all streams of a connection may send ahead: as much as every one of them, so that some that nobody reads do not stop the
/// others.
const CONNECTION_WINDOW: u32 = MAX_STREAMS * STREAM_WINDOW;

/// Binds a listener.
///
/// # Errors
/// The system's, with the address.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| std::io::Error::new(error.kind(), format!("{address} cannot be bound: {error}")))
}

/// Serves until the process stops.
pub fn serve<L>(
    name: &'static str,
    listener: TcpListener,
    demands: Demands,
    routes: Routes,
    layer: L,
    lifecycle: &Lifecycle,
) where
    L: tower::Layer<Routes> + Clone + Send + Sync + 'static,
    L::Service: tower::Service<http::Request<tonic::body::Body>, Response = http::Response<tonic::body::Body>>
        + Clone
        + Send
        + 'static,
    <L::Service as tower::Service<http::Request<tonic::body::Body>>>::Error:
        Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    <L::Service as tower::Service<http::Request<tonic::body::Body>>>::Future: Send + 'static,
{
    let incoming = ReceiverStream::new(accept(listener, demands, lifecycle));
    let stopping = lifecycle.stopping().clone();
    let server = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .layer(RequestIdLayer)
        .layer(EndingLayer::new(lifecycle.ending().clone()))
        .layer(layer)
        .add_routes(routes);
    lifecycle.spawn_vital(name, async move {
        if let Err(error) = server.serve_with_incoming_shutdown(incoming, stopping.cancelled_owned()).await {
            tracing::error!(listener.name = name, error = %error, "listener failed");
        }
    });
}

/// What a process is to those that it dials over TLS.
#[derive(Clone)]
pub enum Dialer {
    /// The holder of its own certificate.
    Known(Tls),
    /// Somebody without one, who trusts these authorities.
    Anonymous(Arc<ClientConfig>),
}

impl Dialer {
    /// The process's own certificate where there is one; else nobody in particular, who trusts the system's authorities.
    ///
    /// # Errors
    /// [`ConfigError`] when there is no TLS provider that can be used.
    pub fn of(tls: Option<&Tls>) -> Result<Self, ConfigError> {
        match tls {
            Some(tls) => Ok(Self::Known(tls.clone())),
            None => Ok(Self::Anonymous(Arc::new(tls::client_config(None)?))),
        }
    }

    fn config(&self) -> Arc<ClientConfig> {
        match self {
            Self::Known(tls) => tls.client(),
            Self::Anonymous(config) => config.clone(),
        }
    }
}

/// Dials one TLS connection, under the certificate of this moment.
async fn dial(uri: Uri, dialer: Dialer) -> std::io::Result<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let socket = TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(443))).await?;
    socket.set_nodelay(true)?;
    let name = rustls::pki_types::ServerName::try_from(host).map_err(std::io::Error::other)?;
    Ok(TokioIo::new(TlsConnector::from(dialer.config()).connect(name, socket).await?))
}

/// A channel to another process. It connects when it is first used, and again whenever it must.
///
/// # Errors
/// When the address cannot be one.
pub fn channel(address: &PeerAddress, dialer: &Dialer) -> Result<Channel, tonic::transport::Error> {
    let endpoint = endpoint(address)?;
    if !address.as_str().starts_with("https:") {
        return Ok(endpoint.connect_lazy());
    }
    let dialer = dialer.clone();
    Ok(endpoint.connect_with_connector_lazy(tower::service_fn(move |uri| dial(uri, dialer.clone()))))
}

fn endpoint(address: &PeerAddress) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(address.as_str().to_owned())?
        .connect_timeout(Duration::from_secs(3))
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW))
}

/// The time that the caller gives the whole call (`grpc-timeout`).
#[must_use]
pub fn timeout_of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

/// The status that a failure leaves the process as. This is where a failure is logged, once.
#[must_use]
pub fn refuse(failure: Failure) -> Status {
    // A model server's own words may repeat what it was asked: they are for the caller, not for the log.
    let told = if failure.blame.is_some() { "" } else { failure.message.as_str() };
    let reason = failure.reason.name();
    let detail = failure.detail.as_deref();
    match failure.reason {
        Reason::Internal | Reason::StoreUnavailable => tracing::error!(reason, told, detail, "request failed"),
        _ => tracing::info!(reason, told, detail, "request refused"),
    }
    failure.into()
}

/// A request to another process on behalf of one that was received.
#[must_use]
pub fn onward<T>(message: T, request_id: &RequestId, token: &str, timeout: Option<Duration>) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let metadata = request.metadata_mut().as_mut();
    metadata.insert(request_id::HEADER, request_id.header_value());
    if let Ok(mut value) = http::HeaderValue::from_str(&format!("Bearer {token}")) {
        value.set_sensitive(true);
        metadata.insert(http::header::AUTHORIZATION, value);
    }
    if let Some(timeout) = timeout.and_then(|timeout| http::HeaderValue::from_str(&timeout_text(timeout)).ok()) {
        // The header only: tonic's own timer would end the call with CANCELLED, where the peer says DEADLINE_EXCEEDED.
        metadata.insert("grpc-timeout", timeout);
    }
    request
}

/// The value of `grpc-timeout`: at most eight digits and a unit.
fn timeout_text(timeout: Duration) -> String {
    match timeout.as_millis() {
        millis @ ..100_000_000 => format!("{millis}m"),
        millis => format!("{}S", (millis / 1000).min(99_999_999)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_reads_back() {
        for timeout in
            [Duration::ZERO, Duration::from_millis(250), Duration::from_secs(3600), Duration::from_secs(1_000_000)]
        {
            let headers =
                HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), timeout_text(timeout).parse().unwrap())]);
            assert_eq!(timeout_of(&headers), Some(timeout));
        }
    }

    #[test]
    fn the_timeout_header_is_read_as_the_protocol_says() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            timeout_of(&headers)
        };
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(read("1S"), Some(Duration::from_secs(1)));
        assert_eq!(read("7u"), Some(Duration::from_micros(7)));
        for bad in ["", "S", "1", "123456789S", "-1S", "1.5S", "1x"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
