//! What the server's commits look like, seen from outside: how many messages share an fsync, and how many of one
//! conversation a transaction.

use serde::{Deserialize, Serialize};
use tern_protocol::ids::UserId;
use tern_protocol::model::{Entry, WallMillis};

/// How commits are made up.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    /// Messages that share an fsync.
    pub messages_per_group: f64,
    /// Messages of one conversation that are committed together.
    pub messages_per_transaction: f64,
    /// Devices that they come from.
    pub senders_per_transaction: f64,
}

/// Finds the transactions in one conversation's log, whose entries come one after the other: those that are committed
/// together have the same time.
#[derive(Debug, Default)]
pub struct Transactions {
    time: Option<WallMillis>,
    /// In this one, so far.
    senders: Vec<UserId>,
}

/// What an entry is the first of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct First {
    /// Of its transaction.
    pub of_transaction: bool,
    /// Of its sender's in the transaction.
    pub of_sender: bool,
}

impl Transactions {
    /// The next entry of the log.
    pub fn next(&mut self, entry: &Entry) -> First {
        let of_transaction = self.time.replace(entry.time) != Some(entry.time);
        if of_transaction {
            self.senders.clear();
        }
        let of_sender = !self.senders.contains(&entry.sender.user);
        if of_sender {
            self.senders.push(entry.sender.user);
        }
        First { of_transaction, of_sender }
    }
}

#[cfg(test)]
mod tests {
    use tern_protocol::ids::{ClientSeq, DeviceId, Seq};
    use tern_protocol::model::{Change, Sender};

    use super::*;

    #[test]
    fn entries_of_one_time_are_one_transaction() {
        let mut transactions = Transactions::default();
        let cases = [
            (10, "a", true, true),
            (10, "a", false, false),
            (10, "b", false, true),
            (10, "a", false, false),
            (11, "a", true, true),
            (11, "b", false, true),
            (13, "b", true, true),
        ];
        for (seq, (time, sender, of_transaction, of_sender)) in (1..).zip(cases) {
            let device = DeviceId::new(1).expect("not 0");
            let entry = Entry {
                seq: Seq(seq),
                time: WallMillis(time),
                sender: Sender { user: UserId::from_sub(sender), device },
                client_seq: ClientSeq(seq),
                change: Change::Leave,
            };
            assert_eq!(transactions.next(&entry), First { of_transaction, of_sender }, "entry {seq}");
        }
    }
}
