//! Which addresses may be dialled.
//!
//! An address falls in one of three classes (IANA special-purpose registries, RFC 6890):
//! never (unspecified, link-local with the cloud metadata services, multicast, documentation, reserved), private (loopback,
//! RFC 1918, unique local, shared), or public. With no networks listed, public ones only; with networks listed, those
//! networks only. What may never be dialled stays so even when a listed network covers it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Why an address is not dialled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressDenied {
    /// Of a kind that is never dialled.
    #[error("{0} is never allowed (link-local, metadata, unspecified, multicast or reserved)")]
    Never(IpAddr),
    /// Private, and no network is listed that holds it.
    #[error("{0} is a loopback or private address and no endpoint network is listed for it")]
    PrivateUnlisted(IpAddr),
    /// Outside the listed networks.
    #[error("{0} is outside the endpoint networks")]
    Unlisted(IpAddr),
    /// Outside the networks that the process keeps within.
    #[error("{0} is outside the networks that this process keeps within (egress.offline)")]
    Offline(IpAddr),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Never,
    Private,
    Public,
}

/// The networks that may be dialled.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    networks: Vec<IpNet>,
    bound: Option<Vec<IpNet>>,
    /// The one address there is, whatever its class.
    only: Option<IpAddr>,
}

/// The loopback networks.
pub(crate) fn this_machine() -> Vec<IpNet> {
    let v4 = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
    vec![IpNet::V4(v4), IpNet::from(IpAddr::from(Ipv6Addr::LOCALHOST))]
}

impl Policy {
    /// Public addresses only when `networks` is empty, else these networks only.
    #[must_use]
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        Self { networks: networks.into_iter().collect(), bound: None, only: None }
    }

    /// Any address that is ever dialled.
    pub(crate) fn anywhere() -> Self {
        let v6 = Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0);
        Self::new([IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)), IpNet::V6(v6)])
    }

    /// Whether no networks are listed, so that public addresses are meant.
    pub(crate) fn lists_nothing(&self) -> bool {
        self.networks.is_empty() && self.only.is_none()
    }

    /// This address and no other. For what the cloud itself serves at an address that is refused to everybody else.
    #[must_use]
    pub fn only(address: IpAddr) -> Self {
        Self { networks: Vec::new(), bound: None, only: Some(address) }
    }

    /// The same, but never outside `bound`.
    #[must_use]
    pub fn within(self, bound: Option<&[IpNet]>) -> Self {
        Self { bound: bound.map(<[_]>::to_vec), ..self }
    }

    /// Whether the address may be dialled.
    ///
    /// # Errors
    /// [`AddressDenied`] says by which rule it may not.
    pub fn check(&self, address: IpAddr) -> Result<(), AddressDenied> {
        let address = address.to_canonical();
        let class = class(address);
        if let Some(only) = self.only {
            let within = self.bound.as_ref().is_none_or(|bound| bound.iter().any(|network| network.contains(&address)));
            return match (only == address, within) {
                (true, true) => Ok(()),
                (true, false) => Err(AddressDenied::Offline(address)),
                (false, _) => Err(AddressDenied::Unlisted(address)),
            };
        }
        if class == Class::Never {
            return Err(AddressDenied::Never(address));
        }
        if self.bound.as_ref().is_some_and(|bound| !bound.iter().any(|network| network.contains(&address))) {
            return Err(AddressDenied::Offline(address));
        }
        if self.networks.iter().any(|network| network.contains(&address)) {
            return Ok(());
        }
        match (self.networks.is_empty(), class) {
            (true, Class::Public) => Ok(()),
            (true, _) => Err(AddressDenied::PrivateUnlisted(address)),
            (false, _) => Err(AddressDenied::Unlisted(address)),
        }
    }
}

/// Metadata services outside the link-local range.
const METADATA: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

fn class(address: IpAddr) -> Class {
    if METADATA.contains(&address) {
        return Class::Never;
    }
    match address {
        IpAddr::V4(v4) => class_v4(v4),
        IpAddr::V6(v6) => class_v6(v6),
    }
}

fn class_v4(address: Ipv4Addr) -> Class {
    match address.octets() {
        [0, ..]
        | [169, 254, ..]
        | [192, 0, 0, _]
        | [192, 0, 2, _]
        | [192, 88, 99, _]
        | [198, 51, 100, _]
        | [203, 0, 113, _]
        | [224..=255, ..] => Class::Never,
        [10 | 127, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] | [198, 18 | 19, ..] => {
            Class::Private
        }
        _ => Class::Public,
    }
}

fn class_v6(address: Ipv6Addr) -> Class {
    // An IPv6 address that stands for an IPv4 address is judged as that.
    if let Some(embedded) = embedded_v4(address) {
        return class(IpAddr::V4(embedded));
    }
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Class::Private,
        [0, 0, 0, 0, 0, 0, ..] | [0x100, 0, 0, 0, ..] | [0x2001, 0xdb8, ..] | [0x5f00, ..] => Class::Never,
        [0xfc00..=0xfdff, ..] => Class::Private,
        [0x2000..=0x3fff, ..] => Class::Public,
        _ => Class::Never,
    }
}

/// NAT64 (RFC 6052, RFC 8215), 6to4 (RFC 3056) and Teredo (RFC 4380).
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let join = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 1, _, _, _, high, low] => Some(join(high, low)),
        [0x2002, high, low, ..] => Some(join(high, low)),
        [0x2001, 0, _, _, _, _, high, low] => Some(join(!high, !low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(networks: &[&str], address: &str) -> Result<(), &'static str> {
        let policy = Policy::new(networks.iter().map(|n| n.parse::<IpNet>().unwrap()));
        policy.check(address.parse().unwrap()).map_err(|denied| match denied {
            AddressDenied::Never(_) => "never",
            AddressDenied::PrivateUnlisted(_) => "private",
            AddressDenied::Unlisted(_) => "unlisted",
            AddressDenied::Offline(_) => "offline",
        })
    }

    #[test]
    fn without_networks_only_public_addresses_pass() {
        for public in ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2002:808:808::"] {
            assert_eq!(check(&[], public), Ok(()), "{public}");
        }
        let private = [
            "127.0.0.1",
            "127.255.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "::1",
            "fd12::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:0:0:0:0:0:80ff:fffe",
        ];
        for address in private {
            assert_eq!(check(&[], address), Err("private"), "{address}");
        }
    }

    #[test]
    fn some_addresses_are_never_dialled_whatever_is_listed() {
        let never = [
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "169.254.0.1",
            "255.255.255.255",
            "224.0.0.1",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "::",
            "fe80::1",
            "ff02::1",
            "fec0::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "64:ff9b::a83f:8110",
            "2002:a83f:8110::",
            "64:ff9b::6464:64c8",
            "2001:db8::1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::",
            "::ffff:0.0.0.0",
        ];
        for address in never {
            assert_eq!(check(&["0.0.0.0/0", "::/0"], address), Err("never"), "{address}");
            assert_eq!(check(&[], address), Err("never"), "{address}");
        }
    }

    #[test]
    fn listed_networks_are_the_only_ones() {
        let listed = ["127.0.0.0/8", "10.1.0.0/16"];
        assert_eq!(check(&listed, "127.0.0.1"), Ok(()));
        assert_eq!(check(&listed, "::ffff:10.1.2.3"), Ok(()));
        assert_eq!(check(&listed, "10.2.0.1"), Err("unlisted"));
        assert_eq!(check(&listed, "8.8.8.8"), Err("unlisted"));
        assert_eq!(check(&listed, "::1"), Err("unlisted"));
    }

    #[test]
    fn a_process_that_is_offline_stays_within_its_bound_whatever_a_model_lists() {
        let bound = ["10.0.0.0/8".parse().unwrap()];
        let policy =
            |networks: &[&str]| Policy::new(networks.iter().map(|n| n.parse::<IpNet>().unwrap())).within(Some(&bound));
        let check = |networks: &[&str], address: &str| policy(networks).check(address.parse().unwrap());
        assert_eq!(check(&["10.1.0.0/16"], "10.1.2.3"), Ok(()));
        for (networks, address) in
            [(&["0.0.0.0/0"][..], "8.8.8.8"), (&[], "8.8.8.8"), (&["192.168.0.0/16"], "192.168.0.1")]
        {
            assert!(matches!(check(networks, address), Err(AddressDenied::Offline(_))), "{address}");
        }
        // The bound opens nothing by itself.
        assert!(matches!(check(&[], "10.1.2.3"), Err(AddressDenied::PrivateUnlisted(_))));
        assert!(matches!(check(&["0.0.0.0/0"], "169.254.169.254"), Err(AddressDenied::Never(_))));
    }

    #[test]
    fn what_a_cloud_serves_at_one_address_is_reached_there_alone_and_not_when_offline() {
        let metadata: IpAddr = "169.254.169.254".parse().unwrap();
        let policy = Policy::only(metadata);
        assert_eq!(policy.check(metadata), Ok(()));
        for other in ["169.254.169.253", "8.8.8.8", "127.0.0.1"] {
            assert!(policy.check(other.parse().unwrap()).is_err(), "{other}");
        }
        let inside = ["10.0.0.0/8".parse().unwrap()];
        assert_eq!(policy.within(Some(&inside)).check(metadata), Err(AddressDenied::Offline(metadata)));
    }

    proptest! {
        #[test]
        fn a_mapped_address_is_judged_as_the_address_itself(bits: u32) {
            let v4 = Ipv4Addr::from_bits(bits);
            let policy = Policy::default();
            prop_assert_eq!(policy.check(v4.into()), policy.check(v4.to_ipv6_mapped().into()));
        }
    }
}
