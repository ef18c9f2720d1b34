//! The PROXY protocol, version 2 (<https://www.haproxy.org/download/1.8/doc/proxy-protocol.txt>): what a load balancer says, before
//! anything else on a connection, of whom it connects for. Reads bytes, not sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The fixed part: signature, version and command, family, length.
pub const HEAD_BYTES: usize = 16;
/// Longest rest that is taken, in bytes: addresses and a few further fields.
pub const MAX_REST_BYTES: usize = 1024;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const CRC32C_FIELD: u8 = 0x03;

/// Why a header is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not a version 2 header.
    #[error("the connection does not begin with a PROXY protocol v2 header")]
    NotProxy,
    /// Of a command, family or length that is not offered.
    #[error("the PROXY header is of a kind that is not taken")]
    Unsupported,
    /// Its checksum or its fields are wrong.
    #[error("the PROXY header is damaged")]
    Damaged,
}

/// Whom a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announced {
    /// The proxy itself, as in its health checks.
    Local,
    /// This client.
    Client(SocketAddr),
}

/// How many bytes follow the fixed part.
///
/// # Errors
/// [`Malformed`].
pub fn rest_length(head: &[u8; HEAD_BYTES]) -> Result<usize, Malformed> {
    if head[..12] != SIGNATURE {
        return Err(Malformed::NotProxy);
    }
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if head[12] >> 4 != 2 || length > MAX_REST_BYTES {
        return Err(Malformed::Unsupported);
    }
    Ok(length)
}

/// Reads a whole header.
///
/// # Errors
/// [`Malformed`].
pub fn read(head: &[u8; HEAD_BYTES], rest: &[u8]) -> Result<Announced, Malformed> {
    if rest_length(head)? != rest.len() {
        return Err(Malformed::Damaged);
    }
    let (client, fields_at) = match (head[12] & 0x0F, head[13]) {
        // Whatever a LOCAL command says of addresses is to be passed over.
        (0, _) => (Announced::Local, rest.len()),
        (1, 0x11) => {
            let addresses: &[u8; 12] = rest.first_chunk().ok_or(Malformed::Damaged)?;
            let ip = Ipv4Addr::new(addresses[0], addresses[1], addresses[2], addresses[3]);
            (client(ip.into(), [addresses[8], addresses[9]]), 12)
        }
        (1, 0x21) => {
            let addresses: &[u8; 36] = rest.first_chunk().ok_or(Malformed::Damaged)?;
            let ip: &[u8; 16] = addresses.first_chunk().ok_or(Malformed::Damaged)?;
            (client(Ipv6Addr::from(*ip).into(), [addresses[32], addresses[33]]), 36)
        }
        _ => return Err(Malformed::Unsupported),
    };
    check_fields(head, rest, fields_at)?;
    Ok(client)
}

fn client(ip: IpAddr, port: [u8; 2]) -> Announced {
    Announced::Client(SocketAddr::new(ip.to_canonical(), u16::from_be_bytes(port)))
}

/// Walks the type-length-value fields; a checksum among them must be right.
fn check_fields(head: &[u8; HEAD_BYTES], rest: &[u8], mut at: usize) -> Result<(), Malformed> {
    while at < rest.len() {
        let [kind, high, low] = *rest[at..].first_chunk().ok_or(Malformed::Damaged)?;
        let (begin, length) = (at + 3, usize::from(u16::from_be_bytes([high, low])));
        let value = rest.get(begin..begin + length).ok_or(Malformed::Damaged)?;
        if kind == CRC32C_FIELD {
            let told: [u8; 4] = value.try_into().map_err(|_| Malformed::Damaged)?;
            let zeroed = rest.iter().enumerate().map(|(at, byte)| match (begin..begin + 4).contains(&at) {
                true => 0,
                false => *byte,
            });
            if crc32c(head.iter().copied().chain(zeroed)) != u32::from_be_bytes(told) {
                return Err(Malformed::Damaged);
            }
        }
        at = begin + length;
    }
    Ok(())
}

/// CRC-32C (RFC 3720 appendix B.4), bit by bit: a header is short.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 };
    !bytes.fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(command: u8, family: u8, length: u16) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        head[..12].copy_from_slice(&SIGNATURE);
        head[12] = 0x20 | command;
        head[13] = family;
        head[14..].copy_from_slice(&length.to_be_bytes());
        head
    }

    const V4: [u8; 12] = [10, 1, 2, 3, 127, 0, 0, 1, 0x30, 0x39, 0x1C, 0xF3];

    #[test]
    fn a_client_is_named_and_a_health_check_is_the_proxys_own() {
        let client = Announced::Client("10.1.2.3:12345".parse().unwrap());
        assert_eq!(read(&head(1, 0x11, 12), &V4), Ok(client));
        assert_eq!(read(&head(0, 0x00, 0), &[]), Ok(Announced::Local));
        let mut v6 = [0; 36];
        v6[..16].copy_from_slice(&"::ffff:10.1.2.3".parse::<Ipv6Addr>().unwrap().octets());
        v6[32..34].copy_from_slice(&12345_u16.to_be_bytes());
        assert_eq!(read(&head(1, 0x21, 36), &v6), Ok(client), "a mapped address is the address itself");
    }

    #[test]
    fn a_checksum_must_be_right() {
        assert_eq!(crc32c(b"123456789".iter().copied()), 0xE306_9283);
        let mut rest = [&V4[..], &[CRC32C_FIELD, 0, 4, 0, 0, 0, 0]].concat();
        let head = head(1, 0x11, 19);
        let crc = crc32c(head.iter().chain(&rest).copied());
        rest[15..].copy_from_slice(&crc.to_be_bytes());
        assert!(read(&head, &rest).is_ok());
        rest[0] ^= 1;
        assert_eq!(read(&head, &rest), Err(Malformed::Damaged));
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let mut other = head(1, 0x11, 12);
        other[0] = b'G';
        assert_eq!(read(&other, &V4), Err(Malformed::NotProxy));
        let mut version = head(1, 0x11, 12);
        version[12] = 0x11;
        assert_eq!(read(&version, &V4), Err(Malformed::Unsupported));
        assert_eq!(read(&head(2, 0x11, 12), &V4), Err(Malformed::Unsupported));
        assert_eq!(read(&head(1, 0x31, 12), &V4), Err(Malformed::Unsupported), "a Unix socket");
        assert_eq!(rest_length(&head(1, 0x11, 1025)), Err(Malformed::Unsupported));
        assert_eq!(read(&head(1, 0x11, 11), &V4[..11]), Err(Malformed::Damaged));
        assert_eq!(read(&head(1, 0x11, 12), &V4[..11]), Err(Malformed::Damaged));
        let cut = [&V4[..], &[0x04, 0, 9, 1]].concat();
        assert_eq!(read(&head(1, 0x11, 16), &cut), Err(Malformed::Damaged));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(head: [u8; HEAD_BYTES], rest in proptest::collection::vec(any::<u8>(), 0..80), real: bool) {
            let mut head = head;
            if real {
                head[..12].copy_from_slice(&SIGNATURE);
                head[14..].copy_from_slice(&u16::try_from(rest.len()).unwrap().to_be_bytes());
            }
            let _ = read(&head, &rest);
        }
    }
}
