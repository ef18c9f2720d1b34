//! Every outbound HTTP connection of Postern goes through here: the name is resolved, each address is checked against a
//! [`Policy`], and only a checked address is dialled. The check stands after DNS and before the socket, so neither an odd
//! spelling of an address nor a name that changes its answer gets round it. Redirects are not followed. No proxy is taken
//! from the environment; one that an operator names is asked for what is called over https by a name and has no networks
//! listed, and looks that name up itself.

mod client;
mod connector;
mod identity;
mod policy;
mod proxy;
mod tls;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;

pub use client::{Body, Client};
pub use connector::{ConnectError, Connector, Way};
pub use identity::OwnIdentity;
pub use policy::{AddressDenied, Policy};
pub use proxy::{Proxy, ProxyProblem};
pub use tls::{ClientTls, TlsProblem};

use connector::Direct;

/// Idle connections that are kept where little is asked.
const FEW: usize = 2;

/// `[egress]`: how far the whole process may reach, whatever is registered.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EgressConfig {
    /// Nothing outside `networks` is dialled; without any, nothing but this machine. Default: false.
    pub offline: bool,
    /// With `offline`: the networks that count as inside.
    pub networks: Vec<IpNet>,
    /// Which identities of this process's own models may be shown. Default: none.
    pub identities: Vec<OwnIdentity>,
    /// The proxy (`http://HOST:PORT`) by which what lies outside is reached over https. Default: none.
    pub proxy: Option<String>,
    /// A file with the `user:password` that the proxy is shown.
    pub proxy_credentials_file: Option<PathBuf>,
}

/// Why nothing can be dialled as `[egress]` says.
#[derive(Debug, thiserror::Error)]
pub enum EgressProblem {
    /// The proxy.
    #[error(transparent)]
    Proxy(#[from] ProxyProblem),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsProblem),
}

impl EgressConfig {
    /// The networks that bound the process; `None` for no bound.
    fn bound(&self) -> Option<Vec<IpNet>> {
        match (self.offline, self.networks.is_empty()) {
            (false, _) => None,
            (true, true) => Some(policy::this_machine()),
            (true, false) => Some(self.networks.clone()),
        }
    }

    fn proxy(&self) -> Result<Option<Arc<Proxy>>, ProxyProblem> {
        let Some(url) = &self.proxy else {
            return if self.proxy_credentials_file.is_some() { Err(ProxyProblem::NoProxy) } else { Ok(None) };
        };
        if self.offline {
            return Err(ProxyProblem::Offline);
        }
        // An operator may put it where they like.
        let direct = Direct::new(Policy::anywhere());
        Ok(Some(Arc::new(Proxy::new(url, self.proxy_credentials_file.as_deref(), direct)?)))
    }
}

/// What all clients of a process share: how far they may reach, and the trusted certificate authorities.
#[derive(Clone)]
pub struct Egress {
    tls: Arc<rustls::ClientConfig>,
    bound: Option<Arc<[IpNet]>>,
    identities: Arc<[OwnIdentity]>,
    proxy: Option<Arc<Proxy>>,
}

impl Egress {
    /// Loads the system's certificate authorities (or those of `SSL_CERT_FILE`).
    ///
    /// # Errors
    /// When the process has no TLS provider that can be used, or a proxy is named that makes no sense.
    pub fn new(config: &EgressConfig) -> Result<Self, EgressProblem> {
        // A machine without any authority is fine as long as no https endpoint is called; those calls then fail by name.
        let tls = Arc::new(ClientTls::default().config()?);
        let (bound, identities) = (config.bound().map(Into::into), config.identities.clone().into());
        Ok(Self { tls, bound, identities, proxy: config.proxy()? })
    }

    /// Whether models may be shown this identity of the process's own.
    ///
    /// # Errors
    /// Says what an operator can do.
    pub fn shows(&self, identity: &OwnIdentity) -> Result<(), String> {
        match self.identities.contains(identity) {
            true => Ok(()),
            false => Err(format!(
                "its own identity `{identity}` is shown to no model; an operator can list it in egress.identities"
            )),
        }
    }

    /// The networks that the process keeps within; `None` when nothing bounds it.
    #[must_use]
    pub fn bound(&self) -> Option<&[IpNet]> {
        self.bound.as_deref()
    }

    /// A connector to where these networks and the process's own bound let it, within `connect_timeout` per connection.
    #[must_use]
    pub fn connector(&self, networks: impl IntoIterator<Item = IpNet>, connect_timeout: Duration) -> Connector {
        let policy = Policy::new(networks).within(self.bound.as_deref());
        Connector::new(policy, connect_timeout).by(self.proxy.clone())
    }

    /// A client over [`Egress::connector`].
    #[must_use]
    pub fn client(&self, networks: impl IntoIterator<Item = IpNet>, connect_timeout: Duration) -> Client {
        Client::new(&self.connector(networks, connect_timeout), &self.tls, FEW)
    }

    /// A client for the one address of a cloud's own service, such as a metadata server, which no other client reaches.
    #[must_use]
    pub fn client_for(&self, address: std::net::IpAddr, connect_timeout: Duration) -> Client {
        let policy = Policy::only(address).within(self.bound.as_deref());
        Client::new(&Connector::new(policy, connect_timeout), &self.tls, FEW)
    }

    /// A client over this connector with authorities and a certificate of its own, and so many idle connections of HTTP/1 kept.
    ///
    /// # Errors
    /// [`TlsProblem`] when they cannot be read.
    pub fn client_with(&self, connector: &Connector, tls: &ClientTls, idle: usize) -> Result<Client, TlsProblem> {
        Ok(match tls.is_default() {
            true => Client::new(connector, &self.tls, idle),
            false => Client::new(connector, &tls.config()?, idle),
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_of_a_proxy_is_refused_and_its_password_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("proxy");
        std::fs::write(&file, "user:secret\n").unwrap();
        let problem = |config: EgressConfig| Egress::new(&config).err().map(|problem| problem.to_string());
        let with = |proxy: &str| EgressConfig { proxy: Some(proxy.to_owned()), ..EgressConfig::default() };
        assert_eq!(problem(with("http://proxy.test:3128")), None);
        assert_eq!(
            problem(EgressConfig { proxy_credentials_file: Some(file.clone()), ..with("http://[::1]:3128/") }),
            None
        );
        for url in [
            "proxy.test:3128",
            "https://proxy.test:3128",
            "http://proxy.test",
            "http://u:secret@proxy.test:1",
            "http://p:1/x",
            "",
            "socks5://p:1",
        ] {
            let said = problem(with(url)).unwrap();
            assert!(said.contains("is not of the form http://HOST:PORT") && !said.contains("secret"), "{url}: {said}");
        }
        assert!(problem(EgressConfig { offline: true, ..with("http://p:1") }).unwrap().contains("offline"));
        let alone = EgressConfig { proxy_credentials_file: Some(file.clone()), ..EgressConfig::default() };
        assert!(problem(alone).unwrap().contains("without egress.proxy"));
        std::fs::write(&file, "secret").unwrap();
        let said = problem(EgressConfig { proxy_credentials_file: Some(file.clone()), ..with("http://p:1") }).unwrap();
        assert!(said.contains("user:password") && !said.contains("secret"), "{said}");
    }
}
