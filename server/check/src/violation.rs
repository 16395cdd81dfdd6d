//! What was broken, and what shows it.

use std::fmt;

/// The nine promises of `spec/ordering.md`, by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Promise {
    /// 1: what was acknowledged is there.
    SentMeansSafe = 1,
    /// 2: one order, without holes, the same for everybody.
    DenseOrder = 2,
    /// 3: however often it is sent, it is there once, and answered with the same seq.
    ExactlyOnce = 3,
    /// 4: acknowledged before the other was sent: above it.
    RealTimeOrder = 4,
    /// 5: a device gets everything, and knows that it has everything.
    GapFreeSync = 5,
    /// 6: watermarks are true, and do not fall.
    ReceiptsOnlyRise = 6,
    /// 7: nobody sees what is outside of their membership.
    MembershipCuts = 7,
    /// 8: what somebody costs is bounded.
    BoundedCost = 8,
    /// 9: an unknown outcome is zero times or once, and no effect is none.
    UnknownIsNotFailed = 9,
}

impl Promise {
    /// All of them, by number.
    pub const ALL: [Self; 9] = [
        Self::SentMeansSafe,
        Self::DenseOrder,
        Self::ExactlyOnce,
        Self::RealTimeOrder,
        Self::GapFreeSync,
        Self::ReceiptsOnlyRise,
        Self::MembershipCuts,
        Self::BoundedCost,
        Self::UnknownIsNotFailed,
    ];
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::SentMeansSafe => "sent means safe",
            Self::DenseOrder => "one order without holes",
            Self::ExactlyOnce => "exactly once",
            Self::RealTimeOrder => "real time order",
            Self::GapFreeSync => "catching up without gaps",
            Self::ReceiptsOnlyRise => "receipts only rise",
            Self::MembershipCuts => "membership cuts exactly",
            Self::BoundedCost => "slow or dead clients cost little",
            Self::UnknownIsNotFailed => "unknown is not failed",
        };
        write!(f, "promise {} ({name})", *self as u8)
    }
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub promise: Promise,
    /// How: `lost`, `doubled`, `gap` …
    pub rule: &'static str,
    /// What is wrong, in a sentence.
    pub what: String,
    /// The few operations and entries that show it, in their order.
    pub excerpt: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.promise, self.rule, self.what)?;
        self.excerpt.iter().try_for_each(|line| write!(f, "\n    {line}"))
    }
}

/// Panics with the first few, if there are any.
///
/// # Panics
/// When a promise was broken.
#[track_caller]
pub fn assert_none(violations: &[Violation], when: &str) {
    let first: Vec<String> = violations.iter().take(10).map(ToString::to_string).collect();
    assert!(
        violations.is_empty(),
        "{when}: {} violations, the first:\n{}",
        violations.len(),
        first.join("\n")
    );
}
