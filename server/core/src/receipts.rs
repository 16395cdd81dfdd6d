//! Watermarks of one conversation: they only rise, never above what is durable and visible, and `read` never above
//! `delivered`. Says what to persist and whom to tell.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use hashbrown::HashMap;
use tern_protocol::event::{ReceiptCount, UserReceipt};
use tern_protocol::ids::{DeviceId, Seq, UserId};
use tern_protocol::model::{Kind, Sender, Watermarks};

use crate::limits::{RECEIPT_DEVICES_MAX, RECEIPT_SENDERS_MAX};
use crate::membership::Members;

/// The watermarks of a conversation's members.
#[derive(Debug, Default)]
pub struct Receipts {
    marks: HashMap<UserId, Watermarks>,
    /// What devices have said to this process, so that saying it again costs nothing.
    devices: HashMap<Sender, Seq>,
    /// To be persisted.
    dirty: BTreeMap<UserId, Dirty>,
    /// Whose watermarks others are to be told.
    moved: BTreeSet<UserId>,
    /// Whose read watermark their own devices are to be told.
    own_read: BTreeSet<UserId>,
    /// Who sent messages lately, newest last.
    senders: Vec<LastMessage>,
}

#[derive(Debug)]
struct LastMessage {
    sender: UserId,
    seq: Seq,
    /// How many have received and read it, as the sender was told.
    told: Option<(u32, u32)>,
}

/// A user's watermarks that are not persisted yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Per device.
    pub delivered: Vec<(DeviceId, Seq)>,
    /// Of the user; 0: unchanged.
    pub read: Seq,
}

/// Something to tell one user's connected devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Whose devices.
    pub to: UserId,
    /// Direct chats: the peer's watermarks; any: their own.
    pub users: Vec<UserReceipt>,
    /// Groups.
    pub counts: Vec<ReceiptCount>,
}

impl Receipts {
    /// Takes stored watermarks in; those in memory may be ahead of them, never behind.
    pub fn absorb(&mut self, stored: impl IntoIterator<Item = (UserId, Watermarks)>) {
        for (user, stored) in stored {
            let marks = self.marks.entry(user).or_default();
            marks.delivered = marks.delivered.max(stored.delivered);
            marks.read = marks.read.max(stored.read);
        }
    }

    /// Takes watermarks in that are in the store, as far as the log is known here, and will tell what has risen.
    pub fn on_stored(&mut self, durable: Seq, stored: &[(UserId, Watermarks)]) {
        for (user, stored) in stored {
            let marks = self.marks.entry(*user).or_default();
            let before = *marks;
            marks.delivered = marks.delivered.max(stored.delivered.min(durable));
            marks.read = marks.read.max(stored.read.min(durable));
            if marks.read > before.read {
                self.own_read.insert(*user);
            }
            if *marks != before {
                self.moved.insert(*user);
            }
        }
    }

    /// A user's watermarks.
    pub fn get(&self, user: UserId) -> Watermarks {
        self.marks.get(&user).copied().unwrap_or_default()
    }

    /// `by` says that its device has everything up to `delivered`, and that its user has seen everything up to `read`
    /// (0: not said). The caller has checked both against what is visible to them. Lower ones are ignored.
    pub fn mark(&mut self, by: Sender, delivered: Seq, read: Seq) {
        let delivered = delivered.max(read);
        let marks = self.marks.entry(by.user).or_default();
        let before = *marks;
        // Persisted is what raises what the store has of the device, or of the user if nothing is known of the device: a
        // device that says again after a reconnect what its user is known to have changes nothing for anybody.
        let known = self.devices.get(&by).copied().unwrap_or(before.delivered);
        if delivered > known {
            if self.devices.len() >= RECEIPT_DEVICES_MAX {
                self.devices.clear();
            }
            self.devices.insert(by, delivered);
            let dirty = self.dirty.entry(by.user).or_default();
            match dirty.delivered.iter_mut().find(|(device, _)| *device == by.device) {
                Some((_, seq)) => *seq = (*seq).max(delivered),
                None => dirty.delivered.push((by.device, delivered)),
            }
        }
        marks.delivered = marks.delivered.max(delivered);
        if read > marks.read {
            marks.read = read;
            self.dirty.entry(by.user).or_default().read = read;
            self.own_read.insert(by.user);
        }
        if *marks != before {
            self.moved.insert(by.user);
        }
    }

    /// `sender` sent a message at `seq`, which is durable.
    pub fn on_message(&mut self, sender: UserId, seq: Seq) {
        self.senders.retain(|last| last.sender != sender);
        if self.senders.len() >= RECEIPT_SENDERS_MAX {
            self.senders.remove(0);
        }
        self.senders.push(LastMessage { sender, seq, told: None });
    }

    /// Whether [`Receipts::take_notices`] might have something to say.
    pub fn has_moved(&self) -> bool {
        !self.moved.is_empty() || !self.own_read.is_empty()
    }

    /// Whether there is something to persist.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// What to persist now; what comes later is dirty anew.
    pub fn take_dirty(&mut self) -> BTreeMap<UserId, Dirty> {
        core::mem::take(&mut self.dirty)
    }

    /// What could not be persisted is dirty again.
    pub fn put_back(&mut self, user: UserId, failed: &Dirty) {
        let dirty = self.dirty.entry(user).or_default();
        dirty.read = dirty.read.max(failed.read);
        for &(device, seq) in &failed.delivered {
            match dirty.delivered.iter_mut().find(|(d, _)| *d == device) {
                Some((_, newer)) => *newer = (*newer).max(seq),
                None => dirty.delivered.push((device, seq)),
            }
        }
    }

    /// Whom to tell what, of all that has moved since the last call.
    pub fn take_notices(&mut self, kind: Kind, members: &mut Members) -> Vec<Notice> {
        let moved = core::mem::take(&mut self.moved);
        let own_read = core::mem::take(&mut self.own_read);
        let receipt = |user| {
            let Watermarks { delivered, read } = self.get(user);
            UserReceipt { user, delivered, read }
        };
        let mut notices: Vec<Notice> = own_read
            .into_iter()
            .map(|user| Notice { to: user, users: alloc::vec![receipt(user)], counts: Vec::new() })
            .collect();
        let audience = members.audience();
        match kind {
            Kind::Direct => {
                for user in moved {
                    notices.extend(audience.iter().filter(|peer| **peer != user).map(|peer| Notice {
                        to: *peer,
                        users: alloc::vec![receipt(user)],
                        counts: Vec::new(),
                    }));
                }
            }
            Kind::Group => {
                if moved.is_empty() {
                    return notices;
                }
                let reached = self.count_all(&audience);
                for (i, (delivered, read)) in reached.into_iter().enumerate() {
                    let LastMessage { sender, seq, told } = self.senders[i];
                    if audience.binary_search(&sender).is_err() {
                        continue;
                    }
                    let own = self.get(sender);
                    let delivered = delivered - u32::from(own.delivered >= seq);
                    let read = read - u32::from(own.read >= seq);
                    if delivered == 0 || told == Some((delivered, read)) {
                        continue;
                    }
                    self.senders[i].told = Some((delivered, read));
                    let count = ReceiptCount { seq, delivered, read, members: audience.len() as u32 - 1 };
                    notices.push(Notice { to: sender, users: Vec::new(), counts: alloc::vec![count] });
                }
            }
        }
        notices
    }

    /// How many of the audience have received and read the last message of each sender: one look at every member, however
    /// many senders there are.
    fn count_all(&self, audience: &[UserId]) -> Vec<(u32, u32)> {
        // The last messages rise, so a watermark covers those up to some place, and what is counted there counts for all
        // before it as well.
        let covered = |watermark: Seq| self.senders.partition_point(|last| last.seq <= watermark);
        let mut counts = alloc::vec![(0, 0); self.senders.len() + 1];
        for user in audience {
            let Watermarks { delivered, read } = self.get(*user);
            counts[covered(delivered)].0 += 1;
            counts[covered(read)].1 += 1;
        }
        for i in (1..counts.len()).rev() {
            let (delivered, read) = counts[i];
            counts[i - 1].0 += delivered;
            counts[i - 1].1 += read;
        }
        counts.remove(0);
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership;
    use alloc::vec;
    use proptest::prelude::*;
    use tern_protocol::model::{Membership, Role};

    fn user(n: u8) -> UserId {
        UserId::from_bytes([n; 16])
    }

    fn by(n: u8, device: u64) -> Sender {
        Sender { user: user(n), device: DeviceId::new(device).expect("not 0") }
    }

    fn receipt(n: u8, delivered: u64, read: u64) -> UserReceipt {
        UserReceipt { user: user(n), delivered: Seq(delivered), read: Seq(read) }
    }

    #[test]
    fn the_peer_of_a_direct_chat_is_told() {
        let mut members = membership::direct(user(1), user(2));
        let mut receipts = Receipts::default();
        receipts.mark(by(2, 1), Seq(5), Seq(0));
        let told = |to, r| Notice { to: user(to), users: vec![r], counts: vec![] };
        assert_eq!(receipts.take_notices(Kind::Direct, &mut members), [told(1, receipt(2, 5, 0))]);
        assert_eq!(receipts.take_notices(Kind::Direct, &mut members), []);
        receipts.mark(by(2, 1), Seq(4), Seq(3));
        assert_eq!(
            receipts.take_notices(Kind::Direct, &mut members),
            [told(2, receipt(2, 5, 3)), told(1, receipt(2, 5, 3))],
            "their own devices learn what was read"
        );
        receipts.mark(by(2, 9), Seq(2), Seq(1));
        assert!(!receipts.has_moved(), "a second device that lags moves nothing, and is not persisted");
        let dirty = receipts.take_dirty();
        let dirty = &dirty[&user(2)];
        assert_eq!(dirty.read, Seq(3));
        assert_eq!(dirty.delivered.iter().map(|(d, s)| (d.get(), s.get())).collect::<Vec<_>>(), [(1, 5)]);
    }

    #[test]
    fn senders_in_a_group_are_told_counts() {
        let membership = Membership { role: Role::Member, joined: Seq(1), left: None };
        let mut members = Members::new((1..=4).map(|n| (user(n), membership)));
        let mut receipts = Receipts::default();
        receipts.on_message(user(1), Seq(7));
        receipts.on_message(user(2), Seq(8));
        receipts.mark(by(3, 1), Seq(8), Seq(7));
        receipts.mark(by(4, 1), Seq(7), Seq(0));
        receipts.mark(by(1, 1), Seq(8), Seq(0));
        let notices = receipts.take_notices(Kind::Group, &mut members);
        let counts: Vec<_> =
            notices.iter().filter(|n| !n.counts.is_empty()).map(|n| (n.to, n.counts[0])).collect();
        let count = |seq, delivered, read| ReceiptCount { seq: Seq(seq), delivered, read, members: 3 };
        assert_eq!(counts, [(user(1), count(7, 2, 1)), (user(2), count(8, 2, 0))]);
        receipts.mark(by(3, 2), Seq(8), Seq(7));
        assert_eq!(receipts.take_notices(Kind::Group, &mut members), [], "nothing new");
    }

    #[test]
    fn what_another_owner_has_persisted_is_told() {
        let membership = Membership { role: Role::Member, joined: Seq(1), left: None };
        let mut members = Members::new((1..=3).map(|n| (user(n), membership)));
        let mut receipts = Receipts::default();
        receipts.on_message(user(1), Seq(4));
        receipts.mark(by(2, 1), Seq(4), Seq(0));
        let _ = receipts.take_dirty();
        let _ = receipts.take_notices(Kind::Group, &mut members);
        let stored =
            |n, delivered, read| (user(n), Watermarks { delivered: Seq(delivered), read: Seq(read) });
        receipts.on_stored(Seq(4), &[stored(2, 3, 0), stored(3, 9, 9)]);
        let notices = receipts.take_notices(Kind::Group, &mut members);
        let to_sender = notices.iter().find(|notice| notice.to == user(1)).expect("it has risen");
        assert_eq!(to_sender.counts, [ReceiptCount { seq: Seq(4), delivered: 2, read: 1, members: 2 }]);
        assert_eq!(receipts.get(user(3)).read, Seq(4), "not above what is known to be there");
        assert!(!receipts.is_dirty(), "it is in the store");
        receipts.on_stored(Seq(4), &[stored(2, 3, 0), stored(3, 9, 9)]);
        assert!(!receipts.has_moved());
    }

    #[test]
    fn what_was_not_persisted_is_dirty_again() {
        let mut receipts = Receipts::default();
        receipts.mark(by(1, 1), Seq(5), Seq(2));
        let failed = receipts.take_dirty();
        receipts.mark(by(1, 1), Seq(4), Seq(3));
        receipts.put_back(user(1), &failed[&user(1)]);
        let dirty = receipts.take_dirty();
        assert_eq!(dirty[&user(1)].read, Seq(3));
        assert_eq!(dirty[&user(1)].delivered[0].1, Seq(5));
        assert!(!receipts.is_dirty());
    }

    proptest! {
        #[test]
        fn counts_are_those_of_counting_one_by_one(
            senders in proptest::collection::vec((1u8..9, 1u64..4), 0..12),
            marks: Vec<(u8, u8, u8)>,
        ) {
            let membership = Membership { role: Role::Member, joined: Seq(1), left: None };
            let mut members = Members::new((1..=6).map(|n| (user(n), membership)));
            let mut receipts = Receipts::default();
            let mut seq = 0;
            for (sender, step) in senders {
                seq += step;
                receipts.on_message(user(sender), Seq(seq));
            }
            for (by_user, delivered, read) in marks {
                receipts.mark(by(by_user % 8, 1), Seq((delivered % 32).into()), Seq((read % 32).into()));
            }
            let notices = receipts.take_notices(Kind::Group, &mut members);
            for (to, count) in notices.iter().flat_map(|n| n.counts.iter().map(|count| (n.to, *count))) {
                let others = || (1..=6).map(user).filter(|other| *other != to).map(|other| receipts.get(other));
                prop_assert_eq!(count.delivered as usize, others().filter(|m| m.delivered >= count.seq).count());
                prop_assert_eq!(count.read as usize, others().filter(|m| m.read >= count.seq).count());
            }
        }

        #[test]
        fn marks_only_rise_and_read_stays_below_delivered(marks: Vec<(u8, u8, u8)>) {
            let mut receipts = Receipts::default();
            let mut last = Watermarks::default();
            for (device, delivered, read) in marks {
                receipts.mark(by(1, u64::from(device) + 1), Seq(delivered.into()), Seq(read.into()));
                let now = receipts.get(user(1));
                prop_assert!(now.read <= now.delivered);
                prop_assert!(now.read >= last.read && now.delivered >= last.delivered);
                last = now;
            }
        }
    }
}
