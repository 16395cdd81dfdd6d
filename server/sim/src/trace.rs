//! Everything that happened, in order: the same seed gives the same, byte for byte.

use std::fmt::Write;
use std::time::Duration;

/// What becomes of the lines, besides their digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    Digest,
    /// They are kept.
    Lines,
    /// They are printed at once, among what the servers log.
    Print,
}

/// A digest of the lines, and the lines if they are kept.
pub struct Trace {
    keep: Keep,
    digest: u64,
    line: String,
    lines: String,
}

impl Trace {
    /// Without a line.
    pub fn new(keep: Keep) -> Self {
        Self { keep, digest: 0xCBF2_9CE4_8422_2325, line: String::new(), lines: String::new() }
    }

    /// Something happened.
    pub fn add(&mut self, at: Duration, who: &str, what: &str) {
        self.line.clear();
        let _ = writeln!(self.line, "{:>12.3} {who}: {what}", at.as_secs_f64());
        for byte in self.line.bytes() {
            // FNV-1a.
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
        match self.keep {
            Keep::Digest => {}
            Keep::Lines => self.lines.push_str(&self.line),
            Keep::Print => print!("{}", self.line),
        }
    }

    /// The digest and what was kept.
    pub fn take(&mut self) -> (u64, String) {
        (self.digest, std::mem::take(&mut self.lines))
    }
}
