//! Which transport and address to try when, and what was learnt about networks.
//!
//! QUIC is wanted: it survives a change of address. Some networks swallow UDP, and nobody tells; so TCP is tried a moment
//! later, and what has shaken hands first is used. Where QUIC was beaten that way it is left alone for some minutes.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::config::Transport;

/// TCP follows this much later on a network that nothing is known of, and on one where QUIC has worked: there a slow
/// answer is rather a busy server's, which should not shake hands twice.
const TCP_AFTER: Duration = Duration::from_millis(300);
const TCP_AFTER_KNOWN_QUIC: Duration = Duration::from_secs(1);
/// The next address follows this much later.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(300);
/// Addresses of the server that are tried.
const ADDRESSES_MAX: usize = 4;
/// When every try over TCP has failed, QUIC gets this much more.
pub(crate) const QUIC_GRACE: Duration = Duration::from_millis(500);
/// So long is QUIC left alone the first time; doubles with each time in a row.
const NO_QUIC_FIRST: Duration = Duration::from_secs(5 * 60);
const NO_QUIC_DOUBLINGS: u32 = 3;
/// Networks that are remembered.
const NETWORKS_MAX: usize = 32;

const _: () = assert!(
    (ADDRESSES_MAX as u128 - 1) * NEXT_ADDRESS_AFTER.as_millis() + TCP_AFTER_KNOWN_QUIC.as_millis() < 2000,
    "where UDP is blocked, every address has been tried over TCP within 2 s"
);

/// A network, as far as it can be told apart from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Network {
    /// As the app calls it.
    Named(String),
    /// By the address that this device has in it.
    Local(IpAddr),
}

/// One try. The first begins at once, the others at their time or as soon as all before them have failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) over_quic: bool,
    pub(crate) address: SocketAddr,
    /// Since the beginning; `None`: only when all before have failed.
    pub(crate) after: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
enum Known {
    Quic,
    NoQuic { until: Duration, in_a_row: u32 },
}

/// What was learnt about networks; the one learnt about last is at the end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Networks {
    known: VecDeque<(Network, Known)>,
}

impl Networks {
    fn of(&self, network: Option<&Network>) -> Option<Known> {
        self.known.iter().find(|(known, _)| Some(known) == network).map(|(_, known)| *known)
    }

    /// The tries for a server with these addresses, in the order in which they begin.
    pub(crate) fn plan(
        &self,
        now: Duration,
        network: Option<&Network>,
        transport: Transport,
        addresses: &[SocketAddr],
    ) -> Vec<Attempt> {
        let addresses = || addresses.iter().copied().take(ADDRESSES_MAX).zip(0u32..);
        let each = |over_quic, first: Duration| {
            addresses().map(move |(address, n)| Attempt {
                over_quic,
                address,
                after: Some(first + n * NEXT_ADDRESS_AFTER),
            })
        };
        let (quic, tcp) = (true, false);
        let mut plan: Vec<_> = match (transport, self.of(network)) {
            (Transport::Tcp, _) => each(tcp, Duration::ZERO).collect(),
            (Transport::Quic, _) => each(quic, Duration::ZERO).collect(),
            (Transport::Auto, Some(Known::NoQuic { until, .. })) if now < until => {
                let last = |attempt| Attempt { after: None, ..attempt };
                let quic = each(quic, Duration::ZERO).map(last);
                return each(tcp, Duration::ZERO).chain(quic).collect();
            }
            (Transport::Auto, known) => {
                let later = if matches!(known, Some(Known::Quic)) { TCP_AFTER_KNOWN_QUIC } else { TCP_AFTER };
                each(quic, Duration::ZERO).chain(each(tcp, later)).collect()
            }
        };
        plan.sort_by_key(|attempt| attempt.after);
        plan
    }

    /// A plan for [`Transport::Auto`] on this network was won by QUIC, or by TCP.
    pub(crate) fn won(&mut self, now: Duration, network: &Network, over_quic: bool) {
        let known = match self.of(Some(network)) {
            _ if over_quic => Known::Quic,
            // QUIC was not tried.
            Some(Known::NoQuic { until, .. }) if now < until => return,
            Some(Known::NoQuic { in_a_row, .. }) => Known::no_quic(now, in_a_row + 1),
            Some(Known::Quic) | None => Known::no_quic(now, 0),
        };
        self.learn(network, known);
    }

    /// QUIC shook hands on this network, and then nothing came.
    pub(crate) fn quic_fell_silent(&mut self, now: Duration, network: &Network) {
        self.learn(network, Known::no_quic(now, 0));
    }

    fn learn(&mut self, network: &Network, known: Known) {
        self.known.retain(|(other, _)| other != network);
        if self.known.len() == NETWORKS_MAX {
            self.known.pop_front();
        }
        self.known.push_back((network.clone(), known));
    }
}

impl Known {
    fn no_quic(now: Duration, in_a_row: u32) -> Self {
        let in_a_row = in_a_row.min(NO_QUIC_DOUBLINGS);
        Self::NoQuic { until: now + NO_QUIC_FIRST * 2u32.pow(in_a_row), in_a_row }
    }
}

#[cfg(test)]
mod tests {
    use super::Transport::{Auto, Quic, Tcp};
    use super::*;

    fn minutes(n: u64) -> Duration {
        Duration::from_secs(60 * n)
    }

    fn network(n: u8) -> Network {
        Network::Local(IpAddr::from([10, 0, 0, n]))
    }

    /// Transport, last byte of the address, milliseconds.
    fn plan(
        networks: &Networks,
        now: Duration,
        on: &Network,
        transport: Transport,
        addresses: u8,
    ) -> Vec<(Transport, u8, Option<u128>)> {
        let addresses: Vec<_> = (1..=addresses).map(|n| SocketAddr::from(([192, 0, 2, n], 1))).collect();
        let plan = networks.plan(now, Some(on), transport, &addresses);
        let line = |a: Attempt| {
            let IpAddr::V4(ip) = a.address.ip() else { panic!("{a:?}") };
            (if a.over_quic { Quic } else { Tcp }, ip.octets()[3], a.after.map(|after| after.as_millis()))
        };
        plan.into_iter().map(line).collect()
    }

    #[test]
    fn quic_goes_first_and_tcp_soon_after() {
        let networks = Networks::default();
        let plan = |transport, addresses| plan(&networks, minutes(0), &network(1), transport, addresses);
        assert_eq!(plan(Auto, 1), [(Quic, 1, Some(0)), (Tcp, 1, Some(300))]);
        assert_eq!(
            plan(Auto, 2),
            [(Quic, 1, Some(0)), (Quic, 2, Some(300)), (Tcp, 1, Some(300)), (Tcp, 2, Some(600))]
        );
        assert_eq!(plan(Tcp, 2), [(Tcp, 1, Some(0)), (Tcp, 2, Some(300))]);
        assert_eq!(plan(Quic, 1), [(Quic, 1, Some(0))]);
        assert_eq!(plan(Auto, 0), []);
        assert_eq!(plan(Auto, 9).len(), 2 * ADDRESSES_MAX);
        assert_eq!(networks.plan(minutes(0), None, Auto, &[]), []);
    }

    #[test]
    fn what_happened_on_a_network_is_remembered_for_a_while() {
        let race = vec![(Quic, 1, Some(0)), (Tcp, 1, Some(300))];
        let patient = vec![(Quic, 1, Some(0)), (Tcp, 1, Some(1000))];
        let tcp = vec![(Tcp, 1, Some(0)), (Quic, 1, None)];
        let mut networks = Networks::default();
        let check = |networks: &Networks, now, on, expected: &Vec<_>| {
            assert_eq!(&plan(networks, now, &network(on), Auto, 1), expected, "after {now:?} on {on}");
        };
        networks.won(minutes(0), &network(1), false);
        networks.won(minutes(0), &network(2), true);
        for (now, on, expected) in
            [(0, 1, &tcp), (4, 1, &tcp), (5, 1, &race), (99, 2, &patient), (0, 3, &race)]
        {
            check(&networks, minutes(now), on, expected);
        }
        // Winning again while QUIC does not run says nothing; when it does, the time doubles, up to 40 minutes.
        networks.won(minutes(4), &network(1), false);
        check(&networks, minutes(5), 1, &race);
        let mut now = 5;
        for lasts in [10, 20, 40, 40] {
            networks.won(minutes(now), &network(1), false);
            check(&networks, minutes(now + lasts - 1), 1, &tcp);
            now += lasts;
            check(&networks, minutes(now), 1, &race);
        }
        networks.won(minutes(now), &network(1), true);
        check(&networks, minutes(now), 1, &patient);
        networks.quic_fell_silent(minutes(now), &network(1));
        check(&networks, minutes(now + 4), 1, &tcp);
        check(&networks, minutes(now + 5), 1, &race);
        // As a last resort it is tried where it was remembered not to work.
        networks.won(minutes(now + 1), &network(1), true);
        check(&networks, minutes(now + 1), 1, &patient);
    }

    #[test]
    fn few_networks_are_remembered() {
        let mut networks = Networks::default();
        for n in 0..=250 {
            networks.won(minutes(0), &network(n), false);
            networks.won(minutes(0), &network(7), false);
            networks.quic_fell_silent(minutes(0), &network(7));
        }
        assert_eq!(networks.known.len(), NETWORKS_MAX);
        assert!(networks.of(Some(&network(7))).is_some() && networks.of(Some(&network(250))).is_some());
        assert!(networks.of(Some(&network(8))).is_none());
    }
}
