//! What members have really marked, to hold receipts against.

use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashMap;
use tern_protocol::event::{ReceiptCount, ReceiptsMoved, UserReceipt};
use tern_protocol::ids::{Seq, UserId};

/// The marks of a conversation's members. A member notes a mark before it goes out, so a receipt that says more than
/// what is noted is false. Members may be on different threads.
#[derive(Debug)]
pub struct Marked {
    places: HashMap<UserId, usize>,
    members: Vec<Marks>,
}

#[derive(Debug, Default)]
struct Marks {
    delivered: AtomicU64,
    read: AtomicU64,
}

impl Marked {
    /// Nobody has marked anything. A member's place is that in `members`.
    pub fn new(members: &[UserId]) -> Self {
        Self {
            places: members.iter().enumerate().map(|(place, user)| (*user, place)).collect(),
            members: members.iter().map(|_| Marks::default()).collect(),
        }
    }

    /// The member at this place is about to say so. As the server takes it: "read" raises "delivered" along.
    pub fn note(&self, place: usize, delivered: Seq, read: Seq) {
        let marks = &self.members[place];
        marks.delivered.fetch_max(delivered.max(read).get(), Ordering::Release);
        marks.read.fetch_max(read.get(), Ordering::Release);
    }

    /// How many of the claims told to the member at this place are false.
    pub fn count_false(&self, place: usize, moved: &ReceiptsMoved) -> u64 {
        let users = moved.users.iter().filter(|receipt| !self.supports(receipt)).count();
        let counts = moved.counts.iter().filter(|count| !self.supports_count(place, count)).count();
        (users + counts) as u64
    }

    /// Whether this user has marked as much.
    pub fn supports(&self, receipt: &UserReceipt) -> bool {
        self.places.get(&receipt.user).is_some_and(|place| {
            let marks = &self.members[*place];
            receipt.delivered.get() <= marks.delivered.load(Ordering::Acquire)
                && receipt.read.get() <= marks.read.load(Ordering::Acquire)
        })
    }

    fn supports_count(&self, place: usize, count: &ReceiptCount) -> bool {
        let others = || self.members.iter().enumerate().filter(|(other, _)| *other != place);
        let at = |mark: fn(&Marks) -> &AtomicU64| {
            others().filter(|(_, marks)| mark(marks).load(Ordering::Acquire) >= count.seq.get()).count()
        };
        (count.members as usize) < self.members.len()
            && count.delivered as usize <= at(|marks| &marks.delivered)
            && count.read as usize <= at(|marks| &marks.read)
    }
}

#[cfg(test)]
mod tests {
    use tern_protocol::ids::ConversationId;

    use super::*;

    fn moved(users: &[(&str, u64, u64)], counts: &[(u64, u32)]) -> ReceiptsMoved {
        let receipt = |(name, delivered, read): &(&str, u64, u64)| UserReceipt {
            user: UserId::from_sub(name),
            delivered: Seq(*delivered),
            read: Seq(*read),
        };
        let count = |(seq, delivered): &(u64, u32)| ReceiptCount {
            seq: Seq(*seq),
            delivered: *delivered,
            read: 0,
            members: 2,
        };
        ReceiptsMoved {
            conversation: ConversationId::from_bytes([0; 16]),
            users: users.iter().map(receipt).collect(),
            counts: counts.iter().map(count).collect(),
        }
    }

    #[test]
    fn false_claims_are_found() {
        let marked = Marked::new(&["a", "b", "c"].map(UserId::from_sub));
        marked.note(1, Seq(7), Seq(3));
        marked.note(2, Seq(5), Seq(0));
        let check = |users: &[_], counts: &[_], expected| {
            assert_eq!(marked.count_false(0, &moved(users, counts)), expected);
        };
        check(&[("b", 7, 3), ("c", 5, 0)], &[(5, 2), (7, 1), (8, 0)], 0);
        check(&[("b", 8, 3)], &[], 1);
        check(&[("b", 7, 4)], &[], 1);
        check(&[("nobody", 1, 0)], &[], 1);
        check(&[], &[(6, 2), (8, 1)], 2);
    }

    #[test]
    fn own_marks_do_not_count() {
        let marked = Marked::new(&["a", "b", "c"].map(UserId::from_sub));
        marked.note(0, Seq(7), Seq(0));
        assert_eq!(marked.count_false(0, &moved(&[], &[(7, 1)])), 1);
    }
}
