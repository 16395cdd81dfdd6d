//! The PROXY protocol, version 2: a TCP balancer says for whom it connects, before the client's first byte.
//!
//! ```text
//! signature(12) | version and command(1) | family(1) | length(2) | addresses, then what else there is
//! ```
//!
//! Whoever may send it could claim any address, so it is taken, and then demanded, from the configured networks only.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::io::{AsyncRead, AsyncReadExt};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const HEAD_BYTES: usize = 16;
/// Balancers add a few hundred bytes to the addresses at most.
const REST_BYTES_MAX: usize = 2048;
/// More is never read.
pub const HEADER_BYTES_MAX: usize = HEAD_BYTES + REST_BYTES_MAX;

/// Addresses with a common beginning: `10.0.0.0/8`, `2001:db8::/32`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Whether the address is one of them. IPv4 in IPv6 clothes counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let differ = own.to_bits() ^ other.to_bits();
                differ.leading_zeros() >= u32::from(self.bits)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let differ = own.to_bits() ^ other.to_bits();
                differ.leading_zeros() >= u32::from(self.bits)
            }
            _ => false,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse =
            || format!("{text:?} is no network: expected for example 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32");
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| refuse())?;
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(bits_max), str::parse).map_err(|_| refuse())?;
        if bits > bits_max { Err(refuse()) } else { Ok(Self { address, bits }) }
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Reads the header and not a byte more: the client's address, or `None` when the balancer speaks for itself, to see
/// whether anybody is there.
///
/// # Errors
/// The stream's; `InvalidData` when this is no such header or a longer one than [`HEADER_BYTES_MAX`].
pub async fn read_header(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let mut head = [0; HEAD_BYTES];
    stream.read_exact(&mut head).await?;
    let length = rest_length(&head)?;
    let mut rest = [0; REST_BYTES_MAX];
    stream.read_exact(&mut rest[..length]).await?;
    source(&head, &rest[..length])
}

fn invalid(problem: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

fn rest_length(head: &[u8; HEAD_BYTES]) -> io::Result<usize> {
    if !head.starts_with(SIGNATURE) {
        return Err(invalid("no PROXY protocol version 2: is it switched on at the balancer?"));
    }
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if length > REST_BYTES_MAX { Err(invalid("the PROXY header is too long")) } else { Ok(length) }
}

fn source(head: &[u8; HEAD_BYTES], rest: &[u8]) -> io::Result<Option<SocketAddr>> {
    const LOCAL: u8 = 0x20;
    const PROXY: u8 = 0x21;
    const TCP_OVER_IPV4: u8 = 0x11;
    const TCP_OVER_IPV6: u8 = 0x21;
    let short = || invalid("the PROXY header is too short");
    match (head[12], head[13]) {
        (LOCAL, _) => Ok(None),
        // Source address, destination address, source port, destination port.
        (PROXY, TCP_OVER_IPV4) => {
            let (source, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
            let (_, ports) = rest.split_first_chunk::<4>().ok_or_else(short)?;
            let [port, _] = two_ports(ports).ok_or_else(short)?;
            Ok(Some((Ipv4Addr::from(*source), port).into()))
        }
        (PROXY, TCP_OVER_IPV6) => {
            let (source, rest) = rest.split_first_chunk::<16>().ok_or_else(short)?;
            let (_, ports) = rest.split_first_chunk::<16>().ok_or_else(short)?;
            let [port, _] = two_ports(ports).ok_or_else(short)?;
            Ok(Some((Ipv6Addr::from(*source), port).into()))
        }
        (PROXY, _) => Err(invalid("the PROXY header is not about TCP")),
        _ => Err(invalid("the PROXY header has another version or an unknown command")),
    }
}

fn two_ports(bytes: &[u8]) -> Option<[u16; 2]> {
    let [a, b, c, d, ..] = *bytes else { return None };
    Some([u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        [&SIGNATURE[..], &[command, family], &(rest.len() as u16).to_be_bytes(), rest].concat()
    }

    async fn read(bytes: &[u8]) -> Result<Option<SocketAddr>, String> {
        let mut stream = bytes;
        let address = read_header(&mut stream).await.map_err(|error| error.to_string())?;
        assert_eq!(stream, b"tls", "what comes behind it is left");
        Ok(address)
    }

    #[tokio::test]
    async fn headers() {
        let v4 = [[203, 0, 113, 7], [10, 0, 0, 1], [0x12, 0x67, 0x1d, 0x13]].concat();
        let v6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[7], &[0; 16], &[0x12, 0x67, 0x1d, 0x13]].concat();
        let more = [&v4[..], &[4, 0, 3, 1, 2, 3]].concat();
        let good = |address: &str| Ok(Some(address.parse().unwrap()));
        let bad = |text: &str| Err(text.to_owned());
        for (bytes, expected) in [
            (header(0x21, 0x11, &v4), good("203.0.113.7:4711")),
            (header(0x21, 0x11, &more), good("203.0.113.7:4711")),
            (header(0x21, 0x21, &v6), good("[2001:db8::7]:4711")),
            (header(0x20, 0, &[]), Ok(None)),
            (header(0x20, 0x11, &v4), Ok(None)),
            (header(0x21, 0x11, &v4[..11]), bad("too short")),
            (header(0x21, 0x21, &v4), bad("too short")),
            (header(0x21, 0x12, &v4), bad("not about TCP")),
            (header(0x22, 0x11, &v4), bad("unknown command")),
            (header(0x11, 0x11, &v4), bad("another version")),
            (header(0x21, 0x11, &[0; REST_BYTES_MAX + 1]), bad("too long")),
            (b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 7443\r\n".to_vec(), bad("switched on")),
            (b"\r\n\r\n\0\r\nQUIT".to_vec(), bad("eof")),
        ] {
            match (read(&[&bytes[..], b"tls"].concat()).await, expected) {
                (Err(error), Err(part)) => assert!(error.contains(&part), "{error}: expected {part}"),
                (read, expected) => assert_eq!(read, expected),
            }
        }
    }

    #[test]
    fn networks() {
        for (network, address, expected) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("0.0.0.0/0", "203.0.113.7", true),
            ("0.0.0.0/0", "::1", false),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
        ] {
            let network: Network = network.parse().unwrap();
            assert_eq!(network.contains(address.parse().unwrap()), expected, "{network} {address}");
        }
        for text in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/", "example.com", "10.0.0.0/-1"] {
            assert!(text.parse::<Network>().unwrap_err().contains("expected"), "{text}");
        }
    }
}
