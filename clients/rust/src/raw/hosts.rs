//! Where a server is: at one name, or at those of several nodes of one cluster.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustls::pki_types::ServerName;
use tokio::time::{Instant, timeout, timeout_at};

use crate::error::ConnectError;

/// Hosts of one server that are looked at.
const HOSTS_MAX: usize = 16;
/// Addresses of one host that are looked at.
const RESOLVED_MAX: usize = 16;
/// When a host has been found, the others are waited for no longer than this.
const OTHERS: Duration = Duration::from_millis(300);

/// A name or an address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    /// An IPv6 address without its brackets.
    pub(super) name: String,
    port: u16,
}

impl Host {
    fn parse(text: &str) -> Option<Self> {
        let (name, port) = text.trim().rsplit_once(':')?;
        let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        let port = port.parse().ok()?;
        ServerName::try_from(name).ok()?;
        Some(Self { name: name.into(), port })
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, ConnectError> {
        let dns = |error| ConnectError::Dns { host: self.name.clone(), error };
        let found = tokio::net::lookup_host((self.name.as_str(), self.port)).await.map_err(dns)?;
        let found: Vec<_> = found.take(RESOLVED_MAX).collect();
        if found.is_empty() { Err(dns(io::Error::other("it has no address"))) } else { Ok(found) }
    }
}

/// Out of `host:port`, or several with commas between; at least one.
pub(super) fn parse(server: &str) -> Result<Vec<Host>, ConnectError> {
    let wrong = || ConnectError::Address(server.into());
    let hosts: Vec<_> = server.split(',').map(Host::parse).collect::<Option<_>>().ok_or_else(wrong)?;
    if hosts.len() > HOSTS_MAX { Err(wrong()) } else { Ok(hosts) }
}

/// Where these hosts are, the first ones first; at least one address. A host that cannot be found matters only when none
/// can.
pub(super) async fn resolve(hosts: &[Host]) -> Result<Vec<SocketAddr>, ConnectError> {
    let numbered = hosts.iter().enumerate();
    let mut looking: FuturesUnordered<_> =
        numbered.map(|(number, host)| async move { (number, host.resolve().await) }).collect();
    let (mut found, mut why, mut deadline) = (Vec::new(), None, None);
    loop {
        let next = looking.next();
        let next = match deadline {
            None => Ok(next.await),
            Some(deadline) => timeout_at(deadline, next).await,
        };
        match next {
            Ok(Some((number, Ok(addresses)))) => {
                deadline.get_or_insert(Instant::now() + OTHERS);
                found.push((number, addresses));
            }
            Ok(Some((_, Err(error)))) => why = why.or(Some(error)),
            Ok(None) | Err(_) => break,
        }
    }
    found.sort_unstable_by_key(|(number, _)| *number);
    let addresses: Vec<_> = found.into_iter().flat_map(|(_, addresses)| addresses).collect();
    match why {
        Some(why) if addresses.is_empty() => Err(why),
        _ => Ok(addresses),
    }
}

/// Where others say that the server is, to be tried first. What cannot be found is left out.
pub(super) async fn resolve_hints(hints: &[String]) -> Vec<SocketAddr> {
    let hosts: Vec<_> = hints.iter().take(HOSTS_MAX).filter_map(|hint| Host::parse(hint)).collect();
    timeout(OTHERS, resolve(&hosts)).await.ok().and_then(Result::ok).unwrap_or_default()
}

/// Each client begins at another one, so that they spread over the nodes. Which family is at which place is the
/// resolver's choice and stays.
pub(super) fn shuffle(addresses: &mut [SocketAddr], mut random: impl FnMut() -> u64) {
    for v6 in [false, true] {
        let places: Vec<_> = (0..addresses.len()).filter(|at| addresses[*at].is_ipv6() == v6).collect();
        for last in (1..places.len()).rev() {
            let other = random() % (last as u64 + 1);
            addresses.swap(places[last], places[other as usize]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn one_or_several_with_commas() {
        let names = |server| parse(server).map(|hosts| hosts.into_iter().map(|h| (h.name, h.port)).collect());
        let is = |expected: &[(&str, u16)]| -> Vec<(String, u16)> {
            expected.iter().map(|(name, port)| ((*name).into(), *port)).collect()
        };
        for (server, expected) in [
            ("chat.example.com:7443", &[("chat.example.com", 7443)][..]),
            ("[2001:db8::1]:7", &[("2001:db8::1", 7)]),
            ("a:1,b:2", &[("a", 1), ("b", 2)]),
            ("a:1, [::1]:2 ,192.0.2.1:3", &[("a", 1), ("::1", 2), ("192.0.2.1", 3)]),
        ] {
            assert_eq!(names(server).unwrap(), is(expected), "{server}");
        }
        let many = vec!["a:1"; HOSTS_MAX + 1].join(",");
        for wrong in ["", ":1", "a", "a:", "a:1,", ",a:1", "a:1,,b:1", "a:65536", "a:1;b:2", &many] {
            let error: Result<Vec<(String, u16)>, _> = names(wrong);
            assert!(matches!(error, Err(ConnectError::Address(text)) if text == wrong), "{wrong}");
        }
    }

    #[tokio::test]
    async fn who_cannot_be_found_matters_only_when_nobody_can() {
        // For what is no name, no resolver is asked.
        let nowhere = || Host { name: "no name".into(), port: 1 };
        let hosts = |text| parse(text).unwrap().remove(0);
        let found =
            resolve(&[nowhere(), hosts("127.0.0.2:2"), nowhere(), hosts("127.0.0.1:4")]).await.unwrap();
        assert_eq!(found, ["127.0.0.2:2".parse().unwrap(), "127.0.0.1:4".parse().unwrap()]);
        let error = resolve(&[nowhere(), nowhere()]).await.unwrap_err();
        assert!(matches!(error, ConnectError::Dns { .. }), "{error}");
        let hints = ["127.0.0.1:4", "nonsense", "no name:1"].map(String::from);
        assert_eq!(resolve_hints(&hints).await, ["127.0.0.1:4".parse().unwrap()]);
        assert_eq!(resolve_hints(&hints[1..]).await, []);
    }

    #[test]
    fn each_address_is_first_as_often_as_the_others_of_its_family() {
        let before =
            ["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "3.3.3.3:1"].map(|a| a.parse().unwrap());
        let mut state = 1_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state >> 33
        };
        let mut first: BTreeMap<SocketAddr, u32> = BTreeMap::new();
        for _ in 0..6_000 {
            let mut addresses: [SocketAddr; 5] = before;
            shuffle(&mut addresses, &mut random);
            let families = |addresses: [SocketAddr; 5]| addresses.map(|address| address.is_ipv6());
            assert_eq!(families(addresses), families(before));
            *first.entry(addresses[0]).or_default() += 1;
            *first.entry(addresses[1]).or_default() += 1;
            let sorted = |mut addresses: [SocketAddr; 5]| {
                addresses.sort_unstable();
                addresses
            };
            assert_eq!(sorted(addresses), sorted(before));
        }
        assert_eq!(first.len(), 5);
        for (address, times) in first {
            let fair = if address.is_ipv6() { 3_000 } else { 2_000 };
            assert!(times.abs_diff(fair) < 200, "{address}: {times}");
        }
    }
}
