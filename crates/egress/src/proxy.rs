//! A proxy that an operator names, to reach what lies outside by: `CONNECT` of HTTP (RFC 9110 §9.3.6).

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Uri};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::Service as _;

use crate::connector::Direct;

/// What is wrong with what `[egress]` says of a proxy.
#[derive(Debug, thiserror::Error)]
pub enum ProxyProblem {
    /// Not a URL of a proxy.
    #[error("egress.proxy: `{0}` is not of the form http://HOST:PORT")]
    Url(String),
    /// An offline process has no way out.
    #[error("egress.proxy and egress.offline exclude each other")]
    Offline,
    /// Nobody to show them to.
    #[error("egress.proxy_credentials_file is of no use without egress.proxy")]
    NoProxy,
    /// The file cannot be read, or holds something else.
    #[error("egress.proxy_credentials_file {path}: {problem}")]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// The proxy. Debug shows no credentials.
#[derive(Clone)]
pub struct Proxy {
    url: Uri,
    tunnel: Tunnel<Direct>,
}

impl Proxy {
    /// The proxy at `http://HOST:PORT`, shown the `user:password` of a file.
    pub(crate) fn new(url: &str, credentials: Option<&Path>, direct: Direct) -> Result<Self, ProxyProblem> {
        let wrong = || ProxyProblem::Url(without_credentials(url).to_owned());
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let is_whole = uri.scheme_str() == Some("http") && uri.port().is_some() && matches!(uri.path(), "" | "/");
        // Credentials belong in a file of their own.
        if !is_whole || uri.query().is_some() || uri.authority().is_none_or(|named| named.as_str().contains('@')) {
            return Err(wrong());
        }
        let mut tunnel = Tunnel::new(uri.clone(), direct);
        if let Some(path) = credentials {
            tunnel = tunnel.with_auth(basic(path)?);
        }
        Ok(Self { url: uri, tunnel })
    }

    /// A connection to the host of a URL through the proxy, which looks the name up.
    pub(crate) async fn connect(&self, to: &Uri) -> Result<TcpStream, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.tunnel.clone().call(to.clone()).await.map(TokioIo::into_inner)?)
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("url", &self.url).finish_non_exhaustive()
    }
}

impl std::fmt::Display for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the proxy {}", self.url.authority().map_or("", http::uri::Authority::as_str))
    }
}

fn without_credentials(url: &str) -> &str {
    url.rsplit_once('@').map_or(url, |(_, rest)| rest)
}

/// `Proxy-Authorization` of the kind `Basic` (RFC 7617).
fn basic(path: &Path) -> Result<HeaderValue, ProxyProblem> {
    let problem =
        |problem: &dyn ToString| ProxyProblem::Credentials { path: path.to_owned(), problem: problem.to_string() };
    let text = std::fs::read_to_string(path).map_err(|error| problem(&error))?;
    let text = text.trim_end_matches(['\r', '\n']);
    if !text.contains(':') || text.contains(char::is_control) {
        return Err(problem(&"holds no `user:password`"));
    }
    let mut value =
        HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(text))).map_err(|error| problem(&error))?;
    value.set_sensitive(true);
    Ok(value)
}
