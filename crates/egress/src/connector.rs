//! Resolve, check, pin, dial.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::Service;

use crate::policy::{AddressDenied, Policy};

/// Why no connection came to be.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL has no host, or is neither http nor https.
    #[error("the URL names no host that can be called over http or https")]
    NoHost,
    /// The name has no address.
    #[error("{host} could not be resolved")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
    /// No address of the name may be dialled.
    #[error("{host} is refused: {denied}")]
    Denied {
        /// The name.
        host: String,
        /// The first refusal.
        denied: AddressDenied,
    },
    /// No address of the name took the connection.
    #[error("{address} took no connection: {source}")]
    Dial {
        /// The last address tried.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Resolving and dialling took too long.
    #[error("no connection to {host} within {} ms", .within.as_millis())]
    Timeout {
        /// The name.
        host: String,
        /// The limit.
        within: Duration,
    },
}

/// Makes plain TCP connections under a [`Policy`]; TLS goes over it.
#[derive(Clone, Debug)]
pub struct Connector {
    policy: Arc<Policy>,
    timeout: Duration,
}

impl Connector {
    /// A connector that gives each connection this long.
    #[must_use]
    pub fn new(policy: Policy, timeout: Duration) -> Self {
        Self { policy: Arc::new(policy), timeout }
    }

    /// The checked addresses of a URL's host, in the resolver's order.
    ///
    /// # Errors
    /// [`ConnectError`] when there is none that may be dialled.
    pub async fn resolve(&self, uri: &Uri) -> Result<Vec<SocketAddr>, ConnectError> {
        let (host, port) = host_and_port(uri)?;
        let found = tokio::net::lookup_host((host, port))
            .await
            .map_err(|source| ConnectError::Resolve { host: host.to_owned(), source })?;
        let mut denied = None;
        let mut allowed = Vec::new();
        for address in found {
            match self.policy.check(address.ip()) {
                Ok(()) => allowed.push(address),
                Err(reason) => denied = denied.or(Some(reason)),
            }
        }
        match denied {
            Some(denied) if allowed.is_empty() => Err(ConnectError::Denied { host: host.to_owned(), denied }),
            None if allowed.is_empty() => Err(ConnectError::Resolve {
                host: host.to_owned(),
                source: io::Error::new(io::ErrorKind::NotFound, "no address"),
            }),
            _ => Ok(allowed),
        }
    }

    /// Connects to the first address that takes it.
    ///
    /// # Errors
    /// [`ConnectError`], the last address's when none did.
    pub async fn connect(&self, uri: &Uri) -> Result<TcpStream, ConnectError> {
        match tokio::time::timeout(self.timeout, self.connect_untimed(uri)).await {
            Ok(result) => result,
            Err(_) => {
                let host = host_and_port(uri)?.0.to_owned();
                Err(ConnectError::Timeout { host, within: self.timeout })
            }
        }
    }

    async fn connect_untimed(&self, uri: &Uri) -> Result<TcpStream, ConnectError> {
        let mut last = ConnectError::NoHost;
        for address in self.resolve(uri).await? {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    // Best effort: without it the kernel may hold back small writes for 40 ms.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Err(source) => last = ConnectError::Dial { address, source },
            }
        }
        Err(last)
    }
}

fn host_and_port(uri: &Uri) -> Result<(&str, u16), ConnectError> {
    let default_port = match uri.scheme_str() {
        Some("http") => 80,
        Some("https") => 443,
        _ => return Err(ConnectError::NoHost),
    };
    let host = uri.host().filter(|host| !host.is_empty()).ok_or(ConnectError::NoHost)?;
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    Ok((host, uri.port_u16().unwrap_or(default_port)))
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect(&uri).await.map(TokioIo::new) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connector(networks: &[&str]) -> Connector {
        Connector::new(Policy::new(networks.iter().map(|n| n.parse().unwrap())), Duration::from_secs(5))
    }

    #[tokio::test]
    async fn another_spelling_of_loopback_is_still_loopback() {
        let spellings =
            ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "localhost", "[::1]", "[::ffff:7f00:1]"];
        for host in spellings {
            let uri: Uri = format!("http://{host}:9/").parse().unwrap();
            let result = connector(&[]).resolve(&uri).await;
            assert!(matches!(result, Err(ConnectError::Denied { .. })), "{host}: {result:?}");
        }
    }

    #[tokio::test]
    async fn a_listed_network_is_dialled() {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["127.0.0.1", "localhost"] {
            let uri: Uri = format!("http://{host}:{port}/").parse().unwrap();
            let stream = connector(&["127.0.0.0/8"]).connect(&uri).await.unwrap();
            assert!(stream.nodelay().unwrap());
        }
    }

    #[tokio::test]
    async fn urls_without_a_host_or_of_another_scheme_are_refused() {
        for uri in ["/v1/models", "ftp://127.0.0.1/", "127.0.0.1:80"] {
            let result = connector(&["127.0.0.0/8"]).connect(&uri.parse().unwrap()).await;
            assert!(matches!(result, Err(ConnectError::NoHost)), "{uri}: {result:?}");
        }
    }
}
