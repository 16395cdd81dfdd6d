//! The resolver against a list of everything that was ever written.

use bytes::Bytes;
use tern_store::Version;
use tern_store::resolver::{ReadSet, Resolver, Verdict};

use crate::input::Input;

const START: Version = Version(100);

fn key(n: u8) -> Bytes {
    Bytes::copy_from_slice(&[n])
}

fn range(input: &mut Input<'_>) -> (u8, u8) {
    let (a, b) = (input.byte() % 16, input.byte() % 16);
    (a.min(b), a.max(b))
}

/// Never a commit that should conflict, never a conflict without a reason; "too old" only below what is remembered.
pub fn resolver(input: &[u8]) {
    let mut input = Input(input);
    let (keys_max, clears_max) = (usize::from(input.byte() % 12) + 1, usize::from(input.byte() % 4) + 1);
    let mut resolver = Resolver::new(START, keys_max, clears_max);
    // Version, first key, key after the last.
    let mut written: Vec<(Version, u8, u8)> = Vec::new();
    let mut now = START;
    let (mut keys_written, mut clears_written) = (Vec::new(), Vec::new());
    while !input.is_empty() {
        let choice = input.byte();
        if choice & 1 == 0 {
            if choice & 2 == 0 || now == START {
                now.0 += 1;
            }
            let keys: Vec<u8> = (0..choice >> 2 & 3).map(|_| input.byte() % 16).collect();
            let clears: Vec<_> = (0..choice >> 4 & 1).map(|_| range(&mut input)).collect();
            written.extend(keys.iter().map(|k| (now, *k, *k + 1)));
            written.extend(clears.iter().map(|(b, e)| (now, *b, *e)));
            let keys: Vec<_> = keys.into_iter().map(key).collect();
            let clears: Vec<_> = clears.into_iter().map(|(b, e)| (key(b), key(e))).collect();
            resolver.record(now, keys.iter(), clears.iter());
            keys_written.extend(keys.iter().map(|_| now));
            clears_written.extend(clears.iter().map(|_| now));
        } else {
            let at = Version(now.0 - u64::from(input.byte() % 16).min(now.0 - START.0));
            let keys: Vec<u8> = (0..choice >> 2 & 3).map(|_| input.byte() % 16).collect();
            let ranges: Vec<_> = (0..choice >> 4 & 3).map(|_| range(&mut input)).collect();
            let changed = |b: u8, e: u8| written.iter().any(|w| w.0 > at && w.1.max(b) < w.2.min(e));
            let conflict =
                keys.iter().any(|k| changed(*k, *k + 1)) || ranges.iter().any(|(b, e)| changed(*b, *e));
            let expected = match (keys.is_empty() && ranges.is_empty(), at < resolver.floor(), conflict) {
                (true, ..) | (false, false, false) => Verdict::Commit,
                (false, true, _) => Verdict::TooOld,
                (false, false, true) => Verdict::Conflict,
            };
            let reads = ReadSet {
                keys: keys.into_iter().map(key).collect(),
                ranges: ranges.into_iter().map(|(b, e)| (key(b), key(e))).collect(),
            };
            assert_eq!(resolver.check(at, &reads), expected);
        }
        // As many as it is to remember are remembered.
        let forgotten = |written: &[Version], max| written.iter().nth_back(max).copied().unwrap_or(START);
        let floor_max = forgotten(&keys_written, keys_max).max(forgotten(&clears_written, clears_max));
        assert!(resolver.floor() <= floor_max);
    }
}
