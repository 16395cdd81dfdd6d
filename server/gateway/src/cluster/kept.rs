//! Watermarks for which no client waits, on their way to owners on other nodes: kept until they are persisted there, since a
//! client says them once. And those that a new owner may not have found in the store when it loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use tern_core::conversation::Mark;
use tern_core::home::SessionId;
use tern_protocol::error::{ErrorCode, Retry};
use tern_protocol::ids::{ConversationId, Seq};
use tern_protocol::model::Sender;
use tern_protocol::request;
use tern_store::ops::append;
use tracing::debug;

use super::news::SETTLING_MS;
use crate::mailbox::{OwnerRequest, Question};
use crate::shard::Shard;

/// Watermarks that a shard keeps, each of a device and a conversation; beyond, they go on their way and may be lost.
const KEPT_MAX: usize = 64 * 1024;
/// Of those that are not under way, so many are sent again at each sweep.
const AGAIN_PER_SWEEP: usize = 1_024;
/// Conversations of a new owner that are looked at again; beyond, what it tells may be too low until the next mark.
const FRESH_MAX: usize = 64 * 1024;
/// Of those, so many at each sweep.
const FRESH_PER_SWEEP: usize = 64;
/// A node that has heard late of a new owner has persisted by then what it was told meanwhile: once a second.
const PERSISTED_MS: u64 = 2_000;

/// Whose watermark of which log.
type Key = (ConversationId, Sender);

/// The highest ones of a device in a log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Marks {
    delivered: Seq,
    read: Seq,
    /// What they were last asked with; `None`: they are not under way.
    number: Option<u64>,
}

/// All of a shard.
#[derive(Debug, Default)]
pub struct Kept {
    marks: BTreeMap<Key, Marks>,
    asked: BTreeMap<u64, Key>,
    /// Conversations that were loaded while others may not have persisted all that they knew of them.
    fresh: BTreeSet<ConversationId>,
}

impl Kept {
    /// How many there are.
    pub fn waiting(&self) -> usize {
        self.marks.len()
    }

    fn has(&self, key: &Key) -> bool {
        self.marks.contains_key(key)
    }

    /// Keeps these, or raises what is kept; false: there is no room.
    fn raise(&mut self, key: Key, delivered: Seq, read: Seq) -> bool {
        if self.marks.len() >= KEPT_MAX && !self.has(&key) {
            return false;
        }
        let marks = self.marks.entry(key).or_default();
        (marks.delivered, marks.read) = (marks.delivered.max(delivered), marks.read.max(read));
        true
    }

    /// They are under way under this number; returns the highest.
    fn ask(&mut self, key: Key, number: u64) -> Option<(Seq, Seq)> {
        let marks = self.marks.get_mut(&key)?;
        marks.number = Some(number);
        self.asked.insert(number, key);
        Some((marks.delivered, marks.read))
    }

    /// They did not get on their way, or are answered. What has been raised since is under way under another number.
    fn answered(&mut self, number: u64, result: Result<(), ErrorCode>) {
        let Some(key) = self.asked.remove(&number) else { return };
        let Some(marks) = self.marks.get_mut(&key).filter(|marks| marks.number == Some(number)) else {
            return;
        };
        match result {
            Err(code) if code.retry() != Retry::Never && code != ErrorCode::Internal => marks.number = None,
            // What is refused for good would be refused again, and a damaged log read again and again.
            Ok(()) | Err(_) => drop(self.marks.remove(&key)),
        }
    }

    /// Those that are not under way.
    fn due(&self) -> Vec<Key> {
        let due = self.marks.iter().filter(|(_, marks)| marks.number.is_none());
        due.map(|(key, _)| *key).take(AGAIN_PER_SWEEP).collect()
    }
}

impl Shard {
    /// Hands a watermark to its owner. Nobody waits for an answer.
    pub fn tell_mark(self: &Rc<Self>, sender: Sender, mark: &request::Mark) {
        let request::Mark { conversation, delivered, read } = *mark;
        let key = (conversation, sender);
        let is_elsewhere = self.view.borrow().owner(conversation).is_some();
        // With what is on its way to another owner, so that it does not stay behind.
        let is_kept = is_elsewhere || self.kept.borrow().has(&key);
        if is_kept && self.kept.borrow_mut().raise(key, delivered, read) {
            return self.ask_kept(key);
        }
        // What finds no room here is said again.
        let _ =
            self.to_owner(OwnerRequest::Mark(conversation, Mark { ticket: None, sender, delivered, read }));
    }

    fn ask_kept(self: &Rc<Self>, key: Key) {
        let number = self.next_number();
        let Some((delivered, read)) = self.kept.borrow_mut().ask(key, number) else { return };
        let (conversation, sender) = key;
        let nobody = SessionId { shard: self.id, number: 0 };
        let ticket = self.ticket(nobody, Question::Kept(number), conversation, 0);
        let request =
            |ticket| OwnerRequest::Mark(conversation, Mark { ticket: Some(ticket), sender, delivered, read });
        if ticket.is_none_or(|ticket| self.to_owner(request(ticket)).is_err()) {
            self.on_kept(number, Err(ErrorCode::Overloaded));
        }
    }

    /// An owner has persisted a watermark that is kept, or refuses it, or was not reached.
    pub fn on_kept(&self, number: u64, result: Result<(), ErrorCode>) {
        self.kept.borrow_mut().answered(number, result);
    }

    /// Sends again what no owner has persisted.
    pub fn tell_kept_again(self: &Rc<Self>) {
        let due = self.kept.borrow().due();
        due.into_iter().for_each(|key| self.ask_kept(key));
    }

    /// A conversation has been loaded. Shortly after owners have changed, the one before may know more than the store.
    pub fn on_fresh_owner(&self, id: ConversationId) {
        let view = self.view.borrow();
        let mut kept = self.kept.borrow_mut();
        let is_settled = self.now().mono >= self.view_changed.get().plus(SETTLING_MS);
        if view.in_cluster && !is_settled && kept.fresh.len() < FRESH_MAX {
            kept.fresh.insert(id);
        }
    }

    /// Looks for watermarks that others have persisted since this node is the owner.
    pub fn look_at_fresh_owners(self: &Rc<Self>) {
        if self.now().mono < self.view_changed.get().plus(SETTLING_MS + PERSISTED_MS) {
            return;
        }
        let ids: Vec<_> = self.kept.borrow().fresh.iter().take(FRESH_PER_SWEEP).copied().collect();
        for id in ids {
            self.kept.borrow_mut().fresh.remove(&id);
            let shard = self.clone();
            self.spawn(async move {
                match append::load(&*shard.node.kv, id).await {
                    Ok((_, Some(loaded))) => shard.on_watermarks(id, &loaded.watermarks),
                    Ok((_, None)) => {}
                    Err(error) => {
                        debug!(conversation = %id, %error, "watermarks could not be read; it is tried again");
                        shard.kept.borrow_mut().fresh.insert(id);
                    }
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use tern_protocol::ids::{DeviceId, UserId};

    use super::*;

    fn key(n: u8) -> Key {
        let device = DeviceId::new(1).expect("not 0");
        (ConversationId::from_bytes([n; 16]), Sender { user: UserId::from_bytes([n; 16]), device })
    }

    #[test]
    fn the_highest_is_kept_until_it_is_persisted() {
        let mut kept = Kept::default();
        assert!(kept.raise(key(1), Seq(5), Seq(2)));
        assert_eq!(kept.ask(key(1), 1), Some((Seq(5), Seq(2))));
        // Raised while the first is under way, whose answer says nothing of this one.
        assert!(kept.raise(key(1), Seq(4), Seq(3)));
        assert_eq!(kept.ask(key(1), 2), Some((Seq(5), Seq(3))));
        kept.answered(1, Ok(()));
        assert_eq!((kept.waiting(), kept.due()), (1, vec![]));
        // The link has broken.
        kept.answered(2, Err(ErrorCode::Unavailable));
        assert_eq!(kept.due(), [key(1)]);
        assert_eq!(kept.ask(key(1), 3), Some((Seq(5), Seq(3))));
        kept.answered(3, Ok(()));
        assert!(kept.marks.is_empty() && kept.asked.is_empty());
        assert!(kept.raise(key(2), Seq(1), Seq(1)));
        kept.ask(key(2), 4);
        kept.answered(4, Err(ErrorCode::NotMember));
        assert_eq!(kept.waiting(), 0, "refused for good");
    }

    #[test]
    fn there_is_a_bound() {
        let mut kept = Kept::default();
        let id = |n: u32| {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            (ConversationId::from_bytes(bytes), key(1).1)
        };
        for n in 0..KEPT_MAX as u32 {
            assert!(kept.raise(id(n), Seq(1), Seq(0)));
        }
        assert!(!kept.raise(id(u32::MAX), Seq(1), Seq(0)));
        assert!(kept.raise(id(7), Seq(2), Seq(0)), "what is kept rises");
        assert_eq!(kept.due().len(), AGAIN_PER_SWEEP);
    }
}
