//! Delivers events to the connections of this shard, and hands them to the other shards.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tern_core::conversation::Publication;
use tern_core::routing::ShardId;
use tern_protocol::ids::{ConversationId, Seq, UserId};
use tokio::sync::mpsc::error::TrySendError;

use crate::clock::Stamp;
use crate::connection::Conn;
use crate::mailbox::Event;
use crate::metrics::shard::Dropped;
use crate::shard::Shard;

/// Changes of a conversation's members, one after the other, that a full mailbox may delay. Beyond, those who left with
/// the oldest find out when they ask.
const AUDIENCES_MAX: usize = 64;

/// A connection in the shard's index of who is here.
pub struct Handle(pub Rc<Conn>);

impl PartialEq for Handle {
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

impl Shard {
    /// Tells everybody who is connected to this node, after what they are told has become durable.
    ///
    /// Shards on which nobody is logged in are left out. That is safe: a connection is counted before its first
    /// request is taken up, so a sync that follows finds what was durable by now.
    pub fn tell_all(self: &Rc<Self>, event: Event) {
        for shard in self.node.shards() {
            if shard == self.id {
                self.on_event(event.clone());
            } else if self.node.online(shard).load(Ordering::SeqCst) > 0 {
                self.tell(shard, event.clone());
            }
        }
    }

    fn tell(&self, shard: ShardId, event: Event) {
        match self.node.mailbox(shard).events.try_send(event) {
            Ok(()) | Err(TrySendError::Closed(_)) => {}
            Err(TrySendError::Full(event)) => self.fall_behind(shard, event),
        }
    }

    /// A mailbox is full: entries become the head, to be told again at the next tick; at most one for each
    /// conversation that is owned here and each of its audiences. Whoever left with an entry is in the audience of that
    /// entry and in none after it, so audiences are kept apart.
    fn fall_behind(&self, shard: ShardId, event: Event) {
        let (conversation, head, audience) = match event {
            Event::Publish(publication, _) => {
                self.metrics().drops.of(Dropped::MailboxFull).add(publication.frames.len() as u64);
                let Some((seq, _)) = publication.frames.last() else { return };
                (publication.conversation, *seq, publication.audience.clone())
            }
            Event::HeadMoved { conversation, head, audience } => (conversation, head, audience),
            // Receipts may be lost: the next ones say more, and a sync says all.
            Event::Notify(frames) => {
                self.metrics().drops.of(Dropped::ReceiptsMailboxFull).add(frames.len() as u64);
                return;
            }
        };
        let mut behind = self.behind.borrow_mut();
        let heads = behind.entry((shard, conversation)).or_default();
        match heads.last_mut() {
            Some((last, same)) if *same == audience => *last = head,
            _ => heads.push((head, audience)),
        }
        if heads.len() > AUDIENCES_MAX {
            heads.remove(0);
        }
    }

    /// Tells again what did not fit before.
    pub fn catch_up(&self) {
        let behind = std::mem::take(&mut *self.behind.borrow_mut());
        for ((shard, conversation), heads) in behind {
            for (head, audience) in heads {
                self.tell(shard, Event::HeadMoved { conversation, head, audience });
            }
        }
    }

    /// Something for the connections of this shard.
    pub fn on_event(self: &Rc<Self>, event: Event) {
        match event {
            Event::Publish(publication, durable) => self.deliver(&publication, durable),
            Event::HeadMoved { conversation, head, audience } => {
                self.deliver_head(conversation, head, &audience)
            }
            Event::Notify(frames) => {
                let local = self.local.borrow();
                let mut waiting = self.receipts_wait.borrow_mut();
                for (user, frame) in frames.iter() {
                    for Handle(conn) in local.of(*user) {
                        if conn.receipt(frame, self.metrics()) {
                            waiting.push(conn.clone());
                        }
                    }
                }
            }
        }
    }

    /// Writes the receipts that nothing else has taken along.
    pub fn write_receipts(&self) {
        self.receipts_wait.take().into_iter().for_each(|conn| conn.write_soon());
    }

    fn deliver(&self, publication: &Arc<Publication>, durable: Stamp) {
        self.local.borrow().each(&publication.audience, |conn| {
            for (seq, frame) in &publication.frames {
                conn.0.push(publication.conversation, *seq, frame, durable, self.metrics());
            }
        });
    }

    fn deliver_head(&self, conversation: ConversationId, head: Seq, audience: &[UserId]) {
        self.local.borrow().each(audience, |conn| conn.0.head_moved(conversation, head, self.metrics()));
    }
}
