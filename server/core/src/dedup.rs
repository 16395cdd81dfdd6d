//! Has this send been stored before? The window of a device's last sends answers nearly always; what is older is in the
//! log itself, which carries sender, device and `client_seq`. So there is no time after which a retry doubles.

use tern_protocol::ids::{ClientSeq, Seq};
use tern_protocol::limits::SEND_WINDOW;
use tern_protocol::model::SendWindow;

/// What a window says about a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Higher than everything stored: append it.
    New,
    /// Stored at this seq.
    Duplicate(Seq),
    /// Lower than the highest stored, and never stored.
    Stale,
    /// Older than the window: the log below this seq knows.
    BeforeWindow(Seq),
}

/// What `window` says about `client_seq`.
pub fn check(window: &SendWindow, client_seq: ClientSeq) -> Verdict {
    let Some(&(newest, _)) = window.sends.last() else { return Verdict::New };
    if client_seq > newest {
        return Verdict::New;
    }
    match window.sends.binary_search_by_key(&client_seq, |&(number, _)| number) {
        Ok(i) => Verdict::Duplicate(window.sends[i].1),
        Err(0) if window.sends.len() >= SEND_WINDOW => Verdict::BeforeWindow(window.sends[0].1),
        Err(_) => Verdict::Stale,
    }
}

/// Remembers that `client_seq` got `seq`, and forgets the oldest if the window is full.
///
/// # Panics
/// When either number does not rise: the caller has asked [`check`] and sequences densely.
pub fn record(window: &mut SendWindow, client_seq: ClientSeq, seq: Seq) {
    if let Some(&(newest, at)) = window.sends.last() {
        assert!(
            client_seq > newest && seq > at,
            "a send window must rise: {newest} at {at}, then {client_seq} at {seq}"
        );
    }
    if window.sends.len() >= SEND_WINDOW {
        window.sends.remove(0);
    }
    window.sends.push((client_seq, seq));
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn window(sends: impl IntoIterator<Item = (u64, u64)>) -> SendWindow {
        let mut window = SendWindow::default();
        for (client_seq, seq) in sends {
            record(&mut window, ClientSeq(client_seq), Seq(seq));
        }
        window
    }

    #[test]
    fn cases() {
        #[track_caller]
        fn check_(sends: &[(u64, u64)], client_seq: u64, expected: Verdict) {
            assert_eq!(check(&window(sends.iter().copied()), ClientSeq(client_seq)), expected);
        }
        check_(&[], 1, Verdict::New);
        check_(&[], 900, Verdict::New);
        check_(&[(5, 10)], 6, Verdict::New);
        check_(&[(5, 10)], 5, Verdict::Duplicate(Seq(10)));
        check_(&[(5, 10)], 4, Verdict::Stale);
        check_(&[(5, 10), (7, 11), (8, 40)], 7, Verdict::Duplicate(Seq(11)));
        check_(&[(5, 10), (7, 11), (8, 40)], 6, Verdict::Stale);
        let full: Vec<_> = (1..=100).map(|n| (n * 2, n * 3)).collect();
        check_(&full, 200, Verdict::Duplicate(Seq(300)));
        check_(&full, 74, Verdict::Duplicate(Seq(111)));
        check_(&full, 72, Verdict::BeforeWindow(Seq(111)));
        check_(&full, 75, Verdict::Stale);
        check_(&full, 201, Verdict::New);
    }

    #[test]
    fn keeps_the_newest() {
        let window = window((1..=1000).map(|n| (n, n)));
        assert_eq!(window.sends.len(), SEND_WINDOW);
        assert_eq!(
            window.sends[0],
            (ClientSeq(1000 - SEND_WINDOW as u64 + 1), Seq(1000 - SEND_WINDOW as u64 + 1))
        );
    }
}
