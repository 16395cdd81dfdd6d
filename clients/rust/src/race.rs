//! Which transport and address to try when.
//!
//! QUIC is wanted: it survives a change of address. Some networks swallow UDP, and nobody tells; so TCP is tried a moment
//! later, and what has shaken hands first is used. The rules, in the manner of RFC 8305 ("happy eyeballs"):
//!
//! 1. An address that this device has no route to is left out. Without a route to any, TCP alone is tried, which says
//!    why at once.
//! 2. The families take turns, beginning with that of the resolver's first address; [`ADDRESSES_MAX`] are tried.
//! 3. With [`Transport::Auto`] an address is tried over QUIC and then over TCP before the next address is. QUIC is tried
//!    at the first address of each family: where UDP is swallowed, the others would not help.
//! 4. The second try begins [`PATIENCE`] after the first, or [`PATIENCE_KNOWN_QUIC`] where QUIC is known to work: there a
//!    slow answer is rather a busy server's, which should not shake hands twice. Each further try begins
//!    [`NEXT_AFTER`] after the one before. A try that fails makes the next begin at once.
//! 5. Where UDP is known to be swallowed (see [`Networks`]), QUIC is tried only when every try over TCP has failed.
//! 6. When every try over TCP has failed, QUIC is given [`QUIC_LEAST`] since its last try began; then all is given up.
//!    Where somebody answered over TCP, if only to refuse, the server is most likely down and the way there known: then
//!    three times as long as the answer took is enough, or [`QUIC_LEAST_ANSWERED`] when that is longer.
//!
//! [`Networks`]: crate::networks::Networks

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::config::Transport;

/// See rule 4.
const PATIENCE: Duration = Duration::from_millis(300);
const PATIENCE_KNOWN_QUIC: Duration = Duration::from_secs(1);
/// What RFC 8305 advises.
const NEXT_AFTER: Duration = Duration::from_millis(250);
/// Addresses of the server that are tried.
const ADDRESSES_MAX: usize = 4;
/// A handshake takes this long when its first packet is lost, which is sent again after a second, and the way there and
/// back is half a second long.
const QUIC_LEAST: Duration = Duration::from_millis(1500);
const QUIC_LEAST_ANSWERED: Duration = Duration::from_millis(500);

const _: () = assert!(
    PATIENCE_KNOWN_QUIC.as_millis() + ADDRESSES_MAX as u128 * NEXT_AFTER.as_millis() <= 2000,
    "where UDP is swallowed, every address is tried over TCP within 2 s: the tries are those, and two over QUIC"
);

/// An address of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) to: SocketAddr,
    /// This device's own address on the way there; `None`: no way leads there.
    pub(crate) from: Option<IpAddr>,
}

/// What is known of QUIC where the device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Udp {
    Unknown,
    Works,
    Swallowed,
}

/// One try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) over_quic: bool,
    pub(crate) address: SocketAddr,
    /// Since the one before began; `None`: only when all before have failed.
    after: Option<Duration>,
}

/// The tries for a server that is reached by these routes, in the order in which they begin.
pub(crate) fn plan(transport: Transport, udp: Udp, routes: &[Route]) -> Vec<Attempt> {
    let addresses = in_turn(routes);
    let nowhere = routes.iter().all(|route| route.from.is_none());
    let first_of_family = |address: &&SocketAddr| {
        addresses.iter().find(|other| other.is_ipv6() == address.is_ipv6()) == Some(*address)
    };
    let quic = |address: &SocketAddr| (true, *address);
    let tcp = |address: &SocketAddr| (false, *address);
    let (now, last): (Vec<_>, Vec<_>) = match (transport, udp) {
        (Transport::Auto, _) if nowhere => (addresses.iter().map(tcp).collect(), Vec::new()),
        (Transport::Tcp, _) => (addresses.iter().map(tcp).collect(), Vec::new()),
        (Transport::Quic, _) => (addresses.iter().map(quic).collect(), Vec::new()),
        (Transport::Auto, Udp::Swallowed) => (
            addresses.iter().map(tcp).collect(),
            addresses.iter().filter(first_of_family).map(quic).collect(),
        ),
        (Transport::Auto, Udp::Unknown | Udp::Works) => {
            let both =
                |address| Some(address).filter(first_of_family).map(quic).into_iter().chain([tcp(address)]);
            (addresses.iter().flat_map(both).collect(), Vec::new())
        }
    };
    let patience = if udp == Udp::Works { PATIENCE_KNOWN_QUIC } else { PATIENCE };
    let delays = |first| [first, Some(patience)].into_iter().chain(std::iter::repeat(Some(NEXT_AFTER)));
    let now = now.into_iter().zip(delays(Some(Duration::ZERO)));
    let last = last.into_iter().zip(delays(None));
    now.chain(last).map(|((over_quic, address), after)| Attempt { over_quic, address, after }).collect()
}

/// Rules 1 and 2.
fn in_turn(routes: &[Route]) -> Vec<SocketAddr> {
    let any = routes.iter().any(|route| route.from.is_some());
    let usable = routes.iter().filter(|route| route.from.is_some() || !any).map(|route| route.to);
    let (v6, v4): (VecDeque<_>, VecDeque<_>) = usable.partition(SocketAddr::is_ipv6);
    let v6_first = routes.iter().find(|r| r.from.is_some() || !any).is_some_and(|r| r.to.is_ipv6());
    let (mut one, mut other) = if v6_first { (v6, v4) } else { (v4, v6) };
    let mut addresses = Vec::new();
    while addresses.len() < ADDRESSES_MAX
        && let Some(next) = one.pop_front().or_else(|| other.pop_front())
    {
        addresses.push(next);
        if !other.is_empty() {
            std::mem::swap(&mut one, &mut other);
        }
    }
    addresses
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Begin(Attempt),
    /// For a try to end, or until then.
    Wait(Option<Duration>),
    Over,
}

/// A plan that is being carried out. Times are since it began.
#[derive(Debug)]
pub(crate) struct Race {
    waiting: VecDeque<Attempt>,
    /// And when it began.
    running: Vec<(Attempt, Duration)>,
    next_at: Duration,
    any_over_tcp: bool,
    quic_least: Duration,
}

impl Race {
    pub(crate) fn new(plan: Vec<Attempt>) -> Self {
        let any_over_tcp = plan.iter().any(|attempt| !attempt.over_quic);
        let (next_at, quic_least) = (Duration::ZERO, QUIC_LEAST_ANSWERED);
        Self { waiting: plan.into(), running: Vec::new(), next_at, any_over_tcp, quic_least }
    }

    /// To be asked at the beginning and again after each answer and each call of [`failed`](Self::failed).
    pub(crate) fn step(&mut self, now: Duration) -> Step {
        let next = self.waiting.front().map(|attempt| attempt.after.map(|_| self.next_at));
        match next {
            Some(Some(at)) if now < at && !self.running.is_empty() => Step::Wait(Some(at)),
            Some(None) if !self.running.is_empty() => Step::Wait(None),
            Some(_) => self.begin(now),
            None => match self.given_up_at() {
                None => Step::Wait(None),
                Some(at) if now < at => Step::Wait(Some(at)),
                Some(_) => Step::Over,
            },
        }
    }

    fn begin(&mut self, now: Duration) -> Step {
        let Some(attempt) = self.waiting.pop_front() else { return Step::Over };
        self.running.push((attempt, now));
        self.next_at = now + self.waiting.front().and_then(|next| next.after).unwrap_or_default();
        Step::Begin(attempt)
    }

    /// With nothing left to begin. `None`: not before the tries have ended.
    fn given_up_at(&self) -> Option<Duration> {
        let quic_alone = self.any_over_tcp && self.running.iter().all(|(attempt, _)| attempt.over_quic);
        match self.running.iter().map(|(_, began)| *began).max() {
            None => Some(Duration::ZERO),
            Some(last) => quic_alone.then_some(last + self.quic_least),
        }
    }

    /// `answered`: by whoever is at that address.
    pub(crate) fn failed(&mut self, now: Duration, failed: Attempt, answered: bool) {
        if let Some(at) = self.running.iter().position(|(attempt, _)| *attempt == failed) {
            let (_, began) = self.running.swap_remove(at);
            let least = if answered { (now - began) * 3 } else { QUIC_LEAST };
            if !failed.over_quic {
                self.quic_least = self.quic_least.max(least);
            }
        }
        self.next_at = now;
    }

    /// When one has shaken hands: whether QUIC had been tried at its address for as long as TCP is held back for its sake,
    /// and nothing was heard. A try over QUIC that failed was answered, or never left this device. Of another address
    /// nothing is learnt: that may be a node that is down.
    pub(crate) fn quic_was_silent(&self, now: Duration, winner: Attempt) -> bool {
        let silent = |(attempt, began): &(Attempt, Duration)| {
            attempt.over_quic && attempt.address == winner.address && now - *began >= PATIENCE
        };
        !winner.over_quic && self.running.iter().any(silent)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::Transport::{Auto, Quic, Tcp};
    use super::*;

    /// `4` to the server's address 192.0.2.4, `64` to 2001:db8::40; negative: no route.
    fn routes(of: &[i16]) -> Vec<Route> {
        let route = |&n: &i16| {
            let byte = n.unsigned_abs();
            let v6 = byte >= 60;
            let (to, from) = if v6 {
                (
                    IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, byte]),
                    IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]),
                )
            } else {
                (IpAddr::from([192, 0, 2, byte as u8]), IpAddr::from([10, 0, 0, 1]))
            };
            Route { to: SocketAddr::new(to, 7443), from: (n > 0).then_some(from) }
        };
        of.iter().map(route).collect()
    }

    fn number(address: SocketAddr) -> u16 {
        match address.ip() {
            IpAddr::V4(ip) => ip.octets()[3].into(),
            IpAddr::V6(ip) => ip.segments()[7],
        }
    }

    fn transport(attempt: &Attempt) -> Transport {
        if attempt.over_quic { Quic } else { Tcp }
    }

    #[test]
    fn families_take_turns_and_each_is_tried_over_both_transports() {
        #[track_caller]
        fn check(transports: (Transport, Udp), of: &[i16], expected: &[(Transport, u16, Option<u64>)]) {
            let plan = plan(transports.0, transports.1, &routes(of));
            let line = |a: &Attempt| (transport(a), number(a.address), a.after.map(|d| d.as_millis() as u64));
            assert_eq!(plan.iter().map(line).collect::<Vec<_>>(), expected);
        }
        let (unknown, works) = ((Auto, Udp::Unknown), (Auto, Udp::Works));
        check(unknown, &[], &[]);
        check(unknown, &[1], &[(Quic, 1, Some(0)), (Tcp, 1, Some(300))]);
        check(works, &[1], &[(Quic, 1, Some(0)), (Tcp, 1, Some(1000))]);
        let both = [(Quic, 64, Some(0)), (Tcp, 64, Some(300)), (Quic, 4, Some(250)), (Tcp, 4, Some(250))];
        check(unknown, &[64, 4], &both);
        // However many a family has, the other has its turn.
        let many = [
            (Quic, 61, Some(0)),
            (Tcp, 61, Some(1000)),
            (Quic, 4, Some(250)),
            (Tcp, 4, Some(250)),
            (Tcp, 62, Some(250)),
            (Tcp, 63, Some(250)),
        ];
        check(works, &[61, 62, 63, 64, 65, 4], &many);
        check(
            (Tcp, Udp::Unknown),
            &[1, 2, 3],
            &[(Tcp, 1, Some(0)), (Tcp, 2, Some(300)), (Tcp, 3, Some(250))],
        );
        check((Quic, Udp::Unknown), &[4, 64], &[(Quic, 4, Some(0)), (Quic, 64, Some(300))]);
        let tcp_first = [(Tcp, 64, Some(0)), (Tcp, 4, Some(300)), (Quic, 64, None), (Quic, 4, Some(300))];
        check((Auto, Udp::Swallowed), &[64, 4], &tcp_first);
        // Without a route to the first, and without any.
        check(unknown, &[-64, -65, 4], &[(Quic, 4, Some(0)), (Tcp, 4, Some(300))]);
        for udp in [Udp::Unknown, Udp::Swallowed] {
            check((Auto, udp), &[-64, -4], &[(Tcp, 64, Some(0)), (Tcp, 4, Some(300))]);
        }
    }

    /// How a try ends, in milliseconds after it began; one that is not named never does.
    #[derive(Clone, Copy)]
    enum End {
        Fails(u64),
        Refused(u64),
        Stands(u64),
    }
    use End::{Fails, Refused, Stands};

    /// What began when, and how it ended: who won when, and whether QUIC was silent.
    type Ran = (Vec<(Transport, u16, u64)>, Option<(Transport, u16, u64, bool)>, u64);

    fn run(plan: Vec<Attempt>, ends: &[(Transport, u16, End)]) -> Ran {
        let mut race = Race::new(plan);
        let (mut now, mut began) = (Duration::ZERO, Vec::new());
        let mut ending = BTreeMap::new();
        let millis = |d: Duration| d.as_millis() as u64;
        loop {
            let until = match race.step(now) {
                Step::Over => return (began, None, millis(now)),
                Step::Begin(attempt) => {
                    began.push((transport(&attempt), number(attempt.address), millis(now)));
                    let of = |(t, n, _): &&(Transport, u16, End)| {
                        *t == transport(&attempt) && *n == number(attempt.address)
                    };
                    if let Some((.., end)) = ends.iter().find(of) {
                        let (Fails(after) | Refused(after) | Stands(after)) = *end;
                        ending.insert((now + Duration::from_millis(after), began.len()), (attempt, *end));
                    }
                    continue;
                }
                Step::Wait(until) => until,
            };
            match ending.first_key_value() {
                Some((&(at, key), &(attempt, end))) if until.is_none_or(|until| at <= until) => {
                    now = at;
                    ending.remove(&(at, key));
                    if let Stands(_) = end {
                        let won = (transport(&attempt), number(attempt.address), millis(now));
                        return (
                            began,
                            Some((won.0, won.1, won.2, race.quic_was_silent(now, attempt))),
                            won.2,
                        );
                    }
                    race.failed(now, attempt, matches!(end, Refused(_)));
                }
                _ => now = until.expect("it waits for something"),
            }
        }
    }

    #[test]
    fn the_first_to_shake_hands_wins() {
        type Won = Option<(Transport, u16, u64, bool)>;
        #[track_caller]
        fn check(
            plan: &[Attempt],
            ends: &[(Transport, u16, End)],
            began: &[(Transport, u16, u64)],
            won: Won,
            over: u64,
        ) {
            assert_eq!(run(plan.to_vec(), ends), (began.to_vec(), won, over));
        }
        let auto = |udp, of: &[i16]| plan(Auto, udp, &routes(of));
        let (one, two) = (auto(Udp::Unknown, &[4]), auto(Udp::Unknown, &[64, 4]));
        let (q, t) = (Quic, Tcp);
        // A fast and a slow network: the second address is not needed.
        check(&two, &[(q, 64, Stands(20))], &[(q, 64, 0)], Some((q, 64, 20, false)), 20);
        let slow = [(q, 64, 0), (t, 64, 300)];
        check(&two, &[(q, 64, Stands(500))], &slow, Some((q, 64, 500, false)), 500);
        let works = auto(Udp::Works, &[64, 4]);
        check(&works, &[(q, 64, Stands(900))], &[(q, 64, 0)], Some((q, 64, 900, false)), 900);
        // UDP is swallowed.
        let both = [(q, 4, 0), (t, 4, 300)];
        check(&one, &[(t, 4, Stands(40))], &both, Some((t, 4, 340, true)), 340);
        // A node is down, and another one is not: the network may be good.
        let nodes = auto(Udp::Unknown, &[4, 5]);
        let began = [(q, 4, 0), (t, 4, 300), (t, 5, 301)];
        check(&nodes, &[(t, 4, Refused(1)), (t, 5, Stands(9))], &began, Some((t, 5, 310, false)), 310);
        let began = [(q, 4, 0), (t, 4, 300), (t, 5, 550)];
        check(&nodes, &[(t, 5, Stands(9))], &began, Some((t, 5, 559, false)), 559);
        // The first address leads nowhere.
        let next = [(q, 64, 0), (t, 64, 300), (q, 4, 550)];
        check(&two, &[(q, 4, Stands(30))], &next, Some((q, 4, 580, false)), 580);
        // There, TCP is refused.
        let next = [(q, 64, 0), (t, 64, 300), (q, 4, 301)];
        let ends = [(t, 64, Fails(1)), (q, 4, Stands(10))];
        check(&two, &ends, &next, Some((q, 4, 311, false)), 311);
        // Over QUIC the server refuses: TCP is not held back, and nothing is said about the network.
        let at_once = [(q, 4, 0), (t, 4, 10)];
        check(&one, &[(q, 4, Fails(10)), (t, 4, Stands(400))], &at_once, Some((t, 4, 410, false)), 410);
        // The first address fails at once; QUIC to the second has not had its time when TCP wins.
        let ends = [(q, 64, Fails(0)), (t, 64, Fails(0)), (t, 4, Stands(10))];
        let began = [(q, 64, 0), (t, 64, 0), (q, 4, 0), (t, 4, 250)];
        check(&two, &ends, &began, Some((t, 4, 260, false)), 260);
        // TCP is blocked, say: QUIC gets the time that a lost packet takes, and no more.
        check(&one, &[(t, 4, Fails(1))], &both, None, 1500);
        check(&one, &[(t, 4, Fails(1)), (q, 4, Stands(1100))], &both, Some((q, 4, 1100, false)), 1100);
        check(&one, &[(t, 4, Fails(1)), (q, 4, Fails(310))], &both, None, 310);
        check(&one, &[(t, 4, Fails(3000))], &both, None, 3300);
        // The server is down, nearby and far away.
        check(&one, &[(t, 4, Refused(1))], &both, None, 500);
        check(&one, &[(t, 4, Refused(400))], &both, None, 1200);
        check(&one, &[(t, 4, Refused(400)), (q, 4, Stands(1100))], &both, Some((q, 4, 1100, false)), 1100);
        let began = [(q, 64, 0), (t, 64, 300), (q, 4, 301), (t, 4, 551)];
        check(&two, &[(t, 64, Refused(1)), (t, 4, Fails(9))], &began, None, 1801);
        // So does the last resort, at each family's address.
        let last = auto(Udp::Swallowed, &[64, 4]);
        let ends = [(t, 64, Fails(5)), (t, 4, Fails(5)), (q, 4, Stands(1100))];
        let began = [(t, 64, 0), (t, 4, 5), (q, 64, 10), (q, 4, 310)];
        check(&last, &ends, &began, Some((q, 4, 1410, false)), 1410);
        check(&last, &ends[..2], &began, None, 1810);
        // Not tried, nothing learnt.
        check(&last, &[(t, 64, Stands(299))], &[(t, 64, 0)], Some((t, 64, 299, false)), 299);
        check(&[], &[], &[], None, 0);
        // Alone, QUIC has all the time that the caller gives it.
        let mut alone = Race::new(plan(Quic, Udp::Unknown, &routes(&[4])));
        assert!(matches!(alone.step(Duration::ZERO), Step::Begin(_)));
        assert_eq!(alone.step(Duration::from_secs(9)), Step::Wait(None));
    }
}
