//! Agreement on what both ends speak. TLS settles the application protocol ([`crate::limits::ALPN`]); the login settles
//! the version and the optional features within it.

use alloc::vec::Vec;

use crate::limits::{VERSION_MAX, VERSION_MIN};

/// What both ends speak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    /// The newest version common to both.
    pub version: u32,
    /// The features known to both, rising.
    pub features: Vec<u32>,
}

/// What one end speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speaks<'a> {
    /// The versions, first and last.
    pub versions: (u32, u32),
    /// The features.
    pub features: &'a [u32],
}

/// What this build speaks.
pub const OURS: Speaks<'static> = Speaks { versions: (VERSION_MIN, VERSION_MAX), features: &[] };

/// The newest version and the features that both ends know; `None` when no version is common.
pub fn agree(ours: Speaks<'_>, theirs: Speaks<'_>) -> Option<Agreed> {
    let version = ours.versions.1.min(theirs.versions.1);
    if version < ours.versions.0 || version < theirs.versions.0 {
        return None;
    }
    let mut features: Vec<u32> =
        theirs.features.iter().copied().filter(|f| ours.features.contains(f)).collect();
    features.sort_unstable();
    features.dedup();
    Some(Agreed { version, features })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases() {
        #[track_caller]
        fn check(ours: (u32, u32, &[u32]), theirs: (u32, u32, &[u32]), expected: Option<(u32, &[u32])>) {
            let speaks = |(a, b, features)| Speaks { versions: (a, b), features };
            for (a, b) in [(ours, theirs), (theirs, ours)] {
                let agreed = agree(speaks(a), speaks(b));
                assert_eq!(agreed.as_ref().map(|a| (a.version, &*a.features)), expected);
            }
        }
        check((1, 1, &[]), (1, 1, &[]), Some((1, &[])));
        check((1, 1, &[]), (1, 3, &[4]), Some((1, &[])));
        check((1, 3, &[9, 4]), (2, 5, &[4, 7, 9]), Some((3, &[4, 9])));
        check((1, 2, &[]), (3, 4, &[]), None);
        check((3, 1, &[]), (1, 1, &[]), None);
    }
}
