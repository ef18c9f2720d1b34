//! Every outbound HTTP connection of Postern goes through here: the name is resolved, each address is checked against a
//! [`Policy`], and only a checked address is dialled. The check stands after DNS and before the socket, so neither an odd
//! spelling of an address nor a name that changes its answer gets round it. Redirects are not followed and no proxy is
//! taken from the environment.

mod connector;
mod policy;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};

pub use connector::{ConnectError, Connector};
pub use policy::{AddressDenied, Policy};

/// An HTTP client behind one policy. Its pool is its own, so a connection made under another policy is never reused.
pub type Client = legacy::Client<HttpsConnector<Connector>, Full<Bytes>>;

/// What all clients of a process share: the trusted certificate authorities.
#[derive(Clone)]
pub struct Egress {
    tls: Arc<rustls::ClientConfig>,
}

impl Egress {
    /// Loads the system's certificate authorities (or those of `SSL_CERT_FILE`).
    ///
    /// # Errors
    /// When the process has no TLS provider that can be used.
    pub fn new() -> Result<Self, rustls::Error> {
        let mut roots = rustls::RootCertStore::empty();
        // A machine without any is fine as long as no https endpoint is called; those calls then fail by name.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls: Arc::new(tls) })
    }

    /// A client that connects where the policy lets it, within `connect_timeout` per connection.
    #[must_use]
    pub fn client(&self, policy: Policy, connect_timeout: Duration) -> Client {
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(self.tls.as_ref().clone())
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(Connector::new(policy, connect_timeout));
        legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(50))
            .pool_max_idle_per_host(64)
            .build(https)
    }
}

impl std::fmt::Debug for Egress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Egress").finish_non_exhaustive()
    }
}

/// An error with its causes.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
