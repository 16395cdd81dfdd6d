//! Random numbers that depend on what they are for, and not on what was asked before.

/// A place in a tree of random numbers: the same way from the same seed leads to the same numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// Numbers of its own for one of many.
    pub(super) fn of(self, which: u64) -> Self {
        Self(mix(self.0 ^ mix(which)))
    }

    /// From 0 up to, but not, 1.
    pub(super) fn share(self) -> f64 {
        // As many bits as an f64 has.
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True in this share of cases.
    pub(super) fn happens(self, share: f64) -> bool {
        self.share() < share
    }
}

/// A step of SplitMix64.
fn mix(z: u64) -> u64 {
    let z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
