//! Has this send been stored before? The window of a device's last sends answers nearly always; what is older is in the
//! log itself, which carries sender, device and `client_seq`. So there is no time after which a retry doubles.
//!
//! The number is not all: a device whose memory went back in time (restored from a backup) numbers new messages as it had
//! numbered others. So what is found under the number is compared with what is sent, and when it is another, the number
//! is refused as used. It costs nothing but on the way of a duplicate, which reads the log anyway.

use tern_protocol::error::ErrorCode;
use tern_protocol::event::SendOk;
use tern_protocol::ids::{ClientSeq, ConversationId, Seq, UserId};
use tern_protocol::limits::SEND_WINDOW;
use tern_protocol::model::{Change, Entry, SendWindow, Sender};

/// Why a send is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// What the device is told.
    pub code: ErrorCode,
    /// When its number is at fault: the highest that the server has of this device in this
    /// conversation.
    pub highest: Option<ClientSeq>,
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Self { code, highest: None }
    }
}

/// A send that has to be looked up in the log, below `before`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// Whose.
    pub sender: Sender,
    /// Its number.
    pub client_seq: ClientSeq,
    /// What it asks for.
    pub change: Change,
    /// If it was stored, its seq is below this one.
    pub before: Seq,
    /// The highest number that the owner has of this device.
    pub highest: ClientSeq,
    /// This very try may have stored it, so that "no effect" would be wrong.
    pub maybe_stored: bool,
}

impl Search {
    /// The answer when this entry has the number.
    ///
    /// # Errors
    /// [`ErrorCode::ClientSeqUsed`] when it is something else.
    pub fn found(&self, conversation: ConversationId, entry: &Entry) -> Result<SendOk, Refusal> {
        if is_outcome(&self.change, self.sender.user, &entry.change) {
            Ok(SendOk { conversation, seq: entry.seq, time: entry.time, duplicate: true })
        } else {
            Err(self.refusal(ErrorCode::ClientSeqUsed))
        }
    }

    /// The answer when it is not in the log.
    pub fn absent(&self) -> Refusal {
        self.refusal(ErrorCode::ClientSeqStale)
    }

    fn refusal(&self, code: ErrorCode) -> Refusal {
        Refusal { code, highest: Some(self.highest) }
    }
}

/// Whether what is in the log may have come of what is asked. An entry shows what really changed: of those to be added,
/// the ones who were no members.
pub fn is_outcome(asked: &Change, sender: UserId, stored: &Change) -> bool {
    match (asked, stored) {
        (Change::Create { title, members }, Change::Create { title: stored_title, members: stored }) => {
            title == stored_title && members.iter().filter(|member| **member != sender).eq(stored)
        }
        (Change::Add { members }, Change::Add { members: stored }) => {
            stored.iter().all(|member| members.contains(member))
        }
        // Of a later version: there is nothing to compare.
        (_, Change::Unknown) => true,
        (asked, stored) => asked == stored,
    }
}

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
    fn what_is_asked_is_compared_with_what_was_stored() {
        let user = |n: u8| UserId::from_bytes([n; 16]);
        let users = |numbers: &[u8]| numbers.iter().copied().map(user).collect::<Vec<_>>();
        let create =
            |title: &str, members: &[u8]| Change::Create { title: title.into(), members: users(members) };
        let add = |members: &[u8]| Change::Add { members: users(members) };
        let title = |title: &str| Change::Title { title: title.into() };
        for (asked, stored, expected) in [
            (title("a"), title("a"), true),
            (title("a"), title("b"), false),
            (title("a"), Change::Leave, false),
            (Change::Leave, Change::Leave, true),
            // Whoever creates it is not among those whom the entry names.
            (create("a", &[1, 2, 3]), create("a", &[2, 3]), true),
            (create("a", &[2, 3]), create("a", &[2, 3]), true),
            (create("a", &[2, 3]), create("a", &[2]), false),
            (create("a", &[2]), create("b", &[2]), false),
            // Nor are those who were members before.
            (add(&[2, 3]), add(&[3]), true),
            (add(&[2, 3]), add(&[3, 4]), false),
            (Change::Remove { member: user(2) }, Change::Remove { member: user(3) }, false),
            (Change::Leave, Change::Unknown, true),
        ] {
            assert_eq!(is_outcome(&asked, user(1), &stored), expected, "{asked:?}, {stored:?}");
        }
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
