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
#[derive(Clone)]
pub struct Connector {
    policy: Arc<Policy>,
    timeout: Duration,
    #[cfg(test)]
    resolver: Option<Resolver>,
}

/// A name server of the tests' own.
#[cfg(test)]
type Resolver =
    Arc<dyn Fn(&str, u16) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>> + Send + Sync>;

impl Connector {
    /// A connector that gives each connection this long.
    #[must_use]
    pub fn new(policy: Policy, timeout: Duration) -> Self {
        Self {
            policy: Arc::new(policy),
            timeout,
            #[cfg(test)]
            resolver: None,
        }
    }

    async fn look_up(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        #[cfg(test)]
        if let Some(resolver) = &self.resolver {
            return resolver(host, port).await;
        }
        Ok(tokio::net::lookup_host((host, port)).await?.collect())
    }

    /// The checked addresses of a URL's host, in the resolver's order.
    ///
    /// # Errors
    /// [`ConnectError`] when there is none that may be dialled.
    pub async fn resolve(&self, uri: &Uri) -> Result<Vec<SocketAddr>, ConnectError> {
        let (host, port) = host_and_port(uri)?;
        let found =
            self.look_up(host, port).await.map_err(|source| ConnectError::Resolve { host: host.to_owned(), source })?;
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

    /// The ways in which `inet_aton` and URLs spell one IPv4 address.
    fn spellings([a, b, c, d]: [u8; 4]) -> Vec<String> {
        let bits = u32::from_be_bytes([a, b, c, d]);
        let (low24, low16) = (bits & 0xff_ffff, bits & 0xffff);
        let (high, low) = (bits >> 16, bits & 0xffff);
        vec![
            format!("{a}.{b}.{c}.{d}"),
            format!("{bits}"),
            format!("{bits:#x}"),
            format!("0X{bits:X}"),
            format!("0{bits:o}"),
            format!("{a}.{low24}"),
            format!("{a}.{b}.{low16}"),
            format!("{a:#x}.{b:#x}.{c:#x}.{d:#x}"),
            format!("{a:#x}.{low24}"),
            format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
            format!("00{a:o}.{b}.{c}.{d}"),
            format!("{a}.{b}.0{c:o}.{d:#x}"),
            format!("[::ffff:{a}.{b}.{c}.{d}]"),
            format!("[::ffff:{high:x}:{low:x}]"),
            format!("[0:0:0:0:0:ffff:{high:x}:{low:x}]"),
            format!("[::{a}.{b}.{c}.{d}]"),
            format!("[64:ff9b::{high:x}:{low:x}]"),
            format!("[64:ff9b::{a}.{b}.{c}.{d}]"),
            format!("[64:ff9b:1::{high:x}:{low:x}]"),
            format!("[2002:{high:x}:{low:x}::]"),
            format!("[2002:{high:x}:{low:x}:1::1]"),
            format!("[2001:0:1::{:x}:{:x}]", high ^ 0xffff, low ^ 0xffff),
        ]
    }

    #[tokio::test]
    async fn no_spelling_of_an_address_inside_is_dialled() {
        let inside = [
            [127, 0, 0, 1],
            [10, 0, 0, 7],
            [172, 16, 3, 4],
            [192, 168, 1, 1],
            [100, 64, 0, 1],
            [169, 254, 169, 254],
            [100, 100, 100, 200],
            [0, 0, 0, 0],
        ];
        let mut hosts: Vec<String> = inside.into_iter().flat_map(spellings).collect();
        let others = [
            "localhost",
            "LOCALHOST",
            "[::1]",
            "[0:0:0:0:0:0:0:1]",
            "[::]",
            "[fe80::1]",
            "[febf::1]",
            "[fec0::1]",
            "[fc00::1]",
            "[fd00:ec2::254]",
            "[fd20:ce::254]",
            "[ff02::1]",
            "[2001:db8::1]",
            "[100::1]",
            "[5f00::1]",
            "255.255.255.255",
            "224.0.0.1",
            "198.18.0.1",
            "192.0.0.192",
            "192.88.99.1",
            "240.0.0.1",
            "168.63.129.16",
        ];
        hosts.extend(others.map(str::to_owned));
        assert!(hosts.len() >= 120, "{}", hosts.len());
        for host in hosts {
            // What makes no URL, and what the resolver takes for no address, is not dialled either.
            let Ok(uri) = format!("http://{host}:9/").parse::<Uri>() else { continue };
            match connector(&[]).resolve(&uri).await {
                Err(ConnectError::Denied { .. } | ConnectError::Resolve { .. }) => {}
                other => panic!("{host}: {other:?}"),
            }
        }
        for host in
            ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "localhost", "[::1]", "[::ffff:7f00:1]"]
        {
            let uri: Uri = format!("http://{host}:9/").parse().unwrap();
            let result = connector(&[]).resolve(&uri).await;
            assert!(matches!(result, Err(ConnectError::Denied { .. })), "{host}: {result:?}");
        }
    }

    /// A name server whose answers the owner of a name may change between two questions.
    #[tokio::test]
    async fn a_name_that_turns_to_an_address_inside_after_the_check_is_not_followed_there() {
        let inside = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = inside.local_addr().unwrap().port();
        let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = asked.clone();
        // Public at the first question, inside at the second.
        let resolver: Resolver = Arc::new(move |_, port| {
            let nth = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let address = if nth == 0 { [127, 0, 0, 2] } else { [127, 0, 0, 1] };
            Box::pin(async move { Ok(vec![SocketAddr::from((address, port))]) })
        });
        let connector = Connector { resolver: Some(resolver), ..connector(&["127.0.0.2/32"]) };
        let uri: Uri = format!("http://rebinding.test:{port}/").parse().unwrap();
        // What was checked is what is dialled: the name is asked for once a connection.
        let first = connector.connect(&uri).await;
        assert!(matches!(&first, Err(ConnectError::Dial { address, .. }) if address.ip().to_string() == "127.0.0.2"));
        assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 1);
        assert!(matches!(connector.connect(&uri).await, Err(ConnectError::Denied { .. })));
        // A name with one address inside and one outside is dialled outside only.
        let both: Resolver = Arc::new(|_, port| {
            let addresses = [[127, 0, 0, 1], [127, 0, 0, 2]].map(|address| SocketAddr::from((address, port)));
            Box::pin(async move { Ok(addresses.to_vec()) })
        });
        let connector = Connector { resolver: Some(both), ..connector };
        assert_eq!(connector.resolve(&uri).await.unwrap(), [SocketAddr::from(([127, 0, 0, 2], port))]);
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
