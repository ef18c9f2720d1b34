//! Every outbound HTTP connection of Postern goes through here: the name is resolved, each address is checked against a
//! [`Policy`], and only a checked address is dialled. The check stands after DNS and before the socket, so neither an odd
//! spelling of an address nor a name that changes its answer gets round it. Redirects are not followed and no proxy is
//! taken from the environment.

mod client;
mod connector;
mod identity;
mod policy;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;

pub use client::{Body, Client};
pub use connector::{ConnectError, Connector};
pub use identity::OwnIdentity;
pub use policy::{AddressDenied, Policy};
pub use tls::{ClientTls, TlsProblem};

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
}

/// What all clients of a process share: how far they may reach, and the trusted certificate authorities.
#[derive(Clone)]
pub struct Egress {
    tls: Arc<rustls::ClientConfig>,
    bound: Option<Arc<[IpNet]>>,
    identities: Arc<[OwnIdentity]>,
}

impl Egress {
    /// Loads the system's certificate authorities (or those of `SSL_CERT_FILE`).
    ///
    /// # Errors
    /// When the process has no TLS provider that can be used.
    pub fn new(config: &EgressConfig) -> Result<Self, TlsProblem> {
        // A machine without any authority is fine as long as no https endpoint is called; those calls then fail by name.
        let tls = Arc::new(ClientTls::default().config()?);
        Ok(Self { tls, bound: config.bound().map(Into::into), identities: config.identities.clone().into() })
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

    /// The policy of a destination, within that of the process.
    #[must_use]
    pub fn policy(&self, networks: impl IntoIterator<Item = IpNet>) -> Policy {
        Policy::new(networks).within(self.bound.as_deref())
    }

    /// A client that connects where these networks and the process's own bound let it, within `connect_timeout` per connection.
    #[must_use]
    pub fn client(&self, networks: impl IntoIterator<Item = IpNet>, connect_timeout: Duration) -> Client {
        Client::new(&Connector::new(self.policy(networks), connect_timeout), &self.tls, FEW)
    }

    /// A client for the one address of a cloud's own service, such as a metadata server, which no other client reaches.
    #[must_use]
    pub fn client_for(&self, address: std::net::IpAddr, connect_timeout: Duration) -> Client {
        let policy = Policy::only(address).within(self.bound.as_deref());
        Client::new(&Connector::new(policy, connect_timeout), &self.tls, FEW)
    }

    /// The same as [`Egress::client`] with authorities and a certificate of its own, and so many idle connections of HTTP/1 kept.
    ///
    /// # Errors
    /// [`TlsProblem`] when they cannot be read.
    pub fn client_with(
        &self,
        networks: impl IntoIterator<Item = IpNet>,
        connect_timeout: Duration,
        tls: &ClientTls,
        idle: usize,
    ) -> Result<Client, TlsProblem> {
        let connector = Connector::new(self.policy(networks), connect_timeout);
        Ok(match tls.is_default() {
            true => Client::new(&connector, &self.tls, idle),
            false => Client::new(&connector, &tls.config()?, idle),
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
