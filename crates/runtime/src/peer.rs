//! Who is at the other end of a connection: the address that counts as the client's, and the certificate that it showed.
//!
//! An address narrows what a token may do and never grants anything. It comes from the socket; from the PROXY protocol of
//! listed proxies; or from `X-Forwarded-For`, walked from the right for as long as the hop is a listed proxy. What a client
//! writes there itself stands further left and is never reached.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::{Extensions, HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use postern_proto::{Failure, Reason};
use serde::Deserialize;

use crate::tls::Shown;

/// Where a client's address comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressSource {
    /// The socket.
    #[default]
    Socket,
    /// The PROXY protocol, version 2; others than listed proxies are not let in.
    ProxyProtocol,
    /// `X-Forwarded-For`.
    ForwardedFor,
}

/// Who may connect to a listener, and how they are known.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientConfig {
    /// Where a client's address comes from.
    pub client_address: AddressSource,
    /// The proxies that are believed.
    pub proxies: Vec<IpNet>,
    /// Networks whose clients are let in. Empty: any.
    pub client_networks: Vec<IpNet>,
}

/// The other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The address that the connection is for: the socket's, or what a listed proxy announced.
    pub address: SocketAddr,
    /// The SHA-256 of the certificate that it showed, base64url.
    pub certificate: Option<Arc<str>>,
    /// Who that certificate says that its holder is. An authority of ours vouches for it.
    pub shown: Arc<Shown>,
    /// The rules of the listener.
    pub rules: Arc<ClientConfig>,
}

/// Whether an address is in any of these networks. An IPv4-mapped address is the address itself.
#[must_use]
pub fn within(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

impl Peer {
    /// The client of one request.
    ///
    /// # Errors
    /// NETWORK_UNTRUSTED when a hop cannot be read, or when the client is outside the listener's networks.
    pub fn client(&self, headers: &HeaderMap) -> Result<IpAddr, Failure> {
        let address = match self.rules.client_address {
            AddressSource::Socket | AddressSource::ProxyProtocol => self.address.ip().to_canonical(),
            AddressSource::ForwardedFor => forwarded(self.address.ip(), headers, &self.rules.proxies)?,
        };
        if self.rules.client_networks.is_empty() || within(&self.rules.client_networks, address) {
            return Ok(address);
        }
        Err(Failure::new(Reason::NetworkUntrusted, "your address is outside the networks of this listener"))
    }
}

/// The client of a request whose extensions hold its peer; `None` for a call inside the process.
///
/// # Errors
/// As [`Peer::client`].
pub fn client_of(extensions: &Extensions, headers: &HeaderMap) -> Result<Option<IpAddr>, Failure> {
    extensions.get::<Peer>().map(|peer| peer.client(headers)).transpose()
}

/// The SHA-256 of the certificate that a request's peer showed.
#[must_use]
pub fn certificate_of(extensions: &Extensions) -> Option<&str> {
    extensions.get::<Peer>()?.certificate.as_deref()
}

/// Who the certificate of a request's peer says that it is; nobody without one.
#[must_use]
pub fn shown_by(extensions: &Extensions) -> Arc<Shown> {
    extensions.get::<Peer>().map(|peer| peer.shown.clone()).unwrap_or_default()
}

/// The token of who passes a request on and vouches for the address of its caller: an instance's own at a gateway, a gateway's
/// own at its instance.
const VOUCHER: HeaderName = HeaderName::from_static("x-postern-relay-token");
/// The address that is vouched for.
const VOUCHED_ADDRESS: HeaderName = HeaderName::from_static("x-postern-client-address");

/// Vouches, with a token of the own, for the address of the caller whose request is passed on.
///
/// # Errors
/// INTERNAL for a token that is none.
pub fn vouch(headers: &mut HeaderMap, own_token: &str, address: IpAddr) -> Result<(), Failure> {
    let mut voucher = HeaderValue::try_from(own_token).map_err(Failure::internal)?;
    voucher.set_sensitive(true);
    headers.insert(VOUCHER, voucher);
    headers.insert(VOUCHED_ADDRESS, HeaderValue::try_from(address.to_string()).map_err(Failure::internal)?);
    Ok(())
}

/// The token and the address of [`vouch`], where somebody vouches. Whether the token may do so is for the reader to judge.
///
/// # Errors
/// NETWORK_UNTRUSTED when either cannot be read.
pub fn vouched(headers: &HeaderMap) -> Result<Option<(&str, IpAddr)>, Failure> {
    let Some(voucher) = headers.get(VOUCHER) else { return Ok(None) };
    let address = headers.get(VOUCHED_ADDRESS).and_then(|address| address.to_str().ok()?.parse::<IpAddr>().ok());
    let unreadable = || Failure::new(Reason::NetworkUntrusted, "the relayed caller's address is not vouched for");
    voucher
        .to_str()
        .ok()
        .zip(address)
        .map(|(voucher, address)| Some((voucher, address.to_canonical())))
        .ok_or_else(unreadable)
}

/// Hops that are walked at most.
const MAX_HOPS: usize = 32;

/// Walks the chain from the right: the first hop that is no listed proxy is the client.
fn forwarded(socket: IpAddr, headers: &HeaderMap, proxies: &[IpNet]) -> Result<IpAddr, Failure> {
    let unreadable = || Failure::new(Reason::NetworkUntrusted, "the chain of forwarding proxies cannot be read");
    let mut chain: Vec<&str> = Vec::new();
    for value in headers.get_all("x-forwarded-for") {
        chain.extend(value.to_str().map_err(|_| unreadable())?.split(','));
    }
    let mut client = socket.to_canonical();
    for hop in chain.iter().rev() {
        if !within(proxies, client) {
            return Ok(client);
        }
        client = hop_address(hop.trim()).ok_or_else(unreadable)?;
    }
    if chain.len() > MAX_HOPS { Err(unreadable()) } else { Ok(client) }
}

/// An address as proxies write it: bare, or with a port, IPv6 in brackets then.
fn hop_address(text: &str) -> Option<IpAddr> {
    let bare = text.parse::<IpAddr>().ok();
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    bare.or_else(bracketed).or_else(with_port).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn walk(socket: &str, lines: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x-forwarded-for", line.parse().unwrap());
        }
        let proxies = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        forwarded(socket.parse().unwrap(), &headers, &proxies).ok().map(|address| address.to_string())
    }

    #[test]
    fn the_chain_is_walked_from_the_right_through_listed_proxies() {
        let cases: [(&str, &[&str], Option<&str>); 14] = [
            ("198.51.100.1", &["1.1.1.1"], Some("198.51.100.1")),
            ("10.0.0.1", &[], Some("10.0.0.1")),
            ("10.0.0.1", &["198.51.100.1"], Some("198.51.100.1")),
            ("10.0.0.1", &["1.1.1.1, 198.51.100.1"], Some("198.51.100.1")),
            ("10.0.0.1", &["127.0.0.1", "198.51.100.1"], Some("198.51.100.1")),
            ("10.0.0.1", &["1.1.1.1, 198.51.100.1, 10.0.0.2"], Some("198.51.100.1")),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], Some("10.0.0.3")),
            ("::ffff:10.0.0.1", &["::ffff:198.51.100.1"], Some("198.51.100.1")),
            ("fd00::1", &["2001:db8::5"], Some("2001:db8::5")),
            ("10.0.0.1", &["198.51.100.1:4711"], Some("198.51.100.1")),
            ("10.0.0.1", &["[2001:db8::5]:4711"], Some("2001:db8::5")),
            ("10.0.0.1", &["unknown"], None),
            ("10.0.0.1", &["198.51.100.1, "], None),
            ("10.0.0.1", &["_hidden, 198.51.100.1"], Some("198.51.100.1")),
        ];
        for (socket, lines, expected) in cases {
            assert_eq!(walk(socket, lines).as_deref(), expected, "{socket} {lines:?}");
        }
    }

    #[test]
    fn a_listener_lets_its_networks_in() {
        let rules = ClientConfig { client_networks: vec!["10.0.0.0/8".parse().unwrap()], ..Default::default() };
        let peer = |address: &str| Peer {
            address: SocketAddr::new(address.parse().unwrap(), 1),
            certificate: None,
            shown: Arc::default(),
            rules: Arc::new(rules.clone()),
        };
        assert!(peer("10.1.1.1").client(&HeaderMap::new()).is_ok());
        assert!(peer("::ffff:10.1.1.1").client(&HeaderMap::new()).is_ok());
        assert_eq!(peer("11.1.1.1").client(&HeaderMap::new()).map_err(|f| f.reason), Err(Reason::NetworkUntrusted));
    }

    proptest! {
        #[test]
        fn what_a_client_writes_itself_is_never_believed(
            forged in proptest::collection::vec("[0-9a-f.:, ]{0,20}", 0..4),
            client in 0xC633_6401_u32..0xC633_64FF,
        ) {
            let client = std::net::Ipv4Addr::from_bits(client).to_string();
            let line = [forged.join(","), client.clone()].join(", ");
            prop_assert_eq!(walk("10.0.0.1", &[&line, "10.0.0.9"]), Some(client));
        }

        #[test]
        fn no_chain_panics(line in "[ -~]{0,80}") {
            let _ = walk("10.0.0.1", &[&line]);
        }
    }
}
