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
use crate::proxy::Proxy;

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
    /// The proxy let nothing through, or could not be reached.
    #[error("no connection to {host} by {proxy}: {source}")]
    Proxy {
        /// The name.
        host: String,
        /// The proxy's.
        proxy: String,
        /// What came of it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
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

/// How a destination is reached.
#[derive(Debug)]
pub enum Way<'a> {
    /// At the first of these addresses that takes the connection.
    Direct(Vec<SocketAddr>),
    /// By way of this proxy, which looks the name up.
    Proxy(&'a Proxy),
}

impl std::fmt::Display for Way<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Direct(addresses) => {
                f.write_str(&addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
            }
            Self::Proxy(proxy) => write!(f, "by {proxy}"),
        }
    }
}

/// Makes TCP connections under a [`Policy`], by way of a proxy where an operator has named one; TLS goes over them.
#[derive(Clone)]
pub struct Connector {
    direct: Direct,
    proxy: Option<Arc<Proxy>>,
    timeout: Duration,
}

/// Makes connections itself, without a limit of time.
#[derive(Clone)]
pub(crate) struct Direct {
    policy: Arc<Policy>,
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
        Self { direct: Direct::new(policy), proxy: None, timeout }
    }

    /// The same, by way of this proxy where [`Connector::way`] says so.
    pub(crate) fn by(self, proxy: Option<Arc<Proxy>>) -> Self {
        Self { proxy, ..self }
    }

    /// The way to a URL's host. What is called over https by a name, and has no networks listed, is reached by way of the proxy where there is
    /// one; a name that is known here to stand for a refused address is refused, whichever others it has.
    ///
    /// # Errors
    /// [`ConnectError`] when there is none.
    pub async fn way(&self, uri: &Uri) -> Result<Way<'_>, ConnectError> {
        let host = host_and_port(uri)?.0;
        let is_outside = uri.scheme_str() == Some("https") && is_name(host) && self.direct.policy.lists_nothing();
        let Some(proxy) = self.proxy.as_deref().filter(|_| is_outside) else {
            return self.direct.resolve(uri).await.map(Way::Direct);
        };
        // Where names outside are not looked up here, that may show in silence alone.
        match tokio::time::timeout(self.timeout / 4, self.direct.judged(uri)).await {
            Ok(Ok((_, Some(denied)))) => Err(ConnectError::Denied { host: host.to_owned(), denied }),
            Ok(Ok(_) | Err(ConnectError::Resolve { .. })) | Err(_) => Ok(Way::Proxy(proxy)),
            Ok(Err(error)) => Err(error),
        }
    }

    /// Connects.
    ///
    /// # Errors
    /// [`ConnectError`], the last address's when none took the connection.
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
        match self.way(uri).await? {
            Way::Direct(addresses) => dial(addresses).await,
            Way::Proxy(proxy) => {
                let host = host_and_port(uri)?.0.to_owned();
                let failed = |source| ConnectError::Proxy { host, proxy: proxy.to_string(), source };
                proxy.connect(uri).await.map_err(failed)
            }
        }
    }
}

async fn dial(addresses: Vec<SocketAddr>) -> Result<TcpStream, ConnectError> {
    let mut last = ConnectError::NoHost;
    for address in addresses {
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

impl Direct {
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            policy: Arc::new(policy),
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

    /// The addresses of a URL's host that may be dialled, in the resolver's order, and the first refusal among the others.
    async fn judged(&self, uri: &Uri) -> Result<(Vec<SocketAddr>, Option<AddressDenied>), ConnectError> {
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
        Ok((allowed, denied))
    }

    /// The checked addresses of a URL's host, in the resolver's order.
    async fn resolve(&self, uri: &Uri) -> Result<Vec<SocketAddr>, ConnectError> {
        let host = || host_and_port(uri).map(|(host, _)| host.to_owned()).unwrap_or_default();
        match self.judged(uri).await? {
            (allowed, Some(denied)) if allowed.is_empty() => Err(ConnectError::Denied { host: host(), denied }),
            (allowed, None) if allowed.is_empty() => Err(ConnectError::Resolve {
                host: host(),
                source: io::Error::new(io::ErrorKind::NotFound, "no address"),
            }),
            (allowed, _) => Ok(allowed),
        }
    }
}

/// Whether a host is a name, and not this machine's or what some resolver takes for an address (as URLs' own standard has it: what ends in a
/// number is one).
fn is_name(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let last = host.rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x");
    let is_here = host == "localhost" || host.ends_with(".localhost");
    !(is_number || is_here || host.contains([':', '%', '[']))
}

fn host_and_port(uri: &Uri) -> Result<(&str, u16), ConnectError> {
    let default_port = match uri.scheme_str() {
        Some("http") => 80,
        Some("https") => 443,
        _ => return Err(ConnectError::NoHost),
    };
    let authority = uri.authority().ok_or(ConnectError::NoHost)?;
    let host = Some(authority.host()).filter(|host| !host.is_empty()).ok_or(ConnectError::NoHost)?;
    // A port that is none must not become another.
    if authority.port_u16().is_none() && authority.as_str().rsplit('@').next() != Some(host) {
        return Err(ConnectError::NoHost);
    }
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    Ok((host, uri.port_u16().unwrap_or(default_port)))
}

impl Service<Uri> for Direct {
    type Response = TokioIo<TcpStream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let direct = self.clone();
        Box::pin(async move { dial(direct.resolve(&uri).await?).await.map(TokioIo::new) })
    }
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

    fn resolving(resolver: Resolver, connector: Connector) -> Connector {
        Connector { direct: Direct { resolver: Some(resolver), ..connector.direct }, ..connector }
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
            match connector(&[]).way(&uri).await {
                Err(ConnectError::Denied { .. } | ConnectError::Resolve { .. }) => {}
                other => panic!("{host}: {other:?}"),
            }
        }
        for host in
            ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "localhost", "[::1]", "[::ffff:7f00:1]"]
        {
            let uri: Uri = format!("http://{host}:9/").parse().unwrap();
            let connector = connector(&[]);
            let result = connector.way(&uri).await;
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
        let connector = resolving(resolver, connector(&["127.0.0.2/32"]));
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
        let connector = resolving(both, connector);
        assert_eq!(connector.way(&uri).await.unwrap().to_string(), format!("127.0.0.2:{port}"));
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

    /// A proxy at a port nobody listens on.
    fn proxied(networks: &[&str], resolver: Resolver) -> Connector {
        let proxy = Proxy::new("http://127.0.0.1:9", None, Direct::new(Policy::anywhere())).unwrap();
        resolving(resolver, connector(networks)).by(Some(Arc::new(proxy)))
    }

    #[tokio::test]
    async fn a_proxy_is_for_names_outside_called_over_https() {
        let stands_for = |address: &'static str| -> Resolver {
            Arc::new(move |_, port| {
                let found = match address {
                    "" => Err(io::Error::other("no such name")),
                    _ => Ok(vec![SocketAddr::new(address.parse().unwrap(), port)]),
                };
                Box::pin(async move { found })
            })
        };
        let way = async |networks: &[&str], stands_for: Resolver, url: &str| {
            let connector = proxied(networks, stands_for);
            connector.way(&url.parse().unwrap()).await.map(|way| way.to_string())
        };
        let by = "by the proxy 127.0.0.1:9";
        // What a proxy alone can look up, and what is public as far as is known here.
        assert_eq!(way(&[], stands_for(""), "https://model.test/v1").await.unwrap(), by);
        assert_eq!(way(&[], stands_for("93.184.215.14"), "https://model.test/v1").await.unwrap(), by);
        // Not what is inside, an address, or unencrypted.
        for address in ["10.0.0.1", "127.0.0.1", "169.254.169.254", "::1"] {
            let refused = way(&[], stands_for(address), "https://model.test/v1").await;
            assert!(matches!(refused, Err(ConnectError::Denied { .. })), "{address}: {refused:?}");
        }
        // What a resolver may take for an address, and what is this machine, is no name for a proxy to look up.
        for host in [
            "169.254.169.254.",
            "127.0.0.1.",
            "0x7f.1.",
            "0X7F000001",
            "6425673729",
            "localhost.",
            "a.LOCALHOST",
            "[::1]",
            "[::ffff:169.254.169.254%25x]",
        ] {
            let gone = way(&[], stands_for(""), &format!("https://{host}/v1")).await;
            assert!(matches!(gone, Err(ConnectError::Resolve { .. })), "{host}: {gone:?}");
        }
        // One refused address is enough.
        let both: Resolver = Arc::new(|_, port| {
            let addresses = ["93.184.215.14", "10.0.0.1"].map(|text| SocketAddr::new(text.parse().unwrap(), port));
            Box::pin(async move { Ok(addresses.to_vec()) })
        });
        assert!(matches!(way(&[], both, "https://model.test/v1").await, Err(ConnectError::Denied { .. })));
        let listed = way(&["10.0.0.0/8"], stands_for("10.0.0.1"), "https://model.test/v1").await;
        assert_eq!(listed.unwrap(), "10.0.0.1:443");
        let unknown = way(&["10.0.0.0/8"], stands_for(""), "https://model.test/v1").await;
        assert!(matches!(unknown, Err(ConnectError::Resolve { .. })), "{unknown:?}");
        assert_eq!(way(&[], stands_for("93.184.215.14"), "http://model.test/v1").await.unwrap(), "93.184.215.14:80");
        assert_eq!(way(&[], stands_for("93.184.215.14"), "https://93.184.215.14/").await.unwrap(), "93.184.215.14:443");
    }

    #[tokio::test]
    async fn a_proxy_that_cannot_be_reached_is_named_to_the_operator() {
        let nowhere: Resolver = Arc::new(|_, _| Box::pin(async { Err(io::Error::other("no such name")) }));
        let failed = proxied(&[], nowhere).connect(&"https://model.test/".parse().unwrap()).await.unwrap_err();
        let told = crate::chain(&failed);
        assert!(told.starts_with("no connection to model.test by the proxy 127.0.0.1:9: "), "{told}");
    }

    #[tokio::test]
    async fn urls_without_a_host_or_of_another_scheme_are_refused() {
        for uri in ["/v1/models", "ftp://127.0.0.1/", "127.0.0.1:80", "http://127.0.0.1:99999/", "http://127.0.0.1:/"] {
            let result = connector(&["127.0.0.0/8"]).connect(&uri.parse().unwrap()).await;
            assert!(matches!(result, Err(ConnectError::NoHost)), "{uri}: {result:?}");
        }
    }
}
