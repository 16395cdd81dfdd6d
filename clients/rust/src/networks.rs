//! What was learnt about networks: whether QUIC gets through.
//!
//! - **QUIC works** here when something of the server's was heard over it. That it shook hands is not enough: some
//!   networks let a flow's first packets through and no more.
//! - **UDP is swallowed** here when TCP won although QUIC had been tried for as long as TCP is held back for its sake,
//!   and nothing was heard; or when QUIC shook hands, was given up, and nothing had been heard. A try over QUIC that
//!   failed says nothing: it was answered, or never left this device.
//! - Both are believed only if the device is where it was when the race began: by the network's name, if the app gives
//!   one, and by its own addresses. What is shown while a device moves is of no network.
//! - QUIC is left alone for [`NO_QUIC_FIRST`], and twice as long each time it is found swallowed again, up to
//!   2^[`NO_QUIC_DOUBLINGS`] times that, about five hours. Only QUIC that works ends it sooner: as the last resort,
//!   when TCP fails. Then the count begins anew.
//! - It is remembered for the last [`NETWORKS_MAX`] networks, as long as the client runs.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::race::{Route, Udp};

const NO_QUIC_FIRST: Duration = Duration::from_secs(5 * 60);
const NO_QUIC_DOUBLINGS: u32 = 6;
/// Networks that are remembered.
const NETWORKS_MAX: usize = 32;

/// Where a device is, as far as it can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// As the app calls the network.
    name: Option<String>,
    addresses: Addresses,
}

/// What this device has towards the server; the address of each family that it would use first. Of IPv6 the network's
/// part: the rest changes by the day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Addresses {
    v4: Option<Ipv4Addr>,
    v6: Option<[u16; 4]>,
}

/// How a network is told apart from others.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Network {
    Named(String),
    By(Addresses),
}

#[derive(Debug, Clone, Copy)]
enum Known {
    Quic,
    NoQuic { until: Duration, in_a_row: u32 },
}

/// What was learnt; the network learnt about last is at the end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Networks {
    known: VecDeque<(Network, Known)>,
}

impl Place {
    /// On these ways to the server.
    pub(crate) fn new(name: Option<&str>, routes: &[Route]) -> Self {
        let mut addresses = Addresses::default();
        for from in routes.iter().filter_map(|route| route.from) {
            match from {
                IpAddr::V4(ip) => addresses.v4 = addresses.v4.or(Some(ip)),
                IpAddr::V6(ip) => {
                    let [a, b, c, d, ..] = ip.segments();
                    addresses.v6 = addresses.v6.or(Some([a, b, c, d]));
                }
            }
        }
        Self { name: name.map(Into::into), addresses }
    }

    /// `None`: there is nothing to know it by.
    fn network(&self) -> Option<Network> {
        match &self.name {
            Some(name) => Some(Network::Named(name.clone())),
            None if self.addresses == Addresses::default() => None,
            None => Some(Network::By(self.addresses)),
        }
    }
}

impl Networks {
    fn of(&self, network: &Network) -> Option<Known> {
        self.known.iter().find(|(known, _)| known == network).map(|(_, known)| *known)
    }

    pub(crate) fn udp(&self, now: Duration, place: &Place) -> Udp {
        match place.network().and_then(|network| self.of(&network)) {
            Some(Known::Quic) => Udp::Works,
            Some(Known::NoQuic { until, .. }) if now < until => Udp::Swallowed,
            Some(Known::NoQuic { .. }) | None => Udp::Unknown,
        }
    }

    /// Something came over QUIC, on a connection whose race began at `then`.
    pub(crate) fn quic_worked(&mut self, then: &Place, here: &Place) {
        self.learn(then, here, |_| Known::Quic);
    }

    /// QUIC was silent, in a race that began at `then` or on its connection.
    pub(crate) fn quic_was_silent(&mut self, now: Duration, then: &Place, here: &Place) {
        self.learn(then, here, |known| {
            let in_a_row = match known {
                Some(Known::NoQuic { in_a_row, .. }) => NO_QUIC_DOUBLINGS.min(in_a_row + 1),
                Some(Known::Quic) | None => 0,
            };
            Known::NoQuic { until: now + NO_QUIC_FIRST * 2u32.pow(in_a_row), in_a_row }
        });
    }

    fn learn(&mut self, then: &Place, here: &Place, what: impl FnOnce(Option<Known>) -> Known) {
        let Some(network) = here.network().filter(|_| then == here) else { return };
        let known = what(self.of(&network));
        self.known.retain(|(other, _)| *other != network);
        if self.known.len() == NETWORKS_MAX {
            self.known.pop_front();
        }
        self.known.push_back((network, known));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minutes(n: u64) -> Duration {
        Duration::from_secs(60 * n)
    }

    /// A place with these addresses of the device; the server's do not matter.
    fn place(name: Option<&str>, from: &[IpAddr]) -> Place {
        let to = ([192, 0, 2, 1], 7443).into();
        let routes: Vec<_> = from.iter().map(|from| Route { to, from: Some(*from) }).collect();
        Place::new(name, &[&[Route { to, from: None }], &routes[..]].concat())
    }

    fn v4(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    fn v6(network: u16, host: u16) -> IpAddr {
        IpAddr::from([0x2001, 0xdb8, 0, network, 0, 0, 0, host])
    }

    #[test]
    fn silence_is_believed_longer_each_time_and_works_ends_it() {
        let (here, other) = (place(None, &[v4(1)]), place(None, &[v4(2)]));
        let mut networks = Networks::default();
        assert_eq!(networks.udp(minutes(0), &here), Udp::Unknown);
        let mut now = 0;
        for round in 0..2 {
            for lasts in [5, 10, 20, 40, 80, 160, 320, 320] {
                networks.quic_was_silent(minutes(now), &here, &here);
                assert_eq!(networks.udp(minutes(now + lasts - 1), &here), Udp::Swallowed, "{round}: {lasts}");
                now += lasts;
                // Then it is tried again, and finding it swallowed as before counts on.
                assert_eq!(networks.udp(minutes(now), &here), Udp::Unknown, "{round}: {lasts}");
            }
            assert_eq!(networks.udp(minutes(now), &other), Udp::Unknown);
            networks.quic_worked(&here, &here);
            assert_eq!(networks.udp(minutes(now), &here), Udp::Works);
        }
        // As the last resort, while it was believed to be swallowed.
        networks.quic_was_silent(minutes(now), &here, &here);
        networks.quic_worked(&here, &here);
        assert_eq!(networks.udp(minutes(now), &here), Udp::Works);
    }

    #[test]
    fn nothing_is_learnt_on_the_move() {
        let wifi = place(Some("wifi"), &[v4(1)]);
        for (then, here) in [
            (place(None, &[v4(1)]), place(None, &[v4(2)])),
            (place(None, &[v4(1)]), place(None, &[])),
            (place(None, &[]), place(None, &[])),
            (place(None, &[v4(1)]), place(None, &[v4(1), v6(1, 1)])),
            (place(None, &[v6(1, 1)]), place(None, &[v6(2, 1)])),
            // The app has not told yet.
            (wifi.clone(), place(Some("wifi"), &[v4(2)])),
            (wifi.clone(), place(Some("cellular"), &[v4(1)])),
            (wifi.clone(), place(None, &[v4(1)])),
        ] {
            let mut networks = Networks::default();
            networks.quic_was_silent(minutes(0), &then, &here);
            networks.quic_worked(&then, &here);
            assert_eq!(networks.known.len(), 0, "{then:?} {here:?}");
        }
        // By name it is known again, whatever the address; without one, by the parts of addresses that stay.
        let mut networks = Networks::default();
        networks.quic_was_silent(minutes(0), &wifi, &wifi);
        assert_eq!(networks.udp(minutes(1), &place(Some("wifi"), &[v4(9)])), Udp::Swallowed);
        assert_eq!(networks.udp(minutes(1), &place(None, &[v4(1)])), Udp::Unknown);
        let (then, here) =
            (place(None, &[v6(1, 1), v4(1)]), place(None, &[v4(1), v6(1, 2), v6(7, 3), v4(8)]));
        networks.quic_was_silent(minutes(0), &then, &here);
        assert_eq!(networks.udp(minutes(1), &then), Udp::Swallowed);
    }

    #[test]
    fn few_networks_are_remembered() {
        let (mut networks, often) = (Networks::default(), place(None, &[v4(7)]));
        for n in 0..=250 {
            let here = place(None, &[v4(n)]);
            networks.quic_was_silent(minutes(0), &here, &here);
            networks.quic_worked(&often, &often);
        }
        assert_eq!(networks.known.len(), NETWORKS_MAX);
        assert_eq!(networks.udp(minutes(1), &often), Udp::Works);
        assert_eq!(networks.udp(minutes(1), &place(None, &[v4(250)])), Udp::Swallowed);
        assert_eq!(networks.udp(minutes(1), &place(None, &[v4(8)])), Udp::Unknown);
    }
}
