//! Random numbers that a seed repeats: for whoever makes a run that is checked.

use std::ops::Range;

/// SplitMix64.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number of this range, which must not be empty.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.any() % (range.end - range.start)
    }

    /// Below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.within(0..bound)
    }

    /// True with so many chances in a thousand.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1_000) < per_mille
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.within(0..n) == 0
    }

    /// Numbers of its own for somebody else.
    pub fn split(&mut self) -> Self {
        Self(self.any())
    }
}

/// The seed of this run: `TERN_SEED`, or a new one, which is printed.
///
/// # Panics
/// When `TERN_SEED` is no number.
pub fn seed() -> u64 {
    let given = std::env::var("TERN_SEED").ok().map(|text| text.parse().expect("TERN_SEED is a number"));
    let seed = given.unwrap_or_else(|| {
        let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970");
        u64::from(now.subsec_nanos()) << 8 | u64::from(std::process::id() & 0xff)
    });
    println!("seed: TERN_SEED={seed}");
    seed
}
