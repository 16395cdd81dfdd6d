//! How many connections of one address have not logged in yet. Before its login a connection costs a handshake and
//! memory and nobody knows whose it is, so its address is all that it can be counted by.

use core::net::IpAddr;

use hashbrown::HashMap;

use crate::limits::ADDRESSES_MAX;

/// What counts as one address: an IPv4 address, or the /64 network of an IPv6 address, of which one subscriber has all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// An IPv4 address, also when a socket for both shows it as an IPv6 one.
    V4([u8; 4]),
    /// The first 64 bits.
    V6([u8; 8]),
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

/// The connections of one shard that have not logged in, by where they come from.
#[derive(Debug)]
pub struct BeforeLogin {
    max: u32,
    /// None is 0, so there are no more than there are such connections, nor than `ADDRESSES_MAX`.
    counts: HashMap<Source, u32>,
}

impl BeforeLogin {
    /// At most `max` of one address.
    pub fn new(max: u32) -> Self {
        Self { max, counts: HashMap::new() }
    }

    /// Whether one more may come; if so, it is counted, and [`Self::leave`] must follow.
    pub fn enter(&mut self, from: Source) -> bool {
        if let Some(count) = self.counts.get_mut(&from) {
            let enters = *count < self.max;
            *count += u32::from(enters);
            return enters;
        }
        let enters = self.max > 0 && self.counts.len() < ADDRESSES_MAX;
        if enters {
            self.counts.insert(from, 1);
        }
        enters
    }

    /// One that was let in has logged in, or has ended.
    ///
    /// # Panics
    /// When none was.
    pub fn leave(&mut self, from: Source) {
        let count = self.counts.get_mut(&from);
        let count = count.expect("a connection leaves once, after it has entered");
        *count -= 1;
        if *count == 0 {
            self.counts.remove(&from);
        }
        if self.counts.is_empty() {
            // A storm's room is given back.
            self.counts.shrink_to_fit();
        }
    }

    /// Whether this address has used up half of what it may have. Beyond, QUIC asks for a proof that the client is
    /// there: forged addresses then leave the other half to whom it belongs.
    pub fn is_half_full(&self, from: Source) -> bool {
        self.counts.get(&from).is_some_and(|count| *count > self.max / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(address: &str) -> Source {
        address.parse::<IpAddr>().expect("an address").into()
    }

    #[test]
    fn what_is_one_address() {
        #[track_caller]
        fn check(one: &str, other: &str, same: bool) {
            assert_eq!(source(one) == source(other), same, "{one} {other}");
        }
        check("192.0.2.1", "192.0.2.1", true);
        check("192.0.2.1", "192.0.2.2", false);
        check("::ffff:192.0.2.1", "192.0.2.1", true);
        check("::ffff:192.0.2.1", "::ffff:192.0.2.2", false);
        check("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", true);
        check("2001:db8:1:2::1", "2001:db8:1:3::1", false);
    }

    #[test]
    fn each_address_has_its_own_places() {
        let (one, other) = (source("192.0.2.1"), source("2001:db8::1"));
        let mut gate = BeforeLogin::new(3);
        assert_eq!([(); 5].map(|()| gate.enter(one)), [true, true, true, false, false]);
        assert!(gate.enter(other), "others are not in the way");
        gate.leave(one);
        assert_eq!([gate.enter(one), gate.enter(one)], [true, false], "one place became free");
        for from in [one, one, one, other] {
            gate.leave(from);
        }
        assert!(gate.counts.is_empty(), "nothing is kept of who has gone");
        assert!(!BeforeLogin::new(0).enter(one));
    }

    #[test]
    fn half_is_told() {
        let one = source("192.0.2.1");
        let mut gate = BeforeLogin::new(4);
        let halves = [(); 4].map(|()| {
            gate.enter(one);
            gate.is_half_full(one)
        });
        assert_eq!(halves, [false, false, true, true]);
    }

    #[test]
    fn addresses_are_bounded() {
        let mut gate = BeforeLogin::new(3);
        let address = |n: usize| Source::V6((n as u64).to_be_bytes());
        assert!((0..ADDRESSES_MAX).all(|n| gate.enter(address(n))));
        assert!(!gate.enter(address(ADDRESSES_MAX)), "one too many");
        assert!(gate.enter(address(7)), "who is there already is not in the way of others");
        gate.leave(address(8));
        assert!(gate.enter(address(ADDRESSES_MAX)));
    }
}
