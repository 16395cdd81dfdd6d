//! Ports for servers that end and come back.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below those that the system gives to whoever asks for any, so that nobody is there when the server comes back.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;
/// Processes that run beside each other begin so far apart.
const APART: u32 = 61;

/// An address that nobody has, with a port that the system gives to nobody who asks for any; another one each time.
pub(crate) fn lasting() -> SocketAddr {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let begin = (std::process::id().wrapping_mul(APART) % u32::from(COUNT)) as u16;
    let next = || FIRST + (begin + GIVEN.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT;
    let is_free = |at: &SocketAddr| TcpListener::bind(at).is_ok() && UdpSocket::bind(at).is_ok();
    let mut addresses = (0..COUNT).map(|_| SocketAddr::from((Ipv4Addr::LOCALHOST, next())));
    addresses.find(is_free).expect("one of many is free")
}
